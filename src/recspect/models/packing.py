"""Models whose weights take less room: rows of 8-bit numbers with a scale each, bf16, and tables narrower than their vectors.

What is kept small stays small in memory: rows are made float32 when they are looked up, matrices when a batch passes.
Shapes: N table rows, D width, r rank, F fields, B rows of a batch, L entries of a list.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

from recspect.models.storage import Form, Storage
from recspect.models.vectors import FusedEmbedding

LARGEST = 127
"""Codes go from -127 to 127, so that a row and its negative have the same codes but for the sign."""
NARROWEST = 4
"""Tables of fewer numbers per row have no scale per row."""

_TYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Every row as 8-bit codes and a scale: row ~ scale * codes, each number within half a scale.

    The scale is the row's largest size over 127, rounded up to bf16, so that no number lies outside the codes.

    Args:
        weight: Float, (N, D).

    Returns:
        Codes, int8 (N, D), and scales, bf16 (N,).
    """
    largest = weight.detach().float().abs().amax(dim=1)
    scales = (largest / LARGEST).bfloat16()
    short = scales.float() * LARGEST < largest
    scales = torch.where(short, torch.nextafter(scales, torch.full_like(scales, torch.inf)), scales)
    steps = torch.where(scales > 0, scales, torch.ones_like(scales)).float()
    return (weight.detach().float() / steps.unsqueeze(1)).round().to(torch.int8), scales


def read_rows(ids: Tensor, weight: Tensor, scales: Tensor | None) -> Tensor:
    """Rows of a table that is kept small, as float32: ids of any shape to (*ids, width). Whoever watches lookups sees one call."""
    if has_torch_function((ids, weight)):
        return handle_torch_function(read_rows, (ids, weight), ids, weight, scales)  # type: ignore[no-any-return]
    rows = functional.embedding(ids, weight).float()
    return rows if scales is None else rows * functional.embedding(ids, scales.unsqueeze(1)).float()


read_rows.reads_rows = True  # type: ignore[attr-defined]  # so that recspect.diagnosis.lookups takes it for a lookup (ids, table, ...)


class _Small(nn.Module):
    """A matrix in one of the forms, as buffers: `weight`, and `scales` for 8-bit codes."""

    def __init__(self, rows: int, width: int, form: Form) -> None:
        super().__init__()
        self.form = form
        self.register_buffer("weight", torch.zeros(rows, width, dtype=_TYPES[form]))
        self.register_buffer("scales", torch.zeros(rows, dtype=torch.bfloat16) if form == "int8" else None)

    def put(self, values: Tensor) -> None:
        """Take these numbers, (rows, width)."""
        if self.form == "int8":
            self.weight, self.scales = quantised(values)
        else:
            self.weight = values.detach().to(_TYPES[self.form])


class PackedTable(_Small):
    """A `FusedEmbedding` that takes less room; read in the same way.

    With a rank r, a row holds r numbers u and the vector of field f is u M_f, with M_f (r, D) of its own.
    """

    def __init__(self, rows: int, width: int, starts: list[int], form: Form, rank: int | None) -> None:
        super().__init__(rows, width if rank is None else rank, form)
        self.starts = starts
        self.register_buffer("offsets", torch.tensor(starts, dtype=torch.int64), persistent=False)
        self.register_buffer("mixes", None if rank is None else torch.zeros(len(starts), rank, width, dtype=torch.bfloat16))

    def forward(self, ids: Tensor) -> Tensor:
        """As `FusedEmbedding`: (B, F) to (B, F, D)."""
        fields = ids.shape[1]
        rows = read_rows(ids + self.offsets[:fields], self.weight, self.scales)
        return rows if self.mixes is None else torch.einsum("bfr,frd->bfd", rows, self.mixes[:fields].float())

    def entries(self, ids: Tensor, field: int) -> Tensor:
        """As `FusedEmbedding`: one field's padded lists (B, L) to (B, L, D)."""
        rows = read_rows(ids + self.starts[field], self.weight, self.scales)
        return rows if self.mixes is None else rows @ self.mixes[field].float()


