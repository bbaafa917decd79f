"""Events in one DuckDB file: the default. One process writes it; DuckDB's write-ahead log is on the disk before a batch is acknowledged."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import pyarrow as pa

from recspect.diagnosis.source_query import literal
from recspect.errors import DataError
from recspect.events.event import Event, EventKind
from recspect.events.pseudonyms import Pseudonyms
from recspect.events.reject import Reject
from recspect.events.rows import EventRows, chosen_events, known_kind
from recspect.events.store import (
    EVENT_COLUMNS,
    REJECT_COLUMNS,
    STORE_FORMAT,
    Erased,
    Receipt,
    Window,
    events_table,
    first_of_each,
    rejects_table,
    require_format,
    require_same_key,
)
from recspect.events.traces import mentioning

TABLES = """
CREATE TABLE about (name VARCHAR PRIMARY KEY, value VARCHAR NOT NULL);
CREATE TABLE events (
    event_id VARCHAR PRIMARY KEY, kind VARCHAR NOT NULL, "user" VARCHAR NOT NULL, item VARCHAR NOT NULL, request VARCHAR, position INTEGER,
    propensity DOUBLE, model_version VARCHAR, surface VARCHAR, "time" TIMESTAMPTZ NOT NULL, received TIMESTAMPTZ NOT NULL, value DOUBLE,
    attributes VARCHAR, sequence BIGINT NOT NULL);
CREATE TABLE rejects (
    reject_id VARCHAR PRIMARY KEY, received TIMESTAMPTZ NOT NULL, origin VARCHAR NOT NULL, code VARCHAR NOT NULL, reason VARCHAR NOT NULL,
    "user" VARCHAR, raw VARCHAR NOT NULL);
