"""Per item (or user): how many rows, and the range of several numeric columns; tells what is fixed per item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.counting import kept_categories, kept_names, union_of_names, weight_sums

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GroupRangesSummary(Summary):
    """Rows and ranges of the categories of smallest hash; see `GroupedSummary` for why these.

    Args:
        names: Categories as text, ascending; missing is "".
        counts: Weight per category, shape (names,).
        lows, highs: Smallest and largest finite value, +inf and -inf where there is none; shape (names, columns).
        other: Weight of all categories beyond the capacity.
        capacity: How many categories are kept.
    """

    names: tuple[str, ...]
    counts: Floats
    lows: Floats
    highs: Floats
    other: float
    capacity: int

    def __add__(self, other: GroupRangesSummary) -> GroupRangesSummary:
        return GroupRangesSummary.sum_of((self, other))

    @classmethod
    def sum_of(cls, parts: Sequence[GroupRangesSummary]) -> GroupRangesSummary:
        """All of them."""
        names, places = union_of_names([part.names for part in parts])
        width = max(part.lows.shape[1] for part in parts)
        counts = np.zeros(len(names))
        lows, highs = np.full((len(names), width), np.inf), np.full((len(names), width), -np.inf)
        for part, rows in zip(parts, places, strict=True):
            counts[rows] += part.counts
            lows[rows] = np.minimum(lows[rows], part.lows)
            highs[rows] = np.maximum(highs[rows], part.highs)
        keep = kept_names(names, parts[0].capacity)
        other = sum(part.other for part in parts)
        if keep is None:
            return cls(names, counts, lows, highs, other, parts[0].capacity)
        kept = tuple(np.array(names, dtype=object)[keep])
        return cls(kept, counts[keep], lows[keep], highs[keep], other + float(counts[~keep].sum()), parts[0].capacity)

    @property
    def count(self) -> float:
        """Weight of all rows."""
        return float(self.counts.sum()) + self.other

    @property
    def truncated(self) -> bool:
        """Whether there were more categories than fit."""
        return self.other > 0


@dataclass(frozen=True, kw_only=True)
class GroupRanges(Stat[GroupRangesSummary]):
    """Rows per category of `by`, and the range of each of `over` within it.

    Example:
        >>> batch = Batch({"item": np.array(["a", "a", "b"]), "price": np.array([2., 3., 5.])})
        >>> GroupRanges(by="item", over=("price",)).summarize(batch).highs.tolist()
        [[3.0], [5.0]]
    """

    by: str
    over: tuple[str, ...]
    capacity: int = 16384

    def __post_init__(self) -> None:
        object.__setattr__(self, "over", tuple(self.over))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.by, *self.over)))

    def zero(self) -> GroupRangesSummary:
        nothing = np.zeros((0, len(self.over)))
        return GroupRangesSummary((), np.zeros(0), nothing, nothing, 0.0, self.capacity)

    def summarize(self, batch: Batch, weight: Weights = None) -> GroupRangesSummary:
        w = np.ones(batch.rows) if weight is None else weight
        used = np.flatnonzero(w > 0)
        if not len(used):
            return self.zero()
        position, names = kept_categories(batch.categories(self.by), self.capacity, w > 0)
        position, w = position[used], w[used]
        inside = np.flatnonzero(position < len(names))
        order = inside[np.argsort(position[inside], kind="stable")]
        starts = np.searchsorted(position[order], np.arange(len(names)))
        lows, highs = np.empty((len(names), len(self.over))), np.empty((len(names), len(self.over)))
        for i, name in enumerate(self.over):
            x = batch.numbers(name)[used][order]
            finite = np.isfinite(x)
            lows[:, i] = np.minimum.reduceat(np.where(finite, x, np.inf), starts)
            highs[:, i] = np.maximum.reduceat(np.where(finite, x, -np.inf), starts)
        counts = weight_sums(position, w, len(names) + 1)
        return GroupRangesSummary(names, counts[:-1], lows, highs, float(counts[-1]), self.capacity)
