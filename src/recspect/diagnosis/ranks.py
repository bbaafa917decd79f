"""Ranks and their correlation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def ranks(values: ArrayLike) -> Floats:
    """Ranks from 1, ties get their mean, shape (n,)."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    found: Floats = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return found


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's, with mean ranks for ties, -1 to 1; NaN where all values of a side are equal."""
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length else float("nan")


def auc_of_counts(positives: Floats, negatives: Floats) -> float:
    """Share of (positive, negative) pairs in which the positive has the larger value, ties counting half, from the weight per distinct value.

    Args:
        positives, negatives: Shape (values,), values ascending.

    Returns:
        In [0, 1]; NaN without pairs.
    """
    pairs = positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs) if pairs else float("nan")


__all__ = ["auc_of_counts", "rank_correlation", "ranks"]
