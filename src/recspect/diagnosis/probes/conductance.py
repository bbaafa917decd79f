"""How much of each field's contribution flows through each neuron of each layer: field-resolved conductance.

Shapes: B rows, F fields, n units of a layer.

For field f and neuron j of layer l,

    C[f, l, j](row) = integral over the path of  dy/dh_lj  x  (derivative of h_lj along the field's part of the path)

where y is the logit and the path runs from the baseline to the row in embedding space. Sums are identities, at every point of the path: over the neurons of a
layer that every way from the field to the logit crosses, C sums to the field's integrated gradient; over all fields, to the conductance of the neuron. Where
a way goes around the layer (FM, wide, cross, skip connections), what is missing from the field's integrated gradient is its bypass.

Sources: Dhamdhere, Sundararajan and Yan 2018, "How Important Is a Neuron?"; Shrikumar, Su and Kundaje 2018, "Computationally Efficient Measures of
Internal Neuron Importance"; the resolution by field and the two scores are defined in docs/importance.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspect.diagnosis.batch import Batch, Column
from recspect.diagnosis.lookups import loss_slope, require_gradient
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.probes.attribution import Baseline, RuleName, path_rule, zero_baseline
from recspect.diagnosis.probes.attribution.points import Layout
from recspect.diagnosis.probes.field_path import FieldPath
from recspect.diagnosis.probes.tangents import Layers, batched_tangents, chosen, dual_tangents, watched
from recspect.diagnosis.probes.towers import SAMPLE_ROWS, Call, Towers, Wiring, find_towers
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import UsageError

Route = Literal["auto", "towers", "batched", "dual"]
"""How derivatives are had: through matrices only, by torch.func for all fields at once, or one field at a time with dual numbers."""

_TANGENT_ROWS = 64
"""Rows whose derivatives go through a tower together: F times as many, which still fit into the cache of a core."""


@dataclass(frozen=True)
class Conductance:
    """Flow of every field through every neuron, per row.

    Args:
        fields: Names, in the order of dimension 0 of `flow`.
        layers: Names, input side first.
        flow: Per layer, shape [F, B, n], in logits.
        attribution: Integrated gradient of each field at the same points, shape [F, B].
        usefulness: The same of the loss with the other sign, nats, shape [F, B]; None without labels.
        score, baseline: Logit at the row and at the baseline, shape [B].
        route: How derivatives were had.
    """

    fields: tuple[str, ...]
    layers: tuple[str, ...]
    flow: dict[str, Tensor]
    attribution: Tensor
    usefulness: Tensor | None
    score: Tensor
    baseline: Tensor
    route: str

    @property
    def error(self) -> Tensor:
        """|sum over fields - (score - baseline)| per row: what the quadrature missed, shape [B]."""
        return (self.attribution.sum(0) - (self.score - self.baseline)).abs()

    def bypass(self, layer: str) -> Tensor:
        """What of each field's contribution goes around a layer, shape [F, B]."""
        return self.attribution - self.flow[layer].sum(2)


def find_layers(subject: TorchSubject, sample: Batch) -> Layers:
    """Names of the activation functions whose result has one row per row of the batch, in the order of the pass."""
    subject.sites(sample)
    few = sample.take(slice(0, SAMPLE_ROWS))
    with subject.undisturbed() as stack, torch.no_grad():
        trace = subject.run(subject.encode(few), stack, keep_activations=True)
    return tuple(name for name, tensor in trace.activations if tensor.shape[0] == few.rows)


