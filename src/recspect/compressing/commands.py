"""`recspect compress`: the smallest model that is proven equal to a run's."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from recspect.exits import NEEDS_DATA, printable
from recspect.printing import Format, FormatOption, show


def mount(app: typer.Typer, console: Any) -> None:
    """Add the command to the command line.

    Args:
        app: The command line.
        console: A rich console on stderr.
    """

    @app.command()
    def compress(run: Annotated[Path, typer.Argument(help="run directory")], out: Annotated[Path, typer.Option("--out", help="folder for the smaller run, the page and its JSON twin")],
                 limit: Annotated[float, typer.Option(help="AUC that a smaller model may surely not lose")] = 0.001, output: FormatOption = Format.TEXT) -> None:
        """Make a run's model smaller and prove it equal on held-out rows. Exit 0: a smaller one is equal, 3: none was proven so."""
        from recspect.errors import MissingExtraError, RunError
        from recspect.files import require_writable

        require_writable(out, folder=True)
        if (out / "run.json").exists():
            raise RunError(f"{out} already holds a run", hint="choose another folder")
        try:
            from recspect.compressing.compress import compress as run_compression
            from recspect.compressing.writing import PAGE, write
        except ImportError as error:
            if (error.name or "").startswith("recspect"):
                raise  # a fault of ours, no missing extra
            raise MissingExtraError(error.name or "torch", extra="train", purpose="Compressing") from None

        found = run_compression(run, limit=limit, say=lambda text: console.print(text, markup=False, highlight=False))
        report = write(found, out, command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
        if output is Format.TEXT:
            typer.echo(printable("\n".join([*(_line(variant, found.before.bytes) for variant in found.variants), "", report.findings[0].claim])))
        else:
            show(report, output, None)
        console.print(f"The page: {out / PAGE}", markup=False, highlight=False, soft_wrap=True)
        if found.chosen is None:
            console.print("No smaller model was proven equal: nothing but the page was written.", markup=False, highlight=False)
            raise typer.Exit(NEEDS_DATA)
        console.print(f"{found.chosen.recipe.name}: {found.chosen.cost.bytes / found.before.bytes:.1%} of the bytes. Next: recspect diagnose {out}", markup=False, highlight=False, soft_wrap=True)


def _line(variant: Any, before: int) -> str:
    """A variant in one line: bytes, difference with its interval, verdict."""
    difference = variant.difference
    verdict = "equal" if variant.equal else "worse" if variant.worse else "not told"
    interval = f"({difference.low:+.5f} to {difference.high:+.5f})" if difference.has_interval else "(no interval)"
    return f"{variant.recipe.name:44s} {variant.cost.bytes / before:6.1%} of the bytes   AUC {difference.value:+.5f} {interval}   {verdict}"


__all__ = ["mount"]
