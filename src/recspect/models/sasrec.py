"""SASRec: causal self-attention over a user's items, one pass for all positions.

Source: Kang, McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018. Normalised before each part instead of behind it (Xiong et al., "On Layer
Normalization in the Transformer Architecture", ICML 2020), which trains without warm-up.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recspect.models.next_item import ItemTable, NextItemConfig


class SASRec(nn.Module):
    """h_0 = items + positions; h <- h + Attention(LN(h)); h <- h + FFN(LN(h)); what comes after position l is LN(h_l)."""

    def __init__(self, n_items: int, config: NextItemConfig) -> None:
        super().__init__()
        self.config = config
        self.items = ItemTable(n_items, config)
        self.positions = nn.Parameter(torch.empty(config.max_length, config.width).normal_(std=0.02))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, items: Tensor, times: Tensor) -> Tensor:  # noqa: ARG002 - order is all that SASRec knows of time
        """Items + 1 (B, L), 0 is padding behind the events, to what is expected after each, (B, L, D)."""
        # Vectors start at a deviation of .02: scaled by sqrt(D), as in "Attention Is All You Need", they weigh more than the positions.
        hidden = self.dropout(self.items(items) * self.config.width**0.5 + self.positions[: items.shape[1]])
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)


class _Block(nn.Module):
    def __init__(self, config: NextItemConfig) -> None:
        super().__init__()
        self.heads, self.share = config.heads, config.dropout
        self.attention_norm, self.norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.inwards, self.outwards = nn.Linear(config.width, 3 * config.width), nn.Linear(config.width, config.width)
        self.feed_forward = nn.Sequential(nn.Linear(config.width, config.width), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.width, config.width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        query, key, value = self.inwards(self.attention_norm(hidden)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        # Padding stands behind the events, so a causal mask alone keeps it out of every event's sight.
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=self.share if self.training else 0.0)
        hidden = hidden + self.dropout(self.outwards(seen.transpose(1, 2).reshape(batch, length, width)))
        return hidden + self.dropout(self.feed_forward(self.norm(hidden)))
