"""The four forms of a column, and how Arrow columns and arrays become one of them.

- a one-dimensional NumPy array of numbers, booleans or datetimes (missing: NaN or NaT);
- a two-dimensional array, one vector per row;
- `Categorical`: integer codes into a list of distinct values (strings always arrive so; missing: code -1);
- `Ragged`: a list per row (multi-valued and sequence columns).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspect.errors import DataError

Array = NDArray[Any]


@dataclass(frozen=True)
class Categorical:
    """Codes into distinct values.

    Args:
        codes: Shape (rows,), integers; -1 where the value is missing.
        values: Shape (distinct,), the distinct values (strings as objects, or integers). Some may be unused.
        known: What was derived from the values alone, by name; parts of the column share it.
    """

    codes: Array
    values: Array
    known: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> Categorical:
        return Categorical(self.codes[rows], self.values, self.known)

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
        return Categorical(indices.astype(np.int64), objects_of(column.dictionary.to_pylist()))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        if pa.types.is_string_view(kind):
            column = column.cast(pa.large_string())
        return column_from_arrow(column.dictionary_encode())
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_boolean(kind):
        if column.null_count:  # categories, so that True is True in batches with and without gaps
            return Categorical(_to_numpy(column.cast(pa.int64()).fill_null(-1)), np.array([False, True]))
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
        return Categorical(codes.astype(np.int64), objects_of([str(v) for v in values]))
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
        if high < 2**63 and high - low < 4 * len(known) + 1024:
            shifted = (known.astype(np.int64) - low)
            present = np.bincount(shifted, minlength=high - low + 1) > 0
            position = np.cumsum(present) - 1
            return (np.flatnonzero(present) + low).astype(np.int64), position[shifted]
    values, inverse = np.unique(known, return_inverse=True)
    return values, inverse.reshape(-1)


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def objects_of(values: Sequence[Any]) -> Array:
    """A one-dimensional object array, also of strings of equal length or of lists."""
    out = np.empty(len(values), dtype=object)
    out[:] = values
    if len(values) and all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        return out.astype(np.int64)
    if len(values) and all(isinstance(v, (bool, np.bool_)) for v in values):
        return out.astype(np.bool_)
    return out
