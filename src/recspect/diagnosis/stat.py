"""What to add up.

A `Stat` is a frozen description of what to add up; a `Summary` is the value. Summaries are commutative monoids of bounded size: `zero()` is the
identity, `+` is associative and commutative, and `summarize(a ++ b) == summarize(a) + summarize(b)`. Workers, days,
slices, SQL engines and training steps are only different places where the adding happens. The laws are tests that every
stat passes by being registered (`recspect.testing.laws`), a plug-in's too.

Compositions stand for new names: `Weighted(stat, by=...)`, `Bucketed(stat, by=...)`, `Grouped(stat, by=...)`. The values that
they give are in `recspect.diagnosis.jackknife` and `recspect.diagnosis.grouping`; what stats and diagnostics need of them can be
imported from here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, runtime_checkable

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.grouping import GroupedSummary, bounded_groups, category_name, kept_codes, segments
from recspect.diagnosis.hashing import MERSENNE
from recspect.diagnosis.jackknife import BucketedSummary, jackknife
from recspect.diagnosis.summary import Joined, S, Summary, register
from recspect.errors import DataError, UsageError

Weights = NDArray[np.float64] | None


class Setting:
    """A part of a stat's description that is more than a number or a word, such as a ranking measure.

    Subclasses are frozen keyword-only dataclasses, registered by name so that a stored tally can name them.
    """

    registry: ClassVar[dict[str, type[Setting]]] = {}

    def __init_subclass__(cls) -> None:
        register(Setting.registry, cls)


class Stat(ABC, Generic[S]):
    """What to add up: a frozen keyword-only dataclass, equal when equal, usable as a key.

    `tolerance` is the relative difference that the laws allow: rounding of sums for exact stats, the stated bound for sketches.
    """

    registry: ClassVar[dict[str, type[Stat[Any]]]] = {}
    tolerance: ClassVar[float] = 1e-9

    def __init_subclass__(cls) -> None:
        register(Stat.registry, cls)

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


@runtime_checkable
class Splittable(Protocol):
    """A stat that summarizes all buckets of a batch faster together than one by one."""

    def summarize_buckets(self, batch: Batch, which: NDArray[np.int64], buckets: int, weight: Weights = None) -> Sequence[Any]:
        """For every bucket the summary of its rows, equal to `summarize` of these. Shape of `which`: (rows,), below `buckets`."""


@runtime_checkable
class OfSample(Protocol):
    """A stat that leaves out the rows of all but a share of the clusters, chosen by hash (`in_sample`)."""

    cluster: str
    share: float


def in_sample(batch: Batch, cluster: str, share: float) -> NDArray[np.bool_]:
    """Which rows are of that share of the clusters, shape (rows,): the same clusters in every table, apart from the buckets that they fall into."""
    return np.asarray(batch.hashes(cluster) < np.uint64(min(int(share * 2.0**64), 2**64 - 1)))


@runtime_checkable
class Joinable(Protocol):
    """A stat whose summaries of all buckets are held together (`Joined`)."""

    def join_buckets(self, parts: Sequence[Any]) -> Joined:
        """The same buckets; `parts` may be held together already."""


_WEIGHT = "@weight"
"""Column in which an engine holds cleaned weights."""


def require_numbers(frame: nw.LazyFrame[Any], *columns: str) -> None:
    """Engines turn times and text into numbers each in its own way, or not at all; `Batch.numbers` has one way, or an error.

    Raises:
        NotImplementedError: A column is neither numeric nor boolean, so its rows must be read.
    """
    kinds = frame.collect_schema()
    if not all(kinds[name].is_numeric() or isinstance(kinds[name], nw.Boolean) for name in columns):
        raise NotImplementedError


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
        if len(own):
            self._require_weights(own.min(), own.max())
        return self.stat.summarize(batch, combined_weight(own, weight))

    def pushdown(self, frame: nw.LazyFrame[Any], *, group: nw.Expr | None = None, weight: str | None = None,
                 ) -> Mapping[Any, Any]:
        if weight is not None or not isinstance(self.stat, Pushable):
            raise NotImplementedError
        require_numbers(frame, self.by)
        own = nw.col(self.by).cast(nw.Float64)
        clean = nw.when(~own.is_nan()).then(own).otherwise(nw.lit(0.0)).fill_null(0.0)
        weighted = frame.with_columns(clean.alias(_WEIGHT))
        found = weighted.select(low=nw.col(_WEIGHT).min(), high=nw.col(_WEIGHT).max()).collect(backend="pyarrow")
        for low, high in found.iter_rows():
            self._require_weights(low, high)
        return self.stat.pushdown(weighted, group=group, weight=_WEIGHT)

    def _require_weights(self, low: float | None, high: float | None) -> None:
        if low is not None and high is not None and (low < 0 or not np.isfinite(high)):
            raise DataError(f"weights in column {self.by!r} must be finite and at least 0, found "
                            f"{low:g} to {high:g}", hint="clean the weights, or choose another column")


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
        return self._summary((self.stat.zero(),) * self.buckets)

    def summarize(self, batch: Batch, weight: Weights = None) -> BucketedSummary:
        which = batch.buckets(self.by, self.buckets)
        if isinstance(self.stat, Splittable):
            return self._summary(self.stat.summarize_buckets(batch, which, self.buckets, weight))
        parts = [self.stat.zero()] * self.buckets
        for key, rows in segments(which):
            part = batch.select(self.stat.columns).take(rows)
            parts[key] = self.stat.summarize(part, None if weight is None else weight[rows])
        return self._summary(parts)

    def _summary(self, parts: Sequence[Any]) -> BucketedSummary:
        return BucketedSummary(self.stat.join_buckets(parts) if isinstance(self.stat, Joinable) else tuple(parts))

    def pushdown(self, frame: nw.LazyFrame[Any], *, group: nw.Expr | None = None, weight: str | None = None,
                 ) -> Mapping[Any, BucketedSummary]:
        if group is not None or not isinstance(self.stat, Pushable) or not _is_integer(frame, self.by):
            raise NotImplementedError
        found = self.stat.pushdown(frame, group=bucket_expression(self.by, self.buckets), weight=weight)
        return {None: self._summary([found.get(key, self.stat.zero()) for key in range(self.buckets)])}


def bucket_expression(column: str, buckets: int) -> nw.Expr:
    """`bucket` of `recspect.diagnosis.batch` for integer ids as a query; missing ids get bucket 0."""
    modulus = MERSENNE
    identity = nw.col(column).cast(nw.Int64)
    folded = ((identity % modulus) + modulus) % modulus
    mixed = (folded * 48271 + 11) % modulus
    mixed = (mixed * (mixed % 32749 + 1)) % modulus
    return ((mixed * buckets - (mixed * buckets) % modulus) // modulus).fill_null(0).cast(nw.Int64)


def _is_integer(frame: nw.LazyFrame[Any], column: str) -> bool:
    return bool(frame.collect_schema()[column].is_integer())


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
        # Of a stat per unit, each category of a unit is a list of its own: merged into `other`, they would be one list.
        most = self.capacity if unit_of(self.stat) is None else len(column.values) + 1
        keep = kept_codes(column.values, most, column.codes)
        inner = batch.select(self.stat.columns)
        codes = np.where(keep[column.codes], column.codes, len(column.values) + 1)
        for key, rows in segments(codes.astype(np.int64)):
            part = self.stat.summarize(inner.take(rows), None if weight is None else weight[rows])
            if key == len(column.values) + 1:
                rest = part
            else:
                name = "" if key < 0 else category_name(column.values[key])
                parts[name] = parts[name] + part if name in parts else part  # missing and "" are one category
        return bounded_groups(parts, rest, self.capacity)


__all__ = [
    "Bucketed", "BucketedSummary", "Grouped", "GroupedSummary", "Pushable", "Setting", "Stat", "Summary", "Weighted", "Weights",
    "bucket_expression", "category_name", "combined_weight", "jackknife", "require_numbers", "unit_of",
]
