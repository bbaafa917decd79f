"""An Iceberg table at one snapshot: a piece for each of its data files, deletes and changed columns brought in by PyIceberg."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import narwhals as nw
import pyarrow as pa

from recspect.diagnosis import source_arrow
from recspect.diagnosis.source_files import damaged
from recspect.diagnosis.source_pieces import PIECE_ROWS, Piece, digest, whole
from recspect.diagnosis.source_tables import TableSource
from recspect.errors import DataError, MissingExtraError

METADATA = ".metadata.json"
"""How the file ends that describes a table's state."""


def is_iceberg(data: Any) -> bool:
    """Whether this is an Iceberg table: an object of PyIceberg's, or the file that describes one."""
    return type(data).__module__.split(".")[0] == "pyiceberg" or (isinstance(data, (str, Path)) and str(data).endswith(METADATA))


@dataclass(frozen=True)
class IcebergTable(TableSource):
    """See above.

    Args:
        name: What to call it.
        metadata: Place of the file that describes the table.
        snapshot: Its id.
        properties: How its files are reached, as pairs.
    """

    name: str
    metadata: str
    snapshot: int
    properties: tuple[tuple[str, str], ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("name", "metadata", "snapshot", "properties")}

    @cached_property
    def _table(self) -> Any:
        from pyiceberg.table import StaticTable

        return StaticTable.from_metadata(self.metadata, dict(self.properties))

    @cached_property
    def _files(self) -> list[Any]:
        return sorted(self._table.scan(snapshot_id=self.snapshot).plan_files(), key=lambda task: (task.file.file_path, getattr(task, "start", 0) or 0))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(field.name for field in self._table.scan(snapshot_id=self.snapshot).projection().fields)

    def read_tables(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        return whole(self, columns, rows)

    def frame(self) -> nw.LazyFrame[Any] | None:
        return None

    def fingerprint(self) -> str:
        """Of the table's id and its snapshot."""
        return digest(str(self._table.metadata.table_uuid), self.snapshot)

    def count(self) -> int | None:
        return int(self._table.scan(snapshot_id=self.snapshot).count())

    def pieces(self, rows: int = PIECE_ROWS) -> tuple[Piece, ...]:
        """Its data files; `rows` is not asked, as deletes are of whole files."""
        del rows
        found = []
        for number, task in enumerate(self._files):
            deletes = sorted(file.file_path for file in task.delete_files)
            count = None if deletes else int(task.file.record_count)
            found.append(Piece(task.file.file_path, digest(task.file.file_path, task.file.file_size_in_bytes, deletes), count, number))
        return tuple(found)

    def tables(self, piece: Piece, columns: Sequence[str], *, rows: int) -> Iterator[pa.Table]:
        del rows  # PyIceberg gives what Parquet's row groups give
        from pyiceberg.expressions import AlwaysTrue
        from pyiceberg.io.pyarrow import ArrowScan

        scan = self._table.scan(snapshot_id=self.snapshot, selected_fields=tuple(columns))
        reading = ArrowScan(self._table.metadata, self._table.io, scan.projection(), AlwaysTrue())
        try:
            for batch in reading.to_record_batches([self._files[piece.file]]):
                yield pa.Table.from_batches([batch]).select(list(columns))
        except (OSError, pa.ArrowInvalid) as error:
            raise damaged(piece.name, error) from error


def iceberg_table(data: Any, *, name: str = "") -> IcebergTable:
    """An Iceberg table at its current snapshot: an object of PyIceberg's (from any catalogue), or the place of its metadata file.

    Raises:
        DataError: It cannot be read, or has no snapshot, so no rows.
        MissingExtraError: PyIceberg is missing.
    """
    try:
        from pyiceberg.table import StaticTable
    except ImportError:
        raise MissingExtraError("pyiceberg", extra="iceberg", purpose="Reading an Iceberg table") from None
    try:
        table = StaticTable.from_metadata(str(data)) if isinstance(data, (str, Path)) else data
        snapshot = table.current_snapshot()
        place, properties = table.metadata_location, tuple(sorted((str(key), str(value)) for key, value in table.io.properties.items()))
    except Exception as error:  # PyIceberg has many kinds
        raise DataError(f"cannot read the Iceberg table {data}: {error}", hint="give a table of PyIceberg's catalogue, or the newest file metadata/*.metadata.json") from None
    if snapshot is None:
        raise source_arrow.no_rows(name or "the Iceberg table")
    return IcebergTable(name or str(place).rsplit("/", 3)[-3] if place.count("/") > 2 else "Iceberg table", place, int(snapshot.snapshot_id), properties)


__all__ = ["IcebergTable", "iceberg_table", "is_iceberg"]