class PackedLinear(_Small):
    """An `nn.Linear` that takes less room; the matrix is made float32 for each batch."""

    def __init__(self, inputs: int, outputs: int, form: Form, *, bias: bool) -> None:
        super().__init__(outputs, inputs, form)
        self.register_buffer("bias", torch.zeros(outputs) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        weight = self.weight.float()
        return functional.linear(x, weight if self.scales is None else weight * self.scales.float().unsqueeze(1), self.bias)


def packed(model: nn.Module, storage: Storage, counts: dict[str, Tensor] | None = None, *, hollow: bool = False) -> nn.Module:
    """The model with its tables and matrices kept as `storage` says; changed in place, in evaluation mode.

    Args:
        model: A built-in model.
        storage: How.
        counts: Name of a table's module to how often its rows are read, (N,): rows that are read often are narrowed with the least error.
            Where a table has none, all rows count alike.
        hollow: Make the places alone and leave them empty, for weights that are loaded next.
    """
    for name, module in list(model.named_modules()):
        small: Any = None
        if isinstance(module, FusedEmbedding) and (storage.tables != "float32" or _narrows(module, storage)):
            small = _packed_table(module, storage, (counts or {}).get(name), hollow=hollow)
        elif isinstance(module, nn.Linear) and storage.dense != "float32" and min(module.weight.shape) > 1:
            small = PackedLinear(module.in_features, module.out_features, storage.dense, bias=module.bias is not None)
            if not hollow:
                small.put(module.weight)
                if module.bias is not None:
                    small.bias = module.bias.detach().clone()
        if small is not None:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, small)
    return model.eval()


def _narrows(table: FusedEmbedding, storage: Storage) -> bool:
    return storage.rank is not None and storage.rank < table.weight.shape[1]


def _packed_table(table: FusedEmbedding, storage: Storage, counts: Tensor | None, *, hollow: bool) -> PackedTable:
    rows, width = table.weight.shape
    rank = storage.rank if _narrows(table, storage) else None
    form: Form = "bf16" if storage.tables == "int8" and (rank or width) < NARROWEST else storage.tables
    small = PackedTable(rows, width, table.starts, form, rank)
    if hollow:
        return small
    weight = table.weight.detach()
    if rank is None:
        small.put(weight)
        return small
    borders = [*sorted(set(table.starts)), rows]
    kept = torch.zeros(rows, rank)
    for start, end in pairwise(borders):
        mine = weight[start:end]
        mix = directions(mine, rank, None if counts is None else counts[start:end]).bfloat16()
        kept[start:end] = mine @ torch.linalg.pinv(mix.float())  # of the rounded directions, so that rounding them costs least
        for field in (place for place, begin in enumerate(table.starts) if begin == start):
            small.mixes[field] = mix
    small.put(kept)
    return small


def directions(rows: Tensor, rank: int, counts: Tensor | None = None) -> Tensor:
    """The `rank` orthonormal directions that keep most of the rows (n, D) by their squared length, (rank, D), zeros where there are fewer.

    The right singular vectors of the rows, each row times the root of its count (Eckart and Young 1936).
    """
    weighted = rows if counts is None else rows * counts.to(rows).sqrt().unsqueeze(1)
    if counts is not None and not bool(counts.any()):
        weighted = rows
    _, vectors = torch.linalg.eigh(weighted.double().T @ weighted.double())
    found = vectors.flip(1)[:, :rank].T.to(rows)
    return torch.where((found @ weighted.T).square().sum(dim=1, keepdim=True) > 0, found, 0.0)


def lost_by_rank(rows: Tensor, counts: Tensor | None = None) -> Tensor:
    """Share of the rows' squared length that is lost at rank 1 ... D, (D,), each row by its count; falls to 0."""
    weighted = rows if counts is None else rows * counts.to(rows).sqrt().unsqueeze(1)
    strengths = torch.linalg.eigvalsh(weighted.double().T @ weighted.double()).clamp(min=0).flip(0)
    whole = strengths.sum()
    return 1 - strengths.cumsum(0) / whole if whole > 0 else torch.zeros(rows.shape[1], dtype=torch.float64)


__all__ = ["PackedLinear", "PackedTable", "directions", "lost_by_rank", "packed", "quantised", "read_rows"]
