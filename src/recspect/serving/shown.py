"""What was shown is written down, behind the request: exposures with position, propensity and model, kept until the store has them."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence

from recspect.errors import RecspectError
from recspect.events.event import Event
from recspect.events.store import EventStore

_log = logging.getLogger(__name__)


class ShownLog:
    """Writes exposures from a thread of its own.

    A list is not held up by the store. While the store is down the events wait, `most` of them at most; what no longer fits is counted in `lost` and told.
    Ids of events are made of the request and the place, so an event that is written twice is kept once.

    Args:
        store: Where they are kept.
        most: Events that wait at most.
        batch: Events that are written at once.
        retry_seconds: How long to wait after a failure.
        gather_seconds: How long events are gathered before they are written: a transaction costs the same for ten as for a thousand.
    """

    def __init__(self, store: EventStore, *, most: int = 200_000, batch: int = 5_000, retry_seconds: float = 0.5,
                 gather_seconds: float = 0.1) -> None:
        self.store = store
        self.written, self.lost, self.failure = 0, 0, ""
        self._batch, self._retry, self._gather = batch, retry_seconds, gather_seconds
        self._waiting: queue.Queue[Event] = queue.Queue(maxsize=most)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write, name="recspect-shown", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Events that are not written yet."""
        return self._waiting.unfinished_tasks

    def add(self, events: Sequence[Event]) -> None:
        """Take events; never waits."""
        for event in events:
            try:
                self._waiting.put_nowait(event)
            except queue.Full:
                self.lost += 1

    def close(self, *, seconds: float = 5.0) -> None:
        """Write what waits, for so long at most, and stop."""
        end = time.monotonic() + seconds
        while self.waiting and time.monotonic() < end:
            time.sleep(0.01)
        self._stopping.set()
        self._thread.join(timeout=seconds)
        if self.waiting:
            self.lost += self.waiting
            _log.error("%d exposures were not written: %s", self.waiting, self.failure or "no time was left")

    def _write(self) -> None:
        while not self._stopping.is_set():
            try:
                events = [self._waiting.get(timeout=0.1)]
            except queue.Empty:
                continue
            if self._waiting.qsize() < self._batch:
                self._stopping.wait(self._gather)
            while len(events) < self._batch:
                try:
                    events.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            self._keep(events)
            for _ in events:
                self._waiting.task_done()

    def _keep(self, events: Sequence[Event]) -> None:
        while not self._stopping.is_set():
            try:
                self.store.append(events)
            except RecspectError as error:
                if not self.failure:
                    _log.error("exposures wait for the store: %s", error.message)
                self.failure = error.message
                self._stopping.wait(self._retry)
            else:
                self.failure, self.written = "", self.written + len(events)
                return
