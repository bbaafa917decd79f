"""What each field contributes to each row's score: integrated gradients over the lookups, and gradient x input.

Shapes: B rows, D embedding width, L entries of a sequence, F columns of a fused lookup.

The path runs in embedding space from a baseline to the row, since no path exists between ids. Along it only the recorded lookups change; tables are
not read again, steps are streamed, so that memory does not grow with their number. What adds up is the logit:
sum over fields = logit(row) - logit(baseline), and the deviation from that is reported for every row.

Sources: Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks"; usefulness is the same integral of the loss
(design notes of this project, docs/importance.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from recspect.diagnosis.batch import Batch, Column
from recspect.diagnosis.lookups import PIECEWISE_LINEAR, Trace
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.sites import Site, Sites, check_same, input_tensors
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError, UsageError

RuleName = Literal["auto", "midpoint", "gauss_legendre", "trapezoid"]


def path_rule(name: RuleName, steps: int, functions: Sequence[str] = ()) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes in [0, 1] and weights that sum to 1, shape (steps,) each (trapezoid: steps + 1 nodes).

    `auto` takes Gauss-Legendre for smooth networks and midpoints where the gradient jumps (ReLU and relatives), where
    Gauss-Legendre has no advantage.

    Raises:
        UsageError: Unknown name, or fewer than 1 step.
    """
    if steps < 1:
        raise UsageError(f"integrated gradients need at least 1 step, got {steps}")
    if name == "auto":
        name = "midpoint" if set(functions) & PIECEWISE_LINEAR else "gauss_legendre"
    if name == "midpoint":
        return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)
    if name == "gauss_legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return (nodes + 1) / 2, weights / 2
    if name == "trapezoid":
        weights = np.full(steps + 1, 1 / steps)
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, steps + 1), weights
    raise UsageError(f"no rule {name!r}", hint="rules: auto, midpoint, gauss_legendre, trapezoid")


@dataclass(frozen=True)
class Baseline:
    """Where the path begins.

    Args:
        name: `zero`, or `mean`: the frequency-weighted mean embedding of each field, so that a field that never changes gets 0.
        lookups: Per lookup, None for zero, else the mean output, shape [D] or [F, D].
        dense: Per dense input, the value, shape [] or [W].
    """

    name: str
    lookups: tuple[Tensor | None, ...]
    dense: Mapping[str, Tensor]


def zero_baseline(sites: Sites) -> Baseline:
    """All lookups and dense inputs at 0."""
    return Baseline("zero", (None,) * len(sites.lookups), dict.fromkeys(sites.dense, torch.zeros(())))


def mean_baseline(subject: TorchSubject, sample: Batch) -> Baseline:
    """Every field at its mean over a sample of rows (each id counts as often as it occurs; padding id 0 of lists is left out)."""
    sites = subject.sites(sample)
    inputs = subject.encode(sample)
    with subject.undisturbed() as stack, torch.no_grad():
        trace = subject.run(inputs, stack)
    check_same(sites, trace)
    means: list[Tensor | None] = []
    for site, lookup in zip(sites.lookups, trace.lookups, strict=True):
        output = lookup.output.detach()
        if not site.parts:
            means.append(None)
        elif output.dim() == 3 and site.parts[0].columns is None:
            entries = output.reshape(-1, output.shape[-1])
            inside = (lookup.ids.reshape(-1) != 0) if lookup.ids.numel() == entries.shape[0] else slice(None)
            chosen = entries[inside]
            means.append(chosen.mean(0) if len(chosen) else entries.mean(0))
        else:
            means.append(output.mean(0))
    tensors = input_tensors(inputs)
    dense = {name: torch.nan_to_num(tensors[name]).mean(0) for name in sites.dense}
    return Baseline("mean", tuple(means), dense)


@dataclass(frozen=True)
class Attribution:
    """Contributions of fields to rows.

    Args:
        reliance: Field to signed contribution to the logit, shape [B].
        usefulness: Field to the loss reduction in nats (or squared units) attributed to it, shape [B]; empty without labels.
        entries: Field to contributions per entry of a list field, shape [B, L].
        score: The logit (or value) of each row, shape [B].
        baseline: The logit at the baseline, shape [B].
        error: |sum over fields - (score - baseline)|, shape [B].
    """

    reliance: dict[str, Tensor]
    usefulness: dict[str, Tensor]
    entries: dict[str, Tensor]
    score: Tensor
    baseline: Tensor
    error: Tensor


