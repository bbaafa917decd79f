"""Events that were not well formed: kept with the reason, so that whoever sends them can be told."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from recspect.events.event import CONTROL, NAME_CHARACTERS, Event, EventError, parse_event
from recspect.events.pseudonyms import Pseudonyms

RAW_CHARACTERS = 4_096
"""How much of what was sent is kept."""

SHOWN_UNDER_PSEUDONYMS = ("event_id", "kind", "item")
"""What is kept of a reject where users have pseudonyms: any other part may say who it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """Something that was sent as an event and is none.

    Args:
        received: When it came, in UTC.
        origin: What brought it: a file's name, `http`, a broker's subject.
        code: A stable name of what is wrong.
        field: The part of the event that it is about, or empty.
        reason: What was expected and what was found.
        raw: What was sent, as a text of at most 4,096 characters.
        user: Whose it is, where that can be told.
    """

    received: datetime
    origin: str
    code: str
    field: str
    reason: str
    raw: str
    user: str | None = None

    @property
    def reject_id(self) -> str:
        """The same for the same text from the same place, so that importing a file twice keeps its rejects once."""
        return hashlib.blake2b(json.dumps([self.origin, self.code, self.raw]).encode(), digest_size=16).hexdigest()

    def kept(self, pseudonyms: Pseudonyms | None) -> Reject:
        """As it is stored: without what a database cannot hold and, under pseudonyms, without what says who it was."""
        if pseudonyms is None:
            return replace(self, raw=storable(self.raw), reason=storable(self.reason), user=None if self.user is None else storable(self.user),
                           origin=storable(self.origin))
        where = f"{self.field}: " if self.field else ""
        try:
            given = json.loads(self.raw)
        except (ValueError, RecursionError):
            given = None
        shown = {name: str(given[name])[:NAME_CHARACTERS] for name in SHOWN_UNDER_PSEUDONYMS if given.get(name) is not None and given[name] != self.user} \
            if isinstance(given, dict) else {}
        # Two rejects of two people that differ in nothing else stay two: the name of the text stands for it.
        shown["text"] = pseudonyms.name(self.raw)
        return replace(self, raw=storable(json.dumps(shown, ensure_ascii=False)), reason=f"{where}{self.code}", origin=storable(self.origin),
                       user=None if self.user is None else pseudonyms.name(self.user))


def take(given: object, *, received: datetime, origin: str, raw: str | None = None) -> Event | Reject:
    """An event from what was sent, or the reject that says why not.

    Args:
        given: What was sent, decoded.
        received: When it came, in UTC.
        origin: What brought it.
        raw: What was sent, as it came; by default `given` written as JSON.
    """
    try:
        return parse_event(given, received=received)
    except EventError as error:
        return reject(error, given, received=received, origin=origin, raw=raw)


def take_text(text: bytes | str, *, received: datetime, origin: str) -> list[Event | Reject]:
    """Events and rejects from a JSON text: one event, or an object with a list of `events`."""
    try:
        given = decode(text)
    except EventError as error:
        raw = text if isinstance(text, str) else text.decode("utf-8", "backslashreplace")
        return [reject(error, None, received=received, origin=origin, raw=raw)]
    if isinstance(given, dict) and given.keys() == {"events"} and isinstance(given["events"], list):
        return [take(each, received=received, origin=origin) for each in given["events"]]
    return [take(given, received=received, origin=origin)]


def told(accepted: int, duplicates: int, rejected: Counter[str]) -> str:
    """What became of events, in words; `rejected` holds the code of a reason and how many it was."""
    reasons = f" ({', '.join(f'{code} {count:,}' for code, count in rejected.most_common())})" if rejected else ""
    return f"{accepted:,} accepted, {duplicates:,} duplicates, {rejected.total():,} rejected{reasons}"


def decode(text: bytes | str) -> object:
    """JSON as it is meant: UTF-8, no NaN.

    Raises:
        EventError: It is none, or too deep.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise EventError("json_too_deep", "", "the JSON is nested too deeply", hint="attributes hold no objects") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise EventError("not_json", "", f"this is not JSON: {str(error)[:200]}", hint="an event is a JSON object in UTF-8") from None


def reject(error: EventError, given: object, *, received: datetime, origin: str, raw: str | None = None) -> Reject:
    """The reject for an event and what was found wrong with it."""
    user = given.get("user") if isinstance(given, Mapping) else None
    if isinstance(user, bool) or not isinstance(user, (str, int)) or (isinstance(user, int) and abs(user) >= 2**63):
        user = None
    if user is not None and len(str(user)) > NAME_CHARACTERS and isinstance(given, Mapping):
        given, user, raw = {**given, "user": f"({len(str(user)):,} characters)"}, None, None  # no part of an id is kept that cannot be asked for
    return Reject(received=received, origin=origin[:NAME_CHARACTERS], code=error.code, field=error.field, reason=error.message,
                  raw=_bounded(written(given) if raw is None else raw), user=None if user is None else str(user))


def written(given: object) -> str:
    """Anything as JSON, as well as it goes."""
    try:
        return json.dumps(given, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        return f"({type(given).__name__} that cannot be written as JSON)"


def storable(text: str) -> str:
    """The text without characters that a database refuses, written out instead."""
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _bounded(raw: str) -> str:
    return raw if len(raw) <= RAW_CHARACTERS else f"{raw[:RAW_CHARACTERS - 40]}... ({len(raw):,} characters)"


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no number of JSON")
