"""Derived columns of a whole table: in memory for rows that are there, through files for a source of any size.

A source is read once. What the columns read (a few numbers per row) goes into a file; for each key (user, item) its rows are brought
together by hash, in pieces of bounded size; the computed columns go into files by row number, and are laid beside the source's own columns
whenever it is read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, overload

import narwhals as nw
import numpy as np
import pyarrow as pa

from recspect.diagnosis import source_arrow
from recspect.diagnosis.batch import Batch, Categorical, Column, Ragged, concatenate
from recspect.diagnosis.source import ROWS, Source, read, require_columns, require_request
from recspect.diagnosis.source_together import whole_units
from recspect.diagnosis.source_values import to_arrow
from recspect.errors import DataError, listing
from recspect.features.history import SEQUENCES, Plan
from recspect.features.row_values import with_row_columns
from recspect.schema import Schema
from recspect.schema_derived import DerivedKind

MEMORY = 64 * 2**20
"""Bytes of rows that are brought together at once; a single key with more rows takes more."""

FILES = 128
"""The computed columns lie in at most about so many files per key."""


@overload
def derive(table: Batch, schema: Schema) -> Batch: ...
@overload
def derive(table: Source, schema: Schema) -> Source: ...
def derive(table: Batch | Source, schema: Schema) -> Batch | Source:
    """The table with the derived columns of its schema; the table itself where there are none, or where they are there already.

    Args:
        table: Rows; every earlier row that counts must be among them, in any order.
        schema: Declares the columns under `derived`.

    Raises:
        DataError: A column that is read is missing or of the wrong type, a row has no time, or the table has a column of a derived
            name that was not derived.
    """
    names = [column.name for column in schema.derived]
    if not names or _complete(table, names):
        return table
    if isinstance(table, Source):
        return DerivedSource(table, schema)
    there = [name for name in names if name in table]
    if there:
        raise _taken(there, "the table")
    plan = Plan.of(schema)
    whole = with_row_columns(table, schema)
    if not plan.history:
        return whole
    arrays = plan.prepare(whole, first=0)
    computed = {name: column for position in range(len(plan.keys)) for name, column in plan.compute(position, arrays).items()}
    return whole.with_columns({column.name: _named(plan, column.name, computed[column.name]) for column in plan.history})


def derive_together(tables: Sequence[Batch | Source], schema: Schema) -> list[Batch | Source]:
    """Tables that were cut from one log (training, validation, test), each with what lay before its rows in any of them.

    Batches in, batches out; where one is a source, sources come out. Tables that all have the columns already are given back as they are.
    """
    names = [column.name for column in schema.derived]
    if all(_complete(table, names) for table in tables):
        return list(tables)
    if not all(isinstance(table, Batch) for table in tables):
        bases = [read(table) for table in tables]
        shared = _Shared(schema, bases)
        return [DerivedSource(base, schema, shared=shared, position=position) for position, base in enumerate(bases)]
    inputs = Plan.of(schema).inputs
    whole = derive(concatenate([table.select(inputs) for table in tables if isinstance(table, Batch)]), schema)
    ends = np.cumsum([0, *(table.rows for table in tables if isinstance(table, Batch))])
    return [table.with_columns({name: whole[name][slice(start, stop)] for name in names})
            for table, start, stop in zip(tables, ends[:-1], ends[1:], strict=True) if isinstance(table, Batch)]


def _complete(table: Batch | Source, names: Sequence[str]) -> bool:
    """Whether a table has all the derived columns, from `derive` or of its own."""
    there = table if isinstance(table, Batch) else table.columns
    return all(name in there for name in names)


def beneath(table: Batch | Source) -> Batch | Source:
    """The table without the columns that were derived here."""
    return table.base if isinstance(table, DerivedSource) else table


def inputs_of(schema: Schema) -> tuple[str, ...]:
    """The columns of a table from which the derived ones are computed; none where the schema has no derived columns."""
    return Plan.of(schema).inputs if schema.derived else ()


class DerivedSource(Source):
    """A source with derived columns, computed when one of them is first read.

    Args:
        base: The table.
        schema: Declares the columns.
        memory: Bytes of rows brought together at once.
        rows: Rows read at once.
        shared: What it is computed with, where it is one of several tables of one log.
        position: Which of these it is.
    """

    def __init__(self, base: Source, schema: Schema, *, memory: int = MEMORY, rows: int = ROWS, shared: _Shared | None = None, position: int = 0) -> None:
        taken = [column.name for column in schema.derived if column.name in base.columns]
        if taken:
            raise _taken(taken, base.name)
        self.name = base.name
        self.base = base
        self.schema = schema
        self._shared = shared or _Shared(schema, [base], memory=memory, rows=rows)
        self._position = position
        require_columns(base, Plan.of(schema).inputs)

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.base.columns, *(column.name for column in self.schema.derived))

    def batches(self, columns: Sequence[str] | None = None, *, rows: int = ROWS, together: str | None = None) -> Iterator[Batch]:
        wanted = require_request(self, columns, rows, together)
        shown = wanted if columns is None else tuple(dict.fromkeys(columns))
        made = [column for column in self.schema.derived if column.name in wanted]
        if not made:
            return self.base.batches(columns, rows=rows, together=together)
        if together is None:
            return (batch.select(shown) for batch in self._in_order(wanted, rows))
        tables = (to_arrow(batch.select(wanted)) for batch in self._in_order(wanted, rows))
        return source_arrow.to_batches(tables, shown=shown, rows=rows, together=together, count=self.count(), name=self.name)

    def frame(self) -> nw.LazyFrame[Any] | None:
        """None: the computed columns lie in files of their own, which no engine reads beside the table."""
        return None

    def fingerprint(self) -> str:
        """Of the table and of the declarations."""
        declared = json.dumps([[column.name, column.to_entry()] for column in self.schema.derived])
        return hashlib.blake2b(f"{self.base.fingerprint()} {declared}".encode(), digest_size=16).hexdigest()

    def count(self) -> int | None:
        return self.base.count()

    def _in_order(self, wanted: Sequence[str], rows: int) -> Iterator[Batch]:
        if any(not column.of_the_row and column.name in wanted for column in self.schema.derived):
            self._shared.store()  # before the scan begins: one that waits reads ahead, up to a GiB of the table
        first = 0
        for batch in self.base.batches(self.reads(wanted), rows=rows):
            yield self.completed(batch, first, wanted)
            first += batch.rows

    def reads(self, wanted: Sequence[str]) -> list[str]:
        """Columns of the table that must be read for these columns."""
        made = {column.name for column in self.schema.derived}
        inputs = Plan.of(self.schema).inputs if self._row_alone(wanted) else ()
        return list(dict.fromkeys([*(name for name in wanted if name not in made), *inputs])) or list(self.base.columns[:1])

    def completed(self, batch: Batch, first: int, wanted: Sequence[str]) -> Batch:
        """Rows of the table with their derived columns.

        Args:
            batch: What `reads` says, of rows that follow each other.
            first: Number of the first of them in the table.
            wanted: The columns that are asked for; others may be there too.
        """
        whole = with_row_columns(batch, self.schema) if self._row_alone(wanted) else batch
        stored = [column.name for column in self.schema.derived if not column.of_the_row and column.name in wanted]
        if not stored:
            return whole
        store = self._shared.store()
        first += self._shared.starts[self._position]
        return whole.with_columns(store.read(first, first + batch.rows, stored))

    def _row_alone(self, wanted: Sequence[str]) -> bool:
        return any(column.of_the_row and column.name in wanted for column in self.schema.derived)

    @property
    def rows_read(self) -> int:
        """Rows read to compute the columns, of all tables of the log; 0 before one of the columns was asked for."""
        return self._shared.starts[-1]


class _Shared:
    """Tables of one log, whose derived columns are computed together when one is first read."""

    def __init__(self, schema: Schema, bases: Sequence[Source], *, memory: int = MEMORY, rows: int = ROWS) -> None:
        self.starts = [0]
        self._schema, self._bases, self._memory, self._rows = schema, bases, memory, rows
        self._store: _Store | None = None

    def store(self) -> _Store:
        """The computed columns; `starts` then says where each table begins."""
        if self._store is None:
            store = _Store(Plan.of(self._schema))
            self.starts = store.fill(self._bases, self._schema, memory=self._memory, rows=self._rows)
            self._store = store
        return self._store


class _Store:
    """The computed columns of a source, in files by row number. The folder goes with the object."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._folder = Path(tempfile.mkdtemp(prefix="recspect-derived-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._chunk_rows = ROWS
        self._latest: tuple[int, Batch] | None = None

    def fill(self, bases: Sequence[Source], schema: Schema, *, memory: int, rows: int) -> list[int]:
        """Compute all columns; gives the first row of each table, and the number of rows."""
        folder = self._folder
        try:
            starts = self._spool(bases, schema, folder / "spool.arrow", rows)
            count = starts[-1]
            self._chunk_rows = max(rows, -(-count // FILES))
            for position in range(len(self._plan.keys)):
                self._compute(position, folder, count, memory)
            (folder / "spool.arrow").unlink()
        except OSError as error:
            raise DataError(f"no room to compute the derived columns: {error}", hint="set TMPDIR to a folder on a larger disk") from error
        return starts

    def _spool(self, bases: Sequence[Source], schema: Schema, path: Path, rows: int) -> list[int]:
        count, starts = 0, [0]
        with ExitStack() as stack:
            writer: Any = None
            for base in bases:
                for batch in base.batches(self._plan.inputs, rows=rows):
                    prepared = pa.table(self._plan.prepare(with_row_columns(batch, schema), first=count))
                    if writer is None:
                        writer = stack.enter_context(pa.ipc.new_stream(str(path), prepared.schema))
                    writer.write_table(prepared)
                    count += batch.rows
                starts.append(count)
        return starts

    def _compute(self, position: int, folder: Path, count: int, memory: int) -> None:
        longest = max((column.length for column in self._plan.history if column.kind in SEQUENCES), default=0)
        names = self._plan.needed(position)
        piece_rows = max(memory // (8 * (len(names) + 8 + 3 * longest)), 1_000)
        with ExitStack() as stack:
            writers: dict[int, Any] = {}
            for table in whole_units(_stream(folder / "spool.arrow", names), f"key {position}", rows=piece_rows, count=count, memory=memory):
                arrays = {name: table.column(name).to_numpy() for name in names}
                made = Batch({"row": arrays["row"], **self._plan.compute(position, arrays)})
                chunk = arrays["row"] // self._chunk_rows
                order = np.argsort(chunk, kind="stable")
                starts = np.flatnonzero(np.append([True], np.diff(chunk[order]) > 0))
                for start, stop in zip(starts, np.append(starts[1:], [len(order)]), strict=True):
                    number = int(chunk[order[start]])
                    part = to_arrow(made.take(order[start:stop]))
                    if number not in writers:
                        writers[number] = stack.enter_context(pa.ipc.new_stream(str(folder / f"{position}-{number}.arrow"), part.schema))
                    writers[number].write_table(part)

    def read(self, start: int, stop: int, names: Sequence[str]) -> dict[str, Column]:
        """Computed columns of the rows start to stop - 1."""
        parts = []
        for chunk in range(start // self._chunk_rows, (max(stop - 1, start)) // self._chunk_rows + 1):
            first = chunk * self._chunk_rows
            parts.append(self._chunk(chunk).take(slice(max(start - first, 0), stop - first)))
        whole = concatenate(parts)
        return {name: _named(self._plan, name, whole[name]) for name in names}

    def _chunk(self, number: int) -> Batch:
        if self._latest is None or self._latest[0] != number:
            columns: dict[str, Column] = {}
            for position in range(len(self._plan.keys)):
                table = pa.concat_tables(list(_stream(self._folder / f"{position}-{number}.arrow", None)))
                made = Batch.from_arrow(table)
                order = np.argsort(made["row"])  # type: ignore[arg-type]
                columns |= dict(made.take(order))
            self._latest = (number, Batch(columns))
        return self._latest[1]


def _stream(path: Path, names: Sequence[str] | None) -> Iterator[pa.Table]:
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            table = pa.Table.from_batches([batch])
            yield table if names is None else table.select(list(names))


def _named(plan: Plan, name: str, column: Column) -> Column:
    """Lists of numbers of entries as lists of their values."""
    declared = next(found for found in plan.history if found.name == name)
    if declared.kind is not DerivedKind.LAST or not isinstance(column, Ragged):
        return column
    values = plan.entries[declared.of[0]].values
    codes = column.values
    assert isinstance(codes, np.ndarray)
    codes = codes.astype(np.int64)  # where all lists are empty, they come without a type
    if values.dtype.kind == "O":
        return Ragged(Categorical(codes, values), column.offsets)
    return Ragged(values[codes] if len(codes) else np.empty(0, dtype=values.dtype), column.offsets)


def _taken(names: Sequence[str], where: str) -> DataError:
    return DataError(f"{where} already has the derived column{'s' if len(names) > 1 else ''} {listing(names)}",
                     hint="rename them in the schema, or take them out of [derived] to use the table's own")


__all__ = ["DerivedSource", "beneath", "derive", "derive_together", "inputs_of"]
