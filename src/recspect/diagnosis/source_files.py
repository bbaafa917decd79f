"""Files: Parquet, Feather and Arrow IPC through PyArrow, CSV and TSV through DuckDB; streamed, columns pushed down."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import duckdb
import narwhals as nw
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from recspect.diagnosis import source_arrow
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.source import ROWS, Source, require_request
from recspect.diagnosis.source_arrow import as_lazy
from recspect.diagnosis.source_csv import csv_types, ending, scan, unreadable_csv
from recspect.diagnosis.source_pieces import PIECE_ROWS, Piece
from recspect.diagnosis.source_query import literal, open_connection, stream
from recspect.errors import DamagedError, DataError, listing

Form = Literal["parquet", "feather", "csv"]

SUFFIXES: dict[str, Form] = {
    ".parquet": "parquet", ".pq": "parquet", ".feather": "feather", ".arrow": "feather", ".ipc": "feather",
    ".csv": "csv", ".tsv": "csv", ".txt": "csv",
}
"""Endings that are read; `.gz` and `.zst` may follow those of CSV."""

SAMPLED_BYTES = 64 * 2**10
"""Bytes of each file's start, middle and end that the fingerprint looks at."""


def files(paths: Sequence[Path], *, name: str = "", engine: str = "auto", whole: bool = True) -> Files:
    """A source over files of one form.

    Args:
        paths: Files, folders (read with all below them) and patterns.
        name: What to call it; the first path's name by default.
        engine: What `Source.frame` runs on.
        whole: Whether all of them must be readable; else Parquet files that are empty or damaged are left out, and named in `left_out`.

    Raises:
        DataError: Nothing there, empty or damaged files, an unknown or a second form, files of unlike columns.
    """
    found = [file for path in paths for file in _expand(path)]
    forms = {file: _form(file) for file in found}
    if len(set(forms.values())) > 1:
        raise DataError(f"files of several forms: {listing(sorted({file.suffix for file in found}))}",
                        hint="read one form at a time, for example with the pattern 'folder/*.parquet'")
    form = next(iter(forms.values()))
    base = paths[0] if len(paths) == 1 and paths[0].is_dir() else None
    name = name or paths[0].name or str(paths[0])
    left_out: dict[str, str] = {}
    if not whole and form == "parquet":
        found, left_out = _readable(found, base)
    for file in found:
        if not os.access(file, os.R_OK):
            raise DataError(f"cannot read {file}: no right to read it", hint="chmod +r, or ask who owns it")
        if file.stat().st_size == 0:
            raise DamagedError(f"{file} is empty (0 bytes)", hint="write it again; was its export interrupted?")
    if form == "csv":
        types = csv_types(found, name)
        source = Files(name=name, paths=tuple(found), form=form, engine=engine, base=base, types=types,
                       schema=pa.schema([]))
    else:
        source = Files(name=name, paths=tuple(found), form=form, engine=engine, base=base,
                       schema=_schema(found, form, base), left_out=tuple(left_out.items()))
        source_arrow.require_distinct_names(source.schema.names, name=name)
        if source.count() == 0:
            raise source_arrow.no_rows(name)
    return source


