"""How often each category of a column occurs, and how far two such counts are apart."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical, Ragged, factorize
from recspect.diagnosis.grouping import names_of
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.counting import among_kept, grouped_counts, kept_names, union_of_names, weight_sums
from recspect.diagnosis.stats.shares import Shares


@dataclass(frozen=True)
class CategoryCountsSummary(Summary):
    """Weight per category, of the `capacity` categories with the smallest hashes; see `GroupedSummary`.

    Args:
        names: Categories as text, ascending; missing is "".
        counts: Their weight, shape (names,), above 0.
        other: Weight of all categories beyond the capacity.
        capacity: How many categories are kept.
    """

    names: tuple[str, ...]
    counts: NDArray[np.float64]
    other: float
    capacity: int

    def __add__(self, other: CategoryCountsSummary) -> CategoryCountsSummary:
        return CategoryCountsSummary.sum_of((self, other))

    @classmethod
    def sum_of(cls, parts: Sequence[CategoryCountsSummary]) -> CategoryCountsSummary:
        """All of them."""
        names, places = union_of_names([part.names for part in parts])
        counts = weight_sums(np.concatenate(places), np.concatenate([part.counts for part in parts]), len(names))
        return _bounded(names, counts, sum(part.other for part in parts), parts[0].capacity)

    @property
    def count(self) -> float:
        """Weight of all rows (of all entries, for a column of lists)."""
        return float(self.counts.sum()) + self.other

    @property
    def truncated(self) -> bool:
        """Whether there were more categories than fit."""
        return self.other > 0

    @property
    def distinct(self) -> int:
        """Number of categories kept, without the missing one; all there are unless `truncated`."""
        return len(self.names) - ("" in self.names)

    @property
    def missing(self) -> float:
        """Weight of rows without a value, where that category is kept."""
        return self.as_dict().get("", 0.0)

    def as_dict(self) -> dict[str, float]:
        """Category to weight."""
        return dict(zip(self.names, self.counts.tolist(), strict=True))

    def most_frequent(self, limit: int = 10) -> list[tuple[str, float]]:
        """The heaviest categories kept and their weight, heaviest first, ties by name."""
        order = sorted(zip(self.names, self.counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
        return order[:limit]

    def entropy(self) -> float:
        """Entropy of the kept categories' shares, in nats; NaN for no rows."""
        if not len(self.counts):
            return np.nan
        p = self.counts / self.counts.sum()
        return float(-(p * np.log(p)).sum())


def _bounded(names: tuple[str, ...], counts: NDArray[np.float64], rest: float, capacity: int) -> CategoryCountsSummary:
    keep = kept_names(names, capacity)
    if keep is None:
        return CategoryCountsSummary(names, counts, rest, capacity)
    return CategoryCountsSummary(tuple(np.array(names, dtype=object)[keep]), counts[keep],
                                 rest + float(counts[~keep].sum()), capacity)


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
        return self.summarize_buckets(batch, np.zeros(batch.rows, dtype=np.int64), 1, weight)[0]

    def summarize_buckets(self, batch: Batch, which: NDArray[np.int64], buckets: int, weight: Weights = None) -> list[CategoryCountsSummary]:
        """For every bucket the summary of its rows: categories are named and hashed once for all of them."""
        column = batch[self.column]
        w = np.ones(batch.rows) if weight is None else weight
        if not isinstance(column, Ragged):
            return self._counted(batch.categories(self.column), w, which, buckets)
        entries = Batch({"v": column.values}).categories("v")[column.offsets[0]:column.offsets[-1]]
        counted = self._counted(entries, np.repeat(w, column.lengths), np.repeat(which, column.lengths), buckets)
        empty = weight_sums(which, np.where(column.lengths == 0, w, 0.0), buckets)
        nothing = [CategoryCountsSummary(("",), np.array([weight]), 0.0, self.capacity) if weight else self.zero() for weight in empty]
        return [part + missing for part, missing in zip(counted, nothing, strict=True)]

    def _counted(self, column: Categorical, weight: NDArray[np.float64], which: NDArray[np.int64], buckets: int) -> list[CategoryCountsSummary]:
        """Per bucket, the categories and their weight; those of weight 0 are absent."""
        names = names_of(column)
        size = len(names.texts)
        cells = factorize(which * size + names.place[column.codes])  # pairs of a bucket and a name
        sums = weight_sums(cells.codes, weight, len(cells.values))
        pairs, sums = cells.values[sums > 0], sums[sums > 0]
        found = []
        for bucket, (first, last) in enumerate(itertools.pairwise(np.searchsorted(pairs, np.arange(buckets + 1) * size))):
            here, counts = pairs[first:last] - bucket * size, sums[first:last]
            keep = among_kept(names, here, self.capacity)
            found.append(CategoryCountsSummary(tuple(names.texts[here[keep]].tolist()), counts[keep], float(counts[~keep].sum()), self.capacity))
        return found

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
        last = len(self.labels) - 1
        places = np.array([self.place.get(name, last if self.has_rest else -1) for name in summary.names], dtype=np.int64)
        weight, rest = summary.counts, summary.other
        if reference and self.halved:
            weight = weight * np.array([self.compared.get(name, 0.5) for name in summary.names])
            rest = rest / 2
        counts = weight_sums(places[places >= 0], weight[places >= 0], len(self.labels))
        if self.has_rest:
            counts[last] += rest
        return counts


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


