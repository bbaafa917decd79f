"""Are users and items that training saw rarely, or never, predicted worse than a constant?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Needs, NullCalibrated, Scope
from recspect.diagnosis.diagnostics.policy import between, percent, require_classes
from recspect.diagnosis.diagnostics.predictions.slices import Judged, Part, judge_parts
from recspect.diagnosis.evidence import Bars, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.multiplicity import Check
from recspect.diagnosis.stats.categories import CategoryCounts, CategoryCountsSummary
from recspect.diagnosis.stats.outcomes import POSITIVE, ROWS, Outcomes, OutcomesSummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

Floats = NDArray[np.float64]
OFF_WARN, OFF_FAIL = 0.10, 0.50
ENOUGH, OF_A_CLASS, BUCKETS = 200, 30, 10
GROUPS = 10
KEPT = 4096
UNSEEN = "never seen"


@dataclass(frozen=True, kw_only=True)
class _Group:
    name: str
    often: float
    judged: Judged


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Users, or items, by how often training saw them.

    Args:
        role, column: `user` or `item`, and its column.
        summary: Outcomes per id.
        groups: Coldest first, or why there are none.
    """

    role: str
    column: str
    summary: OutcomesSummary
    groups: list[_Group] | Unavailable


class ColdStart(NullCalibrated):
    """Normalised entropy and calibration of held-out rows by how often training saw their user and their item; those that it never saw are apart.

    A group whose normalised entropy is above 1 would be served better by its own rate of positives than by the model.
    """

    code = "predictions.cold_start"
    question = "Are users and items that training saw rarely, or never, predicted worse than a constant?"
    sources = ("Schein et al. 2002, Methods and Metrics for Cold-Start Recommendations", "He et al. 2014 (normalised entropy)")

    def needs(self, scope: Scope) -> Needs:
        """Outcomes per user and per item on the held-out side, and how often training has each."""
        scope.require_binary()
        scope.require_reference()
        scope.require_target("@score", "@label", "@cluster")
        columns = _columns(scope)
        if not columns:
            raise Unavailable("no column has the role 'user' or 'item' on both sides", hint="name one in the schema")
        return Needs.of(target=[_outcomes(name, scope) for _, name in columns], reference=[CategoryCounts(column=name) for _, name in columns])

    def measure(self, target: Tally, reference: Tally, scope: Scope) -> list[_Measured]:
        found = []
        for role, name in _columns(scope):
            summary = target.get_summary(_outcomes(name, scope))
            groups: list[_Group] | Unavailable
            try:
                groups = _groups(summary, reference.get_summary(CategoryCounts(column=name)), role)
            except Unavailable as reason:  # the other role may have groups
                groups = reason
            found.append(_Measured(role=role, column=name, summary=summary, groups=groups))
        return found

    def checks(self, measured: list[_Measured]) -> Sequence[Check]:
        """Calibration and loss of every group of users and of items."""
        return [check for one in measured if not isinstance(one.groups, Unavailable) for g in one.groups for check in g.judged.checks(OFF_WARN, 0.0)]

    def findings(self, measured: list[_Measured], target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - all is measured
        """One finding for users, one for items."""
        for one in measured:
            total = one.summary.total
            require_classes(total[:, POSITIVE].sum(), total[:, ROWS].sum(), "the held-out rows")
            if isinstance(one.groups, Unavailable):
                raise one.groups
            yield self._of(one.role, one.column, one.groups, scope.p_limit, sampled=one.summary.truncated)

    def _of(self, role: str, column: str, groups: list[_Group], p_limit: float, *, sampled: bool) -> Finding:
        rows = float(sum(g.judged.rows for g in groups))
        bad = [(_verdict(g.judged, p_limit), g) for g in groups]
        verdict, worst = max(bad, key=lambda pair: (pair[0].severity, pair[1].judged.entropy.value))
        if verdict is Verdict.PASS:
            worst = groups[0]
        j, warm = worst.judged, groups[-1].judged
        worse = _is_worse(j, p_limit)
        estimate, neutral, limit = (j.entropy, 0.0, 1.0) if worse or verdict is Verdict.PASS else (
            j.ratio, 1.0, (1 + (OFF_FAIL if verdict is Verdict.FAIL else OFF_WARN)) ** (1 if j.off > 0 else -1))
        share = j.rows / rows
        who = f"{role}s {worst.name}"
        numbers = (f"normalised entropy {between(j.entropy, 3)}, predicted over observed {between(j.ratio, 2)} ({j.rows:,} rows, {percent(share)}); "
                   f"{role}s {groups[-1].name} have {between(warm.entropy, 3)} and {between(warm.ratio, 2)}")
        claim = {True: f"Rows of {who} are predicted worse than by their own rate of positives: {numbers}.",
                 False: f"Rows of {who} get {'too high' if j.off > 0 else 'too low'} scores: {numbers}."}[worse]
        if verdict is Verdict.PASS:
            claim = f"{role.capitalize()}s that training saw rarely are predicted better than by a constant. The coldest, {who}: {numbers}."
        table = RankedTable(title=f"How well are rows predicted by how often training saw their {role}?",
                            columns=(f"{role}s", "mean training rows", "held-out rows", "normalised entropy", "predicted / observed"),
                            rows=tuple((g.name, round(g.often, 1), g.judged.rows, round(g.judged.entropy.value, 4), round(g.judged.ratio.value, 3)) for g in groups),
                            caption=f"{rows:,.0f} held-out rows" + (f" of {KEPT:,} {role}s chosen by hash" if sampled else ""))
        bars = Bars(title=f"Is the model better than a constant for {role}s that training saw rarely?", unit="normalised entropy", names=tuple(g.name for g in groups),
                    values=tuple(g.judged.entropy.value for g in groups), low=tuple(g.judged.entropy.low or g.judged.entropy.value for g in groups),
                    high=tuple(g.judged.entropy.high or g.judged.entropy.value for g in groups), reference=1.0,
                    highlighted=tuple(g.name for v, g in bad if v is not Verdict.PASS), caption=table.caption)
        return Finding(
            code=self.code, verdict=verdict, place=Place(kind="field", name=column), estimate=estimate, neutral=neutral, limit=limit, claim=claim, sources=self.sources,
            concerns=share, evidence=(bars, table),
            threshold=f"WARN when a group's normalised entropy is above 1, or its predicted over observed positives more than {percent(OFF_WARN, 0)} off that of all rows, and that is "
                      f"unlikely by chance among all checks of the run (q < 0.05); FAIL when it is {role}s never seen that are worse than a constant, or a group is more than "
                      f"{percent(OFF_FAIL, 0)} off",
            meaning="New users and items arrive every day; what the model says about them decides whether they stay.",
            causes=("ids without training rows read an embedding that was never trained", "the model learned rare ids by heart", "nothing but the id describes the user or item",
                    "rare items differ: they are shown where more or fewer people choose"),
            remedies=(Remedy(code="train_unknown", text="Hide a share of ids in training, so that the row for unknown ids is trained (unknown_share)."),
                      Remedy(code="raise_minimum_count", text="Let rare ids share one row: a higher minimum_count of the field."),
                      Remedy(code="add_field", text="Add fields that describe new users and items.")))


def _columns(scope: Scope) -> list[tuple[str, str]]:
    roles = (("user", scope.schema.user), ("item", scope.schema.item))
    return [(role, name) for role, name in roles if name is not None and name in scope.target and name in scope.reference]


def _outcomes(column: str, scope: Scope) -> Outcomes:
    return Outcomes(over=(column,), buckets=scope.buckets, capacity=KEPT)


def _groups(summary: OutcomesSummary, train: CategoryCountsSummary, role: str) -> list[_Group]:
    """Rows by how often training has their id, coldest first: unseen ones, then groups of about equal numbers of rows.

    Raises:
        Unavailable: Fewer than two groups have enough rows.
    """
    counts = train.as_dict()
    kept = [i for i, name in enumerate(summary.names) if name and (name in counts or not train.truncated)]
    often = np.array([counts.get(summary.names[i], 0.0) for i in kept])
    sums = summary.sums[kept]
    rows = sums[:, :, ROWS].sum(1)
    seen = np.flatnonzero(often > 0)
    order = seen[np.argsort(often[seen], kind="stable")]
    middle = np.cumsum(rows[order]) - rows[order] / 2
    which = np.minimum((middle / max(rows[order].sum(), 1) * GROUPS).astype(int), GROUPS - 1)
    cuts: list[tuple[str, NDArray[np.int64]]] = [(UNSEEN, np.flatnonzero(often == 0))]
    for g in np.unique(which):
        mine = order[which == g]
        first, last = often[mine].min(), often[mine].max()
        cuts.append((f"seen {first:,.0f} times" if first == last else f"seen {first:,.0f} to {last:,.0f} times", mine))
    parts, mean = [], []
    for name, mine in cuts:
        total = sums[mine].sum(0) if len(mine) else np.zeros((1, 5))
        positive, count = total[:, POSITIVE].sum(), total[:, ROWS].sum()
        if count >= ENOUGH and min(positive, count - positive) >= OF_A_CLASS and (total[:, ROWS] > 0).sum() >= BUCKETS:
            parts.append(Part(name=name, sums=total))
            mean.append(float(np.average(often[mine], weights=rows[mine])))
    if len(parts) < 2:
        raise Unavailable(f"fewer than two groups of {role}s by how often training saw them have {ENOUGH} rows and {OF_A_CLASS} of each class", hint="give more rows")
    total = summary.total
    return [_Group(name=j.part.name, often=often_, judged=j) for j, often_ in zip(judge_parts(parts, [[total]] * len(parts), total), mean, strict=True)]


def _is_worse(judged: Judged, limit: float) -> bool:
    """Worse than a constant, and than all rows, beyond chance."""
    return judged.checks(OFF_WARN, 0.0)[1].counted <= limit


def _verdict(judged: Judged, limit: float) -> Verdict:
    off = abs(judged.off) if judged.checks(OFF_WARN, 0.0)[0].counted <= limit else 0.0
    worse = _is_worse(judged, limit)
    if (worse and judged.part.name == UNSEEN) or off > OFF_FAIL:
        return Verdict.FAIL
    return Verdict.WARN if worse or off > OFF_WARN else Verdict.PASS