@dataclass(frozen=True)
class Files(Source):
    """Files of one form, read as one table.

    Args:
        name: What to call it.
        paths: The files, in order.
        form: How they are read.
        schema: Columns and types (Parquet and Feather).
        engine: What `frame` runs on.
        base: The folder whose `name=value` subfolders are columns, or None.
        types: Column name to DuckDB type (CSV), told once so that each pass reads alike.
        left_out: Files that are not read because they are damaged, and why.
    """

    name: str
    paths: tuple[Path, ...]
    form: Form
    schema: pa.Schema
    engine: str = "auto"
    base: Path | None = None
    types: tuple[tuple[str, str], ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.types) if self.form == "csv" else tuple(self.schema.names)

    def batches(
        self, columns: Sequence[str] | None = None, *, rows: int = ROWS, together: str | None = None
    ) -> Iterator[Batch]:
        wanted = require_request(self, columns, rows, together)
        shown = wanted if columns is None else tuple(dict.fromkeys(columns))
        tables = self.csv_tables(wanted, rows) if self.form == "csv" else self._arrow_tables(wanted, rows)
        count = None if self.form == "csv" else self.count()
        return source_arrow.to_batches(tables, shown=shown, rows=rows, together=together, count=count, name=self.name)

    def frame(self) -> nw.LazyFrame[Any] | None:
        if self.form == "csv":
            return as_lazy(open_connection().sql(f"SELECT * FROM {self.scan}"))  # noqa: S608 - built from literals
        if self.engine == "duckdb":
            return as_lazy(open_connection().from_arrow(self.dataset()))
        import polars as pl

        paths = [str(path) for path in self.paths]
        hive = self.base is not None
        lazy = (pl.scan_parquet(paths, hive_partitioning=hive, try_parse_hive_dates=False, glob=False)
                if self.form == "parquet" else pl.scan_ipc(paths, hive_partitioning=hive, try_parse_hive_dates=False))
        return as_lazy(lazy)

    def fingerprint(self) -> str:
        """Of each file's name, size, and bytes at its start, middle and end (where Parquet keeps its footer)."""
        return file_digest(self.paths)

    def count(self) -> int | None:
        if self.form != "csv":
            return int(self.dataset().count_rows())
        found = open_connection().sql(f"SELECT count(*) FROM {self.scan}").fetchone()  # noqa: S608 - built from literals
        assert found is not None
        return int(found[0])

    def dataset(self) -> ds.Dataset:
        """The files as a PyArrow dataset (Parquet and Feather)."""
        return _dataset(self.paths, self.form, self.base, self.schema)

    def with_dictionaries(self) -> ds.Dataset:
        """The same, with the strings of Parquet as dictionaries, as they mostly lie there: five times as fast to read."""
        if self.form != "parquet":
            return self.dataset()
        inside = set(pq.read_schema(self.paths[0]).names) if self.base is not None else set(self.schema.names)  # names of folders lie in no dictionary
        texts = {field.name for field in self.schema
                 if field.name in inside and (pa.types.is_string(field.type) or pa.types.is_large_string(field.type))}
        schema = pa.schema([field.with_type(pa.dictionary(pa.int32(), pa.string())) if field.name in texts else field
                            for field in self.schema])
        reading = ds.ParquetFileFormat(read_options=ds.ParquetReadOptions(dictionary_columns=texts))
        return _dataset(self.paths, reading, self.base, schema)

    def pieces(self, rows: int = PIECE_ROWS) -> tuple[Piece, ...]:
        """Row groups of Parquet files; of other forms whole files."""
        from recspect.diagnosis.source_groups import pieces_of

        return pieces_of(self, rows)

    def tables(self, piece: Piece, columns: Sequence[str], *, rows: int) -> Iterator[pa.Table]:
        from recspect.diagnosis.source_groups import tables_of

        return tables_of(self, piece, columns, rows)

    @property
    def scan(self) -> str:
        """The DuckDB table function that reads the files (CSV)."""
        types = ", ".join(f"{literal(name)}: {literal(kind)}" for name, kind in self.types)
        return scan(self.paths, f"columns={{{types}}}, auto_detect=false, ")

    def _arrow_tables(self, wanted: Sequence[str], rows: int) -> Iterator[pa.Table]:
        try:
            reading = reading_options() if self.form == "parquet" else None
            scanner = self.with_dictionaries().scanner(columns=list(wanted), batch_size=rows, batch_readahead=2,
                                                   fragment_readahead=1, fragment_scan_options=reading)
            for batch in scanner.to_batches():
                yield pa.Table.from_batches([batch])
        except (OSError, pa.ArrowInvalid) as error:
            raise damaged(self.name, error) from error

    def csv_tables(self, wanted: Sequence[str], rows: int) -> Iterator[pa.Table]:
        connection = open_connection()
        try:
            yield from stream(connection.sql(f"SELECT * FROM {self.scan}"), wanted, rows)  # noqa: S608 - built from literals
        except duckdb.Error as error:
            raise unreadable_csv(self.name, error) from error
        finally:
            connection.close()


