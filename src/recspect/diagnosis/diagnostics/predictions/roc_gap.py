"""Whether the curve by which a group of users is ranked crosses that of the others: served worse in one place, better in another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, number, percent, plural
from recspect.diagnosis.diagnostics.predictions.groups import (
    fields_of_groups,
    is_enough,
    none_is_large_enough,
    others_of,
    required_group_stats,
)
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.jackknife import BucketedSummary, estimate_from, occupied
from recspect.diagnosis.tally import Tally

WARN = 0.02
CHANCE, DRAWS = 0.01, 4999
"""Over all groups together; and how often chance is drawn."""
PLACES = 101
"""False positive rates at which curves are compared."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Crossing:
    """One group.

    Args:
        field, group: Such as city and Oslo.
        rows: Of the group.
        own, others: True positive rates at equally far false positive rates, shape (places,).
        gap: AUC of others - AUC of the group, by these curves.
        area: Absolute area between the curves (ABROCA).
        crossing: area - |gap|, less what chance gives.
        p_value: Of at least this crossing when both curves are one.
    """

    field: str
    group: str
    rows: int
    own: Floats
    others: Floats
    gap: float
    area: float
    crossing: Estimate
    p_value: float

    @property
    def name(self) -> str:
        return f"{self.field}={self.group}"


class RocGap(Diagnostic):
    """Absolute area between the ROC curve of a group of users and that of all others, beyond the difference of their AUCs.

    The area is at least that difference, which predictions.group_gap judges; what is above it is where the curves cross. Chance is drawn from
    the curves' own covariance over buckets of users (jackknife): both curves one, what sampling makes of it.
    """

    code = "predictions.roc_gap"
    question = "Is a group of users ranked worse than others in one part of the list and better in another?"
    sources = ("Gardner, Brooks and Baker 2019, Evaluating the Fairness of Predictive Student Models Through Slicing Analysis (ABROCA)", "Kott 2001, The Delete-a-Group Jackknife (covariance)")

    def needs(self, scope: Scope) -> Needs:
        """Scores against the label per category of every field that describes the user."""
        return Needs.of(target=required_group_stats(scope))

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:  # noqa: ARG002 - a question about one side
        """A finding for the group of each field whose curve crosses that of the others most, or one PASS."""
        found = _crossings(target, scope)
        limit = CHANCE / len(found)
        found.sort(key=lambda one: (one.p_value > limit, -one.crossing.value, one.name))
        table = RankedTable(title="How far are the curves of groups of users from those of others?", columns=("group", "rows", "area between", "AUC of others - own", "crossing beyond chance", "chance"),
                            rows=tuple((one.name, one.rows, round(one.area, 4), round(one.gap, 4), round(one.crossing.value, 4), round(one.p_value, 4)) for one in found[:30]),
                            caption=f"{plural(len(found), 'group')} of {plural(len({one.field for one in found}), 'field')}")
        alarms = [one for one in found if one.p_value <= limit and one.crossing.surely_above(WARN)]
        bad = list({one.field: one for one in reversed(alarms)}.values())[::-1]  # of a field the worst group: it is among the others of the rest
        for one in bad:
            yield self._finding(one, Verdict.WARN, table, claim=f"Users with {one.name} are ranked worse than others in one part of the list and better in another: the curves are {number(one.area, 3)} apart, {number(abs(one.gap), 3)} of "
                                f"that by their AUC; they cross by {between(one.crossing, 3)} beyond chance ({one.rows:,} rows, chance {number(one.p_value, 4)}).")
        if not bad:
            most = found[0]
            yield self._finding(most, Verdict.PASS, table, claim=f"No group of users has a curve that crosses that of the others beyond chance: at most by {between(most.crossing, 3)}, of {most.name} "
                                f"({plural(len(found), 'group')}, {most.rows:,} rows).")

    def _finding(self, one: _Crossing, verdict: Verdict, table: RankedTable, *, claim: str) -> Finding:
        x = tuple(np.linspace(0, 1, PLACES).tolist())
        curve = Curve(title=f"How is {one.name} ranked, and how are others?", x_title="share of negatives ranked as high", y_title="share of positives ranked as high",
                      lines=(Line(name=one.name, x=x, y=tuple(one.own.tolist()), role="target" if verdict is Verdict.PASS else "fault"), Line(name="others", x=x, y=tuple(one.others.tolist()), role="reference")))
        return Finding(
            code=self.code, verdict=verdict, claim=claim, place=Place() if verdict is Verdict.PASS else Place(kind="slice", name=one.name), estimate=one.crossing, limit=WARN, sources=self.sources,
            threshold=f"WARN when the crossing is surely more than {WARN} beyond chance, and less likely than {percent(CHANCE, 0)} by chance over all groups; never FAIL",
            meaning="Equal AUCs hide it: where the list is cut decides who is served worse.",
            causes=("a field that tells the best rows of others is missing or a default for the group", "the group's scores come from fewer training rows", "the group holds two kinds of users"),
            remedies=(Remedy(code="check_fields", text="Compare missing and default values of the fields for the group and for others among rows of high scores."),
                      Remedy(code="cut_by_group", text="Judge the group at the place where lists are cut, with precision or recall there."),
                      Remedy(code="reweight_group", text="Give the group's training rows more weight, or collect more of them.")),
            evidence=(curve, table))


