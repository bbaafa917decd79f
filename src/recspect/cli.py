"""The command line: one command per stage of the loop. Exit 0: healthy; 1: a FAIL finding; 2: wrong use or bad input."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from recspect import exits
from recspect.adapting.commands import metrics_app
from recspect.comparing import commands as comparing
from recspect.compressing import commands as compressing
from recspect.dashboard import commands as dashboard
from recspect.errors import UsageError, listing
from recspect.events.commands import events_app
from recspect.examining.running import KeepOption, MemoryOption, RunnerOption, chosen_runner, tells_people
from recspect.experimenting.commands import experiment_app
from recspect.explaining import command as explaining
from recspect.files import require_writable, write_bytes
from recspect.looping import commands as looping
from recspect.models.registry import MODELS
from recspect.optimising import commands as optimising
from recspect.printing import Format, FormatOption, OutOption, show
from recspect.recommending import commands as recommending
from recspect.schema import Schema
from recspect.serving import commands as serving
from recspect.tuning import commands as tuning

if TYPE_CHECKING:
    from recspect.diagnosis.finding import Finding, Report
    from recspect.diagnosis.runners.runner import Runner
    from recspect.examining.references import References

app = typer.Typer(name="recspect", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Look inside deep recommenders: what they use, what is wrong with them, what to change.")
schema_app = typer.Typer(no_args_is_help=True, help="Schema files: what the columns of a table mean.")
app.add_typer(schema_app, name="schema")
reference_app = typer.Typer(no_args_is_help=True, help="Healthy runs, kept to hold later ones against.")
app.add_typer(reference_app, name="reference")
app.add_typer(events_app, name="events")
app.add_typer(metrics_app, name="metrics")
app.add_typer(experiment_app, name="experiment")
_err = Console(stderr=True)


SliceOption = Annotated[list[str] | None, typer.Option("--slice", help="judge these rows apart: 'country=DE, age>=30' (repeatable)")]
ToOption = Annotated[list[str] | None, typer.Option("--to", help="tensorboard:DIR, wandb:DIR, mlflow:sqlite:///FILE, "
                                                    "visdom:http://HOST:PORT (repeatable)")]


@app.command()
def demo(runs: Annotated[Path, typer.Option(help="folder of run directories")] = Path("runs"),
         dataset: Annotated[str, typer.Option(help="data set; by default KuaiRand-Pure where it is found, else MovieLens-100K")] = "",
         epochs: Annotated[int, typer.Option(help="passes over the training rows at most")] = 3,
         open_report: Annotated[bool, typer.Option("--open/--no-open", help="show the report in a browser")] = True) -> None:
    """Train on real data, look inside, judge, and show the report."""
    from recspect import datasets

    if not dataset:
        dataset = "kuairand-pure" if datasets.locate("kuairand-pure") is not None else "movielens-100k"
    folder = _train(runs=runs, dataset=dataset, data=None, schema_file=None, label=None, model="deepfm", epochs=epochs, seed=0,
                    run_dir=None)
    report = _examined(folder, ())
    show(report, Format.TEXT, None)
    page = (folder / "report.html").resolve()
    _err.print(f"\nThe report: [bold]{page}[/bold]\nA pipeline would run [bold]recspect diagnose {folder}[/bold] and stop on exit 1.")
    if open_report and sys.stdout.isatty():
        import webbrowser

        webbrowser.open(page.as_uri())


@app.command()
def train(data: Annotated[Path | None, typer.Argument(help="table: Parquet, CSV, Arrow; a file or a folder")] = None,
          schema: Annotated[Path | None, typer.Option(help="schema file (TOML, YAML or JSON)")] = None,
          dataset: Annotated[str, typer.Option(help="a data set by name instead of a table; see `recspect datasets`")] = "",
          label: Annotated[str | None, typer.Option(help="which label to train; default the schema's first; several with commas (mmoe, ple)")] = None,
          model: Annotated[str, typer.Option(help=f"one of: {listing(MODELS)}; by default deepfm, or that of --settings")] = "",
          epochs: Annotated[int | None, typer.Option(help="passes over the training rows at most; by default 10, or as --settings says")] = None,
          settings: Annotated[Path | None, typer.Option(help="file of settings, such as `recspect tune` writes")] = None,
          seed: Annotated[int, typer.Option(help="of weights, order of rows and random splits")] = 0,
          runs: Annotated[Path, typer.Option(help="folder of run directories")] = Path("runs"),
          run_dir: Annotated[Path | None, typer.Option(help="this run's own folder")] = None,
          buffer_mebibytes: Annotated[int, typer.Option(help="stream Parquet files: hold so many MiB of training rows, not the whole table; 0 holds the table")] = 0,
          split: Annotated[str, typer.Option(help="auto, time, random, or file (of streamed files the last ones are the test)")] = "auto",
          resume: Annotated[Path | None, typer.Option(help="go on with this run directory")] = None, to: ToOption = None) -> None:
    """Train a built-in recommender and write a run directory. `torchrun --nproc-per-node N -m recspect.cli train ...` trains on N processes."""
    sinks = _live(to)
    if resume is not None:
        folder = _resume(resume, sinks)
    else:
        folder = _train(runs=runs, dataset=dataset, data=data, schema_file=schema, label=label, model=model, epochs=epochs, seed=seed, settings=settings,
                        buffer_bytes=buffer_mebibytes * 2**20, split=split, run_dir=run_dir, sinks=sinks)
    if not _first_process():
        return
    for sink in sinks:
        _err.print(f"{sink.sink.name}: {sink.failure or sink.sink.where}", markup=False, highlight=False, soft_wrap=True)
    print(folder)  # noqa: T201 - the answer, for a pipe
    _err.print(f"Next: [bold]recspect diagnose {folder}[/bold]")


@app.command()
def diagnose(run: Annotated[Path | None, typer.Argument(help="run directory, TensorBoard event files, or a scored table")] = None,
             subject: Annotated[str, typer.Option(help="file.py:function that returns a torch module or a recspect Subject")] = "",
             train_table: Annotated[Path | None, typer.Option("--train", help="training (or reference) table")] = None,
             eval_table: Annotated[Path | None, typer.Option("--eval", help="held-out (or current) table")] = None,
             schema: Annotated[Path | None, typer.Option(help="schema file")] = None, slices: SliceOption = None,
             healthy: Annotated[Path | None, typer.Option("--reference", help="file of healthy runs to hold it against; see `recspect reference`")] = None,
             runner: RunnerOption = "local", keep: KeepOption = None, memory_gib: MemoryOption = None,
             output: FormatOption = Format.TEXT, out: OutOption = None) -> None:
    """Examine a run, your own model, a scored table alone, or TensorBoard event files."""
    chosen = _slices(slices)
    if out is not None:
        require_writable(out)
    kept = None if healthy is None else _healthy_runs(healthy)  # read before the examination, which takes a minute
    if run is not None and (runner, keep, memory_gib) != ("local", None, None) and (schema is None or (run / "run.json").is_file()):
        raise UsageError(f"--runner, --keep and --memory-gib are for tables, and {run} is given without --schema", hint=f"recspect diagnose {run}")
    if run is not None and (run / "run.json").is_file():
        if subject or train_table or eval_table or schema:
            raise UsageError(f"{run} is a run directory, which needs no --subject, --train, --eval or --schema",
                             hint=f"recspect diagnose {run}")
        report = _examined(run, chosen)
    elif run is not None and schema is None and (run / "observed.json").is_file():
        from recspect.examining.observed_runs import examine_observed

        report = examine_observed(run)
    elif run is not None and schema is None and _holds_events(run):
        from recspect.examining.event_files import examine_events

        report = examine_events(run)
    elif run is not None and run.is_dir() and schema is None:
        raise UsageError(f"{run} is a folder without run.json", hint="give a run directory, TensorBoard event files, or a table with --schema FILE")
    else:
        with chosen_runner(runner, keep, memory_gib) as adding:
            report = _from_tables(run, subject, train_table, eval_table, schema, chosen, adding)
        if not tells_people(adding):
            raise typer.Exit(1 if report.verdict.value == "FAIL" else 0)
    if kept is not None:
        report = _held_against(kept, report, run)
    show(report, output, out)
    raise typer.Exit(1 if report.verdict.value == "FAIL" else 0)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="run directory or findings JSON")], output: FormatOption = Format.HTML,
           out: OutOption = None) -> None:
    """Show the findings of an earlier diagnosis again."""
    from recspect.diagnosis.finding import Report

    path = run / "findings.json" if run.is_dir() else run
    if out is not None:
        require_writable(out)
    target = out if out is not None else (path.with_name("report.html") if output is Format.HTML else None)
    show(Report.read(path), output, target)
    if target is not None:
        _err.print(f"wrote {target}")


@app.command()
def send(run: Annotated[Path, typer.Argument(help="run directory")], to: ToOption = None) -> None:
    """Show a run in TensorBoard, Weights & Biases, MLflow or Visdom."""
    from recspect.sinks.sending import send_to

    if not to:
        raise UsageError("send needs to know where", hint=f"recspect send {run} --to tensorboard:logs")
    for where in send_to(run, to):
        print(where)  # noqa: T201 - the answer


@app.command()
def doctor(run: Annotated[Path | None, typer.Argument(help="run directory")] = None,
           subject: Annotated[str, typer.Option(help="file.py:function that returns a torch module or a recspect Subject")] = "",
           table: Annotated[Path | None, typer.Option("--eval", help="a table to try the model on")] = None,
           schema: Annotated[Path | None, typer.Option(help="schema file: names the inputs of a torch module")] = None) -> None:
    """Say how the model reads its fields, and whether attributions of it can be trusted."""
    from recspect.examining.doctor import examine_lookups

    named = Schema.read(schema) if schema else None
    model = _subject(subject, named) if subject else None
    print(examine_lookups(run=run, subject=model, table=table, schema=named))  # noqa: T201 - the answer


@app.command()
def exam(programs: Annotated[str, typer.Option(help="worlds and architectures, such as feed/silu,shop/deepfm; `worlds` for every synthetic one, `real` for real tables, `all`")] = "",
         seeds: Annotated[int, typer.Option(help="seeds per program")] = 1,
         severity: Annotated[str, typer.Option(help="barely, typical, gross; several with commas")] = "barely,typical",
         faults: Annotated[str, typer.Option(help="only these faults; several with commas; none for healthy runs alone")] = "",
         out: Annotated[Path, typer.Option(help="file of outcomes; an exam that was stopped goes on with it")] = Path("runs/exam.jsonl"),
         workers: Annotated[int, typer.Option(help="processes")] = 2) -> None:
    """Judge the judges: plant faults in worlds whose truth is known, and count what is found and named."""
    from recspect.exam import command

    command.run(programs, seeds, severity, faults, out, workers, say=lambda text: _err.print(text, markup=False, highlight=False))


@app.command()
def datasets(name: Annotated[str, typer.Argument(help="one data set in full")] = "") -> None:
    """List the public data sets: what they are, their terms, where they were found."""
    from recspect import datasets as registry

    for each in [name] if name else registry.names():
        card = registry.card(each)
        place = registry.locate(each)
        print(f"{card.name}: {card.title}\n  {card.rows:,} rows; {place or 'not on this machine yet'}\n  terms: {card.terms}")  # noqa: T201
        if name:
            print("\n".join([f"  cite: {card.citation}", f"  page: {card.url}", *(f"  note: {n}" for n in card.notes)]))  # noqa: T201


@reference_app.command("add")
def reference_add(run: Annotated[Path, typer.Argument(help="run directory that was diagnosed, or findings JSON")],
                  to: Annotated[Path, typer.Option("--to", help="file of healthy runs")] = Path("healthy.json")) -> None:
    """Keep the numbers of a run that was well, to hold later runs against."""
    from recspect.diagnosis.finding import Report
    from recspect.examining.references import References

    found = Report.read(run / "findings.json" if run.is_dir() else run)
    require_writable(to)
    kept = References.read(to).with_run(found)
    kept.write(to)
    _err.print(f"{to} holds {len(kept.runs)} healthy runs; next: recspect diagnose RUN --reference {to}", markup=False, highlight=False, soft_wrap=True)


@schema_app.command("init")
def schema_init(data: Annotated[Path, typer.Argument(help="table: Parquet, CSV, Arrow")], out: OutOption = None) -> None:
    """Draft a schema from names, types and a sample of the data, for a person to correct."""
    from recspect.diagnosis.source import read
    from recspect.drafting import draft_text

    if out is not None and out.is_file():
        raise UsageError(f"{out} exists already", hint="choose another name, or remove it first")
    if out is not None:
        require_writable(out)
    text = draft_text(read(data))
    if out is None:
        print(text, end="")  # noqa: T201 - the answer, for a pipe
    else:
        write_bytes(out, text.encode())
        _err.print(f"wrote {out}; correct it, then: recspect train {data} --schema {out}")


serving.mount(app, _err)
comparing.mount(app, _err)
optimising.mount(app, _err)
compressing.mount(app, _err)
tuning.mount(app, _err)
dashboard.mount(app, _err)
looping.mount(app, _err)
recommending.mount(app, _err, lambda reference: import_module("recspect.examining.runs").open_data(reference))
explaining.mount(app, _err, lambda reference: import_module("recspect.examining.runs").open_data(reference))


def main() -> NoReturn:
    """Entry point: errors that a user can mend are told without a traceback, with exit 2."""
    exits.run(app, _err)


# ---------------------------------------------------------------------- details


def _train(*, runs: Path, dataset: str, data: Path | None, schema_file: Path | None, label: str | None, model: str, epochs: int | None,
           seed: int, run_dir: Path | None, settings: Path | None = None, buffer_bytes: int = 0, split: Any = "auto", sinks: tuple[Any, ...] = ()) -> Path:
    from recspect.diagnosis.source import read
    from recspect.drafting import validate
    from recspect.errors import MissingExtraError

    if bool(dataset) == (data is not None):
        raise UsageError("train takes either a table with --schema, or --dataset NAME", hint="recspect datasets lists the names")
    if dataset:
        from recspect import datasets

        _err.print(f"loading {dataset}")
        loaded = datasets.load(dataset)
        source, schema, reference = loaded.source, loaded.schema, {"kind": "dataset", "name": dataset}
        _err.print(f"{loaded.title}: terms {loaded.terms}", markup=False, highlight=False)
    else:
        assert data is not None
        if schema_file is None:
            raise UsageError("a table needs a schema", hint=f"recspect schema init {data} --out schema.toml")
        source, schema = read(data), Schema.read(schema_file)
        reference = {"kind": "file", "path": str(data.resolve())}
    require_writable(run_dir or runs, folder=True)
    labels = [name.strip() for name in (label or "").split(",") if name.strip()]
    for one in reversed(labels):
        schema = schema.with_label(one)
    validate(schema, source, need=("label",))
    try:
        from recspect.training.loop import train as run_training
        from recspect.training.settings_file import of_command
    except ImportError as error:
        if (error.name or "").startswith("recspect"):
            raise  # a fault of ours, no missing extra
        raise MissingExtraError(error.name or "torch", extra="train", purpose="Training") from None
    from recspect.training.run import new_folder

    folder = run_dir or new_folder(runs, dataset or (data.stem if data else "run"))
    config = of_command(settings, model=model, epochs=epochs, labels=tuple(labels) if len(labels) > 1 else (), seed=seed, buffer_bytes=buffer_bytes, split=split)
    with _progress() as tell:
        run = run_training(source, schema, config, folder, reference=reference, command=_command(), progress=tell, sinks=sinks, on_finding=_warn)
    for figures in run.epochs if _first_process() else ():
        by_label = figures.get("labels", {})
        for name, row in (("", {key: value for key, value in figures.items() if key != "labels"}), *by_label.items()):
            _err.print("  ".join([*([f"  {name}:"] if name else []), *(f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())]),
                       markup=False, highlight=False)
    return run.folder


def _first_process() -> bool:
    """Whether this process tells people: the first of those that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _warn(finding: Finding) -> None:
    """What goes wrong in a training, above its progress bar."""
    _err.print(f"{finding.verdict.value} {finding.code}: {finding.claim}" + (f" {finding.remedies[0].text}" if finding.remedies else ""), markup=False,
               highlight=False)


