"""A trained model with the features that it reads, and how weights go from one shape to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recspect.diagnosis.subject import TorchSubject
from recspect.features import Encoded, FeatureTransform
from recspect.features.vocabulary import Codes
from recspect.models import ModelConfig, build
from recspect.models.storage import PLAIN, Storage
from recspect.models.vectors import FieldVectors, declared_sites
from recspect.training.run import Run

ROWS = 8192
"""Rows that pass the model at once."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A model and what stands around it.

    Args:
        model: In evaluation mode, on the CPU.
        transform: The features that it reads.
        storage: How its weights are kept.
    """

    model: nn.Module
    transform: FeatureTransform
    storage: Storage = PLAIN

    @classmethod
    def of_run(cls, run: Run) -> Fitted:
        """The best model of a run."""
        return cls(run.load_model(), run.transform, Storage.from_mapping(run.record.get("storage"), where=str(run.folder / "run.json")))

    @property
    def config(self) -> ModelConfig:
        """The model's settings."""
        return self.model.config  # type: ignore[return-value]

    @property
    def held_bytes(self) -> int:
        """Of parameters and buffers, each once."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.model.parameters(), *self.model.buffers()))

    def subject(self, name: str = "") -> TorchSubject:
        """The model, ready to be examined."""
        binary = self.transform.schema.label.kind == "binary"

        def forward(model: nn.Module, inputs: Any) -> Tensor:
            out: Tensor = model(inputs)
            return torch.sigmoid(out) if binary else out

        return TorchSubject(self.model, fields=self.transform.schema.field_names, encode=lambda rows: self.transform.transform(rows).inputs, forward=forward,
                            sites=declared_sites(self.model), name=name)


def tables(model: nn.Module) -> dict[str, FieldVectors]:
    """Name of the module to the vectors of fields, of all that the model has."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FieldVectors)}


def codes_of(transform: FeatureTransform) -> dict[str, Codes]:
    """Fields whose ids come from a vocabulary or from hashing; of those that share one, the field that owns it."""
    found = {name: getattr(encoder, "codes", None) for name, encoder in transform.encoders.items() if not encoder.field.shares}
    return {name: codes for name, codes in found.items() if codes is not None}


def row_counts(vectors: FieldVectors, transform: FeatureTransform) -> Tensor:
    """How often training read each row of the table, (N,); 1 where that is not known, such as of buckets of numbers."""
    codes, parts = codes_of(transform), []
    for name, start, rows in segments(vectors):
        known = codes.get(name)
        counts = np.ones(rows, dtype=np.int64) if known is None or name in vectors.divided else known.row_counts()
        parts.append((start, torch.from_numpy(counts)))
    return torch.cat([counts for _, counts in sorted(parts, key=lambda part: part[0])]) if parts else torch.zeros(0, dtype=torch.int64)


def segments(vectors: FieldVectors) -> Iterator[tuple[str, int, int]]:
    """Field that owns rows of the table, where they begin, how many they are."""
    looked_up = [*vectors.single, *vectors.lists]
    if vectors.table is None:
        return
    starts = vectors.table.starts
    borders = sorted({*starts, vectors.table.weight.shape[0]})
    for place, name in enumerate(looked_up):
        if vectors.owners[name] == name:
            yield name, starts[place], borders[borders.index(starts[place]) + 1] - starts[place]


def rebuilt(fitted: Fitted, transform: FeatureTransform, rows: Mapping[str, Tensor], other: Callable[[str, Tensor], Tensor] = lambda _name, weight: weight) -> nn.Module:
    """A model for other features, with the weights of the one at hand.

    Args:
        fitted: The model at hand; its weights are plain float32.
        transform: Features of the model to make: some fields of the old one, each with as many rows as `rows` says.
        rows: Field that owns rows, to the old row of each new one, (new rows,); all of them where it is not named.
        other: Name of a parameter outside the tables and its value, to the value that the new model gets.
    """
    with torch.random.fork_rng(devices=[]):
        made = build(fitted.config, transform.sizes)
    old_tables, new_tables = tables(fitted.model), tables(made)
    inside = {f"{name}.{own}" for name in new_tables for own in ("table.weight", "scales", "quotient_table.weight")}
    with torch.no_grad():
        for name, new in new_tables.items():
            old = old_tables[name]
            places = {field: (start, count) for field, start, count in segments(old)}
            for field, start, count in segments(new):
                begin, all_rows = places[field]
                chosen = rows.get(field, torch.arange(all_rows)) + begin
                new.table.weight[start:start + count] = old.table.weight[chosen]
            if new.numeric:
                pieces = dict(zip(old.numeric, old.scales.split(old.widths), strict=True))
                new.scales.copy_(torch.cat([pieces[field] for field in new.numeric]))
        given = dict(fitted.model.named_parameters())
        for name, parameter in made.named_parameters():
            if name not in inside:
                parameter.copy_(other(name, given[name]))
    return made.eval()


def batches(encoded: Encoded) -> Iterator[Encoded]:
    """The rows in pieces."""
    for start in range(0, encoded.rows, ROWS):
        yield encoded.slice(start, start + ROWS)


def mean_vectors(fitted: Fitted, encoded: Encoded) -> dict[str, dict[str, Tensor]]:
    """Per `FieldVectors` of the model and field, its mean vector over these rows, (D,)."""
    found: dict[str, dict[str, Tensor]] = {}
    with torch.inference_mode():
        for name, vectors in tables(fitted.model).items():
            total: Tensor | float = 0.0
            for piece in batches(encoded):
                total = total + vectors(piece.inputs).double().sum(dim=0)
            assert isinstance(total, Tensor)
            found[name] = dict(zip(vectors.fields, (total / encoded.rows).float(), strict=True))
    return found


def mean_rows(vectors: FieldVectors, transform: FeatureTransform) -> dict[str, Tensor]:
    """Per field that owns rows, their mean by how often training read each, (D,)."""
    counts = row_counts(vectors, transform).float()
    found = {}
    for name, start, rows in segments(vectors):
        own = counts[start:start + rows]
        own = own if bool(own.any()) else torch.ones_like(own)
        found[name] = (own.unsqueeze(1) * vectors.table.weight.detach()[start:start + rows]).sum(dim=0) / own.sum()
    return found


def columns_of(fields: Sequence[str], kept: Sequence[str], width: int) -> NDArray[np.int64]:
    """Positions, among the concatenated vectors of `fields`, of those of `kept`, in the order of `kept`."""
    place = {name: at for at, name in enumerate(fields)}
    return np.concatenate([np.arange(place[name] * width, (place[name] + 1) * width) for name in kept])
