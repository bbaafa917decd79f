"""What was known when: readings and decisions after each look, and the first look at which one could have stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from recspect.diagnosis.evidence import Curve, Line
from recspect.errors import Unavailable
from recspect.experimenting.arms import Arms
from recspect.experimenting.deciding import Action, Decision, Reading, Rule, decide, readings
from recspect.experimenting.effects import effects
from recspect.experimenting.metric import Metric


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was known of a treatment at a look.

    Args:
        at: The look's value, such as days since the start.
        readings: One per metric.
        decision: What the rule would have said.
    """

    at: float
    readings: tuple[Reading, ...]
    decision: Decision


def looks(arms: Arms, metrics: Sequence[Metric], control: str, arm: str, rule: Rule) -> Iterator[Look]:
    """The looks in order, those with too few users left out."""
    for value, moments in arms.looks:
        if control not in moments or arm not in moments:
            continue
        try:
            found = effects(moments[control], moments[arm], arms.columns, metrics, joint=arms.joint)
        except Unavailable:
            continue
        read = readings(found, arm, rule, treatments=len(arms.moments) - 1, of=arms.of)
        yield Look(at=value, readings=read, decision=decide(read, rule))


def first_decision(arms: Arms, metrics: Sequence[Metric], control: str, arm: str, rule: Rule) -> Look | None:
    """The first look at which the rule said ship or hold; None where none did. Only with a sequential rule may one stop there."""
    return _first(looks(arms, metrics, control, arm, rule))


def _first(seen: Iterable[Look]) -> Look | None:
    return next((look for look in seen if look.decision.action is not Action.NEEDS_DATA), None)


def told(seen: Sequence[Look], arms: Arms, rule: Rule) -> str:
    """A sentence on when the decision on a treatment, of which these are the looks, could have been taken; empty where there is nothing to tell, or the intervals do not allow it."""
    if not rule.sequential or len(arms.looks) < 2:
        return ""
    first = _first(seen)
    if first is None:
        return f" None of {len(arms.looks)} looks would have decided."
    return f" The first look that decides is {first.at:g} of {arms.looks[-1][0]:g}: {first.decision.action}, with {first.readings[0].estimate.basis}."


def course(seen: Sequence[Look], metrics: Sequence[Metric], arm: str, rule: Rule) -> tuple[Curve, ...]:
    """Of every metric its interval after each look at the treatment."""
    found = []
    note = "always-valid intervals: one may stop at any look" if rule.sequential else "intervals for one look: stopping where they first leave 0 is wrong more often than they say"
    for place, metric in enumerate(metrics):
        points = [(look.at, 100 * one.estimate.value, 100 * (one.estimate.low or 0.0), 100 * (one.estimate.high or 0.0)) for look in seen for one in (look.readings[place],) if one.relative]
        if len(points) < 2:
            continue
        x, y, low, high = (tuple(values) for values in zip(*points, strict=True))
        found.append(Curve(title=f"When was the effect of {arm} on {metric.name} known?", x_title="look", y_title="% of control", stage="effects", caption=f"{note}; {len(points)} looks",
                           lines=(Line(name=arm, x=x, y=y, low=low, high=high), Line(name="no difference", x=(x[0], x[-1]), y=(0.0, 0.0), role="ideal"))))
    return tuple(found)


__all__ = ["Look", "course", "first_decision", "looks", "told"]
