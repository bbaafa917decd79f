"""Predicted against actual numbers: bias, mean squared and absolute error, explained variance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights, require_numbers
from recspect.diagnosis.stats.moments import LARGEST, Moments, MomentsSummary, moments_of


@dataclass(frozen=True)
class PredictionErrorSummary(Summary):
    """Moments of the error, its size and the target, over rows where both numbers are finite.

    Args:
        error: Of prediction - target, in the target's unit.
        absolute: Of |prediction - target|.
        target: Of the target.
        invalid: Weight of rows left out: prediction or target missing, infinite or beyond 5e69.
    """

    error: MomentsSummary
    absolute: MomentsSummary
    target: MomentsSummary
    invalid: float

    def __add__(self, other: PredictionErrorSummary) -> PredictionErrorSummary:
        return PredictionErrorSummary(self.error + other.error, self.absolute + other.absolute,
                                      self.target + other.target, self.invalid + other.invalid)

    @property
    def count(self) -> float:
        """Weight of the rows judged."""
        return self.error.count

    @property
    def bias(self) -> float:
        """Mean of prediction - target; NaN for no rows."""
        return self.error.mean if self.count else np.nan

    @property
    def mean_squared_error(self) -> float:
        """Mean of (prediction - target)^2; NaN for no rows."""
        return self.error.m2 / self.count + self.error.mean**2 if self.count else np.nan

    @property
    def root_mean_squared_error(self) -> float:
        """Its square root, in the target's unit; NaN for no rows."""
        return float(np.sqrt(self.mean_squared_error))

    @property
    def mean_absolute_error(self) -> float:
        """Mean of |prediction - target|; NaN for no rows."""
        return self.absolute.mean if self.count else np.nan

    @property
    def r_squared(self) -> float:
        """1 - squared error / squared deviation of the target from its mean, below 0 if worse than it; NaN if that is 0."""
        return 1 - self.mean_squared_error * self.count / self.target.m2 if self.target.m2 > 0 else np.nan


@dataclass(frozen=True, kw_only=True)
class PredictionError(Stat[PredictionErrorSummary]):
    """Predictions of a rating, a dwell time or any other number against what came true.

    Example:
        >>> stat = PredictionError(prediction="p", target="y")
        >>> stat.summarize(Batch({"p": np.array([3., 5.]), "y": np.array([4., 4.])})).mean_absolute_error
        1.0
    """

    prediction: str = "@score"
    target: str = "@label"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.prediction, self.target)

    def zero(self) -> PredictionErrorSummary:
        return PredictionErrorSummary(MomentsSummary(), MomentsSummary(), MomentsSummary(), 0.0)

    def summarize(self, batch: Batch, weight: Weights = None) -> PredictionErrorSummary:
        p, y = batch.numbers(self.prediction), batch.numbers(self.target)
        valid = (np.abs(p) <= LARGEST / 2) & (np.abs(y) <= LARGEST / 2)
        w = np.ones(len(p)) if weight is None else weight
        invalid = float(w[~valid].sum())
        error, y, w = p[valid] - y[valid], y[valid], w[valid]
        return PredictionErrorSummary(moments_of(error, w), moments_of(np.abs(error), w), moments_of(y, w), invalid)

    def pushdown(self, frame: nw.LazyFrame[Any], *, group: nw.Expr | None = None, weight: str | None = None,
                 ) -> Mapping[Any, PredictionErrorSummary]:
        require_numbers(frame, *self.columns)
        p, y = nw.col("p"), nw.col("y")
        rows = frame.select(p=nw.col(self.prediction).cast(nw.Float64), y=nw.col(self.target).cast(nw.Float64),
                            w=nw.lit(1.0) if weight is None else nw.col(weight).cast(nw.Float64),
                            key=nw.lit(0) if group is None else group)
        valid = ((p.abs() <= LARGEST / 2) & (y.abs() <= LARGEST / 2) & ~p.is_nan() & ~y.is_nan()).fill_null(False)
        rows = rows.with_columns(error=nw.when(valid).then(p - y), y=nw.when(valid).then(y))
        rows = rows.with_columns(absolute=nw.col("error").abs())
        by_key = None if group is None else nw.col("key")
        error, absolute, target = (Moments(column=name).pushdown(rows, group=by_key, weight="w")
                                   for name in ("error", "absolute", "y"))
        return {key: PredictionErrorSummary(MomentsSummary(**{**vars(error[key]), "missing": 0.0}),
                                            MomentsSummary(**{**vars(absolute[key]), "missing": 0.0}),
                                            MomentsSummary(**{**vars(target[key]), "missing": 0.0}),
                                            error[key].missing)
                for key in error}
