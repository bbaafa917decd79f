"""Many who bring events at once, one durable write for all of them: what makes a database's commit cheap."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from recspect.errors import DataError
from recspect.events.event import Event
from recspect.events.reject import Reject
from recspect.events.store import EventStore

MOST = 5_000
"""Events of one write."""

WAITING = 50_000
"""Events that may wait; more are refused, so that memory is bounded when the store is slow."""


class Busy(DataError):  # noqa: N818 - an answer: not now  # noqa: N818 - an answer
    """More events wait than may; try again in a moment."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one event.

    Args:
        status: `accepted`, `duplicate` or `rejected`.
        code, field, reason: What was wrong with it; None where nothing was.
        event_id: Its id; None where it had none.
    """

    status: str
    event_id: str | None = None
    code: str | None = None
    field: str | None = None
    reason: str | None = None


class GroupCommit:
    """A thread that writes what has come since its last write. Outcomes are given when it is durable.

    Args:
        store: Where to.
    """

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self._waiting: deque[tuple[Sequence[Event | Reject], Future[list[Outcome]]]] = deque()
        self._held = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="recspect-events", daemon=True)
        self._thread.start()

    def submit(self, taken: Sequence[Event | Reject]) -> Future[list[Outcome]]:
        """Hand in events and rejects; the future has one outcome for each, in order, or the store's `DataError`.

        Raises:
            Busy: Too many wait already, or this is closing.
        """
        done: Future[list[Outcome]] = Future()
        with self._changed:
            if self._closing:
                raise Busy("the event store is being closed", hint="send the events again in a moment")
            if self._held and self._held + len(taken) > WAITING:
                raise Busy(f"{self._held:,} events wait to be written", hint="send the events again in a moment")
            self._held += len(taken)
            self._waiting.append((taken, done))
            self._changed.notify()
        return done

    def close(self) -> None:
        """Write what waits, then end. The store stays open."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                group = [self._waiting.popleft()]
                size = len(group[0][0])
                while self._waiting and size + len(self._waiting[0][0]) <= MOST:
                    group.append(self._waiting.popleft())
                    size += len(group[-1][0])
                self._held -= size
            self._write(group)

    def _write(self, group: Sequence[tuple[Sequence[Event | Reject], Future[list[Outcome]]]]) -> None:
        everything = [each for taken, _ in group for each in taken]
        try:
            receipt = self.store.append([each for each in everything if isinstance(each, Event)], [each for each in everything if isinstance(each, Reject)])
        except BaseException as error:  # whoever waits must hear of it, whatever it is
            for _, done in group:
                if not done.cancelled():
                    done.set_exception(error)
            return
        new = iter(receipt.new)
        for taken, done in group:
            outcomes = [Outcome("rejected", code=each.code, field=each.field or None, reason=each.reason) if isinstance(each, Reject)
                        else Outcome("accepted" if next(new) else "duplicate", each.event_id) for each in taken]
            if done.set_running_or_notify_cancel():
                done.set_result(outcomes)
