"""From a label column to what a model is trained towards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, describe
from recspect.errors import DataError, listing
from recspect.schema import Label


def encode_label(label: Label, batch: Batch, *, piece: bool = False) -> NDArray[np.float64]:
    """The label as float64, shape (rows,): 0 or 1 for a binary label, the number itself for a graded one.

    Args:
        label: With `positive`, 1 where the column equals it ("1" and 1 are equal); with `at_least`, 1 where the number
            is at least that; otherwise the column must hold 0/1 or booleans.
        batch: Holds the column.
        piece: The rows are a piece of a table, which need not hold the positive value.

    Raises:
        DataError: The column is missing, holds NaN or infinite values, or anything but two values where 0/1 is expected.
    """
    if label.positive is not None:
        column = batch.categories(label.name)
        _refuse_gaps(label, np.flatnonzero(column.codes < 0))
        wanted = _text(label.positive)
        hit = np.array([_text(value) == wanted for value in column.values], dtype=bool)
        if not hit.any() and not piece:
            raise DataError(f"label {label.name!r}: no row holds the positive value {label.positive!r}; "
                            f"values: {listing(map(str, column.values))}", hint="correct 'positive' in the schema")
        return np.append(hit, [False])[column.codes].astype(np.float64)
    try:
        numbers = batch.numbers(label.name)
    except DataError:
        if label.kind != "binary" or label.at_least is not None:
            raise
        raise DataError(f"binary label {label.name!r} holds {describe(batch[label.name])}, expected 0 and 1",
                        hint='say in the schema which value counts as 1, such as positive = "yes"') from None
    _refuse_gaps(label, np.flatnonzero(~np.isfinite(numbers)))
    if label.kind == "graded":
        return numbers
    if label.at_least is not None:
        return (numbers >= label.at_least).astype(np.float64)
    odd = numbers[(numbers != 0) & (numbers != 1)]
    if len(odd):
        raise DataError(f"binary label {label.name!r} holds {odd[0]:g}, expected 0 and 1",
                        hint="give the schema's label 'positive' or 'at_least', or kind = \"graded\"")
    return numbers


def require_variation(label: Label, values: NDArray[np.float64], *, where: str) -> None:
    """Refuse a label that is the same in every row: there is nothing to learn.

    Raises:
        DataError: All values are equal, or there are none.
    """
    if len(values) == 0:
        raise DataError(f"no {where} rows", hint="check the split and the filters")
    if (values == values[0]).all():
        raise DataError(f"label {label.name!r} is {values[0]:g} in all {len(values):,} {where} rows: nothing can be learned",
                        hint="is the label mapped correctly (positive, at_least), and was the data filtered by it?")


def _refuse_gaps(label: Label, rows: NDArray[np.int64]) -> None:
    if len(rows):
        raise DataError(f"label {label.name!r} is missing or not finite in {len(rows):,} rows, first in row {int(rows[0]):,}",
                        hint="drop the rows without a label, or fill it where absence means 0")


def _text(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)
