"""Whether the training loss jumped, broke or rose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import number, percent
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stats.series import Series, SeriesLine
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

LOSS = Series(name="loss/train")
FEWEST_STEPS, WINDOW, SHORTEST = 30, 50, 20
STAYS_UP, ISOLATED, ISOLATED_LINEAR = 8.0, 15.0, 20.0
"""Robust deviations: of two in three sampled steps, and of one alone (on the log scale, and where losses are not all positive)."""
LEVEL, RISE = 15, 0.10
"""The level of the loss is the median of so many sampled steps; a rise of so much is worth a word."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Anomalies:
    """What a series of finite losses shows.

    Args:
        z: Robust deviations of each loss from those before, shape (steps - SHORTEST,).
        jumps: Positions where the loss jumped and stayed up, ascending.
        alone: Positions of losses far out for one sampled step.
        rise: Last level over the lowest level before, less 1; 0 where it is not beyond noise.
        since: Position from which on the level is up, or None.
        above_start: Whether the last level is also surely above the first losses.
    """

    z: Floats
    jumps: NDArray[np.int64]
    alone: NDArray[np.int64]
    rise: float
    since: int | None
    above_start: bool

    @property
    def verdict(self) -> Verdict:
        """FAIL for a jump that stays, two far ones or an end above the start, WARN for one far loss or a rise."""
        if len(self.jumps) or len(self.alone) >= 2 or (self.since is not None and self.above_start):
            return Verdict.FAIL
        return Verdict.WARN if len(self.alone) or self.since is not None else Verdict.PASS


def recorded_loss(target: Tally) -> SeriesLine:
    """The training loss by step.

    Raises:
        Unavailable: None was recorded.
    """
    line: SeriesLine | None = target.get_summary(LOSS).line()
    if line is None or not len(line.steps):
        raise Unavailable("no training loss was recorded", hint="observer.record('loss/train', loss)")
    return line


class LossAnomaly(Diagnostic):
    """Did the training loss jump, rise, or become NaN?

    z_t = (log loss_t - median of 20 sampled steps before) / noise, the noise from differences of neighbours among 50 before; the level is
    the median of 15.
    """

    code = "training.loss_anomaly"
    question = "Did the training loss jump or break?"
    sources = ("Leys et al. 2013, Detecting Outliers: Use Absolute Deviation Around the Median",)

    def needs(self, scope: Scope) -> Needs:
        scope.require_target(*LOSS.columns, why="no training steps were recorded")
        return Needs.of(target=[LOSS])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:  # noqa: ARG002 - the interface's
        line = recorded_loss(target)
        steps, losses = line.steps, line.values
        n = len(steps)
        broken = np.flatnonzero(~np.isfinite(losses))
        if len(broken):
            at = int(steps[broken[0]])
            yield self._finding(Verdict.FAIL, f"The training loss is NaN or infinite at {len(broken):,} of {n:,} sampled steps, first at step {at:,}.",
                                Estimate(value=float(len(broken)), unit="steps without a finite loss", n=n, of="steps"), at, steps, losses, limit=0.0)
            return
        if n < FEWEST_STEPS:
            raise Unavailable(f"only {n} steps were sampled, {FEWEST_STEPS} are needed", hint="observe more often (every=...)")
        found = find_anomalies(losses)
        worst = SHORTEST + int(np.argmax(found.z))
        highest = Estimate(value=float(found.z.max()), unit="robust deviations", n=n, of="steps")
        out = np.union1d(found.jumps, found.alone)
        if len(out):
            at = int(steps[out[0]])
            stays = "and stayed up" if len(found.jumps) else "for a moment"
            claim = (f"The training loss jumped {stays}, first at step {at:,}: {number(float(losses[worst]))} at the highest, {number(highest.value, 0)} robust "
                     f"deviations above the steps before ({n:,} sampled steps).")
            yield self._finding(found.verdict, claim, highest, at, steps, losses, limit=STAYS_UP if len(found.jumps) else ISOLATED)
        elif found.since is not None:
            at = int(steps[found.since])
            where = "above where it began" if found.above_start else "but not above where it began"
            claim = (f"The training loss rose: from step {at:,} on it is up, at the end {percent(found.rise)} above its lowest level and {where} "
                     f"({n:,} sampled steps).")
            rise = Estimate(value=found.rise, unit="rise of the loss above its lowest level", n=n, of="steps")
            yield self._finding(found.verdict, claim, rise, at, steps, losses, limit=RISE)
        else:
            claim = (f"The training loss never jumped and did not rise: at most {number(highest.value, 1)} robust deviations above the steps before "
                     f"({n:,} sampled steps).")
            yield self._finding(Verdict.PASS, claim, highest, None, steps, losses, limit=STAYS_UP)

    def _finding(self, verdict: Verdict, claim: str, estimate: Estimate, at: int | None, steps: NDArray[np.int64], losses: Floats, *,
                 limit: float) -> Finding:
        line = Line(name="training loss", x=tuple(map(float, steps)), y=tuple(map(float, np.where(np.isfinite(losses), losses, np.nan))))
        return Finding(
            code=self.code, verdict=verdict, claim=claim, estimate=estimate, limit=limit,
            place=Place() if at is None else Place(kind="step", name=str(at)),
            threshold=f"FAIL on NaN, on two of three sampled steps above {STAYS_UP:.0f} robust deviations, two anywhere above {ISOLATED:.0f}, or an end above "
                      f"the start; WARN on one step above {ISOLATED:.0f}, or an end surely more than {RISE:.0%} above the lowest level",
            meaning="A jump means that the update before it did harm; NaN means that nothing after it was learned.",
            causes=("a learning rate that is too high", "rows with extreme values or wrong labels", "a change of the data at that step"),
            remedies=(Remedy(code="lower_learning_rate", text="Lower the learning rate, or warm it up."),
                      Remedy(code="clip_gradients", text="Clip gradients."),
                      Remedy(code="clean_numeric_fields", text="Bound or log-scale numeric fields; look at the rows of that step.")),
            evidence=(Curve(title="Did the training loss jump?", x_title="step", y_title="loss", lines=(line,),
                            marks=() if at is None else ((float(at), "first seen"),)),), sources=self.sources)


