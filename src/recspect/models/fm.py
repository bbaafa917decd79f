"""Factorisation machine: first-order weights and all pairwise products of field vectors.

Source: Rendle, "Factorization Machines", ICDM 2010.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recspect.features.encoded import InputSize
from recspect.models.config import ModelConfig
from recspect.models.layers import pairwise_products
from recspect.models.vectors import FieldVectors


class FM(nn.Module):
    """z = b + sum_f w_f + sum_{f<g} <v_f, v_g>; v_f (D numbers) and w_f (one number) as in `FieldVectors`."""

    def __init__(self, sizes: Sequence[InputSize], config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vectors = FieldVectors.of(sizes, config)
        self.weights = FieldVectors.of(sizes, config, width=1)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Field to tensor (see `Encoded`), to the logit (binary) or the value (graded), shape (B,)."""
        raw = self.bias + self.weights(inputs).sum(dim=(1, 2)) + pairwise_products(self.vectors(inputs))
        return self.config.output_mean + self.config.output_scale * raw
