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
from copy import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from recspect.diagnosis.subject import TorchSubject

Slope = float | Tensor
Kinks = tuple[tuple[float, Slope], ...]
"""(where, by how much the slope jumps), from left to right; a function is given by its slope on the far left and its kinks."""


def _relu(_args: Any, _kwargs: Any) -> tuple[Slope, Kinks]:
    return 0.0, ((0.0, 1.0),)


def _relu6(_args: Any, _kwargs: Any) -> tuple[Slope, Kinks]:
    return 0.0, ((0.0, 1.0), (6.0, -1.0))


def _leaky(args: Any, kwargs: Any) -> tuple[Slope, Kinks]:
    slope = float(kwargs.get("negative_slope", args[1] if len(args) > 1 else 0.01))
    return slope, ((0.0, 1.0 - slope),)


def _hardtanh(args: Any, kwargs: Any) -> tuple[Slope, Kinks]:
    low = float(kwargs.get("min_val", args[1] if len(args) > 1 else -1.0))
    high = float(kwargs.get("max_val", args[2] if len(args) > 2 else 1.0))
    return 0.0, ((low, 1.0), (high, -1.0))


def _hardsigmoid(_args: Any, _kwargs: Any) -> tuple[Slope, Kinks]:
    return 0.0, ((-3.0, 1 / 6), (3.0, -1 / 6))


def _absolute(_args: Any, _kwargs: Any) -> tuple[Slope, Kinks]:
    return -1.0, ((0.0, 2.0),)


def _prelu(args: Any, kwargs: Any) -> tuple[Slope, Kinks]:
    z, slope = args[0] if args else kwargs["input"], args[1] if len(args) > 1 else kwargs["weight"]
    slope = slope.detach().reshape(1, -1, *[1] * (z.dim() - 2)) if z.dim() > 1 else slope.detach()
    return slope, ((0.0, 1 - slope),)


def _clamp(args: Any, kwargs: Any) -> tuple[Slope, Kinks] | None:
    """None where a bound is a tensor."""
    low, high = (kwargs.get(name, args[k] if len(args) > k else None) for k, name in ((1, "min"), (2, "max")))
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return None
    kinks = (*([] if low is None else [(float(low), 1.0)]), *([] if high is None else [(float(high), -1.0)]))
    return (1.0 if low is None else 0.0), kinks


_KINKED: dict[Callable[..., Any], Callable[[Any, Any], tuple[Slope, Kinks] | None]] = {
    F.relu: _relu, torch.relu: _relu, Tensor.relu: _relu, torch.relu_: _relu, Tensor.relu_: _relu, F.relu_: _relu,
    F.relu6: _relu6, F.leaky_relu: _leaky, F.leaky_relu_: _leaky, F.hardtanh: _hardtanh, F.hardtanh_: _hardtanh,
    F.hardsigmoid: _hardsigmoid, F.prelu: _prelu, torch.prelu: _prelu, Tensor.prelu: _prelu, torch.abs: _absolute, Tensor.abs: _absolute,
    Tensor.__abs__: _absolute, torch.clamp: _clamp, Tensor.clamp: _clamp, torch.clip: _clamp, Tensor.clip: _clamp,
}
_IN_PLACE = {torch.relu_, Tensor.relu_, F.relu_, F.leaky_relu_, F.hardtanh_}
_INPLACE_POSITION = {F.relu: 1, F.relu6: 1, F.leaky_relu: 2, F.hardtanh: 3, F.hardsigmoid: 1}


class Scratch:
    """Memory that is used again and again: fresh memory costs several times what is computed in it."""

    def __init__(self) -> None:
        self._buffers: dict[Any, Tensor] = {}

    def like(self, tensor: Tensor, count: int) -> tuple[Tensor, ...]:
        """Tensors of a shape, with what was left in them; valid until the next call."""
        key, size = (tensor.dtype, tensor.device), tensor.numel()
        if key not in self._buffers or self._buffers[key].numel() < count * size:
            self._buffers.pop(key, None)
            self._buffers[key] = tensor.new_empty(count * size)
        return tuple(self._buffers[key][k * size:(k + 1) * size].view(tensor.shape) for k in range(count))


