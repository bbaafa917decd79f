"""The same id in two tables: codes that agree, whatever form the columns have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch

Array = NDArray[Any]


def distinct(batch: Batch, name: str) -> tuple[NDArray[np.int64], Array]:
    """Codes of a column's rows into its distinct values, and these values, ascending.

    Only values that occur are listed, so that the codes depend on the rows alone, not on their order or on how the
    column was stored. Missing ids have code -1.

    Raises:
        DataError: No such column, or it holds lists or vectors.
    """
    found = batch.categories(name)
    used = np.unique(found.codes[found.codes >= 0])
    values = found.values[used]
    order = np.argsort(values if values.dtype.kind in "iufbM" else values.astype(str), kind="stable")
    code = np.full(len(found.values) + 1, -1, dtype=np.int64)  # the last place stands for missing
    code[used[order]] = np.arange(len(used))
    return code[found.codes], values[order]


def positions(batch: Batch, name: str, values: Array) -> NDArray[np.int64]:
    """Where each row's id stands among `values`; -1 where it is missing or not among them.

    Numbers and their text are the same id: 5, 5.0 and "5".

    Raises:
        DataError: No such column, or it holds lists or vectors.
    """
    found = batch.categories(name)
    if found.values.dtype.kind in "iu" and values.dtype.kind in "iu" and len(values):
        order = np.argsort(values, kind="stable")
        place = order[np.minimum(np.searchsorted(values, found.values, sorter=order), len(values) - 1)]
        where = np.where(values[place] == found.values, place, -1)
    else:
        known = {_text(value): place for place, value in enumerate(values)}
        where = np.array([known.get(_text(value), -1) for value in found.values], dtype=np.int64)
    result: NDArray[np.int64] = np.append(where, [-1])[found.codes]
    return result


def _text(value: object) -> str:
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)
