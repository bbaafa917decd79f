"""What the OpenAPI description says of requests, beyond what their types say: the fields that the model of the moment takes as context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from fastapi import FastAPI

from recspect.diagnosis.batch import Batch, Ragged
from recspect.recommending.lists import side_of
from recspect.recommending.pipeline.recommender import Recommender
from recspect.schema import Schema

SCALAR: dict[str, Any] = {"type": ["string", "number", "boolean", "null"]}
"""A value of a field."""

MOST_VALUES = 1_000
"""Longest list of values of one field."""


def context_of(schema: Schema) -> dict[str, Any]:
    """The JSON schema of `context`: a value for each field that is neither the item's nor the user's id."""
    fields: dict[str, Any] = {}
    for field in schema.fields:
        if side_of(field.name, schema) == "item" or field.name == schema.user:
            continue
        if field.kind == "vector":
            fields[field.name] = {"type": "array", "items": {"type": "number"}, "maxItems": MOST_VALUES}
        elif field.kind in ("multi_valued", "sequence") and field.separator is None:
            fields[field.name] = {"type": "array", "items": SCALAR, "maxItems": MOST_VALUES}
        else:
            fields[field.name] = SCALAR
    return {"type": "object", "title": "Context", "properties": fields, "additionalProperties": False,
            "description": "What is known of the moment; what is not given is the user's last known value, else the usual one"}


def names_of(items: Batch) -> dict[str, Any]:
    """The JSON schema of `names`: the columns of items that hold one value each."""
    columns = [name for name, column in items.items() if not isinstance(column, Ragged) and not (isinstance(column, np.ndarray) and column.ndim > 1)]
    return {"enum": [*columns, None], "title": "Names", "default": None, "description": "Column of items with names for people"}


def describe_context(app: FastAPI, recommender: Callable[[], Recommender]) -> None:
    """Make `/openapi.json` name the fields of the model that answers when it is asked.

    Args:
        app: Has the components `RecommendRequest` and `ExplainRequest`.
        recommender: Gives what answers.
    """
    plain = app.openapi

    def described() -> Mapping[str, Any]:
        found = plain()  # made once by FastAPI, and changed here in place
        answers, forms = recommender(), found["components"]["schemas"]
        for form in ("RecommendRequest", "ExplainRequest"):
            forms[form]["properties"]["context"] = context_of(answers.audience.schema)
        forms["ExplainRequest"]["properties"]["names"] = names_of(answers.items.rows)
        return found

    app.openapi = described  # type: ignore[method-assign, assignment]
