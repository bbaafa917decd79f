"""The few figures that training itself needs; the engine's own judge with intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.ranks import auc_of_counts

Floats = NDArray[np.float64]


def auc(label: Floats, score: Floats) -> float:
    """Share of (positive, negative) pairs in which the positive scores higher, ties counting half; NaN without pairs.

    Args:
        label: 0 or 1, shape (rows,).
        score: Any increasing function of the probability, shape (rows,).
    """
    values, place = np.unique(score, return_inverse=True)
    positive = np.bincount(place, weights=label, minlength=len(values))
    negative = np.bincount(place, weights=1 - label, minlength=len(values))
    return auc_of_counts(positive, negative)


def log_loss(label: Floats, logit: Floats) -> float:
    """Mean cross-entropy in nats, from logits (log-probabilities would lose the tails)."""
    return float((np.logaddexp(0, logit) - label * logit).mean())


def squared_error(label: Floats, value: Floats) -> float:
    """Mean squared error, in the label's unit squared."""
    return float(((value - label) ** 2).mean())
