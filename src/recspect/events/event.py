"""One thing that happened between a user and an item, and what a well-formed one is.

Whatever brings events (a file, an HTTP request, a message) brings a mapping such as
`{"event_id": "e-1", "kind": "click", "user": "ann", "item": "film-7", "time": "2026-05-01T12:00:00Z"}`; `parse_event` makes
an `Event` of it or says, in words, why not. Nothing else in recspect makes events of foreign data.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from recspect.errors import RecspectError, listing


class EventKind(StrEnum):
    """What happened."""

    EXPOSURE = "exposure"
    CLICK = "click"
    LIKE = "like"
    ADD_TO_CART = "add_to_cart"
    PURCHASE = "purchase"
    DWELL = "dwell"
    RATING = "rating"
    HIDE = "hide"


MEASURED_KINDS = (EventKind.DWELL, EventKind.RATING)
"""Kinds that say nothing without a value: seconds, a grade."""

ID_CHARACTERS = 128
"""Longest event id."""

NAME_CHARACTERS = 256
"""Longest user, item, request, model version and surface."""

ATTRIBUTES = 64
"""Most attributes of an event."""

ATTRIBUTES_CHARACTERS = 16_384
"""Longest JSON text of all attributes together."""

LARGEST_VALUE = 1e15
"""Largest absolute value: beyond it, whole numbers are not kept exactly and it is most likely a time."""

LARGEST_POSITION = 2**31 - 1
"""Largest position."""

FUTURE_TOLERANCE = timedelta(hours=1)
"""How far the clock of whoever sends may be ahead."""

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
"""An earlier time is a mistake of units (milliseconds read as seconds or the other way round)."""

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and lone surrogates: in no name, since databases, terminals and logs take them for commands."""

_ZONED = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*(?:[Zz]|[+-]\d\d:?\d\d)")


