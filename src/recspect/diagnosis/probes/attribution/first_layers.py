"""First layers, computed once per row and not once per point.

Shapes: n nodes, B rows, K columns of a linear layer's input, H of its output, R rules, C columns of contributions, E elements of a row's lookups.

Where a linear layer reads lookups side by side, its input moves on a straight line along the path, and so does its output: the outputs at the first and the last
node give those between. Backward, contributions need the gradient at the input summed over nodes only, which is the gradient at the output, summed over nodes and
then multiplied by the weight. Columns that are no copies of lookups (products of them, dense inputs) are multiplied for every node, as ever.

Which columns are copies of which element is told by a pass with random numbers. That numbers are equal does not tell that gradients pass, so in every pass the
autograd graph from the layer's input back to the lookups must consist of operations that move numbers about and do nothing else; otherwise the layer is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from recspect.diagnosis.probes.linear_calls import LinearInputs, is_linear
from recspect.diagnosis.sites import Site, Sites
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError

Copied = Mapping[int, NDArray[np.int64]]
"""Number of the linear call to the element that each of its K columns is a copy of, -1 for none; elements are numbered lookup by lookup."""

_JOINING = {torch.cat, torch.concat, torch.concatenate}
_MOVING = {
    "AliasBackward0", "CatBackward0", "CloneBackward0", "PermuteBackward0", "ReshapeAliasBackward0", "SelectBackward0", "SliceBackward0", "SplitBackward0",
    "SqueezeBackward0", "SqueezeBackward1", "StackBackward0", "TBackward0", "TransposeBackward0", "UnbindBackward0", "UnsafeViewBackward0", "UnsqueezeBackward0",
    "ViewBackward0",
}
"""Nodes of the autograd graph whose operation copies numbers, and whose derivative copies gradients."""


def pays(rules: int, nodes: int) -> bool:
    """Whether two forward products and one backward product per rule are clearly fewer than one of each per node."""
    return 3 * (2 + rules) <= 4 * nodes


def elements(sites: Sequence[Site], values: Sequence[Tensor], rows: int) -> list[int]:
    """Elements of a row in every lookup that belongs to a field, 0 in others."""
    return [value.numel() // rows if site.parts else 0 for site, value in zip(sites, values, strict=True)]


def copied_columns(subject: TorchSubject, sites: Sites, stack: list[str], inputs: Any, values: Sequence[Tensor]) -> Copied:
    """Which columns of which linear layers are copies of lookups: of those of whose input at least half is copied.

    Args:
        subject, sites, stack: The model; runs inside `undisturbed`, whose stack is `stack`.
        inputs: Two rows, encoded.
        values: Their lookups.
    """
    generator = torch.Generator().manual_seed(0)
    random = [torch.rand(value.shape, generator=generator, dtype=torch.float64).to(value) if site.parts and value.is_floating_point() else value
              for site, value in zip(sites.lookups, values, strict=True)]
    counts = elements(sites.lookups, values, 2)
    owner: dict[bytes, int] = {}
    for value, count in zip(random, counts, strict=True):
        first = len(owner)
        owner |= {pair.tobytes(): first + k for k, pair in enumerate(value.reshape(2, count).T.double().cpu().numpy())} if count else {}
    if len(owner) != sum(counts):  # too few numbers between 0 and 1, as in half precision
        return {}
    seeing = LinearInputs()
    try:
        with torch.no_grad(), seeing:
            subject.run(inputs, stack, replay=random)
    except SubjectError:  # a model that minds random vectors goes without
        return {}
    found = {}
    for call, tensor in enumerate(seeing.inputs):
        if tensor.shape[0] == 2:
            places = np.array([owner.get(pair.tobytes(), -1) for pair in tensor.T.double().cpu().numpy()], dtype=np.int64)
            if 2 * (places >= 0).sum() >= len(places):
                found[call] = places
    return found


class StraightLines(TorchFunctionMode):
    """While active, linear layers that read lookups are computed at the first and the last node; backward, their gradients are summed over nodes.

    Args:
        copied: Which they are.
        counts: Elements of a row in every lookup, see `elements`.
        leaves: The lookups [n * B, ...] by place, as the model gets them.
        nodes: Increasing, shape (n,).
        rows: n * B, the rows of the batch that runs, node by node.
    """

    def __init__(self, copied: Copied, counts: Sequence[int], leaves: Mapping[int, Tensor], nodes: NDArray[np.float64], rows: int) -> None:
        super().__init__()
        self.copied, self._ends = copied, np.cumsum(counts)
        self._place_of = {id(leaf): place for place, leaf in leaves.items()}
        self.count, self.rows = len(nodes), rows
        self._along = (nodes - nodes[0]) / (nodes[-1] - nodes[0])
        self._calls = 0
        self._joined: tuple[Tensor, Sequence[Tensor]] | None = None
        self.weights: Tensor | None = None
        """Of the nodes, shape [R, n] or [R, n, B]; to be set before the backward pass."""
        self.found: list[tuple[Tensor, NDArray[np.int64]]] = []
        """After the backward pass: gradients summed over nodes, shape [K, R, B], and the K elements that they belong to."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_linear(func, args):
            columns = self.copied.get(self._calls)
            self._calls += 1
            out = None if columns is None else self._line(args[0], args[1], args[2] if len(args) > 2 else kwargs.get("bias"), columns)
            return func(*args, **kwargs) if out is None else out
        result = func(*args, **kwargs)
        if func in _JOINING and args and result.dim() == 2 and (args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))) in (1, -1):
            self._joined = (result, args[0])
        return result

    def _line(self, x: Tensor, weight: Tensor, bias: Tensor | None, columns: NDArray[np.int64]) -> Tensor | None:
        """The layer's output [n * B, H]; None where it shall be left alone."""
        if x.shape != (self.rows, len(columns)) or x.dtype != weight.dtype or not weight.is_leaf or (bias is not None and not bias.is_leaf):
            return None
        pieces = self._joined[1] if self._joined is not None and self._joined[0] is x else (x,)
        ends = np.cumsum([piece.shape[1] for piece in pieces])
        straight = np.concatenate([np.full(piece.shape[1], self._is_copy(piece, columns[end - piece.shape[1]:end]))
                                   for piece, end in zip(pieces, ends, strict=True)])
        if 2 * straight.sum() < len(columns):
            return None
        weight = weight.detach()
        if straight.all():
            return _Line.apply(x, weight, bias, self, slice(None), columns)
        own = torch.from_numpy(straight.nonzero()[0]).to(x.device)
        rest = [piece for piece, end in zip(pieces, ends, strict=True) if not straight[end - 1]]
        others = rest[0] if len(rest) == 1 else torch.cat(rest, 1)
        line = _Line.apply(x, weight[:, own], bias, self, own, columns[straight])
        return torch.addmm(line, others, weight[:, torch.from_numpy(~straight).to(x.device)].t())

    def _is_copy(self, piece: Tensor, columns: NDArray[np.int64]) -> bool:
        """Whether the graph moves the numbers of these lookups to here and does nothing else with them."""
        if (columns < 0).any():
            return False
        places: set[int] = set()
        if id(piece) in self._place_of:
            places.add(self._place_of[id(piece)])
        seen, waiting = set(), [] if places else [piece.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None:
                return False
            if node in seen:
                continue
            seen.add(node)
            leaf = getattr(node, "variable", None)
            if leaf is not None:
                place = self._place_of.get(id(leaf))
                if place is None:
                    return False
                places.add(place)
            elif node.name() in _MOVING:
                waiting += [further for further, _ in node.next_functions]
            else:
                return False
        return set(np.searchsorted(self._ends, columns, side="right").tolist()) <= places


class _Line(torch.autograd.Function):
    """A linear layer over copies, from its values at the first and the last node; its gradient stays in `lines.found`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, lines: StraightLines, own: slice | Tensor, columns: NDArray[np.int64]) -> Tensor:
        ctx.weight, ctx.lines, ctx.columns = weight, lines, columns
        b = x.shape[0] // lines.count
        first, last = F.linear(torch.cat([x[:b, own], x[-b:, own]]), weight, bias).split(b)
        along = torch.as_tensor(lines._along, dtype=x.dtype, device=x.device).reshape(-1, 1, 1)  # noqa: SLF001 - of this module
        return torch.lerp(first, last, along).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, n = ctx.lines.weights, ctx.lines.count
        block = gradient.reshape(n, -1, gradient.shape[1])
        summed = summed_over_nodes(block, weights)
        ctx.lines.found.append(((ctx.weight.t() @ summed.flatten(0, 1).t()).reshape(-1, *summed.shape[:2]), ctx.columns))
        return None, None, None, None, None, None


def summed_over_nodes(block: Tensor, weights: Tensor) -> Tensor:
    """Sum over n of weights [R, n] or [R, n, B] times block [n, B, S], shape [R, B, S], contiguous."""
    if weights.dim() == 2:
        return (weights @ block.flatten(1)).reshape(-1, *block.shape[1:])
    return torch.bmm(weights.permute(2, 0, 1), block.transpose(0, 1)).transpose(0, 1).contiguous()
