"""CSV and TSV through DuckDB: types told once, errors that name the line."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import duckdb

from recspect.diagnosis import source_arrow
from recspect.diagnosis.source_query import literal, open_connection, quoted
from recspect.errors import DataError

SNIFFED_BYTES = 256 * 2**20
"""CSV files up to this size have their types told from all rows, larger ones from the first million rows."""


def ending(path: Path) -> str:
    """The file's ending in small letters, that of what was compressed for `.gz` and `.zst`."""
    inner = path.with_suffix("") if path.suffix.lower() in (".gz", ".zst") else path
    return inner.suffix.lower()


def scan(paths: Sequence[Path], settings: str) -> str:
    """The DuckDB table function that reads the files with these settings."""
    names = ", ".join(literal(os.fspath(path)) for path in paths)
    tabs = all(ending(path) == ".tsv" for path in paths)
    delimiter = "delim='\t', " if tabs else ""
    return f"read_csv([{names}], {settings}{delimiter}header=true, nullstr='')"


def csv_types(paths: Sequence[Path], name: str) -> tuple[tuple[str, str], ...]:
    """Column name to DuckDB type.

    Raises:
        DataError: No rows, or no CSV.
    """
    size = sum(path.stat().st_size for path in paths)
    sample = -1 if size <= SNIFFED_BYTES else 1_000_000
    connection = open_connection()
    try:
        # Without skip=0 lines before one with more fields would be taken for a preamble, and dropped.
        relation = connection.sql(f"SELECT * FROM {scan(paths, f'sample_size={sample}, skip=0, ')}")  # noqa: S608 - built from literals
        kinds = {column: str(kind) for column, kind in zip(relation.columns, relation.types, strict=True)}
        types = tuple({**kinds, **_words(connection, paths, [column for column, kind in kinds.items() if kind == "BOOLEAN"])}.items())
        if len(types) == 1 and any(sign in types[0][0] for sign in ",;\t|"):
            raise _ragged(paths, name)
        if relation.project("1").limit(1).fetchone() is None:  # no value of a column: times with a zone would need pytz
            raise source_arrow.no_rows(name)
    except duckdb.Error as error:
        raise unreadable_csv(name, error) from None
    finally:
        connection.close()
    return types


def _ragged(paths: Sequence[Path], name: str) -> DataError:
    """The error for lines with unlike numbers of fields, with the first such line where it can be told."""
    for path in paths:
        with suppress(UnicodeDecodeError, csv.Error), path.open(encoding="utf-8", newline="") as file:
            first = file.readline()
            file.seek(0)
            rows = csv.reader(file, delimiter=max(",;\t|", key=first.count))
            expected = len(next(rows))
            for row in rows:
                if row and len(row) != expected:
                    return DataError(f"{name} cannot be read as CSV: line {rows.line_num:,} of {path.name} has {len(row)} fields, "
                                     f"the first line has {expected}", hint="correct or remove that line; was the export interrupted?")
    return DataError(f"{name} cannot be read as CSV: its lines have unlike numbers of fields",
                     hint="write it again with one separator, or convert it to Parquet")


def _words(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path], columns: Sequence[str]) -> dict[str, str]:
    """Columns taken for true and false that say it in other words: yes and no stay as they are written, for a schema names them so."""
    if not columns:
        return {}
    asked = ", ".join(f"bool_and(lower({quoted(column)}) IN ('true', 'false'))" for column in columns)
    plain = connection.sql(f"SELECT {asked} FROM {scan(paths, 'all_varchar=true, skip=0, ')}").fetchone()  # noqa: S608 - built from literals
    return {column: "VARCHAR" for column, as_written in zip(columns, plain or (), strict=True) if as_written is False}


def unreadable_csv(name: str, error: Exception) -> DataError:
    """The error for what DuckDB cannot read on."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return DataError(f"{name} cannot be read as CSV: {' '.join(lines[:3])[:400]}",
                     hint="the first line must name the columns; or convert the file to Parquet, where types are explicit")


__all__ = ["csv_types", "ending", "scan", "unreadable_csv"]
