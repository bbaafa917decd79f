"""Weight per category, and per category and bucket of users: the values of `CategoryCounts`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Array, hash_values
from recspect.diagnosis.column import objects_of
from recspect.diagnosis.stats.counting import kept_names, union_of_names, weight_sums
from recspect.diagnosis.summary import Joined, Summary

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_DENSE = 16
"""Pairs of bucket and category are counted in a table of all where it has no more than so many places for each that is given."""


@dataclass(frozen=True)
class CategoryCountsSummary(Summary):
    """Weight per category, of the `capacity` categories with the smallest hashes; see `GroupedSummary`.

    Args:
        names: Categories as text, ascending; missing is "".
        counts: Their weight, shape (names,), above 0.
        other: Weight of all categories beyond the capacity.
        capacity: How many categories are kept.
    """

    names: tuple[str, ...]
    counts: NDArray[np.float64]
    other: float
    capacity: int

    def __add__(self, other: CategoryCountsSummary) -> CategoryCountsSummary:
        return CategoryCountsSummary.sum_of((self, other))

    @classmethod
    def sum_of(cls, parts: Sequence[CategoryCountsSummary]) -> CategoryCountsSummary:
        """All of them."""
        names, places = union_of_names([part.names for part in parts])
        counts = weight_sums(np.concatenate(places), np.concatenate([part.counts for part in parts]), len(names))
        return bounded_categories(names, counts, sum(part.other for part in parts), parts[0].capacity)

    @property
    def count(self) -> float:
        """Weight of all rows (of all entries, for a column of lists)."""
        return float(self.counts.sum()) + self.other

    @property
    def truncated(self) -> bool:
        """Whether there were more categories than fit."""
        return self.other > 0

    @property
    def distinct(self) -> int:
        """Number of categories kept, without the missing one; all there are unless `truncated`."""
        return len(self.names) - ("" in self.names)

    @property
    def missing(self) -> float:
        """Weight of rows without a value, where that category is kept."""
        return self.as_dict().get("", 0.0)

    def as_dict(self) -> dict[str, float]:
        """Category to weight."""
        return dict(zip(self.names, self.counts.tolist(), strict=True))

    def most_frequent(self, limit: int = 10) -> list[tuple[str, float]]:
        """The heaviest categories kept and their weight, heaviest first, ties by name."""
        order = sorted(zip(self.names, self.counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
        return order[:limit]

    def entropy(self) -> float:
        """Entropy of the kept categories' shares, in nats; NaN for no rows."""
        if not len(self.counts):
            return np.nan
        p = self.counts / self.counts.sum()
        return float(-(p * np.log(p)).sum())


def bounded_categories(names: tuple[str, ...], counts: NDArray[np.float64], rest: float, capacity: int) -> CategoryCountsSummary:
    """Keep the categories of smallest hash; add the others up."""
    keep = kept_names(names, capacity)
    if keep is None:
        return CategoryCountsSummary(names, counts, rest, capacity)
    return CategoryCountsSummary(tuple(np.array(names, dtype=object)[keep]), counts[keep],
                                 rest + float(counts[~keep].sum()), capacity)


