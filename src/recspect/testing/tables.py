"""Batches as Arrow tables, and batches spoiled on purpose."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa

from recspect.diagnosis.batch import Array, Batch, Categorical, Column, Ragged


def to_arrow(batch: Batch) -> pa.Table:
    """A batch as a table: missing categories and times become null, NaN stays NaN, lists and vectors stay lists."""
    return pa.table({name: _to_arrow(column) for name, column in batch.items()})


def _to_arrow(column: Column) -> pa.Array:
    if isinstance(column, Categorical):
        decoded = [None if value is None else value for value in column.decode().tolist()]
        return pa.array(decoded, {"i": pa.int64(), "u": pa.int64(), "b": pa.bool_()}.get(column.values.dtype.kind, pa.string()))
    if isinstance(column, Ragged):
        return pa.ListArray.from_arrays(pa.array(column.offsets.astype(np.int32)), _to_arrow(column.values))
    if column.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), column.shape[1])
    return pa.array(column)


def spoiled(batch: Batch, value: float, *, share: float, kept: Collection[str] = (), seed: int = 0) -> Batch:
    """A share of the entries of every column replaced: numbers by `value`, categories by missing.

    Columns named in `kept` and columns of lists stay as they are; integers become floats where `value` is none.
    """
    rng = np.random.default_rng(seed)
    return Batch({name: column if name in kept else _spoil(column, value, share, rng) for name, column in batch.items()},
                 rows=batch.rows)


def _spoil(column: Column, value: float, share: float, rng: np.random.Generator) -> Column:
    if isinstance(column, Ragged):
        return column
    if isinstance(column, Categorical):
        return Categorical(np.where(rng.random(len(column)) < share, -1, column.codes), column.values)
    hit: Array = rng.random(column.shape) < share
    if column.dtype.kind == "M":
        return np.where(hit, np.datetime64("NaT"), column)
    return np.where(hit, value, column.astype(np.float64))
