"""Rows, positives and predictions along time, in blocks whose width doubles until they fit, and in buckets of users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.counting import weight_sums
from recspect.errors import UsageError

Floats = NDArray[np.float64]
ROWS, POSITIVE, PREDICTED, VARIANCE, LOSS = range(5)
_CLIP = 1e-15
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "days": 86_400.0}
_LARGEST = 2.0**52
"""Blocks are numbered by whole numbers that a float holds exactly."""


def time_in_seconds(batch: Batch, column: str, unit: str | None) -> Floats:
    """A time column as seconds, shape (rows,), NaN where missing; numbers of unit `row` or of none stay as they are.

    Raises:
        DataError: The column holds neither times nor numbers.
    """
    held = batch[column]
    is_time = isinstance(held, np.ndarray) and held.dtype.kind == "M"
    seconds: Floats = batch.numbers(column) * (1e-6 if is_time else _SECONDS.get(unit or "", 1.0))
    return seconds


@dataclass(frozen=True)
class TimeBlocksSummary(Summary):
    """Sums per block of time and bucket of users.

    A block is numbered floor(time / (width 2^level)). The level is the smallest at which all blocks fit, which depends on the set of rows only,
    so it adds in any order.

    Args:
        keys: Numbers of the blocks that hold rows, ascending.
        sums: Shape (blocks, buckets, 5): rows, positive, predicted, p (1 - p), log loss (nats).
        level: How often the width was doubled.
        capacity: How many blocks fit.
    """

    keys: NDArray[np.int64]
    sums: Floats
    level: int
    capacity: int

    def __add__(self, other: TimeBlocksSummary) -> TimeBlocksSummary:
        level = max(self.level, other.level)
        keys = np.concatenate([part.keys >> (level - part.level) for part in (self, other)])
        return _fitted(keys, np.concatenate([self.sums, other.sums]), level, self.capacity)

    @property
    def count(self) -> float:
        """Weight of the rows."""
        return float(self.sums[..., ROWS].sum())

    def starts(self, width: float) -> Floats:
        """When each block begins, in the unit of `width`."""
        return np.asarray(self.keys * (width * 2.0**self.level), dtype=np.float64)


def _fitted(keys: NDArray[np.int64], sums: Floats, level: int, capacity: int) -> TimeBlocksSummary:
    present, place = np.unique(keys, return_inverse=True)
    while len(present) > capacity:
        level += 1
        present, again = np.unique(present >> 1, return_inverse=True)
        place = again[place]
    total = np.zeros((len(present), *sums.shape[1:]))
    np.add.at(total, place, sums)
    return TimeBlocksSummary(present, total, level, capacity)


@dataclass(frozen=True, kw_only=True)
class TimeBlocks(Stat[TimeBlocksSummary]):
    """Rows, positives, predicted positives, p (1 - p) and log loss per block of time and bucket of users.

    Args:
        time: Times, or numbers of the unit.
        time_unit: Of a numeric time column; `row` and None leave the numbers as they are.
        width: Of a block before doubling: seconds, or rows for unit `row`.
        capacity: Most blocks kept; memory is capacity x buckets x 40 bytes.
        cluster, buckets: Whose rows are dependent, and in how many buckets they are kept apart.
        label: 0/1; other rows are left out.
        score: Probabilities in [0, 1]; other rows are left out. None: nothing is predicted, and the log loss is 0.
    """

    time: str
    time_unit: str | None = None
    width: float = 3600.0
    capacity: int = 256
    cluster: str = "@cluster"
    buckets: int = 50
    label: str = "@label"
    score: str | None = None

    def __post_init__(self) -> None:
        if self.width <= 0 or self.capacity < 2 or self.buckets < 2:
            raise UsageError(f"TimeBlocks: width {self.width}, capacity {self.capacity}, {self.buckets} buckets", hint="expected above 0, and 2 or more")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.time, self.cluster, self.label, *((self.score,) if self.score else ()))))

    def zero(self) -> TimeBlocksSummary:
        return TimeBlocksSummary(np.zeros(0, dtype=np.int64), np.zeros((0, self.buckets, 5)), 0, self.capacity)

    def summarize(self, batch: Batch, weight: Weights = None) -> TimeBlocksSummary:
        key, y = np.floor(time_in_seconds(batch, self.time, self.time_unit) / self.width), batch.numbers(self.label)
        p = np.zeros(batch.rows) if self.score is None else batch.numbers(self.score)
        w = np.ones(batch.rows) if weight is None else weight
        with np.errstate(invalid="ignore"):
            used = (np.abs(key) < _LARGEST) & ((y == 0) | (y == 1)) & (p >= 0) & (p <= 1) & (w > 0)
        if not used.any():
            return self.zero()
        y, p, w = y[used], p[used], w[used]
        keys, place = np.unique(key[used].astype(np.int64), return_inverse=True)
        cells, size = place * self.buckets + batch.buckets(self.cluster, self.buckets)[used], len(keys) * self.buckets
        loss = np.zeros(len(p)) if self.score is None else -np.log(np.clip(np.where(y == 1, p, 1 - p), _CLIP, 1))
        sums = np.stack([weight_sums(cells, values, size) for values in (w, w * y, w * p, w * p * (1 - p), w * loss)], axis=1)
        return _fitted(keys, sums.reshape(len(keys), self.buckets, 5), 0, self.capacity)
