"""Any number against a 0/1 label: how well the number alone tells the label, whatever the shape of the relation.

The values are binned by order and size: sign, power of two, and the top bits of the mantissa, so whole numbers below
2**(detail + 1) have bins of their own, and the bins need not be known beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.counting import weight_sums
from recspect.diagnosis.stats.crosstab import CrosstabSummary

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SMALLEST, _LARGEST = -40, 80
"""Powers of two: smaller sizes count as 0, larger ones as one."""


@dataclass(frozen=True)
class BinnedLabelSummary(Summary):
    """Positives and negatives per bin that occurs; at most 2 x 120 x 2**detail + 1 bins.

    Args:
        bins: Ascending with the value, shape (bins,).
        positives, negatives: Weight per bin, shape (bins,).
        missing_positives, missing_negatives: Weight of rows whose value is missing.
        invalid: Weight of rows whose label is neither 0 nor 1.
    """

    bins: Ints
    positives: Floats
    negatives: Floats
    missing_positives: float
    missing_negatives: float
    invalid: float

    def __add__(self, other: BinnedLabelSummary) -> BinnedLabelSummary:
        bins, position = np.unique(np.append(self.bins, other.bins), return_inverse=True)
        return BinnedLabelSummary(
            bins, weight_sums(position, np.append(self.positives, other.positives), len(bins)),
            weight_sums(position, np.append(self.negatives, other.negatives), len(bins)),
            self.missing_positives + other.missing_positives, self.missing_negatives + other.missing_negatives,
            self.invalid + other.invalid)

    @property
    def count(self) -> float:
        """Weight of the rows with a label."""
        return float(self.positives.sum() + self.negatives.sum()) + self.missing_positives + self.missing_negatives

    @property
    def positive(self) -> float:
        """Weight of the positives."""
        return float(self.positives.sum()) + self.missing_positives

    @property
    def auc(self) -> float:
        """P(value of a positive > of a negative) + P(equal bin) / 2 over rows with a value; NaN with one class only."""
        pairs = self.positives.sum() * self.negatives.sum()
        below = np.cumsum(self.negatives) - self.negatives
        return float((self.positives * (below + self.negatives / 2)).sum() / pairs) if pairs else np.nan

    @property
    def rate_auc(self) -> float:
        """AUC of the label rate of the value's bin, missing values being a bin: also finds relations that rise and fall.

        Each row's rate is computed without it; see `CrosstabSummary.target_auc`.

        Raises:
            Unavailable: The label has one class only.
        """
        negatives = np.append(self.negatives, self.missing_negatives)
        positives = np.append(self.positives, self.missing_positives)
        counts = np.column_stack([negatives, positives, np.zeros(len(positives))])
        rows = tuple(str(value) for value in self.bins)
        return CrosstabSummary(rows, ("0", "1"), counts, len(rows) + 1, 2).target_auc()

    @property
    def best_auc(self) -> float:
        """The better of both readings, a falling relation counting as much as a rising one.

        Raises:
            Unavailable: The label has one class only.
        """
        return max(self.rate_auc, self.auc, 1 - self.auc) if np.isfinite(self.auc) else self.rate_auc


@dataclass(frozen=True, kw_only=True)
class BinnedLabel(Stat[BinnedLabelSummary]):
    """A numeric column against a 0/1 label.

    Args:
        column: Any numeric column.
        label: Column of 0 and 1.
        detail: Bins per power of two, as a power of two; 5 gives 32.

    Example:
        >>> batch = Batch({"x": np.array([1., 2., 300., 4000.]), "@label": np.array([0, 0, 1, 1])})
        >>> BinnedLabel(column="x").summarize(batch).auc
        1.0
    """

    column: str
    label: str = "@label"
    detail: int = 5

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column, self.label)

    def zero(self) -> BinnedLabelSummary:
        return BinnedLabelSummary(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0), 0.0, 0.0, 0.0)

    def summarize(self, batch: Batch, weight: Weights = None) -> BinnedLabelSummary:
        x, y = batch.numbers(self.column), batch.numbers(self.label)
        w = np.ones(len(x)) if weight is None else weight
        labelled = ((y == 0) | (y == 1)) & (w > 0)
        invalid = float(w[~((y == 0) | (y == 1))].sum())
        x, y, w = x[labelled], y[labelled], w[labelled]
        known = ~np.isnan(x)
        bins, position = np.unique(_bin_of(x[known], self.detail), return_inverse=True)
        yes, no = w * y, w * (1 - y)
        return BinnedLabelSummary(bins, weight_sums(position, yes[known], len(bins)), weight_sums(position, no[known], len(bins)),
                                  float(yes[~known].sum()), float(no[~known].sum()), invalid)


def _bin_of(x: Floats, detail: int) -> Ints:
    size = np.where(np.isinf(x), 2.0**_LARGEST, np.abs(x))
    mantissa, exponent = np.frexp(size)
    power = np.minimum(exponent, _LARGEST).astype(np.int64) - _SMALLEST
    part = np.where(exponent > _LARGEST, 2**detail - 1, np.floor((mantissa - 0.5) * 2 ** (detail + 1))).astype(np.int64)
    place = np.where((size > 0) & (power > 0), power * 2**detail + part, 0)
    return np.where(x < 0, -place, place)
