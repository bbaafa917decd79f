"""MMoE: experts that all labels share, and for each label a gate that says how much of which expert it reads.

Source: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recspect.features.encoded import InputSize
from recspect.models.config import ModelConfig
from recspect.models.layers import hidden_layers
from recspect.models.settings import MixtureSettings
from recspect.models.tasks import Towers
from recspect.models.vectors import FieldVectors


class MMoE(nn.Module):
    """x = (v_1, ..., v_F), v_f as in `FieldVectors`; z_t = b_t + Tower_t(sum_e softmax(G_t x)_e Expert_e(x)); see `Towers` for labels after others."""

    def __init__(self, sizes: Sequence[InputSize], config: ModelConfig) -> None:
        super().__init__()
        assert isinstance(config.own, MixtureSettings)
        self.config = config
        self.vectors = FieldVectors.of(sizes, config)
        width = len(sizes) * config.embedding_width
        self.experts = nn.ModuleList(
            hidden_layers(width, config.hidden, activation=config.activation, dropout=config.dropout, outputs=None) for _ in range(config.own.experts))
        self.towers = Towers(config.hidden[-1], config, config.own.tower)
        self.gates = nn.ModuleList(nn.Linear(width, config.own.experts, bias=False) for _ in self.towers.tasks)
        self.bias = nn.Parameter(torch.zeros(len(self.towers.tasks)))

    def forward(self, inputs: Mapping[str, Tensor], *, every: bool = False) -> Tensor:
        """Field to tensor (see `Encoded`), to the first label's logit or value, (B,), or every label's, (B, T)."""
        x = self.vectors(inputs).flatten(1)
        experts = torch.stack([expert(x) for expert in self.experts], dim=1)
        outputs = self.towers([mixed(gate(x), experts) for gate in self.gates], self.bias)
        return outputs if every else outputs[:, 0]


def mixed(gate: Tensor, experts: Tensor) -> Tensor:
    """Experts (B, E, W) by the softmax of their gate (B, E), summed: (B, W)."""
    return (gate.softmax(dim=1).unsqueeze(2) * experts).sum(dim=1)
