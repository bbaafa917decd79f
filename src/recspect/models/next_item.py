"""Models that read what a user had so far and say what comes next: settings, and what they share.

Shapes: B users, L events, D width, N items. An item's code is shifted by one, so that 0 is padding; padding stands behind the events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from recspect.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class NextItemConfig:
    """Settings shared by the sequence models.

    Args:
        name: `sasrec` or `hstu`.
        width: D, numbers per vector.
        layers: Blocks.
        heads: Attention heads; they share the width.
        dropout: Share dropped in training, 0 to below 1.
        max_length: Events that are read, the last ones.
        normalised: Whether vectors have length 1 before they are compared, with `temperature` as the unit of the scores.
        temperature: Scores are inner products divided by this.
    """

    name: str = "sasrec"
    width: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.3
    max_length: int = 50
    normalised: bool = False
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "max_length"):
            if getattr(self, name) < 1:
                raise UsageError(f"model settings: {name} is {getattr(self, name)}, expected 1 or more")
        if self.width % self.heads:
            raise UsageError(f"model settings: {self.heads} heads cannot share a width of {self.width}", hint="choose a width that heads divide")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"model settings: dropout is {self.dropout}, expected 0 or more and below 1")
        if not self.temperature > 0:
            raise UsageError(f"model settings: temperature is {self.temperature}, expected more than 0")


class NextItemModel(Protocol):
    """What training and serving need of a sequence model."""

    config: NextItemConfig
    items: ItemTable

    def __call__(self, items: Tensor, times: Tensor) -> Tensor:
        """What is expected after each event: (B, L) int64 items + 1 and (B, L) int64 times, to (B, L, D)."""
        ...


class ItemTable(nn.Module):
    """Vectors of items, read as what was had and compared with as what may come: one table for both, as SASRec has it.

    Args:
        n_items: N.
        config: Width, whether vectors are compared at length 1.
    """

    def __init__(self, n_items: int, config: NextItemConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(n_items + 1, config.width).normal_(std=0.02))
        with torch.no_grad():
            self.weight[0] = 0

    def forward(self, items: Tensor) -> Tensor:
        """Items + 1 (...,), 0 is padding, to vectors (..., D)."""
        return functional.embedding(items, self.weight, padding_idx=0)

    def vectors(self) -> Tensor:
        """What is compared with, (N, D), in the order of item codes."""
        return self._shaped(self.weight[1:])

    def score(self, states: Tensor, items: Tensor | None = None) -> Tensor:
        """Scores of states (P, D): for all items (P, N), or for the items (codes, no padding) of shape (K,): (P, K)."""
        chosen = self.vectors() if items is None else self._shaped(functional.embedding(items + 1, self.weight))
        return self._shaped(states) @ chosen.T / self.config.temperature

    def score_pairs(self, states: Tensor, items: Tensor) -> Tensor:
        """One score per row: states (P, D), items (P,), to (P,)."""
        return (self._shaped(states) * self._shaped(functional.embedding(items + 1, self.weight))).sum(dim=1) / self.config.temperature

    def _shaped(self, vectors: Tensor) -> Tensor:
        return functional.normalize(vectors, dim=-1) if self.config.normalised else vectors
