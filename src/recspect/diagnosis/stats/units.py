"""What each unit of a layer does over many rows: dead, dormant, saturated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class UnitActivitySummary(Summary):
    """Sums per unit; arrays of shape (units,), of size 0 before any row was seen.

    Args:
        count: Weight of the rows.
        finite: Weight of finite values.
        positive: Weight of values above 0.
        total, square, absolute: Sums of h, h^2 and |h| over finite values.
        highest: Largest finite value, -inf where there is none.
        saturated: Weight of values with |h| above the stat's `limit`, infinite ones included.
    """

    count: float
    finite: Floats
    positive: Floats
    total: Floats
    square: Floats
    absolute: Floats
    highest: Floats
    saturated: Floats

    def __add__(self, other: UnitActivitySummary) -> UnitActivitySummary:
        count = self.count + other.count
        if not self.units or not other.units:
            full = self if self.units else other
            return UnitActivitySummary(count, full.finite, full.positive, full.total, full.square, full.absolute,
                                       full.highest, full.saturated)
        if self.units != other.units:
            raise DataError(f"activations of {self.units} and of {other.units} units cannot be added up")
        return UnitActivitySummary(
            count, self.finite + other.finite, self.positive + other.positive, self.total + other.total,
            self.square + other.square, self.absolute + other.absolute, np.maximum(self.highest, other.highest),
            self.saturated + other.saturated)

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.total)

    @property
    def mean(self) -> Floats:
        """Mean activation per unit, NaN where nothing is finite."""
        return _ratio(self.total, self.finite)

    @property
    def deviation(self) -> Floats:
        """Standard deviation per unit, NaN where nothing is finite."""
        return np.sqrt(np.maximum(_ratio(self.square, self.finite) - self.mean**2, 0.0))

    @property
    def active_share(self) -> Floats:
        """Share of rows in which a unit is above 0."""
        return _ratio(self.positive, self.finite)

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Units never above 0 in any row: behind a ReLU these send no gradient. All False for no rows."""
        return (self.highest <= 0) & (self.finite > 0)

    @property
    def activity(self) -> Floats:
        """Mean |h| per unit over the mean of that over the layer; 0 everywhere in a layer that is silent."""
        size = np.nan_to_num(_ratio(self.absolute, self.finite))
        mean = size.mean() if len(size) else 0.0
        return size / mean if mean > 0 else np.zeros(self.units)

    def dormant(self, threshold: float = 0.025) -> NDArray[np.bool_]:
        """Units whose activity is at most the threshold. Source: Sokar et al. 2023, "The Dormant Neuron Phenomenon"."""
        return (self.activity <= threshold) & (self.finite > 0)

    @property
    def saturated_share(self) -> Floats:
        """Share of rows in which |h| is above the limit."""
        return _ratio(self.saturated, np.full(self.units, self.count))


def _ratio(part: Floats, whole: Floats) -> Floats:
    out: Floats = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return out


@dataclass(frozen=True, kw_only=True)
class UnitActivity(Stat[UnitActivitySummary]):
    """Activity of every unit of a layer.

    Args:
        column: Activations, one vector of all units per row.
        limit: Size from which a unit counts as saturated: at 4, a sigmoid has 7% and a tanh 0.1% of its steepest slope.

    Sources: Sokar et al. 2023 for dormant units; the limit is SageMaker Debugger's for saturated tanh and sigmoid layers.
    """

    column: str
    limit: float = 4.0

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def zero(self) -> UnitActivitySummary:
        nothing = np.zeros(0)
        return UnitActivitySummary(0.0, nothing, nothing, nothing, nothing, nothing, nothing, nothing)

    def summarize(self, batch: Batch, weight: Weights = None) -> UnitActivitySummary:
        h = batch.matrix(self.column)
        w = np.ones(len(h)) if weight is None else weight
        h, w = h[w > 0], w[w > 0]
        if not len(w):
            return self.zero()
        finite = np.isfinite(h)
        whole = bool(finite.all())
        known = h if whole else np.where(finite, h, 0.0)
        size = np.abs(known)
        with np.errstate(over="ignore"):  # an infinite sum of squares says what it is
            square = w @ (known * known)
        return UnitActivitySummary(
            count=float(w.sum()), finite=w @ finite, positive=w @ (known > 0), total=w @ known, square=square,
            absolute=w @ size, highest=np.where(finite, h, -np.inf).max(0, initial=-np.inf),
            saturated=w @ ((size > self.limit) | np.isinf(h)))
