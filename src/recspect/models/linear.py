"""Logistic regression (linear regression for a graded label): one weight per category, and a slope per number.

Source: Richardson, Dominowska, Ragno, "Predicting Clicks: Estimating the Click-Through Rate for New Ads", WWW 2007.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recspect.features.encoded import InputSize
from recspect.models.config import ModelConfig
from recspect.models.vectors import FieldVectors


class Linear(nn.Module):
    """z = b + sum_f w_f; w_f (one number) is looked up, averaged over a list, or scaled by a number: see `FieldVectors`."""

    def __init__(self, sizes: Sequence[InputSize], config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weights = FieldVectors.of(sizes, config, width=1)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Field to tensor (see `Encoded`), to the logit (binary) or the value (graded), shape (B,)."""
        raw = self.bias + self.weights(inputs).sum(dim=(1, 2))
        return self.config.output_mean + self.config.output_scale * raw
