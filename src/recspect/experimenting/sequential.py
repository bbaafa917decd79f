"""Intervals and p-values that stay valid however often one looks, in closed form.

The likelihood ratio of "the true effect is drawn from N(0, t)" against "it is m", at an estimate x with sampling variance v, is sqrt(v / (v + t)) exp(t (x - m)^2 / (2 v (v + t))).
Under m it is a nonnegative martingale of mean 1 as data come in, so by Ville's inequality it ever reaches 1 / alpha with chance at most alpha. The m that it has not ruled out
form an interval around x, of half width sqrt(v (v + t) / t (2 log(1 / alpha) + log((v + t) / v))). With v = s^2 / n and t = s^2 r^2 this is the mSPRT and its confidence sequence
s sqrt(2 (n r^2 + 1) / (n^2 r^2) log(sqrt(n r^2 + 1) / alpha)). The variance is estimated, so the guarantee is asymptotic: no look before 100 users per arm.

Sources: Robbins 1970; Johari, Koomen, Pekelis and Walsh 2017, Peeking at A/B Tests; Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024, Time-uniform central limit theory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from recspect.errors import UsageError
from recspect.experimenting.experiment import Floats

PLANNED_USERS = 10_000
"""Users at which sequential intervals are tightest where nobody planned: it may be any number, but not one that was chosen after a look at the data."""


def mixture_variance(planned_variance: float, alpha: float = 0.05) -> float:
    """The t that makes the interval about as narrow as it can be when the sampling variance is `planned_variance`.

    Raises:
        UsageError: A variance that is not above 0, or an alpha outside (0, 1).
    """
    if not planned_variance > 0 or not 0 < alpha < 1:
        raise UsageError(f"a planned variance of {planned_variance} and alpha of {alpha}", hint="a variance above 0 and an alpha between 0 and 1")
    size = 2 * math.log(1 / alpha)
    return planned_variance * (size + math.log1p(size))


def half_width(variance: ArrayLike, mixture: ArrayLike, alpha: float = 0.05) -> Any:
    """Half width of the always-valid interval, of the shape of `variance`.

    Args:
        variance: Sampling variance of the estimate at each look, above 0.
        mixture: `mixture_variance`, fixed before the first look.
        alpha: Chance that the truth is ever outside.
    """
    v, t = np.asarray(variance, np.float64), np.asarray(mixture, np.float64)
    return np.sqrt(v * (v + t) / t * (2 * math.log(1 / alpha) + np.log1p(t / v)))


def p_values(estimates: ArrayLike, variance: ArrayLike, mixture: ArrayLike) -> Floats:
    """Always-valid p-values of no effect along the last axis (looks in order): the smallest 1 / likelihood ratio so far, at most 1."""
    x, v, t = (np.asarray(values, np.float64) for values in (estimates, variance, mixture))
    log_ratio = 0.5 * (np.log(v) - np.log(v + t)) + t * x**2 / (2 * v * (v + t))
    found: Floats = np.exp(-np.maximum.accumulate(np.maximum(log_ratio, 0.0), axis=-1))
    return found


__all__ = ["PLANNED_USERS", "half_width", "mixture_variance", "p_values"]
