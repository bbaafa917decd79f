"""Columns that are already in memory, and loaders of them: NumPy arrays, torch tensors, lists.

torch is never imported here: whatever has `detach` is taken for a tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa

from recspect.diagnosis.batch import (
    Array,
    Batch,
    Categorical,
    Column,
    Ragged,
    column_from_arrow,
    concatenate,
    hash_rows,
)
from recspect.diagnosis.source import ROWS, Source, require_request
from recspect.diagnosis.source_together import whole_units
from recspect.errors import DataError, listing


def as_batch(data: Any, *, where: str) -> Batch:
    """A mapping of columns as a batch.

    Raises:
        DataError: Not a mapping, columns of different length, or values that are no column.
    """
    if isinstance(data, Batch):
        return data
    if not isinstance(data, Mapping):
        raise DataError(f"{where} gives {type(data).__name__}, expected a mapping of column names to values",
                        hint='let it give {"user_id": ..., "click": ...}, for example with a collate_fn')
    return Batch({str(name): as_column(values, where=f"column {str(name)!r} of {where}")
                  for name, values in data.items()})


def as_column(values: Any, *, where: str) -> Column:
    """An array, tensor or list as a column; a second dimension of width 1 is dropped.

    Raises:
        DataError: A single value, more than two dimensions, or a type that has no meaning as a column.
    """
    if isinstance(values, (Categorical, Ragged)):
        return values
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":  # NumPy has no such type
            values = values.float()
        values = values.numpy()
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return column_from_arrow(values)
    if isinstance(values, (str, bytes)) or not (isinstance(values, Sequence) or hasattr(values, "__array__")):
        raise DataError(f"{where} is the single value {values!r:.60}, expected one value per row",
                        hint="give whole columns (batches), not one row at a time")
    if not isinstance(values, np.ndarray):
        column = _from_list(values, where) if isinstance(values, Sequence) else np.asarray(values)
        if not isinstance(column, np.ndarray):
            return column
        values = column
    if values.dtype.kind in "OSU":
        texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values.tolist()]
        found = _from_list(texts, where)
        if not isinstance(found, np.ndarray):
            return found
        values = found
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim not in (1, 2) or values.dtype.kind not in "fiubM" or (values.ndim == 2 and values.dtype.kind == "M"):
        raise DataError(f"{where} has shape {values.shape} and type {values.dtype}",
                        hint="columns are numbers, booleans, strings, times, lists, or one vector per row")
    array: Array = values.astype("datetime64[us]") if values.dtype.kind == "M" else values
    return array


def _from_list(values: Sequence[Any], where: str) -> Column:
    if any(hasattr(value, "detach") or isinstance(value, np.ndarray) for value in values):
        values = [value.tolist() if hasattr(value, "tolist") else value for value in values]
    try:
        column = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise DataError(f"{where} mixes types: {error}", hint="make all its values numbers, or all strings") from None
    return column_from_arrow(column)


def to_arrow(batch: Batch) -> pa.Table:
    """The batch as an Arrow table that `Batch.from_arrow` gives back."""
    return pa.table({name: _to_arrow(column) for name, column in batch.items()})


def _to_arrow(column: Column) -> pa.Array:
    if isinstance(column, Categorical):
        codes = pa.array(column.codes, mask=column.codes < 0)
        if column.values.dtype.kind != "O":
            return pa.DictionaryArray.from_arrays(codes, pa.array(column.values)).dictionary_decode()
        return pa.DictionaryArray.from_arrays(codes, pa.array([str(value) for value in column.values], pa.large_string()))
    if isinstance(column, Ragged):
        values = column.values
        return pa.LargeListArray.from_arrays(pa.array(column.offsets.astype(np.int64)), _to_arrow(values))
    if column.ndim == 2:
        flat = pa.array(np.ascontiguousarray(column).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, column.shape[1])
    return pa.array(column)


class Loader(Source):
    """An object that gives mappings of columns each time it is iterated, such as a torch DataLoader.

    Args:
        data: The object; its batches may be smaller or larger than those asked for.
        name: What to call it.
    """

    def __init__(self, data: Iterable[Any], *, name: str) -> None:
        self.name = name
        self._data = data
        self._columns: tuple[str, ...] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names in the first batch."""
        if self._columns is None:
            self._columns = tuple(self._first())
        return self._columns

    def batches(
        self, columns: Sequence[str] | None = None, *, rows: int = ROWS, together: str | None = None
    ) -> Iterator[Batch]:
        wanted = require_request(self, columns, rows, together)
        if together is None:
            return self._rechunked(wanted, rows)
        tables = (to_arrow(batch) for batch in self._rechunked(wanted, ROWS))
        shown = wanted if columns is None else tuple(dict.fromkeys(columns))
        return (Batch.from_arrow(table.select(shown)) for table in whole_units(tables, together, rows=rows))

    def frame(self) -> nw.LazyFrame[Any] | None:
        return None

    def fingerprint(self) -> str:
        """Of the column names and of the first batch."""
        first = self._first()
        digest = hashlib.blake2b(repr(list(first)).encode(), digest_size=16)
        digest.update(hash_rows(first, list(first)).tobytes())
        return digest.hexdigest()

    def count(self) -> int | None:
        return None

    def _first(self) -> Batch:
        for data in self._data:
            return as_batch(data, where=self.name)
        raise self._empty()

    def _rechunked(self, wanted: Sequence[str], rows: int) -> Iterator[Batch]:
        """Batches of exactly `rows` rows, but for the last."""
        held: list[Batch] = []
        size = 0
        nothing = True
        for number, data in enumerate(self._data):
            batch = as_batch(data, where=self.name)
            missing = [name for name in wanted if name not in batch]
            if missing:
                raise DataError(f"batch {number} of {self.name} lacks {listing(missing)}; it has {listing(batch)}",
                                hint="every batch must have the columns of the first")
            held.append(batch.select(wanted))
            size += batch.rows
            nothing = nothing and batch.rows == 0
            if size >= rows:
                whole = concatenate(held)
                full = size - size % rows
                for start in range(0, full, rows):
                    yield whole.take(slice(start, start + rows))
                held = [whole.take(slice(full, None))] if size > full else []
                size -= full
        if nothing:
            raise self._empty()
        if size:
            yield concatenate(held)

    def _empty(self) -> DataError:
        return DataError(f"{self.name} holds no rows", hint="its iteration gave nothing; is the data set empty?")
