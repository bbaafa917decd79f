"""Derived columns while serving: a state that single events are put into, and that says what the table would say at a row's time.

Events may come late and in any order. A row's values are those of the offline table as soon as every event that the row may read has
come in: at time t, all of times before t - delay_hours.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from recspect.diagnosis.batch import Batch, Column, Ragged
from recspect.diagnosis.source import Source, read
from recspect.diagnosis.source_values import as_batch
from recspect.errors import DataError, UsageError, listing
from recspect.features.derived import inputs_of
from recspect.features.row_values import (
    flag,
    is_missing,
    label_of,
    number,
    octave,
    plain_value,
    row_values,
    smoothed,
    text_of,
    tick,
    ticks_per_hour,
)
from recspect.schema import Schema
from recspect.schema_derived import Derived, DerivedKind

KEEP_HOURS = 24.0
"""How far behind the newest question others may lie, unless asked otherwise."""

Event = Mapping[str, Any]
Key = tuple[str, ...]


class DerivedState:
    """What is known of every user, item or other key, for the derived columns of one schema. May be shared between threads.

    Args:
        schema: Declares the columns.
        keep_hours: Questions may be asked about times so long before the newest time asked about; what no such question reads is
            added up and let go.

    Example:
        >>> from recspect.schema import Schema
        >>> from recspect.schema_derived import Derived
        >>> schema = Schema(user="user", item="item", time="time", time_unit="s",
        ...                 derived=[Derived(name="seen", kind="last", by="user", of="item")])
        >>> state = DerivedState(schema)
        >>> state.update({"user": 1, "item": "a", "time": 10})
        >>> state.values({"user": 1, "time": 11}), state.values({"user": 1, "time": 10})
        ({'seen': ['a']}, {'seen': []})
    """

    def __init__(self, schema: Schema, *, keep_hours: float = KEEP_HOURS) -> None:
        if not keep_hours >= 0:
            raise UsageError(f"keep_hours is {keep_hours!r}", hint="use 0 or more")
        self.schema = schema
        self.newest: int | None = None
        self._pruned: int | None = None
        self._keep = int(keep_hours * ticks_per_hour(schema))
        self._columns = [_Column(column, schema) for column in schema.derived if not column.of_the_row]
        self._recent: dict[str, dict[str, Any]] = {}
        self._lock = threading.RLock()

    @classmethod
    def from_table(cls, table: Source | Any, schema: Schema, *, keep_hours: float = KEEP_HOURS) -> DerivedState:
        """A state that holds every row of a table, such as what the event store has at the start."""
        state = cls(schema, keep_hours=keep_hours)
        inputs = inputs_of(schema)
        for batch in read(table).batches(inputs):
            state.update_all(_rows(batch, inputs))
        return state

    def update(self, event: Event, *, id: str | None = None) -> None:  # noqa: A002 - what events call it
        """Take one event in: a row of the table. It is read by every question after its time (and its delay).

        Args:
            event: Column to value. A column of the schema that it lacks is missing: derived columns that read it pass it by.
            id: An event of an id that came before replaces that one, as when a shown item is clicked; kept while `keep_hours`
                and the longest delay last.

        Raises:
            DataError: It has no time, or a value that is not what the schema says; nothing is taken in then.
        """
        whole = row_values(self.schema, event)
        time = self._time(whole)
        with self._lock:
            entries = [(column, *found) for column in self._columns if (found := column.entry_of(whole)) is not None]
            if id is not None:
                if id in self._recent:
                    self._take_out(self._recent[id])
                self._recent[id] = {"time": time, "entries": [(column, key, value) for column, key, value in entries]}
            for column, key, value in entries:
                column.put(key, time, value)

    def update_all(self, events: Iterable[Event]) -> None:
        """`update` for each."""
        for event in events:
            self.update(event)

    def values(self, row: Event) -> dict[str, Any]:
        """Every derived column of a row at the row's time: numbers (NaN where nothing is known), lists, texts.

        Raises:
            DataError: The row has no time.
            UsageError: Its time lies more than `keep_hours` before one that was asked about.
        """
        return self._values([row])[0]

    def batch(self, rows: Sequence[Event]) -> Batch:
        """Rows with their derived columns, as a model's transform reads them.

        Args:
            rows: A request's candidates, each with the user's and the context's columns. What they share is computed once.

        Raises:
            DataError: No rows, or one without a time.
        """
        if not rows:
            raise DataError("no rows to derive columns for", hint="give at least one candidate")
        found = self._values(rows)
        names = dict.fromkeys(name for row in rows for name in row)
        columns: dict[str, Column] = dict(as_batch({name: [row.get(name) for row in rows] for name in names}, where="the rows"))
        for column in self.schema.derived:
            columns[column.name] = _as_column(column, [values[column.name] for values in found])
        return Batch(columns)

    def prune(self) -> None:
        """Let go of what no question can read any more, also of keys that no event comes for."""
        with self._lock:
            if self.newest is None:
                return
            self._pruned = self.newest
            for column in self._columns:
                column.prune(self.newest - self._keep)
            longest = max((column.delay for column in self._columns), default=0)
            gone = [name for name, event in self._recent.items() if event["time"] < self.newest - self._keep - longest]
            for name in gone:
                del self._recent[name]

    def forget(self, column: str, value: Any) -> int:
        """Drop every history of this value of a column, such as a user's; gives how many.

        Totals of items keep what the user added to them until the state is built anew.
        """
        with self._lock:
            gone = 0
            for held in self._columns:
                if column in held.declared.by:
                    at = held.declared.by.index(column)
                    for key in [key for key in held.lines if key[at] == text_of(value)]:
                        del held.lines[key]
                        gone += 1
            return gone

    @property
    def entries(self) -> int:
        """Entries held, of all columns: what memory grows with."""
        return sum(len(line.entries) for column in self._columns for line in column.lines.values())

    def _time(self, row: Event) -> int:
        name = self.schema.require("time")
        time = tick(self.schema, row.get(name), name)
        if time is None:
            raise DataError(f"no time {name!r} among {listing(row)}", hint="give the time of the event, or of the request")
        return time

    def _values(self, rows: Sequence[Event]) -> list[dict[str, Any]]:
        with self._lock:
            shared: dict[tuple[int, Key | None, int], Any] = {}
            found = []
            for row in rows:
                whole = row_values(self.schema, row)
                time = self._time(whole) if self._columns else 0
                self._move_to(time)
                values = {column.name: whole[column.name] for column in self.schema.derived if column.of_the_row}
                for position, column in enumerate(self._columns):
                    at = (position, column.key_of(whole), time)
                    if at not in shared:
                        shared[at] = column.read(at[1], time)
                    value = shared[at]
                    values[column.declared.name] = list(value) if isinstance(value, list) else value
                found.append({column.name: values[column.name] for column in self.schema.derived})
            return found

    def _move_to(self, time: int) -> None:
        if self.newest is None or time > self.newest:
            self.newest = time
            if self._pruned is None or time - self._pruned > max(self._keep // 16, ticks_per_hour(self.schema)):
                self.prune()
        elif time < self.newest - self._keep:
            hours = (self.newest - time) / ticks_per_hour(self.schema)
            raise UsageError(f"asked about a time {hours:.1f} hours before one asked about earlier; what was known then is let go",
                             hint="give DerivedState a larger keep_hours, or use derive() on the table")

    def _take_out(self, event: Mapping[str, Any]) -> None:
        for column, key, value in event["entries"]:
            column.take_out(key, event["time"], value)


class _Column:
    """The timelines of one derived column, by key."""

    def __init__(self, declared: Derived, schema: Schema) -> None:
        self.declared = declared
        self._per_hour = ticks_per_hour(schema)
        self.window = None if declared.window_hours is None else int(declared.window_hours * self._per_hour)
        self.delay = int(declared.delay_hours * self._per_hour)
        self._where = label_of(schema, declared.where) if declared.where else None
        self._label = label_of(schema, declared.of[0]) if declared.kind is DerivedKind.RATE else None
        self._tail = {DerivedKind.LAST: declared.length, DerivedKind.LAST_AGE: declared.length, DerivedKind.SINCE_LAST: 1}.get(declared.kind, 0)
        self._texts: bool | None = None
        self.lines: dict[Key, _Timeline] = {}

    def key_of(self, row: Event) -> Key | None:
        parts = [row.get(name) for name in self.declared.by]
        return None if any(is_missing(part) for part in parts) else tuple(text_of(part) for part in parts)

    def entry_of(self, row: Event) -> tuple[Key, Any] | None:
        """What the row adds, and to which key; None where it adds nothing."""
        kind, key = self.declared.kind, self.key_of(row)
        if key is None or (self.declared.where and flag(self._where, row.get(self.declared.where), self.declared.where) != 1):
            return None
        if kind not in (DerivedKind.RATE, DerivedKind.MEAN, DerivedKind.LAST, DerivedKind.LAST_AGE):
            return key, 0.0
        name = self.declared.of[0]
        if kind is DerivedKind.RATE:
            value: Any = flag(self._label, row.get(name), name)
        elif kind is DerivedKind.MEAN:
            value = number(row.get(name))
        else:
            value = plain_value(row.get(name))
        if is_missing(value):
            return None
        if kind in (DerivedKind.LAST, DerivedKind.LAST_AGE):
            self._texts = isinstance(value, str) if self._texts is None else self._texts
            if self._texts != isinstance(value, str):
                raise DataError(f"{name!r} holds {value!r:.80}, earlier events held {'texts' if self._texts else 'numbers'}", hint="give it the type that the table has")
        return key, value

    def put(self, key: Key, time: int, value: Any) -> None:
        if key not in self.lines:
            self.lines[key] = _Timeline(adds=self.declared.kind in (DerivedKind.RATE, DerivedKind.MEAN))
        self.lines[key].put(time, value)

    def take_out(self, key: Key, time: int, value: Any) -> None:
        if key in self.lines:
            self.lines[key].take_out(time, value)

    def read(self, key: Key | None, time: int) -> Any:
        line = None if key is None else self.lines.get(key)
        line = line or _Timeline(adds=True)
        end = line.position(time - self.delay)
        start = None if self.window is None else min(line.position(time - self.window), end)
        count = end - start if start is not None else end + line.dropped
        match self.declared.kind:
            case DerivedKind.COUNT:
                return count
            case DerivedKind.FREQUENCY:
                return int(octave(count))
            case DerivedKind.SINCE_LAST:
                return (time - line.entries[end - 1][0]) / (24 * self._per_hour) if end > (start or 0) else math.nan
            case DerivedKind.RATE | DerivedKind.MEAN:
                return float(smoothed(self.declared, line.total(start, end), count))
            case kind:
                shown = line.entries[max(start or 0, end - self.declared.length):end]
                return [value if kind is DerivedKind.LAST else int(octave((time - at) / self._per_hour)) for at, value in shown]

    def prune(self, horizon: int) -> None:
        """Let go of what no question from the horizon on reads."""
        before = horizon - (self.delay if self.window is None else self.window)
        for key in list(self.lines):
            line = self.lines[key]
            line.drop(before, keep=self._tail if self.window is None else 0)
            if self.window is not None and not line.entries:
                del self.lines[key]


class _Timeline:
    """The entries of one key by time, those of one time by value, and their running sums with what rounding took (as offline)."""

    def __init__(self, *, adds: bool) -> None:
        self.entries: list[tuple[int, Any]] = []
        self.dropped = 0
        self._adds = adds
        self._base = (0.0, 0.0)
        self._sums: list[tuple[float, float]] = []

    def position(self, time: int) -> int:
        """How many entries lie before the time."""
        return bisect_left(self.entries, (time,))

    def put(self, time: int, value: Any) -> None:
        if self.entries and (time, value) < self.entries[-1]:
            at = bisect_left(self.entries, (time, value))
            insort(self.entries, (time, value))
            self._add_from(at)
        else:
            self.entries.append((time, value))
            self._add_from(len(self.entries) - 1)

    def take_out(self, time: int, value: Any) -> None:
        at = bisect_left(self.entries, (time, value))
        if at < len(self.entries) and self.entries[at] == (time, value):
            del self.entries[at]
        elif self.dropped:
            self.dropped -= 1
            self._base, at = _plus(self._base, -value if self._adds else 0.0), 0
        self._add_from(at)

    def total(self, start: int | None, end: int) -> float:
        """Sum of the entries from start to end - 1; of those let go, too, where start is None."""
        total, lost = self._sums[end - 1] if end else self._base
        if start is None:
            return total + lost
        if end <= start:
            return 0.0
        before, lost_before = self._sums[start - 1] if start else self._base
        return (total - before) + (lost - lost_before)

    def drop(self, before: int, *, keep: int) -> None:
        """Let go of entries before a time, but for the newest so many of them."""
        cut = self.position(before) - keep
        if cut <= 0:
            return
        if self._adds:
            self._base = self._sums[cut - 1]
            del self._sums[:cut]
        del self.entries[:cut]
        self.dropped += cut

    def _add_from(self, at: int) -> None:
        if not self._adds:
            return
        running = self._sums[at - 1] if at else self._base
        del self._sums[at:]
        for _, value in self.entries[at:]:
            running = _plus(running, value)
            self._sums.append(running)


def _plus(running: tuple[float, float], value: float) -> tuple[float, float]:
    """Knuth's two-sum, what rounding took added up beside."""
    before, lost = running
    total = before + value
    back = total - before
    return total, lost + ((before - (total - back)) + (value - back))


def _rows(batch: Batch, names: Sequence[str]) -> Iterable[dict[str, Any]]:
    columns = []
    for name in names:
        column = batch[name]
        if isinstance(column, Ragged) or (isinstance(column, np.ndarray) and column.ndim != 1):
            raise DataError(f"column {name!r} holds lists or vectors, derived columns read single values", hint="read another column")
        columns.append(list(column) if isinstance(column, np.ndarray) and column.dtype.kind == "M" else
                       column.tolist() if isinstance(column, np.ndarray) else column.decode().tolist())
    return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


def _as_column(column: Derived, values: list[Any]) -> Column:
    made = as_batch({column.name: values}, where="derived columns") if column.kind in (DerivedKind.CROSS, DerivedKind.LAST, DerivedKind.LAST_AGE) else None
    return np.array([math.nan if value is None else value for value in values]) if made is None else made[column.name]


__all__ = ["KEEP_HOURS", "DerivedState"]
