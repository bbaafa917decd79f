"""Explanations of the same rows by several explainers: ours, and those that every measure of quality is tried on.

Shapes: B rows, F fields. An explainer takes a model and rows and gives contributions, shape [B, F], in logits.

- `ours`: integrated gradients from the mean of the rows, as in every report.
- `alike`: the same from values of like frequency, which is what an exchange for such values asks about.
- `measured`: what taking a field out costs and putting it in alone brings, half of each. Needs scores only, so it shares no fault with gradients.
- `gradient_x_input`: one gradient, no path.
- `random`: random numbers of the size of ours. Knows nothing.
- `constant`: the one explanation for all rows that fits best. Knows nothing of the row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.alike import alike_baseline
from recspect.diagnosis.probes.attribution import (
    gradient_times_input,
    integrated_gradients,
    mean_baseline,
)
from recspect.diagnosis.probes.faithfulness import Explain, matrix
from recspect.diagnosis.subject import TorchSubject

Floats = NDArray[np.float64]


def path_explainer(pool: Batch, *, steps: int | None = 8) -> Explain:
    """Integrated gradients from the mean of a pool of rows, which is taken anew for each model."""
    return lambda subject, rows: matrix(integrated_gradients(subject, rows, baseline=mean_baseline(subject, pool), steps=steps), subject.sites(rows).fields)


def alike_explainer(pool: Batch, *, steps: int | None = 8) -> Explain:
    """Integrated gradients from the mean of values of like frequency (see `alike_baseline`)."""
    return lambda subject, rows: matrix(integrated_gradients(subject, rows, baseline=alike_baseline(subject, rows, pool), steps=steps), subject.sites(rows).fields)


def gradient_explainer() -> Explain:
    """Gradient x input."""
    return lambda subject, rows: matrix(gradient_times_input(subject, rows), subject.sites(rows).fields)


def random_contributions(like: Floats, seed: int) -> Floats:
    """Normal random numbers of the root mean square of others, shape [B, F]."""
    return np.asarray(np.random.default_rng(seed).normal(size=like.shape) * np.sqrt(np.square(like).mean() if like.size else 0.0))


def shuffled_over_fields(explain: Explain, seed: int = 0) -> Explain:
    """A fault: each row's contributions, dealt out to its fields anew."""
    def dealt(subject: TorchSubject, rows: Batch) -> Floats:
        return np.random.default_rng(seed).permuted(explain(subject, rows), axis=1)
    return dealt


def of_another_model(explain: Explain, other: TorchSubject) -> Explain:
    """A fault: the explanation of another model, whatever model is asked about."""
    return lambda _, rows: explain(other, rows)


def cosine(left: Floats, right: Floats) -> Floats:
    """Cosine between two explanations of each row, shape [B], -1 to 1: 1 the same proportions, 0 nothing in common; NaN where one is nothing."""
    size = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray(np.divide((left * right).sum(1), size, out=np.full(len(left), np.nan), where=size > 0))


def fields_needed(contributions: Floats, share: float = 0.8) -> Floats:
    """How many fields, the largest first, hold a share of the summed sizes of a row's contributions, shape [B]; NaN where all are 0."""
    sizes = -np.sort(-np.abs(contributions), axis=1)
    total = sizes.sum(1, keepdims=True)
    found = (np.cumsum(sizes, 1) < share * total - 1e-12).sum(1) + 1.0
    return np.where(total[:, 0] > 0, found, np.nan)


def effective_fields(contributions: Floats) -> Floats:
    """exp(entropy) of the shares of a row's contributions, shape [B]: 1 where one field says all, F where all say as much; NaN where all are 0."""
    sizes = np.abs(contributions)
    total = sizes.sum(1, keepdims=True)
    shares = np.divide(sizes, total, out=np.zeros_like(sizes), where=total > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.where(total[:, 0] > 0, np.exp(-(shares * logs).sum(1)), np.nan)


__all__ = ["alike_explainer", "cosine", "effective_fields", "fields_needed", "gradient_explainer", "of_another_model", "path_explainer",
           "random_contributions", "shuffled_over_fields"]
