"""How often each category of a column occurs, and how far two such counts are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical, Ragged
from recspect.diagnosis.grouping import names_of
from recspect.diagnosis.stat import Stat, Weights
from recspect.diagnosis.stats.category_sums import CategoryCountsByBucket, CategoryCountsSummary
from recspect.diagnosis.stats.counting import grouped_counts, weight_sums
from recspect.diagnosis.stats.shares import Shares


@dataclass(frozen=True, kw_only=True)
class CategoryCounts(Stat[CategoryCountsSummary]):
    """Weight per category of a column. A column of lists counts its entries, and an empty list as missing.

    Example:
        >>> CategoryCounts(column="c").summarize(Batch({"c": np.array(["a", "b", "a"])})).as_dict()
        {'a': 2.0, 'b': 1.0}
    """

    column: str
    capacity: int = 65536

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def zero(self) -> CategoryCountsSummary:
        return CategoryCountsSummary((), np.zeros(0), 0.0, self.capacity)

    def summarize(self, batch: Batch, weight: Weights = None) -> CategoryCountsSummary:
        return self.summarize_buckets(batch, np.zeros(batch.rows, dtype=np.int64), 1, weight).total

    def summarize_buckets(self, batch: Batch, which: NDArray[np.int64], buckets: int, weight: Weights = None) -> CategoryCountsByBucket:
        """For every bucket the summary of its rows: categories are named once for all of them."""
        column = batch[self.column]
        w = np.ones(batch.rows) if weight is None else weight
        if not isinstance(column, Ragged):
            return self._counted(batch.categories(self.column), w, which, buckets)
        entries = Batch({"v": column.values}).categories("v")[column.offsets[0]:column.offsets[-1]]
        empty = column.lengths == 0
        return CategoryCountsByBucket.sum_of((
            self._counted(entries, np.repeat(w, column.lengths), np.repeat(which, column.lengths), buckets),
            CategoryCountsByBucket.of(("",), which[empty], np.zeros(int(empty.sum()), dtype=np.int64), w[empty], np.zeros(buckets), self.capacity)))

    def join_buckets(self, parts: Sequence[CategoryCountsSummary]) -> CategoryCountsByBucket:
        """The same buckets, held together."""
        return CategoryCountsByBucket.joined(parts)

    def _counted(self, column: Categorical, weight: NDArray[np.float64], which: NDArray[np.int64], buckets: int) -> CategoryCountsByBucket:
        names = names_of(column)
        return CategoryCountsByBucket.of(names.texts.tolist(), which, names.place[column.codes], weight, np.zeros(buckets), self.capacity)

    def pushdown(self, frame: nw.LazyFrame[Any], *, group: nw.Expr | None = None, weight: str | None = None,
                 ) -> Mapping[Any, CategoryCountsSummary]:
        found = grouped_counts(frame, (self.column,), group=group, weight=weight)
        out = {key: self.summarize(batch, w) for key, (batch, w) in found.items()}
        return out if out or group is not None else {None: self.zero()}


# ---------------------------------------------------------------------- two counts


@dataclass(frozen=True, kw_only=True)
class CategoryBins:
    """Which bin each category falls into.

    Args:
        labels: What each bin holds.
        place: Category to bin. Categories not named fall into the last bin, where `has_rest`.
        compared: Category to the share of its reference rows that is compared; the others chose the bins.
        has_rest: Whether the last bin is for categories that only one side could keep.
        halved: Whether one half of the reference chose the bins.
    """

    labels: tuple[str, ...]
    place: Mapping[str, int]
    compared: Mapping[str, float]
    has_rest: bool
    halved: bool

    def counts(self, summary: CategoryCountsSummary, *, reference: bool = False) -> NDArray[np.float64]:
        """Weight per bin, shape (bins,). Of the reference (also of a part of it), only what is compared."""
        places, compared = self._places(summary.names, reference=reference)
        counts = weight_sums(places[places >= 0], (summary.counts * compared)[places >= 0], len(self.labels))
        if self.has_rest:
            counts[-1] += summary.other / 2 if reference and self.halved else summary.other
        return counts

    def counts_by_bucket(self, parts: CategoryCountsByBucket, *, reference: bool = False) -> NDArray[np.float64]:
        """`counts` of every bucket, shape (buckets, bins)."""
        places, compared = self._places(parts.names, reference=reference)
        counts = replace(parts, counts=parts.counts * compared[parts.place]).sums(places, len(self.labels))
        if self.has_rest:
            counts[:, -1] += parts.other / 2 if reference and self.halved else parts.other
        return counts

    def _places(self, names: Sequence[str], *, reference: bool) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The bin of each category, -1 for none, and the share of its rows that is compared; each of shape (names,)."""
        nowhere = len(self.labels) - 1 if self.has_rest else -1
        places = np.array([self.place.get(name, nowhere) for name in names], dtype=np.int64)
        if not (reference and self.halved):
            return places, np.ones(len(names))
        return places, np.array([self.compared.get(name, 0.5) for name in names], dtype=np.float64)


