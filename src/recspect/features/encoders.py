"""How one field becomes ids or numbers: fitted on training rows, applied to any rows.

Each encoder is a frozen value with three parts: `encode` (a column to an array), `size` (what a model must hold), `state`/`from_state`
(plain settings and arrays for files). `recspect.features.fitting` learns it from training rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Array, Batch, Categorical, Column, Ragged, describe, factorize
from recspect.errors import DataError
from recspect.features.contents import ContentVectors
from recspect.features.encoded import FIRST_KNOWN, MISSING, InputSize
from recspect.features.vocabulary import (
    Codes,
    codes_from_state,
    encode_categories,
    missing_values,
    numeric_codes,
)
from recspect.schema import Field, Kind

State = tuple[dict[str, Any], dict[str, Array]]

CLIP_DEVIATIONS = 10.0
"""Standardised numbers are held within this, so that one outlier cannot blow up a step."""


@dataclass(frozen=True)
class Encoding:
    """An encoded column: `values` (int64 ids or float32 numbers) and the shares of unknown and missing values."""

    values: Array
    unknown_share: float
    missing_share: float


class Encoder(Protocol):
    """What every encoder offers."""

    field: Field

    @property
    def size(self) -> InputSize:
        """What a model must hold for this field."""

    def encode(self, batch: Batch) -> Encoding:
        """The field's column of a batch as an array."""

    def state(self) -> State:
        """Settings for JSON and arrays for safetensors."""


@dataclass(frozen=True, eq=False)
class CategoryEncoder:
    """One id per row: 0 missing, 1 unknown, 2 rare, 3 and up the known values (or hash buckets)."""

    field: Field
    codes: Codes

    @property
    def size(self) -> InputSize:
        return InputSize(name=self.field.name, form="id", rows=self.codes.rows, shares=self.field.shares or "")

    def encode(self, batch: Batch) -> Encoding:
        column = batch.categories(self.field.name)
        ids = encode_categories(column, self.codes, missing_values(column.values, self.field.missing))
        return Encoding(self.codes.rows_of(ids), _unknown_share(ids, self.codes), _share(ids == MISSING))

    def state(self) -> State:
        return self.codes.state()

    @classmethod
    def from_state(cls, field: Field, settings: Mapping[str, Any], arrays: Mapping[str, Array]) -> CategoryEncoder:
        return cls(field, codes_from_state(settings, arrays, field=field.name))


@dataclass(frozen=True, eq=False)
class ListEncoder:
    """A padded list of ids per row. Entries come first, padding (id 0) after; missing entries are id 0 as well.

    Args:
        width: Entries kept: the field's `max_length`, or the longest list of training where that is shorter. Of longer
            lists, a sequence keeps the last entries (the most recent), a multi-valued field the first.
    """

    field: Field
    codes: Codes
    width: int

    @property
    def size(self) -> InputSize:
        return InputSize(name=self.field.name, form="ids", rows=self.codes.rows, width=self.width, shares=self.field.shares or "")

    def encode(self, batch: Batch) -> Encoding:
        lists = lists_of(self.field, batch[self.field.name])
        column = category_entries(lists.values)
        ids = encode_categories(column, self.codes, missing_values(column.values, self.field.missing))
        padded = self._pad(ids, lists)
        return Encoding(self.codes.rows_of(padded), _unknown_share(padded, self.codes), _share((padded == MISSING).all(axis=1)))

    def _pad(self, ids: NDArray[np.int64], lists: Ragged) -> NDArray[np.int64]:
        lengths = lists.lengths
        kept = np.minimum(lengths, self.width)
        start = lists.offsets[:-1] + (lengths - kept if self.field.kind is Kind.SEQUENCE else 0)
        step = np.arange(self.width)
        filled = step < kept[:, None]
        padded = np.full((len(lists), self.width), MISSING, dtype=np.int64)
        padded[filled] = ids[(start[:, None] + step)[filled]]
        return padded

    def state(self) -> State:
        settings, arrays = self.codes.state()
        return {**settings, "width": self.width}, arrays

    @classmethod
    def from_state(cls, field: Field, settings: Mapping[str, Any], arrays: Mapping[str, Array]) -> ListEncoder:
        return cls(field, codes_from_state(settings, arrays, field=field.name), int(settings["width"]))


