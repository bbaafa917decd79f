"""Predicted and observed positives and loss, per category and bucket of users: what slices are judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, bucket
from recspect.diagnosis.stat import Stat, Summary, Weights, category_name
from recspect.diagnosis.stats.counting import kept_names, weight_sums
from recspect.errors import UsageError

Floats = NDArray[np.float64]
SEPARATOR = "\x1f"
"""Between the categories of a crossing, in its name."""
ROWS, PREDICTED, POSITIVE, LOSS, VARIANCE = range(5)
_CLIP = 1e-15


@dataclass(frozen=True)
class OutcomesSummary(Summary):
    """Five sums per category and bucket.

    The categories of smallest hash are kept, each complete, the rest added up in a last "other" one.

    Args:
        names: Categories as text, ascending; missing is "". A crossing's are joined by `SEPARATOR`.
        sums: Shape (names + 1, buckets, 5): rows, predicted, positive, log loss (nats), p (1 - p). The last name is the others.
        capacity: How many categories are kept.
    """

    names: tuple[str, ...]
    sums: Floats
    capacity: int

    def __add__(self, other: OutcomesSummary) -> OutcomesSummary:
        if self.names == other.names:
            return OutcomesSummary(self.names, self.sums + other.sums, self.capacity)
        names = sorted({*self.names, *other.names})
        place = {name: i for i, name in enumerate(names)}
        sums = np.zeros((len(names) + 1, *self.sums.shape[1:]))
        for part in (self, other):
            sums[[*(place[name] for name in part.names), len(names)]] += part.sums
        return _bounded(names, sums, self.capacity)

    @property
    def count(self) -> float:
        """Weight of the rows judged."""
        return float(self.sums[..., ROWS].sum())

    @property
    def truncated(self) -> bool:
        """Whether there were more categories than fit."""
        return bool(self.sums[-1, :, ROWS].sum() > 0)

    @property
    def total(self) -> Floats:
        """Sums per bucket over all categories, shape (buckets, 5)."""
        total: Floats = self.sums.sum(0)
        return total


def _bounded(names: list[str], sums: Floats, capacity: int) -> OutcomesSummary:
    keep = kept_names(names, capacity)
    if keep is None:
        return OutcomesSummary(tuple(names), sums, capacity)
    inner, rest = sums[:-1], sums[-1]
    return OutcomesSummary(tuple(np.array(names, dtype=object)[keep]), np.concatenate([inner[keep], (rest + inner[~keep].sum(0))[None]]), capacity)


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
        names, which = _categories(batch, self.over)
        keep = kept_names(names, self.capacity)
        if keep is not None:
            place = np.where(keep, np.cumsum(keep) - 1, keep.sum())
            names, which = [name for name, stays in zip(names, keep, strict=True) if stays], place[which]
        cells = which * self.buckets + bucket(batch[self.cluster], self.buckets)
        right = np.clip(np.where(y == 1, p, 1 - p), _CLIP, 1)
        size = (len(names) + 1) * self.buckets
        sums = np.stack([weight_sums(cells, values, size) for values in (w, w * p, w * y, -w * np.log(right), w * p * (1 - p))], axis=1)
        return OutcomesSummary(tuple(names), sums.reshape(len(names) + 1, self.buckets, 5), self.capacity)


def _categories(batch: Batch, over: tuple[str, ...]) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the crossings that occur, ascending, and each row's place among them."""
    names: list[str] = [""]
    which = np.zeros(batch.rows, dtype=np.int64)
    for i, name in enumerate(over):
        column = batch.categories(name)
        size = len(column.values) + 1
        present, place = np.unique(which * size + column.codes + 1, return_inverse=True)
        texts = [("" if code % size == 0 else category_name(column.values[code % size - 1])) for code in present]
        joined = [text if i == 0 else f"{names[code // size]}{SEPARATOR}{text}" for code, text in zip(present, texts, strict=True)]
        names = sorted(set(joined))  # 3 and 3.0, missing and "" are one category
        order = {text: i for i, text in enumerate(names)}
        which = np.array([order[text] for text in joined], dtype=np.int64)[place]
    return names, which
