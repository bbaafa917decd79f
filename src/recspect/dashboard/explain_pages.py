"""The addresses of the page that says why."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from markupsafe import escape
from starlette.exceptions import HTTPException

from recspect.dashboard.explaining import explained, some_users
from recspect.dashboard.pages import Pages, entry_of
from recspect.dashboard.shelf import Entry
from recspect.dashboard.views import Views, figures_of
from recspect.errors import RecspectError
from recspect.report.content import Drawings
from recspect.report.wording import clean


def explain_pages(app: FastAPI, views: Views, pages: Pages) -> None:
    """Add them to the application."""

    @app.get("/runs/{name}/explain/state")
    def reading(name: str) -> Response:
        """How far the reading is; when it is done the page is asked for again."""
        state = views.explainers.state(_explainable(views, name).path)
        done = state.ready is not None or state.failure
        return Response(escape(state.doing), media_type="text/html; charset=utf-8", headers={"HX-Refresh": "true"} if done else {})

    @app.get("/runs/{name}/explain.json")
    def explain_json(name: str, user: Annotated[str, Query(max_length=200)], item: Annotated[str, Query(max_length=200)] = "",
                     over: Annotated[str, Query(max_length=200)] = "", lang: Annotated[str, Query(pattern="^(en|zh)$")] = "en") -> Any:
        state = views.explainers.state(_explainable(views, name).path)
        if state.ready is None:
            return JSONResponse({"state": state.doing or "failed", "failure": state.failure}, status_code=503 if state.failure else 202)
        with views.explainers.asking:
            return explained(state.ready, user, item=item, over=over, language=lang)["explanation"].to_mapping(lang)

    @app.get("/runs/{name}/explain")
    def explain(request: Request, name: str, user: Annotated[str, Query(max_length=200)] = "", item: Annotated[str, Query(max_length=200)] = "",
                over: Annotated[str, Query(max_length=200)] = "", gone: Annotated[list[int], Query(max_length=200)] = []) -> Response:  # noqa: B006 - never changed
        """Why a user's list is as it is, and what it would be without some of what the user did."""
        entry = _explainable(views, name)
        state = views.explainers.state(entry.path)
        drawings, shown, problem = Drawings(stills=False), None, ""
        if state.ready is not None and user.strip():
            try:
                with views.explainers.asking:
                    shown = explained(state.ready, user.strip(), item=item.strip(), over=over.strip(), gone=gone, language=pages.language(request))
            except RecspectError as error:
                problem = " ".join(filter(None, (error.message, error.hint)))
        figures = figures_of(shown["pictures"] if shown is not None else (), drawings)
        return pages.show(request, "explain.html.j2", entry=entry, page="explain", **figures, state=state, shown=shown, problem=clean(problem, limit=600),
                          asked={"user": user, "item": item, "over": over}, users=some_users(state.ready) if state.ready is not None else [], drawing=drawings.block())


def _explainable(views: Views, name: str) -> Entry:
    entry = entry_of(views, name)
    if entry.kind != "run" or not entry.epochs:
        raise HTTPException(404, f"{entry.name} is no finished epoch of a training of recspect, so it makes no lists")
    return entry


__all__ = ["explain_pages"]
