"""How many users an experiment needs, what it can detect, and how long it takes.

A guardrail is tested for non-inferiority at a one-sided level that is not corrected, but every one of G guardrails and the success metric must come out right together: each is given
the power 1 - beta / (G + 1), so that all of them hold with power 1 - beta. Success metrics share alpha. Source: Schultzberg, Ankargren and Frånberg 2024, Risk-aware product decisions
in A/B tests with multiple metrics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from recspect.errors import UsageError
from recspect.experimenting.sequential import half_width, mixture_variance

NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True)
class Design:
    """What an experiment is to show.

    Args:
        alpha: Chance of a false success over all success metrics and treatments, two-sided; of a false non-inferiority per guardrail, one-sided.
        power: Chance that a true effect of the wanted size leads to a decision to ship.
        successes: Success metrics.
        guardrails: Guardrails.
        treatments: Arms beside control.
        share: Share of all users in each treatment; None for equal arms.
        sequential: Whether it may be looked at all the time.
    """

    alpha: float = 0.05
    power: float = 0.8
    successes: int = 1
    guardrails: int = 0
    treatments: int = 1
    share: float | None = None
    sequential: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5 or not 0.5 <= self.power < 1:
            raise UsageError(f"alpha is {self.alpha:g} and power is {self.power:g}", hint="such as 0.05 and 0.8")
        if self.successes < 1 or self.guardrails < 0 or self.treatments < 1:
            raise UsageError(f"{self.successes} success metrics, {self.guardrails} guardrails, {self.treatments} treatments", hint="at least one success metric and one treatment")
        if self.share is not None and not 0 < self.share * self.treatments < 1:
            raise UsageError(f"{self.treatments} treatments with {self.share:g} of the users each", hint="what is left of 1 is control's")

    @property
    def own_power(self) -> float:
        """Power of each single test."""
        return 1 - (1 - self.power) / (self.guardrails + 1)

    @property
    def own_alpha(self) -> float:
        """Two-sided level of each single success test."""
        return self.alpha / (self.successes * self.treatments)

    @property
    def dilution(self) -> float:
        """Sampling variance of a difference is this times the variance of a user over all users."""
        treatment = self.share if self.share is not None else 1 / (self.treatments + 1)
        return 1 / treatment + 1 / (1 - self.treatments * treatment)


def users_needed(variance: float, effect: float, design: Design, *, guardrail: bool = False) -> int:
    """Users of all arms together.

    Args:
        variance: Of the metric of one user, what CUPED saves taken off.
        effect: The true effect to detect; for a guardrail the margin, in the metric's unit.
        design: See `Design`.
        guardrail: Whether non-inferiority is to be shown, at a true effect of 0.

    Raises:
        UsageError: A variance or effect of 0.
    """
    if not variance > 0 or not effect:
        raise UsageError(f"a variance of {variance:g} and an effect of {effect:g}", hint="both differ from 0")
    unit, size = variance * design.dilution, abs(effect)
    reach = _quantile(design, guardrail=guardrail) + NORMAL.inv_cdf(design.own_power)
    fixed = unit * (reach / size) ** 2
    if not design.sequential:
        return math.ceil(fixed)
    low, high = fixed / 4, fixed * 64
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _sequential_reach(unit / middle, design, guardrail=guardrail) <= size else (middle, high)
    return math.ceil(high)


def effect_detectable(variance: float, users: float, design: Design, *, guardrail: bool = False) -> float:
    """The smallest true effect that so many users (of all arms together) show with the wanted power, in the metric's unit."""
    if not variance > 0 or not users > 0:
        raise UsageError(f"a variance of {variance:g} and {users:g} users", hint="both above 0")
    unit = variance * design.dilution / users
    if design.sequential:
        return _sequential_reach(unit, design, guardrail=guardrail)
    return math.sqrt(unit) * (_quantile(design, guardrail=guardrail) + NORMAL.inv_cdf(design.own_power))


def power_at(variance: float, users: float, effect: float, design: Design) -> float:
    """Chance that a true effect is found significant with the right sign, with so many users, looked at once."""
    error = math.sqrt(variance * design.dilution / users)
    return NORMAL.cdf(abs(effect) / error - _quantile(design, guardrail=False))


def _quantile(design: Design, *, guardrail: bool) -> float:
    return NORMAL.inv_cdf(1 - design.alpha) if guardrail else NORMAL.inv_cdf(1 - design.own_alpha / 2)


def _sequential_reach(variance: float, design: Design, *, guardrail: bool) -> float:
    """Effect that the last look finds with the wanted power; earlier looks only add to it."""
    alpha = design.alpha if guardrail else design.own_alpha
    return float(half_width(variance, mixture_variance(variance, alpha), alpha)) + NORMAL.inv_cdf(design.own_power) * math.sqrt(variance)


__all__ = ["Design", "effect_detectable", "power_at", "users_needed"]
