"""Intervals of any function of totals: a summary per bucket of users, and the jackknife that leaves them out one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.summary import AddedTogether, Joined, Summary, add_up, is_zero
from recspect.errors import Unavailable


@dataclass(frozen=True)
class BucketedSummary(Summary):
    """One summary per bucket of users.

    Args:
        parts: One summary per bucket.
    """

    parts: Sequence[Any]

    def __add__(self, other: BucketedSummary) -> BucketedSummary:
        return BucketedSummary.sum_of((self, other))

    @classmethod
    def sum_of(cls, parts: Sequence[BucketedSummary]) -> BucketedSummary:
        """All of them, bucket by bucket."""
        first = parts[0].parts
        if isinstance(first, Joined) and all(type(part.parts) is type(first) for part in parts):
            return cls(first.sum_of([part.parts for part in parts]))  # type: ignore[misc]  # all of the same type
        return cls(tuple(add_up(same) for same in zip(*(part.parts for part in parts), strict=True)))

    @property
    def count(self) -> float:
        """Buckets that hold anything."""
        return float(sum(not is_zero(part) for part in self.parts))

    @cached_property
    def total(self) -> Any:
        """All buckets together."""
        return self.parts.total if isinstance(self.parts, Joined) else add_up(self.parts)

    def leave_one_out(self) -> list[Any]:
        """For every bucket, the total of all others; 3G additions, by prefix and suffix sums."""
        parts = self.parts
        if isinstance(parts[0], AddedTogether):
            return parts[0].sums_without_each(parts)
        before, after = [parts[0]], [parts[-1]]
        for part in parts[1:-1]:
            before.append(before[-1] + part)
        for part in parts[-2:0:-1]:
            after.append(part + after[-1])
        after.reverse()
        middle = [before[i - 1] + after[i] for i in range(1, len(parts) - 1)]
        return [after[0], *middle, before[-1]]

    def estimate(self, value: Callable[[Any], float], *, unit: str, n: Callable[[Any], float], of: str = "rows",
                 level: float = 0.95) -> Estimate:
        """A function of the total with its jackknife interval.

        Raises:
            Unavailable: The value is not finite (nothing measured).
        """
        return jackknife([self], lambda totals: value(totals[0]), unit=unit, n=int(n(self.total)), of=of, level=level)


def jackknife(summaries: list[BucketedSummary], value: Callable[[list[Any]], float], *, unit: str, n: int,
              of: str = "rows", level: float = 0.95) -> Estimate:
    """A function of several bucketed totals with its interval: the same bucket is left out of all of them at once.

    Delete-a-group jackknife: var = (G-1)/G sum (theta_g - mean)^2 with t quantiles of G-1 degrees of freedom, where G
    counts the buckets whose removal changes anything. Buckets are hashes of users, so rows of one user stay together.
    Sources: Kott 2001, "The Delete-a-Group Jackknife"; Efron and Tibshirani 1993, ch. 11.

    Raises:
        Unavailable: The value of the total is not finite.
    """
    point = float(value([summary.total for summary in summaries]))
    if not np.isfinite(point):
        raise Unavailable(f"{unit} is undefined on these rows")
    left_out = list(zip(*(summary.leave_one_out() for summary in summaries), strict=True))
    replicas = np.array([float(value(list(left))) for left in left_out])
    return estimate_from(point, replicas[occupied(summaries)], unit=unit, n=n, of=of, level=level)


def occupied(summaries: Sequence[BucketedSummary]) -> NDArray[np.bool_]:
    """Which buckets hold anything in any of the summaries."""
    return np.array([any(not is_zero(summary.parts[g]) for summary in summaries) for g in range(len(summaries[0].parts))])


def estimate_from(point: float, replicas: NDArray[np.float64], *, unit: str, n: int, of: str = "rows", level: float = 0.95) -> Estimate:
    """The interval of a value from its replicas, each of them without one of the occupied buckets; see `jackknife`.

    Raises:
        Unavailable: The value is not finite.
    """
    if not np.isfinite(point):
        raise Unavailable(f"{unit} is undefined on these rows")
    groups = len(replicas)
    if groups < 5 or not np.isfinite(replicas).all():
        return Estimate(value=point, unit=unit, n=n, of=of, level=level)
    spread = float(np.sqrt((groups - 1) / groups * np.sum((replicas - replicas.mean()) ** 2)))
    reach = t_quantile(level, groups - 1) * spread
    return Estimate(value=point, low=point - reach, high=point + reach, unit=unit, n=n, of=of, level=level)


def estimate_of_mean(values: NDArray[np.float64], which: NDArray[np.int64], *, unit: str, of: str = "rows", level: float = 0.95) -> Estimate:
    """The mean of values, its interval by leaving out one bucket after another; see `jackknife`.

    Args:
        values: Shape (rows,), at least one.
        which: The bucket of each, 0 or more, shape (rows,).
        unit: Of the values.
        of: What the rows are called.
        level: Coverage.
    """
    sums, counts = np.bincount(which, weights=values), np.bincount(which)
    there = counts > 0
    replicas = (sums.sum() - sums[there]) / np.maximum(len(values) - counts[there], 1)
    return estimate_from(float(values.mean()), replicas, unit=unit, n=len(values), of=of, level=level)


def t_quantile(level: float, freedom: int) -> float:
    """Two-sided Student t quantile by the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5); 1e-3 for freedom >= 5."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / float(freedom) ** (i + 1) for i, term in enumerate(terms))
