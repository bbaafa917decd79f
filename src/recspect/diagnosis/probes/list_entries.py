"""Entries of lists (items of a history, tags) dropped in the order that explanations give them.

Shapes: B rows, L entries of all list fields together. A list without some entries is what it would have been without them: rows are encoded and scored anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Ragged
from recspect.diagnosis.explanation_columns import CONSTANT, MEASURED, OURS, RANDOM
from recspect.diagnosis.probes.attribution import Attribution
from recspect.diagnosis.probes.swaps import additive_scores, without_entries
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

LONGEST = 50
"""Of longer lists the last entries are kept: each costs a pass of all rows."""
SHARES = (0.25, 0.5, 0.75)
"""Of a row's entries: after so many the fall of the score is taken."""
LEAST = 2
"""Entries below which a row has no order of entries."""


def entry_falls(subject: TorchSubject, batch: Batch, explain: Callable[[Batch], Attribution], *, seed: int = 0) -> dict[str, Floats]:
    """Mean fall of the score while entries are dropped, those first that speak most for it, for every explainer, shape [B]; NaN for rows of fewer than two entries.

    Args:
        subject: The model.
        batch: The rows.
        explain: Rows to contributions, of which the entries are looked at.
        seed: Of the random order.

    Returns:
        `ours`: by contributions. `measured`: by what the score loses without each entry alone. `random`: in random order. `constant`: the latest entries first, whatever the row.

    Raises:
        SubjectError: No field is a list whose entries the model looks up.
    """
    found = explain(batch)
    names = [name for name in found.entries if name in batch and isinstance(batch[name], Ragged)]
    if not names:
        raise SubjectError("no field is a list of entries")
    widths = {name: min(LONGEST, int(found.entries[name].shape[1])) for name in names}
    rows = batch.with_columns({name: _last(batch[name], width) for name, width in widths.items()})
    if any((rows[name].lengths != batch[name].lengths).any() for name in names):  # type: ignore[union-attr]
        found = explain(rows)
    there, ours = _laid_out(rows, found, widths)
    score = additive_scores(subject, rows)

    def scores(gone: Mask) -> Floats:
        return additive_scores(subject, _without(rows, gone, widths))

    alone = np.full(there.shape, -np.inf)
    for place in range(there.shape[1]):
        mine = there[:, place]
        gone = np.zeros(there.shape, dtype=bool)
        gone[:, place] = mine
        if mine.any():
            alone[mine, place] = (score - scores(gone))[mine]
    position = np.where(there, np.cumsum(there, axis=1), -1).astype(np.float64)
    orders = {OURS: ours, MEASURED: alone, RANDOM: np.random.default_rng(seed).random(there.shape), CONSTANT: position}
    return {name: _fall(scores, score, there, order) for name, order in orders.items()}


def _fall(scores: Callable[[Mask], Floats], score: Floats, there: Mask, order: Floats) -> Floats:
    """Mean over shares of entries of the fall when so many are dropped in descending order."""
    place = np.argsort(np.argsort(-np.where(there, order, -np.inf), axis=1, kind="stable"), axis=1)
    count = there.sum(1)
    falls = [score - scores(there & (place < np.ceil(share * count)[:, None])) for share in SHARES]
    return np.where(count >= LEAST, np.mean(falls, axis=0), np.nan)


def _last(column: object, width: int) -> Ragged:
    assert isinstance(column, Ragged)
    dropped = [np.arange(length) < length - width for length in column.lengths.tolist()]
    return without_entries(column, dropped)


def _laid_out(rows: Batch, found: Attribution, widths: Mapping[str, int]) -> tuple[Mask, Floats]:
    """Which places hold an entry, and its contribution, all lists side by side, shape [B, L] each."""
    there, values = [], []
    for name, width in widths.items():
        column = rows[name]
        assert isinstance(column, Ragged)
        entries = found.entries[name].detach().double().cpu().numpy()
        padded = np.zeros((rows.rows, width))
        padded[:, :min(width, entries.shape[1])] = entries[:, :width]
        there.append(np.arange(width) < column.lengths[:, None])
        values.append(padded)
    return np.concatenate(there, 1), np.concatenate(values, 1)


def _without(rows: Batch, gone: Mask, widths: Mapping[str, int]) -> Batch:
    columns, start = {}, 0
    for name, width in widths.items():
        column = rows[name]
        assert isinstance(column, Ragged)
        part = gone[:, start:start + width]
        columns[name] = without_entries(column, [part[row, :length] for row, length in enumerate(column.lengths.tolist())])
        start += width
    return rows.with_columns(columns)


__all__ = ["entry_falls"]
