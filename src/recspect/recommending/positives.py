"""Which training rows say that a user wanted an item."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.schema import Schema


def positive_rows(batch: Batch, schema: Schema) -> NDArray[np.bool_]:
    """True where the first label is 1, or, for a graded label, at least its mean over these rows; all without a label.

    Raises:
        DataError: The label is missing, or holds what its schema does not allow.
    """
    if not schema.labels:
        return np.ones(batch.rows, dtype=bool)
    from recspect.features.labels import encode_label  # beside modules that import torch, which lists do not need

    values = encode_label(schema.label, batch)
    bound = 1.0 if schema.label.kind == "binary" else values.mean() if len(values) else 0.0
    positive: NDArray[np.bool_] = values >= bound
    return positive
