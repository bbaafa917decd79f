"""DeepFM: first-order weights, all pairwise products of field vectors, and an MLP over the same vectors.

Source: Guo, Tang, Ye, Li, He, "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recspect.features.encoded import InputSize
from recspect.models.config import ModelConfig
from recspect.models.layers import hidden_layers, pairwise_products
from recspect.models.vectors import FieldVectors


class DeepFM(nn.Module):
    """z = b + sum_f w_f + sum_{f<g} <v_f, v_g> + MLP(v_1, ..., v_F).

    v_f (D numbers) and w_f (one number) are looked up, averaged over a list, or scaled by a number: see `FieldVectors`.
    """

    def __init__(self, sizes: Sequence[InputSize], config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vectors = FieldVectors.of(sizes, config)
        self.weights = FieldVectors.of(sizes, config, width=1)
        self.bias = nn.Parameter(torch.zeros(()))
        self.mlp = hidden_layers(len(sizes) * config.embedding_width, config.hidden,
                                 activation=config.activation, dropout=config.dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Field to tensor (see `Encoded`), to the logit (binary) or the value (graded), shape (B,)."""
        vectors = self.vectors(inputs)
        first = self.weights(inputs).sum(dim=(1, 2))
        raw = self.bias + first + pairwise_products(vectors) + self.mlp(vectors.flatten(1)).squeeze(1)
        return self.config.output_mean + self.config.output_scale * raw
