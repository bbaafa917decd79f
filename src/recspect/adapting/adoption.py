"""When a new metric replaces the one in use: not because it fits better, but because it decides better on experiments that it has not seen, and never in a leap.

Below some 60 past experiments a learnt metric is no better than a good guess (docs/adaptive-metrics.md has the figures), and A/A tests cannot tell: every fixed metric passes them. So the gate asks
for held-out value, and for evidence; a dwell time and a largest step per release keep the metric from following noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from recspect.adapting.held_out import Comparison
from recspect.errors import UsageError
from recspect.experimenting.experiment import Floats


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a change of the metric has to show.

    Args:
        least_experiments: Fewer past experiments with a final north star change nothing.
        up: The lower bound of the held-out gain must exceed this share of what the current metric earns.
        down: The current metric is retired when the upper bound of its gain over the fallback lies below minus this share of what the fallback earns.
        dwell_days: Days between two changes.
        step: Largest change per release: L1 distance of normalised weights, which is at most 2.
    """

    least_experiments: int = 50
    up: float = 0.02
    down: float = 0.01
    dwell_days: float = 28.0
    step: float = 0.25

    def __post_init__(self) -> None:
        if self.least_experiments < 2 or self.up < 0 or self.down < 0 or self.dwell_days < 0 or not 0 < self.step <= 2:
            raise UsageError(f"the gate asks for {self.least_experiments} experiments, {self.up} up, {self.down} down, {self.dwell_days} days, steps of {self.step}",
                             hint="at least 2 experiments, shares and days of 0 or more, a step above 0 and at most 2")


@dataclass(frozen=True)
class Verdict:
    """What the gate says.

    Args:
        passed: Whether the change may be made.
        reasons: One sentence per condition, each with its number; the failed ones begin with "no: ".
    """

    passed: bool
    reasons: tuple[str, ...]


def may_adopt(comparison: Comparison, gate: Gate, *, changed: datetime | None = None, now: datetime | None = None) -> Verdict:
    """Whether a new metric may replace the current one.

    Args:
        comparison: New against current on held-out experiments.
        gate: What is asked for.
        changed: When the current metric was adopted; None where it never was.
        now: The time to compare with; needed where `changed` is given.
    """
    bar = gate.up * abs(comparison.value_current)
    percent = f"{100 * comparison.level:.0f}%"
    conditions = [
        (comparison.experiments >= gate.least_experiments,
         f"{comparison.experiments} past experiments with a final north star, {gate.least_experiments} are asked for"),
        (comparison.low > bar,
         f"on held-out experiments it earns {comparison.gain:+.4g} per experiment more than the current metric (lower {percent} bound {comparison.low:+.4g}, above {bar:.4g} is asked for)"),
        (comparison.wrong_low <= 0,
         (f"among significant experiments it points the wrong way in {comparison.wrong_new:.1%}, the current metric in {comparison.wrong_current:.1%}"
          f" (lower {percent} bound of the difference {comparison.wrong_low:+.1%}, above 0 is a no)"))]
    if changed is not None and now is not None:
        days = (now - changed) / timedelta(days=1)
        conditions.append((days >= gate.dwell_days, f"the current metric has been in use for {days:.0f} days, {gate.dwell_days:.0f} are asked for"))
    return Verdict(all(fits for fits, _ in conditions), tuple(text if fits else f"no: {text}" for fits, text in conditions))


def must_retire(comparison: Comparison, gate: Gate) -> Verdict:
    """Whether the current metric does surely worse than the fallback (north star and guardrails).

    Args:
        comparison: The metric in use as new, the fallback as current.
        gate: What is asked for.
    """
    bar = -gate.down * abs(comparison.value_current)
    surely = comparison.experiments >= gate.least_experiments and comparison.high < bar
    text = f"against the north star alone it earns {comparison.gain:+.4g} per experiment (upper {100 * comparison.level:.0f}% bound {comparison.high:+.4g}, below {bar:.4g} retires it; {comparison.experiments} experiments)"
    return Verdict(surely, (text,))


def step_towards(current: Floats, wanted: Floats, step: float) -> tuple[Floats, float]:
    """Weights on the straight line from the current to the wanted ones, no farther than `step` in L1 distance.

    Both are per standard error of the usual experiment, absolute values summing to 1 (`weights.normalised`). Between weights of opposite signs the sum is less than 1, and is left so: scaled up
    again, a metric that has to turn round would never get past the middle. What a decision makes of them does not depend on their scale.

    Returns:
        The weights, and which share of the way was gone, in (0, 1].
    """
    distance = float(np.abs(wanted - current).sum())
    if distance <= step:
        return wanted, 1.0
    share = step / distance
    return current + share * (wanted - current), share


__all__ = ["Gate", "Verdict", "may_adopt", "must_retire", "step_towards"]
