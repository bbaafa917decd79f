"""`recspect metrics measure|fit|show|decide|watch`: a metric that learns from past experiments, in use only where it has shown that it decides better."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recspect.errors import UsageError
from recspect.events.commands import KeyOption
from recspect.exits import printable
from recspect.printing import Format, FormatOption, OutOption, show

if TYPE_CHECKING:
    from recspect.adapting.metric_file import MetricFile
    from recspect.experimenting.experiment import Corpus

metrics_app = typer.Typer(no_args_is_help=True, help="Evaluation metrics that adapt to past experiments.")

FileArgument = Annotated[Path, typer.Argument(help="metric file (TOML, YAML or JSON)")]
TableOption = Annotated[Path, typer.Option("--experiments", help="table of experiments: Parquet or CSV")]
FolderOption = Annotated[Path, typer.Option("--folder", help="folder of the metric's history")]
SceneOption = Annotated[str, typer.Option("--scene", help="one scene; by default all together")]


@metrics_app.command()
def measure(file: FileArgument, events: Annotated[str, typer.Option("--events", help="event store (FILE.duckdb, postgresql://...) or table of events")],
            assignments: Annotated[Path, typer.Option("--assignments", help="table: experiment, user, arm, start; end, scene and family where known")],
            out: Annotated[Path, typer.Option("--out", help="Parquet file of experiments")],
            pseudonym_key: KeyOption = None) -> None:
    """Measure experiments from events: effects and their errors on every metric, of those that can be trusted."""
    from recspect.adapting.measuring import measure as run
    from recspect.adapting.metric_file import MetricFile
    from recspect.adapting.user_days import user_days
    from recspect.experimenting.tables import write_experiments
    from recspect.files import require_writable, write_bytes

    require_writable(out)
    declared = MetricFile.read(file)
    if "://" in events or events.endswith(".duckdb"):
        from recspect.events.pseudonyms import find_pseudonyms
        from recspect.events.store import open_store

        store = open_store(events, pseudonyms=find_pseudonyms(pseudonym_key), create=False)
        try:
            days = user_days(store, declared)
            found = run(days, assignments, declared, stored=store.stored_user)
        finally:
            store.close()
    else:
        days = user_days(Path(events), declared)
        found = run(days, assignments, declared)
    _say([f"{name} is left out: {reason}" for name, reason in found.left_out.items()])
    if not len(found.corpus):
        raise UsageError("no experiment could be measured", hint="the reasons stand above")
    buffer = BytesIO()
    write_experiments(found.corpus).write_parquet(buffer)
    write_bytes(out, buffer.getvalue())
    _say([f"{len(found.corpus)} comparisons measured on {len(declared.names)} metrics, days up to {days.last.isoformat()}"])
    typer.echo(f"Next: recspect metrics fit {file} --experiments {out}", err=True)


@metrics_app.command()
def fit(file: FileArgument, experiments: TableOption, folder: FolderOption = Path("metrics"), scene: SceneOption = "",
        draws: Annotated[int, typer.Option(help="draws of experiments behind the intervals of weights")] = 200,
        recent: Annotated[float | None, typer.Option(help="forget: so many experiments count in the long run, the latest most")] = None,
        adopt: Annotated[bool, typer.Option("--adopt-by-rule", help="put the proposal into use where the gate passes it")] = False) -> None:
    """Learn weights and threshold from past experiments, and propose them. Exit 0; the proposal says whether the gate passes it."""
    from recspect.adapting.fitting import to_fit_on
    from recspect.adapting.history import History, now_utc
    from recspect.adapting.proposing import first_release, propose
    from recspect.files import require_writable

    require_writable(folder, folder=True)
    if draws < 0:
        raise UsageError(f"--draws is {draws}", hint="200, or 0 for no intervals")
    if recent is not None and recent < 2:
        raise UsageError(f"--recent is {recent:g}", hint="a number of experiments, such as 80")
    declared, corpus = _read(file, experiments)
    kept, now = to_fit_on(corpus, declared), now_utc()
    history = first_release(kept, declared, History.read(folder), scene=scene, now=now)
    typer.echo(f"fitting on {len(kept)} experiments, ten parts left out in turn{f', {draws} draws of experiments' if draws else ''}", err=True)
    history.write(folder)  # the first release is in use even where the fit is interrupted
    proposal, _ = propose(kept, declared, history, scene=scene, draws=draws, recent=recent, now=now)
    history = history.with_proposal(proposal)
    number = history.proposals[-1].number
    adopted = adopt and proposal.passed
    if adopted:
        history = history.decided(number, adopt=True, by="rule", why=f"proposal {number} passed the gate", now=now)
    history.write(folder)
    _say([f"proposal {number}: {'adopted by rule' if adopted else 'the gate passes it' if proposal.passed else 'the gate does not pass it'} ({len(kept)} of {len(corpus)} experiments fitted on, the others kept apart)",
          *(f"  {reason}" for reason in proposal.reasons), "changes:", *(f"  {line}" for line in proposal.explanation)])
    if not adopted:
        typer.echo(f"Next: recspect metrics decide --adopt {number} --folder {folder}, or --reject {number}", err=True)


@metrics_app.command("show")
def show_command(folder: FolderOption = Path("metrics"), scene: SceneOption = "", output: FormatOption = Format.TEXT, out: OutOption = None) -> None:
    """Show what is in use, how it came about, and what is proposed."""
    from recspect.adapting.history import History
    from recspect.adapting.picture import picture, told
    from recspect.files import require_writable

    if out is not None:
        require_writable(out)
    history = History.read(folder)
    if output is Format.TEXT and out is None:
        _say(told(history, scene=scene))
        return
    show(picture(history, scene=scene), output, out)


@metrics_app.command()
def decide(file: Annotated[Path | None, typer.Argument(help="metric file, to judge experiments with")] = None,
           experiments: Annotated[Path | None, typer.Option("--experiments", help="table of experiments to judge")] = None, folder: FolderOption = Path("metrics"), scene: SceneOption = "",
           adopt: Annotated[int | None, typer.Option(help="put this proposal into use")] = None, reject: Annotated[int | None, typer.Option(help="reject this proposal")] = None,
           why: Annotated[str, typer.Option(help="what to note with the decision")] = "", fallback: Annotated[bool, typer.Option("--north-star-only", help="after an alarm: judge by the north star alone")] = False,
           output: Annotated[Format, typer.Option("--format", help="text for people, json for programs")] = Format.TEXT) -> None:
    """Ship or hold each experiment by the metric in use; or adopt or reject a proposal."""
    from recspect.adapting.history import History, now_utc

    history = History.read(folder)
    if (adopt is not None) + (reject is not None) + (experiments is not None) != 1:
        raise UsageError("decide takes one of --experiments, --adopt and --reject", hint="recspect metrics decide METRICS.toml --experiments TABLE; recspect metrics decide --adopt 1")
    if experiments is None:
        number = adopt if adopt is not None else reject
        assert number is not None
        history = history.decided(number, adopt=adopt is not None, by="person", why=why, now=now_utc())
        history.write(folder)
        _say([f"proposal {number} {'adopted' if adopt is not None else 'rejected'}; in use{f' in {scene}' if scene else ''}: release {history.require_current(scene).number}"])
        return
    if file is None:
        raise UsageError("judging experiments needs the metric file", hint=f"recspect metrics decide METRICS.toml --experiments {experiments}")
    from recspect.adapting.judging import judge, table
    from recspect.adapting.proposing import aligned

    declared, corpus = _read(file, experiments)
    found = [judge(one, aligned(history.require_current(one.scene or scene), declared), declared, fallback=fallback) for one in corpus if not scene or one.scene == scene]
    if output is Format.JSON:
        typer.echo(json.dumps({"experiments": table(found)}, indent=1))
        return
    _say([line for one in found for line in (f"{'SHIP' if one.ship else 'HOLD'} {one.experiment} (by {one.by})", *(f"  {reason}" for reason in one.reasons))])


@metrics_app.command()
def watch(file: FileArgument, experiments: TableOption, folder: FolderOption = Path("metrics"), scene: SceneOption = "",
          output: Annotated[Format, typer.Option("--format", help="text for people, json for programs")] = Format.TEXT) -> None:
    """Hold the metric in use against experiments that it was not fitted on. Exit 1 on an alarm."""
    from recspect.adapting.history import History
    from recspect.adapting.proposing import aligned
    from recspect.adapting.watching import watch as look

    declared, corpus = _read(file, experiments)
    release = aligned(History.read(folder).require_current(scene), declared)
    found = look(corpus if not scene else corpus.of_scene(scene), release, declared)
    if output is Format.JSON:
        typer.echo(json.dumps({"release": release.number, "experiments": list(found.experiments), "alarms": list(found.alarms), "widening": found.widening,
                               "surprises": [None if value != value else round(float(value), 4) for value in found.surprises.surprise],  # noqa: PLR0124 - NaN
                               "suspects": [{"metric": one.metric, "evidence": round(float(one.sums.max()), 4), "limit": round(one.limit, 4), "alarm": one.alarm, "kind": one.kind,
                                             "before": round(one.before, 4), "now": round(one.now, 4)} for one in found.suspects],
                               "retire": None if found.retire is None else found.retire.passed}, indent=1))
    else:
        mean = "no final north star yet" if not found.surprises.n else f"{found.surprises.n} final north stars, squared surprises {found.surprises.widening:.2f} times what was promised at least"
        leading = [f"most suspicious: {found.suspects[0].metric}, evidence {found.suspects[0].sums.max():.1f} of {found.suspects[0].limit:.1f} nats"] if found.suspects else []
        _say([f"release {release.number} against {len(found.experiments)} experiments that it was not fitted on: {mean}", *leading, *(f"ALARM {alarm}" for alarm in found.alarms),
              *(found.retire.reasons if found.retire is not None else ())])
        if not found.alarms:
            _say(["no alarm"])
    raise typer.Exit(1 if found.alarms else 0)


@metrics_app.command()
def alternatives(file: FileArgument, experiments: TableOption, users: Annotated[Path | None, typer.Option(help="table with a row per user and a column per metric, for a surrogate index of a scene without experiments")] = None,
                 output: Annotated[Format, typer.Option("--format", help="text for people, json for programs")] = Format.TEXT) -> None:
    """Show the learnt metric beside largest z, learnt log-p and the front of sensitivity against alignment; and scenes, pooled and each on its own."""
    from recspect.adapting.fitting import to_fit_on
    from recspect.adapting.ways import told, ways

    declared, corpus = _read(file, experiments)
    found = ways(to_fit_on(corpus, declared), declared, users=users)
    if output is Format.JSON:
        typer.echo(json.dumps(found.to_mapping(declared.names), indent=1, allow_nan=False))
        return
    _say(told(found))


def _read(file: Path, experiments: Path) -> tuple[MetricFile, Corpus]:
    from recspect.adapting.metric_file import MetricFile
    from recspect.experimenting.tables import read_experiments

    declared = MetricFile.read(file)
    return declared, read_experiments(experiments, declared.names, noise_correlation=declared.noise_correlation, relative=declared.effect == "relative")


def _say(lines: list[str]) -> None:
    for line in lines:
        typer.echo(printable(line))


__all__ = ["metrics_app"]
