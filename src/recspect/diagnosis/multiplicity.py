"""Many questions at once: how small a p-value must be, over the whole run, not to be chance.

Decision 6 (docs/decisions/0006-alarm-policy.md) says which checks count and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FALSE_DISCOVERIES = 0.05
"""Share of the run's null-calibrated alarms that may be chance."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison whose chance is known when nothing is wrong.

    Args:
        p_value: Probability of at least this difference when there is none, in [0, 1].
        effect: Size of the difference, 0 for none, in the unit of `minimum`.
        minimum: Smallest effect worth an alarm; with enough rows every difference is unlikely by chance.
    """

    p_value: float
    effect: float
    minimum: float

    @property
    def counted(self) -> float:
        """The p-value, or 1 where the effect is too small to be an alarm whatever its p-value.

        Small effects with tiny p-values would otherwise use up the false discoveries that are allowed: what is not reported is no
        discovery. As a p-value never gets smaller by this, the rate of false ones among those reported stays bounded.
        """
        return self.p_value if self.effect > self.minimum else 1.0


def adjusted(p: Sequence[float]) -> list[float]:
    """P-values adjusted for false discoveries (Benjamini and Hochberg 1995): the smallest rate at which each would be one."""
    values = np.asarray(p, np.float64)
    order = np.argsort(-values)
    ranks = np.arange(len(values), 0, -1)
    found = np.empty(len(values))
    found[order] = np.minimum.accumulate(np.minimum(values[order] * len(values) / ranks, 1.0))
    return [float(value) for value in found]


def p_limit(checks: Sequence[Check], *, level: float = FALSE_DISCOVERIES) -> float:
    """The largest p-value that is an alarm, over all checks of a run; 0 when none is.

    Benjamini and Hochberg 1995: the largest p with p <= level x rank / number of checks. Holds for independent checks and for
    such as are positively dependent (Benjamini and Yekutieli 2001).
    """
    p = np.sort([check.counted for check in checks])
    passing = np.flatnonzero(p <= level * np.arange(1, len(p) + 1) / max(len(p), 1))
    return float(p[passing[-1]]) if len(passing) else 0.0