def _live(targets: list[str] | None) -> tuple[Any, ...]:
    if not targets or not _first_process():
        return ()
    from recspect.sinks.live import live

    return live(targets)


def _resume(folder: Path, sinks: tuple[Any, ...] = ()) -> Path:
    from recspect.examining.runs import open_data
    from recspect.training.loop import resume
    from recspect.training.run import Run

    if Run.open(folder).status == "finished":
        _err.print(f"{folder} is finished: nothing is left to train", highlight=False, soft_wrap=True)
        return folder
    with _progress() as tell:
        resume(folder, open_data(Run.open(folder).record["data"]), progress=tell, sinks=sinks, on_finding=_warn)
    return folder


def _holds_events(path: Path) -> bool:
    return ".tfevents." in path.name or (path.is_dir() and next(path.rglob("*.tfevents.*"), None) is not None)


def _examined(folder: Path, slices: tuple[Any, ...]) -> Report:
    from recspect.examining.runs import examine_run

    with _saying() as say:
        return examine_run(folder, slices=slices, say=say)


def _healthy_runs(path: Path) -> References:
    from recspect.examining.references import References

    if not path.is_file():
        raise UsageError(f"no file of healthy runs at {path}", hint=f"recspect reference add RUN --to {path}")
    return References.read(path)


