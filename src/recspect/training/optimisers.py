"""Optimisers for embedding tables, whose gradients are sparse, and clipping that knows about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator per table row instead of one per weight; touches only the rows that had a gradient.

    For a row w with gradient g (D numbers, plus `l2` * w): s += mean(g^2), w -= lr * g / (sqrt(s) + eps). State is 1/D of
    Adagrad's and 1/(2D) of Adam's. Takes sparse gradients only.

    Args:
        params: Embedding tables, shape (rows, D).
        lr: Step size; the first step of a row moves it by about so much per weight.
        eps: Keeps rows with tiny gradients from being divided by zero.
        l2: Weight of |w|^2 / 2, applied to a row when it is touched; 0 for none.

    Source: row-wise Adagrad of FBGEMM and TorchRec; Duchi, Hazan and Singer, "Adaptive Subgradient Methods", JMLR 2011.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 0.02, *, eps: float = 1e-8, l2: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "l2": l2})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                rows, gradient = touched(table.grad)
                if group["l2"]:
                    gradient = gradient + group["l2"] * table[rows]
                state = self.state[table]
                if not state:
                    state["squares"] = table.new_zeros(table.shape[0])
                squares = state["squares"][rows] + gradient.square().mean(dim=1)
                state["squares"][rows] = squares
                table.index_add_(0, rows, gradient / (squares.sqrt() + group["eps"]).unsqueeze(1), alpha=-group["lr"])
        return loss


def touched(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of a sparse gradient (n,) and their summed gradients (n, D)."""
    summed = gradient.coalesce()
    return summed.indices()[0], summed.values()


def clip_gradients(parameters: Iterable[Tensor], maximum_norm: float) -> Tensor:
    """Scale all gradients, dense and sparse together, so that their joint norm is at most `maximum_norm`.

    Returns:
        The norm before.
    """
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            # Rows looked up twice must be summed before their norm is taken.
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(value) for value in values]))
    scale = torch.clamp(maximum_norm / (total + 1e-12), max=1.0)
    for value in values:
        value.mul_(scale)
    return total
