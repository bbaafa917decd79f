"""Compares the values logged while serving with the values computed again from the same event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical, Column, Ragged
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.stat import category_name

SERVED = "served:"
"""Prefix of the column that holds what was logged at serving time."""


class Mismatch(Probe):
    """Adds `@mismatch:<field>`: 1 where `served:<field>` differs from `<field>`, else 0. Both missing is no mismatch.

    Args:
        fields: The fields to compare; those of `mismatch_fields`.
        tolerance: Numbers may differ by this share of the larger one: 1e-5 allows for 32-bit floats.
    """

    light = True

    def __init__(self, fields: Sequence[str], *, tolerance: float = 1e-5) -> None:
        self.fields = tuple(fields)
        self.tolerance = tolerance
        self.reads = tuple(name for field in self.fields for name in (field, f"{SERVED}{field}"))

    @property
    def adds(self) -> tuple[str, ...]:
        return tuple(f"@mismatch:{field}" for field in self.fields)

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        return {f"@mismatch:{field}": self._differs(batch, field).astype(np.float64) for field in self.fields}

    def _differs(self, batch: Batch, field: str) -> NDArray[np.bool_]:
        there, served = batch[field], batch[f"{SERVED}{field}"]
        if _is_number(there) and _is_number(served):
            a, b = batch.numbers(field), batch.numbers(f"{SERVED}{field}")
            with np.errstate(invalid="ignore"):
                near = (a == b) | (np.abs(a - b) <= self.tolerance * np.maximum(np.abs(a), np.abs(b)))
            return ~(near | (np.isnan(a) & np.isnan(b)))
        if isinstance(there, Ragged) or isinstance(served, Ragged) or _is_matrix(there) or _is_matrix(served):
            return np.array([_entries(a) != _entries(b) for a, b in zip(_lists(there), _lists(served), strict=True)], dtype=bool)
        a_text, b_text = _text(batch.categories(field)), _text(batch.categories(f"{SERVED}{field}"))
        return np.asarray(a_text != b_text, dtype=bool)


def mismatch_fields(columns: Sequence[str]) -> tuple[str, ...]:
    """The fields that a table with these columns holds both as computed and as served."""
    there = set(columns)
    return tuple(name.removeprefix(SERVED) for name in columns if name.startswith(SERVED) and name.removeprefix(SERVED) in there)


def _is_number(column: Column) -> bool:
    return isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "iufb"


def _is_matrix(column: Column) -> bool:
    return isinstance(column, np.ndarray) and column.ndim == 2


def _lists(column: Column) -> list[list[object]]:
    if isinstance(column, Ragged):
        values = _text(column.values) if isinstance(column.values, Categorical) else column.values
        return [list(values[a:b]) for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)]
    return [list(np.atleast_1d(row)) for row in column] if isinstance(column, np.ndarray) else [[text] for text in _text(column)]


def _entries(values: list[object]) -> list[str]:
    return [category_name(np.float32(value)) if isinstance(value, (float, np.floating)) else category_name(value) for value in values]


def _text(column: Categorical) -> NDArray[np.object_]:
    named = np.array([*(category_name(value) for value in column.values), ""], dtype=object)
    out: NDArray[np.object_] = named[column.codes]
    return out
