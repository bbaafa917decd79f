"""Rows of the events whose key has the smallest hash: two tables of the same events can be joined by their totals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, hash_rows
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.counting import weight_sums
from recspect.diagnosis.stats.hashes import Floats, Hashes, threshold
from recspect.errors import UsageError


@dataclass(frozen=True)
class KeyedRowsSummary(Summary):
    """The k events of smallest key hash, each with one of its rows.

    Which events are kept depends on the set of keys only. Of an event with several different rows, that of smallest content is kept.

    Args:
        keys: Hash of the key of each event, ascending, shape (kept,).
        counts: Weight of its rows, shape (kept,).
        lowest, highest: Smallest and largest hash of the contents of its rows, equal where all of them are, shape (kept,).
        values: A hash of the value of each column of `categories`, shape (kept, categories).
        numbers: Shape (kept, numbers), NaN where missing.
        precision: Bits of the coarsest floating-point type that each number came in, 64 at most; 0 where it came in whole numbers only, shape (numbers,).
        count: Weight of all rows.
        k: How many events are kept at most.
    """

    keys: Hashes
    counts: Floats
    lowest: Hashes
    highest: Hashes
    values: NDArray[np.uint64]
    numbers: Floats
    precision: NDArray[np.int64]
    count: float
    k: int

    def __add__(self, other: KeyedRowsSummary) -> KeyedRowsSummary:
        both = (self, other)
        keys, counts, lowest, highest, values, numbers = (np.concatenate([getattr(part, name) for part in both])
                                                          for name in ("keys", "counts", "lowest", "highest", "values", "numbers"))
        return _smallest(keys, counts, lowest, highest, values, numbers, _coarsest(self.precision, other.precision), self.count + other.count, self.k)

    @property
    def repeated(self) -> NDArray[np.bool_]:
        """Which events have several rows that differ."""
        return np.asarray(self.lowest != self.highest)

    @property
    def cut(self) -> np.uint64 | float:
        """Below this hash every event is kept."""
        return threshold(self.keys, self.k)


def _coarsest(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(a == 0, b, np.where(b == 0, a, np.minimum(a, b)))


def _smallest(keys: Hashes, counts: Floats, lowest: Hashes, highest: Hashes, values: NDArray[np.uint64], numbers: Floats, precision: NDArray[np.int64],
              count: float, k: int) -> KeyedRowsSummary:
    order = np.lexsort((lowest, keys))
    distinct, first, place = np.unique(keys[order], return_index=True, return_inverse=True)
    top = np.zeros(len(distinct), dtype=np.uint64)
    np.maximum.at(top, place, highest[order])
    kept = order[first[:k]]
    return KeyedRowsSummary(distinct[:k], weight_sums(place, counts[order], len(distinct))[:k], lowest[kept], top[:k], values[kept], numbers[kept], precision, count, k)


@dataclass(frozen=True, kw_only=True)
class KeyedRows(Stat[KeyedRowsSummary]):
    """The rows of a uniform sample of events by smallest hash of their key; deterministic and mergeable.

    Args:
        key: The columns that name an event.
        categories: Columns compared by equality, of any kind.
        numbers: Numeric columns, kept as they are.
        k: Events kept; 32 bytes, and 8 per column, each.
    """

    key: tuple[str, ...]
    categories: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    k: int = 16_384

    def __post_init__(self) -> None:
        for name in ("key", "categories", "numbers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.k < 3 or not self.key:
            raise UsageError(f"KeyedRows by {self.key} with k = {self.k}", hint="give at least one column as key and k of 3 or more")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.key, *self.categories, *self.numbers)))

    def zero(self) -> KeyedRowsSummary:
        nothing = np.zeros(0, dtype=np.uint64)
        return KeyedRowsSummary(nothing, np.zeros(0), nothing, nothing, np.zeros((0, len(self.categories)), dtype=np.uint64), np.zeros((0, len(self.numbers))),
                                np.zeros(len(self.numbers), dtype=np.int64), 0.0, self.k)

    def summarize(self, batch: Batch, weight: Weights = None) -> KeyedRowsSummary:
        w = np.ones(batch.rows) if weight is None else weight
        used = np.flatnonzero(w > 0)
        if not len(used):
            return self.zero()
        count = float(w[used].sum())
        precision = np.array([_bits(batch[name]) for name in self.numbers], dtype=np.int64)
        keys = hash_rows(batch, self.key)[used]
        if len(used) > 8 * self.k:  # few of many: look only at the events below a bound that surely leaves k of them, if there is one
            below = keys <= np.partition(keys, 4 * self.k)[4 * self.k]
            if len(np.unique(keys[below])) >= self.k:
                used, keys = used[below], keys[below]
        rows = batch.select(self.columns).take(used)
        content = hash_rows(rows, (*self.categories, *self.numbers))
        values = np.stack([rows.hashes(name) for name in self.categories], axis=1) if self.categories else np.zeros((len(used), 0), dtype=np.uint64)
        numbers = np.stack([rows.numbers(name) for name in self.numbers], axis=1) if self.numbers else np.zeros((len(used), 0))
        return _smallest(keys, w[used], content, content, values, numbers, precision, count, self.k)


def _bits(column: object) -> int:
    return min(64, 8 * column.dtype.itemsize) if isinstance(column, np.ndarray) and column.dtype.kind == "f" else 0
