"""Scores against a 0/1 label in bins of equal width, with one bin for scores below and one for scores above.

What calibration plots of other tools draw, and the groups of the expected calibration error. `ScoreLabel` is finer where rare events live; this one also takes
scores that are no probabilities, such as those of a regression on clicks, which fall into the outer bins where they leave the range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.counting import weight_sums
from recspect.errors import UsageError

_LARGEST = 1e70
"""Scores of greater size are not finite for sums."""


@dataclass(frozen=True)
class CalibrationHistogramSummary(Summary):
    """Sums per bin: bin 0 is below the range, the last one at or above its end; shape (bins + 2,).

    Args:
        weights: Weight of the rows.
        positives: Weight of the positives.
        score_sums: Sum of weight x score.
        invalid: Weight of rows left out: score missing or infinite, label not 0 or 1.
    """

    weights: NDArray[np.float64]
    positives: NDArray[np.float64]
    score_sums: NDArray[np.float64]
    invalid: float

    def __add__(self, other: CalibrationHistogramSummary) -> CalibrationHistogramSummary:
        return CalibrationHistogramSummary(self.weights + other.weights, self.positives + other.positives, self.score_sums + other.score_sums,
                                           self.invalid + other.invalid)

    @property
    def count(self) -> float:
        """Weight of the rows judged."""
        return float(self.weights.sum())

    def groups(self, count: int = 10) -> list[tuple[float, float, float]]:
        """`count` groups of equal width where they hold rows, (weight, mean score, share of positives) each, ascending.

        Rows outside the range belong to the first and the last group: a score of exactly 1 is in the last bin of [0, 1].

        Raises:
            UsageError: The bins cannot be put into so many groups of equal width.
        """
        bins = len(self.weights) - 2
        if count < 1 or bins % count:
            raise UsageError(f"{bins:,} bins cannot be put into {count} groups of equal width", hint="choose a divisor of the number of bins")
        group = np.clip(np.arange(-1, bins + 1), 0, bins - 1) // (bins // count)
        weight, positive, score = (weight_sums(group, sums, count) for sums in (self.weights, self.positives, self.score_sums))
        return [(float(w), float(s / w), float(y / w)) for w, s, y in zip(weight, score, positive, strict=True) if w > 0]


@dataclass(frozen=True, kw_only=True)
class CalibrationHistogram(Stat[CalibrationHistogramSummary]):
    """Rows, positives and scores per bin of equal width.

    Args:
        score: Column of scores, any finite number.
        label: Column of 0 and 1.
        low, high: The range that is cut into bins.
        bins: How many.

    Example:
        >>> CalibrationHistogram().bin_of(np.array([-0.1, 0.2, 0.5, 0.8, 1.1])).tolist()
        [0, 2001, 5001, 8001, 10001]
    """

    score: str = "@score"
    label: str = "@label"
    low: float = 0.0
    high: float = 1.0
    bins: int = 10_000

    def __post_init__(self) -> None:
        if not -_LARGEST < self.low < self.high < _LARGEST or self.bins < 1:
            raise UsageError(f"CalibrationHistogram: {self.bins} bins from {self.low} to {self.high}", hint="at least 1 bin, and low below high")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.score, self.label)

    def zero(self) -> CalibrationHistogramSummary:
        empty = np.zeros(self.bins + 2)
        return CalibrationHistogramSummary(empty, empty, empty, 0.0)

    def bin_of(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """Bin of each score: 0 below `low`, 1 to `bins` within, `bins` + 1 from `high` on. Shape like `scores`, which are finite."""
        place = np.floor((scores - self.low) / (self.high - self.low) * self.bins)
        inside = np.clip(place, 0, self.bins - 1).astype(np.int64) + 1  # rounding keeps no score out of the range that is in it
        return np.where(scores < self.low, 0, np.where(scores >= self.high, self.bins + 1, inside))

    def summarize(self, batch: Batch, weight: Weights = None) -> CalibrationHistogramSummary:
        p, y = batch.numbers(self.score), batch.numbers(self.label)
        w = np.ones(len(p)) if weight is None else weight
        valid = (np.abs(p) < _LARGEST) & ((y == 0) | (y == 1))
        invalid = float(w[~valid].sum())
        p, y, w = p[valid], y[valid], w[valid]
        place = self.bin_of(p)
        weights, positives, scores = (weight_sums(place, value, self.bins + 2) for value in (w, w * y, w * p))
        return CalibrationHistogramSummary(weights, positives, scores, invalid)
