"""Where events are kept: one interface, on DuckDB (a file, one writer) or PostgreSQL (several writers).

Both promise the same. An event is kept once however often it comes (by its id); late and out-of-order events are taken;
`append` returns only when what it was given survives a crash; what was not well formed lies in a table of rejects with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from recspect.diagnosis.source import Source
from recspect.errors import DataError, UsageError
from recspect.events.event import Event, EventKind
from recspect.events.pseudonyms import Pseudonyms
from recspect.events.reject import Reject

STORE_FORMAT = 1
"""Version of the tables. Another one is refused."""

TIME = pa.timestamp("us", "UTC")

EVENT_COLUMNS = pa.schema([
    ("event_id", pa.string()), ("kind", pa.string()), ("user", pa.string()), ("item", pa.string()), ("request", pa.string()),
    ("position", pa.int32()), ("propensity", pa.float64()), ("model_version", pa.string()), ("surface", pa.string()),
    ("time", TIME), ("received", TIME), ("value", pa.float64()), ("attributes", pa.string()), ("sequence", pa.int64()),
])
"""Columns of events as they are read. `sequence` grows in the order in which events became visible."""

REJECT_COLUMNS = pa.schema([
    ("reject_id", pa.string()), ("received", TIME), ("origin", pa.string()), ("code", pa.string()), ("reason", pa.string()),
    ("user", pa.string()), ("raw", pa.string()),
])
"""Columns of rejects."""


@dataclass(frozen=True)
class Receipt:
    """What became of one batch; when it is there, the batch is durable.

    Args:
        new: For each event of the batch, in order, whether it was new; False where its id was there already.
        rejected: Number of rejects kept.
    """

    new: tuple[bool, ...]
    rejected: int = 0

    @property
    def accepted(self) -> int:
        """Number of events that were new."""
        return sum(self.new)

    @property
    def duplicates(self) -> int:
        """Number of events that were there already."""
        return len(self.new) - sum(self.new)


@dataclass(frozen=True)
class Erased:
    """What `forget` took away.

    Args:
        events, rejects: Numbers of rows.
    """

    events: int
    rejects: int


@dataclass(frozen=True, kw_only=True)
class Window:
    """A span of event time, from `start` up to but not including `end`; None is open.

    Args:
        start, end: Moments with a zone.

    Raises:
        UsageError: A moment without a zone, or an end that is not after the start.
    """

    start: datetime | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        for moment in (self.start, self.end):
            if moment is not None and moment.tzinfo is None:
                raise UsageError(f"the window has {moment.isoformat()}, a moment without a zone", hint="datetime(2026, 5, 1, tzinfo=UTC)")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise UsageError(f"the window ends ({self.end.isoformat()}) before it starts ({self.start.isoformat()})")


class EventStore(Protocol):
    """Keeps events. See the module for what every store promises.

    `where` says in messages where it is, without a password. `pseudonyms` names the users on entry, or is None.
    """

    where: str
    pseudonyms: Pseudonyms | None

    def append(self, events: Sequence[Event], rejects: Sequence[Reject] = ()) -> Receipt:
        """Keep a batch, in one transaction. Users get their pseudonyms here. Safe to call from several threads.

        Raises:
            DataError: The store cannot take it now (no room, no connection); nothing of the batch was acknowledged.
        """
        ...

    def read(self, window: Window | None = None, kinds: Sequence[EventKind | str] | None = None, users: Sequence[str] | None = None) -> Source:
        """Events as a source, streamed; columns as in `EVENT_COLUMNS`.

        Args:
            window: Which event times; all where None.
            kinds: Which kinds; all where None.
            users: Whose, by the ids as they were sent; everyone's where None.
        """
        ...

    def since(self, cursor: int, *, limit: int = 10_000) -> tuple[pa.Table, int]:
        """Events that became visible after a cursor, in that order, and the cursor to go on with.

        Args:
            cursor: 0 from the start, else what an earlier call gave.
            limit: At most so many.
        """
        ...

    def newest(self) -> int:
        """The cursor behind all events that are visible now: `since` goes on from it without reading what was before."""
        ...

    def rejects(self, *, limit: int = 1_000) -> pa.Table:
        """The newest rejects; columns as in `REJECT_COLUMNS`."""
        ...

    def count(self, kind: EventKind | str | None = None) -> int:
        """Number of events, of one kind or all."""
        ...

    def count_rejects(self) -> int:
        """Number of rejects."""
        ...

    def forget(self, user: str) -> Erased:
        """Erase a person: every event, reject and index entry.

        Args:
            user: The id as it was sent; under pseudonyms it is named with the same key.
        """
        ...

    def stored_user(self, user: str) -> str:
        """What stands in the column `user` for the id as it was sent."""
        ...

    def select(self, sql: str, columns: pa.Schema) -> Iterator[pa.Table]:
        """Rows of one SELECT that both engines understand, streamed; `{events}` in it stands for the table of events."""
        ...

    def close(self) -> None:
        """Let go of the file or the connections."""
        ...


def open_store(where: str | Path, *, pseudonyms: Pseudonyms | None = None, create: bool = True) -> EventStore:
    """Open a store, and make it where it is not there yet.

    Args:
        where: A file name ending in `.duckdb`, or `postgresql://USER@HOST/DATABASE`; `?recspect_schema=NAME` puts the tables into
            that PostgreSQL schema instead of `recspect`.
        pseudonyms: How users are named on entry. A store keeps to the key that it began with.
        create: Whether a store that is not there is made.

    Raises:
        UsageError: Neither a DuckDB file nor a PostgreSQL address.
        DataError: It cannot be opened: another process has the file, no connection, tables of another version, another key.
    """
    text = str(where)
    if text.startswith(("postgresql://", "postgres://")):
        from recspect.events.store_postgres import PostgresStore

        return PostgresStore.open(text, pseudonyms=pseudonyms, create=create)
    if "://" in text:
        raise UsageError(f"no event store is reached by {text.split('://', 1)[0]}://", hint="give FILE.duckdb or postgresql://USER@HOST/DATABASE")
    if Path(text).suffix != ".duckdb":
        raise UsageError(f"an event store is a file that ends in .duckdb, this is {text[:200]!r}", hint="events.duckdb, or postgresql://USER@HOST/DATABASE")
    from recspect.events.store_duckdb import DuckdbStore

    return DuckdbStore.open(Path(text), pseudonyms=pseudonyms, create=create)


# ------------------------------------------------------------------ what both stores share


def events_table(events: Sequence[Event], pseudonyms: Pseudonyms | None) -> pa.Table:
    """Events as an Arrow table with pseudonyms in place of users; `sequence` is each one's place in the batch."""
    users = [event.user for event in events]
    if pseudonyms is not None:
        users = [pseudonyms.name(user) for user in users]
    columns = [users if name == "user" else list(range(len(events))) if name == "sequence" else [getattr(event, name) for event in events]
               for name in EVENT_COLUMNS.names]
    return pa.Table.from_arrays([pa.array(values, kind) for values, kind in zip(columns, EVENT_COLUMNS.types, strict=True)], schema=EVENT_COLUMNS)


