"""Count, mean, variance, skewness, kurtosis and range of a column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights, require_numbers

LARGEST = 1e70
"""Fourth powers of larger values are infinite, so these count as infinite themselves."""


@dataclass(frozen=True)
class MomentsSummary(Summary):
    """Central moments that add.

    Args:
        count: Weight of the finite values.
        missing: Weight of the missing ones (null, NaN).
        infinite: Weight of those beyond `LARGEST`, infinite or not.
        mean: Mean of the finite values (0 when there are none).
        m2, m3, m4: Sums of powers of deviations from the mean.
        low, high: Smallest and largest finite value (+inf and -inf when there are none).
    """

    count: float = 0.0
    missing: float = 0.0
    infinite: float = 0.0
    mean: float = 0.0
    m2: float = 0.0
    m3: float = 0.0
    m4: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    def __add__(self, other: MomentsSummary) -> MomentsSummary:
        """Sources: Chan, Golub and LeVeque 1979; Pebay 2008, "Formulas for Robust, One-Pass Parallel Computation"."""
        n = self.count + other.count
        base = {"missing": self.missing + other.missing, "infinite": self.infinite + other.infinite,
                "low": min(self.low, other.low), "high": max(self.high, other.high)}
        if self.count == 0 or other.count == 0:
            full = self if other.count == 0 else other
            return MomentsSummary(count=n, mean=full.mean, m2=full.m2, m3=full.m3, m4=full.m4, **base)
        d = other.mean - self.mean
        a, b = self.count, other.count
        return MomentsSummary(
            count=n,
            mean=self.mean + d * b / n,
            m2=self.m2 + other.m2 + d**2 * a * b / n,
            m3=self.m3 + other.m3 + d**3 * a * b * (a - b) / n**2 + 3 * d * (a * other.m2 - b * self.m2) / n,
            m4=(self.m4 + other.m4 + d**4 * a * b * (a * a - a * b + b * b) / n**3
                + 6 * d**2 * (a * a * other.m2 + b * b * self.m2) / n**2 + 4 * d * (a * other.m3 - b * self.m3) / n),
            **base,
        )

    @property
    def total(self) -> float:
        """Sum of the finite values."""
        return self.mean * self.count

    @property
    def variance(self) -> float:
        """Variance with the n - 1 correction; NaN for fewer than two."""
        return self.m2 / (self.count - 1) if self.count > 1 else np.nan

    @property
    def deviation(self) -> float:
        """Standard deviation; NaN for fewer than two."""
        return float(np.sqrt(self.variance))

    @property
    def skewness(self) -> float:
        """Population skewness; NaN for a constant."""
        return float(np.sqrt(self.count) * self.m3 / self.m2**1.5) if self.m2 > 0 else np.nan

    @property
    def kurtosis(self) -> float:
        """Excess kurtosis; NaN for a constant."""
        return self.count * self.m4 / self.m2**2 - 3 if self.m2 > 0 else np.nan

    @property
    def missing_share(self) -> float:
        """Share of rows without a finite value; NaN for no rows."""
        rows = self.count + self.missing + self.infinite
        return (self.missing + self.infinite) / rows if rows else np.nan


def moments_of(values: NDArray[np.float64], weight: Weights = None) -> MomentsSummary:
    """The moments of an array, shape (rows,); each value counted `weight` times where given."""
    w = np.ones(len(values)) if weight is None else weight
    finite = np.abs(values) <= LARGEST
    absent = np.isnan(values)
    missing = float(w[absent].sum())
    infinite = float(w[~finite & ~absent].sum())
    used = finite & (w > 0)
    x, w = values[used], w[used]
    count = float(w.sum())
    if not count:
        return MomentsSummary(missing=missing, infinite=infinite)
    mean = float(x[0] + ((x - x[0]) * w).sum() / count)
    d = x - mean
    square = d * d
    return MomentsSummary(count=count, missing=missing, infinite=infinite, mean=mean, m2=float((w * square).sum()),
                          m3=float((w * square * d).sum()), m4=float((w * square * square).sum()),
                          low=float(x.min()), high=float(x.max()))


@dataclass(frozen=True, kw_only=True)
class Moments(Stat[MomentsSummary]):
    """Count, mean, variance, skewness, kurtosis, range, missing share of a numeric column.

    Example:
        >>> Moments(column="x").summarize(Batch({"x": np.array([1., 2., np.nan])})).mean
        1.5
    """

    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def zero(self) -> MomentsSummary:
        return MomentsSummary()

    def summarize(self, batch: Batch, weight: Weights = None) -> MomentsSummary:
        return moments_of(batch.numbers(self.column), weight)

    def pushdown(self, frame: nw.LazyFrame[Any], *, group: nw.Expr | None = None, weight: str | None = None,
                 ) -> Mapping[Any, MomentsSummary]:
        """Two queries: the mean first, then sums of powers of deviations from it, so that nothing cancels."""
        require_numbers(frame, self.column)
        x = nw.col(self.column).cast(nw.Float64)
        w = nw.lit(1.0) if weight is None else nw.col(weight).cast(nw.Float64)
        known = frame.select(
            x=x, w=w, key=nw.lit(0) if group is None else group,
        ).with_columns(missing=nw.col("x").is_null() | nw.col("x").is_nan(), infinite=nw.col("x").abs() > LARGEST)
        known = known.with_columns(
            missing=nw.col("missing").fill_null(True), infinite=nw.col("infinite").fill_null(False) & ~nw.col("missing").fill_null(True),
        )
        use = ~nw.col("missing") & ~nw.col("infinite") & (nw.col("w") > 0)
        x, w = nw.col("x"), nw.col("w")
        first = known.with_columns(v=nw.when(use).then(x), u=nw.when(use).then(w).otherwise(0.0)).group_by("key").agg(
            count=nw.col("u").sum(), total=(nw.col("u") * nw.col("v")).sum(), low=nw.col("v").min(), high=nw.col("v").max(),
        )
        extra = known.with_columns(m=nw.when(nw.col("missing")).then(w).otherwise(0.0),
                                   i=nw.when(nw.col("infinite")).then(w).otherwise(0.0)).group_by("key").agg(
            missing=nw.col("m").sum(), infinite=nw.col("i").sum())
        sums = _rows(first.join(extra, on="key", how="left"))
        means = {row["key"]: row["total"] / row["count"] if row["count"] else 0.0 for row in sums}
        centre = nw.lit(0.0)
        for key, mean in means.items():
            centre = nw.when(nw.col("key") == key).then(nw.lit(mean)).otherwise(centre)
        d = x - nw.col("centre")
        powers = {row["key"]: row for row in _rows(
            known.filter(use).with_columns(centre=centre).with_columns(d=d)
            .with_columns(d1=w * nw.col("d"), d2=w * nw.col("d") ** 2, d3=w * nw.col("d") ** 3, d4=w * nw.col("d") ** 4)
            .group_by("key").agg(*(nw.col(f"d{i}").sum() for i in (1, 2, 3, 4))))}
        out: dict[Any, MomentsSummary] = {}
        for row in sums:
            p = powers.get(row["key"], {"d1": 0.0, "d2": 0.0, "d3": 0.0, "d4": 0.0})
            n = row["count"]
            out[None if group is None else row["key"]] = MomentsSummary(
                count=n, missing=row["missing"], infinite=row["infinite"],
                mean=means[row["key"]] + (p["d1"] / n if n else 0.0), m2=p["d2"], m3=p["d3"], m4=p["d4"],
                low=np.inf if row["low"] is None else row["low"], high=-np.inf if row["high"] is None else row["high"])
        return out if out or group is not None else {None: self.zero()}


def _rows(frame: nw.LazyFrame[Any]) -> list[dict[str, Any]]:
    return list(frame.collect(backend="pyarrow").iter_rows(named=True))