@dataclass(frozen=True)
class CategoryCountsByBucket(Joined):
    """One `CategoryCountsSummary` per bucket, with each category named once for all buckets: they are added without looking at names bucket by bucket.

    Args:
        names: Categories that a bucket keeps, ascending; missing is "".
        ends: Where each bucket's entries begin, and all end, shape (buckets + 1,).
        place: Which category, ascending within a bucket, shape (entries,).
        counts: Weight of it in the bucket, above 0, shape (entries,).
        other: Weight of a bucket's categories beyond the capacity, shape (buckets,).
        capacity: How many categories each bucket keeps.
    """

    names: tuple[str, ...]
    ends: Ints
    place: Ints
    counts: Floats
    other: Floats
    capacity: int

    def __add__(self, other: CategoryCountsByBucket) -> CategoryCountsByBucket:
        return CategoryCountsByBucket.sum_of((self, other))

    @classmethod
    def sum_of(cls, parts: Sequence[CategoryCountsByBucket]) -> CategoryCountsByBucket:
        """All of them."""
        names, places = union_of_names([part.names for part in parts])
        return cls.of(names, np.concatenate([part.bucket for part in parts]), np.concatenate([at[part.place] for at, part in zip(places, parts, strict=True)]),
                      np.concatenate([part.counts for part in parts]), np.sum([part.other for part in parts], axis=0), parts[0].capacity)

    @classmethod
    def of(cls, names: Sequence[str], bucket: Ints, place: Ints, weight: Floats, other: Floats, capacity: int) -> CategoryCountsByBucket:
        """From weights of pairs, in any order and each as often as it likes; those of weight 0 are absent.

        Args:
            names: Ascending; some may be unused.
            bucket, place, weight: Shape (pairs,).
            other: Shape (buckets,), what was beyond the capacity before.
            capacity: How many categories each bucket keeps.
        """
        size, buckets = max(1, len(names)), len(other)
        cells = bucket * size + place
        if buckets * size <= _DENSE * len(cells):
            sums = weight_sums(cells, weight, buckets * size)
            cells = np.flatnonzero(sums > 0)
            sums = sums[cells]
        else:
            cells, at = np.unique(cells, return_inverse=True)
            sums = weight_sums(at, weight, len(cells))
            cells, sums = cells[sums > 0], sums[sums > 0]
        bucket, place = np.divmod(cells, size)
        ends = np.searchsorted(bucket, np.arange(buckets + 1))
        if len(cells) and int(np.diff(ends).max()) > capacity:
            keep = _kept(hash_values(objects_of(list(names))), place, ends, capacity)
            other = other + weight_sums(bucket[~keep], sums[~keep], buckets)
            bucket, place, sums = bucket[keep], place[keep], sums[keep]
            ends = np.searchsorted(bucket, np.arange(buckets + 1))
        used = np.bincount(place, minlength=len(names)) > 0
        if not used.all():
            place = (np.cumsum(used) - 1)[place]
            names = [name for name, one in zip(names, used.tolist(), strict=True) if one]
        return cls(tuple(names), ends, place, sums, other, capacity)

    @classmethod
    def joined(cls, parts: Sequence[CategoryCountsSummary]) -> CategoryCountsByBucket:
        """The same buckets, at least one, held together."""
        if isinstance(parts, CategoryCountsByBucket):
            return parts
        names, places = union_of_names([part.names for part in parts])
        return cls.of(names, np.repeat(np.arange(len(parts)), [len(part.names) for part in parts]), np.concatenate(places),
                      np.concatenate([part.counts for part in parts]), np.array([part.other for part in parts]), parts[0].capacity)

    @property
    def bucket(self) -> Ints:
        """Which bucket each entry is of, shape (entries,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.ends))

    @cached_property
    def total(self) -> CategoryCountsSummary:
        """All buckets together."""
        return bounded_categories(self.names, weight_sums(self.place, self.counts, len(self.names)), float(self.other.sum()), self.capacity)

    def sums(self, groups: Ints, count: int) -> Floats:
        """Weight per bucket and group of categories, shape (buckets, count). `groups`, shape (names,): the group of each category, -1 for none."""
        group = groups[self.place]
        there = group >= 0
        return weight_sums(self.bucket[there] * count + group[there], self.counts[there], len(self) * count).reshape(len(self), count)

    @cached_property
    def _texts(self) -> Array:
        return objects_of(self.names)

    def __len__(self) -> int:
        return len(self.other)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            return tuple(self[i] for i in range(*which.indices(len(self))))
        bucket = range(len(self))[which]
        first, last = self.ends[bucket], self.ends[bucket + 1]
        return CategoryCountsSummary(tuple(self._texts[self.place[first:last]].tolist()), self.counts[first:last], float(self.other[bucket]), self.capacity)


def _kept(hashes: NDArray[np.uint64], place: Ints, ends: Ints, capacity: int) -> NDArray[np.bool_]:
    """Which entries have one of the `capacity` smallest hashes of their bucket; see `kept_names`."""
    keep = np.ones(len(place), dtype=bool)
    for first, last in itertools.pairwise(ends.tolist()):
        if last - first > capacity:
            keep[first + np.argsort(hashes[place[first:last]], kind="stable")[capacity:]] = False
    return keep


__all__ = ["CategoryCountsByBucket", "CategoryCountsSummary", "bounded_categories"]
