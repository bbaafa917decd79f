"""How much of the score two fields make only together: a pairwise share of integrated gradients.

Shapes: B rows, F fields, J fields whose pairs are resolved, t a place of the path from the baseline (0) to the row (1).

With g_i(t) the slope along field i and H_ij(t) the change of it along field j, both on the straight path, Taylor's formula with its remainder as an integral gives

    pair (i, j) = integral of (1 - t) H_ij(t) dt,    alone i = g_i(0),    alone i + sum over j of pair (i, j) = integrated gradient of field i.

The sum over j includes i itself (curvature of one field), which is added to `alone`. So a factorisation machine is told exactly: pair (i, j) + pair (j, i) is
<e_i, e_j> from a baseline of zeros, and nothing is left to the fields alone. Integrated Hessians weigh H by -t ln t instead and leave half of every product to the fields alone;
they keep the same sums and can be had too.

Two ways give H. Where the model is smooth, one more backward pass per field and Gauss-Legendre node: exact for FM, dot and cross parts, whose H are polynomials.
Where it has kinks, H is 0 nearly everywhere and all is in the jumps: fields go up the path in turns, step by step, and what a field's turn changes in the slopes of the others is
summed. The sum over pairs is then the integrated gradient at the same points, by construction.

Sources: Janizek, Sturmfels and Lee 2021, "Explaining Explanations: Axiomatic Feature Interactions for Deep Networks" (integrated Hessians).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspect.diagnosis.batch import Batch, Column
from recspect.diagnosis.lookups import PIECEWISE_LINEAR, undisturbed
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.probes.attribution import Baseline, path_rule, zero_baseline
from recspect.diagnosis.probes.field_points import FieldPoints
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import UsageError, listing

Route = Literal["auto", "curvature", "steps"]
Weighing = Literal["remainder", "integrated_hessians"]

REST = "(other fields)"
"""The fields whose pairs are not resolved, taken together."""

_CHUNK_ROWS = 512
_INCOMPLETE = 0.02
"""Share of the score's difference that pairs may miss before kinks are suspected."""


@dataclass(frozen=True)
class FieldInteractions:
    """Pairwise contributions per row, in logits.

    Args:
        fields: Names; the last is `REST` where not all pairs are resolved.
        pairs: Shape [J, J, B]: entry (i, j) is field i's part of what i and j make together; the diagonal is what field i makes alone. Symmetric up to
            quadrature. The sum over j is field i's integrated gradient.
        score, baseline: Logit at the row and at the baseline, shape [B].
        route: How it was had.
    """

    fields: tuple[str, ...]
    pairs: NDArray[np.float64]
    score: NDArray[np.float64]
    baseline: NDArray[np.float64]
    route: str

    @property
    def attribution(self) -> NDArray[np.float64]:
        """Integrated gradient of each field at the same points, shape [J, B]."""
        found: NDArray[np.float64] = self.pairs.sum(1)
        return found

    @property
    def error(self) -> NDArray[np.float64]:
        """|sum of everything - (score - baseline)| per row, shape [B]."""
        found: NDArray[np.float64] = np.abs(self.pairs.sum((0, 1)) - (self.score - self.baseline))
        return found

    def between(self, first: str, second: str) -> NDArray[np.float64]:
        """What two fields make together, shape [B]; the same field twice: what it makes alone."""
        i, j = self.fields.index(first), self.fields.index(second)
        found: NDArray[np.float64] = self.pairs[i, j] if i == j else self.pairs[i, j] + self.pairs[j, i]
        return found


