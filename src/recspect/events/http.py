"""`POST /v1/events`: a router to mount into an application, and an application of its own (`recspect events serve`)."""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.exceptions import HTTPException

from recspect.errors import DataError
from recspect.events.event import EventError
from recspect.events.group_commit import Busy, GroupCommit, Outcome
from recspect.events.http_description import BATCH_EVENTS, BODY, ERRORS, RESPONSES
from recspect.events.reject import decode, reject, take
from recspect.events.store import EventStore

BODY_BYTES = 2**20
"""Largest body."""

STATUS = {"not_json": 400, "json_too_deep": 400, "empty": 400}
"""Codes of errors to HTTP statuses, where it is not 422."""


class Refused(Exception):  # noqa: N818 - an answer
    """An error as it is answered.

    Args:
        status: HTTP status.
        code: Stable name.
        message, hint: What was expected and found; what to do.
    """

    def __init__(self, status: int, code: str, message: str, hint: str = "", headers: Mapping[str, str] | None = None) -> None:
        self.response = JSONResponse({"error": {"code": code, "message": message, "hint": hint}}, status, dict(headers or {}))
        super().__init__(message)


def events_router(writing: GroupCommit, *, token: str | None = None, count: Any = None) -> APIRouter:
    """The endpoint for events.

    The application that mounts it must answer `Refused` with its `response`: `answer_errors(app)`.

    Args:
        writing: Who writes them; may be shared with others that write to the same store.
        token: What `Authorization: Bearer` must hold; None lets everybody in.
        count: Called with each outcome's status, for metrics.
    """
    guard: SecurityBase | None = HTTPBearer(auto_error=False) if token is not None else None
    router = APIRouter()

    async def take_events(request: Request) -> Response:
        given, single = await _body(request)
        received = datetime.now(UTC)
        taken = [take(each, received=received, origin="http") for each in given]
        try:
            outcomes = await asyncio.wrap_future(writing.submit(taken))
        except Busy as error:
            raise Refused(503, "busy", error.message, error.hint, {"Retry-After": "1"}) from None
        except DataError as error:
            raise Refused(503, "store_unavailable", error.message, error.hint, {"Retry-After": "5"}) from None
        if count is not None:
            for outcome in outcomes:
                count(outcome.status)
        if single and outcomes[0].status == "rejected":
            raise Refused(422, outcomes[0].code or "", outcomes[0].reason or "", "the event is kept among the rejects")
        return JSONResponse(_answer(outcomes), 202)

    described: dict[str, Any] = {"summary": "Keep events", "status_code": 202, "responses": RESPONSES, "openapi_extra": {"requestBody": BODY}, "tags": ["events"],
                                 "description": "One event, or a batch. Answered when the events are durable; sending them again is no harm."}
    if guard is None:
        router.post("/v1/events", **described)(take_events)
    else:
        # As a default, not within Annotated: annotations are texts here, and FastAPI cannot see this function's own names in them.
        async def guarded(request: Request, credentials: HTTPAuthorizationCredentials | None = Security(guard)) -> Response:  # noqa: B008
            require_token(token, credentials)
            return await take_events(request)

        described["responses"] = {401: ERRORS["401"], **RESPONSES}
        router.post("/v1/events", **described)(guarded)
    return router


def events_app(store: EventStore, *, token: str | None = None) -> FastAPI:
    """An application that takes events: `POST /v1/events`, `GET /health`, `GET /metrics`.

    It writes with a thread of its own, which ends when the application is shut down; the store stays open.

    Args:
        store: Where events are kept.
        token: What `Authorization: Bearer` must hold for `POST /v1/events`; None lets everybody in.
    """
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client import Counter as Metric

    registry = CollectorRegistry()
    outcomes = Metric("recspect_events", "Events by outcome", ["outcome"], registry=registry)
    writing = GroupCommit(store)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(writing.close)

    app = FastAPI(title="recspect events", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    answer_errors(app)
    app.include_router(events_router(writing, token=token, count=lambda outcome: outcomes.labels(outcome).inc()))

    @app.get("/health", summary="Is it there", tags=["operation"])
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", summary="Figures for Prometheus", tags=["operation"], response_class=Response,
             responses={200: {"description": "Prometheus text format", "content": {CONTENT_TYPE_LATEST.split(";")[0]: {"schema": {"type": "string"}}}}})
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def answer_errors(app: FastAPI) -> None:
    """Make an application answer every error in one shape: `{"error": {"code", "message", "hint"}}`."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return error.response

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        return Refused(error.status_code, "http", str(error.detail), headers=error.headers).response

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        return Refused(422, "malformed_request", str(error)[:500]).response


def require_token(token: str | None, credentials: HTTPAuthorizationCredentials | None) -> None:
    """Let through who has the token.

    Raises:
        Refused: 401.
    """
    if token is not None and not (credentials is not None and hmac.compare_digest(credentials.credentials.encode(), token.encode())):
        raise Refused(401, "unauthorized", "the request has no valid token", "Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})


# ---------------------------------------------------------------------- details


async def _body(request: Request) -> tuple[list[object], bool]:
    """The events of a request, and whether it was a single one.

    Raises:
        Refused: Too large, not JSON, not of either form.
    """
    kind = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "not_json", f"the body is {kind[:80]!r}, expected application/json", "Content-Type: application/json")
    held = bytearray()
    async for piece in request.stream():
        held += piece
        if len(held) > BODY_BYTES:
            raise Refused(413, "too_large", f"the body is larger than {BODY_BYTES:,} bytes", "send fewer events at once")
    try:
        given = decode(bytes(held))
    except EventError as error:
        raise Refused(STATUS[error.code], error.code, error.message, error.hint) from None
    if not isinstance(given, dict):
        found = reject(EventError("not_an_object", "", "the body is neither an event nor an object with a list of events"), None, received=datetime.now(UTC), origin="http")
        raise Refused(422, found.code, found.reason, '{"events": [{"event_id": "...", ...}]}')
    if "events" not in given:
        return [given], True
    events = given["events"]
    if given.keys() != {"events"} or not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise Refused(422, "not_a_batch", "a batch has one part, 'events', a list of objects", '{"events": [{"event_id": "...", ...}]}')
    if not 1 <= len(events) <= BATCH_EVENTS:
        raise Refused(422, "not_a_batch", f"a batch of {len(events):,} events, expected 1 to {BATCH_EVENTS:,}", "send several batches")
    return events, False


def _answer(outcomes: list[Outcome]) -> dict[str, Any]:
    counts = Counter(outcome.status for outcome in outcomes)
    return {"accepted": counts["accepted"], "duplicates": counts["duplicate"], "rejected": counts["rejected"],
            "results": [{name: value for name, value in asdict(outcome).items() if value is not None} for outcome in outcomes]}
