"""Whether to ship: what is read of every metric, and the rule that makes one decision of all of them.

Ship if at least one success metric is surely better (alpha shared by all success metrics and treatments), every guardrail is surely within its margin (one-sided, alpha not shared: all
of them must hold, so more of them make a false release less likely, not more), and no success metric is surely worse. Hold if something is surely worse, or no success metric
can be worth it any more. Else the data cannot say yet. Source: Schultzberg, Ankargren and Frånberg 2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np

from recspect.diagnosis.diagnostics.policy import ENOUGH_ROWS, percent, two_sided_p
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.finding import Verdict
from recspect.errors import UsageError
from recspect.experimenting.effects import Effects
from recspect.experimenting.metric import Metric
from recspect.experimenting.sequential import PLANNED_USERS, half_width, mixture_variance, p_values


class Action(StrEnum):
    """What to do with a treatment."""

    SHIP = "ship"
    HOLD = "hold"
    NEEDS_DATA = "needs data"

    @property
    def verdict(self) -> Verdict:
        """How a finding tells it."""
        return {Action.SHIP: Verdict.PASS, Action.HOLD: Verdict.FAIL, Action.NEEDS_DATA: Verdict.UNKNOWN}[self]


class State(StrEnum):
    """What is known of a metric: a success metric is better, worse, small or unclear, a guardrail holds, is broken or unclear."""

    BETTER = "better"
    WORSE = "worse"
    SMALL = "too small to matter"
    HOLDS = "within its margin"
    BROKEN = "beyond its margin"
    UNCLEAR = "unclear"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How sure one must be.

    Args:
        alpha: Chance of a false success over all success metrics and treatments (two-sided), and of a false non-inferiority per guardrail (one-sided).
        least: Smallest relative gain of a success metric that is worth shipping; 0: any.
        sequential: Whether intervals hold however often one looks.
        planned_users: Users of all arms at which sequential intervals are tightest; to be chosen before the first look.
    """

    alpha: float = 0.05
    least: float = 0.0
    sequential: bool = False
    planned_users: int = PLANNED_USERS

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5 or self.least < 0 or self.planned_users < 2 * ENOUGH_ROWS:
            raise UsageError(f"alpha is {self.alpha:g}, the least gain {self.least:g}, planned users {self.planned_users:,}",
                             hint=f"alpha such as 0.05, a gain of 0 or more, at least {2 * ENOUGH_ROWS} users")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One metric of one treatment.

    Args:
        metric: Which.
        arm: The treatment.
        estimate: Relative difference to control (the difference itself where control is about 0), with the interval that decides.
        state: What it says.
        p: Two-sided, of no difference; always valid where the rule is sequential.
        relative: Whether the estimate is relative.
        saved: Share of the variance that the covariate saved.
        control, treatment: Values.
        variance: Sampling variance of the log ratio, or of the difference.
    """

    metric: Metric
    arm: str
    estimate: Estimate
    state: State
    p: float
    relative: bool
    saved: float
    control: float
    treatment: float
    variance: float

    @property
    def text(self) -> str:
        """The number in words: "+1.2% (0.3% to 2.1%)"."""
        return in_words(self.estimate, relative=self.relative)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do with a treatment, and why: one sentence per metric that speaks for it."""

    arm: str
    action: Action
    reasons: tuple[str, ...]


def in_words(estimate: Estimate, *, relative: bool) -> str:
    """A difference with its interval, as per cent where it is relative."""
    if not relative:
        return f"{estimate.value:+.3g} ({estimate.low:+.3g} to {estimate.high:+.3g})" if estimate.has_interval else f"{estimate.value:+.3g}"
    size = 100 * (estimate.error or abs(estimate.value) / 10 or 0.01)
    digits = max(0, min(4, 1 - math.floor(math.log10(size)))) if size > 0 else 1
    value, low, high = (100 * (end or 0.0) for end in (estimate.value, estimate.low, estimate.high))
    return f"{value:+.{digits}f}% ({low:+.{digits}f}% to {high:+.{digits}f}%)" if estimate.has_interval else f"{value:+.{digits}f}%"


def readings(found: Effects, arm: str, rule: Rule, *, treatments: int = 1, of: str = "users") -> tuple[Reading, ...]:
    """What every metric of a treatment says.

    Args:
        found: Its effects.
        arm: Its name.
        rule: See `Rule`.
        treatments: How many there are in the experiment.
        of: What its users are called.
    """
    successes = max(1, sum(not metric.guardrail for metric in found.metrics))
    logs, log_variance = found.log_ratios, np.diag(found.log_noise)
    differences, variance = found.differences, np.diag(found.noise)
    read = []
    for place, metric in enumerate(found.metrics):
        relative = bool(np.isfinite(logs[place]))
        value, spread = (float(logs[place]), float(log_variance[place])) if relative else (float(differences[place]), float(variance[place]))
        spread = max(spread, 1e-300)
        # One side of a fixed interval misses with half its chance; of a sequential one all that is known is that both together do not miss more often.
        share = rule.alpha * (1 if rule.sequential else 2) if metric.guardrail else rule.alpha / (successes * treatments)
        low, high, p = _interval(value, spread, share, sum(found.users), rule)
        loose_low, loose_high, _ = _interval(value, spread, rule.alpha, sum(found.users), rule)
        if relative:
            value, low, high, loose_low, loose_high = (math.expm1(end) for end in (value, low, high, loose_low, loose_high))
        estimate = Estimate(value=value, low=low, high=high, n=sum(found.users), of=of, level=1 - share,
                            unit=f"relative difference of {metric.name}" if relative else f"difference of {metric.name}")
        read.append(Reading(metric=metric, arm=arm, estimate=estimate, p=p, relative=relative, saved=float(found.saved[place]), control=float(found.control[place]),
                            treatment=float(found.treatment[place]), variance=spread,
                            state=_state(metric, (low, high), (loose_low, loose_high), rule.least, relative=relative)))
    return tuple(read)


