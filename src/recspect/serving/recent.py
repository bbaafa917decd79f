"""What users did since the recommender was built, followed in the store of events: a click counts for the next list."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from recspect.errors import RecspectError
from recspect.events.event import EventKind
from recspect.events.store import EventStore

WANTED = (EventKind.CLICK, EventKind.LIKE, EventKind.ADD_TO_CART, EventKind.PURCHASE)
"""Kinds of events that say that something was wanted."""


@dataclass(frozen=True)
class Done:
    """One thing that a user did.

    Args:
        item: Id as it was sent.
        time: Microseconds since 1970.
        wanted: Whether it says that the item was wanted; else it was only shown, or hidden.
    """

    item: str
    time: int
    wanted: bool


class Recent:
    """Last events of users in memory, by the user's name in the store.

    Args:
        store: Is followed by its cursor, so events of other processes come too.
        per_user: Events kept of each user, the newest.
        users: Users kept, those of whom something was heard last.
    """

    def __init__(self, store: EventStore, *, per_user: int = 50, users: int = 200_000) -> None:
        self.store = store
        self.failure = ""
        self._per_user, self._users = per_user, users
        self._done: OrderedDict[str, deque[Done]] = OrderedDict()
        self._cursor = 0
        self._lock = threading.Lock()

    def of(self, user: str) -> Sequence[Done]:
        """What this user did, oldest first by its own time."""
        with self._lock:
            return sorted(self._done.get(self.store.stored_user(user), ()), key=lambda done: done.time)

    def refresh(self, *, limit: int = 10_000) -> int:
        """Take in what became visible since the last call; gives how many events. What goes wrong is kept in `failure`."""
        taken = 0
        while True:
            try:
                table, cursor = self.store.since(self._cursor, limit=limit)
            except RecspectError as error:
                self.failure = error.message
                return taken
            self.failure = ""
            rows = table.select(["user", "item", "kind", "time"]).to_pylist()
            with self._lock:
                self._take((row["user"], row["item"], row["kind"], row["time"]) for row in rows)
                self._cursor = cursor
            taken += len(rows)
            if len(rows) < limit:
                return taken

    def forget(self, user: str) -> None:
        """Drop what is known of a user here; the store is erased apart."""
        with self._lock:
            self._done.pop(self.store.stored_user(user), None)

    def _take(self, rows: Iterable[tuple[str, str, str, datetime]]) -> None:
        for user, item, kind, time in rows:
            own = self._done.get(user)
            if own is None:
                own = self._done[user] = deque(maxlen=self._per_user)
            self._done.move_to_end(user)
            own.append(Done(item, micros(time), kind in WANTED))
            if len(self._done) > self._users:
                self._done.popitem(last=False)


def micros(moment: datetime) -> int:
    """Microseconds since 1970, exactly."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    gap = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (gap.days * 86_400 + gap.seconds) * 1_000_000 + gap.microseconds
