"""Sums of inverse propensities: how well a log of one policy can speak for another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights


@dataclass(frozen=True)
class InversePropensitySummary(Summary):
    """Sums over rows of 1 / propensity.

    Args:
        count: Weight of rows with a propensity above 0 and at most 1.
        total, squares: Sums of 1 / p and 1 / p^2.
        largest: Largest 1 / p; 0 for no rows.
        invalid: Weight of rows without a propensity, or with one outside (0, 1].
    """

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    largest: float = 0.0
    invalid: float = 0.0

    def __add__(self, other: InversePropensitySummary) -> InversePropensitySummary:
        return InversePropensitySummary(self.count + other.count, self.total + other.total, self.squares + other.squares,
                                        max(self.largest, other.largest), self.invalid + other.invalid)

    @property
    def mean(self) -> float:
        """Mean of 1 / p, which is the number of actions where every action has a chance; NaN for no rows."""
        return self.total / self.count if self.count else np.nan

    @property
    def effective_share(self) -> float:
        """Effective sample size over n for a uniform policy, (sum w)^2 / (n sum w^2), Kish 1965; NaN for no rows."""
        return self.total**2 / (self.count * self.squares) if self.squares else np.nan


@dataclass(frozen=True, kw_only=True)
class InversePropensity(Stat[InversePropensitySummary]):
    """Sums of 1 / p over the rows of a log, p the logged probability of what was shown.

    Example:
        >>> InversePropensity(column="p").summarize(Batch({"p": np.array([0.5, 0.25])})).mean
        3.0
    """

    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def zero(self) -> InversePropensitySummary:
        return InversePropensitySummary()

    def summarize(self, batch: Batch, weight: Weights = None) -> InversePropensitySummary:
        p = batch.numbers(self.column)
        w = np.ones(batch.rows) if weight is None else weight
        with np.errstate(invalid="ignore"):
            valid = (p > 1e-100) & (p <= 1) & (w > 0)
        inverse, kept = 1 / p[valid], w[valid]
        return InversePropensitySummary(float(kept.sum()), float((kept * inverse).sum()), float((kept * inverse**2).sum()),
                                        float(inverse.max(initial=0.0)), float(w[~valid].sum()))