def integrated_gradients(subject: TorchSubject, batch: Batch, *, baseline: Baseline | None = None, steps: int = 8,
                         rule: RuleName = "auto", label: NDArray[np.float64] | None = None, chunk_rows: int = 1024,
                         ) -> Attribution:
    """Integrated gradients of the logit, and with labels of the loss, for all fields at once.

    Args:
        subject: The model.
        batch: Rows to explain.
        baseline: Where the path begins; default zero.
        steps: Points along the path; each costs one forward and one backward pass through what follows the lookups.
        rule: See `path_rule`.
        label: 0/1 for a model with a logit, else the target value; shape [B].
        chunk_rows: Rows at a time; about 1,000 stay in cache on a CPU.

    Raises:
        SubjectError: Lookups cannot be told, or the score does not depend on them.
    """
    sites = subject.sites(batch)
    baseline = baseline or zero_baseline(sites)
    nodes, weights = path_rule(rule, steps, sites.functions)
    parts = []
    with subject.undisturbed() as stack:
        for start in range(0, batch.rows, chunk_rows):
            chunk = batch.take(slice(start, start + chunk_rows))
            y = None if label is None else torch.as_tensor(label[start:start + chunk_rows], dtype=torch.float32)
            parts.append(_chunk(subject, sites, subject.encode(chunk), stack, baseline, nodes, weights, y))
    return _joined(parts)


def gradient_times_input(subject: TorchSubject, batch: Batch, *, chunk_rows: int = 4096) -> Attribution:
    """Gradient x input: one pass, no baseline, does not add up where fields are multiplied (an FM gets twice its value)."""
    sites = subject.sites(batch)
    baseline = zero_baseline(sites)
    parts = []
    with subject.undisturbed() as stack:
        for start in range(0, batch.rows, chunk_rows):
            inputs = subject.encode(batch.take(slice(start, start + chunk_rows)))
            parts.append(_chunk(subject, sites, inputs, stack, baseline, np.array([1.0]), np.array([1.0]), None))
    return _joined(parts)


# ---------------------------------------------------------------------- one chunk of rows


def _chunk(subject: TorchSubject, sites: Sites, inputs: Any, stack: list[str], baseline: Baseline,
           nodes: NDArray[np.float64], weights: NDArray[np.float64], label: Tensor | None) -> Attribution:
    with torch.no_grad():
        trace = subject.run(inputs, stack)
    check_same(sites, trace)
    values = [lookup.output.detach() for lookup in trace.lookups]
    starts = [_start(site, value, mean) for site, value, mean in zip(sites.lookups, values, baseline.lookups, strict=True)]
    deltas = [value - start for value, start in zip(values, starts, strict=True)]
    tensors = input_tensors(inputs)
    dense = {name: tensors[name] for name in sites.dense}
    dense_starts = {name: baseline.dense[name].to(value).expand_as(value) for name, value in dense.items()}
    dense_deltas = {name: value - dense_starts[name] for name, value in dense.items()}

    flow = [torch.zeros_like(value) for value in values]
    loss_flow = [torch.zeros_like(value) for value in values] if label is not None else []
    dense_flow = {name: torch.zeros_like(value) for name, value in dense.items()}
    dense_loss_flow = {name: torch.zeros_like(value) for name, value in dense.items()} if label is not None else {}

    def at(alpha: float, *, gradient: bool) -> tuple[Trace, list[Tensor], list[Tensor]]:
        leaves = [torch.add(start, delta, alpha=alpha).requires_grad_(gradient and value.is_floating_point())
                  for start, delta, value in zip(starts, deltas, values, strict=True)]
        moved = {name: torch.add(dense_starts[name], dense_deltas[name], alpha=alpha).requires_grad_(gradient) for name in dense}
        replaced = _with_tensors(inputs, moved) if moved else inputs
        return subject.run(replaced, stack, replay=leaves), leaves, list(moved.values())

    for alpha, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        step, leaves, dense_leaves = at(alpha, gradient=True)
        out = step.additive
        if not out.requires_grad:
            raise SubjectError("the score does not depend on the lookups by differentiable operations",
                               hint="the model may run under torch.no_grad() or detach its embeddings; give forward=... that does not")
        gradients = torch.autograd.grad(out.sum(), [*leaves, *dense_leaves], allow_unused=True)
        slope = None
        if label is not None:
            predicted = torch.sigmoid(out.detach()) if step.logit is not None else out.detach()
            slope = (predicted - label) if step.logit is not None else 2 * (predicted - label)
        for k, gradient in enumerate(gradients[:len(leaves)]):
            if gradient is not None:
                flow[k].add_(gradient, alpha=weight)
                if slope is not None:
                    loss_flow[k].addcmul_(gradient, _like(slope, gradient), value=weight)
        for name, gradient in zip(dense, gradients[len(leaves):], strict=True):
            if gradient is not None:
                dense_flow[name].add_(gradient, alpha=weight)
                if slope is not None:
                    dense_loss_flow[name].addcmul_(gradient, _like(slope, gradient), value=weight)
        del step, gradients

    with torch.no_grad():
        start_trace, _, _ = at(0.0, gradient=False)
    reliance, entries = _by_field(sites, flow, deltas)
    usefulness: dict[str, Tensor] = {}
    if label is not None:
        usefulness = {name: -value for name, value in _by_field(sites, loss_flow, deltas)[0].items()}
    for name in dense:
        reliance[name] = reliance.get(name, 0) + _rowwise(dense_flow[name] * dense_deltas[name])
        if label is not None:
            usefulness[name] = usefulness.get(name, 0) - _rowwise(dense_loss_flow[name] * dense_deltas[name])
    score, begin = trace.additive.detach(), start_trace.additive.detach()
    total = sum(reliance.values(), torch.zeros_like(score))
    return Attribution(reliance, usefulness, entries, score, begin, (total - (score - begin)).abs())


