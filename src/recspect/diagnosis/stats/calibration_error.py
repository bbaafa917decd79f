"""How far observed rates are from predicted ones over groups of like scores, and how far chance alone takes them.

Groups are (weight, mean score, share of positives) each, as `ScoreLabelSummary.reliability` (of equal weight) and `CalibrationHistogramSummary.groups`
(of equal width) give. All that is here takes rows as independent; where rows of one user are alike, chance takes rates further
(`predictions.calibration` asks for more there).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Groups = Sequence[tuple[float, float, float]]


def expected_calibration_error(groups: Groups) -> float:
    """Mean of |observed - predicted| over groups by weight, ECE; NaN for no groups. Biased upwards: see `calibration_error_by_chance`.

    Source: Naeini, Cooper and Hauskrecht 2015, Obtaining Well Calibrated Probabilities Using Bayesian Binning.
    """
    share, score, rate, _ = _columns(groups)
    return float((share * np.abs(rate - score)).sum()) if len(share) else math.nan


def calibration_error_by_chance(groups: Groups, level: float = 0.99) -> float:
    """What the expected calibration error exceeds with probability 1 - level when every score is right; NaN for no groups.

    |observed - predicted| of a group is then about half-normal with deviation sqrt(p (1 - p) / n); their weighted sum is taken as normal.
    """
    share, score, _, weight = _columns(groups)
    if not len(share):
        return math.nan
    deviation = np.sqrt(np.clip(score * (1 - score), 0, None) / weight)
    mean = float((share * deviation).sum()) * math.sqrt(2 / math.pi)
    spread = math.sqrt(float((share**2 * deviation**2).sum()) * (1 - 2 / math.pi))
    return mean + NormalDist().inv_cdf(level) * spread


def squared_calibration_error(groups: Groups, *, debiased: bool = True) -> float:
    """Mean of (observed - predicted)^2 over groups by weight, less what chance adds to it; NaN for no groups.

    Chance adds the variance of each observed rate, estimated by r (1 - r) / (n - 1): a model whose scores are right has 0 on average, so single
    values can be below 0. A group of one row tells nothing of its variance and counts 0.

    Source: Kumar, Liang and Ma 2019, Verified Uncertainty Calibration.
    """
    share, score, rate, weight = _columns(groups)
    if not len(share):
        return math.nan
    square = (rate - score) ** 2
    if debiased:
        square = np.where(weight > 1, square - rate * (1 - rate) / np.maximum(weight - 1, 1e-12), 0.0)
    return float((share * square).sum())


def consistency_band(groups: Groups, level: float = 0.95) -> list[tuple[float, float]]:
    """Between which observed shares of positives each group would lie with this probability if every score were right.

    By Wilson's score interval around the mean score, so never outside [0, 1].

    Source: Brocker and Smith 2007, Increasing the Reliability of Reliability Diagrams (consistency bars).
    """
    _, score, _, weight = _columns(groups)
    p, z = np.clip(score, 0, 1), NormalDist().inv_cdf((1 + level) / 2)
    middle = (p + z**2 / (2 * weight)) / (1 + z**2 / weight)
    reach = z / (1 + z**2 / weight) * np.sqrt(p * (1 - p) / weight + z**2 / (4 * weight**2))
    return list(zip(np.maximum(middle - reach, 0).tolist(), np.minimum(middle + reach, 1).tolist(), strict=True))


def _columns(groups: Groups) -> tuple[Floats, Floats, Floats, Floats]:
    """Share of all weight, mean score, observed rate and weight of the groups, shape (groups,) each."""
    weight, score, rate = (np.array([group[i] for group in groups], dtype=np.float64) for i in range(3))
    return weight / weight.sum() if len(weight) else weight, score, rate, weight
