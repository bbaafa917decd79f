"""Derived columns of earlier rows, for rows that are in memory: one sort per column, then two binary searches per row.

A row at time t reads the rows of its key with time s where t - window <= s < t - delay. The comparison with t is strict, so a row
reads neither itself nor any row of its own time, in whatever order they lie. Sums are kept with the rounding error of each
addition (Knuth's two-sum), restart with each key, and add rows of one time in the order of their values: what a column says does not
depend on rows that it does not read, not even in the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recspect.diagnosis.batch import Array, Batch, Categorical, Column, Ragged
from recspect.diagnosis.hashing import hash_columns, hash_values
from recspect.errors import DataError
from recspect.features.row_values import flags, numbers, octave, plain_value, smoothed, ticks, ticks_per_hour
from recspect.schema import Schema
from recspect.schema_derived import Derived, DerivedKind

SEQUENCES = (DerivedKind.LAST, DerivedKind.LAST_AGE)


class Entries:
    """The distinct values of one column, numbered as they come; their order is told once all are known."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._codes: dict[object, int] = {}

    def encode(self, column: Categorical) -> NDArray[np.int64]:
        """A number per row; -1 where the value is missing."""
        by_value = [self._codes.setdefault(plain_value(value), len(self._codes)) for value in column.values]
        return np.array([*by_value, -1], dtype=np.int64)[column.codes]

    @property
    def values(self) -> Array:
        """Value of each number."""
        known = list(self._codes)
        if all(isinstance(value, str) for value in known):
            texts = np.empty(len(known), dtype=object)
            texts[:] = known
            return texts
        if any(isinstance(value, str) for value in known):
            raise DataError(f"column {self.name!r} holds texts in some batches and numbers in others", hint="give it one type")
        return np.array(known)

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Place of each number in the order of values."""
        ranks = np.empty(len(self._codes), dtype=np.int64)
        ranks[np.argsort(self.values, kind="stable")] = np.arange(len(ranks))
        return ranks


@dataclass(frozen=True)
class Plan:
    """What the derived columns of a schema read.

    Args:
        schema: Declares them.
        entries: Column to its distinct values, for those whose values are listed.
    """

    schema: Schema
    entries: Mapping[str, Entries]

    @classmethod
    def of(cls, schema: Schema) -> Plan:
        listed = dict.fromkeys(column.of[0] for column in schema.derived if column.kind in SEQUENCES)
        return cls(schema, {name: Entries(name) for name in listed})

    @property
    def history(self) -> tuple[Derived, ...]:
        """The columns that read earlier rows."""
        return tuple(column for column in self.schema.derived if not column.of_the_row)

    @property
    def keys(self) -> tuple[tuple[str, ...], ...]:
        """Whose earlier rows are read, without repeats."""
        return tuple(dict.fromkeys(column.by for column in self.history))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns of the table that are read."""
        made = {column.name for column in self.schema.derived}
        clocks = any(column.of_the_row and column.kind is not DerivedKind.CROSS and not column.of for column in self.schema.derived)
        time = [self.schema.require("time")] if self.history or clocks else []
        return tuple(dict.fromkeys(name for name in [*time, *(read for column in self.schema.derived for read in column.reads)] if name not in made))

    def prepare(self, batch: Batch, *, first: int) -> dict[str, Array]:
        """Arrays of whole numbers and floats, one per thing that is read, from rows that have the row-alone columns.

        Args:
            batch: The rows.
            first: Number of the first row in the whole table.

        Raises:
            DataError: A row without a time, or columns of the wrong type.
        """
        name = self.schema.require("time")
        time, gaps = ticks(self.schema, batch[name], name)
        if gaps.any():
            raise DataError(f"{int(gaps.sum()):,} rows have no time {name!r}, first row {first + int(np.flatnonzero(gaps)[0]):,}: "
                            f"what lies before them cannot be told", hint="drop these rows, or fill their time")
        row = np.arange(first, first + batch.rows, dtype=np.int64)
        arrays: dict[str, Array] = {"row": row, "time": time}
        for position, by in enumerate(self.keys):
            missing = np.logical_or.reduce([batch.categories(part).codes < 0 for part in by])
            hashes = hash_columns([batch[part] for part in by], batch.rows).view(np.int64)
            # A row without a key gets one of its own, so that all of them do not make one huge unit.
            arrays[f"key {position}"] = np.where(missing, hash_values(row).view(np.int64), hashes)
            arrays[f"keyed {position}"] = ~missing
        for column in self.history:
            if column.where:
                arrays[f"flag {column.where}"] = flags(self.schema, batch, column.where).astype(np.float32)
            if column.kind is DerivedKind.RATE:
                arrays[f"flag {column.of[0]}"] = flags(self.schema, batch, column.of[0]).astype(np.float32)
            elif column.kind is DerivedKind.MEAN:
                arrays[f"number {column.of[0]}"] = numbers(batch, column.of[0])
        for listed, entries in self.entries.items():
            arrays[f"entry {listed}"] = entries.encode(batch.categories(listed))
        return arrays

    def needed(self, position: int) -> list[str]:
        """Names of the prepared arrays that the columns of one key read."""
        by = self.keys[position]
        own = [column for column in self.history if column.by == by]
        kinds = {DerivedKind.RATE: "flag", DerivedKind.MEAN: "number", DerivedKind.LAST: "entry", DerivedKind.LAST_AGE: "entry"}
        reads = [f"flag {column.where}" for column in own if column.where]
        reads += [f"{kinds[column.kind]} {column.of[0]}" for column in own if column.kind in kinds]
        return ["row", "time", f"key {position}", f"keyed {position}", *dict.fromkeys(reads)]

    def compute(self, position: int, arrays: Mapping[str, Array]) -> dict[str, Column]:
        """The columns of one key, in the order of the rows; lists hold numbers of entries.

        Args:
            position: Which of `keys`.
            arrays: All rows of every key that they hold.
        """
        moments = _Moments.of(arrays[f"key {position}"], arrays["time"])
        return {column.name: self._column(column, moments, arrays, arrays[f"keyed {position}"]) for column in self.history if column.by == self.keys[position]}

    def _column(self, column: Derived, moments: _Moments, arrays: Mapping[str, Array], events: Array) -> Column:
        if column.where:
            events = events & (arrays[f"flag {column.where}"] == 1)
        values: Array = np.zeros(len(events), dtype=np.int64)
        ties = values
        if column.kind is DerivedKind.RATE:
            values = ties = arrays[f"flag {column.of[0]}"].astype(np.float64)
            events = events & ~np.isnan(values)
        elif column.kind is DerivedKind.MEAN:
            values = ties = arrays[f"number {column.of[0]}"]
            events = events & ~np.isnan(values)
        elif column.kind in SEQUENCES:
            values = arrays[f"entry {column.of[0]}"]
            events = events & (values >= 0)
            ties = np.append(self.entries[column.of[0]].ranks, [-1])[values]
        read = np.flatnonzero(events)
        read = read[np.lexsort((ties[read], moments.place[read]))]
        per_hour = ticks_per_hour(self.schema)
        start, end = moments.ranges(read, window=None if column.window_hours is None else int(column.window_hours * per_hour),
                                    delay=int(column.delay_hours * per_hour))
        return _read(column, start, end, values=values[read], event_time=arrays["time"][read], time=arrays["time"], key=moments.key[read], per_hour=per_hour)


