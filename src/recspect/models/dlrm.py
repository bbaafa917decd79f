"""DLRM: the numbers of a row become one vector of the fields' width, and an MLP reads it with all pairwise products.

Source: Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation Systems", arXiv:1906.00091.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recspect.errors import UsageError
from recspect.features.encoded import InputSize
from recspect.models.config import ModelConfig
from recspect.models.layers import hidden_layers
from recspect.models.settings import DotSettings
from recspect.models.vectors import FieldVectors


class DLRM(nn.Module):
    """v_0 = Bottom(numbers); z = b + Top(v_0, <v_f, v_g> for all f < g), over v_0 and the ids' vectors of `FieldVectors`.

    Without numbers there is no v_0, and without ids nothing else.
    """

    def __init__(self, sizes: Sequence[InputSize], config: ModelConfig) -> None:
        super().__init__()
        assert isinstance(config.own, DotSettings)
        self.config = config
        looked_up = [size for size in sizes if size.form != "numbers"]
        self.numeric = [size.name for size in sizes if size.form == "numbers"]
        width = config.embedding_width
        self.vectors = FieldVectors.of(looked_up, config) if looked_up else None
        self.bottom = hidden_layers(sum(size.width for size in sizes if size.form == "numbers"), config.own.bottom, outputs=width,
                                    activation=config.activation, dropout=config.dropout) if self.numeric else None
        vectors = len(looked_up) + bool(self.numeric)
        if vectors < 2 and not self.numeric:
            raise UsageError("model 'dlrm' reads products of fields, and there is only one field", hint="give it a number or a second field, or choose mlp")
        pairs = torch.triu_indices(vectors, vectors, offset=1)
        self.register_buffer("pairs", pairs, persistent=False)
        self.bias = nn.Parameter(torch.zeros(()))
        self.mlp = hidden_layers(pairs.shape[1] + (width if self.numeric else 0), config.hidden,
                                 activation=config.activation, dropout=config.dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Field to tensor (see `Encoded`), to the logit (binary) or the value (graded), shape (B,)."""
        vectors, read = [], []
        if self.bottom is not None:
            numbers = [inputs[name].reshape(len(inputs[name]), -1) for name in self.numeric]
            read.append(self.bottom(torch.cat(numbers, dim=1)))
            vectors.append(read[0].unsqueeze(1))
        if self.vectors is not None:
            vectors.append(self.vectors(inputs))
        stacked = torch.cat(vectors, dim=1)
        first, second = self.pairs
        read.append((stacked @ stacked.transpose(1, 2))[:, first, second])
        raw = self.bias + self.mlp(torch.cat(read, dim=1)).squeeze(1)
        return self.config.output_mean + self.config.output_scale * raw
