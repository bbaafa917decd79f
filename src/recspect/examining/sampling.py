"""What every importance call begins and ends with: rows of a table, where paths begin, what may be asked, the mean over rows with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recspect.diagnosis.batch import Batch, concatenate
from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.source import read
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.tally import Tally
from recspect.examining.tables import sample_of
from recspect.schema import Schema

if TYPE_CHECKING:
    from recspect.diagnosis.probes.attribution import Baseline
    from recspect.diagnosis.subject import TorchSubject

BASELINE_ROWS = 4096
"""Rows over which the mean embedding is taken where paths begin."""


def all_rows(table: Any) -> Batch:
    """The whole of a table; anything that `read` takes."""
    return concatenate(list(read(table).batches()))


def mean_baseline_over(subject: TorchSubject, baseline_rows: Any, sample: Batch, *, seed: int) -> Baseline:
    """The mean embedding over some rows, usually training rows; over the sample itself where None are given."""
    from recspect.diagnosis.probes.attribution import mean_baseline

    return mean_baseline(subject, sample if baseline_rows is None else sample_of(all_rows(baseline_rows), BASELINE_ROWS, seed=seed))


def scope_over(schema: Schema, sample: Batch, probes: Sequence[Probe], *, fields: Sequence[str], buckets: int, layers: Sequence[str] = ()) -> Scope:
    """The scope of a sample and the columns that probes add to it."""
    columns = frozenset((*sample, *(name for probe in probes for name in probe.adds)))
    return Scope(schema=schema, target=columns, fields=tuple(fields), layers=tuple(layers), buckets=buckets)


def mean_over_rows(tally: Tally, scope: Scope, column: str, *, unit: str) -> Estimate:
    """Mean of a column, with its interval over users."""
    summary = tally.get_summary(scope.bucketed(Moments(column=column)))
    found: Estimate = summary.estimate(lambda total: float(total.mean), unit=unit, n=lambda total: total.count)
    return found


__all__ = ["all_rows", "mean_baseline_over", "mean_over_rows", "scope_over"]
