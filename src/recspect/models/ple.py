"""PLE: experts of each label beside shared ones, layer upon layer, so that labels that do not go together disturb each other less.

Source: Tang et al., "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized Recommendations", RecSys 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recspect.features.encoded import InputSize
from recspect.models.config import ModelConfig
from recspect.models.layers import hidden_layers
from recspect.models.mmoe import mixed
from recspect.models.settings import ExtractionSettings
from recspect.models.tasks import Towers
from recspect.models.vectors import FieldVectors


class PLE(nn.Module):
    """x_t = x_s = (v_1, ..., v_F), v_f as in `FieldVectors`; layers of experts (see `Extraction`); z_t = b_t + Tower_t(x_t); see `Towers` for labels after others."""

    def __init__(self, sizes: Sequence[InputSize], config: ModelConfig) -> None:
        super().__init__()
        assert isinstance(config.own, ExtractionSettings)
        self.config = config
        self.vectors = FieldVectors.of(sizes, config)
        self.towers = Towers(config.hidden[-1], config, config.own.tower)
        labels = len(self.towers.tasks)
        widths = [len(sizes) * config.embedding_width, *[config.hidden[-1]] * (config.own.layers - 1)]
        self.layers = nn.ModuleList(Extraction(width, labels, config, config.own, last=layer == len(widths)) for layer, width in enumerate(widths, start=1))
        self.bias = nn.Parameter(torch.zeros(labels))

    def forward(self, inputs: Mapping[str, Tensor], *, every: bool = False) -> Tensor:
        """Field to tensor (see `Encoded`), to the first label's logit or value, (B,), or every label's, (B, T)."""
        x = self.vectors(inputs).flatten(1)
        states = [x] * (len(self.towers.tasks) + 1)
        for layer in self.layers:
            states = layer(states)
        outputs = self.towers(states[: len(self.towers.tasks)], self.bias)
        return outputs if every else outputs[:, 0]


class Extraction(nn.Module):
    """x_t <- softmax(G_t x_t) over label t's experts (of x_t) and the shared ones (of x_s); x_s <- softmax(G_s x_s) over all experts.

    Args:
        width: Numbers per row and state.
        labels: T.
        config: Layers of an expert, activation, dropout.
        own: Numbers of experts.
        last: The last layer has no shared state to give on.
    """

    def __init__(self, width: int, labels: int, config: ModelConfig, own: ExtractionSettings, *, last: bool) -> None:
        super().__init__()

        def experts(count: int) -> nn.ModuleList:
            return nn.ModuleList(hidden_layers(width, config.hidden, activation=config.activation, dropout=config.dropout, outputs=None) for _ in range(count))

        self.own = nn.ModuleList(experts(own.label_experts) for _ in range(labels))
        self.shared = experts(own.shared_experts)
        self.gates = nn.ModuleList(nn.Linear(width, own.label_experts + own.shared_experts, bias=False) for _ in range(labels))
        self.shared_gate = None if last else nn.Linear(width, labels * own.label_experts + own.shared_experts, bias=False)

    def forward(self, states: Sequence[Tensor]) -> list[Tensor]:
        """States of the labels and, last, the shared one, (B, width) each, to the next ones; after the last layer there is no shared one."""
        *each, common = states
        shared = [expert(common) for expert in self.shared]
        own = [[expert(state) for expert in experts] for experts, state in zip(self.own, each, strict=True)]
        out = [mixed(gate(state), torch.stack([*mine, *shared], dim=1)) for gate, state, mine in zip(self.gates, each, own, strict=True)]
        if self.shared_gate is not None:
            out.append(mixed(self.shared_gate(common), torch.stack([*(expert for mine in own for expert in mine), *shared], dim=1)))
        return out