class EventError(RecspectError):
    """An event that is not well formed.

    Args:
        code: A stable name of what is wrong, such as `unknown_kind`.
        field: The part of the event that it is about; empty where it is the whole.
        message: What was expected and what was found. The value of `user` is never quoted.
        hint: What to do about it.
    """

    def __init__(self, code: str, field: str, message: str, *, hint: str = "") -> None:
        self.code = code
        self.field = field
        super().__init__(message, hint=hint)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened. Made by `parse_event`, which verifies it.

    Args:
        event_id: Tells this event from every other; the same id again is the same event. 1 to 128 characters.
        kind: What happened.
        user: Who; 1 to 256 characters.
        item: With what; 1 to 256 characters.
        time: When it happened, in UTC.
        received: When it came here, in UTC.
        request: The list or page that the item was shown in.
        position: Place in that list, from 1.
        propensity: Probability with which the item was shown there, in (0, 1].
        model_version: Which model chose it.
        surface: Where it was shown, such as `home`.
        value: Seconds of dwell, the grade of a rating, the price of a purchase.
        attributes: Anything else, as the text of a JSON object; None where there is nothing.
    """

    event_id: str
    kind: EventKind
    user: str
    item: str
    time: datetime
    received: datetime
    request: str | None = None
    position: int | None = None
    propensity: float | None = None
    model_version: str | None = None
    surface: str | None = None
    value: float | None = None
    attributes: str | None = None


GIVEN = ("event_id", "kind", "user", "item", "time", "request", "position", "propensity", "model_version", "surface", "value", "attributes")
"""What whoever sends an event may give; the first five must be there. `received` is set here."""

REQUIRED = GIVEN[:5]


def parse_event(given: object, *, received: datetime) -> Event:
    """An event from what was sent.

    Args:
        given: A mapping with the keys of `GIVEN`; absent and null are the same.
        received: When it came, in UTC.

    Raises:
        EventError: Something about it is not well formed; the first thing found.

    Example:
        >>> now = datetime(2026, 5, 1, 12, 0, 1, tzinfo=UTC)
        >>> sent = {"event_id": "e-1", "kind": "click", "user": "ann", "item": 7, "time": "2026-05-01T14:00:00+02:00"}
        >>> event = parse_event(sent, received=now)
        >>> event.item, event.time.isoformat()
        ('7', '2026-05-01T12:00:00+00:00')
    """
    if not isinstance(given, Mapping):
        raise EventError("not_an_object", "", f"an event is a JSON object, this is {_named(given)}",
                         hint=f'{{"event_id": "...", "kind": "click", ...}}; fields: {", ".join(GIVEN)}')
    if not given.keys() <= _GIVEN:
        unknown = [str(key) for key in given if key not in _GIVEN]
        raise EventError("unknown_field", "", f"an event has no field {listing((name[:80] for name in unknown), limit=5)}; fields: {', '.join(GIVEN)}",
                         hint="put what is particular to your product into 'attributes'")
    for name in REQUIRED:
        if given.get(name) is None:
            raise EventError("missing_field", name, f"the event has no {name}", hint=f"required: {', '.join(REQUIRED)}")
    kind = _kind(given["kind"])
    value = _number(given.get("value"), "value", "seconds of dwell, a grade, a price")
    if value is None and kind in MEASURED_KINDS:
        raise EventError("missing_field", "value", f"an event of kind {kind.value} has no value", hint="give the seconds of a dwell, the grade of a rating")
    if value is not None and abs(value) > LARGEST_VALUE:
        raise EventError("value_out_of_range", "value", f"value is {value:g}, expected at most {LARGEST_VALUE:g}", hint="dwell is in seconds")
    if value is not None and value < 0 and kind in (EventKind.DWELL, EventKind.PURCHASE):
        raise EventError("value_out_of_range", "value", f"value is {value:g} for a {kind.value}, expected 0 or more")
    return Event(
        event_id=_name(given["event_id"], "event_id", ID_CHARACTERS), kind=kind,
        user=_name(given["user"], "user", NAME_CHARACTERS), item=_name(given["item"], "item", NAME_CHARACTERS),
        time=_time(given["time"], received), received=received, request=_optional(given, "request"),
        position=_position(given.get("position")), propensity=_propensity(given.get("propensity")),
        model_version=_optional(given, "model_version"), surface=_optional(given, "surface"), value=value,
        attributes=_attributes(given.get("attributes")))


_GIVEN = frozenset(GIVEN)
_KINDS = {kind.value: kind for kind in EventKind}


def _kind(given: object) -> EventKind:
    kind = _KINDS.get(given) if isinstance(given, str) else None
    if kind is None:
        raise EventError("unknown_kind", "kind", f"kind is {_shown(given)}, expected one of: {', '.join(_KINDS)}",
                         hint="a kind of your own can be told as a click with an attribute")
    return kind


def _optional(given: Mapping[str, Any], field: str) -> str | None:
    value = given.get(field)
    return None if value is None else _name(value, field, NAME_CHARACTERS)


def _name(given: object, field: str, most: int) -> str:
    if isinstance(given, int) and not isinstance(given, bool):
        if abs(given) >= 2**63:
            raise EventError("name_too_long", field, f"{field} is a whole number beyond 64 bits", hint="send it as a text")
        given = str(given)
    if not isinstance(given, str):
        raise EventError("not_a_text", field, f"{field} is {_named(given)}, expected a text", hint="names are texts or whole numbers")
    if not given or given.isspace():
        raise EventError("empty_name", field, f"{field} is empty", hint=f"give 1 to {most} characters")
    if len(given) > most:
        raise EventError("name_too_long", field, f"{field} has {len(given):,} characters, expected at most {most}", hint="long texts belong into 'attributes'")
    if not given.isprintable() and CONTROL.search(given):
        raise EventError("control_character", field, f"{field} has a control character or half of a surrogate pair",
                         hint="remove line breaks, tabs, NUL and what was cut in the middle of a character")
    return given


def _number(given: object, field: str, meaning: str) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise EventError("not_a_number", field, f"{field} is {_shown(given)}, expected a number ({meaning})")
    try:
        number = float(given)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise EventError("not_finite", field, f"{field} is not a finite number", hint="leave out what is not known")
    return number


def _position(given: object) -> int | None:
    number = _number(given, "position", "1 is the first place")
    if number is None:
        return None
    if number != int(number):
        raise EventError("position_out_of_range", "position", f"position is {number:g}, expected a whole number")
    if not 1 <= number <= LARGEST_POSITION:
        raise EventError("position_out_of_range", "position", f"position is {number:.0f}, expected 1 or more", hint="the first place is 1, not 0")
    return int(number)


def _propensity(given: object) -> float | None:
    number = _number(given, "propensity", "the probability with which the item was shown")
    if number is not None and not 0 < number <= 1:
        raise EventError("propensity_out_of_range", "propensity", f"propensity is {number:g}, expected above 0 and at most 1",
                         hint="what was shown had a chance above 0; a percentage has to be divided by 100")
    return number


def _time(given: object, received: datetime) -> datetime:
    if isinstance(given, datetime):
        moment = given
    elif isinstance(given, str):
        try:
            moment = datetime.fromisoformat(given) if len(given) <= 64 else None  # type: ignore[assignment]
        except ValueError:
            moment = None  # type: ignore[assignment]
        if moment is None:
            raise EventError("not_a_time", "time", f"time is {_shown(given)}, expected ISO 8601 with a zone", hint='"2026-05-01T12:00:00Z"')
    else:
        raise EventError("not_a_time", "time", f"time is {_named(given)}, expected ISO 8601 with a zone",
                         hint='"2026-05-01T12:00:00Z": of a bare number nobody knows whether it is seconds or milliseconds')
    if moment.tzinfo is None or (isinstance(given, str) and not _ZONED.fullmatch(given)):
        raise EventError("time_without_zone", "time", f"time is {_shown(str(given))}, which has no zone or no time of day", hint='"2026-05-01T12:00:00Z"')
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise EventError("time_out_of_range", "time", f"time is {_shown(str(given))}, which no calendar has in UTC") from None
    if moment > received + FUTURE_TOLERANCE:
        raise EventError("time_in_future", "time", f"time is {moment.isoformat()}, which is more than {FUTURE_TOLERANCE} ahead of the clock here",
                         hint="is the clock right, and are milliseconds not read as seconds?")
    if moment < EARLIEST:
        raise EventError("time_out_of_range", "time", f"time is {moment.isoformat()}, before {EARLIEST.date()}", hint="are seconds not read as milliseconds?")
    return moment


def _attributes(given: object) -> str | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise EventError("attributes_malformed", "attributes", f"attributes is {_named(given)}, expected an object")
    if len(given) > ATTRIBUTES:
        raise EventError("attributes_too_large", "attributes", f"{len(given):,} attributes, expected at most {ATTRIBUTES}")
    for name, value in given.items():
        _name(name, "attributes", NAME_CHARACTERS)
        for entry in value if isinstance(value, (list, tuple)) else (value,):
            _scalar(entry)
    try:
        text = json.dumps(given, ensure_ascii=False, allow_nan=False, sort_keys=True)
    except ValueError:  # a whole number of more digits than Python writes
        text = " " * (ATTRIBUTES_CHARACTERS + 1)
    if len(text) > ATTRIBUTES_CHARACTERS:
        raise EventError("attributes_too_large", "attributes", f"attributes of {len(text):,} characters, expected at most {ATTRIBUTES_CHARACTERS:,}",
                         hint="keep long texts with the item, not with each of its events")
    return text if given else None


def _scalar(value: object) -> None:
    if value is None or isinstance(value, (bool, int)):
        return
    if isinstance(value, float):
        if math.isfinite(value):
            return
        raise EventError("not_finite", "attributes", "an attribute is not a finite number", hint="leave out what is not known")
    if isinstance(value, str):
        if "\0" in value or (not value.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in value)):
            raise EventError("control_character", "attributes", "an attribute has a NUL character or half of a surrogate pair")
        return
    raise EventError("attributes_malformed", "attributes", f"an attribute is {_named(value)}", hint="attributes are texts, numbers, true, false, null, or lists of these")


def _named(value: object) -> str:
    """What a value is, without the value."""
    names = {type(None): "null", bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), f"of type {type(value).__name__}")


def _shown(value: object) -> str:
    return repr(value[:60]) if isinstance(value, str) else _named(value)
