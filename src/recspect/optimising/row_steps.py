"""What remedies do to rows before a training. Each step is plain data with its name under `step`, so that a recipe can be written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from recspect.diagnosis.batch import Batch, concatenate
from recspect.errors import UsageError, listing
from recspect.optimising.parts import Parts
from recspect.schema import Schema


def apply(parts: Parts, steps: tuple[Mapping[str, Any], ...], schema: Schema) -> Parts:
    """The parts after all steps.

    Raises:
        UsageError: A step that there is not, or one that leaves no rows.
    """
    for step in steps:
        name = str(step.get("step"))
        if name not in STEPS:
            raise UsageError(f"no step for rows is called {name!r}", hint=f"steps: {listing(STEPS)}")
        parts = STEPS[name](parts, schema, step)
        if not parts.train.rows or not parts.validation.rows:
            raise UsageError(f"the step {name!r} leaves no rows to train on or to stop by", hint="a smaller change")
    return parts


def deduplicate(parts: Parts, schema: Schema, _: Mapping[str, Any]) -> Parts:
    """Each event once: of training rows that are equal in all columns, the first; and no row of the validation part that training has."""
    seen = _marks(parts.train, schema)
    first = np.sort(np.unique(seen, return_index=True)[1])
    new = ~np.isin(_marks(parts.validation, schema), seen)
    validation = parts.validation.take(np.flatnonzero(new)) if new.any() else parts.validation
    return parts.replaced(train=parts.train.take(first), validation=validation)


def before_proof(parts: Parts, schema: Schema, _: Mapping[str, Any]) -> Parts:
    """No row of the time that is judged, and none that is among the rows that are diagnosed."""
    start, diagnosed = parts.first_proof_time(schema), _marks(parts.diagnosis, schema)

    def kept(rows: Batch) -> Batch:
        keep = ~np.isin(_marks(rows, schema), diagnosed)
        if schema.time is not None:
            keep &= rows.numbers(schema.time) < start
        return rows.take(np.flatnonzero(keep))

    return parts.replaced(train=kept(parts.train), validation=kept(parts.validation))


def newest(parts: Parts, schema: Schema, step: Mapping[str, Any]) -> Parts:
    """The last share of the training rows in time."""
    order = np.argsort(parts.train.numbers(schema.require("time")), kind="stable")
    return parts.replaced(train=parts.train.take(order[round(parts.train.rows * (1 - float(step["share"]))):]))


def through_diagnosis(parts: Parts, schema: Schema, _: Mapping[str, Any]) -> Parts:
    """Training up to the moment of the proof: rows of the diagnosis train too, the last twentieth of them to stop by."""
    rows = parts.diagnosis
    if schema.time is not None:
        rows = rows.take(np.argsort(rows.numbers(schema.time), kind="stable"))
    last = max(1, rows.rows // 20)
    first, tail = rows.take(slice(0, rows.rows - last)), rows.take(slice(rows.rows - last, rows.rows))
    return parts.replaced(train=concatenate([parts.train, parts.validation, first]), validation=tail, diagnosis=tail)


def repeat(parts: Parts, _: Schema, step: Mapping[str, Any]) -> Parts:
    """The training rows of a slice several times: they weigh so much more. The slice is given as text, such as "country=DE"."""
    from recspect.diagnosis.slice import Slice

    mine = np.flatnonzero(Slice.parse(str(step["slice"])).mask(parts.train))
    return parts.replaced(train=concatenate([parts.train, *[parts.train.take(mine)] * (int(step["times"]) - 1)]))


def _marks(rows: Batch, schema: Schema) -> Any:
    return rows.hashes(*[column for column in schema.columns if column in rows and column not in schema.ignored])


STEPS: Mapping[str, Callable[[Parts, Schema, Mapping[str, Any]], Parts]] = {
    "deduplicate": deduplicate, "before_proof": before_proof, "newest": newest, "through_diagnosis": through_diagnosis, "repeat": repeat}
"""Every step by name."""

__all__ = ["STEPS", "apply"]
