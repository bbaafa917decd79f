"""Parquet files that are not on this machine's disk: on object storage through fsspec, in Delta and Iceberg tables. Read partition by partition, columns pushed down.

Which files there are is asked once, when the source is made; a table of versions is read at that version. Only the description travels to workers,
which open the files themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import narwhals as nw
import pyarrow as pa
import pyarrow.dataset as ds

from recspect.diagnosis import source_arrow
from recspect.diagnosis.source_files import damaged, reading_options
from recspect.diagnosis.source_pieces import PIECE_ROWS, Piece, cut, digest, whole
from recspect.diagnosis.source_tables import TableSource
from recspect.errors import DataError, MissingExtraError, listing

Opening = Callable[[], ds.Dataset]


@dataclass(frozen=True)
class Dataset(TableSource):
    """Parquet files wherever Arrow can read them.

    Args:
        name: What to call it.
        opening: Gives the dataset; picklable, and run once in every process.
        identity: What the content is known by: the table and its version, or the size and version of every file.
        files: What each file is known by, in order of their paths; empty where its path tells, as files of a table are never written again.
    """

    name: str
    opening: Opening
    identity: tuple[str, ...]
    files: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "opening": self.opening, "identity": self.identity, "files": self.files}

    @cached_property
    def dataset(self) -> ds.Dataset:
        """The files."""
        return self.opening()

    @cached_property
    def _fragments(self) -> list[Any]:
        return sorted(self.dataset.get_fragments(), key=lambda fragment: fragment.path)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.dataset.schema.names)

    def read_tables(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        return whole(self, columns, rows)

    def frame(self) -> nw.LazyFrame[Any] | None:
        import polars as pl

        return source_arrow.as_lazy(pl.scan_pyarrow_dataset(self.dataset))

    def fingerprint(self) -> str:
        """Of each file's path, size and what the storage says of its version; of a table, its id and version."""
        return digest(*self.identity)

    def count(self) -> int | None:
        try:
            return int(self.dataset.count_rows())
        except (OSError, pa.ArrowInvalid) as error:
            raise damaged(self.name, error) from error

    def pieces(self, rows: int = PIECE_ROWS) -> tuple[Piece, ...]:
        """Row groups of each file. A file whose footer cannot be read is one piece, which whoever reads it will find damaged."""
        found = []
        for number, fragment in enumerate(self._fragments):
            own = digest(fragment.path, self.files[number] if self.files else self.identity[0])
            try:
                runs = cut([group.num_rows for group in fragment.row_groups], rows)
            except (OSError, pa.ArrowInvalid):
                found.append(Piece(fragment.path, own, None, number))
                continue
            for first, last, held in runs:
                where = "" if len(runs) == 1 else f", row groups {first} to {last - 1}"
                found.append(Piece(f"{fragment.path}{where}", digest(own, first, last), held, number, first, last))
        return tuple(found)

    def tables(self, piece: Piece, columns: Sequence[str], *, rows: int) -> Iterator[pa.Table]:
        fragment = self._fragments[piece.file]
        try:
            if piece.last:
                fragment = fragment.subset(row_group_ids=list(range(piece.first, piece.last)))
            for batch in fragment.scanner(schema=self.dataset.schema, columns=list(columns), batch_size=rows, batch_readahead=2, fragment_readahead=1,
                                          fragment_scan_options=reading_options()).to_batches():
                yield pa.Table.from_batches([batch])
        except (OSError, pa.ArrowInvalid) as error:
            raise damaged(piece.name, error) from error


# ---------------------------------------------------------------------- object storage


def address_of(data: Any) -> str:
    """The address by which this names files elsewhere, such as `s3://bucket/logs`, or nothing. A path has lost a slash of it, as on the command line."""
    if not isinstance(data, (str, os.PathLike)):
        return ""
    found = re.match(r"([a-z][a-z0-9+.]+):/(/?)(.*)", os.fspath(data))
    if found is None or not (found[2] or isinstance(data, os.PathLike)):
        return ""
    return f"{found[1]}://{found[3]}" if found[2] or found[1] != "file" else f"file:///{found[3]}"


