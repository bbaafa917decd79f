"""A mean over users or requests of what each one's ranked list is worth: GAUC, NDCG, recall, MRR, MAP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, factorize
from recspect.diagnosis.grouping import segments
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.counting import weight_sums
from recspect.diagnosis.stats.lists import Floats, Lists, order
from recspect.diagnosis.stats.measures import Measure
from recspect.diagnosis.stats.moments import MomentsSummary, moments_of
from recspect.errors import Unavailable, UsageError


@dataclass(frozen=True)
class UnitValues(Summary):
    """One measure over many units.

    Args:
        moments: Of the values per unit; `moments.mean` is the figure to report.
        defined: Weight of the units that have a value.
        undefined: Weight of the units that have none (with `undefined="zero"` they count as 0 in `moments`).
        covered: Weight of the rows of units that have a value.
    """

    moments: MomentsSummary
    defined: float
    undefined: float
    covered: float

    def __add__(self, other: UnitValues) -> UnitValues:
        return UnitValues(self.moments + other.moments, self.defined + other.defined, self.undefined + other.undefined,
                          self.covered + other.covered)

    @property
    def mean(self) -> float:
        """Mean over units; NaN when none has a value."""
        return self.moments.mean if self.moments.count else np.nan


@dataclass(frozen=True)
class PerUnitSummary(Summary):
    """Several measures over the same units.

    Args:
        names: Name of each measure.
        measured: Its values, in the same order.
        units: Weight of all units.
        rows: Weight of all rows judged.
        invalid: Weight of rows left out: unit missing, score NaN, label missing, infinite or below 0.
    """

    names: tuple[str, ...]
    measured: tuple[UnitValues, ...]
    units: float
    rows: float
    invalid: float

    def __add__(self, other: PerUnitSummary) -> PerUnitSummary:
        return PerUnitSummary(self.names, tuple(a + b for a, b in zip(self.measured, other.measured, strict=True)),
                              self.units + other.units, self.rows + other.rows, self.invalid + other.invalid)

    @property
    def count(self) -> float:
        """Weight of all units."""
        return self.units

    def of(self, measure: Measure | str) -> UnitValues:
        """The values of one measure.

        Raises:
            Unavailable: It was not measured.
        """
        name = measure if isinstance(measure, str) else measure.name
        if name not in self.names:
            raise Unavailable(f"{name} was not measured, only {', '.join(self.names)}")
        return self.measured[self.names.index(name)]

    def mean(self, measure: Measure | str) -> float:
        """Mean of a measure over units; NaN when no unit has a value."""
        return self.of(measure).mean

    def coverage(self, measure: Measure | str) -> float:
        """Share of rows that belong to units with a value (for AUC: with both classes); NaN for no rows."""
        return self.of(measure).covered / self.rows if self.rows else np.nan


def measure_lists(measures: Sequence[Measure], lists: Lists) -> list[Floats]:
    """The values of each measure per list, shape (lists,) each."""
    if not lists.has_ties:
        return [measure.values(lists) for measure in measures]
    untied, tied, which = lists.split()
    found = []
    for measure in measures:
        values = measure.values(untied)
        values[which] = measure.values(tied)
        found.append(values)
    return found


@dataclass(frozen=True, kw_only=True)
class PerUnit(Stat[PerUnitSummary]):
    """Ranking measures per unit, averaged. All measures share one sort.

    All rows of a unit must come in one batch (runners see to it through `unit_of`): a list cut in two is two lists.
    A unit's weight is the mean weight of its rows; rows of weight 0 are absent.

    Args:
        unit: Column of the user or the request whose rows are a list.
        measures: What to measure.
        score: Column of scores; any number, higher is shown first. Infinite ones are in order, NaN is invalid.
        label: Column of relevance, at least 0.
        undefined: `skip` leaves units without a value out of the mean; `zero` counts them as 0.
        weighting: `unit` gives every unit the same say, `rows` one in proportion to its rows (GAUC).

    Example:
        >>> gauc = PerUnit(unit="user", measures=(AreaUnderCurve(),), weighting="rows")
        >>> summary = gauc.summarize(Batch({"user": np.array([1, 1, 2, 2]), "@score": np.array([.9, .1, .5, .5]),
        ...                                 "@label": np.array([1, 0, 1, 0])}))
        >>> summary.mean("AUC")
        0.75
    """

    unit: str
    measures: tuple[Measure, ...]
    score: str = "@score"
    label: str = "@label"
    undefined: Literal["skip", "zero"] = "skip"
    weighting: Literal["unit", "rows"] = "unit"

    def __post_init__(self) -> None:
        object.__setattr__(self, "measures", tuple(self.measures))
        if not self.measures:
            raise UsageError("PerUnit has no measures", hint="PerUnit(measures=(NDCG(k=10),), ...)")
        if self.undefined not in ("skip", "zero"):
            raise UsageError(f"PerUnit: undefined is {self.undefined!r}", hint="choose 'skip' or 'zero'")
        if self.weighting not in ("unit", "rows"):
            raise UsageError(f"PerUnit: weighting is {self.weighting!r}", hint="choose 'unit' or 'rows'")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.unit, self.score, self.label)

    def zero(self) -> PerUnitSummary:
        nothing = UnitValues(MomentsSummary(), 0.0, 0.0, 0.0)
        return PerUnitSummary(self._names, (nothing,) * len(self.measures), 0.0, 0.0, 0.0)

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(measure.name for measure in self.measures)

    def summarize(self, batch: Batch, weight: Weights = None) -> PerUnitSummary:
        return self.summarize_buckets(batch, np.zeros(batch.rows, dtype=np.int64), 1, weight)[0]

    def summarize_buckets(self, batch: Batch, which: NDArray[np.int64], buckets: int, weight: Weights = None) -> list[PerUnitSummary]:
        """For every bucket the summary of its rows: one sort for all of them. A unit with rows in several buckets is a list in each."""
        units, scores, labels = batch.categories(self.unit).codes, batch.numbers(self.score), batch.numbers(self.label)
        valid = ~np.isnan(scores) & (labels >= 0) & (labels < np.inf) & (units >= 0)
        invalid = weight_sums(which[~valid], np.ones(int((~valid).sum())) if weight is None else weight[~valid], buckets)
        if weight is not None:
            valid &= weight > 0
        if not valid.all():
            units, scores, labels, which = units[valid], scores[valid], labels[valid], which[valid]
            weight = None if weight is None else weight[valid]
        if not len(units):
            return [PerUnitSummary(self._names, self.zero().measured, 0.0, 0.0, float(left_out)) for left_out in invalid]
        bucket_of = np.full(int(units.max()) + 1, -1)
        bucket_of[units] = which
        if not (bucket_of[units] == which).all():
            crossed = factorize(which * len(bucket_of) + units)
            units, bucket_of = crossed.codes, crossed.values // len(bucket_of)
        lists = order(units, scores, labels)
        bucket_of = bucket_of[np.bincount(units, minlength=len(bucket_of)) > 0]
        rows = lists.lengths.astype(np.float64)
        weights = np.ones(len(rows))
        if weight is not None:
            rows = weight_sums(units, weight, int(units.max()) + 1)[np.bincount(units) > 0]
            weights = rows / lists.lengths
        values = measure_lists(self.measures, lists)
        found = [PerUnitSummary(self._names, self.zero().measured, 0.0, 0.0, float(left_out)) for left_out in invalid]
        for bucket, mine in segments(bucket_of):
            measured = tuple(self._add_up(one[mine], weights[mine], rows[mine]) for one in values)
            found[bucket] = PerUnitSummary(self._names, measured, float(weights[mine].sum()), float(rows[mine].sum()), float(invalid[bucket]))
        return found

    def _add_up(self, values: Floats, weights: Floats, rows: Floats) -> UnitValues:
        known = ~np.isnan(values)
        say = rows if self.weighting == "rows" else weights
        if self.undefined == "skip":
            moments = moments_of(values[known], say[known])
        else:
            moments = moments_of(np.where(known, values, 0.0), say)
        defined = float(weights[known].sum())
        return UnitValues(moments, defined, float(weights[~known].sum()), float(rows[known].sum()))
