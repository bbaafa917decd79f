"""Columns of equal length. What sources yield, probes widen and stats add up.

Four forms of column, and no other:

- a one-dimensional NumPy array of numbers, booleans or datetimes (missing: NaN or NaT);
- a two-dimensional array, one vector per row;
- `Categorical`: integer codes into a list of distinct values (strings always arrive so; missing: code -1);
- `Ragged`: a list per row (multi-valued and sequence columns).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspect.errors import DataError, listing

Array = NDArray[Any]


@dataclass(frozen=True)
class Categorical:
    """Codes into distinct values.

    Args:
        codes: Shape (rows,), integers; -1 where the value is missing.
        values: Shape (distinct,), the distinct values (strings as objects, or integers). Some may be unused.
    """

    codes: Array
    values: Array

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> Categorical:
        return Categorical(self.codes[rows], self.values)

    def decode(self) -> Array:
        """The values row by row, as objects; None where missing."""
        wide = np.append(self.values.astype(object), [None])
        decoded: Array = wide[self.codes]
        return decoded


@dataclass(frozen=True)
class Ragged:
    """A list per row: row i holds `values[offsets[i]:offsets[i + 1]]`.

    Args:
        values: All entries in a row, a number array or a `Categorical`.
        offsets: Shape (rows + 1,), ascending.
    """

    values: Array | Categorical
    offsets: Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: Any) -> Ragged:
        index = np.arange(len(self))[rows]
        lengths = np.diff(self.offsets)[index]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        start = np.repeat(self.offsets[:-1][index] - offsets[:-1], lengths)
        return Ragged(self.values[start + np.arange(offsets[-1])], offsets)

    @property
    def lengths(self) -> Array:
        """Entries per row."""
        return np.diff(self.offsets)


Column: TypeAlias = Array | Categorical | Ragged


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
        """A column as codes into distinct values. NaN is missing; whole-number floats count as integers.

        Raises:
            DataError: The column holds lists or vectors.
        """
        column = self[name]
        if isinstance(column, Categorical):
            return column
        if isinstance(column, np.ndarray) and column.ndim == 1:
            return factorize(column)
        raise DataError(f"column {name!r} holds {describe(column)}, expected single values")

    def take(self, rows: Any) -> Batch:
        """The rows at these positions (or under this mask)."""
        picked = {name: column[rows] for name, column in self._columns.items()}
        count = self.rows if picked else len(np.arange(self.rows)[rows])
        return Batch(picked) if picked else Batch({}, rows=count)

    def select(self, names: Sequence[str]) -> Batch:
        """Only these columns."""
        return Batch({name: self[name] for name in names}, rows=self.rows)

    def with_columns(self, columns: Mapping[str, Column]) -> Batch:
        """A batch with these columns added or replaced."""
        return Batch({**self._columns, **columns}, rows=self.rows)

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
        return Categorical(codes, _objects(list(lookup)))
    return np.concatenate(columns)  # type: ignore[arg-type]


def column_from_arrow(column: pa.Array | pa.ChunkedArray) -> Column:
    """One Arrow column in one of the four forms.

    Raises:
        DataError: A type that has no meaning here (structs, maps, binary).
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(column, pa.ChunkedArray):  # combining can still give several chunks of dictionaries
            column = pa.concat_arrays(column.chunks)
    kind = column.type
    if pa.types.is_dictionary(kind):
        indices = _to_numpy(column.indices.cast(pa.int64()).fill_null(-1))
        return Categorical(indices.astype(np.int64), _objects(column.dictionary.to_pylist()))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        if pa.types.is_string_view(kind):
            column = column.cast(pa.large_string())
        return column_from_arrow(column.dictionary_encode())
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_boolean(kind):
        if column.null_count:
            return _to_numpy(column.cast(pa.int8()).cast(pa.float64()))
        return _to_numpy(column)
    if pa.types.is_integer(kind):
        if column.null_count:
            bounds = [abs(v) for v in (pc.min(column).as_py(), pc.max(column).as_py()) if v is not None]
            if max(bounds, default=0) >= 2**53:
                return column_from_arrow(column.dictionary_encode())
            return _to_numpy(column.cast(pa.float64()))
        return _to_numpy(column)
    if pa.types.is_floating(kind):
        return _to_numpy(column)
    if pa.types.is_decimal(kind):
        return _to_numpy(column.cast(pa.float64()))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            column = column.cast(pa.timestamp(kind.unit, "UTC")).cast(pa.timestamp(kind.unit))
        return _to_numpy(column.cast(pa.timestamp("us"), safe=False)).astype("datetime64[us]")
    if pa.types.is_duration(kind):
        return _to_numpy(column.cast(pa.duration("us"), safe=False).cast(pa.int64()).cast(pa.float64()))
    if pa.types.is_fixed_size_list(kind) and column.null_count == 0 and pa.types.is_primitive(kind.value_type):
        flat = _to_numpy(column.flatten())
        return flat.reshape(len(column), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = _to_numpy(pc.list_value_length(column).fill_null(0))
        values = column_from_arrow(pc.list_flatten(column))
        if isinstance(values, Ragged) or (isinstance(values, np.ndarray) and values.ndim == 2):
            raise DataError("a column of lists of lists", hint="flatten it before it is read")
        return Ragged(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
    raise DataError(f"a column of type {kind}, which has no meaning here",
                    hint="columns hold numbers, booleans, strings, times, or lists of these")


def _to_numpy(column: pa.Array) -> Array:
    array: Array = column.to_numpy(zero_copy_only=False)
    return array


def factorize(column: Array) -> Categorical:
    """Codes into the sorted distinct values of an array; NaN, NaT and None get -1."""
    if column.dtype.kind == "O":
        encoded = pa.array([None if _is_missing(v) else str(v) for v in column], pa.large_string()).dictionary_encode()
        found = column_from_arrow(encoded)
        assert isinstance(found, Categorical)
        return found
    if column.dtype.kind in "US":
        values, codes = np.unique(column, return_inverse=True)
        return Categorical(codes.astype(np.int64), _objects([str(v) for v in values]))
    missing = np.zeros(len(column), dtype=bool)
    if column.dtype.kind == "f":
        missing = np.isnan(column)
    elif column.dtype.kind == "M":
        missing = np.isnat(column)
    known = column[~missing]
    if known.dtype.kind == "f" and len(known) and (known == np.floor(known)).all() and np.abs(known).max() < 2**53:
        known = known.astype(np.int64)
    values, inverse = _unique(known)
    codes = np.full(len(column), -1, dtype=np.int64)
    codes[~missing] = inverse
    return Categorical(codes, values)


def _unique(known: Array) -> tuple[Array, Array]:
    """np.unique with inverse; by counting where integers lie close together, which is ten times as fast."""
    if known.dtype.kind in "iu" and len(known):
        low, high = int(known.min()), int(known.max())
        if high - low < 4 * len(known) + 1024:
            shifted = (known.astype(np.int64) - low)
            present = np.bincount(shifted, minlength=high - low + 1) > 0
            position = np.cumsum(present) - 1
            return (np.flatnonzero(present) + low).astype(np.int64), position[shifted]
    values, inverse = np.unique(known, return_inverse=True)
    return values, inverse.reshape(-1)


_MERSENNE = 2**31 - 1
_MISSING_HASH = np.uint64(0xDEAD)


def bucket(column: Column, buckets: int) -> NDArray[np.int64]:
    """Which of `buckets` buckets each row's id falls into: the same in every process, batch and engine.

    Integer ids use arithmetic that stays below 2**63, so that a query engine can do the same (see `bucket_expression`
    of `recspect.diagnosis.stat`); strings use BLAKE2. Missing ids share bucket 0.
    """
    if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "iub":
        return _bucket_integers(column.astype(np.int64), buckets)
    if isinstance(column, Ragged) or (isinstance(column, np.ndarray) and column.ndim == 2):
        raise DataError(f"ids are single values, this column holds {describe(column)}")
    found = column if isinstance(column, Categorical) else factorize(column)
    if found.values.dtype.kind in "iu":
        by_value = _bucket_integers(found.values.astype(np.int64), buckets)
    else:
        by_value = (hash_values(found.values) % np.uint64(buckets)).astype(np.int64)
    return np.append(by_value, [0])[found.codes]


def _bucket_integers(ids: NDArray[np.int64], buckets: int) -> NDArray[np.int64]:
    folded = np.abs(ids % _MERSENNE)
    mixed = (folded * 48271 + 11) % _MERSENNE
    mixed = (mixed * (mixed % 32749 + 1)) % _MERSENNE
    which: NDArray[np.int64] = mixed * buckets // _MERSENNE
    return which


def hash_values(values: Array) -> NDArray[np.uint64]:
    """A 64-bit hash of each value, the same in every process.

    Whole numbers hash alike whatever their type, and missing ones (NaN, NaT) as a missing category does in `hash_rows`.
    """
    if values.dtype.kind == "M":
        times = values.astype("datetime64[us]").astype(np.int64)
        return np.where(np.isnat(values), _MISSING_HASH, _mix(times.view(np.uint64)))
    if values.dtype.kind == "f":
        whole = (values == np.floor(values)) & (np.abs(values) < 2**53)
        as_integer = np.where(whole, values, 0).astype(np.int64).view(np.uint64)
        as_bits = (values.astype(np.float64) + 0.0).view(np.uint64) ^ np.uint64(0x5851F42D4C957F2D)
        return np.where(np.isnan(values), _MISSING_HASH, _mix(np.where(whole, as_integer, as_bits)))
    if values.dtype.kind in "iub":
        return _mix(values.astype(np.int64).view(np.uint64))
    digest = hashlib.blake2b
    return np.array([int.from_bytes(digest(str(v).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
                     for v in values], dtype=np.uint64)


def hash_rows(batch: Batch, names: Sequence[str]) -> NDArray[np.uint64]:
    """One 64-bit hash per row over these columns; equal rows hash equal in every process."""
    combined = np.full(batch.rows, 0x9E3779B97F4A7C15, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for name in names:
            column = batch[name]
            if isinstance(column, np.ndarray) and column.ndim == 2:
                parts = [hash_values(column[:, i]) for i in range(column.shape[1])]
            elif isinstance(column, Ragged):
                first = column.offsets[0]
                offsets = column.offsets - first
                entry = hash_rows(Batch({"v": column.values[first:column.offsets[-1]]}), ["v"])
                place = np.arange(len(entry)) - np.repeat(offsets[:-1], column.lengths)
                entry = entry * (2 * place.astype(np.uint64) + np.uint64(1))
                total = np.concatenate([[np.uint64(0)], np.cumsum(entry, dtype=np.uint64)])
                parts = [total[offsets[1:]] - total[offsets[:-1]]]
            elif isinstance(column, Categorical):
                parts = [np.append(hash_values(column.values), [_MISSING_HASH])[column.codes]]
            else:
                parts = [hash_values(column)]
            for part in parts:
                combined = _mix(combined ^ part)
    return combined


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


def describe(column: Column) -> str:
    """What a column holds, in words, for an error message."""
    if isinstance(column, Ragged):
        return "lists"
    if isinstance(column, Categorical):
        sample = ", ".join(repr(v) for v in column.values[:3])
        return f"categories such as {sample}" if len(column.values) else "only missing values"
    if column.ndim == 2:
        return f"vectors of width {column.shape[1]}"
    return {"f": "numbers", "i": "integers", "u": "integers", "b": "booleans", "M": "times"}.get(
        column.dtype.kind, f"values of type {column.dtype}")


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _objects(values: Sequence[Any]) -> Array:
    """A one-dimensional object array, also of strings of equal length or of lists."""
    out = np.empty(len(values), dtype=object)
    out[:] = values
    if len(values) and all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        return out.astype(np.int64)
    return out
