"""Columns of equal length. What sources yield, probes widen and stats add up.

A column has one of four forms, which `recspect.diagnosis.column` describes. All that is needed to work with batches can be
imported from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspect.diagnosis.column import (
    Array,
    Categorical,
    Column,
    Ragged,
    column_from_arrow,
    describe,
    factorize,
    objects_of,
)
from recspect.diagnosis.hashing import bucket, combine_hashes, hash_parts, hash_values
from recspect.errors import DataError, listing


class Batch(Mapping[str, Column]):
    """A bounded number of rows, by column.

    Args:
        columns: Name to column, all of the same length.

    Raises:
        DataError: Lengths differ.

    Example:
        >>> batch = Batch({"score": np.array([.2, .9]), "click": np.array([0, 1])})
        >>> batch.rows, list(batch)
        (2, ['score', 'click'])
    """

    def __init__(self, columns: Mapping[str, Column], *, rows: int | None = None) -> None:
        self._columns = dict(columns)
        lengths = {name: len(column) for name, column in self._columns.items()}
        if rows is None:
            rows = next(iter(lengths.values()), 0)
        wrong = {name: length for name, length in lengths.items() if length != rows}
        if wrong:
            raise DataError(f"columns of a batch differ in length: {rows} rows, but {wrong}")
        self.rows: int = rows
        self._buckets: dict[tuple[str, int], NDArray[np.int64]] = {}
        self._categories: dict[str, Categorical] = {}
        self._hashes: dict[str, NDArray[np.uint64]] = {}

    def __getitem__(self, name: str) -> Column:
        try:
            return self._columns[name]
        except KeyError:
            raise DataError(f"no column {name!r}; columns: {listing(self._columns)}",
                            hint="check the schema against the table") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column as float64, shape (rows,).

        Raises:
            DataError: The column does not hold numbers.
        """
        column = self[name]
        if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "fiub":
            return column.astype(np.float64, copy=False)
        if isinstance(column, np.ndarray) and column.dtype.kind == "M":
            return np.where(np.isnat(column), np.nan, column.astype("datetime64[us]").astype(np.int64).astype(np.float64))
        if isinstance(column, Categorical) and column.values.dtype.kind == "b":
            return np.append(column.values.astype(np.float64), [np.nan])[column.codes]
        if isinstance(column, Categorical) and not (column.codes >= 0).any():
            return np.full(self.rows, np.nan)
        raise DataError(f"column {name!r} holds {describe(column)}, expected numbers",
                        hint="correct the column's type, or its kind in the schema")

    def matrix(self, name: str) -> NDArray[np.float64]:
        """A column of vectors as float64, shape (rows, width).

        Raises:
            DataError: The column does not hold vectors of one width.
        """
        column = self[name]
        if isinstance(column, np.ndarray) and column.ndim == 2:
            return column.astype(np.float64, copy=False)
        raise DataError(f"column {name!r} holds {describe(column)}, expected vectors of equal length")

    def categories(self, name: str) -> Categorical:
        """A column as codes into distinct values. NaN is missing; whole-number floats count as integers. Kept, as many stats ask for the same.

        Raises:
            DataError: The column holds lists or vectors.
        """
        column = self[name]
        if isinstance(column, Categorical):
            return column
        if isinstance(column, np.ndarray) and column.ndim == 1:
            if name not in self._categories:
                self._categories[name] = factorize(column)
            return self._categories[name]
        raise DataError(f"column {name!r} holds {describe(column)}, expected single values")

    def buckets(self, name: str, count: int) -> NDArray[np.int64]:
        """Which of `count` buckets each row's id falls into, shape (rows,); see `bucket`. Kept, as many stats ask for the same.

        Raises:
            DataError: The column holds lists or vectors.
        """
        if (name, count) not in self._buckets:
            self._buckets[name, count] = bucket(self[name], count)
        return self._buckets[name, count]

    def hashes(self, *names: str) -> NDArray[np.uint64]:
        """One 64-bit hash per row over these columns, shape (rows,); equal rows hash equal in every process. Of single values kept, as many stats ask for the same."""
        for name in names:
            if name not in self._hashes and not isinstance(self[name], Ragged) and getattr(self[name], "ndim", 1) == 1:
                self._hashes[name] = hash_parts(self[name])[0]
        return combine_hashes([part for name in names for part in ([self._hashes[name]] if name in self._hashes else hash_parts(self[name]))], self.rows)

    def take(self, rows: Any) -> Batch:
        """The rows at these positions (or under this mask)."""
        if isinstance(rows, np.ndarray) and rows.dtype == bool:
            rows = np.flatnonzero(rows)  # looked for once, not in every column
        picked = {name: column[rows] for name, column in self._columns.items()}
        if not picked:
            return Batch({}, rows=len(np.arange(self.rows)[rows]))
        taken = Batch(picked)
        taken._buckets = {key: which[rows] for key, which in self._buckets.items()}
        taken._hashes = {name: hashes[rows] for name, hashes in self._hashes.items()}
        # distinct values are found again where only a small part of them can be left
        taken._categories = {name: column[rows] for name, column in self._categories.items() if len(column.values) <= taken.rows}
        return taken

    def pieces(self, rows: int) -> Iterator[Batch]:
        """The rows in order, at most `rows` at a time; nothing for no rows."""
        if 0 < self.rows <= rows:
            yield self
        else:
            yield from (self.take(slice(start, start + rows)) for start in range(0, self.rows, rows))

    def select(self, names: Sequence[str]) -> Batch:
        """Only these columns."""
        chosen = Batch({name: self[name] for name in names}, rows=self.rows)
        chosen._buckets = {key: which for key, which in self._buckets.items() if key[0] in chosen}
        chosen._categories = {name: column for name, column in self._categories.items() if name in chosen}
        chosen._hashes = {name: hashes for name, hashes in self._hashes.items() if name in chosen}
        return chosen

    def with_columns(self, columns: Mapping[str, Column]) -> Batch:
        """A batch with these columns added or replaced."""
        wider = Batch({**self._columns, **columns}, rows=self.rows)
        wider._buckets = {key: which for key, which in self._buckets.items() if key[0] not in columns}
        wider._categories = {name: column for name, column in self._categories.items() if name not in columns}
        wider._hashes = {name: hashes for name, hashes in self._hashes.items() if name not in columns}
        return wider

    @classmethod
    def from_arrow(cls, table: pa.Table | pa.RecordBatch) -> Batch:
        """From Arrow; strings become `Categorical`, lists `Ragged`, fixed-size lists vectors."""
        return cls(
            {name: column_from_arrow(table.column(i)) for i, name in enumerate(table.schema.names)},
            rows=table.num_rows,
        )


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Rows of several batches with the same columns, one after the other."""
    if not batches:
        return Batch({})
    if len(batches) == 1:
        return batches[0]
    names = list(batches[0])
    return Batch({name: _concatenate([batch[name] for batch in batches]) for name in names},
                 rows=sum(batch.rows for batch in batches))


def _concatenate(columns: Sequence[Column]) -> Column:
    if any(isinstance(column, Ragged) for column in columns):
        # Where all lists of a part are missing, its column arrives without a type: empty lists.
        empty = next(column for column in columns if isinstance(column, Ragged))[:0]
        ragged = [column if isinstance(column, Ragged) else Ragged(empty.values, np.zeros(len(column) + 1, dtype=np.int64))
                  for column in columns]
        shifts = np.cumsum([0, *(int(r.offsets[-1] - r.offsets[0]) for r in ragged)])
        values = _concatenate([r.values[r.offsets[0]:r.offsets[-1]] for r in ragged])
        offsets = np.concatenate([[0], *(r.offsets[1:] + shift - r.offsets[0] for r, shift in zip(ragged, shifts, strict=False))])
        return Ragged(values, offsets)  # type: ignore[arg-type]
    if any(isinstance(column, Categorical) for column in columns):
        parts = [column if isinstance(column, Categorical) else factorize(column) for column in columns]  # type: ignore[arg-type]
        everything = np.concatenate([part.values.astype(object) for part in parts])
        lookup: dict[Any, int] = {}
        position = np.array([lookup.setdefault(value, len(lookup)) for value in everything], dtype=np.int64)
        starts = np.cumsum([0, *(len(part.values) for part in parts)])
        codes = np.concatenate([
            np.where(part.codes < 0, -1, position[np.minimum(part.codes + start, max(len(position) - 1, 0))])
            if len(position) else part.codes
            for part, start in zip(parts, starts, strict=False)
        ])
        return Categorical(codes, objects_of(list(lookup)))
    return np.concatenate(columns)  # type: ignore[arg-type]


def hash_rows(batch: Batch, names: Sequence[str]) -> NDArray[np.uint64]:
    """One 64-bit hash per row over these columns; equal rows hash equal in every process."""
    return batch.hashes(*names)


__all__ = [
    "Array", "Batch", "Categorical", "Column", "Ragged", "bucket", "column_from_arrow", "concatenate", "describe", "factorize",
    "hash_rows", "hash_values",
]
