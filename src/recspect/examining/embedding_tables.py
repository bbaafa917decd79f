"""The rows of each embedding table that training read, as a table to add up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Ragged
from recspect.diagnosis.probes.internals import RowProbe
from recspect.diagnosis.subject import TorchSubject

Ints = NDArray[np.int64]


def table_uses(subject: TorchSubject, probe: RowProbe, train: Batch, *, rows: int = 16_384) -> dict[str, Ints]:
    """Per field, how often the training rows read each row of its widest table, shape (table rows,)."""
    weights = dict(subject.model.named_parameters(remove_duplicate=False))
    totals = {field: np.zeros(weights[table].shape[0], dtype=np.int64) for field, table in probe.tables().items() if table in weights}
    for start in range(0, train.rows, rows):
        for name, column in probe.observe(train.take(slice(start, start + rows))).items():
            field = name.removeprefix("@row:")
            if field in totals:
                ids = np.asarray(column.values if isinstance(column, Ragged) else column)
                totals[field] += np.bincount(ids, minlength=len(totals[field]))
    return totals


def table_rows(subject: TorchSubject, probe: RowProbe, uses: Mapping[str, Ints]) -> dict[str, Batch]:
    """Per field, one row for every table row that the training rows read.

    Args:
        subject: The model.
        probe: What found the tables.
        uses: From `table_uses`.

    Returns:
        Field to a batch of `@embedding:f` (the vector, shape [rows, width]) and `@uses:f` (how often it was read).
        First-order weights (width 1) have no spectrum and are left out.
    """
    weights = {name: parameter.detach() for name, parameter in subject.model.named_parameters(remove_duplicate=False)}
    tables = probe.tables()
    out = {}
    for field, total in uses.items():
        used = np.flatnonzero(total)
        if len(used) and weights[tables[field]].shape[1] > 1:
            vectors = weights[tables[field]][used].float().numpy()
            out[field] = Batch({f"@embedding:{field}": vectors, f"@uses:{field}": total[used]})
    return out


def uses_by_table(probe: RowProbe, uses: Mapping[str, Ints]) -> dict[str, Ints]:
    """How often training read each row of a table, of the tables every read of which is known; `uses` is from `table_uses`."""
    return {table: np.sum([uses[field] for field in fields], axis=0) for table, fields in probe.whole_tables().items() if uses.keys() >= set(fields)}
