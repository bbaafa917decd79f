"""Which ids share a row of an embedding table, with the rows and positives of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, hash_rows, hash_values
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.hashes import Floats, Hashes
from recspect.errors import UsageError


@dataclass(frozen=True)
class SharedRowsSummary(Summary):
    """Rows and positives per table row and id.

    Table rows are kept in the order of their hash, each with all its ids, as long as the ids together fit: which ones depends on the set of rows only.

    Args:
        tables: Hash of the table row of each entry, ascending, shape (entries,).
        ids: Hash of its id, ascending within a table row, shape (entries,).
        sums: Rows and positives, shape (entries, 2).
        cut: Table rows whose hash is at least this are left out; 2^64 - 1 where all are kept.
        count: Weight of all rows, also of those left out.
        capacity: Most entries.
    """

    tables: Hashes
    ids: Hashes
    sums: Floats
    cut: int
    count: float
    capacity: int

    def __add__(self, other: SharedRowsSummary) -> SharedRowsSummary:
        both = (self, other)
        return _fitted(np.concatenate([part.tables for part in both]), np.concatenate([part.ids for part in both]), np.concatenate([part.sums for part in both]),
                       min(self.cut, other.cut), self.count + other.count, self.capacity)

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where the entries of each table row begin, and at the end their number."""
        return np.append(np.flatnonzero(np.diff(self.tables, prepend=~self.tables[:1]) != 0), len(self.tables)).astype(np.int64)


_ALL = 2**64 - 1


def _fitted(tables: Hashes, ids: Hashes, sums: Floats, cut: int, count: float, capacity: int) -> SharedRowsSummary:
    if cut < _ALL:
        kept = tables < np.uint64(cut)
        tables, ids, sums = tables[kept], ids[kept], sums[kept]
    order = np.lexsort((ids, tables))
    tables, ids, sums = tables[order], ids[order], sums[order]
    first = np.ones(len(tables), dtype=bool)
    first[1:] = (tables[1:] != tables[:-1]) | (ids[1:] != ids[:-1])
    sums = np.add.reduceat(sums, np.flatnonzero(first), axis=0) if len(tables) else sums
    tables, ids = tables[first], ids[first]
    if len(tables) > capacity:
        cut = min(cut, int(tables[capacity]))
        end = int(np.searchsorted(tables, tables[capacity]))
        tables, ids, sums = tables[:end], ids[:end], sums[:end]
    return SharedRowsSummary(tables, ids, sums, cut, count, capacity)


@dataclass(frozen=True, kw_only=True)
class SharedRows(Stat[SharedRowsSummary]):
    """Rows and positives per table row and id.

    Args:
        column: The ids.
        row: Column of the table rows that are read; None hashes the ids into `buckets` as the feature transform does.
        buckets: How many, without `row`.
        label: 0/1; other rows are left out, and so are those without an id.
        capacity: Most entries, 32 bytes each.
    """

    column: str
    row: str | None = None
    buckets: int = 0
    label: str = "@label"
    capacity: int = 65_536

    def __post_init__(self) -> None:
        if self.capacity < 1 or (self.row is None and self.buckets < 2):
            raise UsageError(f"SharedRows of {self.column} with {self.buckets} buckets and capacity {self.capacity}", hint="name the column of table rows, or give 2 or more buckets")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(filter(None, (self.column, self.row, self.label))))

    def zero(self) -> SharedRowsSummary:
        nothing = np.zeros(0, dtype=np.uint64)
        return SharedRowsSummary(nothing, nothing, np.zeros((0, 2)), _ALL, 0.0, self.capacity)

    def summarize(self, batch: Batch, weight: Weights = None) -> SharedRowsSummary:
        found, y = batch.categories(self.column), batch.numbers(self.label)
        w = np.ones(batch.rows) if weight is None else weight
        used = (found.codes >= 0) & ((y == 0) | (y == 1)) & (w > 0)
        hashes = hash_values(found.values)
        ids = np.append(hashes, [np.uint64(0)])[found.codes][used]
        if self.row is None:
            tables = hash_values((ids % np.uint64(self.buckets)).astype(np.int64))
        else:
            tables = hash_rows(batch.select([self.row]), [self.row])[used]
        sums = np.stack([w[used], w[used] * y[used]], axis=1)
        return _fitted(tables, ids, sums, _ALL, float(w[used].sum()), self.capacity)