def field_interactions(subject: TorchSubject, batch: Batch, *, baseline: Baseline | None = None, fields: Sequence[str] | None = None, steps: int = 8,
                       route: Route = "auto", weighing: Weighing = "remainder") -> FieldInteractions:
    """What every pair of fields makes together, for every row.

    Costs per row and step one forward and backward pass, and as many again as there are fields to resolve.

    Args:
        subject: The model.
        batch: The rows.
        baseline: Where the path begins; default zero.
        fields: Fields whose pairs are resolved, the others being taken together; default all.
        steps: Nodes, or steps up the path.
        route: `curvature` for smooth models, `steps` for those with kinks; `auto` tells by the model's activations and by what the pairs add up to.
        weighing: `remainder` gives products wholly to their pairs; `integrated_hessians` is for smooth models.

    Raises:
        UsageError: A field that the model does not have, or integrated Hessians of a model with kinks.
        SubjectError: Lookups cannot be told.
    """
    sites = subject.sites(batch)
    baseline = baseline or zero_baseline(sites)
    chosen = tuple(sites.fields if fields is None else fields)
    wrong = [name for name in chosen if name not in sites.fields]
    if wrong:
        raise UsageError(f"no field {listing(wrong)}; fields: {listing(sites.fields)}")
    kinked = bool(PIECEWISE_LINEAR.intersection(sites.functions))
    if weighing == "integrated_hessians" and (kinked or route == "steps"):
        raise UsageError("integrated Hessians need a smooth model: the second derivatives of this one are 0 wherever they exist",
                         hint="weighing='remainder' takes the jumps of first derivatives into account")
    way = ("steps" if kinked else "curvature") if route == "auto" else route
    parts: list[FieldInteractions] = []
    with undisturbed(subject.model, naming=False) as stack:
        for _, chunk in FieldPoints.chunks(subject, stack, batch, baseline, rows=_CHUNK_ROWS):
            found = _by_curvature(chunk, chosen, steps, weighing) if way == "curvature" else _by_steps(chunk, chosen, steps)
            if route == "auto" and way == "curvature" and weighing == "remainder" and found.error.sum() > _INCOMPLETE * np.abs(found.score - found.baseline).sum():
                way = "steps"  # a kink that no activation function told of
                found = _by_steps(chunk, chosen, steps)
            parts.append(found)
    names = (*chosen, *((REST,) if set(chosen) != set(sites.fields) else ()))
    if not parts:
        return FieldInteractions(names, np.zeros((len(names), len(names), 0)), np.zeros(0), np.zeros(0), way)
    return FieldInteractions(names, np.concatenate([part.pairs for part in parts], 2), np.concatenate([part.score for part in parts]),
                             np.concatenate([part.baseline for part in parts]), " and ".join(sorted({part.route for part in parts})))


def _by_curvature(chunk: FieldPoints, chosen: Sequence[str], steps: int, weighing: Weighing) -> FieldInteractions:
    """Second derivatives at Gauss-Legendre nodes."""
    count = len(chunk.fields)
    numbers = [chunk.fields.index(name) for name in chosen]
    nodes, weights = path_rule("gauss_legendre", steps)
    if weighing == "integrated_hessians":  # t = s^3 makes the logarithm at 0 harmless
        nodes, weights = nodes**3, weights * 3 * nodes**2
    total = torch.zeros(chunk.rows, count, len(numbers), dtype=torch.float64)
    alone = torch.zeros(chunk.rows, count, dtype=torch.float64)
    whole = torch.zeros_like(alone)
    for t, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        slopes, second = chunk.curvature(torch.full((count,), t, dtype=torch.float64), numbers)
        own = weight * (1 - t) if weighing == "remainder" else -weight * t * np.log(t)
        total += own * second.double().cpu()
        whole += weight * slopes.double().cpu()
        if weighing == "integrated_hessians":
            alone -= weight * np.log(t) * slopes.double().cpu()
    if weighing == "remainder":
        alone = chunk.slopes(torch.zeros(1, count, dtype=torch.float64))[0].double().cpu()
    pairs = _arranged(total, alone, whole, numbers, count)
    return _found(chunk, chosen, pairs, "curvature")


