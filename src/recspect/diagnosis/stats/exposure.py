"""How far up lists the rows of each category stand: exposure by place, of all rows and of the relevant ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, factorize
from recspect.diagnosis.stat import Stat, Weights
from recspect.diagnosis.stats.category_tables import CategoryTableSummary
from recspect.diagnosis.stats.counting import kept_categories, weight_sums
from recspect.errors import UsageError

Floats = NDArray[np.float64]
ROWS, RELEVANT, EXPOSURE, SEEN = range(4)


@dataclass(frozen=True)
class ExposureSummary(CategoryTableSummary):
    """Four sums per category and bucket of users: rows, relevant rows, exposure of all rows and of the relevant ones; see `CategoryTableSummary`."""


@dataclass(frozen=True, kw_only=True)
class Exposure(Stat[ExposureSummary]):
    """Exposure 1 / log2(1 + place) of the rows of each category, places from 1 by descending score within a user's or request's list.

    Rows of equal score share the mean exposure of their places. Lists of one row are left out: nothing was ranked. All rows of a unit must come in one batch
    (runners see to it through `unit_of`); its weight is the mean weight of its rows, rows of weight 0 are absent.

    Args:
        unit: Column of the user or request whose rows are a list.
        by: Column of categories.
        cluster, buckets: Whose rows are dependent, and in how many buckets they are kept apart.
        capacity: Categories kept; memory is capacity x buckets x 32 bytes.
        score, label: Any number, higher is shown first; relevant above 0. Rows without either are left out.

    Example:
        >>> batch = Batch({"user": np.array([1, 1]), "kind": np.array(["a", "b"]), "@cluster": np.array([1, 1]),
        ...                "@score": np.array([.9, .1]), "@label": np.array([0, 1])})
        >>> Exposure(unit="user", by="kind").summarize(batch).sums.sum(1)[:2, EXPOSURE].round(3).tolist()
        [1.0, 0.631]

    Source: Singh and Joachims 2018, "Fairness of Exposure in Rankings".
    """

    unit: str
    by: str
    cluster: str = "@cluster"
    buckets: int = 50
    capacity: int = 64
    score: str = "@score"
    label: str = "@label"

    def __post_init__(self) -> None:
        if self.buckets < 2 or self.capacity < 1:
            raise UsageError(f"Exposure: {self.buckets} buckets and a capacity of {self.capacity}", hint="expected at least 2 and 1")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.unit, self.by, self.cluster, self.score, self.label)))

    def zero(self) -> ExposureSummary:
        return ExposureSummary((), np.zeros((1, self.buckets, 4)), self.capacity)

    def summarize(self, batch: Batch, weight: Weights = None) -> ExposureSummary:
        units, scores, labels = batch.categories(self.unit).codes, batch.numbers(self.score), batch.numbers(self.label)
        valid = ~np.isnan(scores) & (labels >= 0) & (labels < np.inf) & (units >= 0)
        if weight is not None:
            valid &= weight > 0
        lengths = np.bincount(units[valid], minlength=int(units.max(initial=-1)) + 1)
        if len(lengths):
            valid &= lengths[units] > 1
        if not valid.any():
            return self.zero()
        rows = batch.take(np.flatnonzero(valid))
        places = factorize(units[valid].astype(np.int64)).codes
        weights = np.ones(rows.rows)
        if weight is not None:
            weights = (np.bincount(places, weight[valid]) / np.bincount(places))[places]
        which, names = kept_categories(rows.categories(self.by), self.capacity)
        cells, size = which * self.buckets + rows.buckets(self.cluster, self.buckets), (len(names) + 1) * self.buckets
        relevant, seen = labels[valid] > 0, exposure_of(places, scores[valid])
        sums = np.stack([weight_sums(cells, values, size) for values in (weights, weights * relevant, weights * seen, weights * relevant * seen)], axis=1)
        return ExposureSummary(names, sums.reshape(len(names) + 1, self.buckets, 4), self.capacity)


def exposure_of(units: NDArray[np.int64], scores: Floats) -> Floats:
    """1 / log2(1 + place) of every row in its list, the mean over tied places for equal scores; shape (rows,)."""
    order = np.lexsort((-scores, units))
    unit, score = units[order], scores[order]
    first = np.append(True, unit[1:] != unit[:-1])
    starts = np.flatnonzero(first)
    place = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    group = np.flatnonzero(first | np.append(True, score[1:] != score[:-1]))
    sizes = np.diff(np.append(group, len(order)))
    shared = np.repeat(np.add.reduceat(1 / np.log2(place + 2.0), group) / sizes, sizes)
    found = np.empty(len(order))
    found[order] = shared
    return found
