"""The addresses of closer looks: a part of a page, and the same as JSON."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from recspect.dashboard.looking import Look, Shown
from recspect.dashboard.pages import Pages, entry_of
from recspect.dashboard.shelf import Entry
from recspect.dashboard.views import Views, figures_of
from recspect.diagnosis.finding import plain
from recspect.report.content import Drawings
from recspect.report.wording import clean

LONGEST = 200
"""Characters of one thing that is asked."""


def look_pages(app: FastAPI, views: Views, pages: Pages) -> None:
    """Add them to the application."""

    @app.get("/runs/{name}/{page}/look/{slug}.json")
    def look_json(request: Request, name: str, page: str, slug: str) -> dict[str, Any]:
        _, _, shown = _asked(views, request, name, page, slug)
        return {"asked": {one.name: one.value for one in shown.controls}, "choices": {one.name: [value for value, _ in one.options] for one in shown.controls if one.options},
                "problem": shown.problem, "evidence": [plain(piece) for piece in shown.pictures]}

    @app.get("/runs/{name}/{page}/look/{slug}")
    def look(request: Request, name: str, page: str, slug: str) -> Response:
        entry, found, shown = _asked(views, request, name, page, slug)
        drawings = Drawings(stills=False, name=f"look-{slug}")
        chosen = {one.name: one.value for one in shown.controls if one.value}
        answer = pages.show(request, "look.html.j2", entry=entry, page=page, look=found, shown=shown, problem=clean(shown.problem, limit=600), **figures_of(shown.pictures, drawings),
                            drawing=drawings.block(), query=urlencode(chosen))
        if request.headers.get("hx-trigger", "").startswith("ask-"):  # somebody chose: what is seen has an address that can be shared
            answer.headers["HX-Replace-Url"] = f"/runs/{quote(name, safe='')}/{quote(page, safe='')}?{urlencode(chosen)}#look-{slug}"
        return answer


def _asked(views: Views, request: Request, name: str, page: str, slug: str) -> tuple[Entry, Look, Shown]:
    entry = entry_of(views, name)
    asked = {key: value for key, value in request.query_params.items() if key != "lang"}
    long = next((key for key, value in asked.items() if len(value) > LONGEST), None)
    if long is not None:
        raise HTTPException(422, f"{long[:40]} has {len(asked[long]):,} characters, expected at most {LONGEST}")
    found = views.looks.look(entry, page, slug, asked)
    if found is None:
        raise HTTPException(404, f"{entry.name} has nothing of that kind to look at")
    return entry, *found


__all__ = ["look_pages"]