"""

ROWS = 65_536
"""Rows of a table that is streamed out."""

READERS_SECONDS = 60.0
"""How long erasing waits for those who read."""


class DuckdbStore:
    """A DuckDB file of events. See `EventStore`.

    Args:
        path: The file.
        pseudonyms: How users are named on entry.
    """

    def __init__(self, path: Path, pseudonyms: Pseudonyms | None) -> None:
        self.where = str(path)
        self.pseudonyms = pseudonyms
        self._path = path
        self._writing = threading.RLock()
        self._reading = threading.Condition()
        self._readers = 0
        self._connection = _connect(path)
        self._next = 0

    @classmethod
    def open(cls, path: Path, *, pseudonyms: Pseudonyms | None = None, create: bool = True) -> DuckdbStore:
        """Open a file, finish what a killed process left undone, and make tables where there are none.

        Raises:
            DataError: No such file (without `create`), no database, another process has it, another version or key.
        """
        if not path.exists():
            if not create:
                raise DataError(f"there is no event store {path}", hint="recspect events import FILE --store " + str(path))
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
        store = cls(path, pseudonyms)
        try:
            store._prepare()
        except BaseException:
            store.close()
            raise
        return store

    def append(self, events: Sequence[Event], rejects: Sequence[Reject] = ()) -> Receipt:
        with self._writing:
            first = first_of_each(events)
            incoming = events_table([events[place] for place in first.values()], self.pseudonyms)
            number = EVENT_COLUMNS.get_field_index("sequence")
            incoming = incoming.set_column(number, EVENT_COLUMNS.field(number), pa.array(range(self._next, self._next + len(first)), pa.int64()))
            with self._transaction() as connection:
                new = set(self._insert(connection, "events", incoming, "event_id"))
                kept = len(self._insert(connection, "rejects", rejects_table(rejects, self.pseudonyms), "reject_id"))
            self._next += len(first)
        return Receipt(tuple(event.event_id in new and first[event.event_id] == place for place, event in enumerate(events)), kept)

    def read(self, window: Window | None = None, kinds: Sequence[EventKind | str] | None = None, users: Sequence[str] | None = None) -> EventRows:
        return chosen_events(self, window, kinds, users)

    def since(self, cursor: int, *, limit: int = 10_000) -> tuple[pa.Table, int]:
        found = self._table(f"SELECT * FROM {{events}} WHERE sequence > {int(cursor)} ORDER BY sequence LIMIT {int(limit)}", EVENT_COLUMNS)  # noqa: S608 - whole numbers
        return found, int(found["sequence"][-1].as_py()) if found.num_rows else cursor

    def newest(self) -> int:
        return int(self._table("SELECT coalesce(max(sequence), 0) AS newest FROM {events}", pa.schema([("newest", pa.int64())]))["newest"][0].as_py())

    def rejects(self, *, limit: int = 1_000) -> pa.Table:
        return self._table(f"SELECT * FROM rejects ORDER BY received DESC, reject_id LIMIT {int(limit)}", REJECT_COLUMNS)  # noqa: S608 - a whole number

    def count(self, kind: EventKind | str | None = None) -> int:
        where = "" if kind is None else f" WHERE kind = {literal(known_kind(kind).value)}"
        return int(self._table(f"SELECT count(*) AS rows FROM {{events}}{where}", pa.schema([("rows", pa.int64())]))["rows"][0].as_py())  # noqa: S608 - a known kind

    def count_rejects(self) -> int:
        return int(self._table("SELECT count(*) AS rows FROM rejects", pa.schema([("rows", pa.int64())]))["rows"][0].as_py())

    def stored_user(self, user: str) -> str:
        return user if self.pseudonyms is None else self.pseudonyms.name(user)

    def forget(self, user: str) -> Erased:
        name = self.stored_user(user)
        with self._writing, self._alone():
            with self._transaction() as connection:
                events = _counted(connection.execute('DELETE FROM events WHERE "user" = ?', [name]))
                rejects = _counted(connection.execute('DELETE FROM rejects WHERE "user" = ?', [name]))
                for form, found in mentioning(user, self.pseudonyms):
                    rows = connection.execute("SELECT reject_id, raw, reason, origin FROM rejects WHERE strpos(raw || reason || origin, ?) > 0", [form]).fetchall()
                    gone = [reject_id for reject_id, *texts in rows if any(found.search(text) for text in texts)]
                    rejects += _counted(connection.execute("DELETE FROM rejects WHERE reject_id IN (SELECT unnest(?))", [gone]))
                # What a later process finds when this one is killed before the file is written anew.
                _note(connection, "erasing", "yes")
                _note(connection, "next_sequence", str(self._next))
            self._rewrite()
        return Erased(events, rejects)

    def select(self, sql: str, columns: pa.Schema) -> Iterator[pa.Table]:
        with self._reading:
            self._readers += 1
        cursor = None
        try:
            cursor = self._connection.cursor()
            cursor.execute("SET TimeZone = 'UTC'")
            for piece in cursor.sql(sql.replace("{events}", "events")).to_arrow_reader(ROWS):
                yield pa.Table.from_batches([piece]).cast(columns)
        except (duckdb.Error, OSError) as error:
            raise DataError(f"{self.where} cannot be read: {_said(error)}", hint="is there room for temporary files beside it?") from None
        finally:
            if cursor is not None:
                cursor.close()
            with self._reading:
                self._readers -= 1
                self._reading.notify_all()

    def close(self) -> None:
        with self._writing:
            self._connection.close()

    # ------------------------------------------------------------------ details

    def _prepare(self) -> None:
        shutil.rmtree(f"{self._path}.tmp", ignore_errors=True)  # what a killed process spilled
        for left in self._rewriting:
            left.unlink(missing_ok=True)
        try:
            there = self._connection.execute("SELECT table_name FROM duckdb_tables() WHERE table_name = 'about'").fetchall()
            if not there:
                with self._transaction() as connection:
                    connection.execute(TABLES)
                    _note(connection, "format", str(STORE_FORMAT))
                    _note(connection, "key", "" if self.pseudonyms is None else self.pseudonyms.fingerprint)
            about = dict(self._connection.execute("SELECT name, value FROM about").fetchall())
            require_format(about.get("format"), self.where)
            require_same_key(about.get("key"), self.pseudonyms, self.where)
            last = self._connection.execute("SELECT coalesce(max(sequence), 0) FROM events").fetchone()
        except duckdb.Error as error:
            raise DataError(f"{self.where} is no event store: {_said(error)}", hint="choose another file name") from None
        assert last is not None
        self._next = max(int(last[0]) + 1, int(about.get("next_sequence", "1")))
        if about.get("erasing"):
            self._rewrite()

    def _insert(self, connection: duckdb.DuckDBPyConnection, table: str, incoming: pa.Table, key: str) -> list[str]:
        """Put rows in whose key is not there; gives the keys that were not."""
        if not incoming.num_rows:
            return []
        connection.register("incoming", incoming)
        try:
            return [row[0] for row in connection.execute(f"INSERT INTO {table} SELECT * FROM incoming ON CONFLICT DO NOTHING RETURNING {key}").fetchall()]  # noqa: S608 - our own names
        finally:
            connection.unregister("incoming")

    def _table(self, sql: str, columns: pa.Schema) -> pa.Table:
        found = list(self.select(sql, columns))
        return pa.concat_tables(found) if found else columns.empty_table()

    @contextmanager
    def _transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """All or nothing. The commit returns when the write-ahead log is on the disk.

        Raises:
            DataError: It could not be committed; nothing of it is there.
        """
        try:
            self._connection.execute("BEGIN")
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException as error:
            with suppress(duckdb.Error):
                self._connection.execute("ROLLBACK")
            if not isinstance(error, duckdb.Error):
                raise
            if isinstance(error, (duckdb.FatalException, duckdb.ConnectionException)):  # DuckDB does nothing more until it is opened anew
                with suppress(duckdb.Error, DataError):
                    self._connection.close()
                    self._connection = _connect(self._path)
            raise DataError(f"{self.where} cannot be written: {_said(error)}", hint="is there room on the disk, and is the file still there?") from None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody reads while this lasts.

        Raises:
            DataError: Somebody went on reading.
        """
        until = time.monotonic() + READERS_SECONDS
        with self._reading:
            while self._readers:
                if not self._reading.wait(until - time.monotonic()):
                    raise DataError(f"{self.where} is being read, so nothing can be erased from it", hint="close what reads it and try again")
            yield

    @property
    def _rewriting(self) -> tuple[Path, Path]:
        return Path(f"{self._path}.rewriting"), Path(f"{self._path}.rewriting.wal")

    def _rewrite(self) -> None:
        """Write the file anew without what was deleted, and put it in the old one's place.

        DuckDB marks what is deleted and uses its place again some day; the bytes stay. The old file is whole until the new one takes its
        place, and the note `erasing` in it makes whoever opens it go on.
        """
        new, new_log = self._rewriting
        try:
            self._connection.execute("CHECKPOINT")  # empties the log, which would else be taken for the new file's
            name = self._connection.execute("SELECT current_database()").fetchone()
            assert name is not None
            self._connection.execute(f"ATTACH {literal(str(new))} AS rewritten")
            self._connection.execute('COPY FROM DATABASE "' + name[0].replace('"', '""') + '" TO rewritten')
            self._connection.execute("DELETE FROM rewritten.about WHERE name = 'erasing'")
            self._connection.execute("CHECKPOINT rewritten")
            self._connection.execute("DETACH rewritten")
            self._connection.close()
            for left in (Path(f"{self._path}.wal"), new_log):
                left.unlink(missing_ok=True)
            with new.open("rb") as file:
                os.fsync(file.fileno())
            new.replace(self._path)
            folder = os.open(self._path.absolute().parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except (duckdb.Error, OSError) as error:
            raise DataError(f"{self.where} could not be written anew: {_said(error)}",
                            hint="the person's rows are gone, their bytes not yet: make room for a copy of the file and open the store again") from None
        finally:
            with suppress(duckdb.Error):
                self._connection.close()
            self._connection = _connect(self._path)


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    try:
        connection = duckdb.connect(str(path))
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
    except duckdb.Error as error:
        if "lock" in str(error).lower():
            raise DataError(f"another process has {path} open, and a DuckDB file has one writer",
                            hint="send events to the process that has it (recspect events serve), or keep them in PostgreSQL") from None
        raise DataError(f"{path} cannot be opened: {_said(error)}", hint="an event store is a DuckDB file that recspect made") from None
    return connection


def _note(connection: duckdb.DuckDBPyConnection, name: str, value: str) -> None:
    connection.execute("INSERT INTO about VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", [name, value])


def _counted(done: duckdb.DuckDBPyConnection) -> int:
    found = done.fetchone()
    return 0 if found is None else int(found[0])


def _said(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
