"""Points of the path, evaluated many at a time: replayed lookups in, scores and contributions per column out.

Shapes: B rows of the recording, n nodes, C columns (one per lookup, per column of a fused lookup, per entry of a list, per dense input), K lookups of one shape.

Rows times nodes run as one batch, node by node, so that matrices are wide and Python is called seldom. Lookups of one shape lie in one tensor: one operation moves
them all along the path, and one gives their contributions. What a point leaves behind is one number per row and column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.lookups import Lookup, loss_slope, require_gradient
from recspect.diagnosis.probes.attribution.baselines import Baseline
from recspect.diagnosis.probes.attribution.first_layers import (
    Copied,
    StraightLines,
    copied_columns,
    elements,
    pays,
    summed_over_nodes,
)
from recspect.diagnosis.probes.attribution.kinks import AveragedKinks, Cells, Scratch, running_in
from recspect.diagnosis.sites import Site, Sites, check_same, input_tensors
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError


@dataclass(frozen=True)
class Layout:
    """What one row, once and twice, tells about a model: what is per row, and what a point of a row costs.

    Args:
        per_row: Per lookup, whether its output grows with the rows (a table of positions does not).
        repeatable: Whether the inputs are a dict of tensors that all begin with the rows, so that rows are repeated by tensor; else they are encoded again.
        point_bytes: About what a row holds while a point is evaluated: saved activations, their gradients and averaged slopes, moved lookups and their gradients.
        columns: C.
        kinked: Whether the model has activations whose kinks are averaged.
        copied: Which linear layers read which elements of the lookups.
    """

    per_row: tuple[bool, ...]
    repeatable: bool
    point_bytes: int
    columns: int
    kinked: bool
    copied: Copied

    @classmethod
    def of(cls, subject: TorchSubject, sites: Sites, stack: list[str], batch: Batch) -> Layout:
        """Look at the first row.

        Raises:
            SubjectError: A field's lookup does not grow with the rows, or not row by row.
        """
        once, twice = (subject.encode(batch.take(np.zeros(count, dtype=np.int64))) for count in (1, 2))
        with torch.no_grad():
            one, two = subject.run(once, stack), subject.run(twice, stack)
        check_same(sites, two)
        per_row = []
        for site, a, b in zip(sites.lookups, one.lookups, two.lookups, strict=True):
            grows = a.output.dim() > 0 and b.output.shape[0] == 2 * a.output.shape[0]
            if site.parts and not (grows and _row_by_row(a, b)):
                raise SubjectError(f"lookup {site.table} of shape {tuple(b.output.shape)} does not begin with the rows of the batch (2)",
                                   hint="contributions are per row: look ids up for every row, or declare the lookup as '' to leave it out")
            per_row.append(grows)
        values = [lookup.output.detach() for lookup in two.lookups]
        held: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, torch.nn.Parameter) and tensor.shape[:1] and tensor.shape[0] % 2 == 0:
                held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        known = {parameter.untyped_storage().data_ptr() for parameter in subject.model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), AveragedKinks(Cells(np.array([0.0, 1.0]), np.array([0, 0.5, 1])), 2) as mode:
            leaves = {name: tensor.clone().requires_grad_() for name, tensor in input_tensors(twice).items() if name in sites.dense}
            subject.run(_with_dense(twice, leaves), stack, replay=[value.clone().requires_grad_() for value in values])
        saved = sum(size for address, size in held.items() if address not in known) // 2
        looked = sum(value.numel() * value.element_size() for value, grows in zip(values, per_row, strict=True) if grows) // 2
        columns = sum(value.numel() // value.shape[-1] for value, grows in zip(values, per_row, strict=True) if grows) // 2 + len(sites.dense)
        copied = copied_columns(subject, sites, stack, twice, values)
        return cls(tuple(per_row), _repeatable(once, twice), max(1, 4 * saved + 4 * looked), columns, mode.met > 0, copied)


def _row_by_row(a: Lookup, b: Lookup) -> bool:
    """Whether the flat ids of two equal rows are those of one row, twice in a row."""
    return b.output.shape[0] == 2 or torch.equal(b.ids.reshape(-1), torch.cat([a.ids.reshape(-1)] * 2))


def _repeatable(once: Any, twice: Any) -> bool:
    return isinstance(once, dict) and all(isinstance(once[name], Tensor) and once[name].dim() and twice[name].shape[0] == 2 * once[name].shape[0] == 2
                                          for name in once)


def _with_dense(inputs: Any, dense: Mapping[str, Tensor]) -> Any:
    """The inputs with other dense values.

    Raises:
        SubjectError: Inputs of this form cannot be replaced.
    """
    if not dense:
        return inputs
    if isinstance(inputs, dict):
        return {**inputs, **dense}
    if isinstance(inputs, Tensor):
        return dense["input"]
    raise SubjectError(f"dense inputs inside a {type(inputs).__name__} cannot be replaced",
                       hint="let encode(batch) return a dict, and take it apart in forward=lambda model, inputs: ...")


@dataclass(frozen=True)
class _Group:
    """Lookups of one shape: start (None for zero) and delta, shape [K, B, ..., D], and the place of each among the calls.

    `flat` where the model looks up all entries of all rows at once, so that it wants [B * L, D].
    """

    places: tuple[int, ...]
    start: Tensor | None
    delta: Tensor
    flat: bool


def _groups(values: Sequence[Tensor], begin: Sequence[Tensor | None], sites: Sequence[Site], rows: int) -> list[_Group]:
    found: dict[Any, list[tuple[int, Tensor, Tensor | None]]] = {}
    for place, (site, value, start) in enumerate(zip(sites, values, begin, strict=True)):
        if not site.parts:
            continue
        flat = value.shape[0] != rows
        shaped = value.reshape(rows, -1, value.shape[-1]) if flat else value
        if start is not None:
            start = start.reshape(shaped.shape) if start.shape == value.shape else start.to(shaped).expand_as(shaped)  # noqa: PLW2901
        found.setdefault((shaped.shape, shaped.dtype, flat, start is None), []).append((place, shaped, start))
    groups = []
    for (*_, flat, from_zero), members in found.items():
        ends = torch.stack([value for _, value, _ in members])
        starts = None if from_zero else torch.stack([start for _, _, start in members])
        groups.append(_Group(tuple(place for place, *_ in members), starts, ends if starts is None else ends - starts, flat))
    return groups


def over_nodes(gradients: Sequence[Tensor | None], weights: Tensor) -> list[Tensor | None]:
    """Gradients [n * B, ...], node by node, summed over the nodes, shape [R, B, ...].

    Gradients are read once and nothing of their size is written: a model that stacks or concatenates its lookups gives gradients that are views of one block of
    memory, which is summed as a whole, whatever lies in it.

    Args:
        gradients: None stays None.
        weights: Shape [R, n], or [R, n, B] where rows differ.
    """
    blocks: dict[int, Tensor] = {}
    found: list[Tensor | None] = []
    n = weights.shape[1]
    for gradient in gradients:
        if gradient is None:
            found.append(None)
            continue
        shape, strides, rows = gradient.shape[1:], gradient.stride(), gradient.shape[0] // n
        storage, start = gradient.untyped_storage(), gradient.storage_offset()
        inside = start + sum((size - 1) * step for size, step in zip(shape, strides[1:], strict=True)) < strides[0]
        if not inside or storage.nbytes() != n * rows * strides[0] * gradient.element_size():
            found.append(summed_over_nodes(gradient.reshape(n, rows, -1), weights).reshape(-1, rows, *shape))
            continue
        if storage.data_ptr() not in blocks:
            blocks[storage.data_ptr()] = summed_over_nodes(gradient.as_strided((n, rows, strides[0]), (rows * strides[0], strides[0], 1), 0), weights)
        found.append(blocks[storage.data_ptr()].as_strided((len(weights), rows, *shape), (rows * strides[0], *strides), start))
    return found


@dataclass(frozen=True)
class Sums:
    """Contributions per column for each of R rules, float64, shape [R, B, C], and those to the loss for the first of them, shape [B, C], or None."""

    columns: Tensor
    loss: Tensor | None


class Recording:
    """The lookups of some rows, and the way to them from a baseline.

    Args:
        subject: The model; runs inside `undisturbed`, whose stack is `stack`.
        sites: Which lookup belongs to which field.
        layout: See `Layout`.
        batch: The rows.
        baseline: Where the path begins, for these rows.
        points_at_a_time: Rows times nodes in one pass.
    """

    def __init__(self, subject: TorchSubject, sites: Sites, stack: list[str], layout: Layout, batch: Batch, baseline: Baseline,
                 points_at_a_time: int) -> None:
        self.subject, self.sites, self.stack, self.layout, self.batch = subject, sites, stack, layout, batch
        self.points_at_a_time = points_at_a_time
        self.inputs = subject.encode(batch)
        with torch.no_grad():
            trace = subject.run(self.inputs, stack)
        check_same(sites, trace)
        self.score = trace.additive.detach()
        self.has_logit = trace.logit is not None
        values = [lookup.output.detach() for lookup in trace.lookups]
        tensors = input_tensors(self.inputs)
        dense = {name: tensors[name] for name in sites.dense}
        begin, dense_begin = self._begin(baseline, values, dense)
        self.fixed = {k: value for k, (site, value) in enumerate(zip(sites.lookups, values, strict=True)) if not site.parts}
        self.groups = _groups(values, begin, sites.lookups, batch.rows)
        self.dense = {name: (dense_begin[name], value - dense_begin[name]) for name, value in dense.items()}
        self.by_field, self.by_entry = self._columns()
        self._counts = elements(sites.lookups, values, batch.rows)

    def _begin(self, baseline: Baseline, values: Sequence[Tensor], dense: Mapping[str, Tensor]) -> tuple[list[Tensor | None], dict[str, Tensor]]:
        """Lookups and dense inputs at the baseline, per row; None for zero."""
        if baseline.is_fixed:
            return list(baseline.lookups), {name: baseline.dense[name].to(value).expand_as(value) for name, value in dense.items()}
        inputs = baseline.inputs(self.subject, self.inputs)
        with torch.no_grad():
            trace = self.subject.run(inputs, self.stack)
        check_same(self.sites, trace)
        begin = [lookup.output.detach() for lookup in trace.lookups]
        for site, own, other in zip(self.sites.lookups, values, begin, strict=True):
            if own.shape != other.shape:
                raise SubjectError(f"lookup {site.table} gives {tuple(own.shape)} for the rows, but {tuple(other.shape)} for their baseline",
                                   hint="pad the lists of both to one length, or take only fields without lists from the baseline rows")
        found = input_tensors(inputs)
        return list(begin), {name: found[name] for name in dense}

    def _columns(self) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
        """Positions among the columns by field, and per list field the positions of its entries in each of its lookups."""
        by_field: dict[str, list[Tensor]] = {}
        by_entry: dict[str, list[Tensor]] = {}
        first = 0
        for group in self.groups:
            width = int(np.prod(group.delta.shape[2:-1], dtype=np.int64))
            for place in group.places:
                own = torch.arange(first, first + width)
                first += width
                for part in self.sites.lookups[place].parts:
                    grid = own.reshape(group.delta.shape[2:-1])
                    mine = own if part.columns is None else grid[list(part.columns)].reshape(-1)
                    by_field.setdefault(part.field, []).append(mine)
                    if group.delta.dim() == 4 and len(mine) > 1:
                        by_entry.setdefault(part.field, []).append(mine)
        for name in self.sites.dense:
            by_field.setdefault(name, []).append(torch.tensor([first]))
            first += 1
        self.width = first
        return {name: torch.cat(found) for name, found in by_field.items()}, by_entry

    @cached_property
    def _elements(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Elements of a row's lookups, numbered as `Layout.copied` does: where each lies in the groups, one after the other, and which column it belongs to."""
        first = np.cumsum([0, *self._counts])
        order, column_of = np.zeros(first[-1], dtype=np.int64), np.zeros(first[-1], dtype=np.int64)
        position = column = 0
        for group in self.groups:
            size, width = group.delta[0, 0].numel(), group.delta.shape[-1]
            for place in group.places:
                order[first[place]:first[place + 1]] = position + np.arange(size)
                column_of[first[place]:first[place + 1]] = column + np.arange(size) // width
                position, column = position + size, column + size // width
        return order, column_of

    @property
    def rows(self) -> int:
        """B."""
        return self.batch.rows

    def start_score(self) -> Tensor:
        """The score at the baseline, shape [B]; one forward pass."""
        with torch.no_grad():
            return self._scores(np.array([0.0]), slice(0, self.rows)).reshape(-1)

    def integrate(self, nodes: NDArray[np.float64], weights: NDArray[np.float64], *, edges: NDArray[np.float64] | None = None,
                  rows: NDArray[np.int64] | None = None, label: Tensor | None = None) -> Sums:
        """Contributions, summed over the nodes, for all rows or those given.

        Args:
            nodes: Increasing, in [0, 1], shape (n,).
            weights: Of the nodes, one row per rule, shape (R, n): several rules over the same nodes cost as much as one.
            edges: Ends of the nodes' cells, shape (n + 1,), to average kinks over; None takes derivatives as they are.
            rows: Positions among the recording's rows.
            label: Of the rows given, to get contributions to the loss by the first rule, too.
        """
        if rows is not None and not self.layout.repeatable:  # what is encoded again may be padded otherwise: all rows or none
            kept = torch.from_numpy(rows)
            every = None if label is None else label.new_zeros(self.rows).index_put_((kept.to(label.device),), label)
            found = self.integrate(nodes, weights, edges=edges, label=every)
            return Sums(found.columns[:, kept], None if found.loss is None else found.loss[kept])
        n, count = len(nodes), self.rows if rows is None else len(rows)
        at_a_time = max(3, self.points_at_a_time)
        together = max(1, at_a_time // n) if self.layout.repeatable else count
        window = n if n <= at_a_time else at_a_time - 2
        sums = torch.zeros(len(weights) + (label is not None), count, self.width, dtype=torch.float64, device=self.score.device)
        cells_of: dict[tuple[int, int], Cells] = {}
        scratch = Scratch()
        for start in range(0, count, together):
            chosen = slice(start, start + together) if rows is None else torch.from_numpy(rows[start:start + together])
            mine = slice(start, start + together)
            for low in range(0, n, window):
                high = min(n, low + window)
                # a node's cell needs its neighbours, also where these belong to the next window
                left, right = (max(0, low - 1), min(n, high + 1)) if edges is not None else (low, high)
                cells = cells_of.get((left, right))
                if cells is None and edges is not None and right - left > 1:
                    cells = cells_of.setdefault((left, right), Cells(nodes[left:right], edges[left:right + 1], scratch))
                own = np.zeros((len(weights), right - left))
                own[:, low - left:high - left] = weights[:, low:high]
                self._add(sums[:, mine], nodes[left:right], own, chosen, cells, None if label is None else label[mine])
        return Sums(sums[:len(weights)], None if label is None else sums[-1])

    # ------------------------------------------------------------------ one pass

    def _scores(self, nodes: NDArray[np.float64], rows: slice | Tensor) -> Tensor:
        moved, dense = self.moved(nodes, rows)
        return self.forward(len(nodes), rows, moved, dense)

    def _add(self, sums: Tensor, nodes: NDArray[np.float64], weights: NDArray[np.float64], rows: slice | Tensor, cells: Cells | None,
             label: Tensor | None) -> None:
        """Add the contributions of some nodes to the sums, shape [R, B, C]."""
        n, b = len(nodes), sums.shape[1]
        moved, dense = self.moved(nodes, rows)
        # a leaf per lookup: were the groups the leaves, their gradients would have to be put together first
        lookups = [value.detach().requires_grad_() for value in self._by_lookup(moved)]
        leaves = [*lookups, *(value.requires_grad_() for value in dense.values())]
        lines = None
        # where derivatives jump from node to node, rounding decides on which side a unit lies: plain rules keep the model's own
        if self.layout.copied and (cells is not None or not self.layout.kinked) and pays(len(sums), n):
            places = (place for group in self.groups for place in group.places)
            lines = StraightLines(self.layout.copied, self._counts, dict(zip(places, lookups, strict=True)), nodes, n * b)
        with torch.enable_grad():
            out = self._replayed(n, rows, lookups, dense, cells, lines)
            require_gradient(out)
            each = torch.as_tensor(weights, dtype=out.dtype, device=out.device)
            if label is not None:
                slope = loss_slope(out.detach().reshape(n, b), label, has_logit=self.has_logit)
                each = torch.cat([each.unsqueeze(2).expand(-1, -1, b), each[:1].unsqueeze(2) * slope])
            if lines is not None:
                lines.weights = each
            gradients = list(torch.autograd.grad(out.sum(), leaves, allow_unused=True))
        means = over_nodes(gradients, each)
        if lines is not None and lines.found:
            self._add_lines(sums, lines, rows)
        first = 0
        for group in self.groups:
            found, means = means[:len(group.places)], means[len(group.places):]
            delta = group.delta[:, rows]
            width = delta[0, 0].numel() // delta.shape[-1]
            last = first + width * len(found)
            if any(mean is not None for mean in found):
                nothing = delta.new_zeros(()).expand(len(sums), *delta.shape[1:])
                gradient = torch.stack([nothing if mean is None else mean.reshape(nothing.shape) for mean in found], 1)
                product = torch.linalg.vecdot(gradient, delta)
                sums[:, :, first:last] += product.reshape(len(sums), len(found), b, width).transpose(1, 2).flatten(2)
            first = last
        for (_, delta), mean in zip(self.dense.values(), means, strict=True):
            if mean is not None:
                mine = delta[rows]
                sums[:, :, first] += (mean.reshape(-1, *mine.shape) * mine).reshape(len(sums), b, -1).sum(-1)
            first += 1

    def _add_lines(self, sums: Tensor, lines: StraightLines, rows: slice | Tensor) -> None:
        """Add what first layers contribute to the sums, shape [R, B, C]."""
        delta = torch.cat([group.delta[:, rows].flatten(2).transpose(1, 2).flatten(0, 1) for group in self.groups])
        total = delta.new_zeros(self.width, len(sums) * delta.shape[1])
        for gradient, places in lines.found:
            where, column = (torch.from_numpy(found[places]).to(delta.device) for found in self._elements)
            total.index_add_(0, column, (gradient * delta[where].unsqueeze(1)).flatten(1))
        sums += total.reshape(self.width, len(sums), -1).permute(1, 2, 0)

    def moved(self, nodes: NDArray[np.float64], rows: slice | Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Lookups, shape [K, n, B, ..., D] per group, and dense inputs, shape [n * B, ...], at the nodes."""
        def between(start: Tensor | None, delta: Tensor, dimension: int) -> Tensor:
            along = torch.as_tensor(nodes, dtype=delta.dtype, device=delta.device)
            along = along.reshape(*[1] * dimension, -1, *[1] * (delta.dim() - dimension))
            step = delta.unsqueeze(dimension)
            return step * along if start is None else torch.addcmul(start.unsqueeze(dimension), step, along)

        moved = [between(None if group.start is None else group.start[:, rows], group.delta[:, rows], 1) for group in self.groups]
        return moved, {name: between(start[rows], delta[rows], 0).flatten(0, 1) for name, (start, delta) in self.dense.items()}

    def forward(self, n: int, rows: slice | Tensor, moved: Sequence[Tensor], dense: Mapping[str, Tensor], cells: Cells | None = None) -> Tensor:
        """The score where lookups and dense inputs have these values (see `moved`), shape [n * B]; derivatives are averaged over cells."""
        return self._replayed(n, rows, self._by_lookup(moved), dense, cells, None)

    def _by_lookup(self, moved: Sequence[Tensor]) -> list[Tensor]:
        """Views of the lookups in the order of the columns, as the model gets them."""
        return [value.flatten(0, 2 if group.flat else 1) for group, values in zip(self.groups, moved, strict=True) for value in values.unbind(0)]

    def _replayed(self, n: int, rows: slice | Tensor, values: Sequence[Tensor], dense: Mapping[str, Tensor], cells: Cells | None,
                  lines: StraightLines | None) -> Tensor:
        replay: list[Tensor | None] = [None] * len(self.sites.lookups)
        for place, value in zip((place for group in self.groups for place in group.places), values, strict=True):
            replay[place] = value
        for place, value in self.fixed.items():
            if not self.layout.per_row[place]:
                replay[place] = value
            else:
                own = value.reshape(self.rows, -1, *value.shape[1:])[rows]
                replay[place] = own.repeat(n, *[1] * (own.dim() - 1)).flatten(0, 1)
        subject = self.subject if lines is None else running_in(lines, self.subject)
        subject = subject if cells is None else running_in(AveragedKinks(cells, n * len(self.score[rows])), subject)
        trace = subject.run(self._inputs(n, rows, dense), self.stack, replay=replay)
        return trace.additive

    def _inputs(self, n: int, rows: slice | Tensor, dense: Mapping[str, Tensor]) -> Any:
        if self.layout.repeatable:
            own = {name: value[rows] for name, value in self.inputs.items() if name not in dense}
            return {**{name: value.repeat(n, *[1] * (value.dim() - 1)) for name, value in own.items()}, **dense}
        inputs = self.inputs if n == 1 else self.subject.encode(self.batch.take(np.tile(np.arange(self.rows), n)))
        return _with_dense(inputs, dense)
