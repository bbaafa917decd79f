"""`recspect optimise`: remedies for a run, applied and put to the proof."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from recspect.errors import MissingExtraError
from recspect.exits import printable
from recspect.printing import Format, FormatOption, OutOption, show


def mount(app: typer.Typer, console: Any) -> None:
    """Add the command to the command line.

    Args:
        app: The command line.
        console: A rich console on stderr.
    """

    @app.command()
    def optimise(run: Annotated[Path, typer.Argument(help="run directory")],
                 finding: Annotated[str, typer.Option(help="only remedies for this finding, such as training.overfitting")] = "",
                 seeds: Annotated[int, typer.Option(help="pairs of trainings per remedy, 5 or more")] = 5,
                 minutes: Annotated[float | None, typer.Option(help="begin no training later; the same command goes on")] = None,
                 trials: Annotated[int, typer.Option(help="remedies that are judged at most")] = 8,
                 eval_table: Annotated[Path | None, typer.Option("--eval", help="rows that nothing was ever decided on; by default the last half of the held-out rows, in time")] = None,
                 folder: Annotated[Path | None, typer.Option(help="where to keep it; by default in the run's folder")] = None,
                 output: FormatOption = Format.TEXT, out: OutOption = None) -> None:
        """Propose remedies for a run, train with and without each, and accept what held-out rows prove. Stopped, it goes on when started again."""
        try:
            from recspect.optimising.optimiser import FOLDER, Settings
            from recspect.optimising.optimiser import optimise as run_optimisation
            from recspect.optimising.proving import Terms
            from recspect.training.run import Run
        except ImportError as error:
            if (error.name or "").startswith("recspect"):
                raise  # a fault of ours, no missing extra
            raise MissingExtraError(error.name or "torch", extra="train", purpose="Optimising") from None
        from recspect.diagnosis.finding import Report
        from recspect.files import require_writable

        if out is not None:
            require_writable(out)
        first = Run.open(run).config.seed
        settings = Settings(terms=Terms(seeds=tuple(range(first, first + seeds))), minutes=minutes, trials=trials, finding=finding)
        proof = None if eval_table is None else _proof(eval_table, run)
        place = folder or run / FOLDER
        try:
            with _telling(console) as (say, progress):
                done = run_optimisation(run, settings, proof=proof, folder=folder, say=say, progress=progress)
        except (KeyboardInterrupt, SystemExit):
            console.print(f"\nStopped. What was trained is kept in {place}; the same command goes on.", markup=False, highlight=False, soft_wrap=True)
            raise
        if output is Format.TEXT and out is None:
            for trial in done.trials:
                told = trial.judgement.reasons if trial.judgement is not None else (trial.trouble,)
                typer.echo(printable("\n".join([f"{trial.judgement.outcome.upper() if trial.judgement is not None else 'NOT JUDGED'} {trial.proposal.code} {trial.proposal.place}".rstrip(),
                                                 f"    {trial.proposal.prepared.text}", *(f"  - {reason}" for reason in told)])))
            typer.echo()
        show(Report.read(done.folder / "findings.json"), output, out)
        chain = ", ".join(trial.proposal.code for trial in done.accepted) or "none"
        ended = "" if done.status == "finished" else " The minutes are used up: the same command goes on."
        console.print(printable(f"Accepted, in this order: {chain}. {done.trained} trainings were done now.{ended}\nThe model with them: {done.model}\nThe page: {(done.folder / 'report.html').resolve()}"),
                      markup=False, highlight=False, soft_wrap=True)


def _proof(path: Path, run: Path) -> Any:
    """The rows of a file, with the columns that the run's schema names."""
    from recspect.diagnosis.batch import concatenate
    from recspect.diagnosis.source import read
    from recspect.training.rows import schema_columns
    from recspect.training.run import Run
    from recspect.validating import validate

    schema, source = Run.open(run).schema, read(path)
    validate(schema, source, need=("label",))
    return concatenate(list(source.batches(schema_columns(source, schema))))


@contextmanager
def _telling(console: Any) -> Iterator[tuple[Callable[[str], None], Callable[[Any], None]]]:
    """What tells people of steps (a line that changes) and of decisions (lines that stay)."""
    doing = ""
    with console.status("") as status:

        def say(text: str) -> None:
            nonlocal doing
            doing = printable(text)
            if text.startswith(("training ", "judging ", "diagnosing ", "reading ")) and console.is_terminal:
                status.update(doing)
            else:
                console.print(doing, markup=False, highlight=False, soft_wrap=True)

        def progress(at: Any) -> None:
            status.update(f"{doing}: epoch {at.epoch}, step {at.step:,} of {at.steps:,}")

        yield say, progress


__all__ = ["mount"]
