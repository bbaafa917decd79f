"""The commands `recspect recommend` and `recspect recommender build`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recspect.errors import MissingExtraError, RunError, UsageError
from recspect.files import require_writable

if TYPE_CHECKING:
    from recspect.recommending.pipeline.recommender import Recommender
    from recspect.training.run import Run

OpenData = Callable[[Mapping[str, Any]], Any]

SourcesOption = Annotated[str, typer.Option(help="candidate sources with commas, such as 'popular, sequence(model=\"hstu\")'; by default all that the data allows "
                                                 "but sequence")]
StepsOption = Annotated[str, typer.Option(help="re-ranking steps in order, such as 'already_seen, mmr(balance=0.7), epsilon_greedy'")]


def mount(app: typer.Typer, console: Any, open_data: OpenData) -> None:
    """Add the commands to the command line.

    Args:
        app: The command line.
        console: A rich console on stderr.
        open_data: Gives the table of a run from the reference in its `run.json`.
    """
    recommender_app = typer.Typer(no_args_is_help=True, help="Recommenders: sources, ranking and steps in a folder.")
    app.add_typer(recommender_app, name="recommender")

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    @recommender_app.command("build")
    def build(run: Annotated[Path, typer.Argument(help="run directory, whose model ranks")],
              out: Annotated[Path, typer.Option(help="folder of the recommender")],
              sources: SourcesOption = "", steps: StepsOption = "already_seen",
              rows: Annotated[str, typer.Option(help="what it learns from: `all` rows of the run's table, or `train`, where lists are judged on later rows")] = "all",
              ranking: Annotated[str, typer.Option(help="`model`: the run's model ranks the candidates; `sources`: they are ordered by their ranks in the sources, fused")] = "model",
              items: Annotated[Path | None, typer.Option(help="a table of items, one row each: more columns, or items without a row")] = None,
              author: Annotated[str | None, typer.Option(help="column of items that says who made each")] = None,
              category: Annotated[str | None, typer.Option(help="column of items with their categories")] = None,
              per_source: Annotated[int, typer.Option(help="candidates of each source")] = 200,
              candidates: Annotated[int, typer.Option(help="candidates that are ranked at most")] = 500,
              replace: Annotated[bool, typer.Option("--replace", help="in place of a recommender that is there")] = False) -> None:
        """Put a recommender together: candidate sources, the run's model, re-ranking steps."""
        with needs_torch():
            from recspect.recommending.pipeline.folder import require_free
            from recspect.recommending.pipeline.settings import SOURCES, STEPS, RecommenderSettings, parse

            settings = RecommenderSettings(sources=parse(sources, SOURCES, "source") if sources.strip() else None, steps=parse(steps, STEPS, "step"),
                                           per_source=per_source, candidates=candidates, author=author, category=category)
            require_free(out, replacing=replace)
            built = _build(run, open_data, settings, rows=rows, ranking=ranking, items=items, say=say)
            built.save(out, replace=replace)
        print(out)  # noqa: T201 - the answer, for a pipe
        say(f"{len(built.items):,} items, {len(built.audience):,} users, sources {', '.join(source.name for source in built.sources)}\n"
            f"Next: recspect recommend {out} --out lists.parquet")

    @app.command()
    def recommend(recommender: Annotated[Path, typer.Argument(metavar="RUN_OR_RECOMMENDER", help="a run directory, or the folder of a recommender")],
                  user: Annotated[str | None, typer.Option(help="one user: prints its list as JSON")] = None,
                  users: Annotated[Path | None, typer.Option(help="a table with the user column, or a text with one id per line; by default all that are known")] = None,
                  unknown: Annotated[bool, typer.Option("--unknown", help="with --user: also for one that is not known")] = False,
                  k: Annotated[int, typer.Option("--k", help="length of the lists")] = 10,
                  out: Annotated[Path | None, typer.Option(help="Parquet file of lists")] = None,
                  context: Annotated[list[str] | None, typer.Option(help="a field of the request, such as surface=home (repeatable)")] = None,
                  steps: Annotated[str | None, typer.Option(help="other re-ranking steps than the recommender's")] = None,
                  seed: Annotated[int, typer.Option(help="of what is drawn")] = 0,
                  trace: Annotated[bool, typer.Option("--trace", help="also where each candidate came from, its scores, and why it is not shown")] = False) -> None:
        """Make lists: for all users into a file, or for one onto the terminal."""
        if (user is None) == (out is None):
            raise UsageError("recommend writes the lists of all users to --out FILE, or prints that of one --user ID",
                             hint=f"recspect recommend {recommender} --out lists.parquet")
        if user is not None and users is not None:
            raise UsageError("both --user and --users were given", hint="give one of them")
        if out is not None:
            require_writable(out)
        with needs_torch():
            from recspect.recommending.pipeline.batch import read_users, require_known, trace_path, write_lists
            from recspect.recommending.pipeline.settings import STEPS, parse

            found = opened(recommender, open_data, say)
            if steps is not None:
                found = found.with_steps(*parse(steps, STEPS, "step"))
            given = context_of(context or [])
            if user is not None:
                asked = user if unknown else require_known(found.audience.ids, user)
                _print_one(found, asked, k, given, seed, trace=trace)
                return
            assert out is not None
            everyone = read_users(users, found.items.schema.user) if users is not None else found.audience.ids.values.tolist()
            with _progress(console, len(everyone)) as tell:
                rows = write_lists(found, everyone, out, k=k, context=given, seed=seed, trace=trace, progress=tell)
        print(out)  # noqa: T201 - the answer, for a pipe
        say(f"{rows:,} places for {len(everyone):,} users" + (f"; traces in {trace_path(out)}" if trace else ""))


