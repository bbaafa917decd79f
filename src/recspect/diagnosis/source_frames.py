"""Tables in memory and lazy frames: whatever narwhals takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import polars as pl
import pyarrow as pa

from recspect.diagnosis import source_arrow, source_query
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.source import ROWS, Source, require_request
from recspect.diagnosis.source_pieces import PIECE_ROWS, Piece
from recspect.diagnosis.source_tables import TableSource
from recspect.errors import DataError


def in_memory(table: pa.Table, *, name: str, engine: str = "auto") -> Source:
    """A source over an Arrow table.

    Raises:
        DataError: No rows, or two columns of one name.
    """
    source_arrow.require_distinct_names(table.schema.names, name=name)
    if table.num_rows == 0:
        raise source_arrow.no_rows(name)
    return InMemory(name=name, table=table, engine=engine)


def from_frame(frame: nw.DataFrame[Any] | nw.LazyFrame[Any], *, name: str, engine: str) -> Source:
    """A source over a frame of any library that narwhals takes.

    Raises:
        DataError: No rows, or a column that mixes types.
    """
    kind = frame.implementation.value
    name = name or f"{kind} frame"
    native = frame.to_native()
    if isinstance(frame, nw.DataFrame):
        return in_memory(_table(frame, name), name=name, engine=engine)
    if isinstance(native, pl.LazyFrame):
        return LazyPolars(name=name, lazy=native)
    if kind == "duckdb":
        return source_query.Relation(name=name, relation=native)
    return LazyEngine(name=name, lazy=frame)


def _table(frame: nw.DataFrame[Any], name: str) -> pa.Table:
    native = frame.to_native()
    try:
        if frame.implementation.is_pandas():
            return pa.Table.from_pandas(native, preserve_index=False).replace_schema_metadata(None)
        return frame.to_arrow()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        reason = "; ".join(str(part) for part in error.args)
        raise DataError(f"{name} has a column that cannot be read: {reason}",
                        hint="give it one type, for example frame[column].astype('string')") from None


@dataclass(frozen=True)
class InMemory(Source):
    """An Arrow table; pandas, Polars and mappings of columns become one.

    Args:
        name: What to call it.
        table: The rows.
        engine: What `frame` runs on.
    """

    name: str
    table: pa.Table
    engine: str = "auto"

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.table.schema.names)

    def batches(
        self, columns: Sequence[str] | None = None, *, rows: int = ROWS, together: str | None = None
    ) -> Iterator[Batch]:
        wanted = require_request(self, columns, rows, together)
        shown = self.columns if columns is None else tuple(dict.fromkeys(columns))
        return source_arrow.to_batches(iter([self.table.select(list(wanted))]), shown=shown, rows=rows,
                                       together=together, count=self.table.num_rows, name=self.name)

    def frame(self) -> nw.LazyFrame[Any] | None:
        return source_arrow.lazy_frame(self.table, self.engine)

    def fingerprint(self) -> str:
        return source_arrow.fingerprint(self.table)

    def count(self) -> int | None:
        return int(self.table.num_rows)

    def pieces(self, rows: int = PIECE_ROWS) -> tuple[Piece, ...]:
        """Stretches of rows."""
        borders = range(0, self.table.num_rows, rows)
        return tuple(Piece(f"rows {first:,} to {min(first + rows, self.table.num_rows):,} of {self.name}", "", min(rows, self.table.num_rows - first), 0, first,
                           min(first + rows, self.table.num_rows)) for first in borders)

    def tables(self, piece: Piece, columns: Sequence[str], *, rows: int) -> Iterator[pa.Table]:
        del rows  # they are in memory anyway
        yield self.table.select(list(columns)).slice(piece.first, piece.last - piece.first)


@dataclass(frozen=True)
class LazyPolars(TableSource):
    """A Polars lazy frame, streamed by Polars.

    Args:
        name: What to call it.
        lazy: The frame; it must give the same rows each time.
    """

    name: str
    lazy: pl.LazyFrame

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.lazy.collect_schema().names())

    def frame(self) -> nw.LazyFrame[Any] | None:
        return source_arrow.as_lazy(self.lazy)

    def fingerprint(self) -> str:
        """Of the number of rows and the first 10,000 rows."""
        head = self.lazy.head(10_000).collect().to_arrow()
        return source_arrow.fingerprint(head.append_column("rows", pa.array([self.count()] * head.num_rows, pa.int64())))

    def count(self) -> int | None:
        return int(self.lazy.select(pl.len()).collect().item())

    def read_tables(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        chosen = self.lazy.select(columns)
        try:
            if hasattr(chosen, "collect_batches"):
                pieces = chosen.collect_batches(chunk_size=rows, maintain_order=True)
            else:  # Polars before 1.34
                pieces = chosen.collect(engine="streaming").iter_slices(rows)
            for piece in pieces:
                yield piece.to_arrow()
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{self.name} cannot be read: {error}", hint="collect the frame to see where it fails") from error


@dataclass(frozen=True)
class LazyEngine(TableSource):
    """A lazy frame of another engine (PySpark, Ibis, Dask): statistics run there, rows are collected here.

    Args:
        name: What to call it.
        lazy: The frame; only the columns that are asked for are collected. Ibis gives the rows piece by piece, others all rows at once.
    """

    name: str
    lazy: nw.LazyFrame[Any]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.lazy.collect_schema().names())

    def frame(self) -> nw.LazyFrame[Any] | None:
        return self.lazy

    def fingerprint(self) -> str:
        """Of the number of rows and the first 10,000 rows."""
        head = self.lazy.head(10_000).collect("pyarrow").to_native()
        return source_arrow.fingerprint(head.append_column("rows", pa.array([self.count()] * head.num_rows, pa.int64())))

    def count(self) -> int | None:
        return int(self.lazy.select(nw.len()).collect("pyarrow").item())

    def read_tables(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        chosen = self.lazy.select(*columns)
        native = chosen.to_native()
        if not hasattr(native, "to_pyarrow_batches"):
            yield chosen.collect("pyarrow").to_native()
            return
        with native.to_pyarrow_batches(chunk_size=rows) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])
