"""Whether the metric still foretells the north star: each north star, once it is final, against what its experiment's other metrics promised.

Given the short-term effects x_P, the observed north star is normal with mean T_NP T_PP^-1 x_P and variance T_NN - T_NP T_PP^-1 T_PN, T = L + X_e: the standardised surprise is N(0, 1),
shared noise included. Two cumulative sums watch it: one its mean, in both directions (a metric that promises too much), one its size (a metric that has come loose).
A sum S = max(0, S + u - k) that reaches h is an alarm; with k = 1/2 and h = 5 each side is falsely alarmed once in about 930 experiments (Page 1954; Siegmund 1985).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from recspect.experimenting.experiment import Corpus, Floats

SLACK, LIMIT = 0.5, 5.0
LARGEST = 3.0
"""A surprise counts for no more: one odd experiment is no change."""
SIZE_MEAN, SIZE_SPREAD = math.sqrt(2 / math.pi), math.sqrt(1 - 2 / math.pi)
"""Mean and standard deviation of |N(0, 1)|."""


@dataclass(frozen=True, kw_only=True)
class Surprises:
    """How each final north star differed from its prediction.

    Args:
        surprise: Standardised, N(0, 1) while the model holds, shape (experiments,); NaN where the north star is not final.
        above, below, size: Cumulative sums after each experiment: more than promised, less than promised, farther than promised.
        alarm: Place of the first experiment at which one of them reached the limit, or None.
        about: Which: "above", "below", "size", or "".
        widening: By how much the variance of predictions has to be widened to hold what was seen, at least 1.
        n: Number of surprises.
    """

    surprise: Floats
    above: Floats
    below: Floats
    size: Floats
    alarm: int | None
    about: str
    widening: float
    n: int


def surprises(corpus: Corpus, latent: Floats, *, slack: float = SLACK, limit: float = LIMIT) -> Surprises:
    """Standardised surprises in the order of the corpus, and their cumulative sums.

    Args:
        corpus: Experiments that the latent covariance was not fitted on, in order of their end.
        latent: Covariance of true effects, the north star first.
        slack: Shift per experiment, in standard deviations, that is not worth an alarm.
        limit: Sum at which the alarm is given.
    """
    found = np.array([_surprise(experiment.effects, latent + np.nan_to_num(experiment.noise), experiment.measured) for experiment in corpus]).reshape(-1)
    there = ~np.isnan(found)
    steps = np.clip(np.where(there, found, 0.0), -LARGEST, LARGEST)
    above, below = cusum(steps - np.where(there, slack, 0.0)), cusum(-steps - np.where(there, slack, 0.0))
    size = cusum(np.where(there, (np.abs(steps) - SIZE_MEAN) / SIZE_SPREAD - slack, 0.0))
    alarms = {name: int(np.argmax(sums >= limit)) for name, sums in (("above", above), ("below", below), ("size", size)) if (sums >= limit).any()}
    about = min(alarms, key=lambda name: alarms[name], default="")
    n = int(there.sum())
    ratio = float((found[there] ** 2).mean()) if n else 1.0
    return Surprises(surprise=found, above=above, below=below, size=size, alarm=alarms.get(about), about=about, widening=max(1.0, ratio), n=n)


def cusum(steps: Floats) -> Floats:
    """S_t = max(0, S_t-1 + step_t), from 0."""
    total, found = 0.0, np.empty(len(steps))
    for place, step in enumerate(steps):
        total = max(0.0, total + float(step))
        found[place] = total
    return found


def forgetting(experiments: int, effective: float) -> Floats:
    """Weights of experiments in order, the last one 1, so that they count for `effective` experiments in the long run: g^age with g = 1 - 1 / effective."""
    rate = 1 - 1 / max(effective, 1.0)
    found: Floats = rate ** np.arange(experiments - 1, -1, -1, dtype=np.float64)
    return found


def _surprise(effects: Floats, total: Floats, measured: np.ndarray) -> float:
    if not measured[0] or not measured[1:].any():
        return math.nan
    used = np.flatnonzero(measured[1:]) + 1
    gain = np.linalg.solve(total[np.ix_(used, used)], total[used, 0])
    variance = float(total[0, 0] - gain @ total[used, 0])
    return float(effects[0] - gain @ effects[used]) / math.sqrt(max(variance, 1e-300))


__all__ = ["Surprises", "cusum", "forgetting", "surprises"]
