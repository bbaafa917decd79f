"""The rows that an observer makes, and the two files that hold them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recspect.diagnosis.mirror import HistogramRow, StepRow
from recspect.errors import RunError
from recspect.files import write_bytes

STEPS = pa.schema([("step", pa.int64()), ("epoch", pa.int32()), ("series", pa.string()), ("place", pa.string()),
                   ("value", pa.float64())])
"""Columns of steps.parquet."""

HISTOGRAMS = pa.schema([("step", pa.int64()), ("epoch", pa.int32()), ("series", pa.string()), ("place", pa.string()),
                        ("edges", pa.list_(pa.float64())), ("counts", pa.list_(pa.int64()))])
"""Columns of histograms.parquet."""

STEPS_FILE, HISTOGRAMS_FILE = "steps.parquet", "histograms.parquet"


def read_rows(path: Path, schema: pa.Schema) -> pa.Table:
    """The rows of one of these files; none where there is no file yet.

    Raises:
        RunError: It is damaged.
    """
    if not path.is_file():
        return schema.empty_table()
    try:
        return pq.read_table(path).cast(schema)
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{path} is damaged: {error}", hint="train anew, or remove the file") from None


class Rows:
    """One table that grows row by row, and what of it has not been told to others yet.

    Args:
        path: Its file, or None.
        schema: Its columns.
        kind: Makes a row of the values of the columns.
        steps_done: Rows of later steps that the file holds are dropped; with 0 the file is not read.
    """

    def __init__(self, path: Path | None, schema: pa.Schema, kind: Callable[..., Any], steps_done: int) -> None:
        self.path, self.schema = path, schema
        self._table = schema.empty_table()
        if path is not None and steps_done and path.is_file():
            self._table = pq.read_table(path).cast(schema).filter(pc.field("step") <= steps_done)
        self._fresh: list[Any] = []
        self._untold: list[Any] = [kind(*row.values()) for row in self._table.to_pylist()]

    def add(self, row: StepRow | HistogramRow) -> None:
        """Append one row."""
        self._fresh.append(row)
        self._untold.append(row)

    def untold(self) -> Sequence[Any]:
        """Rows that were added since this was last asked; first of all those of the file."""
        rows, self._untold = self._untold, []
        return rows

    def table(self) -> pa.Table:
        """All rows."""
        if self._fresh:
            columns = [pa.array(column, kind) for column, kind in zip(zip(*self._fresh, strict=True), self.schema.types, strict=True)]
            self._table = pa.concat_tables([self._table, pa.Table.from_arrays(columns, schema=self.schema)])
            self._fresh = []
        return self._table

    def write(self) -> None:
        """Write the file, whole or not at all; nothing without a path."""
        if self.path is not None:
            content = pa.BufferOutputStream()
            pq.write_table(self.table(), content, compression="zstd")
            write_bytes(self.path, content.getvalue())
