"""Templates with what every page has, and the dashboard's own files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException

from recspect.dashboard.about import KINDS
from recspect.dashboard.findings_texts import asker, teller
from recspect.dashboard.guard import Guard
from recspect.dashboard.shelf import Entry
from recspect.dashboard.texts import LANGUAGES, chosen, translator
from recspect.dashboard.views import SIGN_OF, TITLES, Views, stages, worst
from recspect.errors import RecspectError
from recspect.report import html
from recspect.report.wording import clean, stage_order

ASSETS = {"htmx.js": "vendor/htmx-2.0.11.min.js", "sse.js": "vendor/htmx-ext-sse-2.2.4.min.js", "dashboard.js": "dashboard.js"}


LONGEST_NAME = 200
"""Characters of a name that has a page of its own."""


class Pages:
    """Templates with what every page has: navigation, language, signs."""

    def __init__(self, views: Views, guard: Guard) -> None:
        self.views, self.guard = views, guard

    def show(self, request: Request, template: str, *, status: int = 200, entry: Entry | None = None, page: str = "", **names: Any) -> HTMLResponse:
        """A page."""
        language = self.language(request)
        common = {"_": translator(language), "say": teller(language), "question": asker(language), "language": language, "languages": LANGUAGES, "signs": SIGN_OF, "entry": entry, "page": page, "guard": self.guard,
                  "titles": TITLES, "clean": clean, "tabs": [] if entry is None else self._tabs(entry), "twin": twin_of(request), "here": str(request.url.path), "spoken": lambda code: _spoken(request, code),
                  "link": lambda _code, anchor: f"#{anchor}", "address": lambda name: "/runs/" + quote(name, safe=""),
                  "about": (lambda _column, _text: "") if entry is None else self._about(entry)}
        text = templates().get_template(template).render(**common | {key: value for key, value in names.items() if key not in ("_", "about", "say", "question")})
        return HTMLResponse(text.lstrip(), status_code=status)

    @staticmethod
    def language(request: Request) -> str:
        """Of the one who asks."""
        return chosen(request.query_params.get("lang"), request.cookies, request.headers.get("accept-language", ""))

    def fault(self, request: Request, status: int, reason: str, hint: str = "") -> Response:
        """What went wrong, as a page for people and as JSON for programs."""
        if request.url.path.endswith(".json") or "text/html" not in request.headers.get("accept", ""):
            return JSONResponse({"error": {"status": status, "message": reason, "hint": hint}}, status_code=status)
        return self.show(request, "fault.html.j2", status=status, reason=reason, hint=hint, number=status)

    def _about(self, entry: Entry) -> Callable[[str, str], str]:
        """Where everything of a thing stands: by the heading of the column that names it, or by the text of a place such as `field age`."""
        try:
            fields, roles = self.views.schema_names(entry)
        except RecspectError:
            fields, roles = frozenset(), {}
        base, trained = "/runs/" + quote(entry.name, safe=""), entry.kind == "run" and entry.epochs > 0

        def address(column: str, text: str) -> str:
            kind, name = (column.strip().lower(), text) if column else tuple(text.partition(" ")[::2])
            kind = roles.get(column, "field" if kind in ("name", "field") and name in fields else kind)
            if kind not in KINDS or not name or len(name) > LONGEST_NAME or "more characters)" in name or name.startswith("#"):
                return ""
            if kind == "user":
                return f"{base}/explain?{urlencode({'user': name})}" if trained else ""
            if kind == "item":
                return f"{base}/embeddings?{urlencode({'field': next((column for column, role in roles.items() if role == 'item'), ''), 'near': name})}#look-table" if trained else ""
            return f"{base}/about?{urlencode({'kind': kind, 'name': name})}"

        return address

    def _tabs(self, entry: Entry) -> list[tuple[str, str, str]]:
        """(address after the run's, title, worst verdict) of the pages of an entry."""
        try:
            report = self.views.report(entry)
        except RecspectError:
            report = None
        found = sorted({*(stages(report) if report is not None else ()), *own_pages(self.views, entry)}, key=stage_order)
        return [("", "Summary", report.verdict.value if report is not None else ""), *((stage, TITLES.get(stage, stage[:1].upper() + stage[1:]), worst(report, stage) if report else "")
                for stage in found), *([("explain", "Why", "")] if entry.kind == "run" and entry.epochs else []), ("findings", "All findings", ""), ("provenance", "Provenance", "")]


def own_pages(views: Views, entry: Entry) -> set[str]:
    """Stages of which an entry has something to show before anybody examined it."""
    return {*(("training",) if entry.kind in ("run", "observed") else ()), *views.looks.stages(entry)}


@cache
def templates() -> Environment:
    """Our templates, and those of the report; every text is escaped."""
    made = Environment(loader=ChoiceLoader([PackageLoader("recspect.dashboard", "assets"), PackageLoader("recspect.report", "assets")]), autoescape=True,
                       undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= html.environment().filters
    return made


def twin_of(request: Request) -> str:
    """The JSON of the same page."""
    path = request.url.path.rstrip("/")
    if path.endswith("/about"):
        return f"{path}.json?{request.url.query}"
    if path.endswith("/explain"):
        asked = {key: value for key in ("user", "item", "over") if (value := request.query_params.get(key, "").strip())}
        return f"{path}.json?{urlencode(asked)}" if "user" in asked else ""
    if path == "/compare":
        pair = [name for name in request.query_params.getlist("run") if name]
        return f"/compare.json?{urlencode({'run': pair}, doseq=True)}" if len(pair) == 2 else ""
    if path == "/effects":
        return "/effects.json"
    return "/index.json" if path in ("", "/rows") else f"{path}.json" if path.startswith("/runs/") else ""


def _spoken(request: Request, language: str) -> str:
    """The same page in another language, whatever was asked of it."""
    return f"{request.url.path}?{urlencode([*((key, value) for key, value in request.query_params.multi_items() if key != 'lang'), ('lang', language)])}"


def entry_of(views: Views, name: str) -> Entry:
    """The entry of that name.

    Raises:
        HTTPException: 404 where there is none, 409 where its files are damaged.
    """
    found = views.shelf.entry(name)
    if found is None:
        raise HTTPException(404, f"there is no run {name[:120]!r} here")
    if found.damaged:
        raise HTTPException(409, found.damaged)
    return found


@cache
def own_file(name: str) -> tuple[str, str, str] | None:
    """Text, type and tag of one of our files; None where there is none of that name."""
    if name == "vega.js":
        text = html.drawing_library()
    elif name == "charts.js":
        text = html.asset("page.js")
    elif name == "style.css":
        text = html.style_sheet() + "\n" + _file("dashboard.css")
    elif name in ASSETS:
        text = _file(ASSETS[name])
    else:
        return None
    kind = "text/css" if name.endswith(".css") else "text/javascript"
    return text, f"{kind}; charset=utf-8", f'"{hashlib.sha256(text.encode()).hexdigest()[:20]}"'


def warm_up() -> None:
    """Do once what the first visitor would wait seconds for: make the drawing library, import what reads trainings."""
    import recspect.examining.watched_steps

    own_file("vega.js")
    recspect.examining.watched_steps.all_diagnostics()
    with suppress(ImportError):  # who has no torch looks at no weights
        import recspect.training.run


def _file(name: str) -> str:
    return files("recspect.dashboard").joinpath("assets", *name.split("/")).read_text(encoding="utf-8")


__all__ = ["LONGEST_NAME", "Pages", "entry_of", "own_file", "own_pages", "warm_up"]
