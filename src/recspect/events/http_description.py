"""The OpenAPI description of `POST /v1/events`: as strict as what is refused, so that clients can be generated from it."""

from __future__ import annotations

from typing import Any

from recspect.events.event import (
    ATTRIBUTES,
    ID_CHARACTERS,
    LARGEST_POSITION,
    LARGEST_VALUE,
    MEASURED_KINDS,
    NAME_CHARACTERS,
    REQUIRED,
    EventKind,
)

BATCH_EVENTS = 1_000
"""Most events of a batch."""

_VISIBLE = r"^[^\x00-\x1f\x7f-\x9f]*[!-~][^\x00-\x1f\x7f-\x9f]*$"


def _name(most: int, meaning: str) -> dict[str, Any]:
    return {"description": meaning, "type": "string", "minLength": 1, "maxLength": most, "pattern": _VISIBLE}


def _maybe(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


_SCALAR: dict[str, Any] = {"type": ["string", "number", "boolean", "null"], "pattern": r"^[^\x00]*$", "maxLength": 10_000}

_PARTS: dict[str, Any] = {
    "event_id": _name(ID_CHARACTERS, "Tells this event from every other; the same id again is the same event"),
    "kind": {"description": "What happened", "type": "string", "enum": [kind.value for kind in EventKind]},
    "user": _name(NAME_CHARACTERS, "Who"),
    "item": _name(NAME_CHARACTERS, "With what"),
    "time": {"description": "When, in ISO 8601 with a zone; not in the future", "type": "string", "format": "date-time"},
    "request": _maybe(_name(NAME_CHARACTERS, "The list that the item was shown in")),
    "position": _maybe({"description": "Place in that list", "type": "integer", "minimum": 1, "maximum": LARGEST_POSITION}),
    "propensity": _maybe({"description": "Probability with which the item was shown", "type": "number", "exclusiveMinimum": 0, "maximum": 1}),
    "model_version": _maybe(_name(NAME_CHARACTERS, "Which model chose it")),
    "surface": _maybe(_name(NAME_CHARACTERS, "Where it was shown")),
    "value": _maybe({"description": "Seconds of dwell, grade of a rating, price of a purchase", "type": "number", "minimum": 0, "maximum": LARGEST_VALUE}),
    "attributes": _maybe({"description": "Anything else", "type": "object", "maxProperties": ATTRIBUTES, "propertyNames": _name(64, "Name"),
                          "additionalProperties": {"anyOf": [_SCALAR, {"type": "array", "maxItems": 100, "items": _SCALAR}]}}),
}

EVENT: dict[str, Any] = {
    "title": "Event", "type": "object", "additionalProperties": False, "required": list(REQUIRED), "properties": _PARTS,
    "if": {"properties": {"kind": {"enum": [kind.value for kind in MEASURED_KINDS]}}},
    "then": {"required": ["value"], "properties": {"value": {"type": "number"}}},
}

BATCH: dict[str, Any] = {
    "title": "Batch", "type": "object", "additionalProperties": False, "required": ["events"],
    "properties": {"events": {"type": "array", "minItems": 1, "maxItems": BATCH_EVENTS, "items": {"type": "object"},
                              "description": "Events as above; each is answered for itself, in order, and one that is not well formed hinders no other"}},
}

BODY: dict[str, Any] = {"required": True, "content": {"application/json": {"schema": {"anyOf": [EVENT, BATCH]}}}}

_ERROR: dict[str, Any] = {
    "type": "object", "required": ["error"],
    "properties": {"error": {"type": "object", "required": ["code", "message", "hint"],
                             "properties": {"code": {"type": "string"}, "message": {"type": "string"}, "hint": {"type": "string"}}}},
}

_RECEIPT: dict[str, Any] = {
    "type": "object", "required": ["accepted", "duplicates", "rejected", "results"],
    "properties": {**{name: {"type": "integer", "minimum": 0} for name in ("accepted", "duplicates", "rejected")},
                   "results": {"type": "array", "items": {"type": "object", "required": ["status"], "properties": {
                       "status": {"type": "string", "enum": ["accepted", "duplicate", "rejected"]},
                       **{name: {"type": "string"} for name in ("event_id", "code", "field", "reason")}}}}},
}


def _error(meaning: str) -> dict[str, Any]:
    return {"description": meaning, "content": {"application/json": {"schema": _ERROR}}}


ERRORS = {"400": _error("Not JSON"), "401": _error("No valid token"), "413": _error("Too large"), "415": _error("Not sent as JSON"),
          "422": _error("No event, or one that is not well formed"), "503": _error("Cannot be kept now; send it again")}

RESPONSES: dict[int | str, dict[str, Any]] = {
    202: {"description": "Durable; what became of each event", "content": {"application/json": {"schema": _RECEIPT}}},
    **{int(status): found for status, found in ERRORS.items() if status != "401"},
}
