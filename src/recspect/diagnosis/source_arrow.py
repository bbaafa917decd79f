"""From a stream of Arrow tables to batches: what every source that yields Arrow shares."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa

from recspect.diagnosis.batch import Batch, column_from_arrow, hash_rows
from recspect.diagnosis.source_together import whole_units
from recspect.errors import DataError

SAMPLED_CELLS = 20_000_000
"""A table of more cells is fingerprinted by evenly spaced rows."""


def to_batches(
    tables: Iterator[pa.Table], *, shown: Sequence[str], rows: int, together: str | None, count: int | None, name: str
) -> Iterator[Batch]:
    """Batches of at most `rows` rows from tables of any size.

    Args:
        tables: The rows; they have the columns `shown` and `together`.
        shown: Columns of the batches, in order.
        rows: At most so many rows per batch, unless a unit has more.
        together: The column whose equal values stay in one batch.
        count: Number of rows to come, where known.
        name: What the source is called, for messages.

    Raises:
        DataError: No rows at all, or a column of a type that has no meaning here.
    """
    if together is not None:
        tables = whole_units(tables, together, rows=rows, count=count)
    else:
        tables = _rechunked(tables, rows)
    nothing = True
    for table in tables:
        if table.num_rows:
            nothing = False
            yield to_batch(table.select(list(shown)), name=name)
    if nothing:
        raise no_rows(name)


def to_batch(table: pa.Table, *, name: str) -> Batch:
    """One table as a batch; errors name the column."""
    columns = {}
    for column, values in zip(table.schema.names, table.columns, strict=True):
        try:
            columns[column] = column_from_arrow(values)
        except DataError as error:
            raise DataError(f"column {column!r} of {name}: {error.message}", hint=error.hint) from None
        except pa.ArrowInvalid as error:  # times outside the range of microseconds
            raise DataError(f"column {column!r} of {name} cannot be read: {error}") from None
    return Batch(columns, rows=table.num_rows)


def no_rows(name: str) -> DataError:
    """The error for a source without a single row."""
    return DataError(f"{name} holds no rows", hint="is it the right file or query, and was it written to the end?")


def require_distinct_names(names: Sequence[str], *, name: str) -> None:
    """Make sure that no two columns share a name.

    Raises:
        DataError: Some do.
    """
    twice = sorted({column for column in names if list(names).count(column) > 1})
    if twice:
        raise DataError(f"{name} has columns of the same name: {', '.join(map(repr, twice))}", hint="rename one of them")


def fingerprint(table: pa.Table) -> str:
    """32 hexadecimal digits of the column names, the number of rows and their values.

    All rows of a table of up to 20 million cells, evenly spaced rows of a larger one.
    """
    most = max(SAMPLED_CELLS // max(table.num_columns, 1), 1)
    digest = hashlib.blake2b(repr((table.schema.names, table.num_rows)).encode(), digest_size=16)
    if table.num_rows > most:
        table = table.take(pa.array(np.linspace(0, table.num_rows - 1, most).astype(np.int64)))
    batch = to_batch(table, name="the table")
    digest.update(hash_rows(batch, list(batch)).tobytes())
    return digest.hexdigest()


def lazy_frame(table: pa.Table, engine: str) -> nw.LazyFrame[Any]:
    """A table in memory as a lazy frame of the engine (`auto` is Polars)."""
    if engine == "duckdb":
        import duckdb

        return as_lazy(duckdb.connect().from_arrow(table))
    import polars as pl

    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return as_lazy(frame.lazy())


def as_lazy(native: Any) -> nw.LazyFrame[Any]:
    """A lazy frame or relation of any engine, in narwhals' clothes."""
    frame = nw.from_native(native)
    assert isinstance(frame, nw.LazyFrame)
    return frame


def _rechunked(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Tables of exactly `rows` rows, but for the last."""
    held: list[pa.Table] = []
    size = 0
    for table in tables:
        held.append(table)
        size += table.num_rows
        if size < rows:
            continue
        whole = held[0] if len(held) == 1 else pa.concat_tables(held, promote_options="permissive")
        full = size - size % rows
        for start in range(0, full, rows):
            yield whole.slice(start, rows)
        held = [whole.slice(full)] if size > full else []
        size -= full
    if size:
        yield held[0] if len(held) == 1 else pa.concat_tables(held, promote_options="permissive")
