"""The one number by which held-out and training rows are compared: AUC for 0/1 labels, R squared for grades."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.diagnostics.policy import require_classes, require_rows
from recspect.diagnosis.stat import Stat
from recspect.diagnosis.stats.errors import PredictionError
from recspect.diagnosis.stats.score_label import ScoreLabel

FEWEST_ROWS = 1000
FEWEST_OF_A_CLASS = 50


@dataclass(frozen=True, kw_only=True)
class Goodness:
    """How good scores are; higher is better.

    Args:
        name: "AUC" or "R squared".
        binary: Whether labels are 0/1.
    """

    name: str
    binary: bool

    @classmethod
    def of(cls, scope: Scope) -> Goodness:
        """The one that fits the label."""
        return cls(name="AUC", binary=True) if scope.binary else cls(name="R squared", binary=False)

    def stat(self, score: str = "@score") -> Stat[Any]:
        """What to add up for a column of scores."""
        return ScoreLabel(score=score) if self.binary else PredictionError(prediction=score)

    def value(self, summary: Any) -> float:
        """The number; NaN where it is undefined."""
        return float(summary.auc if self.binary else summary.r_squared)

    def loss(self, summary: Any) -> float:
        """What training minimises, relative to a constant: normalised entropy, or 1 - R squared."""
        return float(summary.normalised_entropy if self.binary else 1 - summary.r_squared)

    def require(self, summary: Any, side: str) -> None:
        """Enough rows, and for 0/1 labels enough of both.

        Raises:
            Unavailable: Too few.
        """
        require_rows(summary.count, side, least=FEWEST_ROWS)
        if self.binary:
            require_classes(summary.positive, summary.count, side, least=FEWEST_OF_A_CLASS)
