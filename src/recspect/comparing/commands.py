"""`recspect compare`: two runs, or two columns of scores, on the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recspect.errors import Unavailable, UsageError
from recspect.exits import NEEDS_DATA, printable
from recspect.printing import Format, FormatOption, OutOption, show


def mount(app: typer.Typer, console: Any) -> None:
    """Add the command to the command line.

    Args:
        app: The command line.
        console: A rich console on stderr.
    """

    @app.command()
    def compare(current: Annotated[str, typer.Argument(help="run directory of the current model; with --eval alone, its column of scores")],
                candidate: Annotated[str, typer.Argument(help="run directory of the candidate; with --eval alone, its column of scores")],
                eval_table: Annotated[Path | None, typer.Option("--eval", help="rows held out from both models; of two runs of the same data and split, their own")] = None,
                schema: Annotated[Path | None, typer.Option(help="schema file of the table")] = None,
                rules: Annotated[Path | None, typer.Option(help="file of release rules; see docs/experiments.md")] = None, output: FormatOption = Format.TEXT, out: OutOption = None) -> None:
        """Compare two models on the same rows and decide on a release. Exit 0 ship, 1 hold, 3 needs data."""
        from recspect.comparing.comparison import compare_scores
        from recspect.comparing.release import read_rules
        from recspect.experimenting.deciding import Action
        from recspect.files import require_writable

        if out is not None:
            require_writable(out)
        declared = read_rules(rules) if rules is not None else ()
        runs = [Path(place) for place in (current, candidate) if (Path(place) / "run.json").is_file()]

        def say(text: str) -> None:
            console.print(text, markup=False, highlight=False)

        try:
            if len(runs) == 2:
                from recspect.comparing.runs import compare_runs

                found = compare_runs(runs[0], runs[1], data=eval_table, rules=declared, say=say)
            elif eval_table is None or schema is None or runs:
                raise UsageError(f"{current} and {candidate} are not two run directories", hint="recspect compare runs/a runs/b, or recspect compare score_a score_b --eval scored.parquet --schema schema.toml")
            else:
                from recspect.diagnosis.source import read, require_columns
                from recspect.drafting import validate
                from recspect.examining.sampling import all_rows
                from recspect.schema import Schema

                known = Schema.read(schema).with_roles(score=None)
                source = read(eval_table)
                require_columns(source, (current, candidate))
                validate(known, source, need=("label",))
                rows = all_rows(source)
                found = compare_scores(rows, known, rows.numbers(current), rows.numbers(candidate), rules=declared, names=(current, candidate), provenance={"data": str(eval_table)})
        except Unavailable as reason:
            raise UsageError(reason.reason, hint=reason.hint) from None
        if output is Format.TEXT and out is None:
            typer.echo(printable("\n".join([found.decision.action.upper(), *(f"  - {reason}" for reason in found.decision.reasons)])))
            typer.echo()
        show(found.report, output, out)
        raise typer.Exit({Action.SHIP: 0, Action.HOLD: 1, Action.NEEDS_DATA: NEEDS_DATA}[found.decision.action])


__all__ = ["mount"]
