"""HSTU: gated pointwise attention with biases for how far back and how long ago.

Source: Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative Recommendations", ICML 2024.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from recspect.models.next_item import ItemTable, NextItemConfig

TIME_BUCKETS, TIME_BASE = 64, 1.5
"""Time differences are told apart by their logarithm to this base: 64 of them reach from 1 to 10^11, in seconds 3,000 years."""


class HSTU(nn.Module):
    """Per layer, with X the normalised input: U, V, Q, K = SiLU(X W); A = SiLU(Q K' + bias(places, times)) / L, causal; h <- h + (LN(A V) * U) W_o."""

    def __init__(self, n_items: int, config: NextItemConfig) -> None:
        super().__init__()
        self.config = config
        self.items = ItemTable(n_items, config)
        self.positions = nn.Parameter(torch.empty(config.max_length, config.width).normal_(std=0.02))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, items: Tensor, times: Tensor) -> Tensor:
        """Items + 1 (B, L), 0 is padding behind the events, and times (B, L), to what is expected after each, (B, L, D)."""
        length = items.shape[1]
        hidden = self.dropout(self.items(items) * self.config.width**0.5 + self.positions[:length])
        places = torch.arange(length, device=items.device)
        causal = places[:, None] >= places
        distances = (places[:, None] - places).clamp(min=0)
        # Measured from the event that is read, not from the one to be foretold (as the authors' code does), whose time is not known when a list is made.
        gaps = (times[:, :, None] - times[:, None, :]).clamp(min=1).double().log().div(math.log(TIME_BASE)).long().clamp(max=TIME_BUCKETS - 1)
        for block in self.blocks:
            hidden = block(hidden, causal, distances, gaps)
        return self.norm(hidden)


class _Block(nn.Module):
    def __init__(self, config: NextItemConfig) -> None:
        super().__init__()
        self.heads, self.length = config.heads, config.max_length
        self.before, self.within = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.inwards, self.outwards = nn.Linear(config.width, 4 * config.width), nn.Linear(config.width, config.width)
        self.by_place = nn.Parameter(torch.empty(config.max_length).normal_(std=0.02))
        self.by_time = nn.Parameter(torch.empty(TIME_BUCKETS).normal_(std=0.02))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, causal: Tensor, distances: Tensor, gaps: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        gate, value, query, key = functional.silu(self.inwards(self.before(hidden))).view(batch, length, 4, width).unbind(2)
        query, key, value = (part.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for part in (query, key, value))
        bias = self.by_place[distances] + self.by_time[gaps]
        weights = functional.silu(query @ key.transpose(2, 3) + bias[:, None]) / self.length
        seen = (weights * causal @ value).transpose(1, 2).reshape(batch, length, width)
        return hidden + self.outwards(self.dropout(self.within(seen) * gate))
