"""The model where every field has its own place on the way from the baseline to the row: corners (coalitions) and what lies between.

Shapes: B rows, F fields, C points. A point is a number per field: 0 is the field's baseline, 1 the row's own value. Several points of all rows run as one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.lookups import Trace, require_gradient
from recspect.diagnosis.probes.attribution import Baseline
from recspect.diagnosis.probes.attribution.points import Layout
from recspect.diagnosis.probes.field_path import FieldPath
from recspect.diagnosis.sites import Sites
from recspect.diagnosis.subject import TorchSubject

POINT_ROWS = 4096
"""Rows times points in one pass: about what fits the processor's cache."""


class FieldPoints:
    """A chunk of rows, to be evaluated at points; use inside `subject.undisturbed()`, whose stack is `stack`.

    Args:
        subject: The model.
        stack: Names of the running modules.
        sites: Which lookup belongs to which field.
        layout: What a row and two rows told about the model.
        batch: The rows.
        baseline: Where fields are at 0, for these rows.
    """

    def __init__(self, subject: TorchSubject, stack: list[str], sites: Sites, layout: Layout, batch: Batch, baseline: Baseline) -> None:
        self.layout, self.rows = layout, batch.rows
        self.path = FieldPath.between(subject, stack, sites, subject.encode(batch), baseline)
        self.fields = sites.fields
        self.has_logit = self.path.recorded.logit is not None

    @classmethod
    def chunks(cls, subject: TorchSubject, stack: list[str], batch: Batch, baseline: Baseline, *, rows: int) -> Iterator[tuple[slice, FieldPoints]]:
        """All rows of a batch, so many at a time: which ones, and their points."""
        if not batch.rows:
            return
        sites = subject.sites(batch)
        layout = Layout.of(subject, sites, stack, batch)
        for start in range(0, batch.rows, rows):
            part = slice(start, start + rows)
            yield part, cls(subject, stack, sites, layout, batch.take(part), baseline.take(part))

    @property
    def score(self) -> Tensor:
        """The logit (or value) of the rows, shape [B]."""
        return self.path.recorded.additive.detach()

    @property
    def together(self) -> int:
        """How many points run in one batch."""
        return max(1, POINT_ROWS // max(self.rows, 1)) if self.layout.repeatable else 1

    def values(self, points: Tensor) -> Tensor:
        """The logit (or value) at points, shape [C, F] to [C, B]."""
        found = []
        with torch.no_grad():
            for few in points.split(self.together):
                leaves, dense = self._at(few)
                found.append(self._pass(len(few), leaves, dense).additive.reshape(len(few), self.rows))
        return torch.cat(found)

    def slopes(self, points: Tensor) -> Tensor:
        """By how much the logit rises along each field at points, shape [C, F] to [C, B, F]: slope times what lies between the field's baseline and the row."""
        found = []
        for few in points.split(self.together):
            leaves, dense, gradients, _ = self._gradients(few, graph=False)
            found.append(self._by_field(len(few), gradients, len(leaves)))
            del leaves, dense
        return torch.cat(found)

    def curvature(self, point: Tensor, fields: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Slopes at one point, shape [B, F], and their derivative along each of some fields, shape [B, F, len(fields)]: one more backward pass each."""
        few = point.unsqueeze(0)
        leaves, dense, gradients, entries = self._gradients(few, graph=True)
        slopes = self._by_field(1, gradients, len(leaves))[0]
        columns = []
        for f in fields:
            along = slopes[:, f].sum()
            if not along.requires_grad:
                columns.append(torch.zeros_like(slopes))
                continue
            second = torch.autograd.grad(along, entries, retain_graph=True, allow_unused=True)
            by_place = iter(second)
            full = [next(by_place) if leaf.requires_grad else None for leaf in (*leaves, *dense.values())]
            columns.append(self._by_field(1, full, len(leaves))[0].detach())
        return slopes.detach(), torch.stack(columns, 2)

    # ------------------------------------------------------------------ one pass

    def _gradients(self, points: Tensor, *, graph: bool) -> tuple[list[Tensor], dict[str, Tensor], list[Tensor | None], list[Tensor]]:
        leaves, dense = self._at(points)
        for leaf in (*leaves, *dense.values()):
            if leaf.is_floating_point():
                leaf.requires_grad_()
        entries = [leaf for leaf in (*leaves, *dense.values()) if leaf.requires_grad]
        with torch.enable_grad(), _without_fused_attention() if graph else nullcontext():
            out = self._pass(len(points), leaves, dense).additive
            require_gradient(out)
            found = iter(torch.autograd.grad(out.sum(), entries, create_graph=graph, allow_unused=True))
        return leaves, dense, [next(found) if leaf.requires_grad else None for leaf in (*leaves, *dense.values())], entries

    def _by_field(self, count: int, gradients: Sequence[Tensor | None], lookups: int) -> Tensor:
        """Slope times delta, summed over what belongs to a field: [C, B, F]."""
        path, rows = self.path, self.rows
        columns: list[Tensor] = [self.score.new_zeros(count, rows)] * (len(self.fields) + 1)
        for owner, gradient, delta in zip(path.owners, gradients[:lookups], path.deltas, strict=True):
            if gradient is None or delta.numel() % max(rows, 1) or not delta.numel():
                continue
            if owner.dim() == 0:
                if int(owner) < len(self.fields):
                    product = gradient.reshape(count, rows, -1) * delta.reshape(rows, -1)
                    columns[int(owner)] = columns[int(owner)] + product.sum(2)
                continue
            product = (gradient.reshape(count, rows, len(owner), -1) * delta.reshape(rows, len(owner), -1)).sum(3)
            for k, f in enumerate(owner.tolist()):
                columns[f] = columns[f] + product[..., k]
        number = {name: f for f, name in enumerate(self.fields)}
        for (name, delta), gradient in zip(path.dense_deltas.items(), gradients[lookups:], strict=True):
            if gradient is not None:
                columns[number[name]] = columns[number[name]] + (gradient.reshape(count, rows, -1) * delta.reshape(rows, -1)).sum(2)
        return torch.stack(columns[:-1], 2)

    def _at(self, points: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Lookups and dense inputs at points, the rows of the first point first."""
        path, count = self.path, len(points)
        points = points.to(self.score.device)
        share = torch.cat([points, points.new_ones(count, 1)], 1)  # what belongs to no field stays the row's own
        leaves = []
        for k, (owner, start, delta) in enumerate(zip(path.owners, path.starts, path.deltas, strict=True)):
            if not self.layout.per_row[k] or not delta.is_floating_point():
                leaves.append(start + delta)
                continue
            own = share[:, owner].to(delta)
            own = own.reshape(count, *[1] * delta.dim()) if owner.dim() == 0 else own.reshape(count, 1, -1, *[1] * (delta.dim() - 2))
            leaves.append(torch.addcmul(start.unsqueeze(0), delta.unsqueeze(0), own).flatten(0, 1))
        number = {name: f for f, name in enumerate(self.fields)}
        dense = {name: torch.addcmul(path.dense_starts[name].unsqueeze(0), delta.unsqueeze(0),
                                     points[:, number[name]].to(delta).reshape(count, *[1] * delta.dim())).flatten(0, 1)
                 for name, delta in path.dense_deltas.items()}
        return leaves, dense

    def _pass(self, count: int, leaves: Sequence[Tensor], dense: dict[str, Tensor]) -> Trace:
        path = self.path
        if count == 1:
            return path.pass_at(leaves, dense)
        inputs: dict[str, Any] = {name: tensor.repeat(count, *[1] * (tensor.dim() - 1)) for name, tensor in path.inputs.items() if name not in dense}
        return path.subject.run({**inputs, **dense}, path.stack, replay=leaves)


def _without_fused_attention() -> Any:
    """The fused kernels of attention cannot be differentiated twice."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)
