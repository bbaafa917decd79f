"""How many rows have no value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical, Ragged
from recspect.diagnosis.stat import Stat, Summary, Weights, category_name


@dataclass(frozen=True)
class MissingSummary(Summary):
    """Rows, and rows without a value.

    Args:
        count: Weight of all rows.
        missing: Weight of those without a value.
    """

    count: float
    missing: float

    def __add__(self, other: MissingSummary) -> MissingSummary:
        return MissingSummary(self.count + other.count, self.missing + other.missing)

    @property
    def share(self) -> float:
        """Share of rows without a value; NaN for no rows."""
        return self.missing / self.count if self.count else np.nan


@dataclass(frozen=True, kw_only=True)
class Missing(Stat[MissingSummary]):
    """Rows whose value is null, NaN, infinite, an empty list, a vector with a NaN, or one of the codes for "not known".

    Args:
        column: Any column.
        codes: Values that mean "not known", as text (see `category_name`), such as ("-124",).

    Example:
        >>> Missing(column="x", codes=("-1",)).summarize(Batch({"x": np.array([1., -1., np.nan])})).missing
        2.0
    """

    column: str
    codes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", tuple(self.codes))

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def zero(self) -> MissingSummary:
        return MissingSummary(0.0, 0.0)

    def summarize(self, batch: Batch, weight: Weights = None) -> MissingSummary:
        w = np.ones(batch.rows) if weight is None else weight
        return MissingSummary(float(w.sum()), float(w[self._absent(batch)].sum()))

    def _absent(self, batch: Batch) -> NDArray[np.bool_]:
        column = batch[self.column]
        if isinstance(column, Ragged):
            return np.asarray(column.lengths == 0)
        if not isinstance(column, Categorical) and column.ndim == 2:
            return np.asarray(~np.isfinite(column.astype(np.float64, copy=False)).all(1))
        if isinstance(column, Categorical) or column.dtype.kind not in "iufb":
            found = batch.categories(self.column)
            coded = np.array([category_name(value) in self.codes for value in found.values], dtype=bool)
            return np.append(coded, [True])[found.codes]
        numbers = batch.numbers(self.column)
        absent: NDArray[np.bool_] = ~np.isfinite(numbers)
        for code in self.codes:
            try:
                absent = absent | (numbers == float(code))
            except ValueError:  # a code that is text cannot stand in a column of numbers
                continue
        return absent
