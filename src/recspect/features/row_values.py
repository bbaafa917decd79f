"""What derived columns make of single values: the definitions that the offline table and the online state share.

Each is written once, for one value or one array, so that a column cannot mean one thing in training and another while serving.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recspect.diagnosis.batch import Array, Batch, Categorical, Column, describe
from recspect.errors import DataError, SchemaError
from recspect.schema import Label, Schema, TimeUnit
from recspect.schema_derived import Derived, DerivedKind

_TICKS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 1, "days": 86_400_000_000, "row": 1_000_000, None: 1_000_000}
"""Ticks per unit of time: microseconds, but for `ns` nanoseconds, so that no order is lost."""

LARGEST = 1e100
"""Numbers beyond this are codes or errors, and count as missing: no sum of them is worth anything."""


def ticks_per_hour(schema: Schema) -> int:
    """How many ticks of the schema's times an hour has."""
    return 3_600_000_000_000 if schema.time_unit == "ns" else 3_600_000_000


def ticks(schema: Schema, column: Column, name: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Times as whole ticks, and which are missing (their tick is 0). Equal times have equal ticks, whatever type they came in.

    Raises:
        DataError: No times, or times beyond what 64 bits hold.
        SchemaError: Numbers, and the schema does not say of what unit.
    """
    if isinstance(column, Categorical) and not (column.codes >= 0).any():
        column = np.full(len(column), np.nan)
    if not isinstance(column, np.ndarray) or column.ndim != 1 or column.dtype.kind not in "fiuM":
        raise DataError(f"the time {name!r} holds {describe(column)}, expected times or numbers", hint="convert it to a timestamp")
    if column.dtype.kind == "M":
        missing = np.isnat(column)
        found = np.where(missing, 0, column.astype("datetime64[us]").astype(np.int64))
        return (found * 1_000 if schema.time_unit == "ns" else found), missing
    if schema.time_unit is None:
        raise SchemaError(f"the time {name!r} holds numbers, and the schema has no time_unit",
                          hint='time_unit = "s", "ms", "us", "ns", "days", or "row" where it only gives an order')
    scale = _TICKS[schema.time_unit]
    missing = ~np.isfinite(column) if column.dtype.kind == "f" else np.zeros(len(column), dtype=bool)
    if (np.abs(column[~missing].astype(np.float64)) >= 2**62 / scale).any():
        raise DataError(f"the time {name!r} holds {column[~missing].max():g}, too large for unit '{schema.time_unit}'", hint="correct time_unit")
    if column.dtype.kind != "f":
        return column.astype(np.int64) * scale, missing
    whole = np.floor(np.where(missing, 0, column))
    return whole.astype(np.int64) * scale + np.rint((np.where(missing, 0, column) - whole) * scale).astype(np.int64), missing


def tick(schema: Schema, value: object, name: str) -> int | None:
    """One time as a tick; None where it is missing. Times without a zone are taken as UTC."""
    if is_missing(value):
        return None
    if isinstance(value, datetime):
        value = np.datetime64(value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value, "us")
    found, missing = ticks(schema, np.asarray([value]), name)
    return None if missing[0] else int(found[0])


def is_missing(value: object) -> bool:
    """Whether a value is not there: None, NaN, NaT."""
    return value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)) or (isinstance(value, np.datetime64) and bool(np.isnat(value)))


def plain_value(value: object) -> Any:
    """A value as Python has it: whole floats as integers, booleans as 0 and 1, so that equal ids are equal."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def text_of(value: object) -> str:
    """A value as text, alike for 5, 5.0 and "5"."""
    return str(plain_value(value))


def flag(label: Label | None, value: object, name: str) -> float:
    """1 where something happened, 0 where it did not, NaN where it is not known; a label decides by `positive` or `at_least`.

    Raises:
        DataError: Neither, of a column that must hold 0 and 1.
    """
    if is_missing(value):
        return math.nan
    value = plain_value(value)
    if label is not None and label.positive is not None:
        return float(text_of(value) == text_of(label.positive))
    if label is not None and label.at_least is not None and isinstance(value, (int, float)):
        return float(value >= label.at_least)
    if isinstance(value, (int, float)) and value in (0, 1):
        return float(value)
    raise DataError(f"{name!r} holds {value!r:.80}, expected 0 and 1", hint="declare a label with 'positive' or 'at_least' for it, or read another column")


def flags(schema: Schema, batch: Batch, name: str) -> NDArray[np.float64]:
    """`flag` for each row."""
    label = label_of(schema, name)
    column = batch.categories(name)
    used = np.zeros(len(column.values), dtype=bool)
    used[column.codes[column.codes >= 0]] = True
    by_value = np.array([flag(label, value, name) if seen else math.nan for value, seen in zip(column.values, used, strict=True)] + [math.nan])
    return by_value[column.codes]


def label_of(schema: Schema, name: str) -> Label | None:
    """The label of that name, or None for a plain column."""
    return next((label for label in schema.labels if label.name == name), None)


def number(value: object) -> float:
    """A number, or NaN where it is missing, infinite or beyond 1e100."""
    if is_missing(value):
        return math.nan
    found = float(value)  # type: ignore[arg-type]
    return found if abs(found) < LARGEST else math.nan


def numbers(batch: Batch, name: str) -> NDArray[np.float64]:
    """`number` for each row."""
    found = batch.numbers(name)
    return np.where(np.abs(found) < LARGEST, found, np.nan)


def octave(amount: Array) -> NDArray[np.int64]:
    """floor(log2(1 + amount)): 0 below 1, 1 below 3, 2 below 7; what a count or a number of hours is cut into, exactly at the borders."""
    return np.frexp(1.0 + np.asarray(amount, dtype=np.float64))[1].astype(np.int64) - 1


def smoothed(column: Derived, total: Array, rows: Array) -> NDArray[np.float64]:
    """Mean of some rows and the prior, which counts for `prior_rows` of them; NaN of nothing."""
    weight = np.asarray(rows, dtype=np.float64) + column.prior_rows
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight > 0, (np.asarray(total, dtype=np.float64) + column.prior_rows * (column.prior or 0.0)) / weight, np.nan)