def find_anomalies(losses: Floats) -> Anomalies:
    """Jumps and rises of at least FEWEST_STEPS finite losses.

    The log scale is used where all losses are positive: losses of batches are skewed to the right, and a loss that falls by
    orders of magnitude keeps its noise in proportion. One far loss can be a hard batch; a bad update leaves the loss up at the
    next look too, which noise, however heavy its tail, seldom does.
    """
    positive = bool((losses > 0).all())
    values = np.log(losses) if positive else losses
    middle, spread = _before(values)
    spread = np.maximum(spread, 1e-3 * (1.0 if positive else np.abs(middle)))
    z = (values[SHORTEST:] - middle) / np.maximum(spread, 1e-12)
    out = z > STAYS_UP
    soon = np.append(out[1:], False) | np.append(out[2:], [False, False])
    rise, since, above = _rise(losses, positive=positive)
    return Anomalies(z=z, jumps=SHORTEST + np.flatnonzero(out & soon),
                     alone=SHORTEST + np.flatnonzero(z > (ISOLATED if positive else ISOLATED_LINEAR)), rise=rise, since=since, above_start=above)


def _before(values: Floats) -> tuple[Floats, Floats]:
    """Median of the SHORTEST values before each value from SHORTEST on, and the noise about the trend of up to WINDOW before.

    Noise is 1.4826 times the median size of the differences between neighbours over sqrt(2): a falling loss does not widen it.
    """
    middle = np.median(sliding_window_view(values[:-1], SHORTEST), axis=1)
    jumps = np.concatenate([np.full(WINDOW - SHORTEST + 1, np.nan), np.abs(np.diff(values[:-1]))])
    return middle, 1.4826 / np.sqrt(2) * np.nanmedian(sliding_window_view(jumps, WINDOW), axis=1)


def _rise(losses: Floats, *, positive: bool) -> tuple[float, int | None, bool]:
    """(rise, since, above the start): whether the level ends above its lowest by more than noise and RISE.

    The noise of a level is that of a median of LEVEL values, 1.2533 deviations / sqrt(LEVEL); six of them for a difference chosen
    by looking for the lowest.
    """
    levels = np.median(sliding_window_view(losses, LEVEL), axis=1)
    noise = 1.4826 * float(np.median(np.abs(np.diff(losses)))) / np.sqrt(2) * 1.2533 / np.sqrt(LEVEL)
    lowest = np.minimum.accumulate(levels)
    least = 6 * noise
    up = levels - lowest > np.maximum(least, RISE * np.abs(lowest))
    if not up[-1]:
        return 0.0, None, False
    since = int(len(up) - np.argmin(up[::-1])) if not up.all() else 0
    base = abs(float(lowest[-1])) if positive else max(abs(float(lowest[-1])), 1e-12)
    start = float(np.median(losses[:5]))
    return float(levels[-1] - lowest[-1]) / base, since + LEVEL - 1, bool(levels[-1] - start > max(least, RISE * abs(start)))
