"""Gradient norms of a stack of layers by depth, where only a log of the training is there and no model to look into."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.stats.series import SeriesSummary

SHORTEST_STACK = 3


@dataclass(frozen=True)
class Stack:
    """Layers whose parameters have the same name up to numbers, input side first.

    Args:
        names: Parameters, such as ("mlp.0.weight", "mlp.2.weight", "mlp.4.weight").
        medians: Median over the steps of each one's gradient norm.
        ratios: Norm of the first over that of the last, at each step where both were recorded and the last is not 0.
    """

    names: tuple[str, ...]
    medians: tuple[float, ...]
    ratios: NDArray[np.float64]


def stacks(norms: SeriesSummary) -> list[Stack]:
    """The stacks of at least three layers among the parameters whose gradient norms were recorded; biases are left out.

    Layers of a stack are alike, so that the norms of their gradients can be compared; a table and a head could not.
    """
    families: dict[str, list[tuple[tuple[int, ...], str]]] = defaultdict(list)
    for name in norms.lines:
        if name and not re.search(r"bias$", name):
            families[re.sub(r"\d+", "#", name)].append((tuple(int(number) for number in re.findall(r"\d+", name)), name))
    found = []
    for members in families.values():
        names = tuple(name for _, name in sorted(members))
        if len(names) < SHORTEST_STACK:
            continue
        first, last = norms.lines[names[0]], norms.lines[names[-1]]
        _, here, there = np.intersect1d(first.steps, last.steps, return_indices=True)
        above, below = first.values[here], last.values[there]
        usable = np.isfinite(above) & np.isfinite(below) & (below > 0)
        medians = tuple(float(np.median(norms.lines[name].values)) for name in names)
        found.append(Stack(names, medians, above[usable] / below[usable]))
    return found
