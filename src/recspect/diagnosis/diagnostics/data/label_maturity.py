"""Are the labels of the newest rows complete?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.data.over_time import Stretches, blocks, stretches
from recspect.diagnosis.diagnostics.policy import between, number, percent, require_classes, verdict_above
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.jackknife import t_quantile
from recspect.diagnosis.stats.time_blocks import POSITIVE, PREDICTED, ROWS
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

Floats = NDArray[np.float64]
WARN, FAIL = 0.05, 0.25
OLDER, ENOUGH, POSITIVES = 5, 200, 30


class LabelMaturity(Diagnostic):
    """Positives of the newest stretch of time, over those that older stretches lead to expect.

    A label that comes late (a purchase, a return visit) is still 0 for rows that are younger than its delay. Where rows are scored, what is
    expected follows the scores, so that a change of traffic is no shortfall.
    """

    code = "data.label_maturity"
    question = "Are the labels of the newest rows complete?"
    sources = ("Chapelle 2014, Modeling Delayed Feedback in Display Advertising", "Kott 2001, The Delete-a-Group Jackknife")

    def needs(self, scope: Scope) -> Needs:
        """Positives along time, of each side that has the time."""
        scope.require_binary()
        time = scope.require_role("time")
        scope.require_target("@label", "@cluster", time)
        reference = [blocks(scope, scope.reference)] if {"@label", "@cluster", time} <= scope.reference else []
        return Needs.of(target=[blocks(scope, scope.target)], reference=reference)

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """One finding per side that can be judged."""
        sides = [("training", reference, scope.reference), ("held-out", target, scope.target)]
        findings, reasons = [], []
        for name, tally, columns in sides:
            stat = blocks(scope, columns)
            if not tally.has(stat):
                continue
            try:
                findings.append(self._side(name, stretches(tally.get_summary(stat), stat, most=14, days_from=7), scored=stat.score is not None))
            except Unavailable as reason:
                reasons.append(reason)
        if not findings:
            raise reasons[-1]
        return findings

    def _side(self, side: str, along: Stretches, *, scored: bool) -> Finding:
        total = along.sums.sum((0, 1))
        require_classes(total[POSITIVE], total[ROWS], f"the {side} rows")
        expected = along.sums[..., PREDICTED if scored else ROWS]
        newest = _newest(along)
        if newest < OLDER:
            raise Unavailable(f"the {side} rows have {newest} stretches of time before the newest; {OLDER} are needed", hint="give rows of a longer time")
        shortfall = _shortfall(along.sums[..., POSITIVE], expected, newest, n=int(along.sums[newest:, :, ROWS].sum()))
        verdict = verdict_above(shortfall, fail=FAIL, warn=WARN)
        verdict = verdict if shortfall.surely_above(WARN) else Verdict.PASS
        rate, usual = (float(part[..., POSITIVE].sum() / part[..., ROWS].sum()) for part in (along.sums[newest:], along.sums[:newest]))
        basis = "their scores and the older rows" if scored else "the older rows"
        numbers = (f"{percent(rate)} of {shortfall.n:,} rows since {along.moment(newest)} are positive, {percent(usual)} of the older ones; against {basis} "
                   f"{percent(max(shortfall.value, 0.0))} of the positives are missing ({between(shortfall, 3)} as a share)")
        claim = (f"The newest {side} rows have as many positives as expected: {numbers}." if verdict is Verdict.PASS else
                 f"The newest {side} rows lack positives: {numbers}.")
        sinking = _is_sinking(along.sums[..., POSITIVE].sum(1) / np.maximum(expected.sum(1), 1e-12), newest)
        late = "labels come late, and the newest rows were read before theirs came"
        stopped = "logging of the outcome broke or was filtered"
        return Finding(
            code=self.code, verdict=verdict, place=Place(kind="slice", name=f"newest {side} rows"), estimate=shortfall, limit=FAIL if verdict is Verdict.FAIL else WARN,
            concerns=float(along.sums[newest:, :, ROWS].sum() / total[ROWS]), claim=claim, sources=self.sources, evidence=(_curve(along, side),),
            threshold=f"WARN when surely more than {percent(WARN, 0)} of the expected positives of the newest stretch are missing, FAIL when surely more than {percent(FAIL, 0)}; the interval "
                      "holds what users and the older stretches differ by",
            meaning="Late positives count as negatives: a model trained on them predicts too little, and one judged on them seems to predict too much.",
            causes=(late, stopped, "fewer people choose since then") if sinking else (stopped, "fewer people choose since then", late),
            remedies=(Remedy(code="wait_for_labels", text=f"Leave out rows younger than the delay of the label: those since {along.moment(newest)} at least."),
                      Remedy(code="model_delay", text="Weigh the newest rows by the share of labels that has come at their age."),
                      Remedy(code="check_logging", text="Compare the count of outcomes with another source for these days.")))


def _newest(along: Stretches) -> int:
    """First stretch of the newest rows: the last one, or more where it holds too few rows."""
    rows, positive = along.sums[..., ROWS].sum(1), along.sums[..., POSITIVE].sum(1)
    rate = positive.sum() / rows.sum()
    first = len(rows) - 1
    while first > 0 and (rows[first:].sum() < ENOUGH or rate * rows[first:].sum() < POSITIVES):
        first -= 1
    return first


def _shortfall(positive: Floats, expected: Floats, newest: int, *, n: int) -> Estimate:
    """1 - (observed / expected of the newest) / (of the older), its interval from users (jackknife) and from how older stretches differ.

    Shapes: (stretches, buckets).

    Raises:
        Unavailable: The older stretches have no positives.
    """
    def ratio(of: slice) -> tuple[float, Floats]:
        seen, wanted = positive[of].sum(0), expected[of].sum(0)
        return seen.sum() / max(wanted.sum(), 1e-12), (seen.sum() - seen) / np.maximum(wanted.sum() - wanted, 1e-12)

    (now, now_without), (usual, usual_without) = ratio(slice(newest, None)), ratio(slice(0, newest))
    if not usual or not (usual_without > 0).all():
        raise Unavailable("the older rows have no positives")
    kept = (positive + expected).sum(0) > 0
    replicas = (1 - now_without / usual_without)[kept]
    groups = len(replicas)
    by_user = (groups - 1) / groups * float(((replicas - replicas.mean()) ** 2).sum()) if groups >= OLDER else np.inf
    each = positive[:newest].sum(1) / np.maximum(expected[:newest].sum(1), 1e-12) / usual
    weight = expected[:newest].sum(1) / expected[:newest].sum()
    spread = float((weight * (each - 1) ** 2).sum()) * newest / (newest - 1)  # of one stretch, sampling and all
    variance = max(by_user, spread * (1 + 1 / newest))
    reach = t_quantile(0.95, min(groups, newest) - 1) * float(np.sqrt(variance))
    value = 1 - now / usual
    return Estimate(value=value, low=value - reach, high=value + reach, unit="share of expected positives missing", n=n)


def _is_sinking(ratio: Floats, newest: int) -> bool:
    """Whether the stretch before the newest is already low: late labels sink towards the end, a broken log drops."""
    before = ratio[: newest - 1]
    return bool(ratio[newest:].mean() < ratio[newest - 1] < float(np.quantile(before, 0.25)))


def _curve(along: Stretches, side: str) -> Curve:
    sums = along.sums.sum(1)
    x = tuple(along.since_start.tolist())
    lines = [Line(name="observed", x=x, y=tuple((sums[:, POSITIVE] / sums[:, ROWS]).tolist()))]
    if sums[:, PREDICTED].any():
        lines.append(Line(name="predicted", x=x, y=tuple((sums[:, PREDICTED] / sums[:, ROWS]).tolist()), role="reference"))
    return Curve(title=f"Do positives keep up towards the newest {side} rows?", x_title="rows from the first" if along.ordinal else "days from the first row",
                 y_title="share of positives", lines=tuple(lines), caption=f"{number(sums[:, ROWS].sum(), 0)} rows in stretches of {along.length}")
