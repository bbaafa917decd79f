"""What to add up, and the value that adds.

A `Stat` is a frozen description of what to add up; a `Summary` is the value. Summaries are commutative monoids of bounded size: `zero()` is the
identity, `+` is associative and commutative, and `summarize(a ++ b) == summarize(a) + summarize(b)`. Workers, days,
slices, SQL engines and training steps are only different places where the adding happens. The laws are tests that every
stat passes by being registered (`recspect.testing.laws`), a plug-in's too.

Compositions stand for new names: `Weighted(stat, by=...)`, `Bucketed(stat, by=...)`, `Grouped(stat, by=...)`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import _MERSENNE, Array, Batch, bucket, hash_values
from recspect.diagnosis.estimate import Estimate
from recspect.errors import DataError, Unavailable, UsageError

Weights = NDArray[np.float64] | None


def _register(registry: dict[str, Any], cls: type) -> None:
    """Under its name, which a stored tally knows it by.

    Raises:
        TypeError: Another module has a class of this name already, so that stored tallies would be misread.
    """
    known = registry.get(cls.__name__)
    if known is not None and known.__module__ != cls.__module__:
        raise TypeError(f"{cls.__module__} defines {cls.__name__}, a name that {known.__module__} has registered; "
                        "stored tallies know classes by name, so choose another")
    registry[cls.__name__] = cls


class Summary(ABC):
    """The value that adds: a frozen dataclass of numbers, strings, arrays, bytes and other summaries.

    Subclasses are registered by name, so that a stored tally can be read back without pickle.
    """

    registry: ClassVar[dict[str, type[Summary]]] = {}

    def __init_subclass__(cls) -> None:
        _register(Summary.registry, cls)

    @abstractmethod
    def __add__(self: S, other: S) -> S:
        """Both together."""


S = TypeVar("S", bound=Summary)


class Setting:
    """A part of a stat's description that is more than a number or a word, such as a ranking measure.

    Subclasses are frozen keyword-only dataclasses, registered by name so that a stored tally can name them.
    """

    registry: ClassVar[dict[str, type[Setting]]] = {}

    def __init_subclass__(cls) -> None:
        _register(Setting.registry, cls)


class Stat(ABC, Generic[S]):
    """What to add up: a frozen keyword-only dataclass, equal when equal, usable as a key.

    `tolerance` is the relative difference that the laws allow: rounding of sums for exact stats, the stated bound for sketches.
    """

    registry: ClassVar[dict[str, type[Stat[Any]]]] = {}
    tolerance: ClassVar[float] = 1e-9

    def __init_subclass__(cls) -> None:
        _register(Stat.registry, cls)

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns it reads."""

    @abstractmethod
    def zero(self) -> S:
        """The summary of no rows."""

    @abstractmethod
    def summarize(self, batch: Batch, weight: Weights = None) -> S:
        """The summary of these rows; a row of weight 2 counts as two rows. Shape of `weight`: (rows,), at least 0."""


@runtime_checkable
class Pushable(Protocol):
    """A stat that a query engine can add up."""

    def pushdown(self, frame: nw.LazyFrame[Any], *, group: nw.Expr | None = None, weight: str | None = None,
                 ) -> Mapping[Any, Any]:
        """Group key to summary, over all rows; the one key is None without `group`. Equal to `summarize`."""


def unit_of(stat: Stat[Any]) -> str | None:
    """The column whose rows must come together in one batch for this stat, or None."""
    inner = getattr(stat, "stat", None)
    unit: str | None = getattr(stat, "unit", None)
    return unit if unit is not None else (unit_of(inner) if isinstance(inner, Stat) else None)


def combined_weight(first: Weights, second: Weights) -> Weights:
    """Product of two weightings, None being 1 everywhere."""
    if first is None:
        return second
    return first if second is None else first * second


# ---------------------------------------------------------------------- Weighted


@dataclass(frozen=True, kw_only=True)
class Weighted(Stat[Any]):
    """The same stat with each row counted by a column. Missing weights count as 0.

    Raises:
        DataError: (when summarizing) a weight is negative or infinite.
    """

    stat: Stat[Any]
    by: str

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.stat.columns, self.by)))

    def zero(self) -> Any:
        return self.stat.zero()

    def summarize(self, batch: Batch, weight: Weights = None) -> Any:
        own = np.nan_to_num(batch.numbers(self.by), nan=0.0, posinf=np.inf, neginf=-np.inf)
        if len(own) and (own.min() < 0 or not np.isfinite(own.max())):
            raise DataError(f"weights in column {self.by!r} must be finite and at least 0, found "
                            f"{own.min():g} to {own.max():g}", hint="clean the weights, or choose another column")
        return self.stat.summarize(batch, combined_weight(own, weight))

    def pushdown(self, frame: nw.LazyFrame[Any], *, group: nw.Expr | None = None, weight: str | None = None,
                 ) -> Mapping[Any, Any]:
        if weight is not None or not isinstance(self.stat, Pushable):
            raise NotImplementedError
        return self.stat.pushdown(frame, group=group, weight=self.by)


