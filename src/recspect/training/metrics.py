"""The few figures that training itself needs; the engine's own judge with intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def auc(label: Floats, score: Floats) -> float:
    """Share of (positive, negative) pairs in which the positive scores higher, ties counting half; NaN without pairs.

    Args:
        label: 0 or 1, shape (rows,).
        score: Any increasing function of the probability, shape (rows,).
    """
    positives = label.sum()
    negatives = len(label) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    values, place = np.unique(score, return_inverse=True)
    positive = np.bincount(place, weights=label, minlength=len(values))
    negative = np.bincount(place, weights=1 - label, minlength=len(values))
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (positives * negatives))


def log_loss(label: Floats, logit: Floats) -> float:
    """Mean cross-entropy in nats, from logits (log-probabilities would lose the tails)."""
    return float((np.logaddexp(0, logit) - label * logit).mean())


def squared_error(label: Floats, value: Floats) -> float:
    """Mean squared error, in the label's unit squared."""
    return float(((value - label) ** 2).mean())
