"""A uniform sample of distinct rows: how many there are, how many repeat, how many of one table occur in another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np

from recspect.diagnosis.batch import Batch, hash_rows
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.counting import grouped_counts
from recspect.diagnosis.stats.hashes import Floats, Hashes, share_below, smallest, threshold, wilson
from recspect.errors import UsageError


@dataclass(frozen=True)
class BottomKSummary(Summary):
    """The k distinct rows of smallest hash, with how often each occurs.

    Which rows are kept depends on the set of rows only, so each kept row has its whole count, however rows were split.

    Args:
        hashes: Ascending, shape (kept,).
        counts: Weight of each kept row, above 0, shape (kept,).
        count: Weight of all rows.
        k: How many are kept at most.
    """

    hashes: Hashes
    counts: Floats
    count: float
    k: int

    def __add__(self, other: BottomKSummary) -> BottomKSummary:
        hashes, counts = smallest(np.append(self.hashes, other.hashes), np.append(self.counts, other.counts), self.k)
        return BottomKSummary(hashes, counts, self.count + other.count, self.k)

    @property
    def complete(self) -> bool:
        """Whether every distinct row is kept, so that all answers are exact."""
        return len(self.hashes) < self.k

    def duplicate_share(self, level: float = 0.95) -> Estimate | None:
        """Share of rows that repeat another row (all but one of each set of equal rows); None for no rows."""
        return _share(self.counts - 1, self.counts, threshold(self.hashes, self.k), level, unit="share of rows repeated",
                      n=int(self.count))


@dataclass(frozen=True, kw_only=True)
class BottomK(Stat[BottomKSummary]):
    """A uniform sample of distinct rows by smallest hash (KMV; Bar-Yossef et al. 2002), deterministic and mergeable.

    Rows are equal when all these columns are: whole numbers of any type are, missing equals missing.

    Args:
        over: The columns that make a row.
        k: Distinct rows kept; 16 bytes each.
    """

    over: tuple[str, ...]
    k: int = 65536

    def __post_init__(self) -> None:
        object.__setattr__(self, "over", tuple(self.over))
        if self.k < 3 or not self.over:
            raise UsageError(f"BottomK over {self.over} with k = {self.k}", hint="give at least one column and k of 3 or more")

    @property
    def columns(self) -> tuple[str, ...]:
        return self.over

    def zero(self) -> BottomKSummary:
        return BottomKSummary(np.zeros(0, dtype=np.uint64), np.zeros(0), 0.0, self.k)

    def summarize(self, batch: Batch, weight: Weights = None) -> BottomKSummary:
        w = np.ones(batch.rows) if weight is None else weight
        hashes, counts = smallest(hash_rows(batch, self.over), w, self.k)
        return BottomKSummary(hashes, counts, float(w.sum()), self.k)

    def pushdown(self, frame: nw.LazyFrame[Any], *, group: nw.Expr | None = None, weight: str | None = None,
                 ) -> Mapping[Any, BottomKSummary]:
        found = grouped_counts(frame, self.over, group=group, weight=weight)
        out = {key: self.summarize(batch, w) for key, (batch, w) in found.items()}
        return out if out or group is not None else {None: self.zero()}


def overlap_share(target: BottomKSummary, reference: BottomKSummary, *, level: float = 0.95) -> Estimate | None:
    """Share of the target's rows that also occur in the reference; None where the target has no row to compare.

    Both sides are compared on the range of hashes that both kept completely: exact when neither has more than k distinct
    rows, else unbiased with an interval.
    """
    cut = min(threshold(target.hashes, target.k), threshold(reference.hashes, reference.k))
    inside = target.hashes < cut
    hashes, counts = target.hashes[inside], target.counts[inside]
    found = np.isin(hashes, reference.hashes)
    return _share(counts * found, counts, cut, level, unit="share of rows that occur in the reference", n=int(target.count))


def multiset_overlap_share(target: BottomKSummary, reference: BottomKSummary, *, level: float = 0.95) -> Estimate | None:
    """Share of the target's rows that the reference holds as often: sum of min(count, count) over the target's count.

    1 exactly where every row of the target can be paired with its own equal row of the reference.
    """
    cut = min(threshold(target.hashes, target.k), threshold(reference.hashes, reference.k))
    inside = target.hashes < cut
    hashes, counts = target.hashes[inside], target.counts[inside]
    place = np.minimum(np.searchsorted(reference.hashes, hashes), max(len(reference.hashes) - 1, 0))
    other = np.zeros(len(hashes))
    if len(reference.hashes):
        other = np.where(reference.hashes[place] == hashes, reference.counts[place], 0.0)
    return _share(np.minimum(counts, other), counts, cut, level, unit="share of rows paired with the reference",
                  n=int(target.count))


def _share(part: Floats, whole: Floats, cut: np.uint64 | float, level: float, *, unit: str, n: int) -> Estimate | None:
    """sum(part) / sum(whole) over sampled distinct rows, with the interval of a ratio of sums over clusters."""
    total = float(whole.sum())
    if not total:
        return None
    value = float(np.clip(part.sum() / total, 0.0, 1.0))
    seen = share_below(cut)
    if seen >= 1:
        return Estimate(value=value, unit=unit, n=n)
    variance = float(((part - value * whole) ** 2).sum()) / total**2 * (1 - seen)
    size = value * (1 - value) / variance if variance > 0 else total**2 / float((whole**2).sum()) / (1 - seen)
    low, high = wilson(value, size, level)
    return Estimate(value=value, low=low, high=high, unit=unit, n=n, level=level)
