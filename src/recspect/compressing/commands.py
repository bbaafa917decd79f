"""`recspect compress`: the smallest model that is proven equal to a run's."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from recspect.exits import NEEDS_DATA
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
        from recspect.errors import RunError
        from recspect.files import require_writable

        require_writable(out, folder=True)
        if (out / "run.json").exists():
            raise RunError(f"{out} already holds a run", hint="choose another folder")
        from recspect.compressing.compress import compress as run_compression
        from recspect.compressing.writing import PAGE, write

        found = run_compression(run, limit=limit, say=lambda text: console.print(text, markup=False, highlight=False))
        report = write(found, out, command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
        show(report, output, None)
        console.print(f"The page: {out / PAGE}", markup=False, highlight=False, soft_wrap=True)
        if found.chosen is None:
            console.print("No smaller model was proven equal: nothing but the page was written.", markup=False, highlight=False)
            raise typer.Exit(NEEDS_DATA)
        console.print(f"{found.chosen.recipe.name}: {found.chosen.cost.bytes / found.before.bytes:.1%} of the bytes. Next: recspect diagnose {out}", markup=False, highlight=False, soft_wrap=True)


__all__ = ["mount"]
