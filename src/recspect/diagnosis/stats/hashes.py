"""The k smallest of uniform hashes: a sample of distinct values that adds."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.stats.counting import weight_sums

Floats = NDArray[np.float64]
Hashes = NDArray[np.uint64]


def smallest(hashes: Hashes, counts: Floats, k: int) -> tuple[Hashes, Floats]:
    """The k smallest distinct hashes, ascending, each with the sum of its counts; those of weight 0 are absent."""
    used = counts > 0
    hashes, counts = hashes[used], counts[used]
    if len(hashes) > 8 * k:  # few of many: look only below a bound that surely leaves k distinct ones, if there is one
        bound = np.partition(hashes, 4 * k)[4 * k]
        below = hashes <= bound
        if len(np.unique(hashes[below])) >= k:
            hashes, counts = hashes[below], counts[below]
    distinct, inverse = np.unique(hashes, return_inverse=True)
    return distinct[:k], weight_sums(inverse, counts, len(distinct))[:k]


def threshold(hashes: Hashes, k: int) -> np.uint64 | float:
    """Below this hash, every distinct value is kept; infinite where all are."""
    return hashes[-1] if len(hashes) >= k else np.inf


def share_below(cut: np.uint64 | float) -> float:
    """Share of all possible hashes below a threshold."""
    return 1.0 if cut == np.inf else float(cut) / 2.0**64


def wilson(share: float, size: float, level: float) -> tuple[float, float]:
    """Wilson's interval of a share of so many independent things (1927); not empty at 0 and 1."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * size)) / (1 + z * z / size)
    reach = z / (1 + z * z / size) * float(np.sqrt(share * (1 - share) / size + z * z / (4 * size * size)))
    return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))
