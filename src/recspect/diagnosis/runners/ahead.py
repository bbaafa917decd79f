"""Get the next one ready while this one is worked on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

T = TypeVar("T")

_PATIENCE_SECONDS = 0.1
"""How soon the thread sees that nobody waits for what it makes."""


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items in the same order, the next one made by a thread meanwhile; at most one waits.

    What making them raises is raised where they are asked for. When nobody asks any more (an error, an interruption), the thread closes the iterator and ends.

    Reading files and bringing rows together mostly happens where Python's lock is not held, so it runs beside the adding up.
    """
    made: Queue[tuple[str, Any]] = Queue(maxsize=1)
    stopped = Event()

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            try:
                made.put((kind, value), timeout=_PATIENCE_SECONDS)
            except Full:
                continue
            return

    def make() -> None:
        source = iter(items)
        try:
            for item in source:
                put("item", item)
                if stopped.is_set():
                    break
            put("end", None)
        except BaseException as error:
            put("error", error)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    thread = Thread(target=make, name="recspect-ahead", daemon=True)
    thread.start()
    try:
        while True:
            try:
                kind, value = made.get(timeout=_PATIENCE_SECONDS)
            except Empty:
                continue  # an interruption is noticed between two waits
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stopped.set()
        thread.join()


__all__ = ["ahead"]
