"""Are there groups of rows on which the model is much worse than on the rest?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Needs, NullCalibrated, Scope
from recspect.diagnosis.diagnostics.policy import (
    between,
    examined_fields,
    is_identity,
    names,
    number,
    percent,
    plural,
    require_classes,
)
from recspect.diagnosis.diagnostics.predictions.slice_candidates import (
    LEAST_POSITIVES,
    WHOLE,
    First,
    first_slices,
    least_rows,
    third_slices,
)
from recspect.diagnosis.diagnostics.predictions.slice_naming import Counted, Named, find
from recspect.diagnosis.diagnostics.predictions.slice_null import LISTS, LOSS_OVER_PROMISED, RATE, Measure
from recspect.diagnosis.diagnostics.predictions.slices import Judged, Part, judge_parts
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.multiplicity import Check
from recspect.diagnosis.slice import Slice
from recspect.diagnosis.stats.categories import CategoryCounts
from recspect.diagnosis.stats.score_label import ScoreLabel, ScoreLabelSummary
from recspect.diagnosis.stats.slice_sums import (
    LIST_LOSS,
    LIST_PROMISED,
    LISTED,
    LOSS,
    PROMISED,
    ROWS,
    Crossing,
    SliceSums,
)
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable
from recspect.schema import Kind

LOSS_FAIL = 0.20
SEARCHED = 1_000_000
"""Rows that are searched: of larger tables those of a share of the users, which is enough for slices of 0.2% that are 10% off. Lists, whose rows must be brought together, are then left out."""
SHOWN = 5
_STAT = ScoreLabel(detail=2)
_THRESHOLD = ("WARN when a slice is further off than the furthest slice by chance, also among all checks of the run (q < 0.05), and its predictions are more than 10% off, "
              "its loss more than 10% above what its scores promised, or its lists so; FAIL when surely above a constant's loss or surely more than 50% off")


@dataclass(frozen=True, kw_only=True)
class _Looked:
    """All slices judged, and what was left out.

    Args:
        named: Slices that are off beyond chance, surest first.
        furthest: The furthest off, whether beyond chance or not.
        judged: How many slices there are.
        total: Over all rows.
        sums: Of all rows, by bucket of users.
        first: What was counted first.
    """

    named: list[Named]
    furthest: list[Named]
    judged: int
    total: ScoreLabelSummary
    sums: NDArray[np.float64]
    first: First


class WorstSlices(NullCalibrated):
    """A search over categories, how often training saw ids, crossings of two and of three of these, and the declared slices: calibration, loss, and quality of lists.

    It asks three times: how often categories occur, then sums of the slices of one and two fields that are large enough, then of three fields where these leave
    something to find. One fault is named once: the rows of a slice that was named are taken out of all others.
    """

    code = "predictions.worst_slices"
    question = "Are there groups of rows on which the model is much worse than on the rest?"
    sources = ("Chung et al. 2019, Slice Finder", "Sagadeeva and Boehm 2021, SliceLine", "Westfall and Young 1993, Resampling-Based Multiple Testing",
               "Kott 2001, The Delete-a-Group Jackknife (interval)")

    def needs(self, scope: Scope) -> Needs:
        """How often each category occurs."""
        scope.require_binary()
        scope.require_target("@score", "@label", "@cluster")
        fields = _fields(scope)
        if not fields and not _declared(scope):
            raise Unavailable("there is no categorical field and no declared slice to look at", hint="declare one: --slice country=DE")
        return Needs.of(target=[_STAT, *(CategoryCounts(column=name) for name in fields)])

    def further(self, target: Tally, reference: Tally, scope: Scope) -> Needs:  # noqa: ARG002 - a question about one side
        """Sums of the declared slices and of those of one and two fields; then, of outcomes, of three."""
        rows = target.get_summary(_STAT).count
        stats = list(_sums(_first(target, scope).crossings, scope, rows))
        if target.has(stats[0]):
            third = third_slices(stats[0].slices, target.get_summary(stats[0]).sums)
            stats += _sums((WHOLE, *third), scope, rows)[:1] if third else []
        return Needs(target=(*Needs.of(target=stats).target, *((s, stat) for s in _declared(scope) for stat in _sums((WHOLE,), scope, rows))))

    def measure(self, target: Tally, reference: Tally, scope: Scope) -> _Looked:  # noqa: ARG002 - a question about one side
        """All slices judged.

        Raises:
            Unavailable: Too few rows.
        """
        total: ScoreLabelSummary = target.get_summary(_STAT)
        require_classes(total.positive, total.count, "the held-out rows")
        first = _first(target, scope)
        stats = _sums(first.crossings, scope, total.count)
        third = third_slices(stats[0].slices, target.get_summary(stats[0]).sums)
        more = _sums((WHOLE, *third), scope, total.count)[:1] if third else []
        named: list[Named] = []
        furthest: list[Named] = []
        judged = 0
        for stat, measures in zip(stats, ((RATE, LOSS_OVER_PROMISED), (LISTS,)), strict=False):
            found, far, count = find(_counted(target, scope, [stat, *(more if stat is stats[0] else [])], measures))
            outcomes = {one.name for one in named}
            named += [one for one in found if one.name not in outcomes]
            furthest += far
            judged = max(judged, count)
        if not judged:
            raise Unavailable(f"no slice has {least_rows(total.count, 1):,.0f} rows and {LEAST_POSITIVES} of each class", hint="give more held-out rows")
        return _Looked(named=named, furthest=sorted(furthest, key=lambda one: (one.p_value, -abs(one.z))), judged=judged, total=total,
                       sums=target.get_summary(stats[0]).sums[0], first=first)

    def checks(self, measured: _Looked) -> Sequence[Check]:
        """One for every slice named, or for the furthest: their chances are those of the whole search."""
        return [Check(p_value=one.p_value, effect=abs(one.share), minimum=one.measure.minimum) for one in measured.named or measured.furthest[:1]]

    def findings(self, measured: _Looked, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - all is measured
        """A finding for each of the worst slices, or one PASS."""
        bad = [one for one in measured.named if one.p_value <= scope.p_limit]
        shown = {one.name for one in bad}
        rows = [*bad, *(one for one in measured.furthest if one.name not in shown)][:20]
        table = RankedTable(
            title="On which slices is the model worst?", columns=("slice", "rows", "predicted / observed", "loss / promised", "lists / promised", "deviations", "SliceLine score"),
            rows=tuple(_row(one) for one in rows), caption=_caption(measured))
        for one in bad[:SHOWN]:
            yield self._finding(one, measured, table)
        if bad[SHOWN:]:
            yield Finding(code=self.code, verdict=Verdict.WARN, estimate=_estimate(bad[SHOWN], measured), evidence=(table,), threshold=_THRESHOLD, sources=self.sources,
                          limit=_estimate(bad[SHOWN], measured).value,
                          claim=f"{plural(len(bad) - SHOWN, 'more slice')} are off too: {names([one.name for one in bad[SHOWN:]], limit=10)}.")
        if not bad:
            far = measured.furthest[0]
            yield Finding(code=self.code, verdict=Verdict.PASS, estimate=_estimate(far, measured), evidence=(table,), threshold=_THRESHOLD, sources=self.sources,
                          claim=f"None of {plural(measured.judged, 'slice')} is much worse than the rest; the furthest, {far.name}, is {percent(abs(far.share))} off in "
                                f"{_WHAT[far.measure.name]} ({between(_estimate(far, measured), 3)}), and one so far off comes by chance in {percent(far.p_value, 0)} of such searches.",
                          meaning="Looked at were single fields and crossings of two and three of the first ten." + _not_looked_at(measured))

    def _finding(self, one: Named, measured: _Looked, table: RankedTable) -> Finding:
        estimate, usual = _estimate(one, measured), _usual(one)
        fail, limit = _verdict(one, estimate, usual, measured)
        size = int(one.sums[:, ROWS].sum())
        what = {"rate": f"predicts {percent(abs(one.share))} {'more' if one.share > 0 else 'fewer'} positives than it should",
                "loss": f"loses {percent(one.share)} more than its scores promise", "lists": f"orders lists {percent(one.share)} worse than its scores promise"}[one.measure.name]
        also = f" (the same rows as {names(list(one.also))})" if one.also else ""
        return Finding(
            code=self.code, verdict=Verdict.FAIL if fail else Verdict.WARN, place=Place(kind="slice", name=one.name), threshold=_THRESHOLD,
            estimate=estimate, neutral=usual, concerns=size / float(measured.sums[:, ROWS].sum()), limit=limit,
            claim=f"Where {one.name}{also}, the model {what}: {_WHAT[one.measure.name]} {between(estimate, 3)} (all other rows {number(usual, 3)}), {size:,} rows. "
                  f"The furthest of {measured.judged:,} slices is so far off by chance in {percent(one.p_value)} of such searches.",
            meaning="The average hides it: these users or items are served worse than the headline says." + _not_looked_at(measured),
            causes=("a field is broken or defaulted for these rows", "the group is rare in training or behaves differently", "no field tells the group apart"),
            remedies=(Remedy(code="inspect_slice", text=f"Compare the fields inside {one.name} with the rest.", command=f"recspect diagnose RUN --slice '{one.name}'"),
                      Remedy(code="add_field", text="Add a field, or a crossing, that tells the group apart."),
                      Remedy(code="reweight", text="Give the group more weight in training, and compare.")),
            evidence=(table,), sources=self.sources)


_WHAT = {"rate": "predicted over observed positives", "loss": "log loss over the promised one", "lists": "1 - NDCG@10 over the promised one"}


def _fields(scope: Scope) -> list[str]:
    """Categorical fields, and how often training saw ids."""
    named = [field.name for field in examined_fields(scope, Kind.CATEGORICAL) if not is_identity(field.name, scope)]
    return [*named, *sorted(column for column in scope.target if column.startswith("@often:"))]


def _declared(scope: Scope) -> list[Slice]:
    return [s for s in scope.slices if set(s.columns) <= scope.target]


def _unit(scope: Scope) -> str | None:
    """Whose rows are a list: a request, or a user."""
    return next((column for column in (scope.schema.request, scope.schema.user) if column is not None and column in scope.target), None)


def _sums(crossings: tuple[Crossing, ...], scope: Scope, rows: float) -> list[SliceSums]:
    """Outcomes, and where rows come in lists the quality of these."""
    if rows > SEARCHED:
        return [SliceSums(crossings=crossings, buckets=scope.buckets, share=SEARCHED / rows)]
    unit = _unit(scope)
    return [SliceSums(crossings=crossings, buckets=scope.buckets), *([SliceSums(crossings=crossings, buckets=scope.buckets, unit=unit)] if unit else [])]


def _first(target: Tally, scope: Scope) -> First:
    rows = target.get_summary(_STAT).count
    return first_slices({name: target.get_summary(CategoryCounts(column=name)) for name in _fields(scope)}, rows, min(1.0, SEARCHED / max(rows, 1)))


def _counted(target: Tally, scope: Scope, stats: Sequence[SliceSums], measures: tuple[Measure, ...]) -> Counted:
    """The slices of all levels, and the declared ones that are none of them."""
    terms, sums = list(stats[0].slices), [target.get_summary(stats[0]).sums]
    for stat in stats[1:]:
        terms += stat.slices[1:]
        sums.append(target.get_summary(stat).sums[1:])
    known = {frozenset(one) for one in terms}
    whole = replace(stats[0], crossings=(WHOLE,))
    declared = [s for s in _declared(scope) if target.has(whole, s)
                and not (all(term.operator == "=" for term in s.terms) and frozenset((term.column, term.value) for term in s.terms) in known)]
    sums += [target.get_summary(whole, s).sums for s in declared]
    return Counted(measures=measures, terms=(*terms, *(() for _ in declared)), sums=np.concatenate(sums),
                   declared=(*("" for _ in terms), *(str(s) for s in declared)))


def _judged(one: Named, measured: _Looked) -> Judged:
    return judge_parts([Part(name=one.name, sums=one.sums)], [[one.usual]], measured.sums)[0]


def _usual(one: Named) -> float:
    """The same figure on the rows that the slice is held against."""
    error, size = one.usual[:, one.measure.error].sum(), one.usual[:, one.measure.size].sum()
    return _over(size, error) if one.measure is RATE else _over(error, size)


def _over(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _estimate(one: Named, measured: _Looked) -> Estimate:
    """Predicted over observed, or the loss over what was promised, with its interval."""
    if one.measure is RATE:
        return _judged(one, measured).ratio
    value = (1 + one.share) * _usual(one)
    reach = 2.0 * abs(value - _usual(one)) / abs(one.z) if one.z else None
    return Estimate(value=value, low=None if reach is None else value - reach, high=None if reach is None else value + reach,
                    n=int(one.sums[:, ROWS].sum()), unit=_WHAT[one.measure.name])


def _verdict(one: Named, estimate: Estimate, usual: float, measured: _Looked) -> tuple[bool, float]:
    """Whether it fails, and the limit that it is beyond."""
    if one.measure is RATE:
        sure = estimate.surely_above(1.5 * usual) or estimate.surely_below(usual / 1.5)
        by = 1.5 if sure else 1 + RATE.minimum
        return sure, usual * by if one.share > 0 else usual / by
    if one.measure is LOSS_OVER_PROMISED:
        judged = _judged(one, measured)
        return judged.excess > LOSS_FAIL and judged.entropy.surely_above(1.0), usual * (1 + one.measure.minimum)
    return False, usual * (1 + one.measure.minimum)


def _row(one: Named) -> tuple[str, float, str, str, str, float, float]:
    sums = one.sums.sum(0)
    if one.measure is LISTS:
        figures = ("", "", number(_over(sums[LIST_LOSS], sums[LIST_PROMISED]), 3))
        rows = sums[LISTED]
    else:
        figures = (number(_over(sums[RATE.size], sums[RATE.error]), 3), number(_over(sums[LOSS], sums[PROMISED]), 3), "")
        rows = sums[ROWS]
    return (one.name, int(rows), *figures, round(one.z, 2), round(one.score, 3))


def _caption(measured: _Looked) -> str:
    total = measured.sums.sum(0)
    return (f"{plural(measured.judged, 'slice')} of at least {least_rows(total[ROWS], 1):,.0f} rows (crossings {least_rows(total[ROWS], 2):,.0f}) looked at; "
            f"over all rows {number(measured.total.calibration_ratio, 3)} and {number(_over(total[LOSS], total[PROMISED]), 3)}"
            + (f"; too many categories to look at: {names(measured.first.too_many)}" if measured.first.too_many else ""))


def _not_looked_at(measured: _Looked) -> str:
    crossings = f" {measured.first.left_out:,} crossings of two fields, the smallest, were not looked at." if measured.first.left_out else ""
    return crossings + (f" Searched were {measured.sums[:, ROWS].sum():,.0f} rows, of a share of the users, and not their lists." if measured.total.count > SEARCHED else "")
