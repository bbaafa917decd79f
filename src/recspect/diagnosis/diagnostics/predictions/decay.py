"""Whether predictions get worse the longer ago the training rows ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.data.over_time import Stretches, blocks, stretches
from recspect.diagnosis.diagnostics.policy import between, number, require_classes
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.jackknife import estimate_from, t_quantile
from recspect.diagnosis.stats.time_blocks import LOSS, POSITIVE, ROWS
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

WARN = 0.03
"""Rise of the normalised entropy along the held-out time."""
LEAST, MOST = 6, 14
ENOUGH, OF_A_CLASS = 200, 30

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Course:
    """Normalised entropy along time.

    Args:
        age: Middle of each stretch since the end of training (or the first held-out row), days or rows, shape (stretches,).
        entropy, rows: Of each, shape (stretches,).
        rise: Along the line, from the first stretch to the last.
        slope: Per day, or per row.
    """

    age: Floats
    entropy: Floats
    rows: Floats
    rise: Estimate
    slope: float


class Decay(Diagnostic):
    """Normalised entropy of stretches of held-out time against the time since training rows ended: least squares, weighted by rows.

    The interval is the wider of two: users left out bucket by bucket, and stretches that scatter about the line (days differ by more than users explain).
    """

    code = "predictions.decay"
    question = "Do predictions get worse the longer ago the model was trained?"
    sources = ("He et al. 2014, Practical Lessons from Predicting Clicks on Ads at Facebook (loss by days since training)", "Kott 2001, The Delete-a-Group Jackknife (interval)")

    def needs(self, scope: Scope) -> Needs:
        """Outcomes and losses along time on the held-out side, and when the training rows end."""
        scope.require_binary()
        time = scope.require_role("time")
        scope.require_target("@score", "@label", "@cluster", time)
        there = {"@label", "@cluster", time} <= scope.reference
        return Needs.of(target=[blocks(scope, scope.target)], reference=[blocks(scope, scope.reference)] if there else [])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:
        """One finding."""
        stat = blocks(scope, scope.target)
        along = stretches(target.get_summary(stat), stat, most=MOST, days_from=LEAST)
        total = along.sums.sum((0, 1))
        require_classes(total[POSITIVE], total[ROWS], "the held-out rows")
        end = _end_of_training(reference, scope)
        course = _course(along, end)
        unit = "row" if along.ordinal else "day"
        verdict = Verdict.WARN if course.rise.surely_above(WARN) else Verdict.PASS
        since = "since training rows end" if end is not None else "since the first held-out row"
        numbers = (f"normalised entropy goes from {number(course.entropy[0], 3)} to {number(course.entropy[-1], 3)} over {len(course.age)} stretches of {along.length}; along the line by {between(course.rise, 3)}, "
                   f"{number(course.slope)} a {unit} ({course.rise.n:,} held-out rows)")
        claim = (f"Predictions get worse the longer ago training was: {numbers}." if verdict is Verdict.WARN else f"Predictions get no worse with time beyond chance: {numbers}.")
        curve = Curve(title="Do predictions get worse with time since training?", x_title=f"{unit}s {since}", y_title="normalised entropy",
                      lines=(Line(name="held-out rows", x=tuple(course.age.tolist()), y=tuple(course.entropy.tolist())), _line(course)), caption=f"{course.rise.n:,} held-out rows")
        yield Finding(
            code=self.code, verdict=verdict, claim=claim, estimate=course.rise, limit=WARN, evidence=(curve,), sources=self.sources,
            threshold=f"WARN when the line surely rises by more than {WARN:.2f} of normalised entropy from the first stretch to the last; never FAIL",
            meaning="What the model is worth on average over this time it is no longer worth at its end, which is where it serves.",
            causes=("tastes, items or prices move, and the model knows those of its training", "new users and items come that training never saw (see predictions.cold_start)",
                    "later rows are harder for any model"),
            remedies=(Remedy(code="train_more_often", text="Train more often; the slope says what a day is worth. Retrain on rows up to the middle of this time and compare on the rest, which tells age from difficulty."),
                      Remedy(code="add_content_fields", text="Add fields that new users and items have too."),
                      Remedy(code="recalibrate", text="Between trainings fit the intercept on the newest complete rows.")))


def _end_of_training(reference: Tally, scope: Scope) -> float | None:
    if not scope.reference:
        return None
    stat = blocks(scope, scope.reference)
    if not reference.has(stat):
        return None
    summary = reference.get_summary(stat)
    starts = summary.starts(stat.width)
    return float(starts[-1]) + stat.width * 2.0**summary.level if len(starts) else None


def _course(along: Stretches, end: float | None) -> _Course:
    """The line through stretches with enough rows of both classes.

    Raises:
        Unavailable: There are too few of them.
    """
    sums = along.sums.sum(1)
    fewer = np.minimum(sums[:, POSITIVE], sums[:, ROWS] - sums[:, POSITIVE])
    used = (sums[:, ROWS] >= ENOUGH) & (fewer >= OF_A_CLASS)
    if used.sum() < LEAST:
        raise Unavailable(f"{int(used.sum())} stretches of held-out time have {ENOUGH} rows and {OF_A_CLASS} of each class; {LEAST} are needed", hint="give rows of a longer time")
    parts = along.sums[used]
    day = 1.0 if along.ordinal else 86_400.0
    start = float(along.starts[0]) if end is None or end > float(along.starts[-1]) else end
    age = (along.starts[used] + along.width / 2 - start) / day
    rows = parts[..., ROWS].sum(1)
    whole = _entropy(parts.sum(1))
    slope = _slope(age, whole, rows)
    held = parts[..., ROWS].sum(0) > 0
    without = _entropy(parts.sum(1, keepdims=True) - parts)[:, held]  # shape (stretches, buckets)
    span = float(age[-1] - age[0])
    users = estimate_from(slope * span, np.array([_slope(age, one, rows) for one in without.T]) * span, unit="rise of normalised entropy along the held-out time", n=int(rows.sum()))
    off = whole - np.average(whole, weights=rows) - slope * (age - np.average(age, weights=rows))
    freedom = len(age) - 2
    spread = float(np.sqrt(rows @ off**2 / rows.sum() * len(age) / freedom / (len(age) * np.average((age - np.average(age, weights=rows)) ** 2, weights=rows))))
    reach = max(users.error or np.inf, t_quantile(0.95, freedom) * spread * span)
    rise = Estimate(value=users.value, low=users.value - reach, high=users.value + reach, unit=users.unit, n=users.n) if np.isfinite(reach) else users
    return _Course(age=age, entropy=whole, rows=rows, rise=rise, slope=slope)


def _slope(x: Floats, y: Floats, weight: Floats) -> float:
    off = weight * (x - np.average(x, weights=weight))
    return float(off @ y / (off @ x))


def _entropy(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        b = sums[..., POSITIVE] / sums[..., ROWS]
        found: Floats = sums[..., LOSS] / sums[..., ROWS] / -(b * np.log(b) + (1 - b) * np.log(1 - b))
    return found


def _line(course: _Course) -> Line:
    y = float(np.average(course.entropy, weights=course.rows)) + course.slope * (course.age - np.average(course.age, weights=course.rows))
    return Line(name="line", x=tuple(course.age.tolist()), y=tuple(y.tolist()), role="reference")
