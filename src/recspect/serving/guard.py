"""Before and behind each request: who may ask, how much is read, what is counted and logged. Plain ASGI, as it lies in the way of every request."""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recspect.serving.limits import RateLimit

_log = logging.getLogger("recspect.serving")

OPEN_PATHS = ("/health", "/ready")
"""Asked without a token: whoever keeps servers running has none."""


class Guard:
    """An application behind bounds.

    Args:
        app: The application.
        token: What clients send as `Authorization: Bearer ...`; None asks for none.
        body_bytes: Largest body of a request.
        limit: Requests a client may send.
        counted: Called with path, status and seconds of each request.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, body_bytes: int, limit: RateLimit, counted: Callable[[str, int, float], None]) -> None:
        self.app, self.token, self.body_bytes, self.limit, self.counted = app, token, body_bytes, limit, counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cache-Control"] = "no-store"
            await send(message)

        request = Request(scope)
        answer = self._refusal(request)
        try:
            if answer is None and "content-length" not in request.headers and request.method in ("POST", "PUT", "PATCH"):
                whole = await _read(receive, self.body_bytes)
                if whole is None:
                    answer = fault(413, "too_large", f"a body of more than {self.body_bytes:,} bytes", "send fewer events at once")
                else:
                    receive = _again(whole, receive)
            if answer is None:
                await self.app(scope, receive, told)
        except Exception:
            _log.exception("a request failed")
            if status:  # it has begun to answer, so the connection is all that can tell
                raise
            answer = fault(500, "internal", "the server could not answer", "its log says why")
        if answer is not None:
            await answer(scope, receive, told)
        seconds = time.perf_counter() - started
        path = getattr(scope.get("route"), "path", "other")
        self.counted(path, status, seconds)
        if _log.isEnabledFor(logging.INFO):
            _log.info(json.dumps({"path": path, "method": request.method, "status": status, "ms": round(seconds * 1000, 2)}))

    def _refusal(self, request: Request) -> JSONResponse | None:
        """Why a request is not even read."""
        if self.token is not None and request.url.path not in OPEN_PATHS:
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {self.token}".encode()):
                answer = fault(401, "no_token", "this server asks for a token", "Authorization: Bearer TOKEN")
                answer.headers["WWW-Authenticate"] = "Bearer"
                return answer
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.body_bytes:
            return fault(413, "too_large", f"a body of {length[:20]} bytes, expected at most {self.body_bytes:,}", "send fewer events at once")
        wait = 0.0 if request.url.path in OPEN_PATHS else self.limit.wait_seconds(request.client.host if request.client else "")
        if wait:
            answer = fault(429, "too_many_requests", f"more than {self.limit.per_second:g} requests per second", f"wait {wait:.2f} s")
            answer.headers["Retry-After"] = str(max(1, round(wait)))
            return answer
        return None


def fault(status: int, code: str, message: str, hint: str = "") -> JSONResponse:
    """An error in the one shape that all have."""
    return JSONResponse({"error": {"code": code, "message": message, "hint": hint}}, status_code=status)


async def _read(receive: Receive, most: int) -> bytes | None:
    """A body whose length nobody told; None where it grows beyond the bound."""
    size, parts, more = 0, [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size > most:
            return None
        parts.append(part)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """The body that was read, in one piece; then what comes of itself."""
    waiting: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def once_more() -> Message:
        return waiting.pop() if waiting else await receive()

    return once_more
