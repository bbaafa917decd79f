"""How much worse a figure of quality gets when a field's values are dealt out to other rows: permutation importance, from totals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.jackknife import BucketedSummary, estimate_from, occupied
from recspect.diagnosis.stat import Bucketed, Stat
from recspect.diagnosis.stats.errors import PredictionError
from recspect.diagnosis.stats.measures import NDCG, AreaUnderCurve, Measure
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.diagnosis.tally import Tally
from recspect.errors import UsageError
from recspect.schema import Schema

BASE = "@score:permuted"


@dataclass(frozen=True, kw_only=True)
class QualityMetric:
    """A figure of quality as a function of totals.

    Args:
        name: As one asks for it.
        unit: In words.
        stat: Column of scores and schema to what is added up.
        value: Its summary to the figure.
        higher_is_better: Whether it falls when the model gets worse.
        of: What is counted: rows or units.
        per_unit: Whether lists of whole users (or requests) are judged.
    """

    name: str
    unit: str
    stat: Callable[[str, Schema], Stat[Any]]
    value: Callable[[Any], float]
    higher_is_better: bool
    of: str = "rows"
    per_unit: bool = False


def _score_label(column: str, schema: Schema) -> Stat[Any]:  # noqa: ARG001 - every stat is made of both
    return ScoreLabel(score=column)


def _errors(column: str, schema: Schema) -> Stat[Any]:  # noqa: ARG001
    return PredictionError(prediction=column)


def _per_unit(measure: Measure) -> Callable[[str, Schema], Stat[Any]]:
    def stat(column: str, schema: Schema) -> Stat[Any]:
        return PerUnit(unit=list_column(schema), measures=(measure,), score=column)

    return stat


def list_column(schema: Schema) -> str:
    """The column whose rows are ranked together: the user, else the request.

    Raises:
        UsageError: There is neither.
    """
    unit = schema.user or schema.request
    if unit is None:
        raise UsageError("rows are ranked per user or per request, and the schema names neither", hint="Schema(user=...), or choose 'auc' or 'log_loss'")
    return unit


def _mean_of(measure: Measure) -> Callable[[Any], float]:
    return lambda summary: float(summary.mean(measure))


METRICS = {metric.name: metric for metric in (
    QualityMetric(name="auc", unit="AUC", stat=_score_label, value=lambda t: float(t.auc), higher_is_better=True),
    QualityMetric(name="log_loss", unit="nats per row", stat=_score_label, value=lambda t: float(t.log_loss), higher_is_better=False),
    QualityMetric(name="rmse", unit="units of the label (RMSE)", stat=_errors, value=lambda t: float(t.root_mean_squared_error), higher_is_better=False),
    QualityMetric(name="squared_error", unit="squared units per row", stat=_errors, value=lambda t: float(t.mean_squared_error), higher_is_better=False),
    QualityMetric(name="auc_per_user", unit="AUC per user", stat=_per_unit(AreaUnderCurve()), value=_mean_of(AreaUnderCurve()), higher_is_better=True,
                  of="users", per_unit=True),
    QualityMetric(name="ndcg", unit="NDCG@10", stat=_per_unit(NDCG(k=10)), value=_mean_of(NDCG(k=10)), higher_is_better=True, of="users", per_unit=True),
)}
"""By name: what permuting can be judged on."""


def metric_named(name: str) -> QualityMetric:
    """The figure of quality of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in METRICS:
        raise UsageError(f"no metric {name!r}; metrics: {', '.join(METRICS)}")
    return METRICS[name]


@dataclass(frozen=True, kw_only=True)
class FieldPermutation:
    """What permuting one field costs.

    Args:
        field: Its name.
        importance: By how much the metric gets worse, in its unit, mean over repeats, with interval; below 0 it gets better.
        deviation: Standard deviation over repeats; NaN for a single one.
    """

    field: str
    importance: Estimate
    deviation: float


def permuted_columns(scope: Scope, field: str) -> tuple[str, ...]:
    """The columns of scores with this field permuted, by repeat; none where it was not."""
    found: list[str] = []
    while (name := f"{BASE}:{field}:{len(found)}") in scope.target:
        found.append(name)
    return tuple(found)


def permutation_stats(scope: Scope, metric: QualityMetric, field: str | None = None) -> tuple[Bucketed, ...]:
    """What to add up: the scores as they are, or with a field permuted, one stat per repeat."""
    columns = (BASE,) if field is None else permuted_columns(scope, field)
    return tuple(scope.bucketed(metric.stat(column, scope.schema)) for column in columns)


def field_permutations(target: Tally, scope: Scope, metric: QualityMetric, fields: Sequence[str]) -> list[FieldPermutation]:
    """Permutation importance of these fields, most important first.

    Raises:
        Unavailable: The metric is not defined on these rows (one class only, no rows).
    """
    summary = target.get_summary(permutation_stats(scope, metric)[0])
    base, before = summary, _left_out(summary, metric)
    sign = 1.0 if metric.higher_is_better else -1.0
    n = int(base.total.count)
    found = []
    for field in fields:
        repeats = [_left_out(target.get_summary(stat), metric) for stat in permutation_stats(scope, metric, field)]
        worse = sign * np.mean([before - one for one in repeats], 0) + 0.0  # no -0
        estimate = estimate_from(float(worse[0]), worse[1:][occupied([base])], unit=f"{metric.unit} lost", n=n, of=metric.of)
        values = [one[0] - before[0] for one in repeats]
        found.append(FieldPermutation(field=field, importance=estimate, deviation=float(np.std(values, ddof=1)) if len(values) > 1 else np.nan))
    return sorted(found, key=lambda one: (-one.importance.value, one.field))


def _left_out(summary: BucketedSummary, metric: QualityMetric) -> NDArray[np.float64]:
    """The metric of all rows, then without each bucket."""
    return np.array([metric.value(summary.total), *(metric.value(total) for total in summary.leave_one_out())])
