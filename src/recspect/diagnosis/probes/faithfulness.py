"""Whether contributions of fields say what the model does: held against the model with fields moved, and against models with other weights.

Shapes: B rows, F fields, C draws. The checks take any explanation, ours or another's, as a matrix of contributions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.lookups import undisturbed
from recspect.diagnosis.probes.attribution import Attribution, Baseline, integrated_gradients, zero_baseline
from recspect.diagnosis.probes.field_points import FieldPoints
from recspect.diagnosis.ranks import rank_correlation
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import UsageError

Floats = NDArray[np.float64]
Explain = Callable[[TorchSubject, Batch], Floats]
"""A model and rows to contributions, shape [B, F]."""

_CHUNK_ROWS = 1024


def matrix(attribution: Attribution, fields: tuple[str, ...]) -> Floats:
    """Signed contributions, shape [B, F]; 0 for a field that has none."""
    rows = len(attribution.score)
    return np.stack([attribution.reliance[name].double().cpu().numpy() if name in attribution.reliance else np.zeros(rows) for name in fields], 1)


def infidelity(subject: TorchSubject, batch: Batch, contributions: Floats, *, baseline: Baseline | None = None, distance: float = 1.0, draws: int = 16,
               normalise: bool = False, seed: int = 0) -> Floats:
    """Mean squared difference between how far the score falls when some fields are moved towards their baseline, and how far the contributions say it does.

    Args:
        subject: The model.
        batch: The rows.
        contributions: Shape [B, F], fields in the order of `subject.sites().fields`.
        baseline: Where fields are moved to; default zero.
        distance: How far, as a share of the way: 1 takes fields out, a small number asks about the model near the row.
        draws: Sets of fields per row, each field in a set with a chance of one half. Where there are no more than so many sets, each is taken once.
        normalise: Multiply the contributions of each row by the one number that fits best: then only their proportions count.
        seed: Of the draws.

    Returns:
        Shape [B], in squared logits. 0: the contributions say exactly what happens.

    Raises:
        UsageError: Contributions of another shape, or a distance outside (0, 1].

    Source: Yeh et al. 2019, On the (In)fidelity and Sensitivity of Explanations; the normalised form is that of Captum.
    """
    _require_shape(contributions, batch, subject.sites(batch).fields)
    return moved_fields(subject, batch, baseline=baseline, distance=distance, draws=draws, seed=seed).infidelity(contributions, normalise=normalise)


@dataclass(frozen=True)
class MovedFields:
    """Sets of fields moved towards the baseline, and by how much the score fell: what several explanations of the same rows are held against.

    Args:
        moved: Shape [C, F].
        falls: Shape [C, B], logits.
        distance: How far they were moved, as a share of the way.
    """

    moved: NDArray[np.bool_]
    falls: Floats
    distance: float

    def infidelity(self, contributions: Floats, *, normalise: bool = False) -> Floats:
        """Mean squared difference between the falls and what contributions (shape [B, F], or [F] for all rows) say, shape [B]; see `infidelity`."""
        said = self.distance * self.moved.astype(np.float64) @ np.broadcast_to(contributions, (self.falls.shape[1], self.moved.shape[1])).T
        if normalise:
            size = np.square(said).sum(0)
            said = said * np.divide((said * self.falls).sum(0), size, out=np.zeros_like(size), where=size > 0)
        return np.asarray(np.square(said - self.falls).mean(0))

    def best_constant(self) -> Floats:
        """The one explanation for all rows that has the least infidelity on these, shape [F]: what can be said without looking at a row."""
        said = self.distance * self.moved.astype(np.float64)
        return np.asarray(np.linalg.lstsq(said, self.falls.mean(1), rcond=None)[0])


def moved_fields(subject: TorchSubject, batch: Batch, *, baseline: Baseline | None = None, distance: float = 1.0, draws: int = 16, seed: int = 0) -> MovedFields:
    """Move sets of fields towards the baseline; arguments as of `infidelity`.

    Raises:
        UsageError: A distance outside (0, 1].
    """
    if not 0 < distance <= 1:
        raise UsageError(f"distance is {distance}, expected above 0 and at most 1")
    moved = _sets(len(subject.sites(batch).fields), draws, seed)
    return MovedFields(moved, _falls(subject, batch, moved, distance, baseline), distance)


def measured_alone(subject: TorchSubject, batch: Batch, *, baseline: Baseline | None = None) -> tuple[Floats, Floats]:
    """What the score loses when a field alone is taken out, and what it gains when a field alone is put in, shapes [B, F] each, in logits.

    Their mean is the exact Shapley value of models without interactions of three fields or more; it needs the scores only, no gradient.
    """
    count = len(subject.sites(batch).fields)
    alone = np.eye(count, dtype=bool)
    falls = _falls(subject, batch, np.concatenate([alone, ~alone, np.ones((1, count), dtype=bool)]), 1.0, baseline)
    return falls[:count].T, (falls[-1] - falls[count:2 * count]).T


def insensitivity(subject: TorchSubject, batch: Batch, contributions: Floats, *, baseline: Baseline | None = None, tolerance: float = 1e-6) -> NDArray[np.int64]:
    """Fields whose contribution is nothing while the score changes with them, or something while it never does, per row, shape [B].

    A field changes the score when taking it out does, from the row itself or from the row with any one other field taken out.

    Args:
        subject: The model.
        batch: The rows.
        contributions: Shape [B, F].
        baseline: What a field that is taken out is; default zero.
        tolerance: What counts as nothing, in logits.

    Raises:
        UsageError: Contributions of another shape.

    Source: Nguyen and Martinez 2020, On Quantitative Aspects of Model Interpretability (non-sensitivity).
    """
    fields = subject.sites(batch).fields
    _require_shape(contributions, batch, fields)
    count = len(fields)
    out = np.unique(np.concatenate([np.zeros((1, count), dtype=bool), *(np.eye(count, dtype=bool) | np.eye(count, dtype=bool)[f] for f in range(count))]), axis=0)
    falls = _falls(subject, batch, out, 1.0, baseline)
    place = {tuple(row): k for k, row in enumerate(out.tolist())}
    matters = np.zeros((batch.rows, count), dtype=bool)
    for f in range(count):
        for row, k in place.items():
            with_f = tuple(value or g == f for g, value in enumerate(row))
            if not row[f] and with_f in place:
                matters[:, f] |= np.abs(falls[place[with_f]] - falls[k]) > tolerance
    return np.asarray((matters != (np.abs(contributions) > tolerance)).sum(1))


@dataclass(frozen=True, kw_only=True)
class Randomised:
    """How alike explanations stay while the model's weights are replaced from the output down.

    Args:
        layers: Modules with weights, output side first; after each, it and all before it hold random weights.
        correlation: Spearman correlation of the sizes of contributions over all rows and fields with those of the trained model, after each.
    """

    layers: tuple[str, ...]
    correlation: tuple[float, ...]

    @property
    def depends_on_weights(self) -> bool:
        """Whether the explanation of the wholly random model is another one: correlation below 0.5."""
        return self.correlation[-1] < 0.5


def parameter_randomisation(subject: TorchSubject, batch: Batch, *, baseline: Baseline | None = None, explain: Explain | None = None, seed: int = 0) -> Randomised:
    """Replace weights by random ones of the same mean and deviation, from the output down, and see whether the explanation notices.

    An explanation that stays the same explains the inputs, not the model.

    Args:
        subject: The trained model; not changed.
        batch: The rows.
        baseline: Of the default explanation.
        explain: (subject, batch) to contributions, shape [B, F]; default integrated gradients.
        seed: Of the random weights.

    Raises:
        UsageError: No module has weights, or all contributions are equal.

    Source: Adebayo et al. 2018, Sanity Checks for Saliency Maps.
    """
    def by_default(asked: TorchSubject, rows: Batch) -> Floats:
        return matrix(integrated_gradients(asked, rows, baseline=baseline), asked.sites(rows).fields)

    explain = explain or by_default
    trained = np.abs(explain(subject, batch)).ravel()
    model = copy.deepcopy(subject.model)
    generator = torch.Generator().manual_seed(seed)
    layers = [(name, own) for name, module in model.named_modules() if (own := [w for w in module.parameters(recurse=False) if w.is_floating_point()])]
    if not layers:
        raise UsageError("the model has no weights that could be replaced")
    correlations = []
    for _, weights in reversed(layers):
        for weight in weights:
            _redraw(weight, generator)
        correlations.append(_alike(trained, np.abs(explain(subject.with_model(model), batch)).ravel()))
    return Randomised(layers=tuple(name for name, _ in reversed(layers)), correlation=tuple(correlations))


def randomised(model: torch.nn.Module, *, seed: int = 0) -> torch.nn.Module:
    """The model, with all weights replaced by random ones of the same mean and deviation; give a copy."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.is_floating_point():
            _redraw(weight, generator)
    return model


