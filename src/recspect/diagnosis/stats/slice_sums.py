"""Outcomes, loss and quality of lists in given slices: what a search for weak slices counts, level by level."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, hash_rows, hash_values
from recspect.diagnosis.crossings import each_crossing
from recspect.diagnosis.grouping import names_of
from recspect.diagnosis.stat import Stat, Summary, Weights, in_sample
from recspect.diagnosis.stats.counting import weight_sums
from recspect.diagnosis.stats.lists import order
from recspect.diagnosis.stats.measures import NDCG
from recspect.diagnosis.stats.outcomes import LOSS, POSITIVE, PREDICTED, ROWS, VARIANCE
from recspect.diagnosis.stats.ranking import measure_lists
from recspect.errors import DataError, UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Crossing = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]
"""Fields, and the categories (as text, one for each field) of the slices of these fields."""

PROMISED = 5
LISTED, LIST_LOSS, LIST_PROMISED = range(3)
DRAWS = 4
"""Draws of labels by which the promised loss of a list is averaged."""
PLACES = 10
_CLIP = 1e-15

__all__ = ["LISTED", "LIST_LOSS", "LIST_PROMISED", "LOSS", "POSITIVE", "PREDICTED", "PROMISED", "ROWS", "VARIANCE", "Crossing", "SliceSums", "SliceSumsSummary"]


@dataclass(frozen=True)
class SliceSumsSummary(Summary):
    """Sums per slice and bucket of users, in the order of the stat's slices.

    Args:
        sums: Shape (slices, buckets, 6): rows, predicted, positive, log loss (nats), p (1 - p), promised log loss; of lists (slices, buckets, 3): rows in lists that
            can be judged, and the sum over these of 1 - NDCG@10 of their list, and of what the scores promised of it.
    """

    sums: Floats

    def __add__(self, other: SliceSumsSummary) -> SliceSumsSummary:
        if self.sums.shape != other.sums.shape:
            raise DataError(f"sums of {self.sums.shape} and of {other.sums.shape} slices, buckets and figures cannot be added up")
        return SliceSumsSummary(self.sums + other.sums)

    @property
    def count(self) -> float:
        """Weight of the rows, once for every slice that they are in."""
        return float(self.sums[..., ROWS].sum())


@dataclass(frozen=True, kw_only=True)
class SliceSums(Stat[SliceSumsSummary]):
    """Rows, outcomes and losses in given slices, by bucket of users; memory is slices x buckets x 48 bytes, however many crossings there are.

    Promised is the loss that the scores expect of themselves: -p ln p - (1 - p) ln (1 - p) for a row. Loss above it is what the scores did not know about themselves; a slice
    whose labels are hard to tell has a high loss that was promised.

    Args:
        crossings: Fields, and the slices of these; no field and `((),)` for all rows.
        cluster, buckets: Users, and buckets of users by hash.
        score, label: Probabilities in [0, 1] and 0/1; other rows are left out.
        unit: Column of the request or user whose rows are a list: then what is added for a row is its list's 1 - NDCG@10, and the promised one is that of labels
            drawn from the scores. Lists without both classes are left out. All rows of a unit must come in one batch.
        share: Of the clusters, chosen by hash, in (0, 1]; rows of others are left out.

    Example:
        >>> batch = Batch({"c": np.array(["a", "a", "b"]), "@cluster": np.array([1, 2, 3]),
        ...                "@score": np.array([.5, .5, .2]), "@label": np.array([1, 0, 0])})
        >>> stat = SliceSums(crossings=(((), ((),)), (("c",), (("a",),))))
        >>> stat.summarize(batch).sums.sum(1)[:, :3].tolist()
        [[3.0, 1.2, 1.0], [2.0, 1.0, 1.0]]
    """

    crossings: tuple[Crossing, ...]
    cluster: str = "@cluster"
    buckets: int = 50
    score: str = "@score"
    label: str = "@label"
    unit: str | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "crossings", tuple((tuple(fields), tuple(tuple(one) for one in slices)) for fields, slices in self.crossings))
        if self.buckets < 2:
            raise UsageError(f"SliceSums: {self.buckets} buckets, expected at least 2")
        if not 0 < self.share <= 1:
            raise UsageError(f"SliceSums: share is {self.share}, expected above 0 and at most 1")
        for fields, slices in self.crossings:
            if len(set(slices)) != len(slices) or any(len(one) != len(fields) for one in slices):
                raise UsageError(f"SliceSums: slices of {fields or 'all rows'} must differ, and name one category for each field")

    @property
    def columns(self) -> tuple[str, ...]:
        unit = () if self.unit is None else (self.unit,)
        return tuple(dict.fromkeys((*self._fields, self.cluster, self.score, self.label, *unit)))

    @cached_property
    def slices(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """Of every slice its (field, category) pairs, in the order of the sums."""
        return tuple(tuple(zip(fields, one, strict=True)) for fields, slices in self.crossings for one in slices)

    @cached_property
    def _fields(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for fields, _ in self.crossings for name in fields))

    @cached_property
    def _wanted(self) -> dict[str, dict[str, int]]:
        """Of every field the number of each category that a slice names."""
        found: dict[str, dict[str, int]] = {name: {} for name in self._fields}
        for terms in self.slices:
            for name, text in terms:
                found[name].setdefault(text, len(found[name]))
        return found

    @cached_property
    def _levels(self) -> list[tuple[Ints, Ints, Ints]]:
        """By number of terms: places of these slices among all, their fields and categories as numbers."""
        at = {name: i for i, name in enumerate(self._fields)}
        found = []
        for length in sorted({len(terms) for terms in self.slices}):
            places = [i for i, terms in enumerate(self.slices) if len(terms) == length]
            fields = np.array([[at[name] for name, _ in self.slices[i]] for i in places], dtype=np.int64).reshape(len(places), length)
            values = np.array([[self._wanted[name][text] for name, text in self.slices[i]] for i in places], dtype=np.int64).reshape(len(places), length)
            found.append((np.array(places), fields, values))
        return found

    def zero(self) -> SliceSumsSummary:
        return SliceSumsSummary(np.zeros((len(self.slices), self.buckets, 6 if self.unit is None else 3)))

    def summarize(self, batch: Batch, weight: Weights = None) -> SliceSumsSummary:
        p, y = batch.numbers(self.score), batch.numbers(self.label)
        with np.errstate(invalid="ignore"):
            valid = (p >= 0) & (p <= 1) & ((y == 0) | (y == 1))
        if weight is not None:
            valid &= weight > 0
        if self.unit is not None:
            valid &= batch.categories(self.unit).codes >= 0
        if self.share < 1:
            valid &= in_sample(batch, self.cluster, self.share)
        if not valid.any():
            return self.zero()
        batch, p, y = batch.select(self.columns).take(np.flatnonzero(valid)), p[valid], y[valid]
        w = np.ones(len(p)) if weight is None else weight[valid]
        parts = _outcomes(p, y) if self.unit is None else self._lists(batch, p, y)
        return SliceSumsSummary(self._added_up(batch, [w * part for part in parts]))

    def _added_up(self, batch: Batch, parts: list[Floats]) -> Floats:
        sums = self.zero().sums
        which = batch.buckets(self.cluster, self.buckets)
        columns = [self._codes(batch, name) for name in self._fields]
        for places, fields, values in self._levels:
            if not fields.shape[1]:
                sums[places] = np.stack([weight_sums(which, part, self.buckets) for part in parts], axis=-1)
                continue

            def add(where: Ints, of_row: Ints, places: Ints = places) -> None:
                cells, size = of_row * self.buckets + which, (len(where) + 1) * self.buckets
                for k, part in enumerate(parts):
                    sums[places[where], :, k] = weight_sums(cells, part, size).reshape(-1, self.buckets)[:-1]

            each_crossing(fields, values, columns, add)
        return sums

    def _codes(self, batch: Batch, name: str) -> Ints:
        """Number of each row's category among those that slices name; their number for all others."""
        column = batch.categories(name)
        named = names_of(column)
        wanted = self._wanted[name]
        number = np.array([wanted.get(text, len(wanted)) for text in named.texts], dtype=np.int64)
        return np.asarray(number[named.place][column.codes])

    def _lists(self, batch: Batch, p: Floats, y: Floats) -> list[Floats]:
        """Per row whether its list can be judged, that list's 1 - NDCG, and the mean of it for labels drawn from the scores."""
        assert self.unit is not None
        units = batch.categories(self.unit).codes.astype(np.int64)
        drawn = hash_rows(batch, [self.unit, self.score])
        promised, times = np.zeros(len(p)), np.zeros(len(p))
        for draw in range(DRAWS):
            chance = (hash_values((drawn ^ np.uint64(0x9E3779B97F4A7C15 * (draw + 1) % 2**64)).view(np.int64)) >> np.uint64(11)) / 2.0**53
            loss = _list_loss(units, p, (chance < p).astype(np.float64))
            promised, times = promised + np.nan_to_num(loss), times + ~np.isnan(loss)
        loss = _list_loss(units, p, y)
        known = ~np.isnan(loss) & (times > 0)
        return [known.astype(np.float64), np.where(known, loss, 0.0), np.where(known, promised / np.maximum(times, 1), 0.0)]


def _outcomes(p: Floats, y: Floats) -> list[Floats]:
    right, wrong = np.clip(p, _CLIP, 1), np.clip(1 - p, _CLIP, 1)
    down, up = -np.log(right), -np.log(wrong)
    return [np.ones(len(p)), p, y, np.where(y == 1, down, up), p * (1 - p), p * down + (1 - p) * up]


def _list_loss(units: Ints, scores: Floats, labels: Floats) -> Floats:
    """1 - NDCG@10 of each row's list, NaN for lists without both classes; shape (rows,)."""
    (values,) = measure_lists([NDCG(k=PLACES)], order(units, scores, labels))
    sizes = np.bincount(units)
    positive = np.bincount(units, labels, len(sizes))
    by_unit = np.full(len(sizes), np.nan)
    by_unit[sizes > 0] = 1 - values
    by_unit[(positive == 0) | (positive == sizes)] = np.nan
    return np.asarray(by_unit[units])
