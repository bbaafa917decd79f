"""Per item (or user): how many rows, and the range of several numeric columns; tells what is fixed per item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights, category_name
from recspect.diagnosis.stats.counting import kept_names, weight_sums

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
        names = sorted({*self.names, *other.names})
        place = {name: i for i, name in enumerate(names)}
        width = max(self.lows.shape[1], other.lows.shape[1])
        counts = np.zeros(len(names))
        lows, highs = np.full((len(names), width), np.inf), np.full((len(names), width), -np.inf)
        for part in (self, other):
            rows = np.array([place[name] for name in part.names], dtype=np.int64)
            counts[rows] += part.counts
            lows[rows] = np.minimum(lows[rows], part.lows)
            highs[rows] = np.maximum(highs[rows], part.highs)
        return _bounded(names, counts, lows, highs, other=self.other + other.other, capacity=self.capacity)

    @property
    def count(self) -> float:
        """Weight of all rows."""
        return float(self.counts.sum()) + self.other

    @property
    def truncated(self) -> bool:
        """Whether there were more categories than fit."""
        return self.other > 0


def _bounded(names: list[str], counts: Floats, lows: Floats, highs: Floats, *, other: float, capacity: int) -> GroupRangesSummary:
    keep = kept_names(names, capacity)
    if keep is None:
        return GroupRangesSummary(tuple(names), counts, lows, highs, other, capacity)
    kept = tuple(name for name, stays in zip(names, keep, strict=True) if stays)
    return GroupRangesSummary(kept, counts[keep], lows[keep], highs[keep], other + float(counts[~keep].sum()), capacity)


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
        column = batch.categories(self.by)
        codes = column.codes[used] + 1
        if not len(codes):
            return self.zero()
        occurs = np.bincount(codes, minlength=len(column.values) + 1) > 0
        present, position = np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[codes]
        named = ["" if code == 0 else category_name(column.values[code - 1]) for code in present]
        names = sorted(set(named))
        place = {name: i for i, name in enumerate(names)}
        position = np.array([place[name] for name in named], dtype=np.int64)[position]
        order = np.argsort(position, kind="stable")
        starts = np.searchsorted(position[order], np.arange(len(names)))
        lows, highs = np.empty((len(names), len(self.over))), np.empty((len(names), len(self.over)))
        for i, name in enumerate(self.over):
            x = batch.numbers(name)[used][order]
            finite = np.isfinite(x)
            lows[:, i] = np.minimum.reduceat(np.where(finite, x, np.inf), starts)
            highs[:, i] = np.maximum.reduceat(np.where(finite, x, -np.inf), starts)
        return _bounded(names, weight_sums(position, w[used], len(names)), lows, highs, other=0.0, capacity=self.capacity)