# ---------------------------------------------------------------------- Bucketed


@dataclass(frozen=True)
class BucketedSummary(Summary):
    """One summary per bucket of users.

    Args:
        parts: One summary per bucket.
    """

    parts: tuple[Any, ...]

    def __add__(self, other: BucketedSummary) -> BucketedSummary:
        return BucketedSummary(tuple(a + b for a, b in zip(self.parts, other.parts, strict=True)))

    @property
    def count(self) -> float:
        """Buckets that hold anything."""
        return float(sum(not _is_zero(part) for part in self.parts))

    @property
    def total(self) -> Any:
        """All buckets together."""
        return _add_up(list(self.parts))

    def leave_one_out(self) -> list[Any]:
        """For every bucket, the total of all others; 3G additions, by prefix and suffix sums."""
        parts = self.parts
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
    totals = [summary.total for summary in summaries]
    point = float(value(totals))
    if not np.isfinite(point):
        raise Unavailable(f"{unit} is undefined on these rows")
    left_out = list(zip(*(summary.leave_one_out() for summary in summaries), strict=True))
    replicas = np.array([float(value(list(left))) for left in left_out])
    occupied = np.array([any(not _is_zero(summary.parts[g]) for summary in summaries)
                         for g in range(len(left_out))])
    replicas = replicas[occupied]
    groups = len(replicas)
    if groups < 5 or not np.isfinite(replicas).all():
        return Estimate(value=point, unit=unit, n=n, of=of, level=level)
    spread = float(np.sqrt((groups - 1) / groups * np.sum((replicas - replicas.mean()) ** 2)))
    reach = _t_quantile(level, groups - 1) * spread
    return Estimate(value=point, low=point - reach, high=point + reach, unit=unit, n=n, of=of, level=level)


def _is_zero(summary: Any) -> bool:
    count = getattr(summary, "count", None)
    return count is not None and float(count) == 0.0


def _t_quantile(level: float, freedom: int) -> float:
    """Two-sided Student t quantile by the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5); 1e-3 for freedom >= 5."""
    z = _normal_quantile((1 + level) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / float(freedom) ** (i + 1) for i, term in enumerate(terms))


def _normal_quantile(probability: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(probability)


def _add_up(parts: list[Any]) -> Any:
    """Balanced sum, so that rounding grows with the logarithm of the count."""
    while len(parts) > 1:
        parts = [parts[i] + parts[i + 1] if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
    return parts[0]


@dataclass(frozen=True, kw_only=True)
class Bucketed(Stat[BucketedSummary]):
    """The same stat in buckets by the hash of an id (usually the user), which gives jackknife intervals.

    Args:
        stat: What to add up in each bucket.
        by: The id column.
        buckets: How many; 50 leave a t interval 2.5% wider than a normal one.
    """

    stat: Stat[Any]
    by: str
    buckets: int = 50

    def __post_init__(self) -> None:
        if self.buckets < 2:
            raise UsageError(f"Bucketed: {self.buckets} buckets, expected at least 2", hint="50 give good intervals")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.stat.columns, self.by)))

    def zero(self) -> BucketedSummary:
        return BucketedSummary((self.stat.zero(),) * self.buckets)

    def summarize(self, batch: Batch, weight: Weights = None) -> BucketedSummary:
        parts = [self.stat.zero()] * self.buckets
        which = bucket(batch[self.by], self.buckets)
        for key, rows in _segments(which):
            part = batch.select(self.stat.columns).take(rows)
            parts[key] = self.stat.summarize(part, None if weight is None else weight[rows])
        return BucketedSummary(tuple(parts))

    def pushdown(self, frame: nw.LazyFrame[Any], *, group: nw.Expr | None = None, weight: str | None = None,
                 ) -> Mapping[Any, BucketedSummary]:
        if group is not None or not isinstance(self.stat, Pushable) or not _is_integer(frame, self.by):
            raise NotImplementedError
        found = self.stat.pushdown(frame, group=bucket_expression(self.by, self.buckets), weight=weight)
        return {None: BucketedSummary(tuple(found.get(key, self.stat.zero()) for key in range(self.buckets)))}


