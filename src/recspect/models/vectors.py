"""Every field becomes one vector: looked up, averaged over a list, or scaled by a number.

Shapes: B rows, F fields, D width, L entries of a list, N numbers per row over all numeric and vector fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recspect.features.encoded import FIRST_KNOWN, MISSING, InputSize
from recspect.models.config import ModelConfig


class FusedEmbedding(nn.Module):
    """One table for the ids of many fields; field f owns the rows from `starts[f]` on, or reads those of another field.

    One lookup and one sparse gradient instead of F of each: on 26 fields 16% faster than a list of tables, and with
    sparse gradients a step costs the rows it touches, not the rows there are.

    Args:
        rows: Table rows per field; those of a field that reads another's are not counted.
        width: D.
        owners: Per field, the position of the field whose rows it reads; by default its own.
        mean: Of the weights at the start.
        deviation: Standard deviation of the weights at the start.
    """

    def __init__(self, rows: Sequence[int], width: int, *, owners: Sequence[int] | None = None, mean: float = 0.0, deviation: float) -> None:
        super().__init__()
        owners = range(len(rows)) if owners is None else owners
        own = [count if owner == field else 0 for field, (count, owner) in enumerate(zip(rows, owners, strict=True))]
        self.starts = [sum(own[:owner]) for owner in owners]
        self.register_buffer("offsets", torch.tensor(self.starts, dtype=torch.int64), persistent=False)
        self.weight = nn.Parameter(torch.empty(sum(own), width).normal_(mean, deviation))

    def forward(self, ids: Tensor) -> Tensor:
        """The first F fields' ids (B, F), one column per field in order, to vectors (B, F, D)."""
        return functional.embedding(ids + self.offsets[: ids.shape[1]], self.weight, sparse=True)

    def entries(self, ids: Tensor, field: int) -> Tensor:
        """One field's padded lists (B, L) to vectors (B, L, D). Padding has no gradient."""
        start = self.starts[field]
        return functional.embedding(ids + start, self.weight, padding_idx=start + MISSING, sparse=True)