def crossed(parts: Iterable[object]) -> str | None:
    """Several values as one, such as "2|17"; None where one is missing. Bars within values are escaped, so that no two combinations meet."""
    texts = []
    for part in parts:
        if is_missing(part):
            return None
        texts.append(text_of(part).replace("\\", "\\\\").replace("|", "\\|"))
    return "|".join(texts)


def clock(column: Derived, unit: TimeUnit | None, when: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hour of the day (0 to 23) or day of the week (1 Monday to 7 Sunday) of ticks, in the column's time zone.

    Raises:
        SchemaError: There is no such time zone.
    """
    try:
        there = pl.Series(when, dtype=pl.Int64).cast(pl.Datetime("ns" if unit == "ns" else "us", "UTC")).dt.convert_time_zone(column.time_zone)
    except pl.exceptions.PolarsError:
        raise SchemaError(f"derived column {column.name!r}: no time zone {column.time_zone!r:.80}", hint='such as "Europe/Berlin" or "UTC"') from None
    found = there.dt.hour() if column.kind is DerivedKind.HOUR else there.dt.weekday()
    return found.cast(pl.Int64).to_numpy()


@lru_cache(maxsize=4096)
def clock_at(column: Derived, unit: TimeUnit | None, when: int) -> int:
    """`clock` of one tick; kept, since the rows of a request share it."""
    return int(clock(column, unit, np.array([when], dtype=np.int64))[0])


def with_row_columns(batch: Batch, schema: Schema) -> Batch:
    """The batch with the columns that read the row alone.

    Raises:
        DataError: A column that they read is missing or no time.
    """
    for column in schema.derived:
        if not column.of_the_row:
            continue
        if column.kind is DerivedKind.CROSS:
            batch = batch.with_columns({column.name: _cross(batch, column.of)})
            continue
        name = column.of[0] if column.of else schema.require("time")
        when, missing = ticks(schema, batch[name], name)
        found = clock(column, schema.time_unit, when)
        batch = batch.with_columns({column.name: np.where(missing, np.nan, found) if missing.any() else found})
    return batch


def row_values(schema: Schema, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with the columns that read the row alone; None where one cannot be told."""
    whole = dict(row)
    for column in schema.derived:
        if not column.of_the_row:
            continue
        if column.kind is DerivedKind.CROSS:
            whole[column.name] = crossed(whole.get(name) for name in column.of)
        else:
            name = column.of[0] if column.of else schema.require("time")
            when = tick(schema, whole.get(name), name)
            whole[column.name] = None if when is None else clock_at(column, schema.time_unit, when)
    return whole


def _cross(batch: Batch, names: tuple[str, ...]) -> Categorical:
    parts = [batch.categories(name) for name in names]
    missing = np.logical_or.reduce([part.codes < 0 for part in parts])
    codes = np.zeros(batch.rows, dtype=np.int64)
    pairs: list[tuple[object, ...]] = [()]
    for part in parts:  # distinct combinations so far, so that the product of all never has to be numbered
        both, codes = np.unique(codes * (len(part.values) + 1) + part.codes + 1, return_inverse=True)
        pairs = [(*pairs[code // (len(part.values) + 1)], part.values[at - 1] if (at := code % (len(part.values) + 1)) else None) for code in both.tolist()]
    texts = [crossed(pair) for pair in pairs]
    values = np.empty(len(texts), dtype=object)
    values[:] = [text or "" for text in texts]
    used = np.array([text is not None for text in texts], dtype=bool)
    position = np.where(used, np.cumsum(used) - 1, -1)
    return Categorical(np.where(missing, -1, position[codes]), values[used])
