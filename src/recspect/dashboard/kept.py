"""What was made of a file and is made again when the file changes; the last few of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

V = TypeVar("V")


class Kept(Generic[V]):
    """Values by name, each with the stamp of what it was made of; the one that was asked for longest ago goes first.

    Args:
        most: How many are held.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[str, tuple[Hashable, V]] = OrderedDict()
        self._lock = Lock()

    def get(self, name: str, stamp: Hashable, make: Callable[[], V]) -> V:
        """The value of that name, made anew where there is none or the stamp is another one. Two who ask at once may both make it."""
        with self._lock:
            held = self._held.get(name)
            if held is not None and held[0] == stamp:
                self._held.move_to_end(name)
                return held[1]
        value = make()
        with self._lock:
            self._held[name] = (stamp, value)
            self._held.move_to_end(name)
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        return value


__all__ = ["Kept"]
