"""Where the path begins. No path exists between ids, so a baseline says what every lookup gives there.

A baseline is a fixed value per lookup (zero, mean), or another row per row (an unknown id, another item, a row drawn at random), whose lookups are recorded
like the row's own. What is no lookup and no dense input (masks, lengths of lists) stays the row's own along the whole path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.sites import Sites, check_same, input_tensors
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError, UsageError, listing


@dataclass(frozen=True)
class Baseline:
    """Where the path begins.

    Args:
        name: `zero`, `mean`, `unknown`, `other item`, `sampled rows`, ...
        lookups: Per lookup, None for zero, else the output, shape [D], [L, D] or [F, D]; empty where `rows` or `ids` say it.
        dense: Per dense input, the value, shape [] or [W].
        rows: For every row to explain, the row at the baseline; None for the other kinds.
        ids: Per field, the id at the baseline (padding id 0 inside lists stays); empty for the other kinds.
        per_row: Places among `lookups` whose values begin with the rows to explain, shape [B, ...].
    """

    name: str
    lookups: tuple[Tensor | None, ...]
    dense: Mapping[str, Tensor]
    rows: Batch | None = None
    ids: Mapping[str, int] = field(default_factory=dict)
    per_row: frozenset[int] = frozenset()

    @property
    def is_fixed(self) -> bool:
        """Whether it is given as values of lookups, and not as rows or ids."""
        return self.rows is None and not self.ids

    def take(self, rows: slice | NDArray[np.int64]) -> Baseline:
        """The part for some of the rows to explain."""
        if self.rows is not None:
            return replace(self, rows=self.rows.take(rows))
        if not self.per_row:
            return self
        return replace(self, lookups=tuple(value[rows] if place in self.per_row and value is not None else value for place, value in enumerate(self.lookups)))

    def inputs(self, subject: TorchSubject, own: Any) -> Any:
        """The model's inputs at the baseline, for baselines that are other rows; `own` are those of the rows to explain.

        Raises:
            SubjectError: Ids cannot be replaced in inputs of this form.
        """
        if self.rows is not None:
            return subject.encode(self.rows)
        if not isinstance(own, dict):
            raise SubjectError(f"ids inside a {type(own).__name__} cannot be replaced", hint="let encode(batch) return a dict, or use baseline rows")
        replaced = dict(own)
        for name, unknown in self.ids.items():
            ids = own[name]
            replaced[name] = torch.full_like(ids, unknown) if ids.dim() == 1 else torch.where(ids == 0, ids, torch.full_like(ids, unknown))
        return {**replaced, **{name: self.dense[name].to(own[name]).expand_as(own[name]) for name in self.dense if name in own}}


def zero_baseline(sites: Sites) -> Baseline:
    """All lookups and dense inputs at 0."""
    return Baseline("zero", (None,) * len(sites.lookups), dict.fromkeys(sites.dense, torch.zeros(())))


def mean_baseline(subject: TorchSubject, sample: Batch) -> Baseline:
    """Every field at its mean over a sample of rows (each id counts as often as it occurs; padding id 0 of lists is left out).

    A field that never changes gets 0: the mean is the absence of information.
    """
    sites = subject.sites(sample)
    inputs = subject.encode(sample)
    with subject.undisturbed() as stack, torch.no_grad():
        trace = subject.run(inputs, stack)
    check_same(sites, trace)
    means: list[Tensor | None] = []
    for site, lookup in zip(sites.lookups, trace.lookups, strict=True):
        output = lookup.output.detach()
        if not site.parts:
            means.append(None)
        elif output.dim() == 3 and site.parts[0].columns is None:
            entries = output.reshape(-1, output.shape[-1])
            inside = (lookup.ids.reshape(-1) != 0) if lookup.ids.numel() == entries.shape[0] else slice(None)
            chosen = entries[inside]
            means.append(chosen.mean(0) if len(chosen) else entries.mean(0))
        else:
            means.append(output.mean(0))
    tensors = input_tensors(inputs)
    dense = {name: torch.nan_to_num(tensors[name]).mean(0) for name in sites.dense}
    return Baseline("mean", tuple(means), dense)


def unknown_baseline(subject: TorchSubject, sample: Batch, ids: int | Mapping[str, int], *,
                     dense: Mapping[str, float | Sequence[float]] | None = None) -> Baseline:
    """Every field at what the model reads for a value that it does not know: "the feature is missing" in serving.

    Args:
        subject: The model.
        sample: Some rows, to find the fields.
        ids: The encoded id of unknown values, for all fields or by field (the built-in models: 1). Fields left out keep their value, so they get exactly 0.
        dense: Values of dense inputs, as the model takes them; default 0.

    Raises:
        UsageError: A field that no lookup reads.
    """
    sites = subject.sites(sample)
    read = {part.field for site in sites.lookups for part in site.parts}
    by_field = dict.fromkeys(sorted(read), ids) if isinstance(ids, int) else dict(ids)
    wrong = [name for name in by_field if name not in read]
    if wrong:
        raise UsageError(f"no lookup reads {listing(wrong)}; fields with lookups: {listing(sorted(read))}")
    given = dense or {}
    values = {name: torch.as_tensor(given.get(name, 0.0), dtype=torch.float32) for name in sites.dense}
    return Baseline("unknown", (), values, ids=by_field)


def other_rows(batch: Batch, other: Batch, fields: Sequence[str]) -> Baseline:
    """A counterfactual: the same row with some fields of another one, such as another item for the same user.

    Args:
        batch: The rows to explain.
        other: One row, or as many as the batch.
        fields: Which columns to take from it; all the others keep their value, so they get exactly 0.

    Raises:
        UsageError: Another number of rows.
    """
    if other.rows not in (1, batch.rows):
        raise UsageError(f"expected 1 or {batch.rows} baseline rows, found {other.rows}")
    aligned = other if other.rows == batch.rows else other.take(np.zeros(batch.rows, dtype=np.int64))
    return Baseline("other rows", (), {}, rows=batch.with_columns({name: aligned[name] for name in fields}))


def sampled_rows(batch: Batch, sample: Batch, *, seed: int) -> Baseline:
    """A row drawn at random from a sample for every row: one draw of expected gradients.

    Source: Erion et al. 2021, "Improving performance of deep learning models with axiomatic attribution priors and expected gradients".
    """
    if not sample.rows:
        raise UsageError("there is no row to draw baselines from")
    drawn = np.random.default_rng(seed).integers(0, sample.rows, batch.rows)
    return Baseline("sampled rows", (), {}, rows=sample.take(drawn))
