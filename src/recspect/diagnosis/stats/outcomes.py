"""Predicted and observed positives and loss, per category and bucket of users: what slices are judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, factorize
from recspect.diagnosis.grouping import names_of
from recspect.diagnosis.stat import Stat, Weights
from recspect.diagnosis.stats.category_tables import CategoryTableSummary
from recspect.diagnosis.stats.counting import kept_categories, kept_names, union_of_names, weight_sums
from recspect.errors import UsageError

Floats = NDArray[np.float64]
SEPARATOR = "\x1f"
"""Between the categories of a crossing, in its name."""
ROWS, PREDICTED, POSITIVE, LOSS, VARIANCE = range(5)
_CLIP = 1e-15


@dataclass(frozen=True)
class OutcomesSummary(CategoryTableSummary):
    """Five sums per category and bucket: rows, predicted, positive, log loss (nats), p (1 - p); see `CategoryTableSummary`. A crossing's names are joined by `SEPARATOR`."""

    @property
    def total(self) -> Floats:
        """Sums per bucket over all categories, shape (buckets, 5)."""
        total: Floats = self.sums.sum(0)
        return total


@dataclass(frozen=True, kw_only=True)
class Outcomes(Stat[OutcomesSummary]):
    """Rows, predicted and observed positives and log loss, per category (or crossing of categories) and bucket of users.

    Args:
        over: Columns whose categories (two or more: whose crossings) are kept apart; none gives one category, "".
        cluster: Whose rows are dependent.
        buckets: Of clusters by hash, for jackknife intervals.
        capacity: Categories kept; memory is capacity x buckets x 40 bytes.
        score, label: Probabilities in [0, 1] and 0/1; other rows are left out.

    Example:
        >>> batch = Batch({"c": np.array(["a", "a", "b"]), "@cluster": np.array([1, 2, 3]),
        ...                "@score": np.array([.5, .5, .2]), "@label": np.array([1, 0, 0])})
        >>> summary = Outcomes(over=("c",)).summarize(batch)
        >>> summary.sums.sum(1)[:2, :3].tolist()
        [[2.0, 1.0, 1.0], [1.0, 0.2, 0.0]]
    """

    over: tuple[str, ...] = ()
    cluster: str = "@cluster"
    buckets: int = 50
    capacity: int = 100
    score: str = "@score"
    label: str = "@label"

    def __post_init__(self) -> None:
        object.__setattr__(self, "over", tuple(self.over))
        if self.buckets < 2 or self.capacity < 1:
            raise UsageError(f"Outcomes: {self.buckets} buckets and a capacity of {self.capacity}", hint="expected at least 2 and 1")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.over, self.cluster, self.score, self.label)))

    def zero(self) -> OutcomesSummary:
        return OutcomesSummary((), np.zeros((1, self.buckets, 5)), self.capacity)

    def summarize(self, batch: Batch, weight: Weights = None) -> OutcomesSummary:
        p, y = batch.numbers(self.score), batch.numbers(self.label)
        with np.errstate(invalid="ignore"):
            valid = (p >= 0) & (p <= 1) & ((y == 0) | (y == 1))
        if weight is not None:
            valid &= weight > 0
        if not valid.any():
            return self.zero()
        if not valid.all():
            batch, p, y = batch.take(np.flatnonzero(valid)), p[valid], y[valid]
        w = np.ones(len(p)) if weight is None else weight[valid]
        which, names = _categories(batch, self.over, self.capacity)
        cells = which * self.buckets + batch.buckets(self.cluster, self.buckets)
        right = np.clip(np.where(y == 1, p, 1 - p), _CLIP, 1)
        size = (len(names) + 1) * self.buckets
        sums = np.stack([weight_sums(cells, values, size) for values in (w, w * p, w * y, -w * np.log(right), w * p * (1 - p))], axis=1)
        return OutcomesSummary(names, sums.reshape(len(names) + 1, self.buckets, 5), self.capacity)


def _categories(batch: Batch, over: tuple[str, ...], capacity: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Where each row's crossing is among those kept, the number of these for others; and the names of those kept, ascending."""
    if not over:
        return np.zeros(batch.rows, dtype=np.int64), ("",)
    if len(over) == 1:
        return kept_categories(batch.categories(over[0]), capacity)
    names: tuple[str, ...] = ("",)
    which = np.zeros(batch.rows, dtype=np.int64)
    for i, name in enumerate(over):
        column = batch.categories(name)
        named = names_of(column)
        crossed = factorize(which * len(named.texts) + named.place[column.codes])
        outer, inner = np.divmod(crossed.values, len(named.texts))
        joined = [text if i == 0 else f"{names[place]}{SEPARATOR}{text}" for place, text in zip(outer, named.texts[inner], strict=True)]
        names, (_, place) = union_of_names([(), tuple(joined)])
        which = place[crossed.codes]
    keep = kept_names(names, capacity)
    if keep is None:
        return which, names
    return np.where(keep, np.cumsum(keep) - 1, keep.sum())[which], tuple(np.array(names, dtype=object)[keep])