def _interval(value: float, variance: float, alpha: float, users: int, rule: Rule) -> tuple[float, float, float]:
    """Ends of a two-sided interval that misses with chance `alpha`, and the p-value."""
    if rule.sequential:
        mixture = mixture_variance(variance * users / rule.planned_users, alpha)
        reach = float(half_width(variance, mixture, alpha))
        return value - reach, value + reach, float(p_values([value], [variance], mixture)[0])
    error = math.sqrt(variance)
    reach = NormalDist().inv_cdf(1 - alpha / 2) * error
    return value - reach, value + reach, two_sided_p(value / error)


def _state(metric: Metric, ends: tuple[float, float], loose: tuple[float, float], least: float, *, relative: bool) -> State:
    """From the interval that decides, and for a loss of a success metric from one that is not corrected: harm is seen sooner than benefit."""
    low, high = sorted(metric.sign * end for end in ends)
    loose_high = max(metric.sign * end for end in loose)
    if metric.margin is not None:
        if not relative:
            return State.UNCLEAR
        return State.HOLDS if low > -metric.margin else State.BROKEN if high < -metric.margin else State.UNCLEAR
    if low > 0:
        return State.SMALL if relative and high < least else State.BETTER
    if loose_high < 0:
        return State.WORSE
    return State.SMALL if relative and least and loose_high < least else State.UNCLEAR


def decide(read: Sequence[Reading], rule: Rule) -> Decision:
    """One decision from all readings of a treatment, at least one, made with this rule."""
    successes = [one for one in read if not one.metric.guardrail]
    guardrails = [one for one in read if one.metric.guardrail]
    reasons = tuple(sentence(one) for one in read)
    harm = [one for one in read if one.state in (State.WORSE, State.BROKEN)]
    if harm:
        action = Action.HOLD
    elif any(one.state is State.BETTER for one in successes) and all(one.state is State.HOLDS for one in guardrails):
        action = Action.SHIP
    elif successes and all(one.state is State.SMALL for one in successes):
        action = Action.HOLD
    else:
        action = Action.NEEDS_DATA
    arm = read[0].arm
    missing = users_missing(read, rule) if action is Action.NEEDS_DATA else ""
    return Decision(arm=arm, action=action, reasons=(*reasons, missing) if missing else reasons)


def sentence(one: Reading) -> str:
    """What a reading says, with its number."""
    held = f"; margin {percent(one.metric.margin, 1)}" if one.metric.margin is not None else ""
    which = "less is better" if one.metric.lower_is_better else ""
    notes = "; ".join(filter(None, (f"{percent(one.estimate.level, 1)} interval", which)))
    if one.metric.guardrail and not one.relative:
        return f"guardrail {one.metric.name} cannot be judged: an arm is not surely above 0, so a relative margin means nothing ({one.text}; {one.estimate.basis})"
    return f"{'guardrail ' if one.metric.guardrail else ''}{one.metric.name} is {one.state}: {one.text}{held} ({notes}; {one.estimate.basis})"


def users_missing(read: Sequence[Reading], rule: Rule) -> str:
    """About how many users in all the unclear metrics need, if things stay as they are: guardrails to show no loss, success metrics to show `least`, or what was seen."""
    wanted: list[tuple[float, str]] = []
    for one in read:
        if one.state is not State.UNCLEAR or not one.relative:
            continue
        level = 1 - one.estimate.level
        reach = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(0.8)
        size = one.metric.margin if one.metric.margin is not None else rule.least or abs(one.estimate.value)
        if size:
            wanted.append((one.estimate.n * one.variance * (reach / size) ** 2 * (2 if rule.sequential else 1), one.metric.name))
    if not wanted:
        return ""
    users, name = max(wanted)
    if users > 1e12:
        return f"no number of users that there is would tell about {name}: it hardly differs"
    rounded = round(users, 1 - math.floor(math.log10(users)))
    return f"about {rounded:,.0f} users of both arms are needed for {name} (80% power; {'the margin' if any(one.metric.name == name and one.metric.guardrail for one in read) else 'the least gain that matters' if rule.least else 'the difference seen, which is a guess'})"


__all__ = ["Action", "Decision", "Reading", "Rule", "State", "decide", "in_words", "readings", "sentence", "users_missing"]
