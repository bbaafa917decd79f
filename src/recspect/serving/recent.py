"""What users did lately, followed in the store of events: a click counts for the next list."""

from __future__ import annotations

import threading
from bisect import insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from recspect.errors import RecspectError
from recspect.events.event import EventKind
from recspect.events.rows import condition
from recspect.events.store import TIME, EventStore, Window

WANTED = (EventKind.CLICK, EventKind.LIKE, EventKind.ADD_TO_CART, EventKind.PURCHASE)
"""Kinds of events that say that something was wanted; others are not kept, or what is shown would push out what was clicked."""

PER_USER = 50
"""Events kept of each user, the newest by their own time."""

DAYS = 30.0
"""How far back the store is read at the start; a recommender that is older than that knows less of the days between."""

_COLUMNS = pa.schema([("user", pa.string()), ("item", pa.string()), ("time", TIME)])


@dataclass(frozen=True, order=True)
class Done:
    """One thing that a user wanted.

    Args:
        time: Microseconds since 1970.
        item: Id as it was sent.
    """

    time: int
    item: str


Row = tuple[str, Done]
"""A user's name in the store, and what was done."""


class Recent:
    """Last events of users in memory, by the user's name in the store.

    At the start the last events of each user are read, not the whole store: `per_user` of each, of the last `days`.

    Args:
        store: Is followed by its cursor, so events of other processes come too.
        per_user: Events kept of each user, the newest by their own time.
        users: Users kept, those of whom something was heard last.
        days: How far back is read at the start.
    """

    def __init__(self, store: EventStore, *, per_user: int = PER_USER, users: int = 200_000, days: float = DAYS) -> None:
        self.store = store
        self.failure = ""
        self._per_user, self._users, self._days = per_user, users, days
        self._done: OrderedDict[str, list[Done]] = OrderedDict()
        self._cursor: int | None = None
        self._lock = threading.Lock()

    def of(self, user: str) -> Sequence[Done]:
        """What this user did, oldest first by its own time."""
        with self._lock:
            return list(self._done.get(self.store.stored_user(user), ()))

    def refresh(self) -> int:
        """Take in what became visible since the last call; gives how many events were wanted. What goes wrong is kept in `failure`."""
        taken = 0
        try:
            if self._cursor is None:
                cursor = self.store.newest()
                for rows in last_of_each(self.store, per_user=self._per_user, days=self._days):
                    taken += self._take(rows)
                self._cursor = cursor
            found, cursor = since(self.store, self._cursor)
            for rows in found:
                taken += self._take(rows)
            self._cursor = cursor
        except RecspectError as error:
            self.failure = error.message
        else:
            self.failure = ""
        return taken

    def forget(self, user: str) -> None:
        """Drop what is known of a user here; the store is erased apart."""
        with self._lock:
            self._done.pop(self.store.stored_user(user), None)

    def _take(self, rows: Iterable[Row]) -> int:
        count = 0
        with self._lock:
            for user, done in rows:
                count += 1
                own = self._done.setdefault(user, [])
                self._done.move_to_end(user)
                if done not in own:  # read at the start, and once more by the cursor
                    insort(own, done)
                if len(own) > self._per_user:
                    del own[0]
                if len(self._done) > self._users:
                    self._done.popitem(last=False)
        return count


def last_of_each(store: EventStore, *, per_user: int, days: float) -> Iterator[list[Row]]:
    """The last events of each user by their own time, oldest first, some at a time. Neither memory nor what is sent grows with the log.

    Args:
        store: Of events.
        per_user: At most so many of each.
        days: No older than so many.
    """
    where = condition(Window(start=datetime.now(UTC) - timedelta(days=days)), WANTED)
    sql = ('SELECT "user", item, "time" FROM (SELECT "user", item, "time", row_number() OVER (PARTITION BY "user" ORDER BY "time" DESC, sequence DESC) AS place '  # noqa: S608 - literals
           f'FROM {{events}} WHERE {where}) AS placed WHERE place <= {int(per_user)} ORDER BY "time"')
    for table in store.select(sql, _COLUMNS):
        yield _rows(table)


def since(store: EventStore, cursor: int) -> tuple[Iterator[list[Row]], int]:
    """What was wanted behind a cursor, some at a time in the order of the store, and the cursor to go on with. Other events are not even read."""
    until = store.newest()
    if until <= cursor:
        return iter(()), cursor
    sql = (f'SELECT "user", item, "time" FROM {{events}} WHERE {condition(None, WANTED)} AND sequence > {int(cursor)} AND sequence <= {int(until)} '  # noqa: S608 - literals
           "ORDER BY sequence")
    return (_rows(table) for table in store.select(sql, _COLUMNS)), until


def _rows(table: pa.Table) -> list[Row]:
    return [(row["user"], Done(micros(row["time"]), row["item"])) for row in table.to_pylist()]


def micros(moment: datetime) -> int:
    """Microseconds since 1970, exactly."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    gap = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (gap.days * 86_400 + gap.seconds) * 1_000_000 + gap.microseconds
