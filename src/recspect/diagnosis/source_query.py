"""Rows that DuckDB computes: a SELECT over files, frames or a database, and relations.

DuckDB has one open result per connection: a second query on it ends the first one's stream without an error. So a
stream here always has a connection (or cursor) of its own; a relation of the user's, which is bound to the user's
connection, is collected instead, column by column as asked.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import narwhals as nw
import pyarrow as pa

from recspect.diagnosis import source_arrow
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.source import ROWS, Source, require_request
from recspect.diagnosis.source_tables import TableSource
from recspect.errors import DataError

Opening = Callable[[], duckdb.DuckDBPyConnection]


def is_connection(data: Any) -> bool:
    """Whether this is a DuckDB connection (or the module, which stands for its default connection)."""
    return isinstance(data, duckdb.DuckDBPyConnection)


def quoted(name: str) -> str:
    """A column or table name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def open_connection() -> duckdb.DuckDBPyConnection:
    """A connection in memory that spills to the folder for temporary files instead of the working directory."""
    connection = duckdb.connect(config={"temp_directory": f"{tempfile.gettempdir()}/recspect-duckdb"})
    connection.execute("SET enable_progress_bar = false")
    return connection


def query(
    sql: str, *, name: str, over: Source | None = None, connection: duckdb.DuckDBPyConnection | None = None
) -> Source:
    """A source over a SELECT, with another source as the table `data` or on the user's connection.

    Raises:
        DataError: Not one SELECT, or one that DuckDB refuses.
    """
    _require_select(sql)
    if connection is not None:
        try:  # a cursor has its own stream, but does not see temporary tables and registered frames
            names = connection.cursor().sql(sql).columns
        except duckdb.CatalogException:
            return Relation(name=name, relation=_relation(connection, sql, name))
        except duckdb.Error as error:
            raise _refused(name, error) from None
        return Query(name=name, sql=sql, opening=connection.cursor, names=tuple(names))
    assert over is not None
    opening = _opening(over)
    return Query(name=name, sql=sql, opening=opening, names=tuple(_relation(opening(), sql, name).columns), basis=over)


@dataclass(frozen=True)
class Query(TableSource):
    """A SELECT, run anew on a connection of its own for each pass.

    Args:
        name: What to call it.
        sql: One SELECT.
        opening: Gives a connection on which the query's tables are known.
        names: Its columns.
        basis: The source that stands as `data`, for the fingerprint.
    """

    name: str
    sql: str
    opening: Opening
    names: tuple[str, ...]
    basis: Source | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return self.names

    def frame(self) -> nw.LazyFrame[Any] | None:
        return source_arrow.as_lazy(_relation(self.opening(), self.sql, self.name))

    def fingerprint(self) -> str:
        """Of the query and of the source it stands on; on a database, of its number of rows and its first 10,000."""
        digest = hashlib.blake2b(self.sql.encode(), digest_size=16)
        if self.basis is not None:
            digest.update(self.basis.fingerprint().encode())
        else:
            digest.update(_head_fingerprint(_relation(self.opening(), self.sql, self.name)).encode())
        return digest.hexdigest()

    def count(self) -> int | None:
        return _count(_relation(self.opening(), self.sql, self.name))

    def read_tables(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        connection = self.opening()
        try:
            yield from stream(_relation(connection, self.sql, self.name), columns, rows)
        except duckdb.Error as error:
            raise _refused(self.name, error) from error
        finally:
            connection.close()


@dataclass(frozen=True)
class Relation(Source):
    """A DuckDB relation of the user's.

    Args:
        name: What to call it.
        relation: The relation. Its columns are collected into memory as they are asked for; to stream a larger table,
            give its files or `read(connection, sql=...)`.
    """

    name: str
    relation: duckdb.DuckDBPyRelation

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.relation.columns)

    def batches(
        self, columns: Sequence[str] | None = None, *, rows: int = ROWS, together: str | None = None
    ) -> Iterator[Batch]:
        wanted = require_request(self, columns, rows, together)
        shown = wanted if columns is None else tuple(dict.fromkeys(columns))
        try:
            table = _project(self.relation, wanted).to_arrow_table()
        except duckdb.Error as error:
            raise _refused(self.name, error) from error
        return source_arrow.to_batches(iter([table]), shown=shown, rows=rows, together=together, count=table.num_rows,
                                       name=self.name)

    def frame(self) -> nw.LazyFrame[Any] | None:
        return source_arrow.as_lazy(self.relation)

    def fingerprint(self) -> str:
        """Of the number of rows and the first 10,000 rows."""
        return _head_fingerprint(self.relation)

    def count(self) -> int | None:
        return _count(self.relation)


def stream(relation: duckdb.DuckDBPyRelation, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """A relation's rows piece by piece. Nothing else may run on its connection meanwhile.

    Raises:
        duckdb.Error: DuckDB cannot go on, such as at a line of a CSV file that is unlike the lines its types were told from.
    """
    try:
        for piece in _project(relation, columns).to_arrow_reader(rows):
            yield pa.Table.from_batches([piece])
    except OSError as error:  # what Arrow makes of an error that DuckDB meets while it streams
        raise duckdb.Error(str(error)) from error


def _project(relation: duckdb.DuckDBPyRelation, columns: Sequence[str]) -> duckdb.DuckDBPyRelation:
    return relation.project(", ".join(quoted(column) for column in columns))


def _count(relation: duckdb.DuckDBPyRelation) -> int:
    found = relation.aggregate("count(*)").fetchone()
    assert found is not None
    return int(found[0])


def _head_fingerprint(relation: duckdb.DuckDBPyRelation) -> str:
    head = relation.limit(10_000).to_arrow_table()
    counts = pa.array([_count(relation)] * head.num_rows, pa.int64())
    return source_arrow.fingerprint(head.append_column("rows", counts))


def _opening(over: Source) -> Opening:
    """A connection on which `over` is the table `data`."""
    from recspect.diagnosis.source_files import Files
    from recspect.diagnosis.source_frames import InMemory, LazyPolars

    if isinstance(over, Files) and over.form == "csv":
        return lambda: _with_view(over.scan)
    if isinstance(over, Files):
        return lambda: _registered(over.dataset())
    if isinstance(over, InMemory):
        return lambda: _registered(over.table)
    if isinstance(over, LazyPolars):
        return lambda: _registered(over.lazy.collect().to_arrow())
    frame = over.frame()
    if frame is None:
        raise DataError(f"a query cannot run over {over.name}", hint="write its rows to a Parquet file first")
    return lambda: _registered(frame.collect("pyarrow").to_native())


def _registered(rows: Any) -> duckdb.DuckDBPyConnection:
    return open_connection().register("data", rows)


def _with_view(scan: str) -> duckdb.DuckDBPyConnection:
    return open_connection().execute(f"CREATE VIEW data AS SELECT * FROM {scan}")  # noqa: S608 - built from literals


def _require_select(sql: str) -> None:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise _refused("the query", error) from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise DataError(f"sql must be one SELECT, this is {len(statements)} statement(s): {sql[:80]!r}",
                        hint='read("file.parquet", sql="SELECT * FROM data WHERE ...")')


def _relation(connection: duckdb.DuckDBPyConnection, sql: str, name: str) -> duckdb.DuckDBPyRelation:
    try:
        return connection.sql(sql)
    except duckdb.Error as error:
        raise _refused(name, error) from None


def _refused(name: str, error: duckdb.Error) -> DataError:
    return DataError(f"DuckDB cannot run {name}: {str(error).strip()[:600]}",
                     hint='files and frames stand in the query as the table "data"')
