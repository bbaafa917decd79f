"""Columns that are computed before anything is encoded, as a schema file declares them under `[derived]`.

Three kinds read the row alone (`cross`, `hour`, `weekday`). The others read the rows of the same user, item or other key that
lie strictly before the row's time: what was known when the row came about, and nothing later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import fields as settings_of
from enum import StrEnum
from typing import Any

from recspect.errors import SchemaError, listing


class DerivedKind(StrEnum):
    """What is computed; docs/features.md has a line for each."""

    CROSS = "cross"
    HOUR = "hour"
    WEEKDAY = "weekday"
    LAST = "last"
    LAST_AGE = "last_age"
    COUNT = "count"
    RATE = "rate"
    MEAN = "mean"
    SINCE_LAST = "since_last"
    FREQUENCY = "frequency"


OF_THE_ROW = (DerivedKind.CROSS, DerivedKind.HOUR, DerivedKind.WEEKDAY)
"""Kinds that read nothing but the row itself."""

_OF_TIME = ("by", "where", "window_hours", "delay_hours")
_SETTINGS: dict[DerivedKind, tuple[str, ...]] = {
    DerivedKind.CROSS: ("of",), DerivedKind.HOUR: ("of", "time_zone"), DerivedKind.WEEKDAY: ("of", "time_zone"),
    DerivedKind.LAST: (*_OF_TIME, "of", "length"), DerivedKind.LAST_AGE: (*_OF_TIME, "of", "length"),
    DerivedKind.COUNT: _OF_TIME, DerivedKind.SINCE_LAST: _OF_TIME, DerivedKind.FREQUENCY: _OF_TIME,
    DerivedKind.RATE: (*_OF_TIME, "of", "prior", "prior_rows"), DerivedKind.MEAN: (*_OF_TIME, "of", "prior", "prior_rows"),
}
"""Settings that each kind reads; the others are refused, for a setting without an effect is a mistake."""


@dataclass(frozen=True, kw_only=True)
class Derived:
    """One computed column.

    Args:
        name: What the column is called; a field of that name makes it an input of the model.
        kind: What is computed.
        by: Whose earlier rows are read: a column such as the user's, or several (their combination).
        of: What is read: one column for `last`, `last_age` and `mean`; a label or a column of 0 and 1 for `rate`; two or more
            for `cross`; a column of times for `hour` and `weekday` (the role `time` where it is left out).
        where: A label, or a column of 0 and 1: only rows in which it is 1 are read.
        window_hours: Only rows at most so long before this one; all where None. Above 0.
        delay_hours: A row is known only so long after its time, such as the hours that a click may take. 0 or more.
        length: Entries kept of `last` and `last_age`, the newest.
        prior: Where `rate` and `mean` begin: the value without any row.
        prior_rows: How many rows the prior counts for, so that one click of one view is no rate of 1. 0 or more.
        time_zone: Where `hour` and `weekday` are, such as "Europe/Berlin".
    """

    name: str
    kind: DerivedKind
    by: tuple[str, ...] = ()
    of: tuple[str, ...] = ()
    where: str | None = None
    window_hours: float | None = None
    delay_hours: float = 0.0
    length: int = 50
    prior: float | None = None
    prior_rows: float = 0.0
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        _require(isinstance(self.name, str) and bool(self.name), f"the name of a derived column is {self.name!r:.80}", "names of columns are text")
        what = f"derived column {self.name!r}"
        try:
            object.__setattr__(self, "kind", DerivedKind(self.kind))
        except ValueError:
            raise SchemaError(f"{what}: kind is {self.kind!r:.80}", hint=f"kinds: {listing(kind.value for kind in DerivedKind)}") from None
        for setting in ("by", "of"):
            object.__setattr__(self, setting, _names(getattr(self, setting), f"{what}: {setting}"))
        self._refuse_idle_settings(what)
        _require(self.where is None or (isinstance(self.where, str) and bool(self.where)), f"{what}: where is {self.where!r:.80}, expected the name of a column",
                 'where = "is_click"')
        _require(self.window_hours is None or (_is_number(self.window_hours) and self.window_hours > 0),
                 f"{what}: window_hours is {self.window_hours!r:.80}, expected a number above 0", "leave it out for all time")
        _require(_is_number(self.delay_hours) and self.delay_hours >= 0, f"{what}: delay_hours is {self.delay_hours!r:.80}, expected a number of 0 or more",
                 "delay_hours = 24 where a label is known a day later")
        _require(self.window_hours is None or self.window_hours > self.delay_hours,
                 f"{what}: the window of {self.window_hours} hours ends before the delay of {self.delay_hours} begins", "a window is longer than the delay")
        _require(isinstance(self.length, int) and not isinstance(self.length, bool) and self.length >= 1,
                 f"{what}: length is {self.length!r:.80}, expected a whole number of 1 or more", "length = 50")
        _require(self.prior is None or _is_number(self.prior), f"{what}: prior is {self.prior!r:.80}, expected a number", "prior = 0.05")
        _require(_is_number(self.prior_rows) and self.prior_rows >= 0, f"{what}: prior_rows is {self.prior_rows!r:.80}, expected a number of 0 or more",
                 "prior_rows = 20")
        _require((self.prior is None) == (self.prior_rows == 0), f"{what}: prior and prior_rows go together",
                 "prior = 0.05, prior_rows = 20 counts as 20 rows with a mean of 0.05; leave both out for none")
        _require(isinstance(self.time_zone, str) and bool(self.time_zone), f"{what}: time_zone is {self.time_zone!r:.80}", 'time_zone = "Europe/Berlin"')
        self._require_inputs(what)

    def _refuse_idle_settings(self, what: str) -> None:
        read = _SETTINGS[self.kind]
        given = [spec.name for spec in settings_of(self) if spec.name not in ("name", "kind") and getattr(self, spec.name) != spec.default]
        idle = [name for name in given if name not in read]
        _require(not idle, f"{what}: kind '{self.kind.value}' does not read {listing(idle)}", f"settings of this kind: {listing(read)}")

    def _require_inputs(self, what: str) -> None:
        if "by" in _SETTINGS[self.kind]:
            _require(bool(self.by), f"{what}: kind '{self.kind.value}' needs 'by'", 'by = "user_id": whose earlier rows are read')
        if self.kind is DerivedKind.CROSS:
            _require(len(self.of) >= 2, f"{what}: a cross is of two columns or more, here {listing(self.of)}", 'of = ["tab", "hour"]')
        elif "of" in _SETTINGS[self.kind]:
            least = 0 if self.kind in OF_THE_ROW else 1
            _require(least <= len(self.of) <= 1, f"{what}: kind '{self.kind.value}' needs one column in 'of', here {listing(self.of)}", 'of = "video_id"')

    @property
    def of_the_row(self) -> bool:
        """Whether it reads nothing but the row itself."""
        return self.kind in OF_THE_ROW

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that it names, without repeats; the time of the schema is not among them."""
        return tuple(dict.fromkeys([*self.by, *self.of, *([self.where] if self.where else [])]))

    def to_entry(self) -> dict[str, Any]:
        """Plain settings for a file, without the name."""
        entry: dict[str, Any] = {"kind": self.kind.value}
        for spec in settings_of(self):
            value = getattr(self, spec.name)
            if spec.name not in ("name", "kind") and value != spec.default:
                entry[spec.name] = (value[0] if len(value) == 1 else list(value)) if isinstance(value, tuple) else value
        return entry


