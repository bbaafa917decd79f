"""Lists for all users in one file: by batches, in bounded memory, whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.source_values import to_arrow
from recspect.errors import DataError, UsageError
from recspect.files import cannot_write, require_writable
from recspect.recommending.pipeline.id_table import IdTable
from recspect.recommending.pipeline.recommender import Lists, Recommender
from recspect.recommending.pipeline.trace import as_table, trace_schema

USERS = 256
"""Users of one batch."""


def write_lists(recommender: Recommender, users: Sequence[Any], out: Path, *, k: int = 10, context: dict[str, Any] | None = None, seed: int = 0,
                trace: bool = False, users_at_once: int = USERS, progress: Callable[[int], None] = lambda _: None) -> int:
    """Write the lists of many users as Parquet: user, item, rank, score, ranking_score, propensity, recommender.

    Args:
        recommender: Makes them.
        users: Ids.
        out: File; the traces are written beside it, see `trace_path`.
        k, context, seed: See `Recommender.recommend`.
        trace: Whether traces are written too.
        users_at_once: Users of one batch, which is what memory is needed for.
        progress: Told after each batch how many users are done.

    Returns:
        Rows written.

    Raises:
        UsageError: The file cannot be written; nothing of it is left, and an older one is as it was.
    """
    user, item = _type_of(users), _type_of(recommender.items.ids.values.tolist())
    schema = pa.schema([("user", user), ("item", item), ("rank", pa.int32()), ("score", pa.float64()), ("ranking_score", pa.float64()),
                        ("propensity", pa.float64()), ("recommender", pa.dictionary(pa.int32(), pa.string()))])
    rows = 0
    with ExitStack() as stack:
        # What is entered first is put into place last: where the lists are, their traces are too.
        lists_file = stack.enter_context(_whole(out, schema))
        traces_file = stack.enter_context(_whole(trace_path(out), trace_schema(user, item))) if trace else None
        for first in range(0, len(users), users_at_once):
            found = recommender.recommend(users[first:first + users_at_once], k, context=context, seed=seed, trace=trace)
            rows += found.table().rows
            lists_file.write_table(_lists_table(found, schema))
            if traces_file is not None:
                traces_file.write_table(as_table([{**row, "user": _plain(row["user"], user)} for row in found.trace_rows()], traces_file.schema))
            progress(min(first + users_at_once, len(users)))
    return rows


def trace_path(out: Path) -> Path:
    """Where the traces of a file of lists lie."""
    return out.with_name(f"{out.stem}.trace{out.suffix or '.parquet'}")


def _lists_table(found: Lists, schema: pa.Schema) -> pa.Table:
    batch: Batch = found.table()
    users = [_plain(user, schema.field("user").type) for user, slate in zip(found.users, found.slates, strict=True) for _ in range(len(slate))]
    items = found.items.ids.values.tolist()
    codes = [code for slate in found.slates for code in slate.items.tolist()]
    rest = to_arrow(batch.select(["rank", "score", "ranking_score", "propensity"]))
    version = pa.DictionaryArray.from_arrays(pa.array([0] * batch.rows, pa.int32()), pa.array([found.version]))
    columns = [pa.array(users, schema.field("user").type), pa.array([items[code] for code in codes], schema.field("item").type),
               *(rest[name].combine_chunks().cast(schema.field(name).type) for name in rest.schema.names), version]
    return pa.Table.from_arrays(columns, schema=schema)


def _type_of(ids: Sequence[Any]) -> pa.DataType:
    """int64 where all are whole numbers, else text; the same for every batch of a file."""
    return pa.int64() if all(isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 for value in ids) else pa.string()


def _plain(value: Any, kind: pa.DataType) -> Any:
    return str(value) if kind == pa.string() and value is not None else value


class _whole:  # noqa: N801 - used as `with _whole(...)`
    """A Parquet file that is moved into place when all went well, and removed when not."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        require_writable(path)
        self.path = path.resolve() if path.is_symlink() else path
        self.beside = self.path.with_name(f".{self.path.name[:40]}.{os.getpid()}")
        self.schema = schema

    def __enter__(self) -> pq.ParquetWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.beside.open("wb")
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self.writer = pq.ParquetWriter(self.file, self.schema, compression="zstd")
        return self.writer

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self.writer.close()
            if kind is None:
                self.file.flush()
                os.fsync(self.file.fileno())
            self.file.close()
            if kind is None:
                os.replace(self.beside, self.path)  # noqa: PTH105 - same call as Path.replace, says that it is atomic
        except OSError as failure:
            kind = type(failure)
            raise cannot_write(self.path, failure) from None
        finally:
            self.file.close()
            with suppress(OSError):
                self.beside.unlink()
        if isinstance(error, OSError):
            raise cannot_write(self.path, error) from None


def read_users(path: Path, column: str | None) -> list[Any]:
    """Ids from a table (the user column, or its only one), or from a text file with one per line.

    Raises:
        DataError: No such file or column, or no ids.
    """
    if path.suffix.lower() in (".txt", ".lst", ""):
        try:
            found: list[Any] = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {error}", hint="one user id per line, in UTF-8") from None
        return _required(list(dict.fromkeys(found)), path)
    from recspect.diagnosis.source import read

    source = read(path)
    name = column if column in source.columns else source.columns[0] if len(source.columns) == 1 else None
    if name is None:
        raise DataError(f"{path} has no column {column!r}, and more than one other", hint="name the column of users as the schema does")
    return _required(list(dict.fromkeys(value for batch in source.batches([name]) for value in _values(batch, name))), path)


def _values(batch: Batch, name: str) -> Iterator[Any]:
    found = batch.categories(name)
    values = found.values.tolist()
    return (values[code] for code in found.codes.tolist() if code >= 0)


def _required(ids: list[Any], path: Path) -> list[Any]:
    if not ids:
        raise DataError(f"{path} holds no user", hint="one id per line, or a table with the user column")
    return ids


def require_known(users: IdTable, user: str) -> Any:
    """The id of a user as the recommender has it.

    Raises:
        UsageError: Nobody has this id.
    """
    code = int(users.codes([user])[0])
    if code < 0:
        some = ", ".join(repr(value)[:60] for value in users.values[:3].tolist())
        raise UsageError(f"no user {user[:200]!r} among the {len(users):,} that the recommender knows, such as {some}",
                         hint="--unknown gives the list that a new user would get")
    return users.values[code].item() if hasattr(users.values[code], "item") else users.values[code]
