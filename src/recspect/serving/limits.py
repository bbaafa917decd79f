"""Bounds on what one client may ask for."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable


class RateLimit:
    """Token bucket per client: `burst` requests at once, `per_second` in the long run.

    Args:
        per_second: Requests per second; 0 for no limit.
        burst: Requests at once.
        clients: Buckets kept; who was not heard of for longest is forgotten, and begins with a full bucket.
        clock: Seconds, ascending.
    """

    def __init__(self, per_second: float, burst: int, *, clients: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second, self.burst = per_second, burst
        self._clients, self._clock = clients, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_seconds(self, client: str) -> float:
        """Take one request; 0 where it is allowed, else after how many seconds it will be."""
        if not self.per_second:
            return 0.0
        with self._lock:
            now = self._clock()
            left, then = self._buckets.pop(client, (float(self.burst), now))
            left = min(self.burst, left + (now - then) * self.per_second)
            allowed = left >= 1
            self._buckets[client] = (left - 1 if allowed else left, now)
            if len(self._buckets) > self._clients:
                self._buckets.popitem(last=False)
            return 0.0 if allowed else (1 - left) / self.per_second