def field_conductance(subject: TorchSubject, batch: Batch, *, baseline: Baseline | None = None, steps: int = 8, rule: RuleName = "auto",
                      layers: Sequence[str] | None = None, label: NDArray[np.float64] | None = None, route: Route = "auto",
                      megabytes: float = 64.0, towers: Towers | None = None) -> Conductance:
    """The flow of every field through every neuron of every layer.

    Args:
        subject: The model.
        batch: Rows to explain.
        baseline: Where the path begins; default zero.
        steps, rule: Points of the path; see `path_rule`.
        layers: Names of activations (`find_layers`) or of modules that return one tensor; default all activations.
        label: 0/1 for a model with a logit, else the target value, shape [B].
        route: `auto` takes towers where the model is made of them (told on a few rows, where both ways are compared), else torch.func, else dual numbers.
        megabytes: About how much memory a chunk of rows may take, besides the result.
        towers: What `find_towers` gave for this model earlier, so that it is not looked for again.

    Raises:
        SubjectError: Lookups or layers cannot be told, or the score does not depend on the lookups.
        UsageError: The model has no towers, and they were asked for.
    """
    sites = subject.sites(batch)
    layers = find_layers(subject, batch) if layers is None else tuple(layers)
    baseline = baseline or zero_baseline(sites)
    nodes, weights = path_rule(rule, steps, sites.functions)
    points = list(zip(nodes.tolist(), weights.tolist(), strict=True))
    if towers is None and route in ("auto", "towers"):
        towers = usable_towers(subject, batch, baseline, layers)
        if towers is None and route == "towers":
            raise UsageError("the layers of this model do not hang together by matrices alone", hint="route='auto' takes the general way")
    if route in ("batched", "dual"):
        towers = None
    parts: list[Conductance] = []
    chunk = _chunk_rows(subject, batch, layers, len(sites.fields), megabytes, towers)
    with subject.undisturbed() as stack:
        if batch.rows:
            Layout.of(subject, sites, stack, batch)  # raises where lookups are not row by row
        for start in range(0, batch.rows, chunk):
            rows = slice(start, start + chunk)
            path = FieldPath.between(subject, stack, sites, subject.encode(batch.take(rows)), baseline.take(rows))
            y = None if label is None else torch.as_tensor(np.array(label[rows])).to(path.recorded.output)
            found = None if towers is None else _through_towers(path, towers, points, y)
            parts.append(found or _through_any(path, layers, points, y, dual=route == "dual"))
    return _joined(parts, sites.fields, layers)


def usable_towers(subject: TorchSubject, sample: Batch, baseline: Baseline, layers: Layers) -> Towers | None:
    """The model's towers where, on a few rows, they give what the general way gives, to rounding; else None."""
    few = sample.take(slice(0, SAMPLE_ROWS))
    with subject.undisturbed() as stack:
        path = FieldPath.between(subject, stack, subject.sites(sample), subject.encode(few), baseline.take(slice(0, SAMPLE_ROWS)))
        towers = find_towers(path, layers)
        if towers is None:
            return None
        points = [(0.3, 0.5), (0.8, 0.5)]
        found, expected = _through_towers(path, towers, points, None), _through_any(path, layers, points, None, dual=False)
    if found is None:
        return None
    for name in layers:
        size = float(expected.flow[name].abs().max())
        if float((found.flow[name] - expected.flow[name]).abs().max()) > 256 * torch.finfo(found.score.dtype).eps * size:
            return None
    return towers


# ---------------------------------------------------------------------- one chunk of rows


class _Sums:
    """Running weighted sums over the points of a path."""

    def __init__(self, path: FieldPath, label: Tensor | None) -> None:
        self.path, self.label = path, label
        self.flows: list[Tensor | None] = [None] * (len(path.deltas) + len(path.dense_deltas))
        self.loss_flows: list[Tensor | None] = list(self.flows)

    def gradients(self, alpha: float, weight: float, layers: Layers, wiring: Wiring | None = None) -> tuple[list[Tensor], list[Tensor | None]]:
        """Pass and differentiate at a point: the layers, and the logit's gradient by them. Adds the gradient by the lookups up.

        `wiring` writes down the calls of the model, and none of ours.
        """
        leaves, dense = self.path.point(alpha, gradient=True)
        with watched(self.path.subject.model, layers) as seen, wiring or nullcontext():
            trace = self.path.pass_at(leaves, dense, keep_activations=True)
        out = trace.additive
        require_gradient(out)
        tensors = chosen(layers, [*trace.activations, *seen], self.path.rows)
        entries = [*leaves, *dense.values(), *tensors]
        reached = [k for k, tensor in enumerate(entries) if tensor.requires_grad]
        found: list[Tensor | None] = [None] * len(entries)
        for k, gradient in zip(reached, torch.autograd.grad(out.sum(), [entries[k] for k in reached], allow_unused=True), strict=True):
            found[k] = gradient
        mine = found[:len(self.flows)]
        _accumulate(self.flows, mine, weight, None)
        if self.label is not None:
            _accumulate(self.loss_flows, mine, weight, loss_slope(out.detach(), self.label, has_logit=trace.logit is not None))
        return [tensor.detach() for tensor in tensors], found[len(self.flows):]

    def done(self, layers: Layers, flow: Sequence[Tensor], begin: Tensor, route: str) -> Conductance:
        path = self.path
        usefulness = None if self.label is None else -path.by_field(self.loss_flows).T
        return Conductance(path.sites.fields, layers, dict(zip(layers, flow, strict=True)), path.by_field(self.flows).T, usefulness,
                           path.recorded.additive.detach(), begin.detach(), route)


