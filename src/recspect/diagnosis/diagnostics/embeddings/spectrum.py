"""What the spectrum of a random table looks like, to compare a trained one with, and how heavy the tail of a spectrum is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.slice import ALL, Slice, Term
from recspect.diagnosis.stats.gram import Gram


def table_key(field: str, scope: Scope) -> tuple[Slice, Gram]:
    """What to add up of a field's table: the rows that training read, where that is known."""
    uses = f"@uses:{field}"
    return Slice((Term(uses, ">", "0"),)) if uses in scope.target else ALL, Gram(column=f"@embedding:{field}")


def gaussian_effective_rank(rows: int, width: int, *, points: int = 4000) -> float:
    """Centred effective rank expected of a rows x width table of independent normal numbers; NaN below two rows.

    By the Marchenko-Pastur law (1967) of the eigenvalues of a covariance matrix: with m = min(rows - 1, width) singular values s,
    erank = m E[s] exp(-E[s ln s] / E[s]). Within 3 % of simulations from 8 rows on.
    """
    if rows < 2 or width < 1:
        return float("nan")
    freedom = rows - 1
    small, large = min(freedom, width), max(freedom, width)
    ratio = small / large
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    angle = (np.arange(points) + 0.5) * np.pi / points  # eigenvalue = middle + half cos(angle): no singular ends
    eigenvalue = (low + high) / 2 + (high - low) / 2 * np.cos(angle)
    density = np.sin(angle) ** 2 / eigenvalue
    density /= density.sum()
    size = np.sqrt(eigenvalue)
    mean = float(density @ size)
    return float(small * mean * np.exp(-float(density @ (size * np.log(size))) / mean))


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """A power law p(x) ~ x^-exponent from `start` on.

    Args:
        exponent: More than 1; the smaller, the heavier the tail.
        error: Its standard error were the values independent: (exponent - 1) / sqrt(tail).
        start: Smallest value of the tail.
        tail: Values in the tail, the smallest included.
        distance: Largest difference of the tail's distribution function from the law's (Kolmogorov and Smirnov), 0 to 1.
    """

    exponent: float
    error: float
    start: float
    tail: int
    distance: float


def power_law(values: NDArray[np.float64]) -> PowerLaw | None:
    """The power law of the tail of positive values; None for fewer than two that differ.

    The exponent is the likeliest, 1 + n / sum ln(x / start), and the tail begins where the law is nearest to the data in Kolmogorov and Smirnov's distance. As in WeightWatcher
    0.7.7 for 20 and more values. Source: Clauset, Shalizi and Newman 2009, Power-Law Distributions in Empirical Data, section 3.
    """
    x = np.sort(values[values > 0])
    logs = np.log(x)
    best: PowerLaw | None = None
    for first in range(len(x) - 1):
        above = logs[first:] - logs[first]
        tail = len(above)
        if not above[-1] > 0:
            break  # all that are left are equal
        exponent = 1 + tail / float(above.sum())
        distance = float(np.abs(1 - np.exp(above * (1 - exponent)) - np.arange(tail) / tail).max())
        if best is None or distance < best.distance:
            best = PowerLaw(exponent=exponent, error=float((exponent - 1) / np.sqrt(tail)), start=float(x[first]), tail=tail, distance=distance)
    return best
