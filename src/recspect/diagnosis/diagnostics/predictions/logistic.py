"""Logistic recalibration of scores from their bins: logit P(y) = a + c logit p."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Needs, Scope
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.jackknife import BucketedSummary
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.score_label import ScoreLabel, ScoreLabelSummary

Floats = NDArray[np.float64]
NEAREST = 1e-6
"""Scores nearer to 0 or 1 count as this near: a single row at exactly 0 would decide alone."""


def scores_of(scope: Scope) -> Bucketed:
    """The scores against the label, in buckets of users."""
    return scope.bucketed(ScoreLabel())


def scores_needed(scope: Scope) -> Needs:
    """The scores against the label, on training rows too where they are scored.

    Raises:
        Unavailable: There are no scores, or no 0/1 label.
    """
    scope.require_binary()
    scope.require_target("@score", "@label", "@cluster")
    stat = scores_of(scope)
    return Needs.of(target=[stat], reference=[stat] if set(stat.columns) <= scope.reference else [])


def slope_of(summary: BucketedSummary) -> Estimate:
    """The slope c with its interval over users."""
    return summary.estimate(lambda total: fit_line(total)[1], unit="slope of log odds", n=lambda total: total.count)


def logits_of(total: ScoreLabelSummary) -> tuple[Floats, Floats, Floats]:
    """Logit of the mean score, rows and positives of every score bin that holds rows."""
    weight = total.positives + total.negatives
    used = weight > 0
    p = np.clip(total.score_sums[used] / weight[used], NEAREST, 1 - NEAREST)
    return np.log(p) - np.log1p(-p), weight[used], total.positives[used]


def fit_line(total: ScoreLabelSummary) -> tuple[float, float]:
    """(a, c) of greatest likelihood, by Newton's method; NaN where scores do not vary or tell the classes apart without error."""
    x, n, y = logits_of(total)
    if len(x) < 2 or not 0 < y.sum() < n.sum():
        return np.nan, np.nan
    centre = float((n * x).sum() / n.sum())
    design = np.stack([np.ones(len(x)), x - centre])
    a, c = fit_offset(total) + centre, 1.0
    for _ in range(60):
        mu = _sigmoid(a + c * design[1])
        weights = n * mu * (1 - mu)
        information = (design * weights) @ design.T
        try:
            step = np.linalg.solve(information, design @ (y - n * mu))
        except np.linalg.LinAlgError:
            return np.nan, np.nan
        step *= min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        a, c = a + step[0], c + step[1]
        if np.abs(step).max() < 1e-10:
            return float(a - c * centre), float(c)
    return np.nan, np.nan


def fit_offset(total: ScoreLabelSummary) -> float:
    """The a of greatest likelihood with c = 1: the log of the factor by which true odds differ from predicted ones; NaN with one class."""
    x, n, y = logits_of(total)
    if not len(x) or not 0 < y.sum() < n.sum():
        return float("nan")
    low, high, offset = -60.0, 60.0, 0.0
    for _ in range(80):  # Newton's method, kept between two ends by halving
        mu = _sigmoid(x + offset)
        above, slope = (n * mu).sum() - y.sum(), (n * mu * (1 - mu)).sum()
        low, high = (offset, high) if above < 0 else (low, offset)
        newton = offset - above / slope if slope > 0 else np.inf
        after = newton if low < newton < high else (low + high) / 2
        if abs(after - offset) < 1e-13:
            break
        offset = float(after)
    return offset


def corrected_ratio(total: ScoreLabelSummary, offset: float) -> float:
    """Predicted over observed positives once the offset is added to every logit."""
    x, n, y = logits_of(total)
    return float((n * _sigmoid(x + offset)).sum() / y.sum()) if y.sum() else float("nan")


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)), dtype=np.float64)
