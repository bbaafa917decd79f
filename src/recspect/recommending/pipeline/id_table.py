"""Ids and their codes: made once, asked for each request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical, Column, objects_of


@dataclass(frozen=True, eq=False)
class IdTable:
    """Distinct ids; an id's code is its place.

    Numbers and their text are the same id: 5, 5.0 and "5".

    Args:
        values: Shape (n,), strings as objects or integers, each once.
    """

    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.values)

    def codes(self, ids: Iterable[Any]) -> NDArray[np.int64]:
        """The code of each id, shape (n,); -1 where it is not known or missing."""
        lookup = self._codes
        return np.fromiter((-1 if value is None else lookup.get(text_of(value), -1) for value in ids), dtype=np.int64)

    def codes_of(self, batch: Batch, name: str) -> NDArray[np.int64]:
        """The code of each row of a column; distinct values are looked up once.

        Raises:
            DataError: No such column, or it holds lists or vectors.
        """
        found = batch.categories(name)
        return np.append(self.codes(found.values), [-1])[found.codes]

    def column(self, codes: NDArray[np.int64]) -> Column:
        """The ids of these codes as a column; -1 is missing."""
        if self.values.dtype.kind != "O" and (codes >= 0).all():
            return self.values[codes]
        return Categorical(codes, self.values)

    @cached_property
    def _codes(self) -> dict[str, int]:
        return {text_of(value): code for code, value in enumerate(self.values.tolist())}


def text_of(value: object) -> str:
    """One text for all forms of an id."""
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def column_of(values: list[Any]) -> Column:
    """Ids or values of a request as a column, with the type that a table of them would have."""
    if all(isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_)) and abs(int(value)) < 2**63 for value in values):
        return np.array([int(value) for value in values], dtype=np.int64)
    if all(value is None or (isinstance(value, (int, float, np.number)) and not isinstance(value, bool)) for value in values):
        return np.array([np.nan if value is None else float(value) for value in values])
    known = list(dict.fromkeys(str(value) for value in values if value is not None))
    place = {value: code for code, value in enumerate(known)}
    return Categorical(np.array([-1 if value is None else place[str(value)] for value in values], dtype=np.int64), objects_of(known))
