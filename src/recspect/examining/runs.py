"""Examine a run of ours: its best model, every epoch's model, its training internals and the lists it would make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.closer import write_closer
from recspect.diagnosis.finding import Report
from recspect.diagnosis.slice import Slice
from recspect.diagnosis.source import Source, read
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import DataError, RunError
from recspect.examining.examination import Say, examine
from recspect.examining.looking_closer import look_closer
from recspect.training.files import write_bytes
from recspect.training.rows import Tables
from recspect.training.run import Run

LIST_USERS, LIST_LENGTH, LIST_PAIRS = 300, 10, 2_000_000
"""How many users get lists, how long, and at most so many pairs are scored."""


def open_data(reference: Mapping[str, Any]) -> Source:
    """The table that a run was trained on, from the reference in its `run.json`.

    Raises:
        RunError: The run was trained on data in memory, which is gone.
    """
    kind = reference.get("kind")
    place = reference.get({"dataset": "name", "file": "path"}.get(str(kind), ""))
    if kind in ("dataset", "file") and not isinstance(place, str):
        raise RunError(f"the run does not say where its {kind} is", hint="restore run.json, or train anew")
    if kind == "dataset":
        from recspect.datasets import load

        return load(reference["name"]).source
    if kind == "file":
        return read(reference["path"], sql=reference.get("sql"))
    raise RunError("the run was trained on a table in memory, which cannot be read again",
                   hint="examine_run(run, data=...) takes the same table")


def subject_of(run: Run, epoch: int | str = "best") -> TorchSubject:
    """The model of a run after an epoch, ready to be examined."""
    import torch

    model, transform = run.load_model(epoch), run.transform  # type: ignore[arg-type]
    binary = run.schema.label.kind == "binary"

    def encode(batch: Batch) -> dict[str, torch.Tensor]:
        return transform.transform(batch).inputs

    def forward(module: torch.nn.Module, inputs: Any) -> torch.Tensor:
        out = module(inputs)
        return torch.sigmoid(out) if binary else out

    return TorchSubject(model, fields=run.schema.field_names, encode=encode, forward=forward, sites=_declared_sites(model),
                        name=f"{type(model).__name__} of run {run.id}")


def as_trained(subject: TorchSubject, run: Run) -> TorchSubject | None:
    """The subject as training fed it, where training hid ids (`unknown_share`); None where it read rows as they are."""
    import torch

    from recspect.training.unknown import hide_ids

    share, transform = run.config.unknown_share, run.transform
    if not share:
        return None
    generator = torch.Generator().manual_seed(run.config.seed)

    def encode(batch: Batch) -> dict[str, torch.Tensor]:
        return hide_ids(transform.transform(batch), transform.vocabulary_fields, share, generator).inputs

    return TorchSubject(subject.model, fields=subject.fields, encode=encode, forward=subject.forward, sites=subject.declared_sites,
                        name=subject.name)


def _declared_sites(model: Any) -> dict[str, str | tuple[str, ...]]:
    """Our own models know the fields of their fused tables; told by value, fields with equal codes could not be told apart."""
    from recspect.models.vectors import declared_sites

    return declared_sites(model)


def examine_run(folder: str | Path, *, data: Any = None, slices: Sequence[Slice] = (), sample_rows: int = 20_000,
                say: Say = lambda _: None) -> Report:
    """Examine a run and write `findings.json`, `report.html` and `inside.json` (what can be looked at closer) into its folder.

    Args:
        folder: The run directory.
        data: The table it was trained on, where `run.json` cannot tell where to find it.
        slices: Slices to judge apart.
        sample_rows: Rows of each side on which attributions and activations are measured.
        say: Told what is being done.

    Raises:
        RunError: The run is missing, unfinished, damaged, or was trained on other data.
    """
    from recspect.report.html import write

    run = Run.open(folder)
    if run.best_epoch is None:
        raise RunError(f"run {run.id} has no finished epoch yet", hint=f"recspect train --resume {folder}")
    say("reading the data")
    source = open_data(run.record["data"]) if data is None else read(data)
    tables = Tables.cut(source, run.schema, run.config)
    if tables.fingerprint != run.record["data_fingerprint"]:
        raise RunError(f"run {run.id} was trained on other data: fingerprint {run.record['data_fingerprint']}, "
                       f"this data has {tables.fingerprint}", hint="give the same rows in the same order")
    report = report_of_run(run, tables, slices=slices, sample_rows=sample_rows, say=say)
    write_bytes(Path(folder) / "findings.json", report.to_json().encode())
    write(report, Path(folder) / "report.html")
    write_closer(folder, look_closer(subject_of(run), tables.test, run.schema, train=tables.train, seed=run.config.seed, say=say))
    return report


def report_of_run(run: Run, tables: Tables, *, epoch: int | str = "best", spoil: Callable[[Any], None] | None = None, slices: Sequence[Slice] = (),
                  sample_rows: int = 20_000, say: Say = lambda _: None) -> Report:
    """Examine a run's model on these rows; nothing is written.

    Args:
        run: An open run with a finished epoch.
        tables: Its rows, or others of the same columns.
        epoch: Which epoch's model.
        spoil: Done to the model first, to see what a faulty export would be told (`recspect.exam`).
        slices, sample_rows, say: As for `examine_run`.
    """
    subject = subject_of(run, epoch)
    if spoil is not None:
        spoil(subject.model)
    kept = run.best_epoch if epoch == "best" else epoch
    epochs = {figures["epoch"]: subject if figures["epoch"] == kept else subject.with_model(run.load_model(figures["epoch"]))
              for figures in run.epochs}
    say("making lists")
    lists = lists_of(subject, tables.train, tables.test, run)
    steps = run.steps()
    return examine(subject, tables.test, run.schema, reference=tables.train, slices=slices,
                   epochs=epochs if len(epochs) > 1 else None, steps=steps if steps.num_rows else None, lists=lists,
                   trained=as_trained(subject, run), sample_rows=sample_rows, title=run.schema.name or run.id, say=say,
                   provenance={"run": run.id, "created": run.record.get("created"), "command": run.record.get("command"),
                               "data": run.record["data"], "data_fingerprint": tables.fingerprint,
                               "seeds": [run.config.seed], "split": dict(tables.split), "best_epoch": run.best_epoch,
                               "rows": {"train": tables.train.rows, "validation": tables.validation.rows,
                                        "test": tables.test.rows}})


def lists_of(subject: TorchSubject, train: Batch, test: Batch, run: Run) -> Batch | None:
    """Lists for a sample of held-out users, or None where the schema has no user or item, or lists cannot be made."""
    from recspect.recommending.lists import audience, catalogue, list_table, make_lists

    schema = run.schema
    if schema.user is None or schema.item is None:
        return None
    try:
        items = catalogue(train, schema)
        users = audience(test, schema, users=max(50, min(LIST_USERS, LIST_PAIRS // max(1, items.rows))))
        lists = make_lists(subject.score, users, items, schema, k=LIST_LENGTH, exclude=train)
        table = list_table(lists, train, schema)
    except DataError:  # a field that is in neither table: no lists, and the list questions stay UNKNOWN
        return None
    return table if table.rows else None  # no user has an item left to be shown