def remote_files(url: str, *, name: str = "") -> Dataset:
    """Parquet files on any storage that fsspec knows: a file, a folder with all below it, or a pattern. Rights to read come from where the storage's library looks for them.

    Raises:
        DataError: Nothing there, or none of the files can be read.
        MissingExtraError: fsspec, or the storage's library, is missing.
    """
    protocol = url.split("://", 1)[0]
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingExtraError(error.name or "fsspec", extra="storage", purpose=f"Reading {protocol}:// files") from None
    except ValueError as error:
        raise DataError(f"cannot read {url}: {error}", hint=f"storage that fsspec knows: {listing(sorted(fsspec.available_protocols()), limit=8)}") from None
    try:
        found = sorted(system.glob(path) if any(sign in path for sign in "*?[") else system.find(path))
        paths = [one for one in found if one.endswith((".parquet", ".pq")) and not re.search(r"(^|/)[._]", one.removeprefix(path))]
        sizes = [f"{one} {system.size(one)} {system.ukey(one)}" for one in paths]
    except Exception as error:  # each storage has errors of its own
        raise DataError(f"cannot look into {url}: {type(error).__name__}: {error}", hint="is the address right, and may you read there?") from None
    if not paths:
        raise DataError(f"no Parquet file at {url}; files: {listing(found, limit=5)}", hint="give a file, a folder or a pattern such as s3://bucket/logs/*.parquet")
    base = path if system.isdir(path) else ""
    return Dataset(name or url.rstrip("/").rsplit("/", 1)[-1], partial(_open_remote, url, tuple(paths), base), tuple(sizes), tuple(sizes))


def _open_remote(url: str, paths: tuple[str, ...], base: str) -> ds.Dataset:
    import fsspec

    system, _ = fsspec.core.url_to_fs(url)
    files = pa.fs.PyFileSystem(pa.fs.FSSpecHandler(system))
    partitioning = ds.partitioning(flavor="hive") if base else None
    options: dict[str, Any] = {"filesystem": files, "format": "parquet", "partitioning": partitioning, "partition_base_dir": base or None}
    schemas, reason = [], None
    for path in paths:  # number types may differ from file to file; a file that cannot be read is found when its rows are
        try:
            schemas.append(ds.dataset([path], **options).schema)
        except (OSError, pa.ArrowInvalid) as error:
            reason = reason or damaged(path, error)
    if not schemas:
        assert reason is not None
        raise reason
    try:
        schema = pa.unify_schemas(schemas, promote_options="permissive").remove_metadata()
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"the files at {url} disagree on a column's type: {error}", hint="write them anew with the same types") from None
    return ds.dataset(list(paths), schema=schema, **options)


# ---------------------------------------------------------------------- Delta


def is_delta(data: Any) -> bool:
    """Whether this is a Delta table: an object of deltalake's, or a folder with its log."""
    from pathlib import Path

    if type(data).__module__.split(".")[0] == "deltalake":
        return True
    return isinstance(data, (str, Path)) and not address_of(data) and (Path(data) / "_delta_log").is_dir()


def delta_table(data: Any, *, name: str = "") -> Dataset:
    """A Delta table at its present version, or at the one that the given object has loaded.

    Raises:
        DataError: It cannot be read, such as one with deletion vectors, which deltalake does not give as files.
        MissingExtraError: deltalake is missing.
    """
    try:
        from deltalake import DeltaTable
    except ImportError:
        raise MissingExtraError("deltalake", extra="delta", purpose="Reading a Delta table") from None
    try:
        table = data if isinstance(data, DeltaTable) else DeltaTable(str(data))
        uri, version = table.table_uri, table.version()
        found = Dataset(name or uri.rstrip("/").rsplit("/", 1)[-1], partial(_open_delta, uri, version), (str(table.metadata().id), str(version)))
        _ = found.dataset
    except Exception as error:  # deltalake has many kinds
        raise DataError(f"cannot read the Delta table {data}: {error}", hint="is it there, and without deletion vectors (DeltaTable(...).optimize.compact() writes them out)?") from None
    return found


def _open_delta(uri: str, version: int) -> ds.Dataset:
    from deltalake import DeltaTable

    return DeltaTable(uri, version=version).to_pyarrow_dataset()


__all__ = ["Dataset", "address_of", "delta_table", "is_delta", "remote_files"]