@dataclass(frozen=True, eq=False)
class NumberEncoder:
    """A number with mean 0 and deviation 1 in training, after `sign(x) ln(1+|x|)` where the scaling is `log`.

    Missing, infinite and coded values become 0, the mean. Where training had any, a second number per row says so, from
    which a model learns what a gap means; where it had none, a gap counts as an unknown value.
    """

    field: Field
    mean: float
    deviation: float
    gaps: bool

    @property
    def size(self) -> InputSize:
        return InputSize(name=self.field.name, form="numbers", width=2 if self.gaps else 1)

    def encode(self, batch: Batch) -> Encoding:
        numbers = field_numbers(self.field, batch)
        missing = ~np.isfinite(numbers)
        numbers = np.where(missing, self.mean, log_scaled(numbers) if self.field.scaling == "log" else numbers)
        scaled = np.clip((numbers - self.mean) / self.deviation, -CLIP_DEVIATIONS, CLIP_DEVIATIONS).astype(np.float32)
        scaled[missing] = 0
        share = _share(missing)
        if not self.gaps:
            return Encoding(scaled, share, share)
        return Encoding(np.stack([scaled, missing.astype(np.float32)], axis=1), 0.0, share)

    def state(self) -> State:
        return {"mean": self.mean, "deviation": self.deviation, "gaps": self.gaps}, {}

    @classmethod
    def from_state(cls, field: Field, settings: Mapping[str, Any], arrays: Mapping[str, Array]) -> NumberEncoder:  # noqa: ARG003 - same call for every encoder
        return cls(field, float(settings["mean"]), float(settings["deviation"]), bool(settings["gaps"]))


@dataclass(frozen=True, eq=False)
class BucketEncoder:
    """A number as the id of its quantile bucket: 0 missing, 3 and up from the lowest bucket to the highest.

    Args:
        edges: Ascending inner edges without repeats, shape (buckets - 1,); bucket i holds edges[i-1] <= x < edges[i].
    """

    field: Field
    edges: NDArray[np.float64]

    @property
    def size(self) -> InputSize:
        return InputSize(name=self.field.name, form="id", rows=FIRST_KNOWN + len(self.edges) + 1)

    def encode(self, batch: Batch) -> Encoding:
        numbers = field_numbers(self.field, batch)
        missing = ~np.isfinite(numbers)
        ids = np.searchsorted(self.edges, numbers, side="right") + FIRST_KNOWN
        return Encoding(np.where(missing, MISSING, ids), 0.0, _share(missing))

    def state(self) -> State:
        return {}, {"edges": self.edges}

    @classmethod
    def from_state(cls, field: Field, settings: Mapping[str, Any], arrays: Mapping[str, Array]) -> BucketEncoder:  # noqa: ARG003 - same call for every encoder
        return cls(field, arrays["edges"].astype(np.float64))


@dataclass(frozen=True, eq=False)
class VectorEncoder:
    """Vectors as they are given; a row without one, or with a gap in it, is all zeros."""

    field: Field
    width: int

    @property
    def size(self) -> InputSize:
        return InputSize(name=self.field.name, form="numbers", width=self.width)

    def encode(self, batch: Batch) -> Encoding:
        matrix = matrix_of(self.field, batch[self.field.name], self.width)
        missing = ~np.isfinite(matrix).all(axis=1)
        return Encoding(np.where(missing[:, None], 0, matrix).astype(np.float32), 0.0, _share(missing))

    def state(self) -> State:
        return {"width": self.width}, {}

    @classmethod
    def from_state(cls, field: Field, settings: Mapping[str, Any], arrays: Mapping[str, Array]) -> VectorEncoder:  # noqa: ARG003 - same call for every encoder
        return cls(field, int(settings["width"]))


@dataclass(frozen=True, eq=False)
class ContentEncoder:
    """The vector of a text or an image, by a model that is trained already; a row without one is all zeros."""

    field: Field
    vectors: ContentVectors

    @property
    def size(self) -> InputSize:
        return InputSize(name=self.field.name, form="numbers", width=self.vectors.width)

    def encode(self, batch: Batch) -> Encoding:
        column = texts_of(self.field, batch)
        used = np.zeros(len(column.values), dtype=bool)
        used[column.codes[column.codes >= 0]] = True
        used &= ~missing_values(column.values, self.field.missing)
        by_value = np.zeros((len(column.values) + 1, self.vectors.width), dtype=np.float32)
        by_value[:-1][used] = self.vectors.vectors([str(value) for value in column.values[used]])
        return Encoding(by_value[column.codes], 0.0, _share(~np.append(used, [False])[column.codes]))

    def state(self) -> State:
        return {name: getattr(self.vectors, name) for name in ("encoder", "version", "width", "folder")}, {}

    @classmethod
    def from_state(cls, field: Field, settings: Mapping[str, Any], arrays: Mapping[str, Array]) -> ContentEncoder:  # noqa: ARG003 - same call for every encoder
        return cls(field, ContentVectors(encoder=str(settings["encoder"]), kind=field.kind, version=str(settings["version"]), width=int(settings["width"]),
                                         folder=str(settings["folder"])))


