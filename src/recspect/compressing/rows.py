"""A model with fewer rows in its tables: ids whose rows hardly move a score read the row of rare ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspect.compressing.fitted import ROWS, Fitted, codes_of, mean_rows, rebuilt, segments, tables
from recspect.diagnosis.batch import Batch
from recspect.errors import UsageError, listing
from recspect.features import FeatureTransform
from recspect.features.encoded import FIRST_KNOWN, RARE
from recspect.features.vocabulary import Vocabulary

Floats = NDArray[np.float64]
SMALLEST = 50
"""Fields of fewer known values keep all: there is next to nothing to save."""


def prunable(fitted: Fitted) -> dict[str, Vocabulary]:
    """Fields that own a vocabulary of at least 50 known values whose ids have rows of their own."""
    divided = {name for vectors in tables(fitted.model).values() for name in vectors.divided}
    return {name: codes for name, codes in codes_of(fitted.transform).items()
            if isinstance(codes, Vocabulary) and codes.known >= SMALLEST and name not in divided}


def usefulness(fitted: Fitted, rows: Batch) -> dict[str, Floats]:
    """Per prunable field, how much each of its known ids moves the score: sum over rows of (dz)^2, shape (known ids,), 0 for ids that these rows lack.

    dz, in logits (or the label's unit), is how far the score would go if the id's vectors were the field's mean: <gradient, mean - vector>, to first order, over all
    tables that the field reads. Ids of lists count per entry. The rows are usually those of training: a row that none of them reads is worth nothing.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019 (first-order Taylor).
    """
    subject = fitted.subject()
    sites = subject.sites(rows)
    model_tables = tables(fitted.model)
    wanted = prunable(fitted)
    found = {name: np.zeros(codes.rows) for name, codes in wanted.items()}
    means = {name: mean_rows(vectors, fitted.transform) for name, vectors in model_tables.items()}
    for piece in rows.pieces(ROWS):
        inputs = subject.encode(piece)
        with subject.undisturbed() as stack:
            with torch.no_grad():
                trace = subject.run(inputs, stack)
            leaves = [lookup.output.detach().requires_grad_() for lookup in trace.lookups]
            with torch.enable_grad():
                out = subject.run(inputs, stack, replay=leaves).additive
                gradients = torch.autograd.grad(out.sum(), leaves, allow_unused=True)
        moved: dict[tuple[str, int, int], tuple[str, Tensor, Tensor]] = {}
        seen: dict[str, int] = {}
        for site, lookup, leaf, gradient in zip(sites.lookups, trace.lookups, leaves, gradients, strict=True):
            place = seen.get(lookup.table, 0)
            seen[lookup.table] = place + 1
            module = lookup.table.removesuffix(".weight").removesuffix(".table")
            if gradient is None or module not in model_tables:
                continue
            vectors = model_tables[module]
            starts = {name: start for name, start, _ in segments(vectors)}
            for part in site.parts:
                owner = vectors.owners[part.field]
                for column in part.columns if part.columns is not None else (-1,):
                    at = (slice(None), column) if column >= 0 else (slice(None),)
                    step = ((means[module][owner] - leaf.detach()[at]) * gradient[at]).sum(dim=-1)
                    ids = lookup.ids[at] - starts[owner]
                    key = (part.field, place, column)
                    moved[key] = (owner, ids, moved[key][2] + step if key in moved else step)
        for owner, ids, step in moved.values():
            if owner in found:
                found[owner] += np.bincount(ids.reshape(-1).numpy(), weights=step.double().square().reshape(-1).numpy(), minlength=len(found[owner]))
    return {name: values[FIRST_KNOWN:] for name, values in found.items()}


def most_useful(values: Mapping[str, Floats], share: float) -> dict[str, NDArray[np.bool_]]:
    """Which ids stay where this share of all fields' ids stays, those of most usefulness; shape (known ids,) per field."""
    every = np.concatenate([*values.values(), np.zeros(0)])
    kept = np.zeros(len(every), dtype=bool)
    kept[np.argsort(-every, kind="stable")[: round(share * len(every))]] = True
    ends = np.cumsum([len(each) for each in values.values()])
    return dict(zip(values, np.split(kept, ends[:-1]) if len(ends) else [], strict=True))


def without_rows(fitted: Fitted, kept: Mapping[str, NDArray[np.bool_]]) -> Fitted:
    """The model with rows for the kept ids alone. The others read the field's row of rare ids, which becomes the mean of theirs, each by its count in training.

    An id that training never saw reads that row too from then on, as everywhere that ids are rare.

    Args:
        fitted: The model, with plain float32 weights.
        kept: Field that owns a vocabulary to which of its known ids stay, shape (known ids,).

    Raises:
        UsageError: A field without a vocabulary of its own, or whose ids have no row each.
    """
    able = prunable(fitted)
    wrong = sorted(name for name in kept if name not in able)
    if wrong:
        raise UsageError(f"rows of {listing(wrong)} cannot be taken away; of {listing(able)} they can", hint="leave these fields out")
    kept = {name: keep for name, keep in kept.items() if not keep.all()}
    rows: dict[str, Tensor] = {}
    codes: dict[str, Vocabulary] = {}
    for name, keep in kept.items():
        old = able[name]
        order = np.concatenate([np.flatnonzero(keep), np.flatnonzero(~keep), np.arange(old.known, len(old.values))])
        codes[name] = Vocabulary(old.values[order], old.counts[order], int(keep.sum()), old.field)
        rows[name] = torch.from_numpy(np.concatenate([np.arange(FIRST_KNOWN), FIRST_KNOWN + np.flatnonzero(keep)]))
    encoders = {name: replace(encoder, codes=codes[encoder.field.shares or name]) if (encoder.field.shares or name) in codes else encoder  # type: ignore[type-var,call-arg]
                for name, encoder in fitted.transform.encoders.items()}
    transform = FeatureTransform(fitted.transform.schema, encoders)
    model = rebuilt(fitted, transform, rows)
    with torch.no_grad():
        for module, vectors in tables(model).items():
            before = tables(fitted.model)[module]
            starts = {name: start for name, start, _ in segments(before)}
            for name, start, _ in segments(vectors):
                if name in kept:
                    counts = torch.from_numpy(able[name].row_counts()).float()
                    counts[FIRST_KNOWN:][torch.from_numpy(kept[name])] = 0
                    own = before.table.weight[starts[name]:starts[name] + len(counts)]
                    vectors.table.weight[start + RARE] = (counts.unsqueeze(1) * own).sum(dim=0) / counts.sum()
    return Fitted(model, transform)
