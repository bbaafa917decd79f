"""Events from files: Parquet, CSV and TSV, JSON lines. Importing the same file again, whole or from where it was stopped, adds nothing twice."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from recspect.errors import DataError, UsageError, listing
from recspect.events.event import GIVEN, Event, EventError, EventKind
from recspect.events.reject import Reject, decode, reject, take
from recspect.events.store import EventStore

ROWS = 20_000
"""Rows that are kept in one transaction."""

NUMBERS = ("position", "propensity", "value")

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
"""Seconds of one unit of a numeric time."""


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """How rows of a file become events.

    Args:
        columns: Column to the part of an event it holds (`event_id`, `user`, ..., or `attributes.NAME`). Columns that are called like a
            part need not be named.
        kind: The kind of all rows, where no column says it.
        time_unit: Unit of a numeric time.
        time_zone: Zone of times that have none, such as `UTC`.

    Raises:
        UsageError: A part or a zone that does not exist.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    kind: EventKind | None = None
    time_unit: Literal["s", "ms", "us"] | None = None
    time_zone: str | None = None

    def __post_init__(self) -> None:
        unknown = [part for part in self.columns.values() if part not in GIVEN and not (part.startswith("attributes.") and len(part) > 11)]
        if unknown:
            raise UsageError(f"an event has no {listing(unknown)}", hint=f"parts: {', '.join(GIVEN)}, attributes.NAME")
        if self.time_unit is not None and self.time_unit not in UNITS:
            raise UsageError(f"the unit of time is {self.time_unit!r:.80}", hint="units: s, ms, us")
        try:
            object.__setattr__(self, "_zone", None if self.time_zone is None else ZoneInfo(self.time_zone))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise UsageError(f"no time zone is called {self.time_zone!r:.80}", hint="UTC, Europe/Berlin, ...") from None

    def event(self, row: Mapping[str, Any], parts: Mapping[str, str]) -> dict[str, Any]:
        """What `parse_event` takes, from a row.

        Args:
            row: Column to value.
            parts: Column to part, for the columns of the file.
        """
        given: dict[str, Any] = {}
        for column, value in row.items():
            part = parts.get(column)
            if part is None or value is None or (isinstance(value, float) and math.isnan(value)):  # frames write what is missing as NaN
                continue
            if part.startswith("attributes."):
                given.setdefault("attributes", {})[part[11:]] = value
            elif part == "attributes" and isinstance(value, str):
                given[part] = _json_or_text(value)
            elif part in NUMBERS and isinstance(value, str):
                given[part] = _number_or_text(value)
            else:
                given[part] = self._time(value) if part == "time" else value
        if self.kind is not None:
            given.setdefault("kind", self.kind.value)
        given.setdefault("event_id", derived_id(given))
        return given

    def _time(self, value: Any) -> Any:
        if self.time_unit is not None:
            number = _number_or_text(value) if isinstance(value, str) else value
            if isinstance(number, (int, float)):
                try:
                    return datetime.fromtimestamp(number * UNITS[self.time_unit], UTC)
                except (OverflowError, ValueError, OSError):
                    return value
        zone = self._zone  # type: ignore[attr-defined]
        if zone is not None and isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                return value
        if zone is not None and isinstance(value, datetime) and value.tzinfo is None:
            return value.replace(tzinfo=zone)
        return value


@dataclass
class Imported:
    """What became of the rows of files.

    Args:
        rows: Rows read.
        accepted, duplicates: Events that were new, and those that were there already.
        rejected: Code of a reason to number of rows.
        ignored: Columns that were not read.
        example: Why the first rejected row was rejected; empty where none was.
    """

    rows: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    ignored: dict[str, None] = field(default_factory=dict)
    example: str = ""


def import_files(paths: Sequence[Path], store: EventStore, mapped: Mapped | None = None, *, progress: Callable[[Path, int], None] | None = None) -> Imported:
    """Put the rows of files into a store.

    Args:
        paths: Files ending in .parquet, .csv, .tsv, .jsonl or .ndjson.
        store: Where to.
        mapped: How rows become events.
        progress: Told the file and the number of its rows that are durable, after each batch.

    Raises:
        DataError: A file is missing, damaged or of another form, or lacks what every event must have.
    """
    mapped = mapped if mapped is not None else Mapped()
    done = Imported()
    opened = [(path, *_open(path)) for path in paths]  # all of them before the first row is kept
    for path, columns, batches in opened:
        parts = _parts(path, columns, mapped) if columns is not None else {}
        if columns is not None:
            done.ignored.update(dict.fromkeys(column for column in columns if column not in parts))
        in_file = 0
        for rows in batches:
            received = datetime.now(UTC)
            taken = [_taken(row, parts, mapped, received, path.name) for row in rows]
            refused = [each for each in taken if isinstance(each, Reject)]
            receipt = store.append([each for each in taken if isinstance(each, Event)], refused)
            done.rows += len(taken)
            done.accepted += receipt.accepted
            done.duplicates += receipt.duplicates
            done.rejected.update(each.code for each in refused)
            done.example = done.example or next((each.reason for each in refused), "")
            in_file += len(taken)
            if progress is not None:
                progress(path, in_file)
    return done


