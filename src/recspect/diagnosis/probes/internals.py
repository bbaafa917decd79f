"""What happens between the lookups and the score: activations, their gradients, and the table rows that were read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from recspect.diagnosis.batch import Batch, Column, Ragged
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.sites import check_same
from recspect.diagnosis.subject import SCORE_ROWS, Subject, TorchSubject


class ScoreProbe(Probe):
    """Adds the scores of one or several models.

    A model that stands under several names is run once, and PyTorch models that share their encoding (see
    `TorchSubject.with_model`) share the encoded rows.

    Args:
        subject: Any model; its scores are the column `column`.
        column: Name of the added column.
        others: More models by the name of their column.
        rows: Rows scored at a time.
    """

    def __init__(self, subject: Subject, *, column: str = "@score", others: Mapping[str, Subject] | None = None,
                 rows: int = SCORE_ROWS) -> None:
        self.subjects = {column: subject, **(others or {})}
        self.rows = rows

    @property
    def adds(self) -> tuple[str, ...]:
        return tuple(self.subjects)

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        distinct = {id(subject): subject for subject in self.subjects.values()}
        parts: dict[int, list[np.ndarray]] = {key: [] for key in distinct}  # type: ignore[type-arg]
        for piece in batch.pieces(self.rows):
            encoded: dict[Any, Any] = {}
            for key, subject in distinct.items():
                if not isinstance(subject, TorchSubject):
                    parts[key].append(subject.score(piece))
                    continue
                if subject.encoding not in encoded:
                    encoded[subject.encoding] = subject.encode(piece)
                parts[key].append(subject.score_encoded(encoded[subject.encoding], piece.rows))
        scores = {key: np.concatenate(found) if found else np.zeros(0) for key, found in parts.items()}
        return {column: scores[id(subject)] for column, subject in self.subjects.items()}


class InternalsProbe(Probe):
    """Adds `@activation:layer` (matrix [B, units]) and `@gradient_norm:layer` ([B]) for every activation layer.

    Where the function is a sigmoid or tanh, its argument is added too: `@squashed:layer` ([B, units]).

    The gradient is that of the row's loss by the layer's activations, over the square root of the number of units, so that layers of
    different widths compare. Sequences inside a layer ([B, L, units]) are averaged over L; their arguments are not added.

    Args:
        subject: The model.
        label: Column of labels; without it no gradients are added.
    """

    def __init__(self, subject: TorchSubject, *, label: str | None = "@label") -> None:
        self.subject, self.label = subject, label
        self._layers: tuple[str, ...] | None = None
        self._squashed: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers met; known after the first batch."""
        return self._layers or ()

    @property
    def adds(self) -> tuple[str, ...]:
        kinds = ("activation", "gradient_norm") if self.label else ("activation",)
        return (*(f"@{kind}:{layer}" for kind in kinds for layer in self.layers), *(f"@squashed:{layer}" for layer in self._squashed))

    def find_layers(self, sample: Batch) -> tuple[str, ...]:
        """Run one batch to learn the names of the layers."""
        self.observe(sample)
        return self.layers

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        sites = self.subject.sites(batch)
        inputs = self.subject.encode(batch)
        with self.subject.undisturbed() as stack:
            with torch.no_grad():
                recorded = self.subject.run(inputs, stack)
            check_same(sites, recorded)
            leaves = [lookup.output.detach().requires_grad_() for lookup in recorded.lookups]
            trace = self.subject.run(inputs, stack, replay=leaves, keep_activations=True)
            layers = [(name, tensor) for name, tensor in trace.activations if tensor.shape[0] == batch.rows]
            self._layers = tuple(name for name, _ in layers)
            columns: dict[str, Column] = {f"@activation:{name}": _per_row(tensor.detach()).numpy() for name, tensor in layers}
            squashed = {name: trace.squashed[name] for name, tensor in layers if name in trace.squashed and tensor.dim() == 2}
            self._squashed = tuple(squashed)
            columns |= {f"@squashed:{name}": tensor.detach().float().numpy() for name, tensor in squashed.items()}
            if self.label and layers and trace.additive.requires_grad:
                y = torch.tensor(batch.numbers(self.label), dtype=torch.float32)  # a copy: columns may be read-only
                out = trace.additive
                loss = (F.binary_cross_entropy_with_logits(out, y, reduction="sum") if trace.logit is not None
                        else F.mse_loss(out, y, reduction="sum"))
                reached = [tensor for _, tensor in layers if tensor.requires_grad]
                found = dict(zip(map(id, reached), torch.autograd.grad(loss, reached, allow_unused=True), strict=True))
                for name, tensor in layers:
                    gradient = found.get(id(tensor))
                    norm = (np.zeros(batch.rows) if gradient is None else
                            (gradient.reshape(batch.rows, -1).norm(dim=1) / gradient[0].numel() ** 0.5).double().numpy())
                    columns[f"@gradient_norm:{name}"] = norm
        return columns


