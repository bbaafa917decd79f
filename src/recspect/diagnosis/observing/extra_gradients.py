"""What needs gradients of its own: the gradient noise scale, and the conflict between tasks.

They are taken by `torch.autograd.grad`, which fills no `.grad`: the training's own backward pass gives what it would have given.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

LARGEST_PARAMETER = 262_144
"""Parameters of more numbers are left out, and so are embedding tables: copies of their gradients would cost more than all the rest."""

FEWEST_ROWS = 16
MEMORY = 0.9
"""Weight of the past in the running means, per measurement."""


class NoiseScale:
    """B_simple = tr(Sigma) / |G|^2, in rows: the batch size from which on more rows bring little.

    Two halves of a batch, b rows each, give unbiased |G|^2 = g1 . g2 and tr(Sigma) = b |g1 - g2|^2 / 2 (these are the two-batch-size
    estimates for b and 2b rows). Both are averaged over measurements before they are divided.

    Source: McCandlish et al. 2018, An Empirical Model of Large-Batch Training, appendix A.1.
    """

    def __init__(self) -> None:
        self.square, self.variance, self.weight = 0.0, 0.0, 0.0

    def add(self, losses: Tensor, parameters: Sequence[Tensor]) -> dict[str, float]:
        """Measure one batch.

        Args:
            losses: Per row, shape (B,), with the graph behind it.
            parameters: Leaves of that graph.

        Returns:
            `batch_rows`, `gradient_square` and `gradient_variance` of this batch, and `noise_scale` from all so far (not where the mean of
            the squares is not above 0: the noise hides the gradient). Empty for fewer than 16 rows.
        """
        losses = losses.reshape(-1)
        rows = len(losses) // 2
        if 2 * rows < FEWEST_ROWS or not parameters or not losses.requires_grad:
            return {}
        halves = [_gradient(losses[k:2 * rows:2].mean(), parameters) for k in (0, 1)]
        return {"batch_rows": float(len(losses)), **self.fold(float(torch.dot(*halves)), rows * float((halves[0] - halves[1]).square().sum()) / 2)}

    def fold(self, square: float, variance: float) -> dict[str, float]:
        """Add one measurement to the running means."""
        self.square = MEMORY * self.square + (1 - MEMORY) * square
        self.variance = MEMORY * self.variance + (1 - MEMORY) * variance
        self.weight = MEMORY * self.weight + (1 - MEMORY)
        found = {"gradient_square": square, "gradient_variance": variance}
        if self.square > 0:
            found["noise_scale"] = self.variance / self.square
        return found


def task_conflict(losses: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> dict[str, float]:
    """Cosine between the gradients of every two tasks, by "one and other": below 0 one task undoes the other.

    Over the parameters that both losses reach. Source: Yu et al. 2020, Gradient Surgery for Multi-Task Learning.
    """
    gradients = {name: torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for name, loss in losses.items()}
    found = {}
    for one, other in combinations(gradients, 2):
        shared = [(a, b) for a, b in zip(gradients[one], gradients[other], strict=True) if a is not None and b is not None]
        if shared:
            a, b = (torch.cat([_flat(pair[k]) for pair in shared]) for k in (0, 1))
            size = float(a.norm() * b.norm())
            if size > 0:
                found[f"{one} and {other}"] = float(torch.dot(a, b)) / size
    return found


def copied(parameters: Mapping[str, Tensor], tables: Container[str]) -> list[Tensor]:
    """The parameters whose gradients may be copied: the network above the tables."""
    return [parameter for name, parameter in parameters.items()
            if parameter.requires_grad and name not in tables and parameter.numel() <= LARGEST_PARAMETER]


def _gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([torch.zeros(parameter.numel(), device=parameter.device) if part is None else
                      _flat(part) for part, parameter in zip(parts, parameters, strict=True)])


def _flat(gradient: Tensor) -> Tensor:
    return (gradient.to_dense() if gradient.is_sparse else gradient).reshape(-1).float()
