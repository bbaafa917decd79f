"""Distributions of tensors of any size in equal bins."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

HISTOGRAM_VALUES = 65_536
"""A histogram looks at most at so many evenly spaced numbers of a tensor."""


def histogram(values: Tensor, bins: int) -> tuple[list[float], list[int]]:
    """Edges (bins + 1) and counts (bins) of the finite values; two empty lists where there are none.

    Of a large tensor, evenly spaced numbers are counted; the stride shares no factor with the last dimension, so that
    all columns are seen alike.
    """
    some: NDArray[np.float64] = spread(values, HISTOGRAM_VALUES).float().cpu().numpy().astype(np.float64)
    some = some[np.isfinite(some)]
    if not len(some):
        return [], []
    low, high = float(some.min()), float(some.max())
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):  # bins need a width that float64 can hold
        margin = max(abs(low), abs(high)) * 1e-3 or 0.5
        low, high = low - margin, high + margin
    edges = np.linspace(low, high, bins + 1)
    counts, _ = np.histogram(some, bins=edges)
    return edges.tolist(), counts.tolist()


def spread(values: Tensor, most: int) -> Tensor:
    """At most so many evenly spaced numbers of a tensor, flat; all columns are seen alike."""
    flat = values.detach().reshape(-1)
    stride = max(1, -(-flat.numel() // most))
    width = values.shape[-1] if values.dim() > 1 else 1
    while math.gcd(stride, width) != 1:
        stride += 1
    return flat[::stride]
