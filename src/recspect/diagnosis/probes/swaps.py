"""Rows of which some fields hold the values of other rows, or fewer entries of a list: perturbations that a recommender could meet.

A zero in the place of an id is no user and no item. A field that is taken out of a row here gets the value of another row whose value is about as frequent: the row stays one that
could be asked about, and popularity does not give the exchange away. Rows are encoded anew, so that what an encoder does with a value (unknown ids, lengths of lists) happens.

Shapes: B rows, F fields, N donors per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical, Column, Ragged, concatenate, factorize
from recspect.diagnosis.subject import SCORE_ROWS, TorchSubject
from recspect.errors import SubjectError

if TYPE_CHECKING:
    from recspect.diagnosis.probes.attribution import Baseline

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


def alike_baselines(batch: Batch, pool: Batch, fields: Sequence[str], *, draws: int, seed: int = 0) -> list[Baseline]:
    """Baselines that are other values of like frequency for every row and field: what a row has that others as frequent do not.

    The mean row differs from a popular item in its popularity, too, which an exchange for another popular item does not take away: explained from the mean, a row is explained for another question than its deletion asks.

    Args:
        batch: The rows to explain.
        pool: Rows that values are taken from.
        fields: Which fields.
        draws: How many baselines.
        seed: Of the draws.
    """
    from recspect.diagnosis.probes.attribution import Baseline

    rng = np.random.default_rng(seed)
    both = concatenate([batch.select(fields), pool.select(fields)])
    found = []
    for _ in range(draws):
        drawn: dict[str, Column] = {name: both[name][like_frequency(both[name], batch.rows, rng)] for name in fields}
        found.append(Baseline("values of like frequency", (), {}, rows=batch.with_columns(drawn)))
    return found


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
    if not isinstance(column, Categorical):
        if isinstance(column, Ragged) or column.ndim != 1 or column.dtype.kind not in "iub":
            return rng.choice(pool, rows)
        column = factorize(column)
    codes = np.asarray(column.codes)
    count = np.bincount(codes[rows:] + 1, minlength=len(column.values) + 1)
    octave = np.floor(np.log2(np.maximum(count[codes + 1], 1))).astype(np.int64)
    drawn = rng.choice(pool, rows)  # where no value is as frequent
    for level in np.unique(octave[:rows]):
        mine, alike = np.flatnonzero(octave[:rows] == level), pool[octave[rows:] == level]
        for _ in range(_ATTEMPTS if len(alike) else 0):
            found = rng.choice(alike, len(mine))
            other = codes[found] != codes[mine]
            drawn[mine[other]] = found[other]
            mine = mine[~other]
            if not len(mine):
                break
    return drawn


def without_entries(lists: Ragged, gone: Sequence[NDArray[np.bool_]]) -> Ragged:
    """Lists with some entries dropped: for each row a mask over its entries."""
    kept = ~np.concatenate([*gone, np.zeros(0, dtype=bool)])
    inside = lists[np.arange(len(lists))]  # entries of these rows alone, offsets from 0
    counts = np.add.reduceat(np.append(kept, False), inside.offsets[:-1]) if len(lists) else np.zeros(0)
    lengths = np.where(inside.lengths > 0, counts, 0)
    return Ragged(inside.values[kept], np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


__all__ = ["Swaps", "additive_scores", "alike_baselines", "like_frequency", "without_entries"]
