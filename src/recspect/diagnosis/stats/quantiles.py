"""Quantiles of a numeric column in bounded memory, and distances between two such distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from datasketches import kll_doubles_sketch
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.shares import Shares
from recspect.errors import DataError, Unavailable, UsageError

Floats = NDArray[np.float64]
_LARGEST_WEIGHT = 1000
_GRID = 4096
"""Places at which two distributions are compared; all values where there are fewer."""


@dataclass(frozen=True)
class QuantilesSummary(Summary):
    """A KLL sketch of the finite values (Karnin, Lang and Liberty 2016), and counts of the others.

    Up to about k values it holds all of them and every answer is exact; beyond, ranks are off by up to `rank_error`.
    The sketch draws random bits, so two passes over the same many rows agree within that error, not to the bit.

    Args:
        sketch: Serialised `kll_doubles_sketch`.
        missing: Weight of missing values.
        infinite: Weight of infinite values.
    """

    sketch: bytes
    missing: float
    infinite: float

    def __add__(self, other: QuantilesSummary) -> QuantilesSummary:
        missing, infinite = self.missing + other.missing, self.infinite + other.infinite
        if not self.count or not other.count:
            return QuantilesSummary((self if self.count else other).sketch, missing, infinite)
        merged = kll_doubles_sketch.deserialize(self.sketch)
        merged.merge(other._read)
        return QuantilesSummary(merged.serialize(), missing, infinite)

    @cached_property
    def _read(self) -> Any:
        return kll_doubles_sketch.deserialize(self.sketch)

    @property
    def count(self) -> float:
        """Number of finite values."""
        return float(self._read.n)

    @property
    def rank_error(self) -> float:
        """Largest error of a rank (a share of rows, 0 to 1) with 99% confidence; 0 while all values are held."""
        return float(self._read.normalized_rank_error(False)) if self._read.is_estimation_mode() else 0.0

    @property
    def low(self) -> float:
        """Smallest finite value, exact; NaN for none."""
        return float(self._read.get_min_value()) if self.count else np.nan

    @property
    def high(self) -> float:
        """Largest finite value, exact; NaN for none."""
        return float(self._read.get_max_value()) if self.count else np.nan

    def quantile(self, share: float) -> float:
        """The smallest value such that at least this share of the values is not above it; NaN for no values."""
        return float(self._read.get_quantile(share, True)) if self.count else np.nan

    def quantiles(self, shares: Sequence[float]) -> Floats:
        """`quantile` for several shares, shape (shares,)."""
        if not self.count:
            return np.full(len(shares), np.nan)
        return np.array(self._read.get_quantiles([float(share) for share in shares], True))

    def cdf(self, values: Sequence[float] | Floats, *, inclusive: bool = True) -> Floats:
        """Share of rows not above (or, with `inclusive=False`, below) each value; shape like `values`, NaN for no rows."""
        points = np.asarray(values, dtype=np.float64)
        if not self.count:
            return np.full(len(points), np.nan)
        distinct, inverse = np.unique(points, return_inverse=True)
        return np.array(self._read.get_cdf(distinct.tolist(), inclusive)[:-1])[inverse]

    def histogram(self, edges: Sequence[float] | Floats) -> Floats:
        """Rows in [edge, next edge), the last bin with its upper edge, as NumPy's; shape (edges - 1,)."""
        points = np.asarray(edges, dtype=np.float64)
        if not self.count:
            return np.zeros(max(len(points) - 1, 0))
        below = self.cdf(points, inclusive=False)
        below[-1] = self.cdf(points[-1:])[0]
        return np.diff(below) * self.count

    def distance(self, other: QuantilesSummary) -> float:
        """How far apart two summaries of the same rows are, as a multiple of what the rank error allows; for the laws."""
        if (self.count, self.missing, self.infinite) != (other.count, other.missing, other.infinite):
            return np.inf
        if not self.count:
            return 0.0
        gap = kolmogorov_smirnov(self, other)
        allowed = 2 * (self.rank_error + other.rank_error)
        return gap / allowed if allowed else (0.0 if gap < 1e-12 else np.inf)

    def _support(self) -> Floats:
        size = min(int(self.count), _GRID)
        inner = self._read.get_quantiles(((np.arange(size) + 0.5) / size).tolist(), True)
        return np.unique([self.low, *inner, self.high])


