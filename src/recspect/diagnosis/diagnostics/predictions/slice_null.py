"""How far off every slice is, and how likely by chance the furthest of all of them: signs of whole buckets of users are flipped.

A residual is what is too much in a slice over its size, sum over rows of (error - ratio x size) / size of the slice, with the ratio of the rows that are not in question.
Where nothing is wrong with a slice its residuals, summed by bucket of users, are as likely above 0 as below; so the whole search is done again many times
with the sign of each bucket drawn anew, for all slices at once, and the furthest slice is held against the furthest slices of these draws. That slices overlap,
and that rows of one user depend on each other, is then in the null as it is in the data.

Shapes: M slices, G buckets, R draws.

Sources: Westfall and Young 1993, Resampling-Based Multiple Testing (the largest statistic); Cameron, Gelbach and Miller 2008 (signs of whole clusters).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.stats.slice_sums import (
    LIST_LOSS,
    LIST_PROMISED,
    LOSS,
    POSITIVE,
    PREDICTED,
    PROMISED,
    ROWS,
    VARIANCE,
)

Floats = NDArray[np.float64]
DRAWS = 400
SHARES = {1: 0.4, 2: 0.4, 3: 0.2}
"""Share of the chance of a false alarm given to slices of one, two and three fields, however many there are of each."""
BELIEVED = 0.1
_CHUNK = 2048


@dataclass(frozen=True)
class Measure:
    """What may be too much.

    Args:
        name: `rate`, `loss` or `lists`.
        error, size: Places among the sums.
        both_ways: Whether too little is wrong too.
        minimum: Smallest share by which it must be off.
        part: Share of the chance of a false alarm given to it.
    """

    name: str
    error: int
    size: int
    both_ways: bool
    minimum: float
    part: float


RATE = Measure("rate", POSITIVE, PREDICTED, True, 0.10, 0.6)
LOSS_OVER_PROMISED = Measure("loss", LOSS, PROMISED, False, 0.10, 0.3)
LISTS = Measure("lists", LIST_LOSS, LIST_PROMISED, False, 0.10, 0.1)


def distances(measure: Measure, sums: Floats, usual: Floats) -> tuple[Floats, Floats]:
    """How far each slice is off in standard deviations (normal), and by what share, shape [M] each; NaN where that cannot be said.

    Args:
        measure: Of what.
        sums: Of the slices, shape [M, G, figures].
        usual: Of the rows that they are held against, shape [G, figures].
    """
    by_bucket, deviation, freedom, share = _residuals(measure, sums, usual)
    return _normal(by_bucket.sum(1), deviation, freedom), share


def furthest_by_chance(measure: Measure, sums: Floats, usual: Floats, *, seed: int = 0) -> Floats:
    """Of every draw of signs, how far the furthest slice is off, shape [R]; empty where no slice can be judged."""
    by_bucket, deviation, freedom, _ = _residuals(measure, sums, usual)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (sums.shape[1], DRAWS))
    known = np.flatnonzero(np.isfinite(deviation) & (deviation > 0) & (freedom >= 1))
    if not len(known):
        return np.zeros(0)
    most = np.full(DRAWS, -np.inf)
    for start in range(0, len(known), _CHUNK):
        rows = known[start:start + _CHUNK]
        z = _normal(by_bucket[rows] @ signs, deviation[rows, None], freedom[rows, None])
        most = np.maximum(most, np.nanmax(np.abs(z) if measure.both_ways else z, axis=0, initial=-np.inf))
    return most


def chance_of_furthest(z: Floats, most: Floats) -> Floats:
    """Probability that the furthest of all slices is at least so far off where nothing is wrong, shape [M].

    Counted among the draws where at least ten are as far; beyond that the tail of a Gumbel distribution of the draws' mean and deviation, whose tail is heavier than that of
    the largest of normal numbers (Knijnenburg et al. 2009 extrapolate permutation p-values likewise).
    """
    if not len(most):
        return np.ones(len(z))
    scale = max(float(most.std()), 1e-6) * np.sqrt(6) / np.pi
    start = float(most.mean()) - 0.5772156649 * scale
    ordered = np.sort(most)
    as_far = len(most) - np.searchsorted(ordered, z)
    tail = -np.expm1(-np.exp(np.clip(-(z - start) / scale, -700, 50)))
    counted = (1 + as_far) / (1 + len(most))
    return np.asarray(np.where(np.isnan(z), 1.0, np.where(as_far >= 10, counted, np.minimum(np.maximum(tail, 1e-300), counted))))


def _residuals(measure: Measure, sums: Floats, usual: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Residuals by bucket [M, G], their deviation if signs are drawn [M], degrees of freedom [M], share by which a slice is off [M]."""
    error, size = sums[..., measure.error], sums[..., measure.size]
    own, whole = size.sum(1, keepdims=True), usual[:, measure.size].sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = usual[:, measure.error].sum() / whole
        by_bucket = (error - ratio * size) / own - ((usual[:, measure.error] - ratio * usual[:, measure.size]) / whole)[None]
        share = error.sum(1) / own[:, 0] / ratio - 1
        if measure.both_ways:
            share = 1 / (1 + share) - 1  # predicted over observed
        deviation = np.sqrt(np.square(by_bucket).sum(1))
        if measure is RATE:
            deviation = np.maximum(deviation, _independent(sums, usual) / own[:, 0])
    freedom = np.maximum((sums[..., ROWS] > 0).sum(1) - 1, 0).astype(np.float64)
    return np.nan_to_num(by_bucket), deviation, freedom, share


def _independent(sums: Floats, usual: Floats) -> Floats:
    """Deviation of the number of positives if outcomes are independent given the row: few users can be alike by chance. From the scores where these are about right."""
    positive, rows = sums[..., POSITIVE].sum(1), sums[..., ROWS].sum(1)
    believed = abs(usual[:, PREDICTED].sum() / usual[:, POSITIVE].sum() - 1) <= BELIEVED
    variance = sums[..., VARIANCE].sum(1) if believed else positive * (1 - positive / rows)
    found: Floats = np.sqrt(np.maximum(variance, 0.0))
    return found


def _normal(total: Floats, deviation: Floats, freedom: Floats) -> Floats:
    """A sum over its deviation as Student's t (the mean taken out of the deviation), as a normal number of the same chance (Wallace 1959)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        own = total / deviation
        t2 = own**2 * freedom / np.maximum(freedom + 1 - own**2, 0.25)
        z = (8 * freedom + 1) / (8 * freedom + 3) * np.sqrt(freedom * np.log1p(t2 / freedom))
    return np.asarray(np.where(freedom >= 1, np.sign(own) * z, np.nan))