def _start(site: Site, value: Tensor, mean: Tensor | None) -> Tensor:
    if not site.parts:
        return value
    return torch.zeros_like(value) if mean is None else mean.to(value).expand_as(value)


def _like(slope: Tensor, gradient: Tensor) -> Tensor:
    if gradient.shape[:1] != slope.shape:
        raise SubjectError(f"a lookup of shape {tuple(gradient.shape)} does not begin with the rows of the batch ({len(slope)})",
                           hint="lookups whose rows are not the batch's rows can be examined for reliance only")
    return slope.reshape(-1, *[1] * (gradient.dim() - 1)).to(gradient)


def _rowwise(product: Tensor) -> Tensor:
    return product.reshape(product.shape[0], -1).sum(1)


def _by_field(sites: Sites, flow: Sequence[Tensor], deltas: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sum each field over all its lookups (its embedding and its first-order weight, each occurrence of a shared table)."""
    total: dict[str, Tensor] = {}
    entries: dict[str, Tensor] = {}
    for site, gradient, delta in zip(sites.lookups, flow, deltas, strict=True):
        product = (gradient * delta).sum(-1)
        for part in site.parts:
            mine = product if part.columns is None else product[:, list(part.columns)]
            row = mine if mine.dim() == 1 else mine.reshape(mine.shape[0], -1).sum(1)
            total[part.field] = total[part.field] + row if part.field in total else row
            if mine.dim() == 2 and mine.shape[1] > 1:
                entries[part.field] = entries[part.field] + mine if part.field in entries else mine
    return total, entries


def _with_tensors(inputs: Any, moved: Mapping[str, Tensor]) -> Any:
    if isinstance(inputs, dict):
        return {**inputs, **moved}
    if isinstance(inputs, Tensor):
        return moved["input"]
    raise SubjectError(f"dense inputs inside a {type(inputs).__name__} cannot be replaced",
                       hint="let encode(batch) return a dict, and take it apart in forward=lambda model, inputs: ...")


def _joined(parts: Sequence[Attribution]) -> Attribution:
    if not parts:
        empty = torch.zeros(0)
        return Attribution({}, {}, {}, empty, empty, empty)

    def cat(which: str) -> dict[str, Tensor]:
        dicts = [getattr(part, which) for part in parts]
        width = {name: max(d[name].shape[-1] for d in dicts) for name in dicts[0]} if which == "entries" else {}
        return {name: torch.cat([F.pad(d[name], (0, width[name] - d[name].shape[-1])) if width else d[name] for d in dicts])
                for name in dicts[0]}

    return Attribution(cat("reliance"), cat("usefulness"), cat("entries"), torch.cat([part.score for part in parts]),
                       torch.cat([part.baseline for part in parts]), torch.cat([part.error for part in parts]))


# ---------------------------------------------------------------------- as columns


class AttributionProbe(Probe):
    """What every field contributed to the score of a row.

    Adds `@attribution:f` (signed, logit), `@reliance:f` (its size), `@usefulness:f` (nats) for every field f, and
    `@completeness_error`, `@explained` (size of score - baseline) per row.

    Args:
        subject: The model.
        baseline: Where paths begin; the mean of the rows where none is given.
        label: Column of labels for usefulness, or None.
        steps, rule: See `integrated_gradients`.
    """

    def __init__(self, subject: TorchSubject, *, baseline: Baseline, label: str | None = "@label", steps: int = 8,
                 rule: RuleName = "auto") -> None:
        self.subject, self.baseline, self.label, self.steps, self.rule = subject, baseline, label, steps, rule

    @property
    def adds(self) -> tuple[str, ...]:
        fields = self.subject.sites().fields
        kinds = ("attribution", "reliance", *(("usefulness",) if self.label else ()))
        return (*(f"@{kind}:{field}" for kind in kinds for field in fields), "@completeness_error", "@explained")

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        label = batch.numbers(self.label) if self.label else None
        found = integrated_gradients(self.subject, batch, baseline=self.baseline, steps=self.steps, rule=self.rule, label=label)
        columns: dict[str, Column] = {}
        for field in self.subject.sites().fields:
            signed = _array(found.reliance[field])
            columns[f"@attribution:{field}"] = signed
            columns[f"@reliance:{field}"] = np.abs(signed)
            if label is not None:
                columns[f"@usefulness:{field}"] = _array(found.usefulness[field])
        columns["@completeness_error"] = _array(found.error)
        columns["@explained"] = np.abs(_array(found.score - found.baseline))
        return columns


def _array(tensor: Tensor) -> NDArray[np.float64]:
    out: NDArray[np.float64] = tensor.detach().to(torch.float64).cpu().numpy()
    return out
