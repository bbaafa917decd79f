"""The Jacobian of a user vector along a path, integrated: as many derivatives as the vector has entries, batched over one forward pass.

Shapes: B users, n nodes, K directions in which the user vector is read, P columns.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspect.diagnosis.lookups import require_gradient
from recspect.diagnosis.probes.attribution.kinks import AveragedKinks, Cells
from recspect.diagnosis.probes.attribution.points import Recording
from recspect.diagnosis.probes.attribution.quadrature import edges
from recspect.diagnosis.probes.attribution.readout import ReadOut, plain_kernels

DERIVATIVE_BYTES = 64 * 2**20
"""What derivatives in several directions may hold at a time, by the layout's count: beyond, memory that is no longer in the cache costs more than calls do."""

Rule = tuple[NDArray[np.float64], NDArray[np.float64]]
Rest = tuple[Tensor, Tensor]
"""Vector [d] and offset of the candidate that the recording holds: score - vector . u - offset is the part of the user alone."""


def user_vectors(recording: Recording, read_out: ReadOut, at: float, *, rest: Rest | None) -> Tensor:
    """At one point of the path, shape [B, d], or [B, d + 1] with the part of the user alone; one forward pass."""
    rows = slice(0, recording.rows)
    with torch.no_grad():
        moved, dense = recording.moved(np.array([at]), rows)
        return _extended(recording.forward(1, rows, moved, dense), read_out, rest)


def integrated_jacobian(recording: Recording, read_out: ReadOut, directions: Tensor, users: NDArray[np.int64], *, rest: Rest | None, rule: Rule,
                        kinked: bool, budget_bytes: float) -> Tensor:
    """Integral along the path of direction . d(user vector)/dx times delta x, float64, shape [users, K, P].

    Args:
        recording: The users, with any one candidate.
        read_out: Where the user vector is.
        directions: Shape [K, d] or, with `rest`, [K, d + 1].
        users: Which of the recording's rows.
        rest: See `Rest`; None leaves it out.
        rule: Nodes and weights.
        kinked: Whether to average kinks over the nodes' cells.
        budget_bytes: What derivatives may hold at a time; a single user may exceed it.
    """
    nodes, weights = rule
    if not recording.layout.repeatable and len(users) < recording.rows:  # inputs that are encoded again: all rows or none
        whole = integrated_jacobian(recording, read_out, directions, np.arange(recording.rows), rest=rest, rule=rule, kinked=kinked,
                                    budget_bytes=budget_bytes)
        return whole[torch.from_numpy(users)]
    cells = Cells(nodes, edges(weights)) if kinked and len(nodes) > 1 else None
    together = max(1, int(budget_bytes // (recording.layout.point_bytes * len(directions) * len(nodes))))
    parts = [_jacobian(recording, read_out, directions, torch.from_numpy(users[start:start + together]), rest, rule, cells)
             for start in range(0, len(users), together if recording.layout.repeatable else len(users))]
    return torch.cat(parts)


def _jacobian(recording: Recording, read_out: ReadOut, directions: Tensor, users: Tensor, rest: Rest | None, rule: Rule, cells: Cells | None) -> Tensor:
    nodes, weights = rule
    n, b, k = len(nodes), len(users), len(directions)
    rows: slice | Tensor = slice(0, b) if b == recording.rows else users
    moved, dense = recording.moved(nodes, rows)
    leaves = [*moved, *dense.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    with torch.enable_grad(), plain_kernels():
        if cells is None:
            score = recording.forward(n, rows, moved, dense)
        else:
            with AveragedKinks(cells, n * b):
                score = recording.forward(n, rows, moved, dense)
        out = _extended(score, read_out, rest)
        require_gradient(out, of="the user vector")
        gradients = _derivatives(out, leaves, directions, max(1, DERIVATIVE_BYTES // (recording.layout.point_bytes * n * b)))
    weight = torch.as_tensor(weights)
    parts = []
    for group, gradient in zip(recording.groups, gradients, strict=False):
        delta = group.delta[:, rows]
        count = len(delta)
        width = delta[0, 0].numel() // delta.shape[-1]
        if gradient is None:
            parts.append(torch.zeros(b, k, count * width, dtype=torch.float64))
            continue
        product = torch.linalg.vecdot(gradient, delta.unsqueeze(1)).reshape(k, count, n, b, width)
        parts.append(torch.einsum("n,kcnbw->bkcw", weight, product.double().cpu()).flatten(2))
    for (_, delta), gradient in zip(recording.dense.values(), gradients[len(recording.groups):], strict=True):
        mine = delta[rows]
        if gradient is None:
            parts.append(torch.zeros(b, k, 1, dtype=torch.float64))
            continue
        product = (gradient.reshape(k, n, *mine.shape) * mine).reshape(k, n, b, -1).sum(3)
        parts.append(torch.einsum("n,knb->bk", weight, product.double().cpu()).unsqueeze(2))
    return torch.cat(parts, 2)


def _extended(score: Tensor, read_out: ReadOut, rest: Rest | None) -> Tensor:
    u = read_out.take()
    return u if rest is None else torch.cat([u, (score - u @ rest[0] - rest[1]).unsqueeze(1)], 1)


def _derivatives(out: Tensor, leaves: list[Tensor], directions: Tensor, together: int) -> tuple[Tensor | None, ...]:
    """Of out . direction by each leaf, shape [K, ...]; None where there is none. Batched, so many at a time, or one by one where an operation cannot be."""
    each = directions.to(out).unsqueeze(1).expand(-1, *out.shape)

    def one_by_one() -> list[tuple[Tensor | None, ...]]:
        found = [torch.autograd.grad(out, leaves, one, allow_unused=True, retain_graph=True) for one in each]
        return [tuple(None if value is None else value.unsqueeze(0) for value in values) for values in found]

    if together == 1:
        parts = one_by_one()
    else:
        try:
            parts = [torch.autograd.grad(out, leaves, some, is_grads_batched=True, allow_unused=True, retain_graph=True) for some in each.split(together)]
        except RuntimeError:
            parts = one_by_one()
    return tuple(None if values[0] is None else torch.cat(values) for values in zip(*parts, strict=True))  # type: ignore[arg-type]
