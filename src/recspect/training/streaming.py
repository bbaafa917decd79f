"""A table that stays in its Parquet files: which rows are in which part, and passes over them.

Every pass reads row group by row group in bounded pieces; what is kept of a pass is counts, vocabularies and evenly spaced held-out rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, concatenate, hash_rows
from recspect.diagnosis.source import Source, read
from recspect.diagnosis.source_files import Files
from recspect.diagnosis.source_groups import RowGroup, group_batches, row_groups
from recspect.errors import DataError, UsageError
from recspect.features.derived import DerivedSource, beneath, derive, derive_together
from recspect.schema import Schema
from recspect.training.borders import Border, borders_at
from recspect.training.config import TrainingConfig
from recspect.training.split import evenly_spaced, part_ends

PARTS = ("train", "validation", "test")

EXAMINED_ROWS = 1_000_000
"""Evenly spaced rows of each part by which a run is examined afterwards, at most."""

PIECE_ROWS = 65_536
"""Rows that are read at once, at most."""


@dataclass(frozen=True)
class PlacedGroup:
    """A row group and the parts that its rows are in.

    Args:
        source: Number of the table that it belongs to.
        group: Where it lies.
        rows: Of training, validation and test.
        tied: Rows of the time of each border that lie in groups before this one.
    """

    source: int
    group: RowGroup
    rows: tuple[int, int, int]
    tied: tuple[int, ...] = ()


@dataclass(frozen=True)
class StreamedTable:
    """One table, or three (training, validation, test), read group by group.

    Args:
        sources: Parquet files, with derived columns or without.
        columns: What training reads.
        time: The column by which parts and order go; empty where whole files or tables are the parts.
        groups: In the order of the rows.
        borders: Before the validation and the test part, of a split by time.
        split: Plain data for `run.json`.
    """

    sources: tuple[Source, ...]
    columns: tuple[str, ...]
    time: str
    groups: tuple[PlacedGroup, ...]
    borders: tuple[Border, ...]
    split: dict[str, Any]

    @classmethod
    def of(cls, data: Any, schema: Schema, config: TrainingConfig, columns: Sequence[str]) -> StreamedTable:
        """Look at the files, and at the times of all rows where the split goes by them.

        Raises:
            DataError: No Parquet files, rows without a time, or too few rows for three parts.
            UsageError: No time to split by.
        """
        if isinstance(data, tuple):
            sources = tuple(_streamed(source) for source in derive_together([read(table) for table in data], schema))
            placed = tuple(PlacedGroup(number, group, _only(number, group.rows)) for number, source in enumerate(sources) for group in row_groups(_files(source)))
            return cls(sources, tuple(columns), "", placed, (), {"kind": "given", "rows": _rows(placed)})
        source = _streamed(derive(read(data), schema))
        groups = row_groups(_files(source))
        total = sum(group.rows for group in groups)
        shares = {"test_share": config.test_share, "validation_share": config.validation_share}
        if config.split == "file":
            placed = _by_file(groups, _files(source), config)
            return cls((source,), tuple(columns), "", placed, (), {"kind": "file", **shares, "rows": _rows(placed)})
        if schema.time is None:
            raise UsageError("rows that are streamed are split by time, and the schema has no column with role 'time'",
                             hint="split = 'file' (the last files of a folder are the test), or give three tables")
        ends = part_ends(total, **shares)
        times = [TimesOf(source, group, schema.time) for group in groups]
        borders = borders_at(ends, lambda: (part for each in times for part in each))
        placed = _by_time(groups, times, borders)
        return cls((source,), tuple(columns), schema.time, placed, borders,
                   {"kind": "time", **shares, "rows": _rows(placed), "validation_from": borders[0].time, "test_from": borders[1].time})

    def count(self, part: int) -> int:
        """Rows of a part."""
        return sum(group.rows[part] for group in self.groups)

    def pieces(self, placed: PlacedGroup, rows: int, columns: Sequence[str] | None = None) -> Iterator[tuple[Batch, NDArray[np.int64]]]:
        """Rows of a group in pieces, and the part (0 training, 1 validation, 2 test) of each."""
        seen = list(placed.tied)
        for batch in _batches(self.sources[placed.source], placed.group, self.columns if columns is None else columns, rows):
            part = np.full(batch.rows, int(np.argmax(placed.rows)), dtype=np.int64)
            if self.borders:
                times = batch.numbers(self.time)
                part[:] = 0
                for place, border in enumerate(self.borders):
                    passed, seen[place] = border.passed(times, seen[place])
                    part += passed
            yield batch, part

    def all_pieces(self, tell: Callable[[Batch, int], None] = lambda *_: None) -> Iterator[tuple[Batch, NDArray[np.int64]]]:
        """Pieces of every group, in the order of the rows; `tell` gets each before, with the number of the table that it is of."""
        for group in self.groups:
            for batch, part in self.pieces(group, PIECE_ROWS):
                tell(batch, group.source)
                yield batch, part

    def sampled(self, rows: int, tell: Callable[[Batch, int], None] = lambda *_: None) -> tuple[Batch, Batch, Batch]:
        """Evenly spaced rows of each part, at most so many of each, in order of time where the split goes by it; `tell` as in `all_pieces`."""
        wanted = [evenly_spaced(self.count(part), rows) for part in range(3)]
        seen = [0, 0, 0]
        kept: tuple[list[Batch], list[Batch], list[Batch]] = ([], [], [])
        for batch, parts in self.all_pieces(tell):
            for part in range(3):
                mine = np.flatnonzero(parts == part)
                chosen = mine[evenly_in(wanted[part], seen[part], len(mine))]
                seen[part] += len(mine)
                if len(chosen):
                    kept[part].append(batch.take(chosen))
        train, validation, test = (concatenate(pieces) for pieces in kept)
        return self._ordered(train), self._ordered(validation), self._ordered(test)

    def _ordered(self, batch: Batch) -> Batch:
        return batch.take(np.argsort(batch.numbers(self.time), kind="stable")) if self.time else batch


def evenly_in(wanted: NDArray[np.int64], first: int, rows: int) -> NDArray[np.int64]:
    """Which of the rows first, first + 1, ... are wanted, counted from 0."""
    start, stop = np.searchsorted(wanted, [first, first + rows])
    return wanted[start:stop] - first


class Fingerprint:
    """The digits of `recspect.training.rows.fingerprint`, from pieces in the order of the rows."""

    def __init__(self, table: StreamedTable, schema: Schema) -> None:
        self._columns = [name for name in schema.columns if name in table.columns]
        counts = [sum(group.group.rows for group in table.groups if group.source == number) for number in range(len(table.sources))]
        self._digests = [hashlib.blake2b(repr((self._columns, rows)).encode(), digest_size=16) for rows in counts]

    def add(self, batch: Batch, source: int) -> None:
        """Take in rows of a table."""
        self._digests[source].update(hash_rows(batch, self._columns).tobytes())

    def finish(self) -> str:
        """Of one table its digits, of three those of their digits."""
        found = [digest.hexdigest() for digest in self._digests]
        return found[0] if len(found) == 1 else hashlib.blake2b("".join(found).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class TimesOf:
    """The times of a group's rows, read anew each time.

    Raises:
        DataError: Rows without a time.
    """

    source: Source
    group: RowGroup
    time: str

    def __iter__(self) -> Iterator[NDArray[np.float64]]:
        for batch in _batches(self.source, self.group, [self.time], 131_072):
            times = batch.numbers(self.time)
            if not np.isfinite(times).all():
                raise DataError(f"column {self.time!r} has no time in {int((~np.isfinite(times)).sum()):,} of the rows from {self.group.first:,} on",
                                hint="drop these rows, or split = 'file'")
            yield times


def _by_time(groups: Sequence[RowGroup], times: Sequence[TimesOf], borders: Sequence[Border]) -> tuple[PlacedGroup, ...]:
    placed, seen = [], [0] * len(borders)
    for group, parts in zip(groups, times, strict=True):
        before, beyond = tuple(seen), [0] * len(borders)
        for part in parts:
            for place, border in enumerate(borders):
                passed, seen[place] = border.passed(part, seen[place])
                beyond[place] += int(passed.sum())
        placed.append(PlacedGroup(0, group, (group.rows - beyond[0], beyond[0] - beyond[1], beyond[1]), before))
    return tuple(placed)


def _by_file(groups: Sequence[RowGroup], files: Files, config: TrainingConfig) -> tuple[PlacedGroup, ...]:
    """Whole files in their order: the last ones, until they hold the share, are the test, those before them the validation."""
    counts = np.zeros(len(files.paths), dtype=np.int64)
    for group in groups:
        counts[group.file] += group.rows
    full = np.flatnonzero(counts)
    if len(full) < 3:
        raise DataError(f"{files.name} has {len(full)} files with rows, too few for a training, a validation and a test part",
                        hint="split = 'time', or write the rows into more files")
    after = np.cumsum(counts[full][::-1])[::-1]  # rows of a file and all behind it
    test_from = min(max(int((after >= config.test_share * after[0]).sum()) - 1, 2), len(full) - 1)
    held = after[:test_from] - after[test_from]
    validation_from = max(int((held >= config.validation_share * held[0]).sum()) - 1, 1)
    part = {int(file): int(place >= validation_from) + int(place >= test_from) for place, file in enumerate(full)}
    return tuple(PlacedGroup(0, group, _only(part[group.file], group.rows)) for group in groups)


def _only(part: int, rows: int) -> tuple[int, int, int]:
    return tuple(rows if place == part else 0 for place in range(3))  # type: ignore[return-value]


def _rows(placed: Sequence[PlacedGroup]) -> dict[str, int]:
    return {name: sum(group.rows[part] for group in placed) for part, name in enumerate(PARTS)}


def _files(source: Source) -> Files:
    base = beneath(source)
    assert isinstance(base, Files)
    return base


def _streamed(source: Any) -> Source:
    base = beneath(source)
    if not isinstance(base, Files) or base.form != "parquet":
        raise DataError(f"{base.name} cannot be streamed: it is no Parquet file", hint="write it as Parquet, or leave buffer_bytes out to train in memory")
    assert isinstance(source, Source)
    return source


def _batches(source: Source, group: RowGroup, columns: Sequence[str], rows: int) -> Iterator[Batch]:
    if not isinstance(source, DerivedSource):
        yield from group_batches(_files(source), group, columns, rows=rows)
        return
    first = group.first
    for batch in group_batches(_files(source), group, source.reads(columns), rows=rows):
        yield source.completed(batch, first, columns).select(columns)
        first += batch.rows