def _build(folder: Path, open_data: OpenData, settings: Any, *, rows: str, ranking: str, items: Path | None, say: Callable[[str], None]) -> Recommender:
    from recspect.diagnosis.batch import concatenate
    from recspect.diagnosis.source import read
    from recspect.recommending.pipeline.building import build_recommender
    from recspect.training.run import Run

    if rows not in ("all", "train"):
        raise UsageError(f"--rows is {rows!r}", hint="choices: all, train")
    if ranking not in ("model", "sources"):
        raise UsageError(f"--ranking is {ranking!r}", hint="choices: model, sources")
    run = Run.open(folder)
    if run.best_epoch is None:
        raise RunError(f"run {run.id} has no finished epoch yet", hint=f"recspect train --resume {folder}")
    require_lists(run)
    table = None
    if items is not None:
        source = read(items, name=str(items))
        table = concatenate(list(source.batches(list(source.columns))))
    return build_recommender(rows_of(run, open_data, rows), run.schema, run=run if ranking == "model" else None, items=table, settings=settings, say=say)


def require_lists(run: Run) -> None:
    """Make sure that a run's schema knows users and items.

    Raises:
        SchemaError: It does not: a table of scores or ratings without them has no lists.
    """
    from recspect.errors import SchemaError

    absent = [role for role in ("user", "item") if run.schema.column(role) is None]
    if absent:
        raise SchemaError(f"the schema of run {run.id} names no {' and no '.join(absent)} column, so there are no lists to make",
                          hint=f'add {absent[0]} = "..." under [roles] and train anew')


def rows_of(run: Run, open_data: OpenData, which: str) -> Any:
    """The rows of a run's table that a recommender learns from: `all`, or `train`, those that its model was trained on."""
    from recspect.diagnosis.batch import concatenate
    from recspect.training.rows import Tables

    tables = Tables.cut(open_data(run.record["data"]), run.schema, run.config)
    if tables.fingerprint != run.record["data_fingerprint"]:
        raise RunError(f"run {run.id} was trained on other data: fingerprint {run.record['data_fingerprint']}, this data has {tables.fingerprint}",
                       hint="put the table back, or train anew")
    return tables.train if which == "train" else concatenate([tables.train, tables.validation, tables.test])


def opened(folder: Path, open_data: OpenData, say: Callable[[str], None]) -> Recommender:
    """A recommender's folder; for a run, the one in it, which is built where it is not there or was built of another epoch."""
    from recspect.recommending.pipeline.folder import is_recommender, load
    from recspect.recommending.pipeline.settings import RecommenderSettings
    from recspect.training.run import Run

    if is_recommender(folder) or not (folder / "run.json").is_file():
        return load(folder)
    run, own = Run.open(folder), folder / "recommender"
    if is_recommender(own):
        found = load(own)
        if found.record.get("epoch") == run.best_epoch:
            return found
    say(f"building a recommender of run {run.id} with the usual sources and steps")
    built = _build(folder, open_data, RecommenderSettings(), rows="all", ranking="model", items=None, say=say)
    built.save(own, replace=True)
    say(f"kept in {own}; `recspect recommender build` makes others")
    return built


def _print_one(found: Recommender, user: Any, k: int, context: dict[str, Any], seed: int, *, trace: bool) -> None:
    from recspect.recommending.pipeline.trace import number

    lists = found.recommend([user], k, context=context, seed=seed, trace=trace)
    table = lists.table()
    rows = [{"rank": place, "item": item, **{name: number(float(table.numbers(name)[place - 1])) for name in ("score", "ranking_score", "propensity")}}
            for place, item in enumerate(lists.ids(0), 1)]
    answer = {"user": user, "recommender": lists.version, "seed": seed, "notes": list(lists.notes[0]), "items": rows}
    if trace:
        answer["trace"] = lists.trace_rows()[0]["candidates"]
    print(json.dumps(answer, indent=1, ensure_ascii=True, allow_nan=False))  # noqa: T201 - the answer, for a pipe


def context_of(texts: list[str]) -> dict[str, Any]:
    """Fields of the request from texts such as `surface=home`.

    Raises:
        UsageError: A text without a name and a value.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise UsageError(f"--context {text[:100]!r} cannot be read", hint="--context surface=home")
        found[name] = value
    return found


@contextmanager
def needs_torch() -> Iterator[None]:
    """A library that is not installed is told with the extra that brings it."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").startswith("recspect"):
            raise  # a fault of ours, no missing extra
        raise MissingExtraError(error.name or "torch", extra="train", purpose="Making lists") from None


@contextmanager
def _progress(console: Any, users: int) -> Iterator[Callable[[int], None]]:
    with console.status("making lists") as status:
        yield lambda done: status.update(f"lists of {done:,} of {users:,} users")
