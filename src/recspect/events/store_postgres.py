"""Events in PostgreSQL: several processes write at once."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pyarrow as pa

from recspect.diagnosis.source_query import literal, quoted
from recspect.errors import DataError, MissingExtraError, UsageError
from recspect.events.event import CONTROL, Event, EventKind
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

if TYPE_CHECKING:
    import psycopg

Result = TypeVar("Result")

TABLES = """
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {schema}.about (name text PRIMARY KEY, value text NOT NULL);
CREATE TABLE IF NOT EXISTS {schema}.events (
    event_id text PRIMARY KEY, kind text NOT NULL, "user" text NOT NULL, item text NOT NULL, request text, "position" integer,
    propensity double precision, model_version text, surface text, "time" timestamptz NOT NULL, received timestamptz NOT NULL,
    value double precision, attributes text, sequence bigserial NOT NULL UNIQUE);
CREATE INDEX IF NOT EXISTS events_user_time ON {schema}.events ("user", "time");
CREATE TABLE IF NOT EXISTS {schema}.rejects (
    reject_id text PRIMARY KEY, received timestamptz NOT NULL, origin text NOT NULL, code text NOT NULL, reason text NOT NULL, "user" text, raw text NOT NULL);
"""

TYPES = {"position": "int", "propensity": "float8", "value": "float8", "time": "timestamptz", "received": "timestamptz"}
"""Types of the arrays that a batch is sent as, where they are not text."""

SCHEMA_PARAMETER = "recspect_schema"
"""What names the PostgreSQL schema in an address."""

ROWS = 20_000
"""Rows of a table that is streamed out."""

RETRY_SECONDS = 30.0
"""How long a batch waits for a server that went away: sending it again is safe, since an event is kept once."""

CONNECT_SECONDS = 10
"""How long opening a connection may take."""


class PostgresStore:
    """Tables of events in one schema of a PostgreSQL database. See `EventStore`.

    Args:
        address: As PostgreSQL takes it.
        schema: Name of the schema.
        pseudonyms: How users are named on entry.
    """

    def __init__(self, address: str, schema: str, pseudonyms: Pseudonyms | None) -> None:
        self.pseudonyms = pseudonyms
        self._driver = _driver()
        self._address = address
        self._schema = quoted(schema)
        try:
            parts = self._driver.conninfo.conninfo_to_dict(address, connect_timeout=CONNECT_SECONDS)
        except self._driver.Error as error:
            raise UsageError(f"this is no address of PostgreSQL: {_said(error)}", hint="postgresql://USER@HOST/DATABASE") from None
        self._arguments = {**parts, "application_name": "recspect"}
        self.where = f"PostgreSQL {parts.get('host', 'local')}/{parts.get('dbname', '')}, schema {schema}"
        self._lock = int.from_bytes(hashlib.blake2b(schema.encode(), digest_size=8, person=b"recspect").digest(), "big", signed=True)
        self._writing = threading.RLock()
        self._connection: psycopg.Connection[Any] | None = None

    @classmethod
    def open(cls, address: str, *, pseudonyms: Pseudonyms | None = None, create: bool = True) -> PostgresStore:
        """Connect, and make the tables where there are none.

        Raises:
            DataError: No connection, no tables (without `create`), tables of another version, another key.
        """
        parts = urlsplit(address)
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
        schema = parameters.pop(SCHEMA_PARAMETER, "recspect")
        if not schema or len(schema.encode()) > 63 or CONTROL.search(schema):
            raise UsageError(f"{schema[:80]!r} cannot name a schema of PostgreSQL", hint="1 to 63 bytes, such as recspect")
        store = cls(urlunsplit(parts._replace(query=urlencode(parameters))), schema, pseudonyms)
        store._prepare(create)
        return store

    def append(self, events: Sequence[Event], rejects: Sequence[Reject] = ()) -> Receipt:
        first = first_of_each(events)
        incoming = events_table([events[place] for place in first.values()], self.pseudonyms)
        refused = rejects_table(rejects, self.pseudonyms)

        def keep(connection: psycopg.Connection[Any]) -> tuple[set[str], int]:
            with connection.transaction():
                # Shared by all who append; `since` waits for them, so that no sequence number becomes visible after a greater one was seen.
                connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", [self._lock])
                return (set(self._insert(connection, "events", incoming.drop_columns(["sequence"]), "event_id")),
                        len(self._insert(connection, "rejects", refused, "reject_id")))

        new, kept = self._again(keep)
        return Receipt(tuple(event.event_id in new and first[event.event_id] == place for place, event in enumerate(events)), kept)

    def read(self, window: Window | None = None, kinds: Sequence[EventKind | str] | None = None, users: Sequence[str] | None = None) -> EventRows:
        return chosen_events(self, window, kinds, users)

    def newest(self) -> int:
        def last(connection: psycopg.Connection[Any]) -> int:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", [self._lock])
                found = connection.execute(f"SELECT coalesce(max(sequence), 0) FROM {self._schema}.events").fetchone()  # noqa: S608 - quoted
                return int(found[0]) if found else 0

        return self._again(last)

    def since(self, cursor: int, *, limit: int = 10_000) -> tuple[pa.Table, int]:
        visible = self.newest()
        found = self._table(f"SELECT * FROM {{events}} WHERE sequence > {int(cursor)} AND sequence <= {visible} ORDER BY sequence LIMIT {int(limit)}", EVENT_COLUMNS)  # noqa: S608 - whole numbers
        return found, int(found["sequence"][-1].as_py()) if found.num_rows else cursor

    def rejects(self, *, limit: int = 1_000) -> pa.Table:
        return self._table(f"SELECT * FROM {self._schema}.rejects ORDER BY received DESC, reject_id LIMIT {int(limit)}", REJECT_COLUMNS)  # noqa: S608 - a whole number

    def count(self, kind: EventKind | str | None = None) -> int:
        where = "" if kind is None else f" WHERE kind = {literal(known_kind(kind).value)}"
        return int(self._table(f"SELECT count(*) AS rows FROM {{events}}{where}", pa.schema([("rows", pa.int64())]))["rows"][0].as_py())  # noqa: S608 - a known kind

    def count_rejects(self) -> int:
        return int(self._table(f"SELECT count(*) AS rows FROM {self._schema}.rejects", pa.schema([("rows", pa.int64())]))["rows"][0].as_py())  # noqa: S608 - quoted

    def stored_user(self, user: str) -> str:
        return user if self.pseudonyms is None else self.pseudonyms.name(user)

    def forget(self, user: str) -> Erased:
        name = self.stored_user(user)
        searched = "" if CONTROL.search(name) else name  # what no event can have

        def erase(connection: psycopg.Connection[Any]) -> Erased:
            with connection.transaction():
                events = connection.execute(f'DELETE FROM {self._schema}.events WHERE "user" = %s', [searched]).rowcount  # noqa: S608 - quoted
                rejects = connection.execute(f'DELETE FROM {self._schema}.rejects WHERE "user" = %s', [searched]).rowcount  # noqa: S608 - quoted
                for form, found in mentioning(user, self.pseudonyms):
                    rows = connection.execute(f"SELECT reject_id, raw, reason, origin FROM {self._schema}.rejects WHERE strpos(raw || reason || origin, %s) > 0", [form]).fetchall()  # noqa: S608 - quoted
                    gone = [reject_id for reject_id, *texts in rows if any(found.search(text) for text in texts)]
                    rejects += connection.execute(f"DELETE FROM {self._schema}.rejects WHERE reject_id = ANY(%s)", [gone]).rowcount  # noqa: S608 - quoted
            # Out of the pages and the indexes; FULL also gives the pages back, at the price of a lock, and is left to who runs the server.
            connection.execute(f"VACUUM (INDEX_CLEANUP ON) {self._schema}.events")
            connection.execute(f"VACUUM (INDEX_CLEANUP ON) {self._schema}.rejects")
            return Erased(events, rejects)

        return self._again(erase)

    def select(self, sql: str, columns: pa.Schema) -> Iterator[pa.Table]:
        with self._said_plainly(), self._connect() as connection, connection.transaction(), connection.cursor(name="rows", binary=True) as cursor:
            cursor.itersize = ROWS
            cursor.execute(sql.replace("%", "%%").replace("{events}", f"{self._schema}.events"), [])
            while rows := cursor.fetchmany(ROWS):
                yield pa.Table.from_arrays([pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), columns.types, strict=True)], schema=columns)

    def close(self) -> None:
        with self._writing:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    # ------------------------------------------------------------------ details

    def _prepare(self, create: bool) -> None:
        def make(connection: psycopg.Connection[Any]) -> dict[str, str]:
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", [self._lock])  # two that begin at once
                there = connection.execute("SELECT to_regclass(%s)", [f"{self._schema}.about"]).fetchone()
                if there is None or there[0] is None:
                    if not create:
                        raise DataError(f"there is no event store in {self.where}", hint="recspect events import FILE --store postgresql://...")
                    connection.execute(TABLES.replace("{schema}", self._schema).encode())
                    for name, value in (("format", str(STORE_FORMAT)), ("key", "" if self.pseudonyms is None else self.pseudonyms.fingerprint)):
                        connection.execute(f"INSERT INTO {self._schema}.about VALUES (%s, %s) ON CONFLICT DO NOTHING", [name, value])  # noqa: S608 - quoted
                return dict(connection.execute(f"SELECT name, value FROM {self._schema}.about").fetchall())  # noqa: S608 - quoted

        with self._said_plainly(), self._connect() as connection:
            about = make(connection)
        require_format(about.get("format"), self.where)
        require_same_key(about.get("key"), self.pseudonyms, self.where)

    def _insert(self, connection: psycopg.Connection[Any], table: str, incoming: pa.Table, key: str) -> list[str]:
        """Put rows in whose key is not there; gives the keys that were not.

        One statement, whatever the number of rows: the columns travel as arrays. In the order of the keys, so that two writers who bring
        the same events wait for each other and never both at once.
        """
        if not incoming.num_rows:
            return []
        names = ", ".join(quoted(name) for name in incoming.schema.names)
        arrays = ", ".join(f"%s::{TYPES.get(name, 'text')}[]" for name in incoming.schema.names)
        sql = (f"INSERT INTO {self._schema}.{table} ({names}) SELECT * FROM unnest({arrays}) AS incoming ({names}) ORDER BY {key} "  # noqa: S608 - quoted
               f"ON CONFLICT DO NOTHING RETURNING {key}")
        return [row[0] for row in connection.execute(sql, [column.to_pylist() for column in incoming.columns]).fetchall()]

    def _table(self, sql: str, columns: pa.Schema) -> pa.Table:
        found = list(self.select(sql, columns))
        return pa.concat_tables(found) if found else columns.empty_table()

    def _connect(self) -> psycopg.Connection[Any]:
        connection = self._driver.connect(**self._arguments, autocommit=True)
        # Times of all zones read back in UTC; a commit is acknowledged when its log is on the disk, whatever the server's default.
        connection.execute("SET TIME ZONE 'UTC'")
        connection.execute("SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'")
        return connection

    def _again(self, work: Callable[[psycopg.Connection[Any]], Result]) -> Result:
        """Do something on the writing connection, again on a new one where the server went away or two writers stood in each other's way."""
        until = time.monotonic() + RETRY_SECONDS
        pause = 0.05
        with self._writing:
            while True:
                try:
                    if self._connection is None or self._connection.closed:
                        self._connection = self._connect()
                    return work(self._connection)
                except (self._driver.OperationalError, self._driver.InterfaceError) as error:
                    with suppress(self._driver.Error):
                        if self._connection is not None:
                            self._connection.close()
                    self._connection = None
                    if time.monotonic() + pause > until:
                        raise DataError(f"{self.where} is not reached: {_said(error)}", hint="does the server run, and does it take connections from here?") from None
                    time.sleep(pause)
                    pause = min(2 * pause, 2.0)
                except self._driver.Error as error:
                    raise DataError(f"{self.where} cannot take it: {_said(error)}") from None

    @contextmanager
    def _said_plainly(self) -> Iterator[None]:
        try:
            yield
        except self._driver.OperationalError as error:
            raise DataError(f"{self.where} is not reached: {_said(error)}", hint="does the server run, and does it take connections from here?") from None
        except self._driver.Error as error:
            raise DataError(f"{self.where} cannot be read: {_said(error)}") from None


def _driver() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise MissingExtraError(error.name or "psycopg", extra="postgres", purpose="An event store in PostgreSQL") from None
    return psycopg


def _said(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
