"""Derivatives of kinked activations, averaged over the stretch of the path that a node stands for.

Shapes: n nodes, B rows, H units.

Where a ReLU switches on somewhere along the path, a rule sees its derivative jump from 0 to 1 between two nodes, and no rule knows where: the error falls only
like 1/n. But the nodes' pre-activations tell where. Between neighbouring nodes a pre-activation is nearly a straight line (exactly one in the first layer), so the
share of a node's cell in which the unit is on is known, and that share is taken as the derivative. The error then comes from
units that bend another unit's line within one cell, and falls like 1/n². On one hidden layer the integral is exact.

Values are not changed, only derivatives; as n grows they become the true ones, so the limit is that of integrated gradients. The secant slope is DeepLift's
Rescale rule (Shrikumar et al. 2017); here it is applied per cell of the path, where it converges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

_TINY = 1e-30

Kinks = tuple[tuple[float, float], ...]
"""(where, by how much the slope jumps), after a slope of `_SLOPE` on the far left."""


def _relu(_args: Any, _kwargs: Any) -> tuple[float, Kinks]:
    return 0.0, ((0.0, 1.0),)


def _relu6(_args: Any, _kwargs: Any) -> tuple[float, Kinks]:
    return 0.0, ((0.0, 1.0), (6.0, -1.0))


def _leaky(args: Any, kwargs: Any) -> tuple[float, Kinks]:
    slope = float(kwargs.get("negative_slope", args[1] if len(args) > 1 else 0.01))
    return slope, ((0.0, 1.0 - slope),)


def _hardtanh(args: Any, kwargs: Any) -> tuple[float, Kinks]:
    low = float(kwargs.get("min_val", args[1] if len(args) > 1 else -1.0))
    high = float(kwargs.get("max_val", args[2] if len(args) > 2 else 1.0))
    return 0.0, ((low, 1.0), (high, -1.0))


_KINKED: dict[Callable[..., Any], Callable[[Any, Any], tuple[float, Kinks]]] = {
    F.relu: _relu, torch.relu: _relu, Tensor.relu: _relu, torch.relu_: _relu, Tensor.relu_: _relu, F.relu_: _relu,
    F.relu6: _relu6, F.leaky_relu: _leaky, F.leaky_relu_: _leaky, F.hardtanh: _hardtanh, F.hardtanh_: _hardtanh,
}
_IN_PLACE = {torch.relu_, Tensor.relu_, F.relu_, F.leaky_relu_, F.hardtanh_}
_INPLACE_POSITION = {F.relu: 1, F.relu6: 1, F.leaky_relu: 2, F.hardtanh: 3}


class Cells:
    """Where n nodes and their cells lie, as the weights that averaging needs.

    Args:
        nodes: Increasing, shape (n,), n at least 2.
        edges: Ends of the cells, shape (n + 1,); node k lies in [edges[k], edges[k + 1]].
    """

    def __init__(self, nodes: NDArray[np.float64], edges: NDArray[np.float64]) -> None:
        gaps, widths = np.diff(nodes), np.diff(edges)
        self.count = len(nodes)
        self._buffers: dict[Any, list[Tensor]] = {}
        self.where = (edges[1:-1] - nodes[:-1]) / gaps
        """Place of each inner edge between its two nodes, 0 to 1."""
        self.right = (edges[1:-1] - nodes[:-1]) / widths[:-1]
        """Share of cell k that lies right of its node, for all but the last."""
        self.left = (nodes[1:] - edges[1:-1]) / widths[1:]
        """Share of cell k + 1 that lies left of its node."""
        self.first = (nodes[0] - edges[0]) / widths[0]
        self.last = (edges[-1] - nodes[-1]) / widths[-1]
        self.before = (nodes[0] - edges[0]) / gaps[0]
        self.after = (edges[-1] - nodes[-1]) / gaps[-1]

    def share_above(self, z: Tensor) -> Tensor:
        """In which share of each node's cell a unit is above 0, its line drawn through the nodes; shape as z, [n, B, ...]."""
        def along(values: NDArray[np.float64]) -> Tensor:
            return torch.as_tensor(values, dtype=z.dtype, device=z.device).reshape(-1, *[1] * (z.dim() - 1))

        a, b = z[:-1], z[1:]
        step, edge, part = self._work(a)
        torch.sub(b, a, out=step)
        torch.addcmul(a, step, along(self.where), out=edge)
        inverse = step.abs_().add_(_TINY).reciprocal_()
        # a line from p to q is above 0 in the share max(p, q) / |q - p| of its length, cut to [0, 1]
        share = torch.empty_like(z)
        right = torch.maximum(a, edge, out=part).mul_(inverse).mul_(along(1 / np.maximum(self.where, _TINY))).clamp_(0, 1)
        torch.mul(right, along(self.right), out=share[:-1])
        left = torch.maximum(edge, b, out=part).mul_(inverse).mul_(along(1 / np.maximum(1 - self.where, _TINY))).clamp_(0, 1)
        if self.last > 0:
            share[-1] = _ray(z[-1], z[-1] - z[-2], self.after).mul_(self.last)
        else:
            share[-1] = 0
        share[1:].addcmul_(left, along(self.left))
        if self.first > 0:
            share[0].add_(_ray(z[0], z[0] - z[1], self.before), alpha=self.first)
        return share

    def _work(self, like: Tensor) -> list[Tensor]:
        """Buffers of a shape, kept for the next activation of that shape: fresh memory costs several times what is computed in it."""
        key = (like.shape, like.dtype, like.device)
        if key not in self._buffers:
            self._buffers[key] = [torch.empty_like(like, memory_format=torch.contiguous_format) for _ in range(3)]
        return self._buffers[key]


