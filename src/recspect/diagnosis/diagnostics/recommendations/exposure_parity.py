"""Whether the relevant items of one kind are shown as far up as those of other kinds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, examined_fields, names, percent, plural
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.jackknife import estimate_from
from recspect.diagnosis.stats.exposure import EXPOSURE, RELEVANT, ROWS, SEEN, Exposure
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable
from recspect.schema import Kind

WARN = 0.10
"""Share of exposure that relevant rows of a group lack; the limit is what the literature on exposure calls material."""
GROUPS, ENOUGH, OF_RELEVANT, BUCKETS = 12, 200, 50, 10

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Group:
    """One kind of item.

    Args:
        field, group: Such as genre and jazz.
        rows, relevant: In lists.
        lack: 1 - exposure of a relevant row of the group / of others, with interval.
        per_utility: Exposure of all rows per relevant row, of the group / of others (disparate treatment ratio).
        sure: Whether the lack is surely above the limit and that ratio surely below 1, at a level for all groups together.
    """

    field: str
    group: str
    rows: int
    relevant: int
    lack: Estimate
    per_utility: Estimate
    sure: bool

    @property
    def name(self) -> str:
        return f"{self.field}={self.group}"


class ExposureParity(Diagnostic):
    """Exposure 1 / log2(1 + place) of relevant rows of one kind of item against that of relevant rows of all others, places by score within lists.

    Two notions must agree. Equal opportunity: what a user would choose is found as far up whatever its kind; a kind that is chosen seldom falls short of it in any list, rightly.
    Disparate treatment: exposure per relevant row; a kind that is chosen often falls short of it in any list.
    """

    code = "recommendations.exposure_parity"
    question = "Are relevant items of every kind shown equally far up?"
    sources = ("Singh and Joachims 2018, Fairness of Exposure in Rankings", "Hardt, Price and Srebro 2016, Equality of Opportunity in Supervised Learning", "Kott 2001, The Delete-a-Group Jackknife (interval)")

    def needs(self, scope: Scope) -> Needs:
        """Exposure by category of every field that describes the item."""
        scope.require_binary()
        scope.require_target("@score", "@label", "@cluster")
        unit = _unit(scope)
        fields = _fields(scope)
        if not fields:
            raise Unavailable("no categorical field of the schema describes the item", hint="declare one: side = 'item' in the field of the schema")
        return Needs.of(target=[_stat(name, unit, scope) for name in fields])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:  # noqa: ARG002 - a question about one side
        """A finding for the worst group of each field, or one PASS."""
        found = _groups(target, scope)
        found.sort(key=lambda one: (not one.sure, -one.lack.value, one.name))
        table = RankedTable(title="How far up are relevant rows of each kind of item shown?", columns=("kind", "rows", "relevant", "exposure lacking", "exposure per relevant row / of others"),
                            rows=tuple((one.name, one.rows, one.relevant, round(one.lack.value, 3), round(one.per_utility.value, 3)) for one in found[:30]),
                            caption=f"{plural(len(found), 'kind')} of {plural(len({one.field for one in found}), 'field')}")
        bars = Bars(title="How much exposure do relevant rows of a kind lack?", unit="share of the exposure of others", names=tuple(one.name for one in found[:15]), values=tuple(one.lack.value for one in found[:15]),
                    low=tuple(_end(one.lack.low, one.lack) for one in found[:15]), high=tuple(_end(one.lack.high, one.lack) for one in found[:15]), highlighted=tuple(one.name for one in found[:15] if one.sure), reference=WARN)
        bad = list({one.field: one for one in reversed([one for one in found if one.sure])}.values())[::-1]
        for one in bad:
            yield self._finding(one, Verdict.WARN, (bars, table), claim=f"What users choose of {one.name} is shown further down than what they choose of others: its relevant rows have {between(one.lack, 3)} less of their exposure as a share "
                                f"({one.relevant:,} relevant of {one.rows:,} rows). Per relevant row the kind gets {between(one.per_utility)} times the exposure of others.")
        if not bad:
            most = found[0]
            yield self._finding(most, Verdict.PASS, (bars, table), claim=f"No kind of item surely gets less than its users would give it: relevant rows of {most.name} lack the most, {between(most.lack, 3)} of the exposure of "
                                f"others, and per relevant row the kind gets {between(most.per_utility)} times theirs ({plural(len(found), 'kind')}, {most.relevant:,} relevant rows).")

    def _finding(self, one: _Group, verdict: Verdict, evidence: tuple[Bars, RankedTable], *, claim: str) -> Finding:
        return Finding(
            code=self.code, verdict=verdict, claim=claim, place=Place() if verdict is Verdict.PASS else Place(kind="slice", name=one.name), estimate=one.lack, limit=WARN, sources=self.sources,
            threshold=f"WARN when relevant rows of a kind surely have more than {percent(WARN, 0)} less exposure than those of others and the kind surely less exposure per relevant row, at a level for all kinds together; never FAIL",
            meaning="Its makers get less than users would give them, and the log learns less of it, so that the next model gives it less again.",
            causes=("the kind has few training rows", "a field of these items is missing or a default", "users who choose this kind are harder to tell apart", "the model follows what is popular over all"),
            remedies=(Remedy(code="check_fields", text="Compare missing and default values of the item fields for this kind and for others."),
                      Remedy(code="reweight_group", text="Give the kind's training rows more weight, or collect more of them."),
                      Remedy(code="rerank_exposure", text="Re-rank with a lower bound on the exposure of this kind (Singh and Joachims 2018).")),
            evidence=evidence)


def _unit(scope: Scope) -> str:
    """The column whose rows are ranked together: the request, else the user."""
    for column in (scope.schema.request, scope.schema.user):
        if column is not None and column in scope.target:
            return column
    raise Unavailable("rows are ranked per request or per user, and the schema names neither", hint="name one in the schema")


def _fields(scope: Scope) -> list[str]:
    apart = (scope.schema.user, scope.schema.item, scope.schema.request)
    return [field.name for field in examined_fields(scope, Kind.CATEGORICAL) if field.side == "item" and field.name not in apart]


def _stat(field: str, unit: str, scope: Scope) -> Exposure:
    return Exposure(unit=unit, by=field, buckets=scope.buckets, capacity=GROUPS)


def _groups(target: Tally, scope: Scope) -> list[_Group]:
    """Every kind of enough rows against all others.

    Raises:
        Unavailable: There are no lists, or no kind is large enough.
    """
    sums: list[tuple[str, str, Floats, Floats]] = []
    left_out: list[str] = []
    for field in _fields(scope):
        summary = target.get_summary(_stat(field, _unit(scope), scope))
        if summary.truncated:
            left_out.append(f"{field} (more than {GROUPS} kinds)")
            continue
        whole = summary.sums.sum(0)
        pairs = ((name, own, whole - own) for name, own in zip(summary.names, summary.sums[:-1], strict=True))
        sums.extend((field, name, own, rest) for name, own, rest in pairs if _is_enough(own) and _is_enough(rest))
    if not sums:
        raise Unavailable("no field that describes the item has two kinds that are large enough in lists of two and more rows" + (f"; not looked at: {names(left_out)}" if left_out else ""),
                          hint=f"a kind needs {ENOUGH} rows and {OF_RELEVANT} relevant ones")
    return [_judged(field, name, own, rest, level=1 - 0.05 / len(sums)) for field, name, own, rest in sums]


def _is_enough(part: Floats) -> bool:
    total = part.sum(0)
    return bool(total[ROWS] >= ENOUGH and total[RELEVANT] >= OF_RELEVANT and (part[:, RELEVANT] > 0).sum() >= BUCKETS)


def _judged(field: str, group: str, own: Floats, rest: Floats, *, level: float) -> _Group:
    used = (own + rest)[:, ROWS] > 0
    a, b = own.sum(0), rest.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        lacking, treated = _lack(a - own, b - rest)[used], _treatment(a - own, b - rest)[used]
    n, unit = int(a[RELEVANT]), "share of the exposure of others"
    lack, wide = (estimate_from(float(_lack(a, b)), lacking, unit=unit, n=n, of="relevant rows", level=at) for at in (0.95, level))
    treatment, wide_treatment = (estimate_from(float(_treatment(a, b)), treated, unit="times the exposure of others", n=n, of="relevant rows", level=at) for at in (0.95, level))
    return _Group(field=field, group=group, rows=int(a[ROWS]), relevant=n, lack=lack, per_utility=treatment,
                  sure=lack.has_interval and wide.surely_above(WARN) and treatment.has_interval and wide_treatment.surely_below(1.0))


def _lack(own: Floats, rest: Floats) -> Floats:
    return np.asarray(1 - (own[..., SEEN] / own[..., RELEVANT]) / (rest[..., SEEN] / rest[..., RELEVANT]))


def _treatment(own: Floats, rest: Floats) -> Floats:
    return np.asarray((own[..., EXPOSURE] / own[..., RELEVANT]) / (rest[..., EXPOSURE] / rest[..., RELEVANT]))


def _end(end: float | None, estimate: Estimate) -> float:
    return estimate.value if end is None else end