AnyEncoder = CategoryEncoder | ListEncoder | NumberEncoder | BucketEncoder | VectorEncoder | ContentEncoder


def encoder_of(field: Field) -> type[AnyEncoder]:
    """The encoder for a field's kind and scaling."""
    if field.kind in (Kind.TEXT, Kind.IMAGE):
        return ContentEncoder
    if field.kind is Kind.CATEGORICAL:
        return CategoryEncoder
    if field.kind in (Kind.MULTI_VALUED, Kind.SEQUENCE):
        return ListEncoder
    if field.kind is Kind.VECTOR:
        return VectorEncoder
    return BucketEncoder if field.scaling == "quantile" else NumberEncoder


# ---------------------------------------------------------------------- details


def _share(flags: NDArray[np.bool_]) -> float:
    return float(flags.mean()) if flags.size else 0.0


def _unknown_share(ids: NDArray[np.int64], codes: Codes) -> float:
    present = ids[ids != MISSING]
    return _share(~codes.trained(present))


def field_numbers(field: Field, batch: Batch) -> NDArray[np.float64]:
    numbers = batch.numbers(field.name)
    codes = numeric_codes(field.missing)
    return np.where(np.isin(numbers, codes), np.nan, numbers) if codes else numbers


def texts_of(field: Field, batch: Batch) -> Categorical:
    """Texts, or paths of images.

    Raises:
        DataError: The column holds something else.
    """
    column = batch.categories(field.name)
    if column.values.dtype.kind != "O" and (column.codes >= 0).any():
        raise DataError(f"column {field.name!r} holds {describe(batch[field.name])}, expected {'texts' if field.kind is Kind.TEXT else 'paths of images'}",
                        hint="correct the field's kind in the schema")
    return column


def log_scaled(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sign(numbers) * np.log1p(np.abs(numbers))


def category_entries(values: Array | Categorical) -> Categorical:
    return values if isinstance(values, Categorical) else factorize(values)


def lists_of(field: Field, column: Column) -> Ragged:
    """A list per row; strings are split at the field's separator, once per distinct string."""
    if isinstance(column, Ragged):
        return column
    if isinstance(column, np.ndarray) and column.ndim == 2:
        rows, width = column.shape
        return Ragged(column.reshape(-1), np.arange(rows + 1) * width)
    if isinstance(column, np.ndarray) and not (column.dtype.kind == "f" and np.isnan(column).all()):
        raise DataError(f"column {field.name!r} holds {describe(column)}, expected lists",
                        hint=f"make it kind 'categorical' or 'numeric' in the schema, not '{field.kind}'")
    if isinstance(column, np.ndarray):  # nothing but gaps
        return Ragged(np.empty(0), np.zeros(len(column) + 1, dtype=np.int64))
    if field.separator is None:
        raise DataError(f"column {field.name!r} holds {describe(column)}, expected lists",
                        hint='give the schema\'s field a separator, such as separator = "|"')
    parts = [[part for piece in str(value).split(field.separator) if (part := piece.strip())] for value in column.values]
    entries = np.empty(sum(map(len, parts)), dtype=object)
    entries[:] = [part for row in parts for part in row]
    ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    # One empty list at the end, which the code -1 (missing) picks.
    return Ragged(factorize(entries), np.append(ends, ends[-1]))[column.codes]


def matrix_of(field: Field, column: Column, width: int | None) -> NDArray[np.float64]:
    """Vectors as one array; lists of equal length are taken too (files without fixed-size lists store them so)."""
    if isinstance(column, Ragged) and isinstance(column.values, np.ndarray) and column.values.dtype.kind in "fiub":
        lengths = column.lengths
        present = lengths[lengths > 0]
        found = width if width is not None else (int(present[0]) if len(present) else 1)
        if (present == found).all():
            matrix = np.full((len(column), found), np.nan)
            matrix[lengths > 0] = column.values[column.offsets[0]:column.offsets[-1]].reshape(-1, found)
            return matrix
        raise DataError(f"field {field.name!r}: vectors of width {found} expected, found lists of {int(present.min())} "
                        f"to {int(present.max())} entries", hint="all vectors of a field must have one width")
    matrix = Batch({field.name: column}).matrix(field.name)
    if width is not None and matrix.shape[1] != width:
        raise DataError(f"field {field.name!r}: vectors of width {width} in training, {matrix.shape[1]} here",
                        hint="encode these rows with the encoder of training")
    return matrix

