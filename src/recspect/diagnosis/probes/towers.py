"""The fast way to the same derivatives, where layers hang together by matrices: linear, activation, linear, activation.

Shapes: B rows, F fields, n units of a layer, W inputs of a first linear layer.

The first linear layer of a tower reads embeddings that lie side by side, so the part of it that one field moves is a block of its
weight, and the derivative of its output along the field, W_f delta_f, is the same everywhere on the path: it is computed once. Behind it a derivative is
scaled by the slope of the activation and multiplied by the next weight, for all fields and rows in one matrix product. What is neither (attention, products of
fields before a layer, layer normalisation) is not such a tower, and `find_towers` says None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from recspect.diagnosis.lookups import _ACTIVATIONS
from recspect.diagnosis.probes.field_path import FieldPath
from recspect.diagnosis.probes.tangents import Layers, chosen, forward_mode
from recspect.errors import SubjectError

_KEEPS_SIGN = {"relu", "leaky_relu"}
"""Activations whose slope can be told from their result, so that writing in place loses nothing."""

SAMPLE_ROWS = 16
"""Rows on which towers are looked for and compared with the general way."""


@dataclass
class Call:
    """One call of a linear layer, a batch normalisation or an activation function.

    Args:
        function: What was called.
        source, result: Tensors in and out.
        arguments, settings: All of the call, the source included.
    """

    function: Callable[..., Any]
    source: Tensor
    result: Tensor
    arguments: tuple[Any, ...]
    settings: dict[str, Any]

    def argument(self, place: int, name: str) -> Any:
        """An argument by place or name; None where it was not given."""
        return self.arguments[place] if len(self.arguments) > place else self.settings.get(name)

    @property
    def is_linear(self) -> bool:
        return self.function is F.linear

    def push(self, tangent: Tensor) -> Tensor:
        """A derivative through this linear layer or normalisation, shape [..., inputs] to [..., outputs]."""
        if self.is_linear:
            return F.linear(tangent, self.argument(1, "weight"))
        scale = torch.rsqrt(self.argument(2, "running_var") + (self.argument(7, "eps") or 1e-5))
        weight = self.argument(3, "weight")
        return tangent * (scale if weight is None else scale * weight)

    def slope(self) -> Tensor:
        """Derivative of the activation at every entry, shape of the result."""
        if self.in_place:
            name = _ACTIVATIONS[self.function]
            negative = self.argument(1, "negative_slope") if name == "leaky_relu" else 0.0
            return torch.where(self.result > 0, 1.0, 0.01 if negative is None else negative).to(self.result.dtype)
        if _ACTIVATIONS[self.function] == "relu":
            return (self.source > 0).to(self.source.dtype)
        with torch.enable_grad():
            inside = self.source.detach().requires_grad_()
            rest = self.arguments[1:] if self.arguments else ()
            result = self.function(inside, *rest, **{name: value for name, value in self.settings.items() if name not in ("input", "self")})
            return torch.autograd.grad(result.sum(), inside)[0]

    @property
    def in_place(self) -> bool:
        return self.result.data_ptr() == self.source.data_ptr()


class Wiring(TorchFunctionMode):
    """Writes down every call of a linear layer, a batch normalisation in evaluation and an activation function, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        settings = kwargs or {}
        result = func(*args, **settings)
        if func in _ACTIVATIONS or func is F.linear or func is F.batch_norm:
            source = args[0] if args else settings.get("input", settings.get("self"))
            if isinstance(source, Tensor) and isinstance(result, Tensor):
                self.calls.append(Call(func, source, result, args, settings))
        return result


@dataclass(frozen=True)
class Reach:
    """How a layer's activation is reached.

    Args:
        activation: Number of the activation's call.
        way: Numbers of the linear calls from the source to it, in the order of the pass.
        layer: Number of the layer that is the source, or None where embeddings are.
    """

    activation: int
    way: tuple[int, ...]
    layer: int | None


@dataclass(frozen=True)
class Towers:
    """All layers of a model, each reached by linear calls from an earlier one or from the embeddings.

    Args:
        layers: Their names.
        reaches: One per layer.
        blocks: For the first call of each way that begins at embeddings, the columns that each field owns.
    """

    layers: Layers
    reaches: tuple[Reach, ...]
    blocks: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)

    def first(self, recorded: Sequence[Call], start: Sequence[Call]) -> dict[int, Tensor]:
        """By layer that begins at embeddings, the derivative of its pre-activation along each field, shape [F, B, n]: the same everywhere.

        Args:
            recorded, start: The calls at the rows and at the baseline.
        """
        found = {}
        for k, reach in enumerate(self.reaches):
            if reach.layer is not None:
                continue
            call, after = recorded[reach.way[0]], reach.way[1:]
            step = call.source - start[reach.way[0]].source
            weight = call.argument(1, "weight")
            tangent = torch.stack([step[:, columns] @ weight[:, columns].T for columns in self.blocks[reach.way[0]]])
            for number in after:
                tangent = recorded[number].push(tangent)
            found[k] = tangent
        return found

    def holds(self, alpha: float, here: Sequence[Call], recorded: Sequence[Call], start: Sequence[Call]) -> bool:
        """Whether this pass made the same calls, and what enters the towers moves in proportion to `alpha`."""
        if [call.function for call in here] != [call.function for call in recorded]:
            return False
        for number in self.blocks:
            begin, end, now = start[number].source, recorded[number].source, here[number].source.detach()
            size = torch.maximum(begin.abs().max(), end.abs().max())
            if float((now - torch.lerp(begin, end, alpha)).abs().max()) > 64 * torch.finfo(now.dtype).eps * float(size):
                return False
        return True

    def add_flow(self, flow: Sequence[Tensor], weights: Sequence[Tensor], slopes: Sequence[Tensor], first: dict[int, Tensor],
                 here: Sequence[Call], rows: slice) -> None:
        """Add weight x slope x derivative of the pre-activation for every layer that another layer reaches, to `flow` [F, B, n].

        Layers that begin at embeddings are left out: their derivative is the same everywhere, so the caller adds their weights up and
        multiplies once.
        """
        carried: dict[int, Tensor] = {}
        sources = {reach.layer for reach in self.reaches}
        for k, reach in enumerate(self.reaches):
            if reach.layer is None:
                tangent = first[k][:, rows]
            else:
                tangent = carried[reach.layer]
                for number in reach.way:
                    tangent = here[number].push(tangent)
                flow[k][:, rows].addcmul_(tangent, weights[k][rows] * slopes[k][rows])
            if k in sources:
                carried[k] = tangent * slopes[k][rows]


