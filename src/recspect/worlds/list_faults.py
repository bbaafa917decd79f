"""Faults of lists and of logs of lists: each function returns new rows with one thing wrong, the same for the same seed."""

from __future__ import annotations

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.errors import UsageError


def plant_position_bias(batch: Batch, label: str, *, column: str = "position", places: int = 10, steepness: float = 1.0, by: str | None = None, seed: int = 0) -> Batch:
    """A place for each row, and a share 1 - place^-steepness of the positives not seen, so that their label is 0.

    Args:
        batch: Rows with the label.
        label: Its column, 0/1.
        column: Name of the new column, 1 to places.
        places: Length of lists.
        steepness: 0 leaves labels as they are: the healthy twin.
        by: Column by which an imperfect ranker puts rows in order, highest first; None puts them at random.
        seed: Of everything drawn.
    """
    if places < 2 or steepness < 0:
        raise UsageError(f"{places} places and steepness {steepness}, expected at least 2 places and a steepness of at least 0")
    rng = np.random.default_rng(seed)
    order = rng.random(batch.rows)
    if by is not None:
        known = np.argsort(np.argsort(-batch.numbers(by))) / max(batch.rows, 1)
        order = known + rng.normal(0, 0.3, batch.rows)
    place = 1 + np.argsort(np.argsort(order)) * places // max(batch.rows, 1)
    seen = rng.random(batch.rows) < place**-steepness
    return batch.with_columns({column: place, label: np.where(seen, batch.numbers(label), 0).astype(np.int64)})