class RowProbe(Probe):
    """Adds `@row:f`, the table row (or rows) that each field of each row reads, for every field with a lookup.

    Where a field has several lookups (its embedding and its first-order weight), the widest table counts.
    """

    def __init__(self, subject: TorchSubject) -> None:
        self.subject = subject

    @property
    def adds(self) -> tuple[str, ...]:
        return tuple(f"@row:{name}" for name in self.tables())

    def tables(self) -> dict[str, str]:
        """Field to the name of its widest table."""
        return {field: table for field, (_, table) in self._chosen().items()}

    def whole_tables(self) -> dict[str, tuple[str, ...]]:
        """Tables of which every read is in the added columns, to the fields that read them: none that a field reads twice, or beside a wider one."""
        chosen = self._chosen()
        found: dict[str, tuple[str, ...]] = {}
        partly = set()
        for site in self.subject.sites().lookups:
            fields = tuple(part.field for part in site.parts)
            if fields and all(chosen.get(field) == (site.position, site.table) for field in fields):
                found[site.table] = (*found.get(site.table, ()), *fields)
            else:
                partly.add(site.table)
        return {table: fields for table, fields in found.items() if table not in partly}

    def _chosen(self) -> dict[str, tuple[int, str]]:
        chosen: dict[str, tuple[int, str]] = {}
        parameters = dict(self.subject.model.named_parameters(remove_duplicate=False))
        best: dict[str, int] = {}
        for site in self.subject.sites().lookups:
            width = parameters[site.table].shape[1] if site.table in parameters else 0
            for part in site.parts:
                if width > best.get(part.field, -1):
                    best[part.field] = width
                    chosen[part.field] = (site.position, site.table)
        return chosen

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        sites = self.subject.sites(batch)
        with self.subject.undisturbed() as stack, torch.no_grad():
            trace = self.subject.run(self.subject.encode(batch), stack)
        check_same(sites, trace)
        columns: dict[str, Column] = {}
        for field, (position, _) in self._chosen().items():
            lookup = trace.lookups[position]
            part = next(part for part in sites.lookups[position].parts if part.field == field)
            ids = lookup.ids
            if lookup.offsets is not None:
                ends = torch.cat([lookup.offsets[:batch.rows], torch.tensor([ids.numel()])])
                columns[f"@row:{field}"] = Ragged(ids.reshape(-1).numpy(), ends.numpy())
                continue
            if part.columns is not None:
                ids = ids[:, list(part.columns)]
            flat = ids.reshape(batch.rows, -1).numpy()
            columns[f"@row:{field}"] = flat[:, 0] if flat.shape[1] == 1 else _without_padding(flat)
        return columns


def _without_padding(flat: np.ndarray) -> Ragged:  # type: ignore[type-arg]
    """Rows of padded ids as lists; the row's padding id is the smallest id that fills its end."""
    padding = flat.min()
    inside = flat != padding
    return Ragged(flat[inside], np.concatenate([[0], np.cumsum(inside.sum(1))]))


def _per_row(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.float()
    return flat if flat.dim() == 2 else flat.reshape(flat.shape[0], -1, flat.shape[-1]).mean(1)
