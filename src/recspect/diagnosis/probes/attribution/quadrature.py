"""Rules for integrals over the path from 0 to 1: nodes, weights, and the cells that the weights cut the path into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.lookups import PIECEWISE_LINEAR
from recspect.errors import UsageError

RuleName = Literal["auto", "midpoint", "gauss_legendre", "trapezoid", "clenshaw_curtis"]

Floats = NDArray[np.float64]


def path_rule(name: RuleName, steps: int, functions: Sequence[str] = ()) -> tuple[Floats, Floats]:
    """Nodes in [0, 1] and weights that sum to 1, shape (steps,) each (trapezoid and Clenshaw-Curtis, which hold both ends: steps + 1).

    `auto` takes Gauss-Legendre for smooth networks and midpoints where the gradient jumps (ReLU and relatives), where
    Gauss-Legendre has no advantage as long as kinks are not averaged (see `recspect.diagnosis.probes.attribution.kinks`).

    Raises:
        UsageError: Unknown name, or fewer than 1 step.
    """
    if steps < 1:
        raise UsageError(f"integrated gradients need at least 1 step, got {steps}")
    if name == "auto":
        name = "midpoint" if set(functions) & PIECEWISE_LINEAR else "gauss_legendre"
    if name == "midpoint":
        return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)
    if name == "gauss_legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return (nodes + 1) / 2, weights / 2
    if name == "trapezoid":
        weights = np.full(steps + 1, 1 / steps)
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, steps + 1), weights
    if name == "clenshaw_curtis":
        return clenshaw_curtis(steps)
    raise UsageError(f"no rule {name!r}", hint="rules: auto, midpoint, gauss_legendre, trapezoid, clenshaw_curtis")


def clenshaw_curtis(intervals: int) -> tuple[Floats, Floats]:
    """The rule that is exact for polynomials of degree `intervals` at the extrema of a Chebyshev polynomial, both ends included.

    One interval is the trapezoid, two are Simpson's rule.

    Source: Clenshaw and Curtis 1960; Trefethen 2008, "Is Gauss Quadrature Better than Clenshaw-Curtis?".
    """
    if intervals == 1:
        return np.array([0.0, 1.0]), np.array([0.5, 0.5])
    angles = np.pi * np.arange(intervals + 1) / intervals
    frequencies = np.arange(1, intervals // 2 + 1)
    scale = np.where(2 * frequencies == intervals, 1.0, 2.0) / (4 * frequencies**2 - 1)
    weights = (1 - np.cos(2 * np.outer(angles, frequencies)) @ scale) * 2 / intervals
    weights[[0, -1]] /= 2
    return (1 - np.cos(angles)) / 2, weights / 2


def edges(weights: Floats) -> Floats:
    """Where the cells of a rule end: cell k has the length of weight k and holds node k; shape (steps + 1,).

    That every node lies in its cell is the separation theorem of Chebyshev, Markov and Stieltjes for Gauss-Legendre, and plain to see
    for midpoints and trapezoids; tests hold it for Clenshaw-Curtis.
    """
    ends = np.concatenate([[0.0], np.cumsum(weights)])
    ends[-1] = 1.0
    return ends
