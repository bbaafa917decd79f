"""The report as one HTML file that needs nothing else: no network, no server, no second file.

Every text of the report passes Jinja's automatic escaping. Each chart stands in the page as a still picture (`stills`) and as
data in a JSON block, from which a script that the page's content security policy names by its hash draws it again to fit the
window and to answer the pointer. Nothing else may run, load or be sent; without scripts the stills remain.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recspect.diagnosis.finding import Report
from recspect.files import write_bytes
from recspect.report.content import Drawings, content
from recspect.report.palette import DARK, LIGHT, declarations
from recspect.report.wording import clean

NOTEBOOK_HEIGHT = 800


def render(report: Report, *, scripts: bool = True) -> str:
    """The page as text.

    Args:
        report: What to show.
        scripts: Whether charts fit the window and answer the pointer, which takes the drawing library (0.9 MB). Without, the
            page is 0.2 to 0.6 MB and its charts are still pictures.
    """
    drawings = Drawings()
    shown = content(report, drawings)
    style = Markup(style_sheet())  # noqa: S704 - ours, nothing of the report in it
    code = (Markup(drawing_library()), Markup(asset("page.js"))) if drawings.specs and scripts else ()  # noqa: S704 - the library and our script
    page: str = environment().get_template("page.html.j2").render(
        **shown, style=style, scripts=code, policy=_policy(style, code), drawing=drawings.block())
    return page.lstrip() + "\n"


def write(report: Report, path: str | Path) -> Path:
    """Write the page; a reader sees the old file or the whole new one.

    Returns:
        The path.
    """
    path = Path(path)
    write_bytes(path, render(report).encode())
    return path


def notebook_html(report: Report) -> str:
    """A fragment for notebooks: the page in a frame of its own, so that neither can disturb the other.

    Without scripts, so that a saved notebook stays small and shows its charts wherever it is opened.
    """
    page = html.escape(render(report, scripts=False), quote=True)
    title = html.escape(f"recspect report {clean(report.title, limit=120)}", quote=True)
    return (f'<iframe srcdoc="{page}" title="{title}" sandbox="" width="100%" height="{NOTEBOOK_HEIGHT}" '
            'style="border:1px solid #8884;border-radius:6px" loading="lazy"></iframe>')


# ---------------------------------------------------------------------- assets


@cache
def environment() -> Environment:
    """Templates of the report; every text is escaped, and a name that is not there is an error."""
    made = Environment(loader=PackageLoader("recspect.report", "assets"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["stage_title"] = lambda stage: "The run" if stage == "run" else stage[:1].upper() + stage[1:]
    return made


@cache
def asset(name: str) -> str:
    """A file beside the templates, as text."""
    return files("recspect.report").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def style_sheet() -> str:
    """The style of pages, with the colours of the charts in light and dark."""
    return asset("page.css").replace("/*light*/", declarations(LIGHT)).replace("/*dark*/", declarations(DARK))


@cache
def drawing_library() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("\r\n", "\n")
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(style: str, scripts: Sequence[str]) -> str:
    """Content security policy: our style and our two scripts by hash, no evaluation of text, nothing from elsewhere.

    Vega would compile its expressions with `new Function`; with `ast: true` the interpreter in the bundle runs them.
    """
    allowed = " ".join(f"'{_hash(script)}'" for script in scripts) or "'none'"
    return (f"default-src 'none'; script-src {allowed}; style-src '{_hash(style)}'; img-src data:; base-uri 'none'; form-action 'none'")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


__all__ = ["NOTEBOOK_HEIGHT", "asset", "drawing_library", "environment", "notebook_html", "render", "style_sheet", "write"]
