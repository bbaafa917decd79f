"""Are there groups of rows on which the model is much worse than on the rest?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

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
from recspect.diagnosis.diagnostics.predictions.slices import LEAST_BUCKETS, Judged, Part, judge_parts, one_name_each
from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.multiplicity import Check, p_limit
from recspect.diagnosis.stats.outcomes import POSITIVE, PREDICTED, ROWS, SEPARATOR, Outcomes
from recspect.diagnosis.stats.score_label import ScoreLabel, ScoreLabelSummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable
from recspect.schema import Kind

CATEGORIES, CROSSED_FIELDS, CROSSINGS = 100, 8, 400
LEAST_ROWS, LEAST_SHARE, LEAST_POSITIVES = 100, 0.002, 10
CROSSED_ROWS, CROSSED_SHARE = 200, 0.01
"""A crossing must be larger: every one that is looked at makes all others harder to tell from chance."""
OFF, LOSS_WARN, LOSS_FAIL = 0.10, 0.05, 0.20
SHOWN = 5
_STAT = ScoreLabel(detail=2)
_THRESHOLD = ("WARN when a slice is unlikely by chance among all checks of the run (q < 0.05) and its predictions are more than 10% off, or its loss "
              "more than 5% of its own entropy above the overall level; FAIL when surely above a constant's loss or surely more than 50% off")


@dataclass(frozen=True, kw_only=True)
class _Looked:
    """All slices judged, and what was left out."""

    judged: list[Judged]
    total: ScoreLabelSummary
    least: float
    too_many: list[str]


class WorstSlices(NullCalibrated):
    """Every category of every field of at most 100 categories, crossings of two fields, and the declared slices: calibration and loss.

    A crossing is off only as far as it is off from both of its fields' slices too.
    """

    code = "predictions.worst_slices"
    question = "Are there groups of rows on which the model is much worse than on the rest?"
    sources = ("Chung et al. 2019, Slice Finder", "Sagadeeva and Boehm 2021, SliceLine", "Benjamini and Hochberg 1995",
               "Kott 2001, The Delete-a-Group Jackknife (interval)")

    def needs(self, scope: Scope) -> Needs:
        """Outcomes per category, per crossing of two of the first eight fields, and in declared slices, in buckets of users."""
        scope.require_binary()
        scope.require_target("@score", "@label", "@cluster")
        fields = _fields(scope)
        slices = [s for s in scope.slices if set(s.columns) <= scope.target]
        if not fields and not slices:
            raise Unavailable("there is no categorical field and no declared slice to look at", hint="declare one: --slice country=DE")
        base = Needs.of(target=[_STAT, _whole(scope), *(_single(name, scope) for name in fields), *(_crossing(pair, scope) for pair in _pairs(scope))])
        return Needs(target=(*base.target, *((s, _whole(scope)) for s in slices)))

    def measure(self, target: Tally, reference: Tally, scope: Scope) -> _Looked:  # noqa: ARG002 - a question about one side
        return _look(target, scope)

    def checks(self, measured: _Looked) -> Sequence[Check]:
        """Calibration and loss of every slice."""
        return [check for j in measured.judged for check in j.checks(OFF, LOSS_WARN)]

    def findings(self, measured: _Looked, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - all is measured
        """A finding for each of the worst slices, or one PASS."""
        judged, total = measured.judged, measured.total
        bad = {j.part.name for j in judged if _is_bad(j, scope.p_limit)}
        order = sorted(judged, key=lambda j: (j.part.name not in bad, -max(abs(j.off), 2 * j.excess)))
        table = RankedTable(
            title="On which slices is the model worst?", columns=("slice", "rows", "predicted / observed", "normalised entropy"),
            rows=tuple((j.part.name, j.rows, round(j.ratio.value, 3), round(j.entropy.value, 3)) for j in order[:20]),
            caption=f"{plural(len(judged), 'slice')} of at least {measured.least:,.0f} rows looked at; over all rows {number(total.calibration_ratio, 3)} and "
                    f"{number(total.normalised_entropy, 3)}"
                    + (f"; too many categories to look at: {names(measured.too_many)}" if measured.too_many else ""))
        worst = [j for j in order if j.part.name in bad]
        for j in worst[:SHOWN]:
            yield self._finding(j, total, len(judged), table)
        if worst[SHOWN:]:
            yield Finding(code=self.code, verdict=Verdict.WARN, estimate=worst[SHOWN].ratio, evidence=(table,), threshold=_THRESHOLD, sources=self.sources,
                          limit=worst[SHOWN].ratio.value,
                          claim=f"{plural(len(worst) - SHOWN, 'more slice')} are off too: {names([j.part.name for j in worst[SHOWN:]], limit=10)}.")
        if not bad:
            yield Finding(code=self.code, verdict=Verdict.PASS, estimate=order[0].ratio, evidence=(table,), threshold=_THRESHOLD, sources=self.sources,
                          claim=f"None of {plural(len(judged), 'slice')} is much worse than the rest; the furthest, {order[0].part.name}, has a ratio of "
                                f"predicted to observed positives of {between(order[0].ratio, 3)} on {order[0].rows:,} rows.",
                          meaning=f"Looked at were single fields{' and crossings of two' if _pairs(scope) else ''}, none of three.")

    def _finding(self, j: Judged, total: ScoreLabelSummary, looked_at: int, table: RankedTable) -> Finding:
        by_rate = abs(j.off) > OFF
        ratio, name = 1 + j.off, j.part.name
        usual = j.ratio.value / ratio
        sure = by_rate and (j.ratio.surely_above(1.5 * usual) or j.ratio.surely_below(usual / 1.5))
        fail = sure or (j.excess > LOSS_FAIL and j.entropy.surely_above(1.0))
        what = (f"predicts {percent(abs(ratio - 1))} {'more' if ratio > 1 else 'fewer'} positives than it should" if by_rate
                else "orders and prices rows much worse than elsewhere")
        also = f" (the same rows as {names(list(j.part.also))})" if j.part.also else ""
        return Finding(
            code=self.code, verdict=Verdict.FAIL if fail else Verdict.WARN, place=Place(kind="slice", name=name), threshold=_THRESHOLD,
            estimate=j.ratio if by_rate else j.entropy, neutral=usual if by_rate else 0.0, concerns=j.rows / total.count,
            limit=usual * (1.5 if sure else 1 + OFF) if by_rate else 1.0 if fail else total.normalised_entropy,
            claim=f"Where {name}{also}, the model {what}: predicted over observed {between(j.ratio, 3)} (all rows {number(total.calibration_ratio, 3)}), "
                  f"normalised entropy {between(j.entropy, 3)} (all rows {number(total.normalised_entropy, 3)}), {j.rows:,} rows. "
                  f"{looked_at:,} slices were looked at.",
            meaning="The average hides it: these users or items are served worse than the headline says.",
            causes=("a field is broken or defaulted for these rows", "the group is rare in training or behaves differently", "no field tells the group apart"),
            remedies=(Remedy(code="inspect_slice", text=f"Compare the fields inside {name} with the rest.", command=f"recspect diagnose RUN --slice '{name}'"),
                      Remedy(code="add_field", text="Add a field, or a crossing, that tells the group apart."),
                      Remedy(code="reweight", text="Give the group more weight in training, and compare.")),
            evidence=(table,), sources=self.sources)


def _fields(scope: Scope) -> list[str]:
    return [field.name for field in examined_fields(scope, Kind.CATEGORICAL) if not is_identity(field.name, scope)]


def _pairs(scope: Scope) -> list[tuple[str, str]]:
    return list(combinations(_fields(scope)[:CROSSED_FIELDS], 2))


def _whole(scope: Scope) -> Outcomes:
    return Outcomes(buckets=scope.buckets)


def _single(name: str, scope: Scope) -> Outcomes:
    return Outcomes(over=(name,), buckets=scope.buckets, capacity=CATEGORIES)


def _crossing(pair: tuple[str, str], scope: Scope) -> Outcomes:
    return Outcomes(over=pair, buckets=scope.buckets, capacity=CROSSINGS)


def _is_bad(j: Judged, limit: float) -> bool:
    return any(check.counted <= limit for check in j.checks(OFF, LOSS_WARN))


def _look(target: Tally, scope: Scope) -> _Looked:
    """All slices judged.

    Raises:
        Unavailable: Too few rows.
    """
    total: ScoreLabelSummary = target.get_summary(_STAT)
    require_classes(total.positive, total.count, "the held-out rows")
    least = max(LEAST_ROWS, LEAST_SHARE * total.count)
    parts, too_many = _parts(target, scope)
    parts = one_name_each([part for part in parts if _is_large(part, least, total.count)])
    if not parts:
        raise Unavailable(f"no slice has {least:,.0f} rows and {LEAST_POSITIVES} of each class", hint="give more held-out rows")
    return _Looked(judged=_peel(parts, target.get_summary(_whole(scope)).total), total=total, least=least, too_many=too_many)


def _parts(target: Tally, scope: Scope) -> tuple[list[Part], list[str]]:
    """Slices, single fields first, and the fields of too many categories."""
    parts, too_many = [], []
    for name in _fields(scope):
        summary = target.get_summary(_single(name, scope))
        if summary.truncated:
            too_many.append(name)
        else:
            parts += [Part(name=f"{name}={value}", sums=sums, fields=(name,)) for value, sums in zip(summary.names, summary.sums, strict=False)]
    known = {part.name for part in parts}
    parts += [Part(name=str(s), sums=target.get_summary(_whole(scope), s).total, fields=s.columns)
              for s in scope.slices if target.has(_whole(scope), s) and str(s) not in known]
    for pair in _pairs(scope):
        summary = target.get_summary(_crossing(pair, scope))
        if summary.truncated or set(pair) & set(too_many):
            continue
        for value, sums in zip(summary.names, summary.sums, strict=False):
            parents = tuple(f"{field}={text}" for field, text in zip(pair, value.split(SEPARATOR), strict=True))
            parts.append(Part(name=",".join(parents), sums=sums, fields=pair, parents=parents))
    return parts, too_many


def _is_large(part: Part, least: float, rows: float) -> bool:
    size, positive = part.sums[:, ROWS].sum(), part.sums[:, POSITIVE].sum()
    users = (part.sums[:, ROWS] > 0).sum()
    if part.parents:
        least = max(least, CROSSED_ROWS, CROSSED_SHARE * rows)
    return bool(least <= size < rows and min(positive, size - positive) >= LEAST_POSITIVES and users >= LEAST_BUCKETS)


def _peel(parts: list[Part], total: NDArray[np.float64]) -> list[Judged]:
    """All slices judged.

    A bad slice also moves the overall ratio that the others are held against, so the worst is taken out of it before the
    other slices of its field are judged again. Slices of other fields hold some of its rows, as all rows do, and keep theirs. Which one is
    peeled next is decided among these slices alone; what is an alarm, over the whole run.
    """
    usual: dict[tuple[str, ...], NDArray[np.float64]] = {}
    sums = {part.name: part.sums for part in parts}
    peeled: set[str] = set()
    while True:
        against = [[usual.get(part.fields, total), *(sums[parent] for parent in part.parents if parent in sums)] for part in parts]
        judged = judge_parts(parts, against, total)
        limit = p_limit([check for j in judged for check in j.checks(OFF, LOSS_WARN)])
        more = [j for j in judged if j.part.name not in peeled and _is_bad(j, limit)]
        if not more:
            return judged
        worst = min(more, key=lambda j: (min(j.p_rate, j.p_loss), -abs(j.off), j.part.name)).part
        peeled.add(worst.name)
        rest = usual.get(worst.fields, total) - worst.sums
        if rest[:, POSITIVE].sum() >= LEAST_POSITIVES and rest[:, PREDICTED].sum() > 0:
            usual[worst.fields] = rest
