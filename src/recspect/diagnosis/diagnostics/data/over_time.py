"""Outcomes along time in stretches of equal length: whole days where the rows span many, else parts of the span."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.stats.time_blocks import ROWS, TimeBlocks, TimeBlocksSummary

Floats = NDArray[np.float64]
_HOUR, _DAY = 3600.0, 86_400.0
_CALENDAR = (631_152_000.0, 4_102_444_800.0)
"""Seconds of 1990 and of 2100: numbers between are taken for seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class Stretches:
    """Sums per stretch of time and bucket of users, in order; stretches without rows are absent.

    Args:
        starts: Beginning of each, seconds (or rows).
        sums: Shape (stretches, buckets, 5): rows, positive, predicted, p (1 - p), log loss.
        width: Length of a stretch.
        ordinal: Whether time only gives an order.
    """

    starts: Floats
    sums: Floats
    width: float
    ordinal: bool

    @property
    def length(self) -> str:
        """How long a stretch is, in words."""
        return _length(self.width, ordinal=self.ordinal)

    def moment(self, stretch: int) -> str:
        """When a stretch begins, in words."""
        start = float(self.starts[stretch])
        if self.ordinal:
            return f"row {start:,.0f}"
        if _CALENDAR[0] <= start < _CALENDAR[1]:
            return datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return f"{_length(start - float(self.starts[0]), ordinal=False)} after the first row"

    @property
    def since_start(self) -> Floats:
        """Beginning of each since the first, in days (or rows)."""
        return np.asarray((self.starts - self.starts[0]) / (1.0 if self.ordinal else _DAY), dtype=np.float64)


def blocks(scope: Scope, side: Collection[str]) -> TimeBlocks:
    """The stat of a side: with predictions where it is scored."""
    unit = scope.schema.time_unit
    return TimeBlocks(time=scope.require_role("time"), time_unit=unit, width=1.0 if unit == "row" else _HOUR, buckets=scope.buckets,
                      score="@score" if "@score" in side else None)


def stretches(summary: TimeBlocksSummary, stat: TimeBlocks, *, most: int, days_from: int) -> Stretches:
    """The blocks in at most about `most` stretches; of whole days (UTC) where the rows span at least `days_from` days."""
    ordinal = stat.time_unit == "row"
    starts = summary.starts(stat.width)
    size = stat.width * 2.0**summary.level
    span = float(starts[-1] - starts[0]) + size if len(starts) else size
    width = max(size, span / most)
    if not ordinal and span >= days_from * _DAY:
        width = _DAY * max(1.0, np.ceil(width / _DAY))
    first = np.floor(starts[0] / _DAY) * _DAY if width >= _DAY and not ordinal and len(starts) else (starts[0] if len(starts) else 0.0)
    keys, place = np.unique(np.floor((starts - first) / width).astype(np.int64), return_inverse=True)
    sums = np.zeros((len(keys), *summary.sums.shape[1:]))
    np.add.at(sums, place, summary.sums)
    held = sums[..., ROWS].sum(1) > 0
    return Stretches(starts=first + keys[held] * width, sums=sums[held], width=width, ordinal=ordinal)


def _length(seconds: float, *, ordinal: bool) -> str:
    if ordinal:
        return f"{seconds:,.0f} rows"
    for size, unit in ((_DAY, "day"), (_HOUR, "hour"), (60.0, "minute"), (1.0, "second")):
        if seconds >= size:
            count = seconds / size
            return f"{count:,.0f} {unit}{'' if round(count) == 1 else 's'}" if abs(count - round(count)) < 0.05 else f"{count:,.1f} {unit}s"
    return f"{seconds:.3g} seconds"