@dataclass(frozen=True)
class _Moments:
    """Rows as (key, time) in one whole number each.

    Args:
        key: Keys numbered from 0, shape (rows,).
        times: Distinct times, ascending.
        time: The rows' times in ticks.
        place: key * (times + 1) + place of the time, shape (rows,).
    """

    key: NDArray[np.int64]
    times: NDArray[np.int64]
    time: NDArray[np.int64]
    place: NDArray[np.int64]

    @classmethod
    def of(cls, key: Array, time: Array) -> _Moments:
        times, at = np.unique(time, return_inverse=True)
        numbered = np.unique(key, return_inverse=True)[1].astype(np.int64)
        return cls(numbered, times, time, numbered * (len(times) + 1) + at)

    def ranges(self, read: Array, *, window: int | None, delay: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each row, from where to where in the sorted rows that are read; ticks compare as hours do, for ticks are whole."""
        first = self.key * (len(self.times) + 1)
        sorted_places = self.place[read]
        end = np.searchsorted(sorted_places, first + np.searchsorted(self.times, self.time - min(delay, 2**61), side="left"), side="left")
        since = 0 if window is None else np.searchsorted(self.times, self.time - min(window, 2**61), side="left")
        return np.searchsorted(sorted_places, first + since, side="left"), end


def _read(column: Derived, start: Array, end: Array, *, values: Array, event_time: Array, time: Array, key: Array, per_hour: int) -> Column:
    count = end - start
    match column.kind:
        case DerivedKind.COUNT:
            return count
        case DerivedKind.FREQUENCY:
            return octave(count)
        case DerivedKind.SINCE_LAST:
            last = np.append(event_time, [0])[end - 1]
            return np.where(count > 0, (time - last) / (24 * per_hour), np.nan)
        case DerivedKind.RATE:
            total = np.append([0.0], np.cumsum(values))
            return smoothed(column, total[end] - total[start], count)
        case DerivedKind.MEAN:
            total, lost = _running(values, key)
            # A sum that restarts with the key has nothing before its first row.
            same = (count > 0) & (start > 0) & (np.append(key, [-1])[start - 1] == np.append(key, [-1])[end - 1])
            first = np.where(same, start, 0)
            return smoothed(column, np.where(count > 0, (total[end] - total[first]) + (lost[end] - lost[first]), 0.0), count)
        case _:
            begin = np.maximum(start, end - column.length)
            lengths = end - begin
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            which = np.repeat(begin - offsets[:-1], lengths) + np.arange(offsets[-1])
            if column.kind is DerivedKind.LAST:
                return Ragged(values[which], offsets)
            hours = (np.repeat(time, lengths) - event_time[which]) / per_hour
            return Ragged(octave(hours), offsets)


def _running(values: Array, key: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums up to each row within its key, and what their additions lost; a 0 in front of both."""
    if not len(values):
        return np.zeros(1), np.zeros(1)
    frame = pl.DataFrame({"key": key, "value": values})
    total = frame.select(pl.col("value").cum_sum().over("key")).to_series().to_numpy()
    before = np.append([0.0], total[:-1])
    before[np.append([True], key[1:] != key[:-1])] = 0.0
    back = total - before  # two-sum: exactly what rounding took from before + value
    lost = (before - (total - back)) + (values - back)
    running = pl.DataFrame({"key": key, "lost": lost}).select(pl.col("lost").cum_sum().over("key")).to_series().to_numpy()
    return np.append([0.0], total), np.append([0.0], running)
