"""What is known of users: ids, fields, what they had; and the requests that are made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical, Column, Ragged
from recspect.errors import SchemaError, UsageError, listing
from recspect.recommending.histories import Histories
from recspect.recommending.ids import distinct
from recspect.recommending.lists import audience, side_of
from recspect.recommending.pipeline.catalogue import NEVER, Catalogue, whole_times
from recspect.recommending.pipeline.id_table import IdTable, column_of
from recspect.recommending.positives import positive_rows
from recspect.schema import Schema


@dataclass(frozen=True, eq=False)
class Requests:
    """Lists that are asked for, one per row.

    Args:
        ids: Id of the user of each request, shape (requests,), as given.
        users: Its code, shape (requests,); -1 for a user that is not known.
        histories: What each had so far, by request: `histories.of(row)` are item codes, oldest first.
        given: Columns of fields that the request brings itself, such as the surface; they go before what is known of the user.
        time: When the lists are made, in the unit of the time column.
    """

    ids: Sequence[Any]
    users: NDArray[np.int64]
    histories: Histories
    given: Batch
    time: int

    @property
    def rows(self) -> int:
        """How many lists."""
        return len(self.users)

    def take(self, rows: NDArray[np.int64]) -> Requests:
        """Some of them."""
        return Requests([self.ids[row] for row in rows], self.users[rows], subset(self.histories, rows), self.given.take(rows), self.time)


@dataclass(frozen=True, eq=False)
class Audience:
    """Users by code: `ids.values[code]`, row `code` of `rows`.

    Args:
        schema: Names the user column and the fields.
        ids: Of the users, ascending.
        rows: One row per user: the last known value of each field of the user and the context.
        usual: One row: for each of these fields the most frequent value (categories) or the median (numbers), for those of whom nothing is known.
        wanted: Items that each user wanted, by time: training rows with a positive label.
        met: Items that each user met at all, by time, wanted or not.
        time: The last time in the rows.
    """

    schema: Schema
    ids: IdTable
    rows: Batch
    usual: Batch
    wanted: Histories
    met: Histories
    time: int

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_rows(cls, rows: Batch, schema: Schema, items: Catalogue) -> Audience:
        """From training rows.

        Raises:
            SchemaError: No user column.
            DataError: A column is missing.
        """
        if schema.user is None:
            raise SchemaError("the schema names no user column, so there is nobody to recommend to", hint='add user = "..." under [roles]')
        _, values = distinct(rows, schema.user)
        found = audience(rows, schema, users=max(1, len(values)))
        codes, values = distinct(found, schema.user)
        found = found.take(np.argsort(codes, kind="stable"))
        ids = IdTable(values)
        user, item = ids.codes_of(rows, schema.user), items.ids.codes_of(rows, schema.require("item"))
        time = whole_times(rows, schema.time) if schema.time is not None else np.arange(rows.rows)
        there = (user >= 0) & (item >= 0)
        wanted = there & positive_rows(rows, schema)
        names = [name for name in found if name != schema.user]
        usual = Batch({name: _usual(rows[name]) for name in names}, rows=1)
        size = {"n_users": len(ids), "n_items": max(1, len(items))}
        return cls(schema, ids, found, usual, Histories.from_events(user[wanted], item[wanted], time[wanted], **size),
                   Histories.from_events(user[there], item[there], time[there], **size), int(time.max(initial=0)) if (time != NEVER).any() else 0)

    def requests(self, users: Sequence[Any], *, context: Mapping[str, Any] | None = None,
                 recent: Mapping[int, Sequence[tuple[int, int]]] | None = None, time: int | None = None) -> Requests:
        """One request per user.

        Args:
            users: Ids; those that are not known get what is not personal.
            context: Field to one value for all, or to a list of one per request.
            recent: By row, (item code, time) of what a user had since this was built, oldest first.
            time: When the lists are made; by default the last time that is known.

        Raises:
            UsageError: A context that names no field, an item's field, or has another length.
        """
        codes = self.ids.codes(users)
        given = self._given(context or {}, len(users))
        histories = subset(self.wanted, codes)
        if recent:
            histories = _extended(histories, recent)
        return Requests(list(users), codes, histories, given, self.time if time is None else time)

    def field_rows(self, requests: Requests) -> Batch:
        """The fields of users and context, one row per request: what the request brings, else what is known of the user, else what is usual.

        The user's id is that of the request also where it is not known; other fields of the user are then missing.
        """
        schema, known = self.schema, requests.users >= 0
        place = np.where(known, requests.users, 0)
        columns: dict[str, Column] = {}
        for name in self.rows:
            if name in requests.given:
                columns[name] = requests.given[name]
            elif name == schema.user:
                columns[name] = _like(self.rows[name], requests.ids)
            elif known.all():
                columns[name] = self.rows[name][place]
            else:
                other = self.usual[name] if _is_context(name, schema) else _missing_of(self.usual[name])
                columns[name] = _either(self.rows[name][place] if len(self) else None, other, known)
        columns |= {name: requests.given[name] for name in requests.given if name not in columns}
        return Batch(columns, rows=requests.rows)

    def _given(self, context: Mapping[str, Any], rows: int) -> Batch:
        fields = self.schema.field_names
        wrong = [name for name in context if name not in fields or side_of(name, self.schema) == "item" or name == self.schema.user]
        if wrong:
            choices = listing(name for name in fields if side_of(name, self.schema) != "item" and name != self.schema.user)
            raise UsageError(f"the context names {listing(wrong)}, which is no field of the user or the context", hint=f"fields: {choices}")
        columns: dict[str, Column] = {}
        for name, value in context.items():
            field = self.schema.field(name)
            several = field.kind in ("multi_valued", "sequence") and field.separator is None
            if isinstance(value, (Categorical, Ragged, np.ndarray)):
                columns[name] = value
            elif several or field.kind == "vector":
                each = list(value) if value and isinstance(value[0], (list, tuple, np.ndarray)) else [value] * rows
                columns[name] = np.array(each, dtype=np.float64) if field.kind == "vector" else _lists(each)
            else:
                columns[name] = _like(self.usual.get(name), list(value) if isinstance(value, (list, tuple)) else [value] * rows)
            if len(columns[name]) != rows:
                raise UsageError(f"the context has {len(columns[name]):,} values of {name!r} for {rows:,} requests", hint="give one value, or one per request")
        return Batch(columns, rows=rows)


def subset(histories: Histories, users: NDArray[np.int64]) -> Histories:
    """The histories of these users in this order; empty for -1."""
    known = users >= 0
    if not histories.n_users:
        return Histories(histories.items, histories.times, np.zeros(len(users) + 1, dtype=np.int64), histories.n_items)
    place = np.where(known, users, 0)
    lengths = np.where(known, histories.lengths[place], 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    index = np.repeat(histories.offsets[place] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Histories(histories.items[index], histories.times[index], offsets, histories.n_items)


def removed_value(audience: Audience, name: str) -> Column:
    """One row of what a user of whom nothing is known has in a field: an id that nobody has, no value, or in a field of the context what is usual."""
    schema = audience.schema
    if name == schema.user:
        values = audience.ids.values
        if values.dtype.kind != "O":
            return np.array([int(values.max(initial=0)) + 1], dtype=np.int64)
        return column_of(["\0nobody"])
    return audience.usual[name] if _is_context(name, schema) else _missing_of(audience.usual[name])


def _extended(histories: Histories, recent: Mapping[int, Sequence[tuple[int, int]]]) -> Histories:
    owner = histories.users
    more = [(row, item, time) for row, events in recent.items() for item, time in events if item >= 0]
    if not more:
        return histories
    rows, items, times = (np.array(part, dtype=np.int64) for part in zip(*more, strict=True))
    return Histories.from_events(np.concatenate([owner, rows]), np.concatenate([histories.items, items]), np.concatenate([histories.times, times]),
                                 n_users=histories.n_users, n_items=histories.n_items)


def _usual(column: Column) -> Column:
    """The most frequent value, the median, or the middle row of lists and vectors."""
    rows = len(column)
    if isinstance(column, Categorical):
        counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.values))
        return Categorical(np.array([int(counts.argmax()) if counts.any() else -1]), column.values)
    if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "iub":
        values, counts = np.unique(column, return_counts=True)
        return values[[counts.argmax()]]
    if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind == "f":
        return np.array([np.nanmedian(column) if np.isfinite(column).any() else np.nan])
    if isinstance(column, np.ndarray) and column.ndim == 1:
        return column[[rows // 2]]
    return _missing_of(column[np.array([0])])


def _missing_of(column: Column) -> Column:
    """One row without a value, in the form of the column."""
    if isinstance(column, Categorical):
        return Categorical(np.array([-1]), column.values)
    if isinstance(column, Ragged):
        return Ragged(column.values[:0], np.zeros(2, dtype=np.int64))
    if column.ndim == 2:
        return np.full((1, column.shape[1]), np.nan)
    if column.dtype.kind == "M":
        return np.array(["NaT"], dtype=column.dtype)
    return np.array([np.nan])


def _either(known: Column | None, other: Column, mask: NDArray[np.bool_]) -> Column:
    """Row by row the known value, or the one of `other`."""
    from recspect.diagnosis.batch import concatenate

    rows = len(mask)
    if known is None:
        return other[np.zeros(rows, dtype=np.int64)]
    both = concatenate([Batch({"value": known}), Batch({"value": other})])["value"]
    return both[np.where(mask, np.arange(rows), rows)]


def _like(column: Column | None, values: Sequence[Any]) -> Column:
    """Values in the form of a column: texts of numbers become numbers where the column holds numbers."""
    if isinstance(column, Categorical) and column.values.dtype.kind == "O":
        return column_of([None if value is None else _shown(value) for value in values])
    if isinstance(column, np.ndarray) and column.dtype.kind in "iuf":
        numbers = [_number(value) for value in values]
        if column.dtype.kind in "iu" and all(value is not None and float(value).is_integer() for value in numbers):
            return column_of([int(value) for value in numbers])
        return np.array([np.nan if value is None else float(value) for value in numbers])
    return column_of(list(values))


def _shown(value: Any) -> str:
    return str(int(value)) if isinstance(value, (float, np.floating)) and float(value).is_integer() else str(value)


def _number(value: Any) -> float | int | None:
    """Whole numbers beyond 2**53 stay whole; what is no number is not known."""
    if value is None:
        return None
    try:
        return int(value) if not isinstance(value, (float, np.floating)) else float(value)
    except (TypeError, ValueError):
        try:
            return float(value)
        except (TypeError, ValueError):
            return None


def _lists(each: Sequence[Sequence[Any]]) -> Ragged:
    flat = [value for one in each for value in one]
    values = column_of(flat) if flat else Categorical(np.empty(0, dtype=np.int64), np.empty(0, dtype=object))
    return Ragged(values, np.concatenate([[0], np.cumsum([len(one) for one in each])]).astype(np.int64))


def _is_context(name: str, schema: Schema) -> bool:
    return name in schema.field_names and side_of(name, schema) == "context"



