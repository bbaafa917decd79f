"""The chi-square distribution: how likely a value of at least some size is, and the value that is exceeded with some probability."""

from __future__ import annotations

import math
from statistics import NormalDist

_ENOUGH = 1e-15
_SMALLEST = 1e-300


def chi_square_tail(value: float, freedom: float) -> float:
    """Probability of a value of at least this size, to about 1e-12 of it; 1 below one degree of freedom.

    The regularised upper incomplete gamma function Q(freedom / 2, value / 2): its series below the mode, its continued fraction above (Abramowitz and Stegun 6.5.29 and
    6.5.31).

    Args:
        value: NaN gives NaN, a value below 0 counts as 0.
        freedom: Degrees of freedom; any number, as those of a sum of unequal parts are.
    """
    if math.isnan(value):
        return math.nan
    if freedom < 1 or value <= 0:
        return 1.0
    a, x = freedom / 2, value / 2
    if math.isinf(x):
        return 0.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    return max(0.0, 1.0 - scale * _series(a, x)) if x < a + 1 else scale * _fraction(a, x)


def chi_square_quantile(level: float, freedom: float) -> float:
    """What is exceeded with probability 1 - level: exact for one and two degrees of freedom, else by Wilson and Hilferty 1931, within 1.5%."""
    if freedom < 1:
        return 0.0
    if freedom == 1:
        return NormalDist().inv_cdf((1 + level) / 2) ** 2
    if freedom == 2:
        return -2 * math.log(1 - level)
    spread = 2 / (9 * freedom)
    return freedom * max(0.0, 1 - spread + NormalDist().inv_cdf(level) * math.sqrt(spread)) ** 3


def _series(a: float, x: float) -> float:
    """Sum over n of x^n / (a (a + 1) ... (a + n))."""
    term = total = 1 / a
    n = 0
    while term > _ENOUGH * total:
        n += 1
        term *= x / (a + n)
        total += term
    return total


def _fraction(a: float, x: float) -> float:
    """1 / (x + 1 - a - 1 (1 - a) / (x + 3 - a - ...)) by Lentz's recurrence."""
    b = x + 1 - a
    c, d = 1 / _SMALLEST, 1 / b
    found = d
    for n in range(1, 10_000):
        numerator = n * (a - n)
        b += 2
        d = 1 / (_kept(numerator * d + b))
        c = _kept(b + numerator / c)
        found *= c * d
        if abs(c * d - 1) < _ENOUGH:
            break
    return found


def _kept(value: float) -> float:
    """Away from 0, which is divided by."""
    return value if abs(value) > _SMALLEST else _SMALLEST


__all__ = ["chi_square_quantile", "chi_square_tail"]
