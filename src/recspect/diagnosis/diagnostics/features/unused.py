"""Which fields does the model use, and which of them help?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import names, number, percent, plural, require_rows
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stat import Bucketed, BucketedSummary, Summary, jackknife
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

UNUSED = 0.001


@dataclass(frozen=True)
class FieldMeans(Summary):
    """Sums over rows of each field's reliance and usefulness; built from moments, so that all shares come from one total.

    Args:
        rows: Weight of the rows.
        reliance, usefulness: Sums, shape (fields,).
    """

    rows: float
    reliance: NDArray[np.float64]
    usefulness: NDArray[np.float64]

    def __add__(self, other: FieldMeans) -> FieldMeans:
        return FieldMeans(self.rows + other.rows, self.reliance + other.reliance, self.usefulness + other.usefulness)

    @property
    def count(self) -> float:
        """Weight of the rows."""
        return self.rows

    def share(self, field: int) -> float:
        """Share of a field in the reliance of all; NaN where the model relies on nothing."""
        whole = float(self.reliance.sum())
        return float(self.reliance[field]) / whole if whole > 0 else float("nan")

    def use(self, field: int) -> float:
        """Mean usefulness of a field per row, in nats."""
        return float(self.usefulness[field]) / self.rows if self.rows else float("nan")


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much one field counts.

    Args:
        field: Its name.
        share: Of the reliance of all fields, with interval.
        mean, deviation: Of its reliance over rows, in logits.
        usefulness: Loss that it takes away per row, in nats, with interval; None where it was not measured.
    """

    field: str
    share: Estimate
    mean: float
    deviation: float
    usefulness: Estimate | None


class Unused(Diagnostic):
    """Reliance (how far a field moves the logit) beside usefulness (how much loss it takes away on held-out rows)."""

    code = "features.unused"
    question = "Which fields does the model use, and which of them help?"
    sources = ("Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks",
               "Covert et al. 2020, Understanding Global Feature Contributions (SAGE)")

    def needs(self, scope: Scope) -> Needs:
        """Moments of the reliance and usefulness of every field on held-out rows."""
        fields = _fields(scope)
        scope.require_target("@cluster")
        if len(fields) < 2:
            raise Unavailable("the contribution of fields to the score was not measured", hint="give the model, not only its scores")
        return Needs.of(target=[stat for field in fields for stat in _stats(field, scope)])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        """One finding for all fields that are unused, or one that there is none; `features.spurious` asks which are used without helping."""
        fields = measured_importance(target, scope)
        evidence = (_bars(fields), _table(fields))
        unused = [f for f in fields if f.share.surely_below(UNUSED)]
        n = fields[0].share.n
        if unused:
            verb = "makes" if len(unused) == 1 else "make"
            yield Finding(
                code=self.code, verdict=Verdict.WARN, place=Place(kind="field", name=unused[-1].field), estimate=unused[-1].share,
                claim=f"The model makes no use of {plural(len(unused), 'field')}: {names([f.field for f in unused], limit=20)} {verb} up "
                      f"{percent(sum(f.share.value for f in unused))} of what moves the score ({n:,} rows).",
                threshold=f"WARN when a field's share of reliance is surely below {percent(UNUSED)}",
                limit=UNUSED, concerns=len(unused) / len(fields),
                meaning="A field that is not used costs latency and a dependency, and often was meant to be used.",
                causes=("it is constant, or nearly always missing", "its scale is so small that the model does not notice it",
                        "its embedding is never updated", "another field says the same"),
                remedies=(Remedy(code="drop_field", text="Train without them; quality should stay, and serving gets cheaper."),
                          Remedy(code="fix_scaling", text="For numeric fields set scaling = 'standardise' or 'quantile' in the schema.")),
                evidence=evidence, sources=self.sources)
        if not unused:
            best = fields[0]
            yield Finding(code=self.code, verdict=Verdict.PASS, estimate=best.share, evidence=evidence, sources=self.sources,
                          claim=f"All {len(fields)} fields are used: {best.field} counts most, with {percent(best.share.value)} of what moves the score "
                                f"({n:,} rows).",
                          threshold=f"unused below {percent(UNUSED)} of reliance")