class Cells:
    """Where n nodes and their cells lie, as the weights that averaging needs.

    Args:
        nodes: Increasing, shape (n,), n at least 2.
        edges: Ends of the cells, shape (n + 1,); node k lies in [edges[k], edges[k + 1]].
        scratch: Memory to work in, which other cells may use, too; default its own.
    """

    def __init__(self, nodes: NDArray[np.float64], edges: NDArray[np.float64], scratch: Scratch | None = None) -> None:
        gaps, widths = np.diff(nodes), np.diff(edges)
        self.count = len(nodes)
        self._scratch = scratch or Scratch()
        where = (edges[1:-1] - nodes[:-1]) / gaps  # of each inner edge between its two nodes, 0 to 1
        right, left = (edges[1:-1] - nodes[:-1]) / widths[:-1], (nodes[1:] - edges[1:-1]) / widths[1:]  # shares of the cells on either side of it
        self.first, self.last = float((nodes[0] - edges[0]) / widths[0]), float((edges[-1] - nodes[-1]) / widths[-1])
        self.before, self.after = float((nodes[0] - edges[0]) / gaps[0]), float((edges[-1] - nodes[-1]) / gaps[-1])
        self._where, self._inverse, self._right = where, 1 / np.maximum(where, 1e-30), right
        self._left = np.divide(left, 1 - where, out=np.zeros_like(left), where=left > 0)
        # what `share_above` takes off its sums of cut lengths
        self._constant = np.concatenate([[0.0], -self._left * where])
        self._constant[-1] -= self.last / self.after if self.last else 0.0

    def share_above(self, z: Tensor) -> Tensor:
        """In which share of each node's cell a unit is above 0, its line drawn through the nodes; shape as z, [n, B, ...].

        With the gap between two nodes a and b as the unit of length and the line's rise over it as the unit of height, the line begins at q = a / |b - a| and
        goes up or down by 1, so the length of a stretch that lies above 0 is q plus a constant, cut to the stretch. Each step below passes once over memory.
        """
        def along(values: NDArray[np.float64]) -> Tensor:
            return torch.as_tensor(values, dtype=z.dtype, device=z.device).reshape(-1, *[1] * (z.dim() - 1))

        share = torch.empty_like(z, memory_format=torch.contiguous_format).copy_(along(self._constant))
        a, b = z[:-1], z[1:]
        rising, q, part = self._scratch.like(a, 3)
        torch.sub(b, a, out=part)
        torch.div(a, part.abs_().clamp_min_(torch.finfo(z.dtype).tiny), out=q)
        if self.first:  # backwards, what falls later comes from above; a unit that stays at 0 does neither
            torch.lt(b[0], a[0], out=rising[0])
            torch.add(q[0], rising[0], alpha=self.before, out=part[0]).clamp_(0, self.before)
            share[0].add_(part[0], alpha=self.first / self.before)
        torch.gt(b, a, out=rising)
        torch.addcmul(rising, q, along(self._inverse), out=part).clamp_(0, 1)
        share[:-1].addcmul_(part, along(self._right))
        torch.addcmul(q, rising, along(1 + self._where), out=part)
        torch.maximum(part, along(self._where), out=part).clamp_(max=1)  # clamp with tensors for bounds takes five times as long
        share[1:].addcmul_(part, along(self._left))
        if self.last:
            torch.add(q[-1], rising[-1], alpha=2 + self.after, out=part[-1]).clamp_(1, 1 + self.after)
            share[-1].add_(part[-1], alpha=self.last / self.after)
        return share


class _Averaged(torch.autograd.Function):
    """An activation with its own values, whose derivative is averaged over cells; z is [n * B, ...]."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, function: Callable[[Tensor], Tensor], shape: tuple[Slope, Kinks], cells: Cells, in_place: bool) -> Tensor:
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
            share = ctx.cells.share_above(by_node if where == 0 else by_node - where).reshape(z.shape)
            if isinstance(jump, Tensor) or jump != 1:
                share.mul_(jump)
            mean = share if mean is None else mean.add_(share)
        assert mean is not None
        if isinstance(slope, Tensor) or slope:
            mean.add_(slope)
        # gradients that vmap batches cannot be multiplied into one that is not
        batched = torch._C._functorch.is_batchedtensor(gradient) or torch._C._functorch.is_legacy_batchedtensor(gradient)  # noqa: SLF001
        return mean * gradient if batched else mean.mul_(gradient), None, None, None, None


class AveragedKinks(TorchFunctionMode):
    """While active, the derivative of every piecewise linear activation is its mean over the cell of the node.

    These are ReLU, ReLU6, leaky and parametric ReLU, hard tanh, hard sigmoid, absolute value and clamp between numbers.

    Args:
        cells: Of the nodes.
        rows: n * B, the rows of the batch that runs, node by node; an activation whose first dimension is no multiple of it is left alone.
    """

    def __init__(self, cells: Cells, rows: int) -> None:
        super().__init__()
        self.cells, self.rows = cells, rows
        self.met = 0
        """Activations averaged so far."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kinked = _KINKED.get(func)
        if kinked is not None:
            z = args[0] if args else kwargs["input"]
            shape = kinked(args, kwargs) if z.requires_grad and z.dim() and z.shape[0] % self.rows == 0 else None
            if shape is not None and shape[1]:
                self.met += 1
                return self._averaged(func, z, args, kwargs, shape)
        return func(*args, **kwargs)

    def _averaged(self, func: Any, z: Tensor, args: tuple[Any, ...], kwargs: Any, shape: tuple[Slope, Kinks]) -> Any:
        place = _INPLACE_POSITION.get(func, len(args))
        in_place = func in _IN_PLACE or bool(kwargs.get("inplace", args[place] if len(args) > place else False))
        rest = tuple(value for k, value in enumerate(args[1:], 1) if k != place)
        named = {name: value for name, value in kwargs.items() if name not in ("inplace", "input")}
        plain = _out_of_place(func)
        return _Averaged.apply(z, lambda value: plain(value, *rest, **named), shape, self.cells, in_place)


def running_in(mode: TorchFunctionMode, subject: TorchSubject) -> TorchSubject:
    """The subject in a mode such as that of averaged kinks: the model runs inside the mode, the recorder outside, whose own calls would otherwise pass through the mode."""
    inside = copy(subject)

    def forward(model: nn.Module, inputs: Any) -> Tensor:
        with mode:
            return subject.forward(model, inputs)

    inside.forward = forward
    return inside


def _out_of_place(func: Callable[..., Any]) -> Callable[..., Any]:
    return {torch.relu_: torch.relu, Tensor.relu_: torch.relu, F.relu_: torch.relu, F.leaky_relu_: F.leaky_relu, F.hardtanh_: F.hardtanh}.get(func, func)