@dataclass(frozen=True, kw_only=True)
class Quantiles(Stat[QuantilesSummary]):
    """Quantiles, histogram and distribution of a numeric column.

    Weights must be whole numbers up to 1000 (the sketch counts whole rows): a fractional weight is refused, not rounded.

    Args:
        column: A numeric column.
        k: Size of the sketch; 1024 takes at most 24 kB and gives a rank error of 0.27%.

    Raises:
        DataError: (when summarizing) a weight is not a whole number up to 1000.

    Example:
        >>> Quantiles(column="x").summarize(Batch({"x": np.arange(101.)})).quantile(0.5)
        50.0
    """

    column: str
    k: int = 1024

    def __post_init__(self) -> None:
        if not 8 <= self.k <= 65535:
            raise UsageError(f"Quantiles: k is {self.k}, expected 8 to 65535")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def zero(self) -> QuantilesSummary:
        return QuantilesSummary(kll_doubles_sketch(self.k).serialize(), 0.0, 0.0)

    def summarize(self, batch: Batch, weight: Weights = None) -> QuantilesSummary:
        values = batch.numbers(self.column)
        w = np.ones(len(values)) if weight is None else weight
        refused = w[(w != np.floor(w)) | (w > _LARGEST_WEIGHT)]
        if len(refused):
            raise DataError(f"quantiles of {self.column!r} count whole rows; weights must be whole numbers up to "
                            f"{_LARGEST_WEIGHT}, found {refused[0]:g}",
                            hint="use Moments, whose weights may be fractions, or leave the weights out")
        finite = np.isfinite(values)
        known = values[finite] + 0.0
        if weight is not None:
            known = np.repeat(known, w[finite].astype(np.int64))
        sketch = kll_doubles_sketch(self.k)
        sketch.update(np.ascontiguousarray(known))
        return QuantilesSummary(sketch.serialize(), float(w[np.isnan(values)].sum()), float(w[np.isinf(values)].sum()))


# ---------------------------------------------------------------------- two distributions


@dataclass(frozen=True, kw_only=True)
class QuantileBins:
    """Bins of equal weight in a reference, then one each for missing and infinite values.

    Args:
        edges: Inner edges, ascending.
        lowest: The smallest value, where it fills a bin by itself; the first edge is then the next number above it.
    """

    edges: Floats
    lowest: float | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """What each bin holds."""
        edges = self.edges
        if self.lowest is not None:
            above = [f"above {self.lowest:g}{f' to below {edges[1]:g}' if len(edges) > 1 else ''}"]
            rest = [*(f"{a:g} to below {b:g}" for a, b in pairwise(edges[1:])), f"{edges[-1]:g} and above"] if len(edges) > 1 else []
            return (f"{self.lowest:g} and below", *above, *rest, "(missing)", "(infinite)")
        inner = [f"below {edges[0]:g}", *(f"{a:g} to below {b:g}" for a, b in pairwise(edges)), f"{edges[-1]:g} and above"] if len(edges) else ["all values"]
        return (*inner, "(missing)", "(infinite)")

    def counts(self, side: QuantilesSummary) -> Floats:
        """Weight per bin, shape (bins,)."""
        below = np.concatenate([[0.0], side.cdf(self.edges, inclusive=False) if side.count else self.edges * 0, [1.0]])
        return np.concatenate([np.diff(below) * side.count, [side.missing, side.infinite]])


def quantile_bins(reference: QuantilesSummary, *, bins: int = 10) -> QuantileBins:
    """The bins of `compare_quantiles`.

    Raises:
        Unavailable: The reference has no finite value.
    """
    if not reference.count:
        raise Unavailable("the reference has no finite value")
    edges = np.unique(reference.quantiles((np.arange(1, bins) / bins).tolist()))
    if edges[0] > reference.low:
        return QuantileBins(edges=edges)
    first = float(edges[0])  # zeros of a count, say: without a bin of their own, their share could change unseen
    return QuantileBins(edges=np.append(np.nextafter(first, np.inf), edges[1:]), lowest=first)


def compare_quantiles(target: QuantilesSummary, reference: QuantilesSummary, *, bins: int = 10) -> Shares:
    """Both distributions over bins of equal weight in the reference, and one bin each for missing and infinite values.

    Fewer bins where many rows share a value; the smallest value has one by itself where it is that of a tenth of the rows, say. Each share is off by up to twice the rank error of its side.

    Raises:
        Unavailable: The reference has no finite value.
    """
    chosen = quantile_bins(reference, bins=bins)
    left, right = chosen.counts(target), chosen.counts(reference)
    used = left + right > 0
    return Shares(names=tuple(np.array(chosen.labels, dtype=object)[used]), target=left[used], reference=right[used])


def kolmogorov_smirnov(target: QuantilesSummary, reference: QuantilesSummary) -> float:
    """Largest difference of the two distribution functions, 0 to 1, off by up to the sum of both rank errors.

    Raises:
        Unavailable: A side has no finite value.
    """
    _, gap = _gap(target, reference)
    return float(gap.max())


def wasserstein(target: QuantilesSummary, reference: QuantilesSummary) -> float:
    """How far values would have to move on average (W1), in the column's unit.

    Off by up to the sum of both rank errors times the range of the values.

    Raises:
        Unavailable: A side has no finite value.
    """
    points, gap = _gap(target, reference)
    return float((gap[:-1] * np.diff(points)).sum())


def _gap(target: QuantilesSummary, reference: QuantilesSummary) -> tuple[Floats, Floats]:
    if not target.count or not reference.count:
        raise Unavailable("a side has no finite value to compare")
    points = np.union1d(target._support(), reference._support())  # noqa: SLF001 - of the same class, in the same file
    return points, np.abs(target.cdf(points) - reference.cdf(points))
