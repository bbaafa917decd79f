"""Whether one time comes after another within rows: values that were known only after the event that they describe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.time_blocks import time_in_seconds


@dataclass(frozen=True)
class LaterSummary(Summary):
    """How many rows have one time after the other.

    Args:
        count: Weight of rows in which both times are known.
        later: Weight of those whose time comes strictly after the other.
        missing: Weight of rows in which one is not known.
        most: Longest time by which it comes after; 0 for never. Seconds.
    """

    count: float = 0.0
    later: float = 0.0
    missing: float = 0.0
    most: float = 0.0

    def __add__(self, other: LaterSummary) -> LaterSummary:
        return LaterSummary(self.count + other.count, self.later + other.later, self.missing + other.missing, max(self.most, other.most))

    @property
    def share(self) -> float:
        """Share of rows that come after; NaN for none."""
        return self.later / self.count if self.count else np.nan


@dataclass(frozen=True, kw_only=True)
class Later(Stat[LaterSummary]):
    """Rows in which `column` comes after `than`; equal times do not.

    Args:
        column, than: Two columns of times, or of numbers.
        time_unit: Of those that hold numbers; see `time_in_seconds`.

    Example:
        >>> batch = Batch({"known": np.array([1., 5.]), "time": np.array([2., 2.])})
        >>> Later(column="known", than="time").summarize(batch).share
        0.5
    """

    column: str
    than: str
    time_unit: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.column, self.than)))

    def zero(self) -> LaterSummary:
        return LaterSummary()

    def summarize(self, batch: Batch, weight: Weights = None) -> LaterSummary:
        w = np.ones(batch.rows) if weight is None else weight
        first, second = (time_in_seconds(batch, name, self.time_unit) for name in (self.column, self.than))
        with np.errstate(invalid="ignore"):
            gap = first - second
            known = np.isfinite(gap)
            later = known & (gap > 0) & (w > 0)
        return LaterSummary(float(w[known].sum()), float(w[later].sum()), float(w[~known].sum()), float(gap[later].max(initial=0.0)))
