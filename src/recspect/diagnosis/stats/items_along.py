"""Rows and positives of each item along a number (its place in lists, a generation, time), in buckets of users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, hash_rows
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.hashes import Floats, Hashes
from recspect.diagnosis.stats.time_blocks import time_in_seconds
from recspect.errors import UsageError

ROWS, POSITIVE = range(2)
_LARGEST = 2.0**52
"""Places are numbered by whole numbers that a float holds exactly."""


@dataclass(frozen=True)
class ItemsAlongSummary(Summary):
    """Sums per item, place and bucket of users that have rows.

    A place is numbered floor(number / (width 2^level)). The level is the smallest at which all places fit, and the items kept are those of
    smallest hash, each complete: both depend on the set of rows only, so it adds in any order.

    Args:
        items: Hash of the item of each cell, ascending, shape (cells,).
        places: Its place, ascending within an item, shape (cells,).
        buckets: Its bucket of users, ascending within a place, shape (cells,).
        sums: Rows and positives, shape (cells, 2).
        level: How often the width was doubled.
        other: Weight of the rows of items beyond the capacity.
        limits: Most places and most items.
        seen: Every place that has rows, also of items beyond the capacity, ascending.
    """

    items: Hashes
    places: NDArray[np.int64]
    buckets: NDArray[np.int64]
    sums: Floats
    level: int
    other: Floats
    limits: tuple[int, int]
    seen: NDArray[np.int64]

    def __add__(self, other: ItemsAlongSummary) -> ItemsAlongSummary:
        level, both = max(self.level, other.level), (self, other)
        return _fitted(np.concatenate([part.items for part in both]), np.concatenate([part.places >> (level - part.level) for part in both]),
                       np.concatenate([part.buckets for part in both]), np.concatenate([part.sums for part in both]), level, self.other + other.other, self.limits,
                       np.union1d(*(part.seen >> (level - part.level) for part in both)))

    @property
    def count(self) -> float:
        """Weight of all rows."""
        return float(self.sums[:, ROWS].sum() + self.other[ROWS])

    @property
    def truncated(self) -> bool:
        """Whether there were more items than fit."""
        return bool(self.other[ROWS] > 0)

    def grid(self, buckets: int) -> tuple[NDArray[np.int64], Floats]:
        """The places that kept items have rows at, ascending, and all sums, shape (buckets, items, places, 2)."""
        _, item = np.unique(self.items, return_inverse=True)
        places, place = np.unique(self.places, return_inverse=True)
        out = np.zeros((buckets, int(item.max(initial=-1)) + 1, len(places), 2))
        out[self.buckets, item, place] = self.sums
        return places, out


def _fitted(items: Hashes, places: NDArray[np.int64], buckets: NDArray[np.int64], sums: Floats, level: int, other: Floats, limits: tuple[int, int],
            seen: NDArray[np.int64]) -> ItemsAlongSummary:
    most_places, most_items = limits
    while len(seen) > most_places:
        level, seen, places = level + 1, np.unique(seen >> 1), places >> 1
    distinct = np.unique(items)
    if len(distinct) > most_items:
        kept = items <= distinct[most_items - 1]
        other = other + sums[~kept].sum(0)
        items, places, buckets, sums = items[kept], places[kept], buckets[kept], sums[kept]
    order = np.lexsort((buckets, places, items))
    items, places, buckets, sums = items[order], places[order], buckets[order], sums[order]
    first = np.ones(len(items), dtype=bool)
    first[1:] = (items[1:] != items[:-1]) | (places[1:] != places[:-1]) | (buckets[1:] != buckets[:-1])
    total = np.add.reduceat(sums, np.flatnonzero(first), axis=0) if len(items) else sums
    return ItemsAlongSummary(items[first], places[first], buckets[first], total, level, other, limits, seen)


@dataclass(frozen=True, kw_only=True)
class ItemsAlong(Stat[ItemsAlongSummary]):
    """Rows and positives per item, stretch of a number and bucket of users.

    Args:
        item: Any column of single values.
        along: A number or a time; rows without are left out.
        time_unit: Of a time (see `TimeBlocks`); None leaves numbers as they are.
        width: Of a place before doubling.
        places: Most places; beyond, the width is doubled until they fit.
        capacity: Most items, those of smallest hash; at most capacity x places x buckets cells of 40 bytes, and no more than rows.
        cluster, buckets: Whose rows are dependent, and in how many buckets they are kept apart.
        label: 0/1, other rows are left out; None counts rows only.
        propensity: Probability with which the row was logged; each row counts 1 / p, and rows outside (0, 1] are left out.
    """

    item: str
    along: str
    time_unit: str | None = None
    width: float = 1.0
    places: int = 32
    capacity: int = 4096
    cluster: str = "@cluster"
    buckets: int = 50
    label: str | None = None
    propensity: str | None = None

    def __post_init__(self) -> None:
        if self.width <= 0 or min(self.places, self.capacity, self.buckets) < 2:
            raise UsageError(f"ItemsAlong: width {self.width}, {self.places} places, {self.capacity} items, {self.buckets} buckets", hint="expected above 0, and 2 or more")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(filter(None, (self.item, self.along, self.cluster, self.label, self.propensity))))

    def zero(self) -> ItemsAlongSummary:
        nothing = np.zeros(0, dtype=np.int64)
        return ItemsAlongSummary(np.zeros(0, dtype=np.uint64), nothing, nothing, np.zeros((0, 2)), 0, np.zeros(2), (self.places, self.capacity), nothing)

    def summarize(self, batch: Batch, weight: Weights = None) -> ItemsAlongSummary:
        place = np.floor(time_in_seconds(batch, self.along, self.time_unit) / self.width)
        y = np.zeros(batch.rows) if self.label is None else batch.numbers(self.label)
        p = np.ones(batch.rows) if self.propensity is None else batch.numbers(self.propensity)
        w = np.ones(batch.rows) if weight is None else weight
        with np.errstate(invalid="ignore"):
            used = (np.abs(place) < _LARGEST) & ((y == 0) | (y == 1)) & (p > 1e-9) & (p <= 1) & (w > 0)
        if not used.any():
            return self.zero()
        w, y, places = (w / np.where(used, p, 1.0))[used], y[used], place[used].astype(np.int64)
        items, buckets = hash_rows(batch.select([self.item]), [self.item])[used], batch.buckets(self.cluster, self.buckets)[used]
        return _fitted(items, places, buckets, np.stack([w, w * y], axis=1), 0, np.zeros(2), (self.places, self.capacity), np.unique(places))