def _ray(z: Tensor, step: Tensor, length: float) -> Tensor:
    """Share above 0 of the line that goes on from z."""
    end = torch.add(z, step, alpha=length)
    return torch.maximum(z, end).div_((end - z).abs_().add_(_TINY)).clamp_(0, 1)


class _Averaged(torch.autograd.Function):
    """An activation with its own values, whose derivative is averaged over cells; z is [n * B, ...]."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, function: Callable[[Tensor], Tensor], shape: tuple[float, Kinks], cells: Cells, in_place: bool) -> Tensor:
        ctx.shape, ctx.cells = shape, cells
        ctx.save_for_backward(z.clone() if in_place else z)
        if not in_place:
            return function(z)
        z.copy_(function(z))
        ctx.mark_dirty(z)
        return z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (z,) = ctx.saved_tensors
        slope, kinks = ctx.shape
        by_node = z.reshape(ctx.cells.count, -1, *z.shape[1:])
        mean: Tensor | None = None
        for where, jump in kinks:
            share = ctx.cells.share_above(by_node if where == 0 else by_node - where)
            if jump != 1:
                share.mul_(jump)
            mean = share if mean is None else mean.add_(share)
        assert mean is not None
        if slope:
            mean.add_(slope)
        return mean.reshape(z.shape).mul_(gradient), None, None, None, None


class AveragedKinks(TorchFunctionMode):
    """While active, the derivative of every ReLU, ReLU6, leaky ReLU and hard tanh is its mean over the cell of the node.

    Args:
        cells: Of the nodes.
        rows: n * B, the rows of the batch that runs, node by node; an activation whose first dimension is no multiple of it is left alone.
    """

    def __init__(self, cells: Cells, rows: int) -> None:
        super().__init__()
        self.cells, self.rows = cells, rows
        self.met = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kinked = _KINKED.get(func)
        if kinked is not None:
            z = args[0] if args else kwargs["input"]
            if z.requires_grad and z.dim() and z.shape[0] % self.rows == 0:
                self.met += 1
                place = _INPLACE_POSITION.get(func, 9)
                in_place = func in _IN_PLACE or bool(kwargs.get("inplace", args[place] if len(args) > place else False))
                rest = tuple(value for k, value in enumerate(args[1:], 1) if k != place)
                named = {name: value for name, value in kwargs.items() if name not in ("inplace", "input")}
                plain = _out_of_place(func)
                return _Averaged.apply(z, lambda value: plain(value, *rest, **named), kinked(args, kwargs), self.cells, in_place)
        return func(*args, **kwargs)


def _out_of_place(func: Callable[..., Any]) -> Callable[..., Any]:
    return {torch.relu_: torch.relu, Tensor.relu_: torch.relu, F.relu_: torch.relu, F.leaky_relu_: F.leaky_relu, F.hardtanh_: F.hardtanh}.get(func, func)