def _crossings(target: Tally, scope: Scope) -> list[_Crossing]:
    """Every group of enough rows against all others.

    Raises:
        Unavailable: Too few rows, or no group is large enough.
    """
    found: list[_Crossing] = []
    left_out: list[str] = []
    for field, parts, _ in fields_of_groups(target, scope, left_out):
        for group, part in sorted(parts.items()):
            if is_enough(part) and is_enough(rest := others_of(group, parts)):
                found.append(_crossing(field, group, part, rest))
    if not found:
        raise none_is_large_enough(left_out)
    return found


def _crossing(field: str, group: str, part: BucketedSummary, rest: BucketedSummary) -> _Crossing:
    own, others = roc(part.total), roc(rest.total)
    apart = others - own
    without = np.array([roc(b) - roc(a) for a, b in zip(part.leave_one_out(), rest.leave_one_out(), strict=True)])[occupied([part, rest])]
    groups = len(without)
    off = (without - without.mean(0)) * np.sqrt((groups - 1) / groups)
    drawn = np.random.default_rng(0).normal(size=(DRAWS, groups)) @ off
    by_chance = _crossed(drawn)
    level = float(by_chance.mean())
    estimate = estimate_from(float(_crossed(apart)), _crossed(without), unit="area between the curves beyond that of their AUCs", n=int(part.total.count))
    crossing = Estimate(value=estimate.value - level, low=None if estimate.low is None else estimate.low - level, high=None if estimate.high is None else estimate.high - level,
                        unit=estimate.unit, n=estimate.n)
    return _Crossing(field=field, group=group, rows=int(part.total.count), own=own, others=others, gap=float(apart.mean()), area=float(np.abs(apart).mean()), crossing=crossing,
                     p_value=(1 + int((by_chance >= estimate.value).sum())) / (DRAWS + 1))


def _crossed(apart: Floats) -> Any:
    """Mean size of the difference less the size of its mean, over the last axis: 0 where it has one sign."""
    return np.abs(apart).mean(-1) - np.abs(apart.mean(-1))


def roc(total: Any) -> Floats:
    """True positive rate at equally far false positive rates, straight lines between score bins; shape (places,). Totals have both classes."""
    positives, negatives = (np.append(0.0, np.cumsum(values[::-1])) for values in (total.positives, total.negatives))
    keep = np.append(True, (np.diff(positives) > 0) | (np.diff(negatives) > 0))
    x, y = negatives[keep] / negatives[-1], positives[keep] / positives[-1]
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        return np.full(PLACES, np.nan)
    last = np.append(np.diff(x) > 0, True)  # of places straight above each other the highest counts
    return np.asarray(np.interp(np.linspace(0, 1, PLACES), x[last], y[last]), dtype=np.float64)
