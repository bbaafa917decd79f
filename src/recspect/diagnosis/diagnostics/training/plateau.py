"""Whether the training loss stood still from the first step to the last, and since when it does."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import number, percent
from recspect.diagnosis.diagnostics.training.loss_anomaly import FEWEST_STEPS, LOSS, recorded_loss
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

WARN = 0.01
"""A training that lowers the loss by less than this share of it learned next to nothing."""
MOST = 400
"""Points that slopes are taken between: all pairs of them."""
PARTS, LATEST = 20, 0.9
"""Beginnings of the last stretch that are tried, and the latest of them: a tenth of the steps is too little to call a rest."""
SURE = 0.999
"""Coverage of the interval of each of them: twenty are looked at."""
EARLY, SURELY = 0.1, 3.0
"""Share of the steps that are the beginning, and errors by which the end must be below it to be surely lower."""

Floats = NDArray[np.float64]


class Plateau(Diagnostic):
    """Theil and Sen's slope of the loss over the steps, with Sen's interval, as the fall from the first step to the last over the loss at the start.

    The slope over ever later stretches says since when the loss stands still: from the earliest stretch on whose interval of the slope holds 0.
    """

    code = "training.plateau"
    question = "Did the training loss fall, and since when does it stand still?"
    sources = ("Theil 1950, A Rank-Invariant Method of Linear and Polynomial Regression Analysis",
               "Sen 1968, Estimates of the Regression Coefficient Based on Kendall's Tau (interval)")

    def needs(self, scope: Scope) -> Needs:
        scope.require_target(*LOSS.columns, why="no training steps were recorded")
        return Needs.of(target=[LOSS])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:  # noqa: ARG002 - the interface's
        line = recorded_loss(target)
        steps, losses = line.steps.astype(np.float64), line.values
        if len(steps) < FEWEST_STEPS:
            raise Unavailable(f"only {len(steps)} steps were sampled, {FEWEST_STEPS} are needed", hint="observe more often (every=...)")
        if not np.isfinite(losses).all():
            raise Unavailable("the loss is NaN or infinite at some steps", hint="see training.loss_anomaly")
        fall = fall_of(steps, losses)
        fell = _fell_at_first(losses)
        if not fell and fall.low is not None and fall.high is not None and fall.low <= 0 and fall.high > WARN:
            raise Unavailable(f"the loss of batches varies too much to say whether it fell: by {percent(fall.low)} to {percent(fall.high)} in {fall.n:,} sampled steps",
                              hint="sample more steps (observe every step), or larger batches")
        still = not fell and fall.surely_below(WARN)
        since = standstill(steps, losses)
        rest = 0.0 if since is None else float((steps[-1] - since) / (steps[-1] - steps[0]))
        change = f"{percent(abs(fall.value))} {'lower' if fall.value >= 0 else 'higher'} at the end than at the start by its slope ({percent(fall.low or 0.0)} to {percent(fall.high or 0.0)})"
        if still:
            claim = f"The training loss stood still from the first step to the last: {change}, {fall.n:,} sampled steps."
        else:
            standing = ("it falls to the end" if since is None else f"from step {since:,.0f} on, {percent(rest, 0)} of the training, no further fall can be told from chance")
            claim = f"The training loss fell, to {number(float(np.median(losses[-_part(losses):])))} from {number(float(np.median(losses[:_part(losses)])))}; {standing} ({fall.n:,} sampled steps)."
        curve = Curve(title="Does the training loss fall?", x_title="step", y_title="loss", lines=(Line(name="training loss", x=tuple(steps.tolist()), y=tuple(losses.tolist())),),
                      marks=() if since is None else ((since, "stands still"),))
        yield Finding(
            code=self.code, verdict=Verdict.WARN if still else Verdict.PASS, claim=claim, estimate=fall, limit=WARN, evidence=(curve,), sources=self.sources,
            threshold=f"WARN when the loss surely fell by less than {percent(WARN, 0)} of itself over the whole training",
            meaning="What was served is what was initialised, or a constant: the steps cost time and taught nothing." if still else
                    "Steps after the loss has come to rest cost time; whether they help or harm on new rows is the question of training.one_epoch.",
            causes=("labels that do not belong to their rows", "a learning rate far too low, or so high that units died at once", "a gradient that does not reach the weights",
                    "fields that say nothing about the label"),
            remedies=(Remedy(code="check_labels", text="Check that labels were joined to their own rows: a logistic regression on the same rows must beat the base rate."),
                      Remedy(code="tune_learning_rate", text="Try learning rates ten times larger and ten times smaller on a part of the rows."),
                      Remedy(code="check_gradients", text="Look at training.gradient_flow and training.dead_units: does every layer get a gradient?")))


def fall_of(steps: Floats, losses: Floats) -> Estimate:
    """By what share of the loss at the start the fitted line falls from the first step to the last, with a 95% interval; below 0 where it rises.

    Args:
        steps: Ascending, shape (steps,).
        losses: Finite, shape (steps,).
    """
    slope, low, high = theil_sen(steps, losses)
    base = max(abs(float(np.median(losses[:_part(losses)]))), 1e-12)
    over = float(steps[-1] - steps[0]) / base
    return Estimate(value=-slope * over, low=-high * over, high=-low * over, unit="fall of the loss / loss at the start", n=len(steps), of="sampled steps")


def theil_sen(x: Floats, y: Floats, *, level: float = 0.95) -> tuple[float, float, float]:
    """(slope, low, high): the median of the slopes between all pairs of points, and the ends of Sen's interval.

    More than `MOST` points are averaged in that many stretches first. As scipy.stats.theilslopes where no two values are equal.

    Args:
        x: Ascending and different, shape (points,), at least 2.
        y: Shape (points,).
        level: Coverage of the interval.
    """
    if len(x) > MOST:
        which = np.arange(len(x)) * MOST // len(x)
        counts = np.bincount(which)
        x, y = np.bincount(which, weights=x) / counts, np.bincount(which, weights=y) / counts
    first, second = np.triu_indices(len(x), 1)
    slopes = np.sort((y[second] - y[first]) / (x[second] - x[first]))
    n, pairs = len(x), len(slopes)
    reach = NormalDist().inv_cdf((1 + level) / 2) * np.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low, high = max(round((pairs - reach) / 2) - 1, 0), min(round((pairs + reach) / 2), pairs - 1)
    return float(np.median(slopes)), float(slopes[low]), float(slopes[high])


def standstill(steps: Floats, losses: Floats) -> float | None:
    """The step from which on the loss cannot be told from one that stands still; None where it falls to the end.

    The earliest of the stretches up to the last step over which, and over all shorter ones, the interval of the slope holds 0 or lies above it.
    """
    since = None
    for part in range(PARTS - 1, -1, -1):
        start = int(len(steps) * part / PARTS)
        if part / PARTS > LATEST or len(steps) - start < FEWEST_STEPS // 3:
            continue
        if theil_sen(steps[start:], losses[start:], level=SURE)[2] < 0:
            break
        since = float(steps[start])
    return since


def _part(losses: Floats) -> int:
    return max(5, int(EARLY * len(losses)))


def _fell_at_first(losses: Floats) -> bool:
    """Whether the later half is surely below the beginning: most of a fall can lie in the first steps, which a slope over all does not see."""
    noise = 1.4826 * float(np.median(np.abs(np.diff(losses)))) / np.sqrt(2)
    later = losses[len(losses) // 2:]
    for first in (3, _part(losses)):
        error = 1.2533 * noise * np.sqrt(1 / first + 1 / len(later))
        if float(np.median(losses[:first])) - float(np.median(later)) > max(SURELY * error, WARN * abs(float(np.median(later)))):
            return True
    return False
