"""A uniform sample of distinct rows with their values: what a joint distribution can be compared by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, hash_rows
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.counting import weight_sums
from recspect.diagnosis.stats.hashes import Floats, Hashes
from recspect.errors import UsageError


@dataclass(frozen=True)
class RowSampleSummary(Summary):
    """The k distinct rows of smallest hash, each with its values and its whole weight.

    Args:
        hashes: Of the rows, ascending, shape (kept,).
        weights: Of each kept row, above 0, shape (kept,).
        categories: A hash per value, shape (kept, categories).
        numbers: Shape (kept, numbers), NaN where missing.
        buckets: Which bucket of users each row is of, shape (kept,).
        count: Weight of all rows.
        k: How many are kept at most.
    """

    hashes: Hashes
    weights: Floats
    categories: NDArray[np.uint64]
    numbers: Floats
    buckets: NDArray[np.int64]
    count: float
    k: int

    def __add__(self, other: RowSampleSummary) -> RowSampleSummary:
        both = (self, other)
        return _smallest(
            np.concatenate([part.hashes for part in both]), np.concatenate([part.weights for part in both]),
            np.concatenate([part.categories for part in both]), np.concatenate([part.numbers for part in both]),
            np.concatenate([part.buckets for part in both]), self.count + other.count, self.k)


def _smallest(hashes: Hashes, weights: Floats, categories: NDArray[np.uint64], numbers: Floats, buckets: NDArray[np.int64], count: float,
              k: int) -> RowSampleSummary:
    distinct, first, place = np.unique(hashes, return_index=True, return_inverse=True)
    kept = first[:k]
    return RowSampleSummary(distinct[:k], weight_sums(place, weights, len(distinct))[:k], categories[kept], numbers[kept], buckets[kept], count, k)


@dataclass(frozen=True, kw_only=True)
class RowSample(Stat[RowSampleSummary]):
    """A uniform sample of distinct rows by smallest hash, with their values; deterministic and mergeable.

    Args:
        categories: Columns whose values are kept as hashes.
        numbers: Numeric columns, kept as they are.
        cluster, buckets: Whose rows are dependent, and in how many buckets they are kept apart.
        k: Distinct rows kept; 8 bytes per column each.
    """

    categories: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    cluster: str = "@cluster"
    buckets: int = 50
    k: int = 16_384

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(self.categories))
        object.__setattr__(self, "numbers", tuple(self.numbers))
        if self.k < 1 or not (self.categories or self.numbers):
            raise UsageError(f"RowSample of {self.categories + self.numbers} with k = {self.k}", hint="give at least one column and k of 1 or more")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.categories, *self.numbers, self.cluster)))

    def zero(self) -> RowSampleSummary:
        return RowSampleSummary(np.zeros(0, dtype=np.uint64), np.zeros(0), np.zeros((0, len(self.categories)), dtype=np.uint64),
                                np.zeros((0, len(self.numbers))), np.zeros(0, dtype=np.int64), 0.0, self.k)

    def summarize(self, batch: Batch, weight: Weights = None) -> RowSampleSummary:
        w = np.ones(batch.rows) if weight is None else weight
        used = np.flatnonzero(w > 0)
        if not len(used):
            return self.zero()
        hashes = hash_rows(batch, self.columns)[used]
        count = float(w[used].sum())
        if len(used) > 8 * self.k:  # few of many: look only below a bound that surely leaves k distinct rows, if there is one
            bound = np.partition(hashes, 4 * self.k)[4 * self.k]
            below = hashes <= bound
            if len(np.unique(hashes[below])) >= self.k:
                used, hashes = used[below], hashes[below]
        rows = batch.select(self.columns).take(used)
        categories = np.stack([rows.hashes(name) for name in self.categories], axis=1) if self.categories else np.zeros((len(used), 0), dtype=np.uint64)
        numbers = np.stack([rows.numbers(name) for name in self.numbers], axis=1) if self.numbers else np.zeros((len(used), 0))
        return _smallest(hashes, w[used], categories, numbers, rows.buckets(self.cluster, self.buckets), count, self.k)
