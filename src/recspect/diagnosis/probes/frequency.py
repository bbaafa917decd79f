"""How often training saw the ids of a row: users and items as few groups, which slices can be made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical, Column, hash_values
from recspect.diagnosis.probe import Probe

OFTEN = "@often:"
"""Prefix of the columns."""

GROUPS = np.array(["unseen", "rare", "middle", "frequent"], dtype=object)
"""Ids that training never saw; then the seen ones, rarest first, each group with about a third of the training rows."""

MANY = 100
"""Fields of no more categories than this are slices themselves."""


class FrequencyProbe(Probe):
    """Adds `@often:<field>`, one of `GROUPS`; missing where the id is.

    Args:
        known: Of each field the hashes of the ids that training saw, ascending, and the group of each (1 to 3).
    """

    light = True

    def __init__(self, known: Mapping[str, tuple[NDArray[np.uint64], NDArray[np.int64]]]) -> None:
        self.known = dict(known)
        self.reads = tuple(self.known)

    @property
    def adds(self) -> tuple[str, ...]:
        return tuple(f"{OFTEN}{name}" for name in self.known)

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        found: dict[str, Column] = {}
        for name, (hashes, groups) in self.known.items():
            column = batch.categories(name)
            own = hash_values(column.values)
            at = np.minimum(np.searchsorted(hashes, own), len(hashes) - 1)
            group = np.where(hashes[at] == own, groups[at], 0) if len(hashes) else np.zeros(len(own), dtype=np.int64)
            found[f"{OFTEN}{name}"] = Categorical(np.append(group, [-1])[column.codes], GROUPS)
        return found


def fitted_frequency(batches: Iterable[Batch], fields: Sequence[str]) -> FrequencyProbe:
    """Learn from training rows. Fields of lists, and of no more than `MANY` ids, are left out.

    Ids are cut where they hold a third and two thirds of the training rows; ids seen equally often are in one group.
    """
    hashes: dict[str, list[NDArray[np.uint64]]] = {name: [] for name in fields}
    counts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in fields}
    for batch in batches:
        for name in list(hashes):
            column = batch[name]
            if not isinstance(column, Categorical) and (not isinstance(column, np.ndarray) or column.ndim != 1):
                del hashes[name]
                continue
            categories = batch.categories(name)
            counts[name].append(np.bincount(categories.codes[categories.codes >= 0], minlength=len(categories.values)))
            hashes[name].append(hash_values(categories.values))
    known = {}
    for name, parts in hashes.items():
        if not parts:
            continue
        distinct, place = np.unique(np.concatenate(parts), return_inverse=True)
        rows = np.bincount(place, np.concatenate(counts[name]), len(distinct))
        distinct, rows = distinct[rows > 0], rows[rows > 0]
        if len(distinct) > MANY:
            known[name] = (distinct, 1 + _thirds(rows))
    return FrequencyProbe(known)


def _thirds(rows: NDArray[np.float64]) -> NDArray[np.int64]:
    """0, 1 or 2 per id: which third of the rows its frequency lies in."""
    often, place = np.unique(rows, return_inverse=True)
    held = np.bincount(place, rows, len(often))
    middle = (np.cumsum(held) - held / 2) / held.sum()
    return np.asarray(np.minimum((middle * 3).astype(np.int64), 2)[place])