def importance_evidence(target: Tally, scope: Scope) -> tuple[Bars, RankedTable]:
    """How much each field counts, for the overview of a report: bars with intervals, and a table with mean and deviation.

    Raises:
        Unavailable: Contributions were not measured.
    """
    fields = measured_importance(target, scope)
    return _bars(fields), _table(fields)


def measured_importance(target: Tally, scope: Scope) -> list[Importance]:
    """How much each field counts, most first.

    Raises:
        Unavailable: Contributions were not measured, or on too few rows.
    """
    fields = _fields(scope)
    if len(fields) < 2:
        raise Unavailable("the contribution of fields to the score was not measured", hint="give the model, not only its scores")
    reliance = [target.get_summary(_stats(field, scope)[0]) for field in fields]
    usefulness = [target.get_summary(_stats(field, scope)[1]) if len(_stats(field, scope)) > 1 else None for field in fields]
    require_rows(reliance[0].total.count, "the rows whose fields were examined")
    together = BucketedSummary(tuple(
        FieldMeans(reliance[0].parts[g].count, np.array([r.parts[g].total for r in reliance]),
                   np.array([0.0 if u is None else u.parts[g].total for u in usefulness])) for g in range(len(reliance[0].parts))))
    n = int(together.total.rows)
    found = []
    for i, field in enumerate(fields):
        moments, use = reliance[i].total, usefulness[i]
        found.append(Importance(
            field=field, mean=moments.mean, deviation=float(np.nan_to_num(moments.deviation)),
            share=jackknife([together], lambda t, i=i: t[0].share(i), unit="share of what moves the score", n=n),  # type: ignore[misc]
            usefulness=None if use is None else jackknife(
                [together], lambda t, i=i: t[0].use(i), unit="nats of loss taken off per row", n=n)))  # type: ignore[misc]
    return sorted(found, key=lambda f: (-f.share.value, f.field))


def _fields(scope: Scope) -> tuple[str, ...]:
    named = scope.fields or scope.schema.field_names
    return tuple(field for field in named if f"@reliance:{field}" in scope.target)


def _stats(field: str, scope: Scope) -> tuple[Bucketed, ...]:
    columns = [f"@reliance:{field}", *([f"@usefulness:{field}"] if f"@usefulness:{field}" in scope.target else [])]
    return tuple(scope.bucketed(Moments(column=column)) for column in columns)


def _bars(fields: list[Importance]) -> Bars:
    top = fields[:25]
    return Bars(title="Which fields does the model use?", unit="share of what moves the score", names=tuple(f.field for f in top),
                values=tuple(f.share.value for f in top), low=tuple(f.share.value if f.share.low is None else max(0.0, f.share.low) for f in top),
                high=tuple(f.share.value if f.share.high is None else f.share.high for f in top),
                highlighted=tuple(f.field for f in top if f.usefulness is not None and f.usefulness.value <= 0),
                reference=1 / len(fields), caption=f"{top[0].share.n:,} held-out rows; the line is an equal share; highlighted: does not lower the loss")


def _table(fields: list[Importance]) -> RankedTable:
    return RankedTable(
        title="Which fields does the model use, and which help?",
        columns=("field", "share of reliance", "interval", "mean reliance (logits)", "deviation over rows", "usefulness (nats per row)", "interval"),
        rows=tuple((f.field, percent(f.share.value), _interval(f.share, 100, "%"), number(f.mean), number(f.deviation),
                    None if f.usefulness is None else number(f.usefulness.value), "" if f.usefulness is None else _interval(f.usefulness, 1, ""))
                   for f in fields),
        caption=f"{fields[0].share.n:,} held-out rows; usefulness above 0 lowers the loss")


def _interval(estimate: Estimate, scale: float, unit: str) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{number(scale * estimate.low)}{unit} to {number(scale * estimate.high)}{unit}"
