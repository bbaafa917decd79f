"""The HTTP side: paths, forms of requests and answers, tokens, limits, one shape of errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from recspect.errors import RecspectError, RunError, UsageError
from recspect.events.http import Refused
from recspect.events.token import SHORTEST_TOKEN
from recspect.serving.answering import Answer, Answering, UnknownItemError
from recspect.serving.description import describe_context
from recspect.serving.explaining import BusyError, Question
from recspect.serving.figures import Figures
from recspect.serving.forms import (
    FAULTS,
    ExchangeRequest,
    ExplainAnswer,
    ExplainRequest,
    PlaceAnswer,
    RecommendAnswer,
    RecommendRequest,
    SimilarAnswer,
)
from recspect.serving.guard import Guard, fault
from recspect.serving.limits import RateLimit

_log = logging.getLogger("recspect.serving")


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """Bounds of a server.

    Args:
        token: What clients send as `Authorization: Bearer ...`; None asks for none, which is for loopback only.
        body_bytes: Largest body of a request.
        requests_per_second, burst: Per client; 0 for no limit.
        most: Longest list.
        refresh_seconds: How often the store of events is looked at.
        watch_seconds: How often the folder of the recommender is looked at.
    """

    token: str | None = None
    body_bytes: int = 1 << 20
    requests_per_second: float = 0.0
    burst: int = 100
    most: int = 200
    refresh_seconds: float = 0.2
    watch_seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise UsageError(f"the token has {len(self.token)} characters, expected {SHORTEST_TOKEN} or more", hint="openssl rand -hex 32")
        if min(self.body_bytes, self.burst, self.most) < 1 or min(self.requests_per_second, 0) < 0:
            raise UsageError("bounds of a server are 1 or more")


def create_app(answering: Answering, settings: ServingSettings | None = None, *, figures: Figures | None = None,
               models: Path | None = None, routers: tuple[Any, ...] = (), closing: tuple[Callable[[], None], ...] = ()) -> FastAPI:
    """The application.

    Args:
        answering: What answers; its counter should be `figures.told`.
        settings: Bounds.
        figures: Counters.
        models: Folder of recommenders that may be put in place over HTTP, by their name; None allows none.
        routers: More paths, such as that of events.
        closing: Called at the end.
    """
    settings, figures = settings or ServingSettings(), figures or Figures()
    _gauges(figures, answering)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(_again(answering.first.watch, settings.watch_seconds))]
        if answering.second is not None:
            tasks.append(asyncio.create_task(_again(answering.second.watch, settings.watch_seconds)))
        for follower in (answering.recent, answering.features):
            if follower is not None:
                await asyncio.to_thread(follower.refresh)
                tasks.append(asyncio.create_task(_again(follower.refresh, settings.refresh_seconds)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            for close in closing:
                await asyncio.to_thread(close)

    from importlib import metadata

    app = FastAPI(title="recspect", version=metadata.version("recspect"), description="Recommendations, what is like an item, and the events that follow.",
                  lifespan=running, responses=FAULTS, docs_url=None, redoc_url=None)
    _paths(app, answering, settings, figures, models)
    for router in routers:
        app.include_router(router)
    _faults(app)
    describe_context(app, lambda: answering.first.current)

    def counted(path: str, status: int, seconds: float) -> None:
        figures.requests.labels(path, str(status)).inc()
        figures.seconds.labels(path).observe(seconds)

    app.add_middleware(Guard, token=settings.token, body_bytes=settings.body_bytes, limit=RateLimit(settings.requests_per_second, settings.burst), counted=counted)
    return app


# ---------------------------------------------------------------------- details


def _paths(app: FastAPI, answering: Answering, settings: ServingSettings, figures: Figures, models: Path | None) -> None:
    @app.post("/v1/recommend", tags=["recommend"])
    def recommend(asked: RecommendRequest) -> RecommendAnswer:
        """The list for a user."""
        if asked.k > settings.most:
            raise UsageError(f"a list of {asked.k}, expected at most {settings.most}")
        return _told(asked, answering.answer(asked.user, asked.k, context=asked.context, surface=asked.surface or "", trace=asked.trace))

    @app.post("/v1/explain", tags=["recommend"])
    def explain(asked: ExplainRequest) -> ExplainAnswer:
        """Why an item is where it is on the list that the user would get now: what `recspect explain` tells."""
        if asked.k > settings.most:
            raise UsageError(f"a list of {asked.k}, expected at most {settings.most}")
        question = asked.model_dump(exclude={"language", "counterfactual"})
        found, arm, degraded = answering.explain(Question(**question, with_counterfactual=asked.counterfactual))
        return ExplainAnswer(**found.to_mapping(asked.language), arm=arm, degraded=list(degraded))

    @app.get("/v1/items/{item}/similar", tags=["recommend"])
    def similar(item: Annotated[str, InPath(min_length=1, max_length=256)], k: Annotated[int, Query(ge=1, le=200)] = 10) -> SimilarAnswer:
        """Items like one."""
        return SimilarAnswer(item=item, items=[PlaceAnswer(**asdict(place)) for place in answering.similar(item, k)])

    @app.get("/health", tags=["server"])
    def health() -> dict[str, str]:
        """Whether the server runs."""
        return {"status": "ok"}

    @app.get("/ready", tags=["server"])
    def ready() -> dict[str, Any]:
        """Whether it answers with all it has; what is down is named. It answers requests all the same."""
        parts = (answering.first, answering.second, answering.recent, answering.features, answering.shown)
        down = [part.failure for part in parts if part is not None and part.failure]
        return {"status": "degraded" if down else "ok", "model": answering.first.current.version, "down": down}

    @app.get("/metrics", tags=["server"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", tags=["models"])
    def show_models() -> dict[str, Any]:
        """Which models answer, and who gets which."""
        second = answering.second
        return {"first": answering.first.current.version, "second": second.current.version if second else None, "percent": answering.rollout.percent,
                "shadow": answering.rollout.shadow, "interleave": answering.rollout.interleave, "exchanges": answering.first.exchanges + (second.exchanges if second else 0)}

    @app.post("/v1/models", tags=["models"])
    def exchange(asked: ExchangeRequest) -> dict[str, Any]:
        """Put another recommender in place, by the name of its folder."""
        if models is None:
            raise HTTPException(404, "models are not exchanged over HTTP here; start the server with --models FOLDER")
        slot = answering.second if asked.arm == "second" else answering.first
        if slot is None:
            raise HTTPException(404, "there is no second model")
        return {"arm": asked.arm, "model": slot.exchange(models / asked.folder).version}


def _told(asked: RecommendRequest, answer: Answer) -> RecommendAnswer:
    trace = dict(answer.trace) if answer.trace is not None else None
    return RecommendAnswer(request=answer.request, user=asked.user, items=[PlaceAnswer(**asdict(place)) for place in answer.places], model=answer.model,
                           arm=answer.arm, notes=list(answer.notes), degraded=list(answer.degraded), trace=trace)


def _faults(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return error.response

    @app.exception_handler(UnknownItemError)
    async def unknown(_: Request, error: UnknownItemError) -> JSONResponse:
        return fault(404, "unknown_item", error.message, error.hint)

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> JSONResponse:
        answer = fault(503, "busy", error.message, error.hint)
        answer.headers["Retry-After"] = "1"
        return answer

    @app.exception_handler(RunError)
    async def no_model(_: Request, error: RunError) -> JSONResponse:
        return fault(404, "no_recommender", error.message, error.hint)

    @app.exception_handler(UsageError)
    async def wrong(_: Request, error: UsageError) -> JSONResponse:
        return fault(422, "wrong_request", error.message, error.hint)

    @app.exception_handler(RecspectError)
    async def unable(_: Request, error: RecspectError) -> JSONResponse:
        return fault(503, "unavailable", error.message, error.hint)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return fault(400, "not_json", f"the body is not JSON: {first.get('ctx', {}).get('error', '')}"[:300])
        where = ".".join(str(part)[:60] for part in first["loc"][1:4])
        return fault(422, "malformed", f"{where or 'the request'}: {first['msg']}"[:500], "see /openapi.json")

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "wrong_method", 413: "too_large"}.get(error.status_code, "refused")
        answer = fault(error.status_code, code, str(error.detail)[:500])
        answer.headers.update(error.headers or {})
        return answer


def _gauges(figures: Figures, answering: Answering) -> None:
    figures.watch("exchanges", "Recommenders put in place while the server ran", lambda: answering.first.exchanges)
    figures.watch("explanations", "Explanations made", lambda: answering.explaining.made)
    if answering.shown is not None:
        shown = answering.shown
        figures.watch("exposures_waiting", "Exposures that are not written down yet", lambda: shown.waiting)
        figures.watch("exposures_lost", "Exposures that will never be written down", lambda: shown.lost)
    if answering.recent is not None:
        recent = answering.recent
        figures.watch("events_reachable", "Whether the store of events could be read last time", lambda: not recent.failure)


async def _again(work: Callable[[], Any], seconds: float) -> None:
    """Do something in a thread every so many seconds; what goes wrong does not end it."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(work)
        except Exception:
            _log.exception("background work failed")
