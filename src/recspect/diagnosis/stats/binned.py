"""Any number against a 0/1 label: how well the number alone tells the label, whatever the shape of the relation.

The values are binned by order and size: sign, power of two, and the top bits of the mantissa, so whole numbers below
2**(detail + 1) have bins of their own, and the bins need not be known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.ranks import auc_of_counts
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.counting import weight_sums
from recspect.diagnosis.stats.crosstab import sums_of_others, target_auc

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
        return BinnedLabelSummary.sum_of((self, other))

    @classmethod
    def sum_of(cls, parts: Sequence[BinnedLabelSummary]) -> BinnedLabelSummary:
        """All of them."""
        bins, grid, rest = _grid(parts)
        return _from_grid(bins, grid.sum(0), rest.sum(0))

    @classmethod
    def sums_without_each(cls, parts: Sequence[BinnedLabelSummary]) -> list[BinnedLabelSummary]:
        """For every part, all of the others; laid out over the same bins once."""
        bins, grid, rest = _grid(parts)
        there = grid.sum(1) > 0
        several = there.sum(0)
        return [_from_grid(bins[several > there[i]], others[:, several > there[i]], other)
                for i, (others, other) in enumerate(zip(sums_of_others(grid), sums_of_others(rest), strict=True))]

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
        return auc_of_counts(self.positives, self.negatives)

    @property
    def rate_auc(self) -> float:
        """AUC of the label rate of the value's bin, missing values being a bin: also finds relations that rise and fall.

        Each pair's rates are computed without it; see `CrosstabSummary.target_auc`.

        Raises:
            Unavailable: The label has one class only.
        """
        return target_auc(np.append(self.positives, self.missing_positives), np.append(self.negatives, self.missing_negatives))

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
        return self.summarize_buckets(batch, np.zeros(batch.rows, dtype=np.int64), 1, weight)[0]

    def summarize_buckets(self, batch: Batch, which: NDArray[np.int64], buckets: int, weight: Weights = None) -> list[BinnedLabelSummary]:
        """For every bucket the summary of its rows: values are binned once for all of them."""
        x, y = batch.numbers(self.column), batch.numbers(self.label)
        w = np.ones(len(x)) if weight is None else weight
        labelled = (y == 0) | (y == 1)
        invalid = weight_sums(which[~labelled], w[~labelled], buckets)
        used = labelled & (w > 0)
        x, y, w, which = x[used], y[used], w[used], which[used]
        known = ~np.isnan(x)
        bins, position = _distinct(_bin_of(x[known], self.detail), self.detail)
        # per bucket and class a row of bins, the last one for missing values
        place = np.full(len(x), len(bins), dtype=np.int64)
        place[known] = position
        width = len(bins) + 1
        grid = weight_sums((which * 2 + y.astype(np.int64)) * width + place, w, buckets * 2 * width).reshape(buckets, 2, width)
        found = []
        for (no, yes), bad in zip(grid, invalid, strict=True):
            some = (no[:-1] + yes[:-1]) > 0
            found.append(BinnedLabelSummary(bins[some], yes[:-1][some], no[:-1][some], float(yes[-1]), float(no[-1]), float(bad)))
        return found


def _grid(parts: Sequence[BinnedLabelSummary]) -> tuple[Ints, Floats, Floats]:
    """All bins, ascending; positives and negatives of every part, shape (parts, 2, bins); what is in no bin, shape (parts, 3)."""
    bins = np.unique(np.concatenate([part.bins for part in parts]))
    grid = np.zeros((len(parts), 2, len(bins)))
    for i, part in enumerate(parts):
        grid[i][:, np.searchsorted(bins, part.bins)] = part.positives, part.negatives
    return bins, grid, np.array([(part.missing_positives, part.missing_negatives, part.invalid) for part in parts])


def _from_grid(bins: Ints, grid: Floats, rest: Floats) -> BinnedLabelSummary:
    return BinnedLabelSummary(bins, grid[0], grid[1], float(rest[0]), float(rest[1]), float(rest[2]))


def _distinct(bins: Ints, detail: int) -> tuple[Ints, Ints]:
    """The bins that occur, ascending, and the position of each row's; by counting, as there are few."""
    lowest = -(_LARGEST - _SMALLEST + 1) * 2**detail
    occurs = np.bincount(bins - lowest, minlength=1 - 2 * lowest) > 0
    return np.flatnonzero(occurs) + lowest, (np.cumsum(occurs) - 1)[bins - lowest]


def _bin_of(x: Floats, detail: int) -> Ints:
    size = np.where(np.isinf(x), 2.0**_LARGEST, np.abs(x))
    mantissa, exponent = np.frexp(size)
    power = np.minimum(exponent, _LARGEST).astype(np.int64) - _SMALLEST
    part = np.where(exponent > _LARGEST, 2**detail - 1, np.floor((mantissa - 0.5) * 2 ** (detail + 1))).astype(np.int64)
    place = np.where((size > 0) & (power > 0), power * 2**detail + part, 0)
    return np.where(x < 0, -place, place)
