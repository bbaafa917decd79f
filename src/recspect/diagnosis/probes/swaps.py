"""Rows of which some fields hold the values of other rows, or fewer entries of a list: perturbations that a recommender could meet.

A zero in the place of an id is no user and no item. A field that is taken out of a row here gets the value of another row whose value is about as frequent: the row stays one that
could be asked about, and popularity does not give the exchange away. Rows are encoded anew, so that what an encoder does with a value (unknown ids, lengths of lists) happens.

Shapes: B rows, F fields, N donors per row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical, Column, Ragged, concatenate, factorize
from recspect.diagnosis.subject import SCORE_ROWS, TorchSubject
from recspect.errors import SubjectError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_ATTEMPTS = 8
"""Draws among rows of like frequency until one has another value."""


def additive_scores(subject: TorchSubject, batch: Batch) -> Floats:
    """The logit (or the value of a model without one) of each row, shape [B]: the quantity that contributions add up to."""
    import torch

    from recspect.diagnosis.lookups import undisturbed

    with undisturbed(subject.model, naming=False) as stack, torch.no_grad():
        found = [subject.run(subject.encode(piece), stack).additive.double().cpu().numpy() for piece in batch.pieces(SCORE_ROWS)]
    scores: Floats = np.concatenate(found) if found else np.zeros(0)
    if len(scores) != batch.rows:
        raise SubjectError(f"the model returned {len(scores)} scores for {batch.rows} rows", hint="return one score per row")
    return scores


class Swaps:
    """A batch whose fields can be exchanged for those of other rows of a pool.

    Args:
        subject: The model.
        batch: B rows.
        pool: Rows that values are taken from, such as training rows.
        fields: F fields, each a column of both.
        donors: Values drawn for each field of each row; scores are means over them.
        seed: Of the draws.
    """

    def __init__(self, subject: TorchSubject, batch: Batch, pool: Batch, fields: Sequence[str], *, donors: int = 2, seed: int = 0) -> None:
        self.subject, self.batch, self.fields, self.donors = subject, batch, tuple(fields), donors
        rng = np.random.default_rng(seed)
        names = list(dict.fromkeys((*self.fields, *(name for name in batch if name in pool))))
        self._both = concatenate([batch.select(names), pool.select(names)])
        self._rest = {name: batch[name] for name in batch if name not in names}
        self.drawn = {name: np.stack([like_frequency(self._both[name], batch.rows, rng) for _ in range(donors)]) for name in self.fields}

    def scores(self, out: Mask) -> Floats:
        """The logit of each row with its own set of fields exchanged, mean over donors: shape [B, F] to [B]."""
        rows, total = self.batch.rows, np.zeros(self.batch.rows)
        for donor in range(self.donors):
            columns: dict[str, Column] = dict(self._rest)
            for name in self._both:
                own = np.arange(rows)
                if name in self.drawn:
                    own = np.where(out[:, self.fields.index(name)], self.drawn[name][donor], own)
                columns[name] = self._both[name][own]
            total += additive_scores(self.subject, Batch(columns, rows=rows))
        return total / self.donors


def like_frequency(column: Column, rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """For each of the first rows another row of the column, of another value that is about as frequent (within a factor of two) where there is one.

    Args:
        column: The rows, then the pool.
        rows: How many rows come before the pool.
        rng: Draws.

    Returns:
        Positions in the column, shape (rows,): of the pool. Lists, vectors and real numbers have no frequency; any row of the pool is taken.
    """
    pool = np.arange(rows, len(column))
    if not len(pool):
        return np.arange(rows)
    found = codes_and_octaves(column, rows)
    if found is None:
        return rng.choice(pool, rows)
    codes, octave = found
    drawn = rng.choice(pool, rows)  # where no value is as frequent
    for level in np.unique(octave[:rows]):
        mine, alike = np.flatnonzero(octave[:rows] == level), pool[octave[rows:] == level]
        for _ in range(_ATTEMPTS if len(alike) else 0):
            tried = rng.choice(alike, len(mine))
            other = codes[tried] != codes[mine]
            drawn[mine[other]] = tried[other]
            mine = mine[~other]
            if not len(mine):
                break
    return drawn


def codes_and_octaves(column: Column, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """The value of each row as a code, and about how often it occurs in the pool, as powers of two; None for lists, vectors and real numbers, which have no frequency.

    Args:
        column: The rows, then the pool.
        rows: How many rows come before the pool.
    """
    if not isinstance(column, Categorical):
        if isinstance(column, Ragged) or column.ndim != 1 or column.dtype.kind not in "iub":
            return None
        column = factorize(column)
    codes = np.asarray(column.codes, dtype=np.int64)
    count = np.bincount(codes[rows:] + 1, minlength=len(column.values) + 1)
    return codes, np.floor(np.log2(np.maximum(count[codes + 1], 1))).astype(np.int64)


def without_entries(lists: Ragged, gone: Sequence[NDArray[np.bool_]]) -> Ragged:
    """Lists with some entries dropped: for each row a mask over its entries."""
    kept = ~np.concatenate([*gone, np.zeros(0, dtype=bool)])
    inside = lists[np.arange(len(lists))]  # entries of these rows alone, offsets from 0
    counts = np.add.reduceat(np.append(kept, False), inside.offsets[:-1]) if len(lists) else np.zeros(0)
    lengths = np.where(inside.lengths > 0, counts, 0)
    return Ragged(inside.values[kept], np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


__all__ = ["Swaps", "additive_scores", "codes_and_octaves", "like_frequency", "without_entries"]
