"""Rows of one unit (user, request) in one batch, whatever the size of the table.

A table that fits into `memory` is sorted there. A larger one is dealt into partitions by a hash of the unit, kept in
temporary Arrow files; each partition is then sorted on its own. So memory stays near one partition, no engine is needed,
and every kind of source gives the same guarantee.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspect.diagnosis import memory as budget
from recspect.diagnosis.batch import Array, Categorical, column_from_arrow, describe, factorize, hash_values
from recspect.errors import DataError

MEMORY = 512 * 2**20
"""Bytes of Arrow data that are sorted in memory; more is dealt into files."""


def whole_units(
    tables: Iterator[pa.Table], unit: str, *, rows: int, count: int | None = None, memory: int | None = None
) -> Iterator[pa.Table]:
    """Tables in which no unit is split.

    Args:
        tables: The rows, in any order.
        unit: The column whose equal values stay together. Within a unit the rows keep their order.
        rows: At most so many rows per table, unless one unit has more.
        count: Number of rows to come, where known: it sets the number of partitions.
        memory: Bytes that are sorted at once; `MEMORY`, or less within a small budget, where None.

    Raises:
        DataError: The column holds lists or vectors, or the disk has no room for the temporary files.
    """
    held: list[pa.Table] = []
    size = 0
    memory = budget.sorted_bytes(MEMORY) if memory is None else memory
    for table in tables:
        held.append(table)
        size += table.nbytes
        if size > memory:
            seen = sum(part.num_rows for part in held)
            expected = size * max((count or 32 * seen) / max(seen, 1), 1.0)
            partitions = int(np.clip(np.ceil(2 * expected / memory), 8, 256))
            yield from _through_files(chain(_drained(held), tables), unit, rows=rows, partitions=partitions)
            return
    if held:
        yield from _sorted(_one(held), unit, rows=rows)


def _sorted(table: pa.Table, unit: str, *, rows: int) -> Iterator[pa.Table]:
    """One table in memory, cut where units end."""
    codes = _categories(table, unit).codes
    order = np.argsort(codes, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(codes[order])) + 1, len(order))
    in_order = bool((order == np.arange(len(order))).all())
    if not in_order and max((column.num_chunks for column in table.columns), default=1) > 1:
        table = table.combine_chunks()  # taking rows from many chunks is several times as slow
    start = 0
    while start < len(order):
        # the last unit that still fits, or the one unit that does not
        last = int(np.searchsorted(ends, start + rows, side="right")) - 1
        stop = int(ends[last]) if last >= 0 and ends[last] > start else int(ends[np.searchsorted(ends, start, "right")])
        yield table.slice(start, stop - start) if in_order else table.take(pa.array(order[start:stop]))
        start = stop


def _drained(held: list[pa.Table]) -> Iterator[pa.Table]:
    """The tables, let go one by one."""
    while held:
        yield held.pop(0)


def _through_files(tables: Iterator[pa.Table], unit: str, *, rows: int, partitions: int) -> Iterator[pa.Table]:
    with tempfile.TemporaryDirectory(prefix="recspect-") as folder:
        try:
            _deal(tables, unit, Path(folder), partitions)
        except OSError as error:
            raise DataError(f"no room to sort the rows by {unit!r}: {error}",
                            hint="set TMPDIR to a folder on a larger disk") from error
        for partition in range(partitions):
            pieces = []
            for path in sorted(Path(folder).glob(f"{partition}-*.arrow")):
                with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
                    pieces.append(reader.read_all())
                path.unlink()
            if pieces:
                yield from _sorted(_one(pieces), unit, rows=rows)


def _deal(tables: Iterator[pa.Table], unit: str, folder: Path, partitions: int) -> None:
    """Write each row into the file of its unit's hash; pieces of unlike types (1 here, 1.5 there) into files of their own."""
    writers: dict[tuple[int, int], Any] = {}
    schemas: list[pa.Schema] = []
    with ExitStack() as stack:
        for table in tables:
            plain = table.cast(_plain(table.schema))
            if plain.schema not in schemas:
                schemas.append(plain.schema)
            kind = schemas.index(plain.schema)
            bucket = _bucket(plain, unit, partitions)
            order = np.argsort(bucket, kind="stable")
            dealt = plain.take(pa.array(order))
            starts = np.searchsorted(bucket[order], np.arange(partitions + 1))
            for partition in np.unique(bucket).tolist():
                if (partition, kind) not in writers:
                    path = folder / f"{partition}-{kind}.arrow"
                    writers[partition, kind] = stack.enter_context(pa.ipc.new_stream(str(path), plain.schema))
                first, last = starts[partition], starts[partition + 1]
                writers[partition, kind].write_table(dealt.slice(first, last - first).combine_chunks())


def _plain(schema: pa.Schema) -> pa.Schema:
    """The schema without dictionaries, which would be written anew with every piece."""
    return pa.schema([
        pa.field(field.name, field.type.value_type if pa.types.is_dictionary(field.type) else field.type)
        for field in schema
    ])


def _bucket(table: pa.Table, unit: str, partitions: int) -> NDArray[np.int64]:
    """The partition of each row: the same for equal values, whatever else the table holds."""
    found = _categories(table, unit)
    by_value = (hash_values(found.values) % np.uint64(partitions)).astype(np.int64)
    return np.append(by_value, [0])[found.codes]


def _categories(table: pa.Table, unit: str) -> Categorical:
    column = column_from_arrow(table.column(unit))
    if isinstance(column, Categorical):
        return _distinct(column)
    if isinstance(column, np.ndarray) and column.ndim == 1:
        return factorize(column)
    raise DataError(f"rows are to stay together by {unit!r}, which holds {describe(column)}",
                    hint="name a column of single values, such as the user's id")


def _distinct(column: Categorical) -> Categorical:
    """Codes such that equal values have equal codes, also where a dictionary names one value twice."""
    lookup: dict[Any, int] = {}
    position: Array = np.array([lookup.setdefault(value, len(lookup)) for value in column.values], dtype=np.int64)
    if len(lookup) == len(column.values):
        return column
    return Categorical(np.append(position, [-1])[column.codes], np.array(list(lookup), dtype=object))


def _one(tables: list[pa.Table]) -> pa.Table:
    """The tables as one; dictionaries are unified, number types widened where pieces differ."""
    try:
        whole = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"batches disagree on a column's type: {error}",
                        hint="give the column one type in every batch") from None
    return whole.unify_dictionaries() if any(pa.types.is_dictionary(field.type) for field in whole.schema) else whole
