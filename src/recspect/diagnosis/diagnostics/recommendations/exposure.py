"""How recommended places are shared among items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.stats.categories import CategoryCountsSummary


def gini(counts: NDArray[np.float64]) -> float:
    """Gini coefficient of non-negative counts: 0 where all are equal, towards 1 where one has all; NaN for none."""
    n, total = len(counts), counts.sum()
    if not n or not total:
        return float("nan")
    order = np.sort(counts)
    return float((2 * np.arange(1, n + 1) - n - 1) @ order / (n * total))


def over_catalogue(shown: CategoryCountsSummary, catalogue: set[str]) -> NDArray[np.float64]:
    """Places of every item of the catalogue and of items outside it that were shown, ascending."""
    counts = shown.as_dict()
    counts.pop("", None)
    return np.sort(np.array([*counts.values(), *[0.0] * len(catalogue - set(counts))]))


def effective_items(counts: NDArray[np.float64]) -> float:
    """exp(entropy): how many equally often shown items would be as diverse; NaN for none."""
    p = counts[counts > 0] / counts.sum() if counts.sum() else np.zeros(0)
    return float(np.exp(-(p * np.log(p)).sum())) if len(p) else float("nan")


def lorenz(counts: NDArray[np.float64], *, points: int = 100) -> Curve:
    """Share of places that the least shown share of items gets."""
    total = np.concatenate([[0.0], np.cumsum(counts)]) / max(counts.sum(), 1e-12)
    x = np.linspace(0, 1, points + 1)
    y = np.interp(x, np.linspace(0, 1, len(total)), total)
    return Curve(title="How evenly are recommended places shared among items?", x_title="share of items, least shown first",
                 y_title="share of places", lines=(Line(name="lists", x=tuple(map(float, x)), y=tuple(map(float, y))),
                                                   Line(name="all equal", x=(0.0, 1.0), y=(0.0, 1.0), role="ideal")),
                 caption=f"{len(counts):,} items, {counts.sum():,.0f} places")
