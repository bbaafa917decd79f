"""Derived columns of users at the moment of a request, from the store of events: what `recspect events labels` would make rows of, row by row as it comes.

An exposure is a row; a click, like, cart, purchase or hide that is credited to it (as in `recspect.events.joining`: the latest exposure of the item to the user in the
same request, or in any where it names none, within a day) sets its label. Columns by the user, and columns of the row alone (hour, weekday, cross), are given to the model
anew for each list. Columns by the item stay as the recommender was built.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from recspect.diagnosis.batch import Column
from recspect.errors import RecspectError
from recspect.events.event import MEASURED_KINDS, EventKind
from recspect.events.rows import condition
from recspect.events.store import EVENT_COLUMNS, EventStore, Window
from recspect.features.online import DerivedState
from recspect.recommending.lists import side_of
from recspect.recommending.pipeline.recommender import Recommender
from recspect.schema import Schema

FEEDBACK = tuple(kind for kind in EventKind if kind is not EventKind.EXPOSURE and kind not in MEASURED_KINDS)
"""Kinds that are labels of 0 and 1."""

CARRIED = ("model_version", "surface")
"""Parts of an event that the rows of `recspect events labels` have under their own names."""

WITHIN = timedelta(hours=24)
"""How long after an exposure feedback is credited to it: the default of `recspect events labels`."""

LATE = timedelta(hours=72)
"""How long after an exposure feedback may come in, whatever its own time; later, it is not read before the next start."""

OF_PAIR = 100
"""Exposures of one item to one user that are remembered for feedback to come, and feedback for exposures to come; the newest by their own time."""

PAIRS = 500_000
"""Pairs of a user and an item whose exposures are remembered for feedback to come."""


def served_columns(schema: Schema) -> tuple[str, ...]:
    """Derived columns that a request gets anew: fields of the user or the context, of the row alone or by the user from what events tell."""
    roles = (schema.user, schema.item, schema.time, schema.request, schema.position, schema.propensity)
    told = {*(role for role in roles if role is not None), *CARRIED, *(label.name for label in schema.labels if label.name in FEEDBACK)}
    return tuple(column.name for column in schema.derived if column.name in schema.field_names and side_of(column.name, schema) != "item"
                 and (column.of_the_row or (column.by == (schema.user,) and {*column.of, *((column.where,) if column.where else ())} <= told)))


class OnlineFeatures:
    """Follows a store for the schemas of the recommenders that answer.

    Args:
        store: Of events.
    """

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.failure = ""
        self._followed: dict[str, _Followed] = {}
        self._lock = threading.Lock()

    def of(self, recommender: Recommender, user: str | int, context: Mapping[str, Any]) -> tuple[dict[str, Column], str]:
        """Field to its value at this moment, and what is missing, in words; both empty where the model reads no such column.

        Args:
            recommender: Whose model is asked.
            user: Id as it was asked for.
            context: What the request brings.
        """
        schema = recommender.audience.schema
        names = served_columns(schema)
        if not names:
            return {}, ""
        followed = self._following(recommender)
        if followed.cursor is None:
            return {}, "derived columns are those of when the recommender was built: the store was not read yet"
        row = {**context, schema.user: self.store.stored_user(str(user)), schema.require("time"): in_unit(schema, datetime.now(UTC))}
        found = followed.state.batch([row])
        # A cross of what the request does not bring stays as it was last known of the user.
        alone = {column.name: set(column.of or (schema.require("time"),)) for column in schema.derived if column.of_the_row}
        return {name: found[name] for name in names if alone.get(name, set()) <= row.keys()}, ""

    def refresh(self) -> None:
        """Take in what became visible since the last call. What goes wrong is kept in `failure`."""
        with self._lock:
            followed = list(self._followed.values())
        self.failure = ""
        for each in followed:
            try:
                each.follow(self.store)
            except RecspectError as error:
                self.failure = error.message

    def know(self, recommender: Recommender) -> None:
        """Begin to follow for a recommender before it is first asked."""
        if served_columns(recommender.audience.schema):
            self._following(recommender)

    def _following(self, recommender: Recommender) -> _Followed:
        """What follows the store for a recommender's schema; made when it is first asked for."""
        key = _key(recommender)
        with self._lock:
            if key not in self._followed:
                self._followed[key] = _Followed(recommender.audience.schema, numbers=_numbers(recommender))
            return self._followed[key]


@dataclass
class _Shown:
    """An exposure that feedback may come for."""

    time: datetime
    request: str | None
    event_id: str
    row: dict[str, Any]
    known: dict[str, Any] | None = None


@dataclass
class _Pair:
    shown: list[_Shown] = field(default_factory=list)
    told: list[Mapping[str, Any]] = field(default_factory=list)


