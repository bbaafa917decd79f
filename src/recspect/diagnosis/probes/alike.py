"""A baseline for the question "what does this row have that others as popular do not?": each field at the mean of other values that are as frequent as the row's own.

The mean of all rows differs from a popular item in its popularity, too. Who exchanges a popular item for another popular one asks something else, and an explanation from the mean of all rows answers
it badly: on MovieLens worse than gradient x input, and so does an explanation that is measured by scores alone from that mean (bench/explanations.py). Averaging over 32 paths from drawn values of like frequency
answers it, and so does one path from the mean of these values in embedding space, which has no draws and costs a thirtieth.

Shapes: B rows, P rows of the pool, D width of a lookup.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspect.diagnosis.batch import Batch, concatenate
from recspect.diagnosis.lookups import undisturbed
from recspect.diagnosis.probes.attribution import Baseline, mean_baseline
from recspect.diagnosis.probes.swaps import codes_and_octaves
from recspect.diagnosis.sites import Part, check_same
from recspect.diagnosis.subject import TorchSubject


def alike_baseline(subject: TorchSubject, batch: Batch, pool: Batch) -> Baseline:
    """Every field at the mean, in embedding space, of the pool's other values that are as frequent as the row's own (within a factor of two), each as often as it occurs.

    Where no other value is as frequent, and for lists, vectors, real numbers and dense inputs, it is the mean of the pool, as in `mean_baseline`.

    Args:
        subject: The model.
        batch: B rows to explain.
        pool: Rows that show what is frequent, such as training rows.
    """
    mean = mean_baseline(subject, pool)
    sites = subject.sites(pool)
    with undisturbed(subject.model, naming=False) as stack, torch.no_grad():
        trace = subject.run(subject.encode(pool), stack)
    check_same(sites, trace)
    read = list(dict.fromkeys(part.field for site in sites.lookups for part in site.parts if part.field in batch and part.field in pool))
    both = concatenate([batch.select(read), pool.select(read)])
    frequency = {name: found for name in read if (found := codes_and_octaves(both[name], batch.rows)) is not None}
    lookups, per_row = list(mean.lookups), set()
    for place, (site, lookup) in enumerate(zip(sites.lookups, trace.lookups, strict=True)):
        value, start = lookup.output.detach(), mean.lookups[place]
        parts = [part for part in site.parts if part.field in frequency]
        if start is None or not parts or value.shape[0] != pool.rows or (value.dim() != 2 and site.parts[0].columns is None):
            continue
        own = start.expand(batch.rows, *value.shape[1:]).clone()
        for part in parts:
            _put(own, value, part, *frequency[part.field])
        lookups[place] = own
        per_row.add(place)
    return replace(mean, name="values of like frequency", lookups=tuple(lookups), per_row=frozenset(per_row))


def _put(own: Tensor, value: Tensor, part: Part, codes: NDArray[np.int64], octaves: NDArray[np.int64]) -> None:
    """Write the means of a field's other values of like frequency into `own`, shape [B, ...], where there are some."""
    rows = len(own)
    mine, theirs = torch.from_numpy(codes + 1), torch.from_numpy(octaves)  # a missing value is a value, too
    columns = [slice(None)] if part.columns is None else [np.s_[:, column] for column in part.columns]
    for column in columns:
        shown = value[column].double()
        by_code, by_octave = _sums(shown, mine[rows:], int(mine.max()) + 1), _sums(shown, theirs[rows:], int(theirs.max()) + 1)
        others = by_octave[1][theirs[:rows]] - by_code[1][mine[:rows]]
        some = others > 0.5
        centre = (by_octave[0][theirs[:rows]] - by_code[0][mine[:rows]]) / others.clamp_min(1).unsqueeze(1)
        target = own[column]
        target[some] = centre[some].to(own)


def _sums(values: Tensor, group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Sum of values, shape [P, D] to [G, D], and how many there are, shape [G]."""
    empty = values.new_zeros(groups, values.shape[1])
    return empty.index_add(0, group, values), torch.bincount(group, minlength=groups).double()


__all__ = ["alike_baseline"]