def require_sound(derived: tuple[Derived, ...], *, labels: Iterable[str], roles: Iterable[str], time: str | None, time_unit: str | None) -> None:
    """The computed columns of one schema, together.

    Raises:
        SchemaError: A name twice or one that a label or a role has, a column that reads what is computed after it, hours where the
            time is only an order, a missing time, a cross of a label.
    """
    names = [column.name for column in derived]
    twice = sorted({name for name in names if names.count(name) > 1})
    _require(not twice, f"derived columns named more than once: {listing(twice)}", "give each a name of its own")
    for what, taken in (("a label", set(labels)), ("a role", set(roles))):
        both = sorted(set(names) & taken)
        _require(not both, f"derived columns that are also {what}: {listing(both)}", "labels and roles are columns of the table; take another name")
    readable: set[str] = set()
    for column in derived:
        what = f"derived column {column.name!r}"
        early = sorted((set(column.reads) & set(names)) - readable)
        _require(not early, f"{what} reads {listing(early)}, which is computed later or from earlier rows",
                 "a derived column may read those of kind cross, hour and weekday that stand above it")
        if column.of_the_row:
            readable.add(column.name)
            leaks = sorted(set(column.of) & set(labels))
            _require(not leaks, f"{what} reads the label {listing(leaks)} of the same row", "what is to be predicted is not known then")
            _require(bool(column.of) or time is not None, f"{what} reads the time, and the schema has no column with role 'time'", 'of = "shown_at"')
            continue
        _require(time is not None, f"{what} reads earlier rows, and the schema has no column with role 'time'", '[roles] time = "time_ms"')
        in_hours = column.window_hours is not None or column.delay_hours > 0 or column.kind in (DerivedKind.SINCE_LAST, DerivedKind.LAST_AGE)
        _require(not (in_hours and time_unit == "row"), f"{what} counts hours, and the time only gives an order (time_unit 'row')",
                 "leave window_hours and delay_hours out, or give a real time")


def _names(value: object, what: str) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else value
    right = isinstance(found, (list, tuple)) and all(isinstance(name, str) and name for name in found) and len(set(found)) == len(found)
    _require(right, f"{what} is {value!r:.80}, expected a column or a list of different columns", 'by = "user_id"')
    return tuple(found)  # type: ignore[arg-type]


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise SchemaError(message, hint=hint)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


__all__ = ["OF_THE_ROW", "Derived", "DerivedKind", "require_sound"]