class FieldVectors(nn.Module):
    """All inputs as vectors, (B, F, D), in the order `fields`: single ids, lists, numbers.

    An id gives its row of the table; a list the mean of its entries' rows (padding counts for nothing; an empty list
    gives 0); a numeric or vector field x gives `x @ V` with a learned V of its own, in which the second number of a field
    with gaps (1 where missing) makes its own vector. A field that shares another's ids reads that one's rows.

    With `rows_per_table` (m), a field of more ids has no row per id: known id k (from 0, by falling frequency) has the vector
    r[k mod m'] * q[k div m'], with m' = m less the reserved rows, by element; no two ids have the same pair. The m' most frequent
    ids have a remainder of their own. Source: Shi, Mudigere, Naumov, Yang, "Compositional Embeddings Using Complementary
    Partitions for Memory-Efficient Recommendation Systems", KDD 2020.

    Args:
        sizes: What each field holds.
        width: D.
        deviation: Standard deviation of all weights at the start.
        rows_per_table: Most rows of one field; None for one per id.
    """

    def __init__(self, sizes: Sequence[InputSize], width: int, *, deviation: float, rows_per_table: int | None = None) -> None:
        super().__init__()
        by_name = {size.name: size for size in sizes}
        self.known_rows = (rows_per_table or 0) - FIRST_KNOWN
        self.divided = {size.name for size in sizes if rows_per_table is not None and size.rows > rows_per_table}
        single = [size.name for size in sizes if size.form == "id"]
        self.single = sorted(single, key=self.divided.__contains__)  # fields of two tables come last, all else stays in order
        self.lists = [size.name for size in sizes if size.form == "ids"]
        self.numeric = [size.name for size in sizes if size.form == "numbers"]
        self.fields = [*self.single, *self.lists, *self.numeric]
        looked_up = [*self.single, *self.lists]
        self.owners = {name: by_name[name].shares if by_name[name].shares in looked_up else name for name in looked_up}
        rows = {name: rows_per_table if rows_per_table is not None and name in self.divided else by_name[name].rows for name in looked_up}
        self.table = _fused(rows, self.owners, width, deviation=deviation) if rows else None
        self.widths = [by_name[name].width for name in self.numeric]
        if self.numeric:
            self.scales = nn.Parameter(torch.empty(sum(self.widths), width).normal_(std=deviation))
        quotients = {name: 1 + -(-(by_name[name].rows - FIRST_KNOWN) // self.known_rows) for name in looked_up if name in self.divided}
        self.quotient_table = _fused(quotients, self.owners, width, mean=1.0, deviation=deviation) if quotients else None
        self.quotient_places = {name: place for place, name in enumerate(quotients)}

    @classmethod
    def of(cls, sizes: Sequence[InputSize], config: ModelConfig, *, width: int | None = None) -> FieldVectors:
        """As the settings say; `width` instead of theirs."""
        return cls(sizes, width or config.embedding_width, deviation=config.embedding_deviation, rows_per_table=config.rows_per_table)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Field to tensor (see `Encoded`), to (B, F, D)."""
        vectors = [*self.singles(inputs), *(mean_of_entries(*self.entries(inputs, name)) for name in self.lists), *self.scaled(inputs)]
        return torch.cat(vectors, dim=1)

    def singles(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Vectors of the single ids, (B, fields, D); an empty list without such fields."""
        if not self.single:
            return []
        ids = torch.stack([inputs[name] for name in self.single], dim=1)
        divided = sum(name in self.divided for name in self.single)
        if not divided:
            return [self.table(ids)]
        plain = len(self.single) - divided
        remainders, quotients = self._divide(ids[:, plain:])
        vectors = self.table(torch.cat([ids[:, :plain], remainders], dim=1))
        return [vectors[:, :plain], vectors[:, plain:] * self.quotient_table(quotients)]

    def entries(self, inputs: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
        """Vectors of a list's entries, (B, L, D), and whether each is there, (B, L)."""
        ids, place = inputs[name], len(self.single) + self.lists.index(name)
        if name not in self.divided:
            return self.table.entries(ids, place), ids != MISSING
        remainders, quotients = self._divide(ids)
        return self.table.entries(remainders, place) * self.quotient_table.entries(quotients, self.quotient_places[name]), ids != MISSING

    def scaled(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Vectors of the numbers, (B, fields, D); an empty list without such fields."""
        if not self.numeric:
            return []
        parts = self.scales.split(self.widths)
        return [torch.stack([inputs[name].reshape(-1, width) @ part for name, width, part
                             in zip(self.numeric, self.widths, parts, strict=True)], dim=1)]

    def reads(self) -> dict[str, str | tuple[str, ...]]:
        """Which fields each lookup of a forward pass serves: "table.weight#k" for the k-th of that table; see `TorchSubject`'s sites."""
        divided = tuple(name for name in self.single if name in self.divided)
        tables = {"table.weight": [*([tuple(self.single)] if self.single else []), *self.lists],
                  "quotient_table.weight": [*([divided] if divided else []), *(name for name in self.lists if name in self.divided)]}
        return {f"{table}#{k}": read for table, reads in tables.items() for k, read in enumerate(reads)}

    def _divide(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the two tables; reserved ids (missing, unknown, rare) have a remainder of their own and the quotient 0."""
        known = ids - FIRST_KNOWN
        remainders = torch.where(known < 0, ids, FIRST_KNOWN + known % self.known_rows)
        return remainders, torch.where(known < 0, 0, 1 + known // self.known_rows)


def mean_of_entries(vectors: Tensor, present: Tensor) -> Tensor:
    """(B, L, D) and (B, L) to (B, 1, D): the mean of those that are there, 0 where none is."""
    counted = present.unsqueeze(2)
    return (vectors * counted).sum(dim=1, keepdim=True) / counted.sum(dim=1, keepdim=True).clamp(min=1)


def declared_sites(model: nn.Module) -> dict[str, str | tuple[str, ...]]:
    """Which field each lookup of a built-in model serves, by name of the table: told by value, fields with equal codes could not be told apart."""
    return {f"{name}.{table}": read for name, module in model.named_modules() if isinstance(module, FieldVectors) for table, read in module.reads().items()}


def _fused(rows: Mapping[str, int], owners: Mapping[str, str], width: int, *, mean: float = 0.0, deviation: float) -> FusedEmbedding:
    places = {name: place for place, name in enumerate(rows)}
    return FusedEmbedding(list(rows.values()), width, owners=[places[owners[name]] for name in rows], mean=mean, deviation=deviation)