def _accumulate(sums: list[Tensor | None], gradients: Sequence[Tensor | None], weight: float, slope: Tensor | None) -> None:
    for k, gradient in enumerate(gradients):
        if gradient is None:
            continue
        if sums[k] is None:
            sums[k] = torch.zeros_like(gradient)
        if slope is None or gradient.shape[:1] != slope.shape:  # a lookup of no field may have other rows; it is not added up
            sums[k].add_(gradient, alpha=weight)  # type: ignore[union-attr]
        else:
            sums[k].addcmul_(gradient, slope.reshape(-1, *[1] * (gradient.dim() - 1)).to(gradient), value=weight)  # type: ignore[union-attr]


def _through_any(path: FieldPath, layers: Layers, points: Sequence[tuple[float, float]], label: Tensor | None, *, dual: bool) -> Conductance:
    """Any model: forward-mode derivatives of all layers at every point."""
    sums = _Sums(path, label)
    flow: list[Tensor] = []
    for alpha, weight in points:
        tensors, gradients = sums.gradients(alpha, weight, layers)
        tangents = None if dual else batched_tangents(path, alpha, layers)
        if tangents is None:
            dual = True
            tangents = dual_tangents(path, alpha, layers)
        if not flow:
            flow = [tensor.new_zeros(len(path.sites.fields), path.rows, tensor.shape[-1]) for tensor in tensors]
        for total, gradient, tangent in zip(flow, gradients, tangents, strict=True):
            if gradient is not None:
                product = tangent * gradient
                total.add_(product.reshape(*product.shape[:2], -1, product.shape[-1]).sum(2), alpha=weight)
    return sums.done(layers, flow, _at_baseline(path, None), "dual" if dual else "batched")


def _through_towers(path: FieldPath, towers: Towers, points: Sequence[tuple[float, float]], label: Tensor | None) -> Conductance | None:
    """A model made of towers; None where a pass shows that it is not."""
    recorded, start = Wiring(), Wiring()
    with torch.no_grad(), recorded:
        path.pass_at(*path.point(1.0))
    begin = _at_baseline(path, start)
    sums = _Sums(path, label)
    fields, rows = len(path.sites.fields), path.rows
    if not towers.holds(0.0, start.calls, recorded.calls, start.calls):
        return None
    with torch.no_grad():
        first = towers.first(recorded.calls, start.calls)
    flow: list[Tensor] = []
    constant: dict[int, Tensor] = {}
    for alpha, weight in points:
        wiring = Wiring()
        tensors, gradients = sums.gradients(alpha, weight, towers.layers, wiring)
        calls: list[Call] = wiring.calls
        if not towers.holds(alpha, calls, recorded.calls, start.calls):
            return None
        with torch.no_grad():
            if not flow:
                flow = [tensor.new_zeros(fields, rows, tensor.shape[1]) for tensor in tensors]
            slopes = [calls[reach.activation].slope().detach() for reach in towers.reaches]
            weights = [torch.zeros_like(tensor) if gradient is None else gradient * weight
                       for tensor, gradient in zip(tensors, gradients, strict=True)]
            for k in first:
                constant[k] = constant.get(k, 0) + weights[k] * slopes[k]
            for at in range(0, rows, _TANGENT_ROWS):
                towers.add_flow(flow, weights, slopes, first, calls, slice(at, at + _TANGENT_ROWS))
    for k, tangent in first.items():
        torch.mul(tangent, constant[k], out=flow[k])
    return sums.done(towers.layers, flow, begin, "towers")


def _at_baseline(path: FieldPath, wiring: Wiring | None) -> Tensor:
    leaves, dense = path.point(0.0)
    with torch.no_grad():
        if wiring is None:
            return path.pass_at(leaves, dense).additive
        with wiring:
            return path.pass_at(leaves, dense).additive


