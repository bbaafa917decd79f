"""Encoders fitted on training rows in one pass, in pieces of any size: what is kept grows with the distinct values, not with the rows."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from recspect.diagnosis.batch import Batch, Ragged
from recspect.errors import DataError, SchemaError
from recspect.features.contents import ContentVectors
from recspect.features.counting import BucketCounts, Moments, NumberCounts, ValueCounts
from recspect.features.encoders import (
    AnyEncoder,
    BucketEncoder,
    CategoryEncoder,
    ContentEncoder,
    ListEncoder,
    NumberEncoder,
    VectorEncoder,
    category_entries,
    encoder_of,
    field_numbers,
    lists_of,
    log_scaled,
    matrix_of,
    texts_of,
)
from recspect.features.vocabulary import Codes
from recspect.schema import Field, Schema


class Fitting:
    """The encoders of a schema's fields while training rows come in.

    Args:
        schema: Its fields decide what is read.
        folder: Of the data, beside which vectors of texts and images are kept; empty for data in memory.

    Raises:
        SchemaError: No fields.

    Example:
        >>> from recspect.schema import Field, Schema
        >>> fitting = Fitting(Schema(fields=[Field(name="item")]))
        >>> for piece in ([7, 8], [8, 9]):
        ...     fitting.add(Batch({"item": np.array(piece)}))
        >>> fitting.rows, fitting.finish()["item"].codes.values.tolist()
        (4, [8, 7, 9])
    """

    def __init__(self, schema: Schema, folder: str = "") -> None:
        if not schema.fields:
            raise SchemaError("the schema has no input fields", hint="list the columns that the model may read under [fields]")
        self.rows = 0
        self._fields: dict[str, _FieldFitting] = {}
        for field in schema.fields:
            kind = encoder_of(field)
            self._fields[field.name] = _Contents(field, folder) if kind is ContentEncoder else _FITTINGS[kind](field)

    def add(self, batch: Batch) -> None:
        """Learn from a piece of the training rows.

        Raises:
            DataError: A column is missing or of the wrong type.
        """
        if batch.rows:
            for fitting in self._fields.values():
                fitting.add(batch)
            self.rows += batch.rows

    def finish(self) -> dict[str, AnyEncoder]:
        """Field to its encoder, in the schema's order.

        Raises:
            DataError: There were no rows.
        """
        if not self.rows:
            raise DataError("no rows to learn features from", hint="check the split and the filters")
        own = {name: fitting.finish(None) for name, fitting in self._fields.items() if fitting.field.shares is None}
        for name, fitting in self._fields.items():
            if fitting.field.shares is not None:
                owner = own[fitting.field.shares]
                assert isinstance(owner, CategoryEncoder)  # the schema sees to it
                own[name] = fitting.finish(owner.codes)
        return {name: own[name] for name in self._fields}


class _FieldFitting(Protocol):
    field: Field

    def add(self, batch: Batch) -> None:
        """Learn from a piece."""

    def finish(self, codes: Codes | None) -> AnyEncoder:
        """The encoder; `codes` are those of the field that it shares."""


class _Categories:
    def __init__(self, field: Field) -> None:
        self.field = field
        self._counts = None if field.shares is not None else _code_counts(field)

    def add(self, batch: Batch) -> None:
        if self._counts is not None:
            self._counts.add(batch.categories(self.field.name))

    def finish(self, codes: Codes | None) -> AnyEncoder:
        return CategoryEncoder(self.field, codes or _finished(self._counts))


class _Lists:
    def __init__(self, field: Field) -> None:
        self.field = field
        self._counts = None if field.shares is not None else _code_counts(field)
        self._longest = 0

    def add(self, batch: Batch) -> None:
        lists = lists_of(self.field, batch[self.field.name])
        self._longest = max(self._longest, int(lists.lengths.max()) if len(lists) else 0)
        if self._counts is not None:
            self._counts.add(category_entries(lists.values[lists.offsets[0]:lists.offsets[-1]]))

    def finish(self, codes: Codes | None) -> AnyEncoder:
        return ListEncoder(self.field, codes or _finished(self._counts), max(1, min(self.field.max_length, self._longest)))


class _Numbers:
    def __init__(self, field: Field) -> None:
        self.field = field
        self._moments, self._gaps = Moments(), False

    def add(self, batch: Batch) -> None:
        numbers = field_numbers(self.field, batch)
        known = numbers[np.isfinite(numbers)]
        self._moments.add(log_scaled(known) if self.field.scaling == "log" else known)
        self._gaps |= len(known) < len(numbers)

    def finish(self, codes: Codes | None) -> AnyEncoder:  # noqa: ARG002 - same call for every field
        mean, deviation = self._moments.mean, self._moments.deviation
        # A constant of any size has a deviation of rounding noise, which must not be divided by.
        constant = not self._moments.count or deviation <= 1e-12 * max(1.0, abs(mean))
        return NumberEncoder(self.field, mean, 1.0 if constant else deviation, self._gaps)


class _Quantiles:
    def __init__(self, field: Field) -> None:
        self.field = field
        self._counts = NumberCounts()

    def add(self, batch: Batch) -> None:
        numbers = field_numbers(self.field, batch)
        self._counts.add(numbers[np.isfinite(numbers)])

    def finish(self, codes: Codes | None) -> AnyEncoder:  # noqa: ARG002 - same call for every field
        """Edges at equal counts of the training values; a value that would fill several buckets gets one to itself."""
        values, counts = self._counts.finish()
        if not len(values):
            return BucketEncoder(self.field, np.empty(0))
        ends = np.cumsum(counts)
        levels = np.arange(1, self.field.quantile_buckets) / self.field.quantile_buckets
        at_levels = values[np.searchsorted(ends, np.ceil((ends[-1] - 1) * levels), side="right")]  # as np.quantile with method="higher"
        edges, times = np.unique(at_levels, return_counts=True)
        crowded = edges[(times > 1) | (edges == values[0])]
        after = np.searchsorted(values, crowded, side="right")
        edges = np.union1d(edges, values[after[after < len(values)]])
        return BucketEncoder(self.field, edges[edges > values[0]])


class _Vectors:
    def __init__(self, field: Field) -> None:
        self.field = field
        self._width: int | None = None

    def add(self, batch: Batch) -> None:
        column = batch[self.field.name]
        if not isinstance(column, Ragged) or column.lengths.any():  # a piece without any vector says nothing about their width
            self._width = matrix_of(self.field, column, self._width).shape[1]

    def finish(self, codes: Codes | None) -> AnyEncoder:  # noqa: ARG002 - same call for every field
        return VectorEncoder(self.field, self._width or 1)


class _Contents:
    def __init__(self, field: Field, folder: str) -> None:
        self.field, self._folder = field, folder

    def add(self, batch: Batch) -> None:
        texts_of(self.field, batch)  # nothing is learned of it; that it can be read is told now

    def finish(self, codes: Codes | None) -> AnyEncoder:  # noqa: ARG002 - same call for every field
        return ContentEncoder(self.field, ContentVectors.of(self.field.encoder, self.field.kind, self._folder))


_FITTINGS: dict[type[AnyEncoder], type[_FieldFitting]] = {
    CategoryEncoder: _Categories, ListEncoder: _Lists, NumberEncoder: _Numbers, BucketEncoder: _Quantiles, VectorEncoder: _Vectors,
}


def _code_counts(field: Field) -> ValueCounts | BucketCounts:
    return ValueCounts(field) if field.hash_buckets is None else BucketCounts(field)


def _finished(counts: ValueCounts | BucketCounts | None) -> Codes:
    assert counts is not None
    return counts.finish()
