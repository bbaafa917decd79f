"""Were negatives kept at the same rate on both sides?"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.data.over_time import Stretches, blocks, stretches
from recspect.diagnosis.diagnostics.policy import between, number, require_classes
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.jackknife import t_quantile
from recspect.diagnosis.stats.time_blocks import POSITIVE, ROWS
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

WARN, FAIL = 1.25, 2.0
STRETCHES = 5


class NegativeVolume(Diagnostic):
    """Negatives per day on held-out rows over negatives per day in training, where positives come at about the same pace on both sides.

    A lower share of positives has two readings that no score can tell apart: fewer people choose, or training kept only some of the negatives. The pace of
    each class tells them apart: people who choose less bring fewer positives a day, sampling brings fewer negatives a day.
    """

    code = "data.negative_volume"
    question = "Were negatives kept at the same rate on both sides?"
    sources = ("He et al. 2014, Practical Lessons from Predicting Clicks on Ads at Facebook",)

    def needs(self, scope: Scope) -> Needs:
        """Rows and positives along time, on both sides."""
        scope.require_binary()
        time = scope.require_role("time")
        scope.require_target("@label", "@cluster", time)
        scope.require_reference("@label", "@cluster", time)
        return Needs.of(target=[blocks(scope, scope.target)], reference=[blocks(scope, scope.reference)])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """One finding."""
        sides = []
        for name, tally, columns in (("held-out", target, scope.target), ("training", reference, scope.reference)):
            stat = blocks(scope, columns)
            along = stretches(tally.get_summary(stat), stat, most=14, days_from=7)
            if along.ordinal:
                raise Unavailable("the time only gives an order, so there is no pace", hint="give times in seconds")
            total = along.sums.sum((0, 1))
            require_classes(total[POSITIVE], total[ROWS], f"the {name} rows")
            if len(along.starts) < STRETCHES:
                raise Unavailable(f"the {name} rows have {len(along.starts)} stretches of time; {STRETCHES} are needed", hint="give rows of a longer time")
            sides.append(along)
        rows = int(sum(along.sums[..., ROWS].sum() for along in sides))
        positives, negatives = (_ratio(*sides, positive=kind, n=rows) for kind in (True, False))
        selective = _ratio_of(negatives, positives)
        yield self._finding(positives, negatives, selective)

    def _finding(self, positives: Estimate, negatives: Estimate, selective: Estimate) -> Finding:
        moved_alone = abs(math.log(negatives.value)) > 2 * abs(math.log(positives.value))
        verdict = Verdict.PASS
        if moved_alone:
            surely = max(selective.low or 0.0, 1 / (selective.high or math.inf))
            verdict = Verdict.FAIL if surely > FAIL else Verdict.WARN if surely > WARN else Verdict.PASS
        fewer = selective.value > 1
        numbers = f"per day there are {between(negatives, 2)} times as many negatives and {between(positives, 2)} times as many positives on held-out rows as in training"
        claim = (f"Negatives were sampled on one side: {numbers}." if verdict is not Verdict.PASS else f"Negatives were kept at the same rate on both sides: {numbers}."
                 if max(selective.value, 1 / selective.value) < WARN else
                 f"It is not negatives alone that come at another pace: {numbers}.")
        return Finding(
            code=self.code, verdict=verdict, estimate=selective, neutral=1.0, limit=FAIL if verdict is Verdict.FAIL else WARN, claim=claim, sources=self.sources,
            threshold=f"WARN when the pace of negatives changed by more than twice the change (in logarithms) of that of positives, and the ratio of both is surely above {WARN:g} "
                      f"(or below {number(1 / WARN, 2)}); FAIL above {FAIL:g} (or below {number(1 / FAIL, 2)})",
            meaning="A model trained on sampled negatives predicts odds that are too high by the inverse of the rate at which they were kept; its ranking is right.",
            causes=("negatives were sampled for training" if fewer else "negatives were sampled for the held-out rows", "impressions are logged in another way on one side"),
            remedies=(Remedy(code="correct_sampling", text=f"Correct scores with p / (p + (1 - p) / rate); the rate here is about {number(1 / selective.value, 2)}."),
                      Remedy(code="keep_all_negatives", text="Judge on rows that were not sampled, and keep the rate beside the table.")),
            evidence=(Bars(title="Which class comes at another pace on held-out rows?", unit="rows per day, held-out / training", names=("negatives", "positives"),
                           values=(negatives.value, positives.value), low=(negatives.low or 0.0, positives.low or 0.0),
                           high=(negatives.high or math.inf, positives.high or math.inf), reference=1.0),))


def _ratio(held_out: Stretches, training: Stretches, *, positive: bool, n: int) -> Estimate:
    """Mean rows of a class per second, held-out over training, with what stretches differ by. The first and last stretch, which may be cut, are left out."""
    logs, variances, freedom = [], [], []
    for along in (held_out, training):
        counts = along.sums[..., POSITIVE].sum(1) if positive else (along.sums[..., ROWS] - along.sums[..., POSITIVE]).sum(1)
        inner = counts[1:-1] / along.width
        mean = float(inner.mean())
        if mean <= 0:
            raise Unavailable("there are stretches of time with rows of one class only", hint="give more rows")
        logs.append(math.log(mean))
        variances.append(float(inner.var(ddof=1)) / len(inner) / mean**2)
        freedom.append(len(inner) - 1)
    reach = t_quantile(0.95, min(freedom)) * math.sqrt(sum(variances))
    value = logs[0] - logs[1]
    low, middle, high = np.exp([value - reach, value, value + reach])
    return Estimate(value=float(middle), low=float(low), high=float(high), unit="rows per day, held-out / training", n=n)


def _ratio_of(above: Estimate, below: Estimate) -> Estimate:
    """The ratio of two ratios, as if they were independent: what moves both alike cancels in truth, so the interval is rather too wide."""
    value = math.log(above.value / below.value)
    reach = math.hypot(*(math.log((e.high or e.value) / e.value) for e in (above, below)))
    return Estimate(value=math.exp(value), low=math.exp(value - reach), high=math.exp(value + reach), unit="pace of negatives over pace of positives, held-out / training",
                    n=above.n)
