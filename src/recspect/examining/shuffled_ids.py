"""Samples of held-out and of training rows whose ids are dealt out to other rows, to see what a model knows of training rows alone."""

from __future__ import annotations

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.frequency import fitted_frequency
from recspect.diagnosis.probes.permutation import PermutedRows, with_positions
from recspect.diagnosis.probes.shuffled_ids import ShuffledIdsProbe
from recspect.diagnosis.subject import TorchSubject
from recspect.examining.tables import sample_of
from recspect.schema import Schema

ROWS, REPEATS = 8192, 3
"""Rows of each side, and how often each id is dealt out."""


def shuffled_ids(subject: TorchSubject, schema: Schema, held_out: Batch, train: Batch, *, rows: int = ROWS) -> list[tuple[Batch, ShuffledIdsProbe]]:
    """The sample and the probe of each side, held-out rows first; nothing where the model reads neither user nor item.

    Held-out rows are those whose ids training saw: of the others the model knows nothing that could be lost.

    Raises:
        SubjectError: The model cannot be run with another's ids.
    """
    read = set(subject.sites(held_out).fields)
    ids = [name for name in (schema.user, schema.item) if name is not None and name in read and name in held_out and name in train]
    seen = held_out.take(_seen(held_out, train, ids)) if ids else held_out
    if not ids or not seen.rows:
        return []
    sides = [with_positions(sample_of(side, rows)) for side in (seen, train)]
    return [(side, ShuffledIdsProbe(PermutedRows(subject, side, fields=ids, repeats=REPEATS))) for side in sides]


def _seen(held_out: Batch, train: Batch, ids: list[str]) -> np.ndarray:
    """Rows all of whose ids are in training; an id of few values, of which the frequency probe says nothing, is taken to be."""
    often = fitted_frequency([train.select(ids)], ids).observe(held_out)
    kept = np.ones(held_out.rows, dtype=bool)
    for column in often.values():
        kept &= column.codes > 0  # type: ignore[union-attr]  # the group of an id: 0 was never seen, -1 is missing
    return np.flatnonzero(kept)
