"""The straight line from a baseline to the rows in embedding space, and its direction along each field.

Shapes: B rows, F fields, D embedding width, K columns of a fused lookup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recspect.diagnosis.lookups import Trace
from recspect.diagnosis.probes.attribution import Baseline
from recspect.diagnosis.sites import Site, Sites, check_same, input_tensors
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError


@dataclass(frozen=True)
class FieldPath:
    """A path for a chunk of rows.

    Args:
        subject: The model; its passes run inside `undisturbed`, whose stack this is.
        stack: Names of the running modules.
        sites: Which lookup belongs to which field.
        inputs: The encoded rows.
        recorded: The pass that was recorded at the rows themselves.
        starts, deltas: Per lookup, the output at the baseline and what the row adds to it.
        dense_starts, dense_deltas: The same per dense input.
    """

    subject: TorchSubject
    stack: list[str]
    sites: Sites
    inputs: Any
    recorded: Trace
    starts: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]
    dense_starts: Mapping[str, Tensor]
    dense_deltas: Mapping[str, Tensor]

    @classmethod
    def between(cls, subject: TorchSubject, stack: list[str], sites: Sites, inputs: Any, baseline: Baseline) -> FieldPath:
        """From the baseline to these rows.

        Raises:
            SubjectError: The model looks up other tables than when its fields were found, or the baseline's lists have another length.
        """
        with torch.no_grad():
            recorded = subject.run(inputs, stack)
        check_same(sites, recorded)
        tensors = input_tensors(inputs)
        if baseline.is_fixed:
            begins = baseline.lookups
            dense = {name: baseline.dense[name].to(tensors[name]).expand_as(tensors[name]) for name in sites.dense}
        else:
            begins, dense = _recorded_baseline(subject, stack, sites, inputs, baseline)
        starts, deltas = [], []
        for site, lookup, begin in zip(sites.lookups, recorded.lookups, begins, strict=True):
            value = lookup.output.detach()
            if not site.parts:
                start = value
            elif begin is None:
                start = torch.zeros_like(value)
            elif begin.dim() < value.dim():
                start = begin.to(value).expand_as(value)
            elif begin.shape == value.shape:
                start = begin
            else:
                raise SubjectError(f"lookup {site.table} gives {tuple(value.shape)} for the rows, but {tuple(begin.shape)} for their baseline",
                                   hint="pad the lists of both to one length, or take only fields without lists from the baseline rows")
            starts.append(start)
            deltas.append(value - start)
        dense_deltas = {name: tensors[name] - dense[name] for name in sites.dense}
        return cls(subject, stack, sites, inputs, recorded, tuple(starts), tuple(deltas), dense, dense_deltas)

    @property
    def rows(self) -> int:
        """Rows of the chunk."""
        return self.recorded.output.shape[0]

    @cached_property
    def owners(self) -> tuple[Tensor, ...]:
        """Per lookup, the number of the field that owns its output: shape [] or, by column of a fused lookup, [K]; F where no field does."""
        number = {field: f for f, field in enumerate(self.sites.fields)}
        return tuple(_owner(site, delta, number) for site, delta in zip(self.sites.lookups, self.deltas, strict=True))

    def one_field_at_a_time(self) -> Tensor:
        """Shares for `direction` that give each field its turn, shape [F, F]."""
        return torch.eye(len(self.sites.fields), dtype=self.recorded.output.dtype, device=self.recorded.output.device)

    def point(self, alpha: float, *, gradient: bool = False) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Lookup outputs and dense inputs at a place of the path: 0 is the baseline, 1 the rows."""
        leaves = [torch.add(start, delta, alpha=alpha) for start, delta in zip(self.starts, self.deltas, strict=True)]
        dense = {name: torch.add(self.dense_starts[name], self.dense_deltas[name], alpha=alpha) for name in self.dense_starts}
        if gradient:
            for leaf in (*leaves, *dense.values()):
                if leaf.is_floating_point():
                    leaf.requires_grad_()
        return leaves, dense

    def pass_at(self, leaves: Sequence[Tensor], dense: Mapping[str, Tensor], *, keep_activations: bool = False) -> Trace:
        """The model at a place of the path."""
        return self.subject.run(self.inputs_with(dense), self.stack, replay=leaves, keep_activations=keep_activations)

    def inputs_with(self, dense: Mapping[str, Tensor]) -> Any:
        """The inputs with other dense values.

        Raises:
            SubjectError: They are no mapping and no tensor.
        """
        if not dense:
            return self.inputs
        if isinstance(self.inputs, dict):
            return {**self.inputs, **dense}
        if isinstance(self.inputs, Tensor):
            return dense["input"]
        raise SubjectError(f"dense inputs inside a {type(self.inputs).__name__} cannot be replaced",
                           hint="let encode(batch) return a dict, and take it apart in forward=lambda model, inputs: ...")

    def direction(self, share: Tensor, leaves: Sequence[Tensor], dense: Mapping[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """What the path's direction is when field f counts with `share[f]`, shape [F]; `leaves` and `dense` are directions of all fields together."""
        padded = torch.cat([share, share.new_zeros(1)])
        out = []
        for owner, leaf in zip(self.owners, leaves, strict=True):
            own = padded[owner]
            out.append(leaf * (own if own.dim() == 0 else own.reshape(1, -1, *[1] * (leaf.dim() - 2))).to(leaf))
        number = {field: f for f, field in enumerate(self.sites.fields)}
        return out, {name: value * share[number[name]].to(value) for name, value in dense.items()}

    def by_field(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Sum of gradient x direction over each field's lookups and dense input, shape [B, F]; gradients of lookups, then of dense inputs."""
        total = self.recorded.output.new_zeros(self.rows, len(self.sites.fields) + 1)
        for owner, gradient, delta in zip(self.owners, gradients[:len(self.deltas)], self.deltas, strict=True):
            if gradient is None:
                continue
            product = gradient * delta
            if owner.dim() == 0:
                total[:, int(owner)] += product.reshape(self.rows, -1).sum(1)
            else:
                total.index_add_(1, owner, product.reshape(self.rows, len(owner), -1).sum(2))
        number = {field: f for f, field in enumerate(self.sites.fields)}
        for (name, delta), gradient in zip(self.dense_deltas.items(), gradients[len(self.deltas):], strict=True):
            if gradient is not None:
                total[:, number[name]] += (gradient * delta).reshape(self.rows, -1).sum(1)
        return total[:, :-1]


def _recorded_baseline(subject: TorchSubject, stack: list[str], sites: Sites, inputs: Any, baseline: Baseline,
                       ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Lookups and dense inputs at a baseline that is another row for every row."""
    there = baseline.inputs(subject, inputs)
    with torch.no_grad():
        recorded = subject.run(there, stack)
    check_same(sites, recorded)
    tensors = input_tensors(there)
    return tuple(lookup.output.detach() for lookup in recorded.lookups), {name: tensors[name] for name in sites.dense}


def _owner(site: Site, delta: Tensor, number: Mapping[str, int]) -> Tensor:
    if not site.parts:
        return torch.tensor(len(number), device=delta.device)
    if site.parts[0].columns is None:
        return torch.tensor(number[site.parts[0].field], device=delta.device)
    owner = torch.full((delta.shape[1],), len(number), device=delta.device)
    for part in site.parts:
        owner[list(part.columns or ())] = number[part.field]
    return owner
