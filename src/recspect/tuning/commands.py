"""`recspect tune`: settings searched for, and the winner judged once."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from recspect.errors import MissingExtraError, UsageError, listing
from recspect.exits import printable
from recspect.models.registry import MODELS
from recspect.printing import Format, FormatOption, show


def mount(app: typer.Typer, console: Any) -> None:
    """Add the command to the command line.

    Args:
        app: The command line.
        console: A rich console on stderr.
    """

    @app.command()
    def tune(data: Annotated[Path | None, typer.Argument(help="table: Parquet, CSV, Arrow; a file or a folder")] = None,
             schema: Annotated[Path | None, typer.Option(help="schema file of the table")] = None,
             dataset: Annotated[str, typer.Option(help="a data set by name instead of a table; see `recspect datasets`")] = "",
             label: Annotated[str, typer.Option(help="which label; default the schema's first")] = "",
             model: Annotated[str, typer.Option(help=f"one of: {listing(MODELS)}")] = "deepfm",
             objective: Annotated[list[str] | None, typer.Option("--objective", help="auc or loss, and with it bytes, operations, milliseconds (repeatable)")] = None,
             trials: Annotated[int, typer.Option(help="finished trials in all, earlier sittings included")] = 30,
             minutes: Annotated[float | None, typer.Option(help="of this sitting; by default as long as it takes")] = None,
             epochs: Annotated[int, typer.Option(help="of a trial at most")] = 10, seed: Annotated[int, typer.Option(help="of the search and of every training")] = 0,
             out: Annotated[Path | None, typer.Option("--out", help="folder of the search; by default a new one under runs/")] = None,
             resume: Annotated[Path | None, typer.Option("--resume", help="go on with the search of this folder")] = None, output: FormatOption = Format.TEXT) -> None:
        """Search the settings of a model (TPE, Hyperband) and judge the winner once, on rows that chose nothing. Needs the extra `tune`."""
        try:
            from recspect.examining.runs import open_data
            from recspect.training.rows import Tables
            from recspect.tuning.searching import Budget, search
            from recspect.tuning.tuning import PAGE, SETTINGS, Tuning
            from recspect.tuning.writing import write
        except ImportError as error:
            if (error.name or "").startswith("recspect"):
                raise  # a fault of ours, no missing extra
            raise MissingExtraError(error.name or "torch", extra="train", purpose="Searching settings") from None

        def say(text: str) -> None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

        budget = Budget(trials=trials, minutes=minutes)
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        if resume is not None:
            if data or schema or dataset or label or objective or out:
                raise UsageError("a search that goes on has its table, label and objectives already", hint=f"recspect tune --resume {resume} --trials {trials}")
            tuning = Tuning.open(resume)
            source = open_data(tuning.note["data"])
        else:
            tuning, source = _begin(data, schema, dataset, label, model, tuple(objective or ()), epochs, seed, out, command)
        tables = Tables.cut(source, tuning.schema, tuning.base)
        if tables.fingerprint != tuning.note["data_fingerprint"]:
            raise UsageError(f"the search in {tuning.folder} is of other data than is there now", hint="restore the table, or begin anew")
        try:
            with console.status("searching") as status:
                tuning = search(tuning, source, tables, budget, say=say, progress=lambda at: status.update(f"epoch {at.epoch}, step {at.step} of {at.steps}, loss {at.loss:.4f}") if console.is_terminal and not at.step % 20 else None)
        except KeyboardInterrupt:
            say(f"Interrupted. Go on: recspect tune --resume {tuning.folder} --trials {trials}")
            raise
        report = write(tuning, tables, command=command)
        if output is Format.TEXT:
            typer.echo(printable(report.findings[0].claim))
        else:
            show(report, output, None)
        say(f"The page: {tuning.folder / PAGE}")
        if (tuning.folder / SETTINGS).is_file():
            say(f"Next: recspect train {shlex.join(_table_words(tuning.note['data']))} --settings {tuning.folder / SETTINGS}")


def _begin(data: Path | None, schema_file: Path | None, dataset: str, label: str, model: str, objectives: tuple[str, ...], epochs: int, seed: int, out: Path | None, command: str) -> tuple[Any, Any]:
    """A new search, and its table."""
    from recspect.diagnosis.source import read
    from recspect.drafting import validate
    from recspect.models import ModelConfig
    from recspect.schema import Schema
    from recspect.training.config import TrainingConfig
    from recspect.training.rows import Tables
    from recspect.training.run import new_folder
    from recspect.tuning.tuning import Tuning, require_optuna

    require_optuna()
    if bool(dataset) == (data is not None):
        raise UsageError("tune takes either a table with --schema, or --dataset NAME", hint="recspect datasets lists the names")
    if dataset:
        from recspect import datasets

        loaded = datasets.load(dataset)
        source, schema, reference = loaded.source, loaded.schema, {"kind": "dataset", "name": dataset}
    else:
        assert data is not None
        if schema_file is None:
            raise UsageError("a table needs a schema", hint=f"recspect schema init {data} --out schema.toml")
        source, schema, reference = read(data), Schema.read(schema_file), {"kind": "file", "path": str(data.resolve())}
    if label:
        schema = schema.with_label(label)
    validate(schema, source, need=("label",))
    base = TrainingConfig(model=ModelConfig(name=model), maximum_epochs=epochs, seed=seed, validation_share=VALIDATION, observe_every=0, histograms_every=0)
    folder = out if out is not None else new_folder("runs", f"{dataset or (data.stem if data else 'table')}-tuning")
    fingerprint = Tables.cut(source, schema, base).fingerprint
    return Tuning.create(folder, schema=schema, base=base, objectives=objectives, data=reference, data_fingerprint=fingerprint, command=command), source


VALIDATION = 0.1
"""Share of the rows before the test rows by which trials are chosen: twice that of a training, since they choose among many."""


def _table_words(data: dict[str, Any]) -> list[str]:
    return ["--dataset", str(data.get("name"))] if data.get("kind") == "dataset" else [str(data.get("path", "TABLE")), "--schema", "SCHEMA"]


__all__ = ["mount"]