# ---------------------------------------------------------------------- details


def _redraw(weight: torch.Tensor, generator: torch.Generator) -> None:
    with torch.no_grad():
        deviation = float(weight.std()) if weight.numel() > 1 else float(weight.abs().sum())
        weight.copy_(torch.randn(weight.shape, generator=generator) * deviation + float(weight.mean()))


def _sets(fields: int, draws: int, seed: int) -> NDArray[np.bool_]:
    """Sets of fields, shape [C, F], none of them empty."""
    if 2**fields - 1 <= draws:
        return (np.arange(1, 2**fields)[:, None] >> np.arange(fields) & 1).astype(bool)
    sets = np.random.default_rng(seed).random((draws, fields)) < 0.5
    sets[~sets.any(1), 0] = True
    return sets


def _falls(subject: TorchSubject, batch: Batch, moved: NDArray[np.bool_], distance: float, baseline: Baseline | None) -> Floats:
    """By how much the score falls when each set of fields is moved towards the baseline, shape [C, B]."""
    start = baseline or zero_baseline(subject.sites(batch))
    points = torch.from_numpy(1.0 - distance * moved)
    found = []
    with undisturbed(subject.model, naming=False) as stack:
        for _, chunk in FieldPoints.chunks(subject, stack, batch, start, rows=_CHUNK_ROWS):
            found.append((chunk.score.double() - chunk.values(points).double()).cpu().numpy())
    return np.concatenate(found, 1) if found else np.zeros((len(moved), 0))


def _require_shape(contributions: Floats, batch: Batch, fields: tuple[str, ...]) -> None:
    if contributions.shape != (batch.rows, len(fields)):
        raise UsageError(f"contributions have shape {contributions.shape}, expected one row per row and one column per field: {(batch.rows, len(fields))}",
                         hint=f"fields, in order: {', '.join(fields)}")


def _alike(left: Floats, right: Floats) -> float:
    found = rank_correlation(left, right)
    if np.isnan(found):
        raise UsageError("all contributions are equal, so they have no order", hint="give rows that differ from the baseline")
    return found
