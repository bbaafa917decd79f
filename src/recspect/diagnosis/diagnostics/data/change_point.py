"""Did outcomes change at some moment, beyond what the scores say?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.data.over_time import Stretches, blocks, stretches
from recspect.diagnosis.diagnostics.policy import between, percent, require_classes
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.jackknife import t_quantile
from recspect.diagnosis.stats.time_blocks import POSITIVE, PREDICTED, ROWS
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

Floats = NDArray[np.float64]
WARN, FAIL, CHANCE = 0.10, 0.30, 0.001
LEAST, MOST, EDGE, DRAWS = 8, 24, 0.05, 4999


@dataclass(frozen=True, kw_only=True)
class _Change:
    """At most one change: before which stretch, how large over the base rate, and its chance when there is none."""

    at: int
    effect: Estimate
    p_value: float
    path: Floats


class ChangePoint(Diagnostic):
    """The largest step in observed less predicted positives along time (CUSUM), against what chance gives.

    Chance is the larger of two: users whose residuals change sign at random (rows of one user are dependent), and stretches of time in random order
    (days differ by more than users explain). Without scores it is the share of positives that is looked at.
    """

    code = "data.change_point"
    question = "Did outcomes change at some moment, beyond what the scores say?"
    sources = ("Page 1954, Continuous Inspection Schemes", "Csorgo and Horvath 1997, Limit Theorems in Change-Point Analysis",
               "Cameron, Gelbach and Miller 2008 (wild cluster bootstrap)")

    def needs(self, scope: Scope) -> Needs:
        """Outcomes and predictions along time, on the held-out side."""
        scope.require_binary()
        scope.require_target("@label", "@cluster", scope.require_role("time"))
        return Needs.of(target=[blocks(scope, scope.target)])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        """One finding."""
        stat = blocks(scope, scope.target)
        along = stretches(target.get_summary(stat), stat, most=MOST, days_from=12)
        total = along.sums.sum((0, 1))
        require_classes(total[POSITIVE], total[ROWS], "the held-out rows")
        if len(along.starts) < LEAST:
            raise Unavailable(f"the held-out rows have {len(along.starts)} stretches of time; {LEAST} are needed", hint="give rows of a longer time")
        change = _change(along)
        effect, size = change.effect, abs(change.effect.value)
        surely = min(abs(effect.low or 0.0), abs(effect.high or 0.0)) if effect.has_interval and (effect.low or 0.0) * (effect.high or 0.0) > 0 else 0.0
        found = change.p_value < CHANCE and surely > WARN
        verdict = Verdict.FAIL if found and surely > FAIL else Verdict.WARN if found else Verdict.PASS
        scored = stat.score is not None
        what = "observed less predicted positives" if scored else "the share of positives"
        sides = [along.sums[:change.at].sum((0, 1)), along.sums[change.at:].sum((0, 1))]
        rates = [f"{percent(side[POSITIVE] / side[ROWS])} observed" + (f", {percent(side[PREDICTED] / side[ROWS])} predicted" if scored else "") for side in sides]
        step = f"{'rose' if effect.value > 0 else 'fell'} by {percent(size)} of the base rate ({between(effect, 3)} as a share)"
        chance = f"chance {'below ' if change.p_value <= 1 / (DRAWS + 1) else ''}{change.p_value:.2g}"
        claim = (f"Outcomes keep to {'the scores' if scored else 'one rate'} over time: the largest step, at {along.moment(change.at)}, is {percent(size)} of the base rate ({chance}), "
                 f"{effect.n:,} rows." if not found else
                 f"At {along.moment(change.at)} {what} {step}: {rates[0]} before, {rates[1]} after ({chance}, {effect.n:,} rows).")
        limit = (FAIL if verdict is Verdict.FAIL else WARN) * (1 if effect.value > 0 else -1)
        yield Finding(
            code=self.code, verdict=verdict, estimate=effect, limit=limit, claim=claim, sources=self.sources, evidence=(_curve(along, change, scored=scored),),
            concerns=float(sides[1][ROWS] / total[ROWS]),
            threshold=f"WARN when the step is surely more than {percent(WARN, 0)} of the base rate and less likely than {CHANCE} by chance, FAIL when surely more than {percent(FAIL, 0)}",
            meaning="From then on the model, or the base rate, is about another world than the one it was made for; averages over the whole time hide it.",
            causes=(("what users choose changed, or who they are in ways that no field tells", "a field broke at that moment (data.drift and data.joint_drift of the rows after it say which)",
                     "the outcome is counted in another way since then", "another model or page design was launched") if scored else
                    ("the mix of users, items or pages changed", "the outcome is counted in another way since then", "what users choose changed")),
            remedies=(Remedy(code="find_event", text=f"Look for launches, campaigns and pipeline changes at {along.moment(change.at)}."),
                      Remedy(code="retrain_recent", text="Train on rows after that moment, or weigh them more."),
                      Remedy(code="recalibrate", text="Until then recalibrate on rows after it.")))


def _change(along: Stretches) -> _Change:
    rows, positive = along.sums[..., ROWS], along.sums[..., POSITIVE]
    residual = positive - along.sums[..., PREDICTED]
    centred = residual - rows * residual.sum() / rows.sum()
    share = np.cumsum(rows.sum(1))[:-1] / rows.sum()
    inside = (share >= EDGE) & (share <= 1 - EDGE)
    if not inside.any():
        raise Unavailable("nearly all held-out rows are of one stretch of time", hint="give rows of a longer time")
    scale = np.sqrt(share * (1 - share))
    path = np.cumsum(centred.sum(1))[:-1]
    standing = np.where(inside, np.abs(path) / scale, 0.0)
    at = int(standing.argmax())
    rng = np.random.default_rng(0)
    by_bucket = centred[:, rows.sum(0) > 0]
    by_bucket = by_bucket - rows[:, rows.sum(0) > 0] * by_bucket.sum(0) / rows.sum(0)[rows.sum(0) > 0]  # each bucket about its own level
    signs = rng.choice([-1.0, 1.0], (DRAWS, by_bucket.shape[1]))
    users = np.where(inside, np.abs(signs @ np.cumsum(by_bucket, axis=0)[:-1].T) / scale, 0.0).max(1)
    order = np.argsort(rng.random((DRAWS, len(rows))), axis=1)
    days = _in_other_orders(centred.sum(1), rows.sum(1), order)
    p = max((1 + int((drawn >= standing[at]).sum())) / (DRAWS + 1) for drawn in (users, days))
    return _Change(at=at + 1, effect=_effect(residual, positive, rows, at + 1), p_value=p, path=path)


def _in_other_orders(residual: Floats, rows: Floats, order: NDArray[np.int64]) -> Floats:
    """The largest standardised path of every order of the stretches, shape (orders,)."""
    share = np.cumsum(rows[order], axis=1)[:, :-1] / rows.sum()
    inside = (share >= EDGE) & (share <= 1 - EDGE)
    paths = np.abs(np.cumsum(residual[order], axis=1)[:, :-1]) / np.sqrt(share * (1 - share))
    return np.asarray(np.where(inside, paths, 0.0).max(1), dtype=np.float64)


def _effect(residual: Floats, positive: Floats, rows: Floats, at: int) -> Estimate:
    """Step of the mean residual over the base rate, with a jackknife over buckets of users."""
    after, before, base = residual[at:].sum(0), residual[:at].sum(0), positive.sum(0)
    n_after, n_before = rows[at:].sum(0), rows[:at].sum(0)

    def step(left_out: Floats | float, a: Floats | float, b: Floats | float, m: Floats | float, n: Floats | float) -> Floats:
        return np.asarray(((after.sum() - a) / (n_after.sum() - m) - (before.sum() - b) / (n_before.sum() - n))
                          / ((base.sum() - left_out) / (rows.sum() - np.asarray(m) - np.asarray(n))), dtype=np.float64)

    value = float(step(0.0, 0.0, 0.0, 0.0, 0.0))
    used = rows.sum(0) > 0
    unit, count = "step of the rate / base rate", int(rows.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        replicas = step(base, after, before, n_after, n_before)[used]
    groups = len(replicas)
    if groups < 5 or not np.isfinite(replicas).all():
        return Estimate(value=value, unit=unit, n=count)
    reach = t_quantile(0.95, groups - 1) * float(np.sqrt((groups - 1) / groups * ((replicas - replicas.mean()) ** 2).sum()))
    return Estimate(value=value, low=value - reach, high=value + reach, unit=unit, n=count)


def _curve(along: Stretches, change: _Change, *, scored: bool) -> Curve:
    sums = along.sums.sum(1)
    x = tuple(along.since_start.tolist())
    lines = [Line(name="observed", x=x, y=tuple((sums[:, POSITIVE] / sums[:, ROWS]).tolist()))]
    if scored:
        lines.append(Line(name="predicted", x=x, y=tuple((sums[:, PREDICTED] / sums[:, ROWS]).tolist()), role="reference"))
    return Curve(title="Do outcomes keep to the scores over time?" if scored else "Do outcomes keep to one rate over time?", lines=tuple(lines),
                 x_title="rows from the first" if along.ordinal else "days from the first row", y_title="share of positives",
                 marks=((float(along.since_start[change.at]), "largest step"),), caption=f"{sums[:, ROWS].sum():,.0f} held-out rows in stretches of {along.length}")
