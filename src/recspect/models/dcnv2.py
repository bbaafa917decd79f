"""DCN-V2: products of fields of bounded degree by cross layers, beside or below an MLP.

Source: Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems", WWW 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recspect.features.encoded import InputSize
from recspect.models.config import ModelConfig
from recspect.models.layers import hidden_layers
from recspect.models.settings import CrossSettings
from recspect.models.vectors import FieldVectors


class DCNv2(nn.Module):
    """x_0 = (v_1, ..., v_F), v_f as in `FieldVectors`; x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, with * by element.

    Stacked: z = b + MLP(x_L). Parallel: z = b + <u, x_L> + MLP(x_0). With a rank, W_l = U_l V_l.
    """

    def __init__(self, sizes: Sequence[InputSize], config: ModelConfig) -> None:
        super().__init__()
        assert isinstance(config.own, CrossSettings)
        self.config = config
        self.vectors = FieldVectors.of(sizes, config)
        width = len(sizes) * config.embedding_width
        self.crosses = nn.ModuleList(_matrix(width, config.own.rank) for _ in range(config.own.layers))
        self.readout = nn.Linear(width, 1, bias=False) if config.own.structure == "parallel" else None
        self.bias = nn.Parameter(torch.zeros(()))
        self.mlp = hidden_layers(width, config.hidden, activation=config.activation, dropout=config.dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Field to tensor (see `Encoded`), to the logit (binary) or the value (graded), shape (B,)."""
        start = self.vectors(inputs).flatten(1)
        crossed = start
        for matrix in self.crosses:
            crossed = start * matrix(crossed) + crossed
        raw = self.mlp(crossed) if self.readout is None else self.readout(crossed) + self.mlp(start)
        return self.config.output_mean + self.config.output_scale * (self.bias + raw.squeeze(1))


def _matrix(width: int, rank: int | None) -> nn.Module:
    """W x + b, (B, width) to (B, width)."""
    if rank is None:
        return nn.Linear(width, width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
