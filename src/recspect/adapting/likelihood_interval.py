"""An interval for the correlation of true effects on two metrics, from effects with known noise: the values that the likelihood does not speak against.

Drawing launches again gives intervals that are too narrow near the ends and for few launches. Twice the logarithm of the ratio of likelihoods has about a chi-square distribution of one degree for far fewer launches,
and the interval cannot leave [-1, 1].

x = t + e, t ~ N(0, L) with deviations a, b and correlation r, e of known covariance; the likelihood of r is the largest over a and b.

Sources: Wilks 1938; Venzon and Moolgavkar 1988, A Method for Computing Profile-Likelihood-Based Confidence Intervals.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from recspect.experimenting.experiment import Floats

FARTHEST, STEP = 4.0, 0.125
"""Correlations are tried at tanh(z), z from -4 to 4 (.9993) in such steps; between them the likelihood is taken as a parabola."""
BEGIN, HALVINGS = 0.7, 10
"""Of the search over log a and log b: the first step, and how often it is halved."""


def correlation_interval(effects: Floats, noise: Floats, *, level: float = 0.9) -> tuple[float, float]:
    """The interval of the correlation of true effects.

    Args:
        effects: Of both metrics, shape (launches, 2).
        noise: Their known covariance, shape (launches, 2, 2).
        level: Coverage.

    Returns:
        Its ends, in [-1, 1]; an end that the likelihood does not speak against is -1 or 1.
    """
    scale = np.maximum(np.sqrt(np.mean(effects**2, 0)), 1e-150)
    x, spread = effects / scale, noise / np.outer(scale, scale)
    z = np.arange(-FARTHEST, FARTHEST + STEP / 2, STEP)
    fall = _profile(x, spread, np.tanh(z))
    fall -= fall.min()
    limit = NormalDist().inv_cdf((1 + level) / 2) ** 2 / 2
    best, ends = int(fall.argmin()), []
    for side in (-1, 1):
        place = best
        while 0 <= place < len(z) and fall[place] <= limit:
            place += side
        if not 0 <= place < len(z):
            ends.append(float(side))
            continue
        inner, outer = np.sqrt(fall[[place - side, place]])  # the root of a parabola is a line
        share = (np.sqrt(limit) - inner) / max(outer - inner, 1e-12)
        ends.append(float(np.tanh(z[place - side] + side * STEP * share)))
    return ends[0], ends[1]


def _profile(x: Floats, spread: Floats, correlation: Floats) -> Floats:
    """Least negative log likelihood over both deviations, shape (R,) for R correlations: a pattern search for all of them at once."""
    signal = np.maximum(1 - spread[:, [0, 1], [0, 1]].mean(0), 0.05)
    at = np.tile(np.log(signal) / 2, (len(correlation), 1))
    moves = np.array([(a, b) for a in (0, -1, 1) for b in (0, -1, 1)], dtype=np.float64)
    step, found = BEGIN, np.full(len(correlation), np.inf)
    for _ in range(HALVINGS):
        for _ in range(4):
            tried = at[:, None] + step * moves
            losses = _loss(np.exp(tried), correlation[:, None], x, spread)
            chosen = losses.argmin(1)
            found, at = losses.min(1), tried[np.arange(len(at)), chosen]
            if not chosen.any():
                break
        step /= 2
    return found


def _loss(deviations: Floats, correlation: Floats, x: Floats, spread: Floats) -> Floats:
    """Negative log likelihood, shape (R, moves)."""
    a, b = deviations[..., 0, None], deviations[..., 1, None]
    one, other, both = a * a + spread[:, 0, 0], b * b + spread[:, 1, 1], a * b * correlation[..., None] + spread[:, 0, 1]
    determinant = np.maximum(one * other - both**2, 1e-300)
    quadratic = other * x[:, 0] ** 2 - 2 * both * x[:, 0] * x[:, 1] + one * x[:, 1] ** 2
    losses: Floats = 0.5 * (np.log(determinant) + quadratic / determinant).sum(-1)
    return losses


__all__ = ["correlation_interval"]
