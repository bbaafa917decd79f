"""Plant a field of pure chance beside a real one: whatever a model makes of it, it makes of noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recspect.diagnosis.batch import Batch, Column
from recspect.diagnosis.diagnostics.features.canary import CANARY


def with_canary(rows: Batch | Mapping[str, Column], like: str, *, seed: int = 0) -> Batch:
    """The rows with a column `canary:<like>`: the values of `like` dealt to other rows at random.

    It has the categories of `like`, as often as there, and says nothing about any row. Plant it in the training rows and, with another seed, in the held-out rows; declare it
    as a field of the kind of `like`; train. `features.canary` then compares every field with it.

    Args:
        rows: A batch, or columns by name.
        like: Column whose values are dealt: the field whose kind of noise is in question, such as the item's id.
        seed: Of the dealing.

    Raises:
        DataError: There is no such column.

    Example:
        >>> with_canary(Batch({"item": np.array([1, 1, 2])}), "item")["canary:item"].tolist()
        [2, 1, 1]
    """
    batch = rows if isinstance(rows, Batch) else Batch(rows)
    dealt = np.random.default_rng(seed).permutation(batch.rows)
    return batch.with_columns({f"{CANARY}{like}": batch[like][dealt]})


__all__ = ["with_canary"]
