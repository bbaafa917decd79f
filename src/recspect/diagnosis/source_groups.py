"""Row groups of Parquet files: the pieces of a table that can be read in any order, each without the others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recspect.diagnosis import source_arrow
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.source import ROWS, require_request
from recspect.diagnosis.source_files import Files, damaged, file_digest, reading_options
from recspect.diagnosis.source_pieces import Piece, cut, digest
from recspect.errors import DataError


@dataclass(frozen=True)
class RowGroup:
    """A run of rows that lies together in a Parquet file.

    Args:
        file: Number of the file among the source's paths.
        first: Number of its first row in the whole table.
        rows: How many it has; 1 or more.
        fragment: Where Arrow finds it.
    """

    file: int
    first: int
    rows: int
    fragment: Any


def row_groups(files: Files) -> tuple[RowGroup, ...]:
    """The row groups of a source, in the order of the rows.

    Raises:
        DataError: The files are not Parquet, or damaged.
    """
    if files.form != "parquet":
        raise DataError(f"{files.name} is {files.form.upper()}, whose rows lie in no groups", hint="convert it to Parquet")
    found, first = [], 0
    places = {os.fspath(path): number for number, path in enumerate(files.paths)}
    try:
        for fragment in files.with_dictionaries().get_fragments():
            for group in fragment.split_by_row_group():
                rows = int(group.row_groups[0].num_rows)
                if rows:
                    found.append(RowGroup(places[fragment.path], first, rows, group))
                first += rows
    except (OSError, pa.ArrowInvalid) as error:
        raise damaged(files.name, error) from error
    return tuple(found)


def group_batches(files: Files, group: RowGroup, columns: Sequence[str], *, rows: int = ROWS) -> Iterator[Batch]:
    """The rows of one group in order, in bounded batches.

    Raises:
        DataError: A column that is not there, or a damaged file.
    """
    wanted = require_request(files, columns, rows, None)
    try:
        scanner = group.fragment.scanner(schema=files.with_dictionaries().schema, columns=list(wanted), batch_size=rows, batch_readahead=0,
                                         fragment_readahead=0, fragment_scan_options=reading_options())
        for batch in scanner.to_batches():
            if batch.num_rows:
                yield source_arrow.to_batch(pa.Table.from_batches([batch]), name=files.name)
    except (OSError, pa.ArrowInvalid) as error:
        raise damaged(files.name, error) from error


def pieces_of(files: Files, rows: int) -> tuple[Piece, ...]:
    """Runs of row groups of each Parquet file; of other forms whole files.

    Raises:
        DamagedError: A file's description of itself cannot be read.
    """
    found = []
    for number, path in enumerate(files.paths):
        own = file_digest([path])
        if files.form != "parquet":
            found.append(Piece(str(path), own, None, number))
            continue
        try:
            metadata = pq.read_metadata(path)
            counts = [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]
        except (OSError, pa.ArrowInvalid) as error:
            raise damaged(path, error) from error
        runs = cut(counts, rows)
        for first, last, held in runs:
            where = "" if len(runs) == 1 else f", row groups {first} to {last - 1}" if last - first > 1 else f", row group {first}"
            found.append(Piece(f"{path}{where}", digest(own, first, last), held, number, first, last))
    return tuple(found)


def tables_of(files: Files, piece: Piece, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """The rows of a piece, some at a time.

    Raises:
        DamagedError: They cannot be read.
    """
    path = files.paths[piece.file]
    if files.form == "csv":
        yield from replace(files, paths=(path,)).csv_tables(columns, rows)
        return
    try:
        dataset = replace(files, paths=(path,)).with_dictionaries()
        fragment = next(iter(dataset.get_fragments()))
        if files.form == "parquet":
            fragment = fragment.subset(row_group_ids=list(range(piece.first, piece.last)))
        scanner = fragment.scanner(schema=dataset.schema, columns=list(columns), batch_size=rows, batch_readahead=2, fragment_readahead=1,
                                   fragment_scan_options=reading_options() if files.form == "parquet" else None)
        for batch in scanner.to_batches():
            yield pa.Table.from_batches([batch])
    except (OSError, pa.ArrowInvalid) as error:
        raise damaged(piece.name, error) from error


__all__ = ["RowGroup", "group_batches", "pieces_of", "row_groups", "tables_of"]
