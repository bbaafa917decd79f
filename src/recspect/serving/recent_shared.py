"""What users did lately, in Redis: several servers see an event as soon as one of them has it, and a new one reads nothing at its start.

Each server with a store of events puts what it sees there into Redis; all read it at each request. What is put twice is there once. Keys are
`recspect:recent:USER` (sorted sets by time, which end by themselves) and `recspect:cursor:STORE`.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from recspect.errors import DataError, MissingExtraError, RecspectError, UsageError
from recspect.events.brokers import without_password
from recspect.serving.recent import DAYS, PER_USER, Done, Recent, Row, last_of_each, since

PREFIX = "recspect:recent:"

ANSWER_SECONDS = 0.2
"""How long Redis may take to answer a request; a list waits no longer."""

AGAIN_SECONDS = 1.0
"""How long Redis is not asked after it failed."""


def erase(address: str, name: str) -> int:
    """Drop what Redis holds of a user; gives how many events that was. Unlike `SharedRecent.forget` it does not let a failure pass.

    Args:
        address: Such as `redis://127.0.0.1:6379/0`.
        name: The user's name in the store.

    Raises:
        UsageError: No address of Redis.
        DataError: Redis is not reached.
        MissingExtraError: Redis' library is not installed.
    """
    redis, client = _client(address, seconds=5.0)
    try:
        with client.pipeline(transaction=True) as pipe:
            pipe.zcard(PREFIX + name)
            pipe.delete(PREFIX + name)
            return int(pipe.execute()[0])
    except redis.exceptions.RedisError as error:
        raise DataError(f"Redis at {without_password(address)} is not reached: {str(error)[:200]}", hint="nothing was erased there; try again") from None
    finally:
        client.close()


def _client(address: str, *, seconds: float) -> tuple[Any, Any]:
    """Redis' library, and a client of an address."""
    try:
        import redis
    except ImportError as error:
        raise MissingExtraError(error.name or "redis", extra="broker", purpose="Sharing recent events over Redis") from None
    try:
        return redis, redis.Redis.from_url(address, socket_timeout=seconds, socket_connect_timeout=seconds, decode_responses=True)
    except ValueError as error:
        raise UsageError(f"this is no address of Redis: {str(error)[:200]}", hint="redis://HOST:6379/0") from None


class SharedRecent:
    """Last events of users in Redis, and from this server's own store where Redis is down.

    Args:
        address: Such as `redis://127.0.0.1:6379/0`.
        local: What this server reads from its store; None where it has no store, and then it only reads Redis.
        per_user: Events kept of each user, the newest by their own time.
        days: After so many without an event, a user's key ends.

    Raises:
        UsageError: No address of Redis.
        MissingExtraError: Redis' library is not installed.
    """

    def __init__(self, address: str, local: Recent | None, *, per_user: int = PER_USER, days: float = DAYS) -> None:
        redis, self._redis = _client(address, seconds=ANSWER_SECONDS)
        self._errors = redis.exceptions.RedisError
        self.where = without_password(address)
        self.local = local
        self._per_user, self._days = per_user, days
        self._down = ""
        self._silent_until = 0.0
        self._put_until: int | None = None
        self._lock = threading.Lock()

    @property
    def failure(self) -> str:
        """What is down, in words; empty where nothing is."""
        told = [f"Redis at {self.where} is not reached ({self._down}), so only what this server has seen is known"] if self._down else []
        if self.local is not None and self.local.failure:
            told.append(self.local.failure)
        return "; ".join(told)

    def of(self, user: str) -> Sequence[Done]:
        """What this user did, oldest first by its own time: of Redis and of this server together."""
        own = self.local.of(user) if self.local is not None else ()
        name = self.local.store.stored_user(user) if self.local is not None else user
        found = self._asked(lambda: self._redis.zrange(PREFIX + name, 0, -1))
        shared = [Done(*json.loads(entry)) for entry in found or ()]
        return sorted({*own, *shared})[-self._per_user:]

    def refresh(self) -> int:
        """Read the store, and put into Redis what is new there; gives how many events were put. What goes wrong is kept in `failure`."""
        if self.local is None:
            self._asked(self._redis.ping)
            return 0
        self.local.refresh()
        with self._lock:
            try:
                return self._put_new(self.local)
            except RecspectError:
                return 0  # the store is down, which `local` tells

    def forget(self, user: str) -> None:
        """Drop what is known of a user here and in Redis; the store is erased apart."""
        name = user
        if self.local is not None:
            self.local.forget(user)
            name = self.local.store.stored_user(user)
        self._asked(lambda: self._redis.delete(PREFIX + name))

    # ------------------------------------------------------------------ details

    def _put_new(self, local: Recent) -> int:
        mark = "recspect:cursor:" + hashlib.blake2b(local.store.where.encode(), digest_size=8).hexdigest()
        count = 0
        # The mark lies in Redis: where Redis was emptied it is gone with what it stands for, and all is put anew.
        held = self._asked(lambda: self._redis.get(mark), failed=False)
        if held is False:
            return 0
        if held is None:
            cursor = local.store.newest()
            for rows in last_of_each(local.store, per_user=self._per_user, days=self._days):
                count += len(rows)
                if not self._put(rows):
                    return 0
        else:
            cursor = max(int(held), self._put_until or 0)
        found, after = since(local.store, cursor)
        for rows in found:
            if not self._put(rows):
                return count
            count += len(rows)
        if (after > cursor or held is None) and not self._asked(lambda: self._redis.set(mark, after), failed=False):
            return count
        self._put_until = after
        return count

    def _put(self, rows: Iterable[Row]) -> bool:
        """Whether Redis has them now."""
        whole: dict[str, list[Done]] = {}
        for user, done in rows:
            whole.setdefault(user, []).append(done)

        def send() -> bool:
            with self._redis.pipeline(transaction=False) as pipe:
                for user, events in whole.items():
                    key = PREFIX + user
                    pipe.zadd(key, {json.dumps([done.time, done.item]): done.time for done in events})
                    pipe.zremrangebyrank(key, 0, -self._per_user - 1)
                    pipe.expire(key, int(self._days * 86_400))
                pipe.execute()
            return True

        return not whole or self._asked(send, failed=False)

    def _asked(self, ask: Any, *, failed: Any = None) -> Any:
        """What Redis answers; `failed` where it does not, and for a while after."""
        if time.monotonic() < self._silent_until:
            return failed
        try:
            found = ask()
        except self._errors as error:
            self._down = str(error).split("\n")[0][:200] or type(error).__name__
            self._silent_until = time.monotonic() + AGAIN_SECONDS
            return failed
        self._down = ""
        return found
