"""The rows of each embedding table that training read, as a table to add up."""

from __future__ import annotations

import numpy as np

from recspect.diagnosis.batch import Batch, Ragged
from recspect.diagnosis.probes.internals import RowProbe
from recspect.diagnosis.subject import TorchSubject


def table_rows(subject: TorchSubject, probe: RowProbe, train: Batch, *, rows: int = 16_384) -> dict[str, Batch]:
    """Per field, one row for every table row that the training rows read.

    Returns:
        Field to a batch of `@embedding:f` (the vector, shape [rows, width]) and `@uses:f` (how often it was read).
        First-order weights (width 1) have no spectrum and are left out.
    """
    weights = {name: parameter.detach() for name, parameter in
               subject.model.named_parameters(remove_duplicate=False)}
    tables = {field: table for field, table in probe.tables().items()
              if table in weights and weights[table].shape[1] > 1}
    totals = {field: np.zeros(weights[table].shape[0], dtype=np.int64) for field, table in tables.items()}
    for start in range(0, train.rows, rows):
        for name, column in probe.observe(train.take(slice(start, start + rows))).items():
            field = name.removeprefix("@row:")
            if field in totals:
                ids = np.asarray(column.values if isinstance(column, Ragged) else column)
                totals[field] += np.bincount(ids, minlength=len(totals[field]))
    out = {}
    for field, total in totals.items():
        used = np.flatnonzero(total)
        if len(used):
            vectors = weights[tables[field]][used].float().numpy()
            out[field] = Batch({f"@embedding:{field}": vectors, f"@uses:{field}": total[used]})
    return out
