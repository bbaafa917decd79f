"""What can be read: anything that yields batches. One interface over files, frames, queries and loaders.

A source is read more than once (to fit features, to train, to judge), so it must give the same rows each time. Rows
come in bounded batches; only the columns that are asked for are read.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import narwhals as nw
import pyarrow as pa

from recspect.diagnosis.batch import Batch
from recspect.errors import DataError, UsageError, listing

ROWS = 131_072
"""Rows of a batch unless asked otherwise."""

ENGINES = ("auto", "polars", "duckdb")
"""Which engine `Source.frame` runs on: the data's own (`auto`), Polars or DuckDB."""


class Source(ABC):
    """Anything that yields batches.

    `name` says what it is in messages and in a report's provenance.
    """

    name: str

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Column names, in order."""

    @abstractmethod
    def batches(
        self, columns: Sequence[str] | None = None, *, rows: int = ROWS, together: str | None = None
    ) -> Iterator[Batch]:
        """The rows, in bounded batches.

        Args:
            columns: Which to read; all where None.
            rows: At most so many rows per batch.
            together: A column (user, request) whose equal values all come in one batch; rows then come in another
                order, and a unit of more than `rows` rows makes a larger batch. Rows that lack the value count as one
                unit.

        Raises:
            DataError: A column that is not there, a damaged file, no rows at all.
            UsageError: `rows` below 1.
        """

    @abstractmethod
    def frame(self) -> nw.LazyFrame[Any] | None:
        """The rows as a lazy frame, for statistics that an engine computes; None where there is no engine."""

    @abstractmethod
    def fingerprint(self) -> str:
        """32 hexadecimal digits that stay the same while the content does; see docs/data.md for what is looked at."""

    @abstractmethod
    def count(self) -> int | None:
        """Number of rows; None where only a full pass could tell."""


def read(data: Any, *, name: str = "", sql: str | None = None, engine: str = "auto", whole: bool = True) -> Source:
    """A source over whatever holds the data.

    Args:
        data: A path to Parquet, CSV, TSV, Feather or Arrow IPC (a file, a folder, a pattern such as `logs/*.parquet`, or
            a list of files); the address of Parquet files on object storage (`s3://bucket/logs`, whatever fsspec knows); a Delta table (its folder, or an
            object of deltalake's); an Iceberg table (an object of PyIceberg's, or its metadata file); a frame (pandas, Polars, PyArrow, DuckDB relation, PySpark, Ibis and what else narwhals takes);
            a DuckDB connection (with `sql`); a mapping of columns (NumPy arrays, torch tensors, lists); a re-iterable
            object of such mappings, such as a torch DataLoader; a source.
        name: What to call it; by default the file's name or the kind of object.
        sql: A SELECT run by DuckDB. Files, frames and mappings stand in it as the table `data`.
        engine: What `Source.frame` runs on: `auto`, `polars` or `duckdb`.
        whole: Whether all of several Parquet files must be readable; else those that are damaged are left out, and named in the source's `left_out`.

    Raises:
        DataError: Missing, empty or damaged files, tables without rows, objects that cannot be read or only once.
        UsageError: An unknown engine.

    Example:
        >>> source = read({"user": ["ann", "bob", "ann"], "click": [0, 1, 1]})
        >>> source.columns, source.count()
        (('user', 'click'), 3)
        >>> [batch.rows for batch in source.batches(["click"], rows=2)]
        [2, 1]
    """
    from recspect.diagnosis import (
        source_dataset,
        source_files,
        source_frames,
        source_iceberg,
        source_query,
        source_values,
    )

    if engine not in ENGINES:
        raise UsageError(f"engine is {engine!r}", hint=f"engines: {listing(ENGINES)}")
    if isinstance(data, str) and re.match(r"\s*(select|with)\s", data, re.IGNORECASE):
        raise DataError("a query was given where data is expected",
                        hint='read("file.parquet", sql="SELECT ... FROM data"), or read(connection, sql="SELECT ...")')
    if source_query.is_connection(data):
        if sql is None:
            raise DataError("a DuckDB connection alone says nothing about which rows to read",
                            hint='read(connection, sql="SELECT * FROM log")')
        return source_query.query(sql, connection=data, name=name or "query")
    if sql is not None:
        source = read(data, name=name, engine=engine)
        return source_query.query(sql, over=source, name=name or f"query over {source.name}")
    if isinstance(data, Source):
        return data
    if source_iceberg.is_iceberg(data):
        return source_iceberg.iceberg_table(data, name=name)
    if source_dataset.is_delta(data):
        return source_dataset.delta_table(data, name=name)
    if address := source_dataset.address_of(data):
        return source_dataset.remote_files(address, name=name)
    if isinstance(data, (str, os.PathLike)) or _is_list_of_paths(data):
        paths = [data] if isinstance(data, (str, os.PathLike)) else data
        return source_files.files([Path(path) for path in paths], name=name, engine=engine, whole=whole)
    if isinstance(data, (pa.Table, pa.RecordBatch)):
        table = data if isinstance(data, pa.Table) else pa.Table.from_batches([data])
        return source_frames.in_memory(table, name=name or "Arrow table", engine=engine)
    frame = nw.from_native(data, pass_through=True)
    if isinstance(frame, (nw.DataFrame, nw.LazyFrame)):
        return source_frames.from_frame(frame, name=name, engine=engine)
    if isinstance(data, Mapping):
        table = source_values.to_arrow(source_values.as_batch(data, where=name or "the mapping"))
        return source_frames.in_memory(table, name=name or "mapping of columns", engine=engine)
    if isinstance(data, Iterator):
        raise DataError(
            f"{type(data).__name__} can be read only once, and its rows are needed several times (to fit features, to "
            f"train, to judge)",
            hint="pass list(...) of it, or an object whose __iter__ starts anew, such as a torch DataLoader",
        )
    if isinstance(data, Iterable) and not isinstance(data, (bytes, bytearray)):
        return source_values.Loader(data, name=name or type(data).__name__)
    raise DataError(f"cannot read an object of type {type(data).__module__}.{type(data).__qualname__}",
                    hint="give a path, a data frame, a mapping of columns, a DataLoader, or a connection with sql=...")


def require_columns(source: Source, names: Iterable[str]) -> None:
    """Make sure that the source has these columns.

    Raises:
        DataError: Some are missing; names them and lists what is there.
    """
    there = set(source.columns)
    missing = [name for name in dict.fromkeys(names) if name not in there]
    if missing:
        raise DataError(f"{source.name} lacks the column{'s' if len(missing) > 1 else ''} {listing(missing)}; "
                        f"columns: {listing(source.columns, limit=30)}",
                        hint="correct the name in the schema, or add the column to the table")


def require_request(source: Source, columns: Sequence[str] | None, rows: int, together: str | None) -> tuple[str, ...]:
    """What every source verifies before it reads; gives the columns that must be read, the unit's column among them.

    Raises:
        DataError: A column that is not there.
        UsageError: `rows` below 1, or one name instead of a list of names.
    """
    if rows < 1:
        raise UsageError(f"rows per batch is {rows}", hint="use 1 or more")
    if isinstance(columns, str):
        raise UsageError(f"columns is the single string {columns!r}", hint=f"columns=[{columns!r}]")
    wanted = source.columns if columns is None else tuple(dict.fromkeys(columns))
    if together is not None and together not in wanted:
        wanted = (*wanted, together)
    require_columns(source, wanted)
    return wanted


def _is_list_of_paths(data: Any) -> bool:
    return isinstance(data, (list, tuple)) and bool(data) and all(isinstance(part, (str, os.PathLike)) for part in data)