def file_digest(paths: Sequence[Path]) -> str:
    """32 hexadecimal digits of each file's name, size, and bytes at its start, middle and end."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for start in (0, size // 2, max(size - SAMPLED_BYTES, 0)):
                file.seek(start)
                digest.update(file.read(SAMPLED_BYTES))
    return digest.hexdigest()


def reading_options() -> ds.ParquetFragmentScanOptions:
    """Without pre_buffer=False a scan holds the whole file: 1.9 GB against 0.1 GB here, and is slower."""
    return ds.ParquetFragmentScanOptions(pre_buffer=False, page_checksum_verification=True)


def damaged(name: object, error: Exception) -> DamagedError:
    """The error for a file whose bytes are not what its ending says."""
    return DamagedError(f"{name} is damaged or cut short: {_reason(error)}",
                        hint="copy or export the file again; a file that is still being written cannot be read")


def _reason(error: Exception) -> str:
    """What Arrow says, without the chain of what it was doing when it found out."""
    return str(error).split("\n")[0].rsplit("?: ", 1)[-1].rstrip(".")


# ---------------------------------------------------------------------- which files


def _expand(path: Path) -> list[Path]:
    try:
        return _found(path.expanduser())
    except (OSError, ValueError, RuntimeError) as error:  # no right to look there, or a name that no file can have
        raise DataError(f"cannot read {str(path)[:200]}: {getattr(error, 'strerror', None) or error}",
                        hint="check the path, and the right to read it") from None


def _found(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = [file for file in sorted(path.rglob("*")) if file.is_file() and not _hidden(file.relative_to(path))]
        known = [file for file in inside if _known(file)]
        if not known:
            raise DataError(f"folder {path} holds no file that can be read; files: "
                            f"{listing(file.name for file in inside)}", hint=f"endings that are read: {_endings()}")
        return known
    if any(sign in str(path) for sign in "*?["):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 - also absolute patterns
        if matches:
            return [file for match in matches for file in _expand(match)]
        raise DataError(f"no file matches {path}", hint="check the pattern and the working directory")
    raise DataError(f"no file at {path}", hint=_neighbours(path))


def _hidden(path: Path) -> bool:
    """Whether it is a mark left by Spark or an editor (`_SUCCESS`, `.part.crc`), not data."""
    return any(part.startswith((".", "_")) for part in path.parts)


def _neighbours(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"the folder {parent} does not exist either"
    near = sorted(file.name for file in parent.iterdir() if _known(file))
    return f"in {parent} there are: {listing(near)}" if near else "check the path and the working directory"


def _known(path: Path) -> bool:
    return ending(path) in SUFFIXES


def _endings() -> str:
    return ", ".join(SUFFIXES)


def _form(path: Path) -> Form:
    own = ending(path)
    if own not in SUFFIXES:
        raise DataError(f"{path} has the unknown ending {path.suffix!r}", hint=f"endings that are read: {_endings()}")
    form = SUFFIXES[own]
    if form != "csv" and path.suffix.lower() in (".gz", ".zst"):
        raise DataError(f"{path} is a compressed {form} file", hint="unpack it; Parquet and Feather compress inside")
    return form


# ---------------------------------------------------------------------- Parquet, Feather


def _readable(found: Sequence[Path], base: Path | None) -> tuple[list[Path], dict[str, str]]:
    """The files whose footer can be read, and of the others why not; there is one at least, or all are kept for the error."""
    kept, left_out = [], {}
    for path in found:
        if path.stat().st_size == 0:
            left_out[str(path)] = f"{path} is empty (0 bytes)"
            continue
        try:
            _schema([path], "parquet", base)
        except DamagedError as error:
            left_out[str(path)] = error.message
        else:
            kept.append(path)
    return (kept, left_out) if kept else (list(found), {})


def _dataset(paths: Sequence[Path], form: Form | ds.FileFormat, base: Path | None, schema: pa.Schema | None) -> ds.Dataset:
    return ds.dataset([os.fspath(path) for path in paths], schema=schema, format=form,
                      partitioning="hive" if base is not None else None,
                      partition_base_dir=os.fspath(base) if base is not None else None)


def _schema(paths: Sequence[Path], form: Form, base: Path | None) -> pa.Schema:
    """One schema for all the files: number types are widened, columns must be the same."""
    schemas = []
    for path in paths:
        try:
            if form == "parquet":
                source_arrow.require_distinct_names(pq.read_schema(path).names, name=str(path))
            schemas.append(_dataset([path], form, base, None).schema)
        except pa.ArrowNotImplementedError as error:
            raise DataError(f"{path} has a column of a type that cannot be read: {_reason(error)}",
                            hint="write it again with numbers of up to 64 bits, texts, times or lists of these") from None
        except (OSError, pa.ArrowInvalid) as error:
            raise damaged(path, error) from error
    names = set(schemas[0].names)
    for path, schema in zip(paths, schemas, strict=True):
        unlike = names ^ set(schema.names)
        if unlike:
            raise DataError(f"{path} and {paths[0]} have unlike columns: {listing(sorted(unlike))} only in one of them",
                            hint="read them one by one, or write them anew with the same columns")
    try:
        whole = pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"the files disagree on a column's type: {error}",
                        hint="write them anew with the same types") from None
    return whole.remove_metadata() if form == "parquet" else whole