def category_bins(target: CategoryCountsSummary, reference: CategoryCountsSummary, *, bins: int = 20) -> CategoryBins:
    """The bins of `compare_categories`."""
    merged = target + reference
    kept = set(merged.names)
    left_rest = _folded(target, kept)[1]
    right, right_rest = _folded(reference, kept)
    names = sorted(kept)
    extra = ("(categories not kept)",) if left_rest or right_rest else ()
    if len(names) <= bins:
        return CategoryBins(labels=(*(name or "(missing)" for name in names), *extra), place={name: i for i, name in enumerate(names)},
                            compared={}, has_rest=bool(extra), halved=False)
    r = np.array([right.get(name, 0.0) for name in names])
    half = np.minimum(np.random.default_rng(0).binomial(np.round(r).astype(np.int64), 0.5).astype(np.float64), r)
    by_frequency = np.argsort(-half, kind="stable")
    share = np.cumsum(half[by_frequency])
    which = np.empty(len(names), dtype=np.int64)
    middle = (share - half[by_frequency] / 2) / max(share[-1], 1.0)
    which[by_frequency] = np.minimum((middle * bins).astype(np.int64), bins - 1)
    which[half == 0] = bins
    used = np.unique(which)
    labels = tuple("(new in the target)" if g == bins else f"frequency group {g + 1} of {bins}" for g in used)
    compared = np.divide(r - half, r, out=np.full(len(r), 0.5), where=r > 0)
    return CategoryBins(labels=(*labels, *extra), place=dict(zip(names, np.searchsorted(used, which).tolist(), strict=True)),
                        compared=dict(zip(names, compared.tolist(), strict=True)), has_rest=bool(extra), halved=True)


def compare_categories(target: CategoryCountsSummary, reference: CategoryCountsSummary, *, bins: int = 20) -> Shares:
    """Both counts over the same bins.

    With at most `bins` categories each has a bin of its own. With more, about equally heavy bins of categories are
    formed, from the most to the least frequent ones of the reference, and one bin for categories new to the target. Bins
    chosen by the counts that are then compared would differ even between two samples of one distribution (rare categories
    are new by chance), and the more so the more categories there are. So the reference is first split in two halves at
    random: one half chooses the bins, the other is compared. Then `psi_under_no_drift` holds for any number of categories.

    Categories that only one side could keep are compared as one.
    """
    chosen = category_bins(target, reference, bins=bins)
    return Shares(names=chosen.labels, target=chosen.counts(target), reference=chosen.counts(reference, reference=True))


def _folded(summary: CategoryCountsSummary, kept: set[str]) -> tuple[dict[str, float], float]:
    counts = summary.as_dict()
    return ({name: count for name, count in counts.items() if name in kept},
            summary.other + sum(count for name, count in counts.items() if name not in kept))


def psi(target: CategoryCountsSummary, reference: CategoryCountsSummary, *, bins: int = 20) -> float:
    """Population stability index of two counts, in nats; see `compare_categories`."""
    return compare_categories(target, reference, bins=bins).psi


def js(target: CategoryCountsSummary, reference: CategoryCountsSummary, *, bins: int = 20) -> float:
    """Jensen-Shannon divergence of two counts, in bits; see `compare_categories`."""
    return compare_categories(target, reference, bins=bins).js


def total_variation(target: CategoryCountsSummary, reference: CategoryCountsSummary, *, bins: int = 20) -> float:
    """Share of rows in another bin, 0 to 1; see `compare_categories`."""
    return compare_categories(target, reference, bins=bins).total_variation


def unseen_share(target: CategoryCountsSummary, reference: CategoryCountsSummary) -> tuple[float, float]:
    """Share of the target's rows whose category never occurs in the reference, and the share expected without drift.

    Expected by Good and Turing: the share of the reference's rows whose category occurs in it once. Among the categories
    that both sides could keep. NaN where a side has no rows.
    """
    kept = set((target + reference).names)
    left, _ = _folded(target, kept)
    right, _ = _folded(reference, kept)
    rows, before = sum(left.values()), sum(right.values())
    unseen = sum(count for name, count in left.items() if name not in right)
    once = sum(count for count in right.values() if count <= 1)
    return (unseen / rows if rows else np.nan, once / before if before else np.nan)


__all__ = [
    "CategoryBins", "CategoryCounts", "CategoryCountsByBucket", "CategoryCountsSummary", "category_bins", "compare_categories", "js", "psi",
    "total_variation", "unseen_share",
]