def _by_steps(chunk: FieldPoints, chosen: Sequence[str], steps: int) -> FieldInteractions:
    """Fields go up the path in turns, from step to step in changing order; a turn's changes of all slopes belong to its field."""
    count = len(chunk.fields)
    numbers = [chunk.fields.index(name) for name in chosen]
    others = [f for f in range(count) if f not in numbers]
    turns = [[f] for f in numbers] + ([others] if others else [])
    total = torch.zeros(chunk.rows, count, len(turns), dtype=torch.float64)
    here = torch.zeros(count, dtype=torch.float64)
    before = alone = chunk.slopes(here.unsqueeze(0))[0].double().cpu()
    for step in range(steps):
        order = range(len(turns)) if step % 2 == 0 else range(len(turns) - 1, -1, -1)
        points = []
        for turn in order:
            here = here.clone()
            here[turns[turn]] = (step + 1) / steps
            points.append(here)
        slopes = chunk.slopes(torch.stack(points)).double().cpu()
        weight = 1 - (step + 0.5) / steps
        for k, turn in enumerate(order):
            total[:, :, turn] += weight * (slopes[k] - before)
            before = slopes[k]
    pairs = _with_rest(total, alone, numbers, others)
    return _found(chunk, chosen, pairs, "steps")


def _arranged(total: Tensor, alone: Tensor, whole: Tensor, numbers: Sequence[int], count: int) -> Tensor:
    """With a column of what is left of each field's integrated gradient, where not all pairs were resolved."""
    others = [f for f in range(count) if f not in numbers]
    if others:
        total = torch.cat([total, (whole - alone - total.sum(2)).unsqueeze(2)], 2)
    return _with_rest(total, alone, numbers, others)


def _with_rest(total: Tensor, alone: Tensor, numbers: Sequence[int], others: Sequence[int]) -> Tensor:
    """[B, F, J] by field of the slope and of the turn to [B, J, J], the other fields added together, `alone` on the diagonal."""
    rows = [total[:, f] for f in numbers] + ([total[:, list(others)].sum(1)] if others else [])
    own = [alone[:, f] for f in numbers] + ([alone[:, list(others)].sum(1)] if others else [])
    pairs = torch.stack(rows, 1)
    for k, value in enumerate(own):
        pairs[:, k, k] += value
    return pairs


def _found(chunk: FieldPoints, chosen: Sequence[str], pairs: Tensor, route: str) -> FieldInteractions:
    names = (*chosen, *((REST,) if pairs.shape[1] > len(chosen) else ()))
    begin = chunk.values(torch.zeros(1, len(chunk.fields), dtype=torch.float64))[0]
    return FieldInteractions(names, pairs.permute(1, 2, 0).numpy(), chunk.score.double().cpu().numpy(), begin.double().cpu().numpy(), route)


class InteractionProbe(Probe):
    """Adds, for every two resolved fields, `@interaction:i:j` (signed, logits) and `@interaction_size:i:j`; i = j is what the field makes alone. And `@interaction_error`.

    Args:
        subject: The model.
        baseline, fields, steps: See `field_interactions`.
    """

    def __init__(self, subject: TorchSubject, *, baseline: Baseline, fields: Sequence[str], steps: int = 8) -> None:
        self.subject, self.baseline, self.fields, self.steps = subject, baseline, tuple(fields), steps
        self.names = (*self.fields, *((REST,) if set(self.fields) != set(subject.sites().fields) else ()))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every two fields once, and every field with itself."""
        return tuple((first, second) for k, first in enumerate(self.names) for second in self.names[k:])

    @property
    def adds(self) -> tuple[str, ...]:
        return (*(f"@{kind}:{first}:{second}" for first, second in self.pairs for kind in ("interaction", "interaction_size")), "@interaction_error")

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        found = field_interactions(self.subject, batch, baseline=self.baseline, fields=self.fields, steps=self.steps)
        columns: dict[str, Column] = {"@interaction_error": found.error}
        for first, second in self.pairs:
            value = found.between(first, second)
            columns[f"@interaction:{first}:{second}"], columns[f"@interaction_size:{first}:{second}"] = value, np.abs(value)
        return columns