def rejects_table(rejects: Sequence[Reject], pseudonyms: Pseudonyms | None) -> pa.Table:
    """Rejects as an Arrow table; under pseudonyms nothing in it tells who it was."""
    kept = {each.reject_id: each for each in (reject.kept(pseudonyms) for reject in rejects)}
    return pa.Table.from_pylist([{name: getattr(reject, name) for name in REJECT_COLUMNS.names} for reject in kept.values()], schema=REJECT_COLUMNS)


def first_of_each(events: Sequence[Event]) -> dict[str, int]:
    """Event id to the place of its first appearance in the batch."""
    first: dict[str, int] = {}
    for place, event in enumerate(events):
        first.setdefault(event.event_id, place)
    return first


def require_same_key(known: str | None, pseudonyms: Pseudonyms | None, where: str) -> None:
    """Make sure that a store is opened with the key that it began with (`known`; empty: none; None: it is new).

    Raises:
        DataError: It is another one, one where there was none, or none where there was one.
    """
    given = "" if pseudonyms is None else pseudonyms.fingerprint
    if known is None or known == given:
        return
    if not given:
        raise DataError(f"the users of {where} have pseudonyms, and no key was given", hint="--pseudonym-key FILE, or set RECSPECT_PSEUDONYM_KEY")
    raise DataError(f"{where} " + ("holds users under their own ids, and a key of pseudonyms was given" if not known else
                                   "was begun with another key of pseudonyms"),
                    hint="one store has one key: events of two keys would be two people; use another store")


def require_format(found: object, where: str) -> None:
    """Make sure that the tables are of this version.

    Raises:
        DataError: They are not.
    """
    if found != str(STORE_FORMAT):
        raise DataError(f"{where} has event tables of version {found}, this recspect reads {STORE_FORMAT}", hint="use the recspect that wrote it, or a new store")


def json_forms(text: str) -> tuple[str, ...]:
    """How a text may stand inside JSON: as it is, and escaped in either way."""
    return tuple(dict.fromkeys([text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]]))
