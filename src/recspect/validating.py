"""Whether a schema and a table fit: told before anything is computed, so that the first error is the helpful one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import narwhals as nw
import numpy as np

from recspect.diagnosis.batch import Batch, Categorical, Ragged, concatenate, describe
from recspect.diagnosis.source import Source
from recspect.errors import DataError, SchemaError, listing
from recspect.features.derived import inputs_of
from recspect.schema import Field, Kind, Label, Role, Schema

LOOKED_AT = 100_000
"""Values of the first so many rows are looked at."""


def validate(schema: Schema, source: Source, *, need: Sequence[Role] = ()) -> None:
    """Make sure that the table has what the schema says, and the schema has the roles needed.

    Args:
        schema: What the columns mean.
        source: The table; its first 100,000 rows are looked at.
        need: Roles without which the caller cannot go on.

    Raises:
        SchemaError: A role is missing, columns are not in the table, a numeric time lacks its unit.
        DataError: No rows, or values that are not what the schema says; names the column and what it holds.
    """
    for role in need:
        schema.require(role)
    there = set(source.columns)
    made = {column.name for column in schema.derived} - there  # these are computed from others, and are right by themselves
    named = list(dict.fromkeys([*(column for column in schema.columns if column not in made), *(inputs_of(schema) if made else ())]))
    absent = [column for column in named if column not in there]
    if absent:
        raise SchemaError(f"the schema names {listing(absent)}, which {source.name} lacks; "
                          f"columns: {listing(source.columns, limit=30)}",
                          hint="correct the names in the schema file, or add the columns to the table")
    if not schema.columns:
        raise SchemaError("the schema names no column at all", hint="recspect schema init DATA writes a draft")
    reserved = [column for column in schema.columns if column.startswith("@")]
    if reserved:
        raise SchemaError(f"the schema names {listing(reserved)}; names that begin with @ are those of columns that recspect adds",
                          hint="rename the column in the table and in the schema")
    sample = concatenate(list(islice(source.batches(named, rows=LOOKED_AT), 1)))
    for field in schema.fields:
        if field.name not in made:
            _validate_field(field, sample)
    for label in schema.labels:
        _validate_label(label, sample)
    _validate_roles(schema, sample)


def require_one_clock(schema: Schema, first: Source, second: Source) -> None:
    """Make sure that the times of both tables have a time zone, or neither's: else equal times can lie hours apart.

    Raises:
        DataError: One has a zone and the other has none. Sources that do not tell their types are not looked at.
    """
    zones: list[tuple[str, str]] = []
    for source in (first, second):
        frame = None if schema.time is None else source.frame()
        kind = None if frame is None else frame.collect_schema().get(schema.time or "")
        if not isinstance(kind, nw.Datetime):
            return
        zones.append((kind.time_zone or "", source.name))
    (none, bare), (zone, zoned) = sorted(zones)
    if zone and not none:
        raise DataError(f"the times {schema.time!r} of {zoned} have the zone {zone}, those of {bare} have none: hours may lie between equal times",
                        hint="give both a zone (they are then compared in UTC), or write both in UTC without one")


def _validate_field(field: Field, sample: Batch) -> None:
    column = sample[field.name]
    what = f"field {field.name!r} is {field.kind.value} in the schema, but the column holds {describe(column)}"
    missing_only = isinstance(column, Categorical) and not (column.codes >= 0).any()
    if missing_only or (isinstance(column, np.ndarray) and column.dtype.kind == "f" and np.isnan(column).all()):
        return  # nothing to be wrong about; that all is missing is a finding, not an error
    match field.kind:
        case Kind.NUMERIC:
            if isinstance(column, Categorical):
                if not _all_numbers(column):
                    raise DataError(what, hint=f'{field.name} = "categorical", or convert the column to numbers')
            elif isinstance(column, Ragged) or column.ndim != 1:
                raise DataError(what, hint="take another kind: multi_valued, sequence or vector")
        case Kind.CATEGORICAL:
            if isinstance(column, Ragged) or (isinstance(column, np.ndarray) and column.ndim == 2):
                raise DataError(what, hint="take another kind: multi_valued, sequence or vector")
        case Kind.MULTI_VALUED | Kind.SEQUENCE:
            if isinstance(column, Categorical) and field.separator is None:
                raise DataError(what, hint=f'{field.name} = {{ kind = "{field.kind.value}", separator = "|" }}')
            if isinstance(column, np.ndarray) and column.ndim == 1:
                raise DataError(what, hint="lists, or texts with a separator, are expected")
        case Kind.VECTOR:
            if not (isinstance(column, np.ndarray) and column.ndim == 2):
                raise DataError(what, hint="store the column as lists of one fixed size")
        case Kind.TEXT | Kind.IMAGE:
            if not isinstance(column, Categorical):
                raise DataError(what, hint="texts (or paths) are expected")


def _all_numbers(column: Categorical) -> bool:
    return column.values.dtype.kind in "iufb"


def _validate_label(label: Label, sample: Batch) -> None:
    column = sample[label.name]
    if isinstance(column, Ragged) or (isinstance(column, np.ndarray) and column.ndim != 1):
        raise DataError(f"label {label.name!r} holds {describe(column)}, expected one value per row",
                        hint="make a column of single numbers of it, or name another label")
    if label.positive is not None:
        values = sample.categories(label.name).values
        shown = [value.item() if hasattr(value, "item") else value for value in values]
        if not any(_equal(value, label.positive) for value in shown):
            raise DataError(f"label {label.name!r}: no row has the positive value {label.positive!r}; values: "
                            f"{listing(map(str, shown))}", hint="correct `positive` in the schema")
        return
    if isinstance(column, Categorical) and column.values.dtype.kind not in "iub":
        raise DataError(f"label {label.name!r} holds {describe(column)}, expected numbers",
                        hint='say which value counts as 1: positive = "yes"')
    numbers = sample.categories(label.name).values.astype(np.float64) if isinstance(column, Categorical) else sample.numbers(
        label.name)
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        raise DataError(f"label {label.name!r} has no value in the first {sample.rows:,} rows",
                        hint="is it the right column, and was the table joined rightly?")
    if not np.isfinite(known).all():
        raise DataError(f"label {label.name!r} has infinite values", hint="remove or correct these rows")
    if label.kind == "binary" and label.at_least is None and not np.isin(known, (0, 1)).all():
        other = np.unique(known[~np.isin(known, (0, 1))])
        raise DataError(f"label {label.name!r} is binary in the schema, but has values such as "
                        f"{', '.join(f'{value:g}' for value in other[:3])} (range {known.min():g} to {known.max():g})",
                        hint='make it binary with at_least = 4, or predict the value itself with kind = "graded"')


def _equal(value: object, positive: object) -> bool:
    return value == positive or str(value) == str(positive)


def _validate_roles(schema: Schema, sample: Batch) -> None:
    for role in (Role.USER, Role.ITEM, Role.REQUEST, Role.ARM):
        name = schema.column(role)
        if name is not None:
            column = sample[name]
            if isinstance(column, Ragged) or (isinstance(column, np.ndarray) and column.ndim != 1):
                raise DataError(f"the {role.value} column {name!r} holds {describe(column)}, expected single values",
                                hint=f"name another column for the role {role.value!r}, or leave the role out")
    for role in (Role.SCORE, Role.POSITION, Role.PROPENSITY, Role.WEIGHT):
        name = schema.column(role)
        if name is not None:
            try:
                sample.numbers(name)
            except DataError as error:
                raise DataError(f"{error.message} (the schema gives it the role {role.value!r})",
                                hint="convert the column to numbers, or name another column for the role") from None
    if schema.propensity is not None:
        values = sample.numbers(schema.propensity)
        wrong = values[(values <= 0) | (values > 1)]
        if len(wrong):
            raise DataError(f"propensity {schema.propensity!r} has values such as {wrong[0]:g}; a probability of what was "
                            f"shown is above 0 and at most 1", hint="log the probability, not its inverse")
    if schema.weight is not None:
        weights = sample.numbers(schema.weight)
        if (weights < 0).any():
            raise DataError(f"weight {schema.weight!r} has negative values", hint="weights are 0 or more")
        unknown = int((~np.isfinite(weights)).sum())
        if unknown:
            raise DataError(f"weight {schema.weight!r} is missing or infinite in {unknown:,} of {len(weights):,} rows",
                            hint="fill these weights, or drop the rows")
    if schema.time is not None:
        column = sample[schema.time]
        if isinstance(column, Ragged) or (isinstance(column, np.ndarray) and column.ndim != 1):
            raise DataError(f"the time column {schema.time!r} holds {describe(column)}, expected one time per row",
                            hint="name another column for the role 'time'")
        if isinstance(column, Categorical) and (column.codes >= 0).any():
            raise DataError(
                f"the time column {schema.time!r} holds {describe(column)}, expected times or numbers",
                hint=f"convert it, for example in the query that reads the table: CAST({schema.time} AS TIMESTAMP)")
        if isinstance(column, np.ndarray) and column.dtype.kind in "fiu" and schema.time_unit is None:
            raise SchemaError(f"the time column {schema.time!r} holds numbers, and the schema has no time_unit",
                              hint='time_unit = "s", "ms", "us", "ns", "days", or "row" where it only gives an order')
