"""Pictures in a notebook: the same that the report and the dashboard draw, as still ones that need no script."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from recspect.diagnosis.evidence import Evidence
from recspect.diagnosis.finding import Report
from recspect.report.content import Drawings, content
from recspect.report.html import environment, style_sheet
from recspect.report.wording import clean

HEIGHT = 640
"""Pixels of the frame; what does not fit is scrolled to."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Evidence that a notebook shows when it is the last line of a cell.

    Args:
        title: Above them.
        pieces: What to draw.
        lines: Sentences between title and pictures.
    """

    title: str
    pieces: tuple[Evidence, ...]
    lines: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        return framed(self.pieces, title=self.title, lines=self.lines)


def framed(pieces: Iterable[Evidence], *, title: str, lines: Sequence[str] = (), height: int = HEIGHT) -> str:
    """A fragment for a notebook: pictures in a frame of their own, so that neither can disturb the other. No script, nothing loaded.

    Args:
        pieces: What to draw.
        title: Above them; escaped like all other text.
        lines: Sentences between title and pictures.
        height: Pixels.
    """
    page = html.escape(page_of(pieces, title=title, lines=lines), quote=True)
    named = html.escape(f"recspect: {clean(title, limit=120)}", quote=True)
    return f'<iframe srcdoc="{page}" title="{named}" sandbox="" width="100%" height="{height}" style="border:1px solid #8884;border-radius:6px" loading="lazy"></iframe>'


def page_of(pieces: Iterable[Evidence], *, title: str, lines: Sequence[str] = ()) -> str:
    """The same as a whole page."""
    drawings = Drawings()
    shown = content(Report(overview=tuple(replace(piece, stage="run") for piece in pieces)), drawings)
    style = Markup(style_sheet())  # noqa: S704 - ours, nothing of the data in it
    made: str = environment().get_template("pictures.html.j2").render(**shown | {"title": clean(title, limit=300)}, lines=[clean(line) for line in lines], style=style)
    return made.lstrip()


__all__ = ["HEIGHT", "Pictures", "framed", "page_of"]
