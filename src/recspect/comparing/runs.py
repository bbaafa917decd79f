"""Two run directories compared on rows that neither was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recspect.comparing.comparison import Comparison, compare_models
from recspect.comparing.release import ReleaseRule
from recspect.errors import RunError, UsageError
from recspect.examining.sampling import all_rows


def compare_runs(current: Path, candidate: Path, *, data: Any = None, rules: Sequence[ReleaseRule] = (), say: Callable[[str], None] = lambda _: None) -> Comparison:
    """Compare the best models of two runs.

    Args:
        current, candidate: Run directories.
        data: Rows held out from both, with all columns that either reads; where None, the held-out rows of the data that both were trained on, cut in the same way.
        rules: What a release asks for.
        say: Told what is being done.

    Raises:
        RunError: A run that is unfinished, or whose data cannot be read again.
        UsageError: Runs of other labels, or of other data or splits where no rows are given.
    """
    from recspect.examining.runs import open_data, subject_of
    from recspect.training.rows import Tables
    from recspect.training.run import Run

    runs = [Run.open(folder) for folder in (current, candidate)]
    for run, folder in zip(runs, (current, candidate), strict=True):
        if run.best_epoch is None:
            raise RunError(f"run {run.id} has no finished epoch yet", hint=f"recspect train --resume {folder}")
    one, other = runs
    if (one.schema.label.name, one.schema.label.kind) != (other.schema.label.name, other.schema.label.kind):
        raise UsageError(f"run {one.id} predicts {one.schema.label.name!r} and run {other.id} {other.schema.label.name!r}", hint="compare models of one label")
    train = None
    if data is not None:
        rows = all_rows(data)
    else:
        if one.record["data_fingerprint"] != other.record["data_fingerprint"] or one.record["split"] != other.record["split"]:
            raise UsageError(f"runs {one.id} and {other.id} were trained on other data, or held out other rows", hint="give rows that neither was trained on: --eval TABLE")
        say("reading the data")
        tables = Tables.cut(open_data(one.record["data"]), one.schema, one.config)
        if tables.fingerprint != one.record["data_fingerprint"]:
            raise RunError(f"run {one.id} was trained on other data than is there now", hint="give the rows: --eval TABLE")
        rows, train = tables.test, tables.train
    names = (one.id, other.id) if one.id != other.id else (str(current), str(candidate))
    return compare_models(subject_of(one), subject_of(other), rows, one.schema, baseline_rows=train, say=say, rules=rules, names=names,
                          provenance={"runs": [one.id, other.id], "data": one.record["data"], "data_fingerprint": one.record["data_fingerprint"], "rows": {"test": rows.rows}})


__all__ = ["compare_runs"]
