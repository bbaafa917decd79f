"""The command `recspect explain`."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from recspect.errors import UsageError, listing

OpenData = Callable[[Any], Any]


class ExplanationFormat(StrEnum):
    """How an explanation is printed."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"


def mount(app: typer.Typer, console: Any, open_data: OpenData) -> None:
    """Add the command to the command line.

    Args:
        app: The command line.
        console: A rich console on stderr.
        open_data: Gives the table of a run from the reference in its `run.json`.
    """

    @app.command()
    def explain(recommender: Annotated[Path, typer.Argument(metavar="RUN_OR_RECOMMENDER", help="a run directory, or the folder of a recommender")],
                user: Annotated[str, typer.Option(help="whose list")],
                item: Annotated[str | None, typer.Option(help="which item; by default the first of the list")] = None,
                over: Annotated[str | None, typer.Option(help="another item: why is the first above it")] = None,
                below: Annotated[float | None, typer.Option(help="ask what would take the ranking score below this")] = None,
                k: Annotated[int, typer.Option("--k", help="length of the list")] = 10,
                context: Annotated[list[str] | None, typer.Option(help="a field of the request, such as surface=home (repeatable)")] = None,
                against: Annotated[str, typer.Option(help="what it is compared with: `alike`, pairs with other values that are as frequent, or `mean`, the mean pair")] = "alike",
                names: Annotated[str | None, typer.Option(help="column of items with names for people, such as a title")] = None,
                language: Annotated[str, typer.Option("--lang", help="en or zh")] = "en",
                output: Annotated[ExplanationFormat, typer.Option("--format", help="text for people, json for programs, html for a page")] = ExplanationFormat.TEXT,
                unknown: Annotated[bool, typer.Option("--unknown", help="also for a user who is not known")] = False) -> None:
        """Say why an item is recommended: what carried it, why above another, what would change it."""
        from recspect.explaining.sentences import LANGUAGES
        from recspect.recommending.commands import context_of, needs_torch, opened

        if language not in LANGUAGES:
            raise UsageError(f"no language {language!r}", hint=f"choices: {listing(LANGUAGES)}")
        with needs_torch():
            from recspect.explaining.explainer import RecommendationExplainer
            from recspect.recommending.pipeline.batch import require_known

            found = opened(recommender, open_data, lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True))
            asked = user if unknown else require_known(found.audience.ids, user)
            explained = RecommendationExplainer(found, item_names=names, against=against).explain(asked, item, over=over, below=below, k=k, context=context_of(context or []))
        if output is ExplanationFormat.JSON:
            print(json.dumps(explained.to_mapping(language), indent=1, ensure_ascii=True, allow_nan=False))  # noqa: T201 - the answer, for a pipe
        else:
            print(explained.html(language) if output is ExplanationFormat.HTML else explained.text(language))  # noqa: T201 - the answer