def _chunk_rows(subject: TorchSubject, batch: Batch, layers: Layers, fields: int, megabytes: float, towers: Towers | None) -> int:
    """How many rows fit: per row F floats for every unit, and the general way also needs F copies of every lookup."""
    few = batch.take(slice(0, min(SAMPLE_ROWS, batch.rows)))
    if not few.rows:
        return 1
    with subject.undisturbed() as stack, torch.no_grad(), watched(subject.model, layers) as seen:
        trace = subject.run(subject.encode(few), stack, keep_activations=True)
    units = sum(tensor[0].numel() for tensor in chosen(layers, [*trace.activations, *seen], few.rows))
    lookups = 0 if towers is not None else sum(lookup.output.numel() // few.rows for lookup in trace.lookups)
    size = trace.output.element_size() * fields * (3 * units + 3 * lookups + 1)
    return int(min(max(megabytes * 2**20 / size, 16), 1024))


def _joined(parts: Sequence[Conductance], fields: tuple[str, ...], layers: Layers) -> Conductance:
    if not parts:
        none = torch.zeros(0)
        return Conductance(fields, layers, {name: torch.zeros(len(fields), 0, 0) for name in layers}, torch.zeros(len(fields), 0), None, none, none, "none")
    if len(parts) == 1:
        return parts[0]
    usefulness = None if parts[0].usefulness is None else torch.cat([part.usefulness for part in parts], 1)  # type: ignore[misc]
    return Conductance(fields, layers, {name: torch.cat([part.flow[name] for part in parts], 1) for name in layers},
                       torch.cat([part.attribution for part in parts], 1), usefulness, torch.cat([part.score for part in parts]),
                       torch.cat([part.baseline for part in parts]), " and ".join(sorted({part.route for part in parts})))


# ---------------------------------------------------------------------- as columns


class ConductanceProbe(Probe):
    """The flow of every field through every layer, as columns.

    Adds, for every field f and layer l, `@conductance:f:l` (matrix [B, n], logits), and at the same points `@attribution:f` and, with labels,
    `@usefulness:f`, then `@flow_error` (how far all fields together are from the logit's difference) and `@flow_explained` (its size). A row takes F x (sum of n) numbers, so give it batches of `rows_within(...)` rows.

    Args:
        subject: The model.
        baseline: Where paths begin.
        layers: Names of the layers; `find_layers` gives them.
        label: Column of labels for usefulness, or None.
        steps, rule: See `field_conductance`.
        suffix: Put behind every name, to tell several models apart, such as ":epoch-3".
    """

    def __init__(self, subject: TorchSubject, *, baseline: Baseline, layers: Sequence[str], label: str | None = "@label", steps: int = 8,
                 rule: RuleName = "auto", suffix: str = "") -> None:
        self.subject, self.baseline, self.layers, self.label = subject, baseline, tuple(layers), label
        self.steps, self.rule, self.suffix = steps, rule, suffix
        self._towers: Towers | None = None
        self._looked = False

    @property
    def adds(self) -> tuple[str, ...]:
        fields = self.subject.sites().fields
        flows = [f"@conductance:{field}:{layer}" for field in fields for layer in self.layers]
        kinds = ("attribution", "usefulness") if self.label else ("attribution",)
        names = (*flows, *(f"@{kind}:{field}" for kind in kinds for field in fields), "@flow_error", "@flow_explained")
        return tuple(f"{name}{self.suffix}" for name in names)

    def rows_within(self, sample: Batch, *, megabytes: float = 64.0) -> int:
        """Rows whose columns take about so much memory."""
        self._look_for_towers(sample)
        few = field_conductance(self.subject, sample.take(slice(0, 2)), baseline=self.baseline, layers=self.layers, steps=1,
                                route="dual" if self._towers is None else "auto", towers=self._towers)
        units = sum(tensor.shape[2] for tensor in few.flow.values())
        return int(min(max(megabytes * 2**20 / (4 * len(few.fields) * max(units, 1)), 64), 8192))

    def _look_for_towers(self, batch: Batch) -> None:
        if not self._looked and batch.rows:
            self._towers, self._looked = usable_towers(self.subject, batch, self.baseline, self.layers), True

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        label = batch.numbers(self.label) if self.label else None
        self._look_for_towers(batch)
        found = field_conductance(self.subject, batch, baseline=self.baseline, layers=self.layers, label=label, steps=self.steps, rule=self.rule,
                                  route="auto" if self._towers is not None else "batched", towers=self._towers)
        columns: dict[str, Column] = {f"@flow_error{self.suffix}": found.error.double().cpu().numpy(),
                                      f"@flow_explained{self.suffix}": (found.score - found.baseline).abs().double().cpu().numpy()}
        for f, field in enumerate(found.fields):
            for layer in self.layers:
                columns[f"@conductance:{field}:{layer}{self.suffix}"] = found.flow[layer][f].cpu().numpy()
            columns[f"@attribution:{field}{self.suffix}"] = found.attribution[f].double().cpu().numpy()
            if found.usefulness is not None:
                columns[f"@usefulness:{field}{self.suffix}"] = found.usefulness[f].double().cpu().numpy()
        return columns
