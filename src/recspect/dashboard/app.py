"""The HTTP side of the dashboard: addresses, pages, their JSON twins, live events."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from threading import Event
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recspect.dashboard.explain_pages import explain_pages
from recspect.dashboard.feedback import LONGEST_NOTE, Said, add_feedback
from recspect.dashboard.guard import COOKIE, HEADERS, Guard
from recspect.dashboard.look_pages import look_pages
from recspect.dashboard.pages import LONGEST_NAME, Pages, entry_of, own_file, own_pages
from recspect.dashboard.shelf import Entry, stamp
from recspect.dashboard.texts import LANGUAGES
from recspect.dashboard.views import Views, part, stages
from recspect.diagnosis.finding import Report, plain
from recspect.errors import RecspectError, UsageError
from recspect.report.content import Drawings
from recspect.report.wording import clean

_log = logging.getLogger("recspect.dashboard")

LIVE_SECONDS = 2.0
"""How often a training that is watched is looked at."""

KEEP_SECONDS = 15.0
"""How often a quiet stream says that it is still there."""

def create_app(views: Views, guard: Guard | None = None, *, live_seconds: float = LIVE_SECONDS) -> FastAPI:
    """The application.

    Args:
        views: What pages show.
        guard: Who may ask.
        live_seconds: How often a watched training is looked at.
    """
    guard = guard or Guard()
    app = FastAPI(title="recspect dashboard", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.closing = Event()  # set when the server is told to stop
    pages = Pages(views, guard)
    _assets(app)
    _door(app, guard, pages)
    _overview(app, views, pages)
    look_pages(app, views, pages)
    explain_pages(app, views, pages)  # before the pages of stages, whose addresses are of the same form
    _runs(app, views, pages, live_seconds)
    _errors(app, pages)

    app.add_middleware(Guarded, guard=guard, pages=pages)
    return app


class Guarded:
    """Asks the guard first, and sends its headers with every answer. It wraps the bare protocol, so that a stream sees its listener leave."""

    def __init__(self, app: ASGIApp, guard: Guard, pages: Pages) -> None:
        self.app, self.guard, self.pages = app, guard, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
                language = request.query_params.get("lang")
                if language in LANGUAGES:
                    headers.append("Set-Cookie", f"language={language}; Max-Age=31536000; Path=/; SameSite=lax; HttpOnly")
            await send(message)

        refused = self.guard.refusal(request.method, request.url.path, request.url.query, request.headers, request.cookies)
        if refused is None:
            await self.app(scope, receive, answer)
            return
        status, reason, hint = refused
        wants_page = status == 401 and "text/html" in request.headers.get("accept", "")
        response: Response = RedirectResponse("/login", 303) if wants_page else self.pages.fault(request, status, reason, hint)
        await response(scope, receive, answer)


# ---------------------------------------------------------------------- addresses


def _assets(app: FastAPI) -> None:
    """Our own files, with a tag by which a browser asks whether they changed."""

    @app.get("/assets/{name}")
    def asset(name: str, request: Request) -> Response:
        found = own_file(name)
        if found is None:
            raise HTTPException(404, "no such file")
        text, kind, tag = found
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return Response(text, media_type=kind, headers={"ETag": tag, "Cache-Control": "no-cache"})

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}


def _door(app: FastAPI, guard: Guard, pages: Pages) -> None:
    @app.get("/login")
    def door(request: Request) -> Response:
        return pages.show(request, "login.html.j2", wrong=False)

    @app.post("/login")
    async def enter(request: Request) -> Response:
        if not guard.accepts((await _form(request)).get("token", "").strip()):
            return pages.show(request, "login.html.j2", status=401, wrong=True)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, guard.cookie(), httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return answer


def _overview(app: FastAPI, views: Views, pages: Pages) -> None:
    @app.get("/")
    def overview(request: Request) -> Response:
        """All runs."""
        return pages.show(request, "overview.html.j2", page="overview", **views.overview())

    @app.get("/rows")
    def rows(request: Request) -> Response:
        """The table of runs alone, for a page that shows it again."""
        return pages.show(request, "rows.html.j2", **views.overview())

    @app.get("/index.json")
    def index() -> dict[str, Any]:
        shown = views.overview()
        return {"runs": [entry.to_mapping() for entry in shown["entries"]]}

    @app.get("/effects")
    def effects(request: Request) -> Response:
        """Experiments, off-policy estimates, model against model, decisions."""
        entries = views.shelf.entries()
        return pages.show(request, "effects.html.j2", page="effects", effects=views.effects.all(entries), known={entry.name for entry in entries}, root=views.shelf.root)

    @app.get("/effects.json")
    def effects_json() -> dict[str, Any]:
        return {"effects": [asdict(one) for one in views.effects.all(views.shelf.entries())]}

    @app.get("/compare.json")
    def compare_json(run: Annotated[list[str], Query(min_length=2, max_length=2)]) -> dict[str, Any]:
        entries = [entry_of(views, name) for name in run]
        curves, change = views.compared(entries)
        return {"runs": [entry.to_mapping() for entry in entries], "change": None if change is None else asdict(change), "evidence": [plain(piece) for piece in curves]}

    @app.get("/compare")
    def compare(request: Request, run: Annotated[list[str], Query(max_length=2)] = []) -> Response:  # noqa: B006 - never changed
        """Two runs beside each other."""
        entries = [entry_of(views, name) for name in run if name]
        if len(entries) != 2 or entries[0].name == entries[1].name:
            return pages.show(request, "choose.html.j2", page="compare", entries=views.shelf.entries(), chosen=run)
        drawings = Drawings(stills=False)
        shown = views.compare(entries, drawings)
        return pages.show(request, "compare.html.j2", page="compare", **shown, drawing=drawings.block())


def _runs(app: FastAPI, views: Views, pages: Pages, live_seconds: float) -> None:
    @app.get("/runs/{name}.json")
    def summary_json(name: str) -> dict[str, Any]:
        entry = entry_of(views, name)
        report = views.report(entry)
        return {"run": entry.to_mapping(), "report": None if report is None else report.to_mapping()}

    @app.get("/runs/{name}/live")
    async def live(request: Request, name: str) -> Response:
        entry = await asyncio.to_thread(entry_of, views, name)
        return StreamingResponse(_changes(request, views, entry, live_seconds), media_type="text/event-stream")

    @app.get("/runs/{name}/training/now")
    def now(request: Request, name: str) -> Response:
        """The live part of the page of a training."""
        entry = _watched(views, name)
        drawings = Drawings(stills=False, name="live")
        shown = views.training(entry, drawings)
        return pages.show(request, "training_now.html.j2", entry=entry, **shown, drawing=drawings.block())

    @app.get("/runs/{name}/training/distributions")
    def spread(request: Request, name: str, at: Annotated[int | None, Query(ge=0, le=10**6)] = None) -> Response:
        """Distributions at one of the steps at which they were taken."""
        entry = _watched(views, name)
        drawings = Drawings(stills=False, name="distribution")
        return pages.show(request, "distributions.html.j2", entry=entry, **views.distributions(entry, at, drawings), drawing=drawings.block())

    @app.post("/runs/{name}/feedback")
    async def say(request: Request, name: str) -> Response:
        return await asyncio.to_thread(_said, request, name, await _form(request))

    def _said(request: Request, name: str, form: Mapping[str, str]) -> Response:
        code, place = form.get("code", ""), form.get("place", "")
        entry = entry_of(views, name)
        report = views.report(entry)
        known = report is not None and any(f.code == code and (str(f.place) if f.place.name else "") == place for f in report.findings)
        if not known or entry.folder is None:
            raise HTTPException(404, f"{entry.name} has no such finding")
        add_feedback(entry.folder, Said(code=code, place=place, said=form.get("said", ""), note=form.get("note", "")))
        shown = views.findings(entry)
        line = next(line for line in shown["lines"] if line.code == clean(code, limit=80) and line.place == clean(place, limit=120))
        return pages.show(request, "said.html.j2", entry=entry, line=line)

    @app.get("/runs/{name}/about.json")
    def about_json(name: str, kind: Annotated[str, Query(max_length=20)], of: Annotated[str, Query(alias="name", max_length=LONGEST_NAME)]) -> dict[str, Any]:
        entry = entry_of(views, name)
        known = views.about(entry, kind, of, Drawings(stills=False))
        if known is None:
            raise HTTPException(404, f"{entry.name} says nothing of {kind} {of}")
        return Report(findings=known["known"].findings, overview=(known["known"].lines, *known["known"].pictures), title=of).to_mapping()

    @app.get("/runs/{name}/about")
    def about(request: Request, name: str, kind: Annotated[str, Query(max_length=20)], of: Annotated[str, Query(alias="name", max_length=LONGEST_NAME)]) -> Response:
        """Everything that is known of a field, a slice, a layer, a table or an item."""
        entry, drawings = entry_of(views, name), Drawings(stills=False)
        known = views.about(entry, kind, of, drawings)
        if known is None:
            raise HTTPException(404, f"{entry.name} says nothing of {kind} {of}")
        return pages.show(request, "about.html.j2", entry=entry, page="about", **known, tables=[look.slug for look in views.looks.offered(entry, "embeddings")], drawing=drawings.block())

    @app.post("/runs/{name}/proposal")
    async def decide(request: Request, name: str) -> Response:
        return await asyncio.to_thread(_decided, name, await _form(request))

    def _decided(name: str, form: Mapping[str, str]) -> Response:
        entry = entry_of(views, name)
        number, decision = form.get("number", ""), form.get("decision", "")
        if entry.kind != "metrics":
            raise HTTPException(404, f"{entry.name} is no adaptive metric")
        if not number.isdecimal() or decision not in ("adopt", "reject"):
            raise HTTPException(422, "a decision names a proposal by its number, and says adopt or reject")
        views.decide(entry, int(number), adopt=decision == "adopt", why=form.get("why", "")[:LONGEST_NOTE])
        return RedirectResponse(f"/runs/{quote(name, safe='')}/metrics", 303)

    @app.get("/runs/{name}/{page}.json")
    def page_json(name: str, page: str) -> dict[str, Any]:
        entry = entry_of(views, name)
        report = views.report(entry)
        if report is None:
            return {"run": entry.to_mapping(), "report": None}
        if page in ("findings", "provenance"):
            return report.to_mapping()
        if page not in stages(report) and page not in own_pages(views, entry):
            raise HTTPException(404, f"{entry.name} has nothing about {page[:60]}")
        return part(report, page).to_mapping()

    @app.get("/runs/{name}/{page}")
    def stage_page(request: Request, name: str, page: str, verdict: Annotated[str, Query(max_length=10)] = "", stage: Annotated[str, Query(max_length=60)] = "",
                   words: Annotated[str, Query(max_length=200)] = "") -> Response:
        entry = entry_of(views, name)
        if page == "findings":
            return pages.show(request, "findings.html.j2", entry=entry, page=page, **views.findings(entry, verdict=verdict, stage=stage, words=words))
        if page == "provenance":
            return pages.show(request, "provenance.html.j2", entry=entry, page=page, **views.summary(entry))
        drawings = Drawings(stills=False)
        shown = views.stage(entry, page, drawings)
        if shown is None and page not in own_pages(views, entry):
            raise HTTPException(404, f"{entry.name} has nothing about {page[:60]}")
        return pages.show(request, "training.html.j2" if page == "training" and entry.kind in ("run", "observed") else "stage.html.j2", entry=entry, page=page,
                          **(shown or {"told": [], "passed": [], "unanswered": [], "chapters": [], "report": None, "causes": [], "proposals": []}), drawing=drawings.block(),
                          looks=views.looks.offered(entry, page), query=str(request.url.query))

    @app.get("/runs/{name}")
    def summary(request: Request, name: str) -> Response:
        entry = entry_of(views, name)
        return pages.show(request, "summary.html.j2", entry=entry, **views.summary(entry))


async def _form(request: Request) -> dict[str, str]:
    """Fields of a form; the guard has bounded its size."""
    body = await request.body()
    return dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=20))


def _watched(views: Views, name: str) -> Entry:
    entry = entry_of(views, name)
    if entry.kind not in ("run", "observed"):
        raise HTTPException(404, f"{entry.name} is no training")
    return entry


async def _changes(request: Request, views: Views, entry: Entry, seconds: float) -> AsyncIterator[str]:
    """An event each time a training wrote something; it ends when the training does or nobody listens."""
    assert entry.folder is not None
    watched = [entry.folder / name for name in ("live.jsonl", "steps.parquet", "run.json", "observed.json", "findings.json")]
    last, quiet = [stamp(path) for path in watched], 0.0
    yield "retry: 5000\n\n"
    while not await request.is_disconnected():
        waited = 0.0
        while waited < seconds and not request.app.state.closing.is_set():
            await asyncio.sleep(min(0.2, seconds))
            waited += min(0.2, seconds)
        if request.app.state.closing.is_set():
            return
        now = [stamp(path) for path in watched]
        quiet += seconds
        if now != last:
            last, quiet = now, 0.0
            found = await asyncio.to_thread(views.shelf.entry, entry.name)
            status = found.status if found is not None else ""
            yield f"event: change\ndata: {json.dumps({'status': status})}\n\n"
            if status != "running":
                yield f"event: end\ndata: {json.dumps({'status': status})}\n\n"
                return
        elif quiet >= KEEP_SECONDS:
            quiet = 0.0
            yield ": still here\n\n"


def _errors(app: FastAPI, pages: Pages) -> None:
    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> Response:
        hint = {404: "the overview lists what there is", 409: "repair or remove the file"}.get(error.status_code, "")
        return pages.fault(request, error.status_code, clean(error.detail, limit=400), hint)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return pages.fault(request, 422, clean(f"{first['loc'][-1]}: {first['msg']}", limit=300))

    @app.exception_handler(Exception)
    async def ours_to_mend(request: Request, error: Exception) -> Response:
        _log.error("a page could not be made", exc_info=error)
        return pages.fault(request, 500, "this page could not be made", "the server's log says why")

    @app.exception_handler(RecspectError)
    async def ours(request: Request, error: RecspectError) -> Response:
        return pages.fault(request, 422 if isinstance(error, UsageError) else 409, clean(error.message, limit=600), error.hint)


__all__ = ["create_app"]