def _held_against(healthy: References, report: Report, run: Path | None) -> Report:
    """The report held against healthy runs; a run directory keeps it so."""
    from recspect.report import html

    held = healthy.hold(report)
    if run is not None and (run / "run.json").is_file():
        write_bytes(run / "findings.json", held.to_json().encode())
        html.write(held, run / "report.html")
    return held


def _from_tables(table: Path | None, subject: str, train_table: Path | None, eval_table: Path | None, schema_file: Path | None,
                 slices: tuple[Any, ...], runner: Runner) -> Report:
    from recspect.diagnosis.source import read
    from recspect.drafting import validate
    from recspect.examining.examination import examine, examine_table

    target: Any = eval_table or table
    if target is None:
        raise UsageError("nothing to examine", hint="give a run directory, or --eval TABLE with --schema FILE")
    if table is not None and (subject or eval_table):
        raise UsageError(f"{table} was given beside {'--subject' if subject else '--eval'}: which table is to be examined?",
                         hint="recspect diagnose --subject file.py:function --train TABLE --eval TABLE --schema FILE")
    if schema_file is None:
        raise UsageError("a table needs a schema", hint=f"recspect schema init {target} --out schema.toml")
    schema = Schema.read(schema_file)
    target = read(target, name=str(target), whole=runner.name == "local")
    reference = None if train_table is None else read(train_table, name=str(train_table))
    with _saying() as say:
        if subject:
            for rows in filter(None, (target, reference)):
                validate(schema.with_roles(score=None), rows)
            return examine(_subject(subject, schema), target, schema, reference=reference, slices=slices, say=say,
                           provenance={"command": _command()}, runner=runner)
        if schema.score is None and reference is None and schema.arm is None and schema.propensity is None:
            raise UsageError("the schema names no score column, and no model was given",
                             hint='add score = "..." under [roles], or give --subject file.py:function; logs of experiments or of logged probabilities (the roles arm and '
                                  "propensity), and two tables to compare (--train TABLE), need neither")
        return examine_table(target, schema, reference=reference, slices=slices, say=say,
                             provenance={"command": _command()}, runner=runner)


def _subject(spec: str, schema: Schema | None = None) -> Any:
    from recspect.examining.subject_file import load_subject

    return load_subject(spec, schema)


def _slices(texts: list[str] | None) -> tuple[Any, ...]:
    from recspect.diagnosis.slice import Slice

    return tuple(Slice.parse(text) for text in texts or ())


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


@contextmanager
def _saying() -> Iterator[Callable[[str], None]]:
    with _err.status("looking") as status:
        yield lambda text: status.update(text) if _err.is_terminal else _err.print(text, markup=False, highlight=False)


@contextmanager
def _progress() -> Iterator[Callable[[Any], None]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TextColumn("loss {task.fields[loss]:.4f}"),
                  TimeRemainingColumn(), console=_err, transient=True, disable=not _first_process()) as bar:
        task = bar.add_task("training", total=None, epoch=1, loss=float("nan"))

        def tell(at: Any) -> None:
            bar.update(task, total=at.steps, completed=at.step, epoch=at.epoch, loss=at.loss)

        yield tell


if __name__ == "__main__":
    main()
