"""Events as a source: what training, diagnosis and statistics read, streamed out of a store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import pyarrow as pa

from recspect.diagnosis.source_query import literal, quoted
from recspect.diagnosis.source_tables import TableSource
from recspect.errors import UsageError, listing
from recspect.events.event import CONTROL, EventKind
from recspect.events.store import EVENT_COLUMNS, EventStore, Window


@dataclass(frozen=True)
class EventRows(TableSource):
    """Rows of a SELECT on a store, run anew for each pass.

    Args:
        name: What to call it.
        store: Where the events are; must stay open.
        sql: One SELECT that both engines understand; `{events}` stands for the table of events.
        schema: Its columns.
    """

    name: str
    store: EventStore
    sql: str
    schema: pa.Schema

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.schema.names)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows as Arrow tables of bounded size; none where there are no rows."""
        wanted = self.columns if columns is None else tuple(columns)
        chosen = ", ".join(quoted(name) for name in wanted)
        return self.store.select(f"SELECT {chosen} FROM ({self.sql}) AS chosen", pa.schema([self.schema.field(name) for name in wanted]))  # noqa: S608 - quoted

    def read_tables(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:  # noqa: ARG002 - a store gives as many at a time as it sees fit
        return self.tables(columns)

    def frame(self) -> nw.LazyFrame[Any] | None:
        """None: a lazy frame would hold the store's file open for as long as anybody holds the frame, and erasing could not go on."""
        return None

    def fingerprint(self) -> str:
        """Of the query, and of which events it reads: events never change, so their number and the total of their sequence numbers tell."""
        rows = f"({self.sql}) AS chosen" if "sequence" in self.columns else "{events}"
        columns = pa.schema([("rows", pa.int64()), ("total", pa.string()), ("low", pa.string()), ("high", pa.string())])
        asked = f"SELECT count(*) AS rows, CAST(sum(sequence) AS TEXT) AS total, min(md5(event_id)) AS low, max(md5(event_id)) AS high FROM {rows}"  # noqa: S608 - our own
        found = pa.concat_tables(list(self.store.select(asked, columns))).to_pylist()
        return hashlib.blake2b(repr((self.sql, found)).encode(), digest_size=16).hexdigest()

    def count(self) -> int | None:
        found = list(self.store.select(f"SELECT count(*) AS rows FROM ({self.sql}) AS chosen", pa.schema([("rows", pa.int64())])))  # noqa: S608 - our own text
        return int(found[0]["rows"][0].as_py())


def chosen_events(store: EventStore, window: Window | None, kinds: Sequence[EventKind | str] | None, users: Sequence[str] | None) -> EventRows:
    """Events of a window, of kinds and of users; see `EventStore.read`."""
    where = condition(window, kinds, users=None if users is None else [store.stored_user(user) for user in users])
    return EventRows(name=f"events of {store.where}", store=store, sql=f"SELECT * FROM {{events}} WHERE {where}", schema=EVENT_COLUMNS)  # noqa: S608 - literals


def condition(window: Window | None = None, kinds: Sequence[EventKind | str] | None = None, users: Sequence[str] | None = None) -> str:
    """The condition of a WHERE clause, in SQL that both engines read.

    Raises:
        UsageError: An unknown kind.
    """
    parts = ["true"]
    for moment, sign in ((window.start, ">="), (window.end, "<")) if window is not None else ():
        if moment is not None:
            parts.append(f'"time" {sign} TIMESTAMPTZ {literal(moment.isoformat())}')
    if kinds is not None:
        parts.append(_among("kind", [known_kind(kind).value for kind in kinds]))
    if users is not None:
        parts.append(_among("user", [user for user in users if not CONTROL.search(user)]))  # a user with NUL was never taken
    return " AND ".join(parts)


def known_kind(kind: EventKind | str) -> EventKind:
    """The kind of that name.

    Raises:
        UsageError: There is none.
    """
    try:
        return EventKind(kind)
    except ValueError:
        raise UsageError(f"no kind of event is called {str(kind)!r:.80}", hint=f"kinds: {listing(each.value for each in EventKind)}") from None


def _among(column: str, values: Sequence[str]) -> str:
    return f"{quoted(column)} IN ({', '.join(literal(value) for value in values)})" if values else "false"
