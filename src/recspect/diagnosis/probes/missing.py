"""What the model says when a field has no value: the scores behind the curves of corruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical, Column, Ragged
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.subject import Subject
from recspect.errors import SubjectError

PRESENT = "@score:missing"
"""The score with nothing missing."""

_TRIED = 64
"""Rows on which is tried whether the model takes rows without the field."""


def missing_column(name: str) -> str:
    """Name of the column of scores with a field missing in every row."""
    return f"{PRESENT}:{name}"


def without_values(batch: Batch, name: str) -> Column | None:
    """The column with no value in any row: NaN for real numbers, empty lists, else categories that are missing. None for a matrix."""
    column = batch[name]
    if isinstance(column, Ragged):
        return Ragged(column.values[:0], np.zeros(batch.rows + 1, dtype=np.int64))
    if isinstance(column, np.ndarray):
        if column.ndim != 1:
            return None
        if column.dtype.kind == "f":
            return np.full(batch.rows, np.nan)
    return Categorical(np.full(batch.rows, -1, dtype=np.int64), batch.categories(name).values)


def fields_that_may_be_missing(subject: Subject, sample: Batch, fields: Sequence[str]) -> tuple[str, ...]:
    """Those of the fields without which the model still gives scores; what a model does not take is no question to ask it."""
    few = sample.take(slice(0, _TRIED))
    found = []
    for name in fields:
        column = without_values(few, name) if name in few else None
        if column is None:
            continue
        try:
            subject.score(few.with_columns({name: column}))
        except SubjectError:
            continue
        found.append(name)
    return tuple(found)


class MissingProbe(Probe):
    """Adds `@score:missing`, the score, and `@score:missing:f`, the score with field f missing in every row.

    Rows of which only a share misses the field are a mixture of the two columns: the diagnostics make it from totals.

    Args:
        subject: The model.
        fields: Which fields; see `fields_that_may_be_missing`.
    """

    def __init__(self, subject: Subject, fields: Sequence[str]) -> None:
        self.subject, self.fields = subject, tuple(fields)

    @property
    def adds(self) -> tuple[str, ...]:
        return (PRESENT, *map(missing_column, self.fields))

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        scores: dict[str, NDArray[np.float64]] = {PRESENT: self.subject.score(batch)}
        for name in self.fields:
            column = without_values(batch, name)
            if column is not None:
                scores[missing_column(name)] = self.subject.score(batch.with_columns({name: column}))
        return scores
