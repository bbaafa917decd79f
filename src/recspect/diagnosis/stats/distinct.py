"""How many distinct values a column has, and how many of them another column has too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import narwhals as nw
import numpy as np

from recspect.diagnosis.batch import Array, Batch, Categorical, Column, Ragged, factorize, hash_values
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.counting import grouped_counts, weight_sums
from recspect.diagnosis.stats.hashes import Hashes, share_below, smallest, threshold, wilson
from recspect.errors import UsageError


@dataclass(frozen=True)
class DistinctSummary(Summary):
    """The k smallest hashes of the distinct values.

    Args:
        hashes: Ascending, shape (kept,).
        count: Weight of the rows with a value.
        missing: Weight of the rows without.
        k: How many hashes are kept at most.
    """

    hashes: Hashes
    count: float
    missing: float
    k: int

    def __add__(self, other: DistinctSummary) -> DistinctSummary:
        both = np.append(self.hashes, other.hashes)
        return DistinctSummary(smallest(both, np.ones(len(both)), self.k)[0], self.count + other.count,
                               self.missing + other.missing, self.k)

    @property
    def exact(self) -> bool:
        """Whether all values are kept."""
        return len(self.hashes) < self.k

    @property
    def distinct(self) -> float:
        """Number of distinct values: exact, or estimated as (k - 1) / (share of hashes below the k-th)."""
        return float(len(self.hashes)) if self.exact else (self.k - 1) / share_below(self.hashes[-1])

    def estimate(self, level: float = 0.95) -> Estimate:
        """The number with its interval; the relative error is 1 / sqrt(k - 2)."""
        n = int(self.count)
        if self.exact:
            return Estimate(value=self.distinct, unit="distinct values", n=n)
        reach = NormalDist().inv_cdf((1 + level) / 2) / float(np.sqrt(self.k - 2))
        return Estimate(value=self.distinct, low=self.distinct / (1 + reach), high=self.distinct / (1 - reach),
                        unit="distinct values", n=n, level=level)


@dataclass(frozen=True, kw_only=True)
class Distinct(Stat[DistinctSummary]):
    """Distinct values of a column by the k smallest hashes (KMV, the simplest theta sketch; Bar-Yossef et al. 2002).

    Deterministic, and exact up to k values. Entries of a column of lists count one by one.

    Args:
        column: Any column but vectors.
        k: Hashes kept, 8 bytes each; 4096 gives a relative error of 1.6%.
    """

    column: str
    k: int = 4096

    def __post_init__(self) -> None:
        if self.k < 20:
            raise UsageError(f"Distinct: k is {self.k}, expected at least 20")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def zero(self) -> DistinctSummary:
        return DistinctSummary(np.zeros(0, dtype=np.uint64), 0.0, 0.0, self.k)

    def summarize(self, batch: Batch, weight: Weights = None) -> DistinctSummary:
        column: Column = batch[self.column]
        w = np.ones(batch.rows) if weight is None else weight
        missing = 0.0
        if isinstance(column, Ragged):
            missing = float(w[column.lengths == 0].sum())
            w = np.repeat(w, column.lengths)
            column = column.values[column.offsets[0]:column.offsets[-1]]
        if isinstance(column, np.ndarray) and column.dtype.kind in "OUS":
            column = factorize(column)
        known, hashes = _hash_codes(column, w) if isinstance(column, Categorical) else _hash_numbers(batch, self.column, column, w)
        kept, _ = smallest(hashes, np.ones(len(hashes)), self.k)
        return DistinctSummary(kept, float(w[known].sum()), missing + float(w[~known].sum()), self.k)

    def pushdown(self, frame: nw.LazyFrame[Any], *, group: nw.Expr | None = None, weight: str | None = None,
                 ) -> Mapping[Any, DistinctSummary]:
        found = grouped_counts(frame, (self.column,), group=group, weight=weight)
        out = {key: self.summarize(batch, w) for key, (batch, w) in found.items()}
        return out if out or group is not None else {None: self.zero()}


def _hash_codes(column: Categorical, weight: Array) -> tuple[Array, Hashes]:
    """Which rows have a value, and a hash of each value that occurs."""
    counts = weight_sums(column.codes + 1, weight, len(column.values) + 1)[1:]
    return column.codes >= 0, hash_values(column.values[counts > 0])


def _hash_numbers(batch: Batch, name: str, column: Array, weight: Array) -> tuple[Array, Hashes]:
    if column.ndim == 2:
        batch.categories(name)  # raises: vectors are no single values
    known = ~np.isnat(column) if column.dtype.kind == "M" else ~np.isnan(column.astype(np.float64, copy=False))
    return known, hash_values(column[known & (weight > 0)])


def overlap(target: DistinctSummary, reference: DistinctSummary, *, level: float = 0.95) -> Estimate | None:
    """Share of the target's distinct values that occur in the reference; None where the target has none to compare.

    Exact when neither side has more than k values, else with an interval.
    """
    cut = min(threshold(target.hashes, target.k), threshold(reference.hashes, reference.k))
    mine = target.hashes[target.hashes < cut]
    if not len(mine):
        return None
    share = float(np.isin(mine, reference.hashes).mean())
    n = int(target.distinct)
    unit = "share of distinct values that occur in the reference"
    if cut == np.inf:
        return Estimate(value=share, unit=unit, n=n, of="values")
    low, high = wilson(share, len(mine) / (1 - share_below(cut)), level)
    return Estimate(value=share, low=low, high=high, unit=unit, n=n, of="values", level=level)
