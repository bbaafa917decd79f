"""Before attributions are believed: which lookup belongs to which field, and how far sums are from complete on one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recspect.diagnosis.source import read
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError, UsageError
from recspect.features.derived import derive
from recspect.schema import Schema

TOLERANCE = 0.05
"""Mean completeness error, as a share of the mean size of what is explained, above which the doctor refuses."""


def examine_lookups(*, run: Path | None = None, subject: Any = None, table: Any = None, schema: Schema | None = None, rows: int = 512, steps: int = 32) -> str:
    """A readable account of a model's lookups.

    Args:
        run: A run directory, whose own table is read where none is given.
        subject: A model, with a table.
        table: Anything that `read` takes.
        schema: Declares derived columns that the table lacks.
        rows: Of the table, at most.
        steps: Points of the integration path.

    Raises:
        UsageError: Neither a run nor a subject with a table was given.
        SubjectError: A lookup cannot be told, or attributions would be silently wrong.
    """
    if run is not None:
        from recspect.examining.runs import open_data, subject_of
        from recspect.training.run import Run

        opened = Run.open(run)
        subject = subject_of(opened)
        source = derive(open_data(opened.record["data"]) if table is None else read(table), opened.schema)
    elif subject is not None and table is not None:
        source = read(table) if schema is None else derive(read(table), schema)
    else:
        raise UsageError("doctor needs a run directory, or --subject file.py:function with --eval TABLE",
                         hint="recspect doctor RUN, or recspect doctor --subject model.py:load --eval table.parquet")
    if not isinstance(subject, TorchSubject):
        return f"{subject.name}: only its scores can be seen; permutation and ablation work, gradients do not."
    return account(subject, next(iter(source.batches(rows=rows))), steps=steps)


def account(subject: TorchSubject, batch: Any, *, steps: int = 32) -> str:
    """The account for one batch.

    Raises:
        SubjectError: See `examine_lookups`.
    """
    from recspect.diagnosis.probes.attribution import integrated_gradients, mean_baseline

    sites = subject.sites(batch)
    lines = [f"{subject.name}: {len(sites.lookups)} lookups, {len(sites.dense)} dense inputs"]
    for site in sites.lookups:
        served = ", ".join(part.field for part in site.parts) or "(no field)"
        lines.append(f"  {site.table}: {served} [{site.how}]")
    if sites.dense:
        lines.append(f"  dense: {', '.join(sites.dense)}")
    if sites.unread:
        lines.append(f"  not read by any lookup: {', '.join(sites.unread)}")
    if sites.direct_reads:
        lines.append(f"  read directly as a matrix too (not attributed): {', '.join(sites.direct_reads)}")
    lines.append("  the logit is the argument of the last sigmoid" if sites.has_logit else
                 "  no final sigmoid seen: the output itself is explained")
    found = integrated_gradients(subject, batch, baseline=mean_baseline(subject, batch), steps=steps)
    explained = float((found.score - found.baseline).abs().mean())
    error = float(found.error.mean())
    lines.append(f"  completeness: mean error {error:.2g} of {explained:.2g} explained, {batch.rows} rows, {steps} steps")
    if explained > 0 and error > TOLERANCE * explained:
        raise SubjectError("\n".join(lines) + f"\nThe attributions miss {error / explained:.0%} of the score: they would be silently wrong.",
                           hint="something between the fields and the score is not a recorded lookup or dense input; see 'read directly'")
    return "\n".join(lines)
