"""How commands print reports: as text, JSON or a page, to the terminal or a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recspect.files import write_bytes

if TYPE_CHECKING:
    from recspect.diagnosis.finding import Report


class Format(StrEnum):
    """How findings are printed."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"


FormatOption = Annotated[Format, typer.Option("--format", help="text for people, json for programs, html for a page")]
OutOption = Annotated[Path | None, typer.Option("--out", help="write to this file instead of the terminal")]


def show(found: Report, output: Format, out: Path | None) -> None:
    """Print a report, or write it to a file."""
    if output is Format.HTML:
        from recspect.report import html

        if out is not None:
            html.write(found, out)
        else:
            print(html.render(found))  # noqa: T201 - the answer, for a pipe
        return
    if output is Format.JSON:
        text = found.to_json()
    else:
        from recspect.report.text import print_report, render

        if out is None:
            print_report(found)
            return
        text = render(found)
    if out is not None:
        write_bytes(out, f"{text}\n".encode("utf-8", "backslashreplace"))
    else:
        print(text)  # noqa: T201 - the answer, for a pipe


__all__ = ["Format", "FormatOption", "OutOption", "show"]