class _Followed:
    """The state of one schema, and how far the store was read for it."""

    def __init__(self, schema: Schema, *, numbers: bool) -> None:
        self.schema = schema
        self._numbers = numbers
        self.state = DerivedState(schema, keep_hours=LATE / timedelta(hours=1))
        self.cursor: int | None = None
        self._pairs: OrderedDict[tuple[str, str], _Pair] = OrderedDict()
        self._labels = {label.name for label in schema.labels}

    def follow(self, store: EventStore) -> None:
        if self.cursor is None:
            until = store.newest()
            where = condition(Window(start=self._start()), [EventKind.EXPOSURE, *FEEDBACK])
            for table in store.select(f"SELECT * FROM {{events}} WHERE {where} AND sequence <= {until} ORDER BY sequence", EVENT_COLUMNS):  # noqa: S608 - literals
                self._take(table.to_pylist())
            self.cursor = until
        while True:
            table, after = store.since(self.cursor, limit=10_000)
            self._take(table.to_pylist())
            self.cursor = after
            if table.num_rows < 10_000:
                return

    def _start(self) -> datetime | None:
        """Nothing before it is read by any column: the longest window, where all have one."""
        windows = [column.window_hours for column in self.schema.derived if not column.of_the_row]
        if any(hours is None for hours in windows):
            return None
        return datetime.now(UTC) - timedelta(hours=max((hours for hours in windows if hours is not None), default=0.0)) - WITHIN

    def _take(self, events: Iterable[Mapping[str, Any]]) -> None:
        for event in events:
            if event["kind"] != EventKind.EXPOSURE and event["kind"] not in FEEDBACK:
                continue
            key = (event["user"], event["item"])
            pair = self._pairs.setdefault(key, _Pair())
            self._pairs.move_to_end(key)
            if event["kind"] == EventKind.EXPOSURE:
                shown = _Shown(event["time"], event["request"], event["event_id"], self._row(event))
                pair.shown = sorted([*pair.shown, shown], key=lambda each: (each.time, each.event_id))[-OF_PAIR:]
            else:
                pair.told = sorted([*pair.told, event], key=lambda each: each["time"])[-OF_PAIR:]
            self._credit(pair)
            if len(self._pairs) > PAIRS:
                self._pairs.popitem(last=False)

    def _credit(self, pair: _Pair) -> None:
        """Label the exposures of a pair by all feedback that is known, and put those that changed into the state."""
        for shown in pair.shown:
            shown.row.update({name: 0 for name in self._labels if name in FEEDBACK})
        for told in pair.told:
            of_list = [each for each in pair.shown if told["request"] in (None, each.request) and each.time <= told["time"]]
            latest = max(of_list, key=lambda each: (each.time, each.event_id), default=None)
            if latest is not None and told["time"] <= latest.time + WITHIN and told["kind"] in self._labels:
                latest.row[told["kind"]] = 1
        for shown in pair.shown:
            late = self.cursor is not None and shown.known is not None and shown.time < datetime.now(UTC) - LATE
            if shown.row != shown.known and not late:
                self.state.update(shown.row, id=shown.event_id)
                shown.known = dict(shown.row)

    def _row(self, event: Mapping[str, Any]) -> dict[str, Any]:
        schema = self.schema
        row = {name: event[name] for name in CARRIED if name in schema.columns}
        roles = {schema.user: "user", schema.item: "item", schema.request: "request", schema.position: "position", schema.propensity: "propensity"}
        row |= {column: event[part] for column, part in roles.items() if column is not None}
        row[schema.require("time")] = in_unit(schema, event["time"])
        if self._numbers:  # events hold texts, and a model that learned numbers takes no texts
            row[schema.require("item")] = int(event["item"]) if event["item"].lstrip("-").isdecimal() else None
        return row


def in_unit(schema: Schema, moment: datetime) -> Any:
    """A moment as the schema's time column holds it."""
    if schema.time_unit is None:
        return moment
    micros = int(np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us").astype(np.int64))
    scale = {"s": 1e-6, "ms": 1e-3, "us": 1.0, "ns": 1e3, "days": 1 / 86_400e6}.get(schema.time_unit, 1.0)
    return micros * int(scale) if scale >= 1 else micros * scale


def _key(recommender: Recommender) -> str:
    schema = recommender.audience.schema
    return repr((schema.derived, schema.user, schema.item, schema.time, schema.time_unit, schema.labels, _numbers(recommender)))


def _numbers(recommender: Recommender) -> bool:
    """Whether the items of the model's table are whole numbers."""
    return bool(recommender.items.ids.values.dtype.kind in "iu")


__all__ = ["OnlineFeatures", "in_unit", "served_columns"]