def derived_id(given: Mapping[str, Any]) -> str:
    """An id for an event that has none: the same for the same content, so that importing it again is recognised."""
    content = json.dumps([str(given.get(part)) for part in GIVEN[1:]])
    return "row-" + hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


# ---------------------------------------------------------------------- details

Rows = Iterator[list[Any]]


def _open(path: Path) -> tuple[list[str] | None, Rows]:
    """Columns of a file (None for JSON lines, where each row has its own) and its rows, some at a time."""
    if not path.is_file():
        raise DataError(f"there is no file {path}", hint="check the path")
    suffix = path.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            file = pq.ParquetFile(path)
            return list(file.schema_arrow.names), _pieces(file.iter_batches(ROWS), path)
        if suffix in (".csv", ".tsv"):
            parsing = pa.csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True)
            names = pa.csv.open_csv(path, parse_options=parsing).schema.names
            # Everything is read as text: told from the first rows, types would turn the id 007 into 7.
            texts = pa.csv.ConvertOptions(column_types={name: pa.string() for name in names}, strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=True)
            return list(names), _pieces(pa.csv.open_csv(path, parse_options=parsing, convert_options=texts), path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is damaged or not of its form: {str(error).splitlines()[0][:300]}", hint="export it again") from None
    if suffix in (".jsonl", ".ndjson"):
        return None, _lines(path)
    raise DataError(f"{path} ends in {suffix or 'nothing'}, expected .parquet, .csv, .tsv, .jsonl or .ndjson", hint="rename or export it")


def _pieces(batches: Iterable[pa.RecordBatch], path: Path) -> Rows:
    try:
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS):
                yield batch.slice(start, ROWS).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} is damaged after the rows that were imported: {str(error).splitlines()[0][:300]}",
                        hint="export it again and import it whole: what is there already is not added twice") from None


def _lines(path: Path) -> Rows:
    with path.open("rb") as file:
        held: list[bytes] = []
        for line in file:
            if line.strip():
                held.append(line.strip())
            if len(held) == ROWS:
                yield held
                held = []
        if held:
            yield held


def _parts(path: Path, columns: Sequence[str], mapped: Mapped) -> dict[str, str]:
    missing = [column for column in mapped.columns if column not in columns]
    if missing:
        raise DataError(f"{path} has no column {listing(missing)}; columns: {listing(columns, limit=30)}", hint="--map COLUMN=PART names a column of the file")
    taken = set(mapped.columns.values())
    parts = {column: column for column in columns if column in GIVEN and column not in taken} | dict(mapped.columns)
    there = set(parts.values()) | {"event_id"} | ({"kind"} if mapped.kind is not None else set())
    lacking = [part for part in GIVEN[:5] if part not in there]
    if lacking:
        raise DataError(f"{path} has no column for {listing(lacking)}; columns: {listing(columns, limit=30)}",
                        hint=f"--map COLUMN={lacking[0]}" + (", or --kind click for all rows" if "kind" in lacking else ""))
    return parts


def _taken(row: Any, parts: Mapping[str, str], mapped: Mapped, received: datetime, origin: str) -> Event | Reject:
    if isinstance(row, bytes):
        try:
            row = decode(row)
        except EventError as error:
            return reject(error, None, received=received, origin=origin, raw=row.decode("utf-8", "backslashreplace"))
        if not isinstance(row, dict):
            return take(row, received=received, origin=origin)
        parts = {column: column for column in row if column not in mapped.columns} | dict(mapped.columns)
    return take(mapped.event(row, parts), received=received, origin=origin)


def _number_or_text(text: str) -> Any:
    try:
        return int(text) if text.lstrip("-").isdecimal() and len(text) < 20 else float(text)
    except ValueError:
        return text


def _json_or_text(text: str) -> Any:
    try:
        return decode(text)
    except EventError:
        return text
