"""Events from a message broker into a store: durable before acknowledged, over lost connections, until it is stopped.

Messages are acknowledged when the store has committed what is in them. A consumer that is killed in between gets them again and recognises them by
their ids; one whose store is away keeps what it has and asks for no more; one whose broker is away connects again, later and later.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from recspect.errors import DataError, MissingExtraError
from recspect.events.brokers import Link, Place, link_to
from recspect.events.group_commit import GroupCommit, Outcome
from recspect.events.reject import take_text, told
from recspect.events.store import EventStore

OPEN_SECONDS = 20.0
"""How long a connection may take to open; also how long it may take to close."""

LOOK_SECONDS = 1.0
"""How often it is looked whether the broker is still there, and told what was done."""

TAKE_OVER_SECONDS = 30.0
"""How often it is looked whether another consumer left messages behind."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between attempts: doubled with each one that fails."""


@dataclass
class Consumed:
    """What became of messages.

    Args:
        messages: Read and durable, each counted as often as it came.
        accepted, duplicates: Events that were new, and those that were there already.
        rejected: Code of a reason to number of events.
    """

    messages: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, messages: int, outcomes: Sequence[Outcome]) -> None:
        """Count a batch."""
        self.messages += messages
        for outcome in outcomes:
            self.accepted += outcome.status == "accepted"
            self.duplicates += outcome.status == "duplicate"
            if outcome.code is not None:
                self.rejected[outcome.code] += 1

    def __str__(self) -> str:
        return f"{self.messages:,} messages: {told(self.accepted, self.duplicates, self.rejected)}"


def consume(place: Place, store: EventStore, *, until_idle: float | None = None, say: Callable[[str], None] = lambda _: None) -> Consumed:
    """Read events until SIGINT or SIGTERM, or until none came for a while.

    Args:
        place: What is read where.
        store: Where they are kept.
        until_idle: End when no message came for so many seconds; None goes on for ever.
        say: Told what was done, once a second where something was, and what is away.

    Raises:
        DataError: The broker is not reached at the start, or what is to be read is not there.
        MissingExtraError: FastStream is not installed.
    """
    return asyncio.run(_Consuming(place, store, until_idle, say).run())


class _Consuming:
    def __init__(self, place: Place, store: EventStore, until_idle: float | None, say: Callable[[str], None]) -> None:
        self._place, self._say, self._until_idle = place, say, until_idle
        self._writing = GroupCommit(store)
        self._done = Consumed()
        self._latest = time.monotonic()
        self._waiting = 0
        self._stop = asyncio.Event()
        self._fault: BaseException | None = None

    async def run(self) -> Consumed:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self._stop.set)
        _silence()
        try:
            await self._connected()
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
            await asyncio.to_thread(self._writing.close)
        if self._fault is not None:
            raise self._fault
        return self._done

    async def _connected(self) -> None:
        """Hold a link, and make a new one when it is lost."""
        pause, first = SHORTEST_PAUSE, True
        while not self._stop.is_set():
            try:
                link = link_to(self._place, self._keep)
            except ImportError as error:
                raise MissingExtraError(error.name or "faststream", extra="broker", purpose="Reading from a message broker") from None
            try:
                if not await self._opened(link):
                    return
            except DataError:
                if first:
                    raise
                self._say(f"{self._place.shown} is back, but what is read there is not; trying again in {pause:g} s")
            except Exception as error:
                if first:
                    raise DataError(f"{self._place.shown} is not reached: {_said(error)}", hint="does the broker run, and are address, user and password right?") from None
                self._say(f"{self._place.shown} is not reached ({_said(error)}); trying again in {pause:g} s")
            else:
                self._say(f"reading {self._place.name} from {self._place.shown}" + ("" if first else " again"))
                first, pause = False, SHORTEST_PAUSE
                await self._watch(link)
            finally:
                with suppress(Exception):
                    await asyncio.wait_for(link.close(), OPEN_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _opened(self, link: Link) -> bool:
        """Open a link; False where it was stopped meanwhile."""
        opening = asyncio.ensure_future(link.open())
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({opening, stopping}, timeout=OPEN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not opening.done():
            opening.cancel()
            with suppress(Exception, asyncio.CancelledError):
                await opening
            if not self._stop.is_set():
                raise TimeoutError(f"no answer within {OPEN_SECONDS:g} s")
            return False
        opening.result()
        return True

    async def _watch(self, link: Link) -> None:
        """Until the link is lost or it is time to end."""
        said = 0
        looked = time.monotonic()
        while not self._stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), LOOK_SECONDS)
            if self._done.messages != said:
                self._say(str(self._done))
                said = self._done.messages
            idle = time.monotonic() - self._latest
            if self._until_idle is not None and not self._waiting and idle > self._until_idle:
                self._stop.set()
            if self._stop.is_set():
                return
            try:
                there = await asyncio.wait_for(link.alive(), 10.0)
                if there and time.monotonic() - looked > TAKE_OVER_SECONDS:
                    looked = time.monotonic()
                    await link.take_over()
            except Exception:
                there = False
            if not there:
                self._say(f"{self._place.shown} went away; connecting again")
                return

    async def _keep(self, bodies: Sequence[bytes]) -> None:
        """Write the events of messages; returns when they are durable."""
        received = datetime.now(UTC)
        taken = [each for body in bodies for each in take_text(body, received=received, origin=self._place.origin)]
        pause = SHORTEST_PAUSE
        self._latest = time.monotonic()
        self._waiting += 1
        try:
            while True:
                try:
                    outcomes = await asyncio.wrap_future(self._writing.submit(taken)) if taken else []
                    break
                except DataError as error:  # what is not durable is not acknowledged: it waits here, and the broker keeps it
                    self._say(f"events wait for the store: {error.message}")
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
            self._done.add(len(bodies), outcomes)
        except Exception as error:  # FastStream would only log it
            self._fault = error
            self._stop.set()
            raise
        finally:
            self._waiting -= 1
            self._latest = time.monotonic()


def _silence() -> None:
    """What the brokers' libraries log of lost connections is told in our words."""
    for name in ("aio_pika", "aiormq", "aiokafka", "nats", "faststream"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _said(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0][:300]
    return text or type(error).__name__


__all__ = ["Consumed", "consume"]