def bucket_expression(column: str, buckets: int) -> nw.Expr:
    """`bucket` of `recspect.diagnosis.batch` for integer ids as a query; missing ids get bucket 0."""
    modulus = _MERSENNE
    identity = nw.col(column).cast(nw.Int64)
    folded = ((identity % modulus) + modulus) % modulus
    mixed = (folded * 48271 + 11) % modulus
    mixed = (mixed * (mixed % 32749 + 1)) % modulus
    return ((mixed * buckets - (mixed * buckets) % modulus) // modulus).fill_null(0).cast(nw.Int64)


def _is_integer(frame: nw.LazyFrame[Any], column: str) -> bool:
    return bool(frame.collect_schema()[column].is_integer())


def _segments(keys: NDArray[np.int64]) -> list[tuple[int, Array]]:
    """Each key with the positions of its rows, in the order of rows."""
    if not len(keys):
        return []
    small = keys.astype(np.uint16) if keys.min() >= 0 and keys.max() < 2**16 else keys  # radix sort
    order = np.argsort(small, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return [(int(ordered[start]), order[start:stop])
            for start, stop in zip(starts, [*starts[1:], len(order)], strict=True)]


# ---------------------------------------------------------------------- Grouped


@dataclass(frozen=True)
class GroupedSummary(Summary):
    """A summary per category, of a bounded number of categories.

    When there are more than `capacity` categories, those with the smallest hashes are kept, each complete, and the
    others are added up in `other`: a rule that depends on the set of categories only, so it adds exactly and in any order.
    (Keeping the heaviest ones instead would not be associative.) The kept ones are then a random sample of categories.

    Args:
        parts: Category (as text; missing is "") to summary.
        other: Everything else.
        capacity: How many categories are kept.
    """

    parts: Mapping[str, Any]
    other: Any
    capacity: int

    def __add__(self, other: GroupedSummary) -> GroupedSummary:
        parts = dict(self.parts)
        for key, part in other.parts.items():
            parts[key] = parts[key] + part if key in parts else part
        return bounded_groups(parts, self.other + other.other, self.capacity)

    @property
    def count(self) -> float:
        """Categories kept."""
        return float(len(self.parts))

    @property
    def truncated(self) -> bool:
        """Whether there were more categories than fit."""
        return not _is_zero(self.other)


def bounded_groups(parts: dict[str, Any], rest: Any, capacity: int) -> GroupedSummary:
    """Keep the categories of smallest hash; add the others up."""
    if len(parts) > capacity:
        names = np.array(list(parts), dtype=object)
        order = np.argsort(hash_values(names), kind="stable")
        for name in names[order[capacity:]]:
            rest = rest + parts.pop(name)
    return GroupedSummary(parts, rest, capacity)


@dataclass(frozen=True, kw_only=True)
class Grouped(Stat[GroupedSummary]):
    """The same stat for every category of a column, up to `capacity` categories."""

    stat: Stat[Any]
    by: str
    capacity: int = 1000

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.stat.columns, self.by)))

    def zero(self) -> GroupedSummary:
        return GroupedSummary({}, self.stat.zero(), self.capacity)

    def summarize(self, batch: Batch, weight: Weights = None) -> GroupedSummary:
        if weight is not None and not weight.all():  # a category of weight 0 is absent, it must not take up capacity
            batch, weight = batch.take(np.flatnonzero(weight)), weight[weight > 0]
        column = batch.categories(self.by)
        parts: dict[str, Any] = {}
        rest = self.stat.zero()
        keep = _kept_codes(column.values, self.capacity, column.codes)
        inner = batch.select(self.stat.columns)
        codes = np.where(keep[column.codes], column.codes, len(column.values) + 1)
        for key, rows in _segments(codes.astype(np.int64)):
            part = self.stat.summarize(inner.take(rows), None if weight is None else weight[rows])
            if key == len(column.values) + 1:
                rest = part
            else:
                name = "" if key < 0 else category_name(column.values[key])
                parts[name] = parts[name] + part if name in parts else part  # missing and "" are one category
        return bounded_groups(parts, rest, self.capacity)


def _kept_codes(values: Array, capacity: int, codes: Array) -> NDArray[np.bool_]:
    """Which codes can be among the kept ones, with a last entry for missing (code -1)."""
    keep = np.ones(len(values) + 1, dtype=bool)
    present = np.unique(codes)
    if len(present) > capacity:
        names = np.array(["" if code < 0 else category_name(values[code]) for code in present], dtype=object)
        order = np.argsort(hash_values(names), kind="stable")
        keep[present[order[capacity:]]] = False
    return keep


def category_name(value: Any) -> str:
    """A category as text: whole-number floats without the point, so that 3 and 3.0 are one category."""
    if isinstance(value, (float, np.floating)) and np.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)