def find_towers(path: FieldPath, layers: Layers) -> Towers | None:
    """The towers of a model, told on a few rows; None where some layer is reached in another way."""
    wiring = Wiring()
    with torch.no_grad(), wiring:
        leaves, dense = path.point(1.0)
        trace = path.pass_at(leaves, dense, keep_activations=True)
    named = dict(trace.activations)
    if not layers or any(name not in named or named[name].dim() != 2 for name in layers):
        return None
    results = chosen(layers, trace.activations, path.rows)
    reaches: list[Reach] = []
    for result in results:
        reach = _reach(result, results[:len(reaches)], wiring.calls)
        if reach is None:
            return None
        reaches.append(reach)
    begins = {reach.way[0] for reach in reaches if reach.layer is None}
    try:
        blocks = _blocks(path, begins)
    except (RuntimeError, NotImplementedError, SubjectError):  # an operation without forward-mode derivative, here or beside the towers
        return None
    return None if blocks is None else Towers(layers, tuple(reaches), blocks)


def _reach(result: Tensor, earlier: Sequence[Tensor], calls: Sequence[Call]) -> Reach | None:
    """Go back from an activation to the layer or the embeddings that it comes from."""
    found = next((i for i, call in enumerate(calls) if call.result is result and call.function in _ACTIVATIONS), None)
    if found is None or (calls[found].in_place and _ACTIVATIONS[calls[found].function] not in _KEEPS_SIGN):
        return None
    if calls[found].source.shape != result.shape:
        return None
    way: list[int] = []
    wanted, before = calls[found].source, found
    while True:
        number = next((i for i in range(before - 1, -1, -1)
                       if calls[i].function not in _ACTIVATIONS and _same(calls[i].result, wanted)), None)
        if number is None:
            break
        call = calls[number]
        if call.source.dim() != 2 or (not call.is_linear and call.argument(5, "training")):
            return None
        way.insert(0, number)
        wanted, before = call.source, number
        layer = next((k for k, tensor in enumerate(earlier) if _same(tensor, wanted)), None)
        if layer is not None:
            return Reach(found, tuple(way), layer)
    if not way or not calls[way[0]].is_linear:
        return None
    return Reach(found, tuple(way), None)


def _same(a: Tensor, b: Tensor) -> bool:
    """The same numbers in the same place: dropout in evaluation gives a new name to its input."""
    return a is b or (a.shape == b.shape and a.data_ptr() == b.data_ptr() and a.stride() == b.stride())


def _blocks(path: FieldPath, begins: set[int]) -> dict[int, tuple[Tensor, ...]] | None:
    """Which columns of the inputs of these linear calls each field moves; None where two fields move one column.

    Told with random directions, since a field that does not differ from the baseline moves nothing.
    """
    generator = torch.Generator().manual_seed(0)
    directions = [torch.rand(delta.shape, generator=generator, dtype=torch.float64).to(delta) + 0.5 for delta in path.deltas]
    dense_directions = {name: torch.rand(delta.shape, generator=generator, dtype=torch.float64).to(delta) + 0.5
                        for name, delta in path.dense_deltas.items()}
    leaves, dense = path.point(0.5)
    moved: dict[int, list[Tensor]] = {number: [] for number in begins}
    with forward_mode():
        for share in path.one_field_at_a_time():
            more, more_dense = path.direction(share, directions, dense_directions)
            with forward_ad.dual_level():
                duals = [forward_ad.make_dual(leaf, one) if leaf.is_floating_point() else leaf
                         for leaf, one in zip(leaves, more, strict=True)]
                wiring = Wiring()
                with wiring:
                    path.pass_at(duals, {name: forward_ad.make_dual(dense[name], one) for name, one in more_dense.items()})
                for number in begins:
                    primal, tangent = forward_ad.unpack_dual(wiring.calls[number].source)
                    moved[number].append(torch.zeros(primal.shape[1], dtype=torch.bool, device=primal.device) if tangent is None else (tangent != 0).any(0))
    blocks = {}
    for number, masks in moved.items():
        if bool((torch.stack(masks).sum(0) > 1).any()):
            return None
        blocks[number] = tuple(mask.nonzero().flatten() for mask in masks)
    return blocks
