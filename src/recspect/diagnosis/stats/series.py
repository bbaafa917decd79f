"""A named series of the training internals, by place: what a layer, a parameter or the whole model did step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights, category_name
from recspect.diagnosis.stats.counting import kept_names, weight_sums
from recspect.errors import UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SeriesLine(Summary):
    """One place's values by step, thinned to a bounded number of steps.

    When there are more than `capacity` steps, those are kept that are multiples of the smallest power of two that makes
    them fit: a rule on the set of steps, so that it adds exactly and in any order. A step recorded several times has the
    weighted mean of its values.

    Args:
        steps: Ascending, shape (steps,).
        weights: Weight of the records of each step, shape (steps,).
        totals: Sum of weight x value, NaN or infinite where a value was; shape (steps,).
        epochs: Latest epoch recorded at each step, shape (steps,).
        stride: Steps kept are multiples of it.
        capacity: Steps kept at most.
    """

    steps: Ints
    weights: Floats
    totals: Floats
    epochs: Ints
    stride: int
    capacity: int

    def __add__(self, other: SeriesLine) -> SeriesLine:
        return _line(np.append(self.steps, other.steps), np.append(self.weights, other.weights),
                     np.append(self.totals, other.totals), np.append(self.epochs, other.epochs),
                     stride=max(self.stride, other.stride), capacity=self.capacity)

    @property
    def values(self) -> Floats:
        """Value at each step, shape (steps,)."""
        return self.totals / self.weights

    @property
    def last(self) -> float:
        """Value at the last step; NaN for none."""
        return float(self.values[-1]) if len(self.steps) else np.nan


def _line(steps: Ints, weights: Floats, totals: Floats, epochs: Ints, *, stride: int, capacity: int) -> SeriesLine:
    keep = steps % stride == 0
    distinct, inverse = np.unique(steps[keep], return_inverse=True)
    while len(distinct) > capacity:
        stride *= 2
        distinct = distinct[distinct % stride == 0]
    keep = steps % stride == 0
    distinct, inverse = np.unique(steps[keep], return_inverse=True)
    latest = np.full(len(distinct), np.iinfo(np.int64).min)
    np.maximum.at(latest, inverse, epochs[keep])
    with np.errstate(invalid="ignore"):  # +inf and -inf recorded at one step are not a number
        return SeriesLine(distinct, weight_sums(inverse, weights[keep], len(distinct)),
                          weight_sums(inverse, totals[keep], len(distinct)), latest, stride, capacity)


@dataclass(frozen=True)
class SeriesSummary(Summary):
    """A series by place.

    Args:
        lines: Place ("" for the whole model) to its line.
        truncated: Whether there were more than `places` places; those of smallest hash are kept.
        places: Places kept at most.
    """

    lines: Mapping[str, SeriesLine]
    truncated: bool
    places: int

    def __add__(self, other: SeriesSummary) -> SeriesSummary:
        lines = dict(self.lines)
        for place, line in other.lines.items():
            lines[place] = lines[place] + line if place in lines else line
        return _bounded(lines, self.truncated or other.truncated, self.places)

    @property
    def count(self) -> float:
        """Records kept."""
        return float(sum(line.weights.sum() for line in self.lines.values()))

    def line(self, place: str = "") -> SeriesLine | None:
        """The line of a place, None where nothing was recorded."""
        return self.lines.get(place)


@dataclass(frozen=True, kw_only=True)
class Series(Stat[SeriesSummary]):
    """One series of the long table of training internals: columns @step, @epoch, @series, @place, @value.

    Rows of other series are passed over, as are rows without a step (one below 2**62). Values may be NaN or infinite: that is what a
    diverged training run records.

    Args:
        name: Value of the column @series, such as "loss/train".
        capacity: Steps kept per place.
        places: Places kept.
    """

    name: str
    capacity: int = 2048
    places: int = 1024

    def __post_init__(self) -> None:
        if self.capacity < 2 or self.places < 1:
            raise UsageError(f"Series: capacity {self.capacity} and places {self.places}",
                             hint="keep at least 2 steps of 1 place")

    @property
    def columns(self) -> tuple[str, ...]:
        return ("@step", "@epoch", "@series", "@place", "@value")

    def zero(self) -> SeriesSummary:
        return SeriesSummary({}, False, self.places)

    def summarize(self, batch: Batch, weight: Weights = None) -> SeriesSummary:
        series = batch.categories("@series")
        wanted = np.append(np.array([category_name(value) == self.name for value in series.values], dtype=bool), [False])
        step = batch.numbers("@step")
        keep = wanted[series.codes] & (np.abs(step) < 2**62)
        if weight is not None:
            keep &= weight > 0
        rows = np.flatnonzero(keep)
        part = batch.select(self.columns).take(rows)
        w = np.ones(len(rows)) if weight is None else weight[rows]
        steps = part.numbers("@step").astype(np.int64)
        epochs = np.clip(np.nan_to_num(part.numbers("@epoch")), -1e9, 1e9).astype(np.int64)
        values, places = part.numbers("@value"), part.categories("@place")
        lines: dict[str, SeriesLine] = {}
        with np.errstate(over="ignore"):
            totals = w * values
        for code in np.unique(places.codes):
            mine = places.codes == code
            place = "" if code < 0 else category_name(places.values[code])
            line = _line(steps[mine], w[mine], totals[mine], epochs[mine], stride=1, capacity=self.capacity)
            lines[place] = lines[place] + line if place in lines else line  # missing and "" are both the whole model
        return _bounded(lines, False, self.places)


def _bounded(lines: dict[str, SeriesLine], truncated: bool, places: int) -> SeriesSummary:
    names = sorted(lines)
    keep = kept_names(names, places)
    if keep is not None:
        names = [name for name, stays in zip(names, keep, strict=True) if stays]
    return SeriesSummary({name: lines[name] for name in names}, truncated or keep is not None, places)
