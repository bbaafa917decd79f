"""A plain MLP over the concatenated field vectors: the least that a deep recommender can be.

Source: the deep part of Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recspect.features.encoded import InputSize
from recspect.models.config import ModelConfig
from recspect.models.layers import hidden_layers
from recspect.models.vectors import FieldVectors


class MLP(nn.Module):
    """z = b + MLP(v_1, ..., v_F); v_f as in `FieldVectors`."""

    def __init__(self, sizes: Sequence[InputSize], config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vectors = FieldVectors.of(sizes, config)
        self.bias = nn.Parameter(torch.zeros(()))
        self.mlp = hidden_layers(len(sizes) * config.embedding_width, config.hidden,
                                 activation=config.activation, dropout=config.dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Field to tensor (see `Encoded`), to the logit (binary) or the value (graded), shape (B,)."""
        raw = self.bias + self.mlp(self.vectors(inputs).flatten(1)).squeeze(1)
        return self.config.output_mean + self.config.output_scale * raw
