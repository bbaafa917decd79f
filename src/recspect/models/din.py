"""DIN: of what a user had before, the entries that are like the item in question weigh most.

Source: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018 (with the activation of the settings
instead of the paper's Dice).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recspect.errors import UsageError
from recspect.features.encoded import InputSize
from recspect.models.config import ModelConfig
from recspect.models.layers import hidden_layers
from recspect.models.settings import AttentionSettings
from recspect.models.vectors import FieldVectors, mean_of_entries


class DIN(nn.Module):
    """z = b + MLP(v_1, ..., v_F); v_f as in `FieldVectors`, except for a history: a list whose entries share the table of a field t.

    v = sum_j a(h_j, v_t) h_j over the entries h_j that are there, a(h, t) = Attention(h, t, h - t, h * t), with * by element.
    """

    def __init__(self, sizes: Sequence[InputSize], config: ModelConfig) -> None:
        super().__init__()
        assert isinstance(config.own, AttentionSettings)
        self.config, self.normalised = config, config.own.normalised
        self.vectors = FieldVectors.of(sizes, config)
        self.targets = {size.name: size.shares for size in sizes if size.form == "ids" and size.shares in self.vectors.single}
        if not self.targets:
            raise UsageError("model 'din' needs a history: a list field that shares the ids of another field, and there is none",
                             hint='in the schema: history = { kind = "sequence", side = "user", shares = "item_id" }')
        self.attentions = nn.ModuleList(
            hidden_layers(4 * config.embedding_width, config.own.attention, activation=config.activation, dropout=0.0) for _ in self.targets)
        self.bias = nn.Parameter(torch.zeros(()))
        self.mlp = hidden_layers(len(sizes) * config.embedding_width, config.hidden, activation=config.activation, dropout=config.dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Field to tensor (see `Encoded`), to the logit (binary) or the value (graded), shape (B,)."""
        singles = torch.cat(self.vectors.singles(inputs), dim=1)
        attentions = dict(zip(self.targets, self.attentions, strict=True))
        lists = []
        for name in self.vectors.lists:
            entries, present = self.vectors.entries(inputs, name)
            if name not in self.targets:
                lists.append(mean_of_entries(entries, present))
                continue
            target = singles[:, self.vectors.single.index(self.targets[name])].unsqueeze(1).expand_as(entries)
            weights = attentions[name](torch.cat([entries, target, entries - target, entries * target], dim=2)).squeeze(2)
            lists.append((self._shares(weights, present).unsqueeze(2) * entries).sum(dim=1, keepdim=True))
        vectors = torch.cat([singles, *lists, *self.vectors.scaled(inputs)], dim=1)
        raw = self.bias + self.mlp(vectors.flatten(1)).squeeze(1)
        return self.config.output_mean + self.config.output_scale * raw

    def _shares(self, weights: Tensor, present: Tensor) -> Tensor:
        """Weights of the entries, (B, L), exactly 0 where there is none."""
        if self.normalised:
            # The lowest finite number instead of -inf: a row without any entry then has no NaN, and its weights are 0 below.
            weights = weights.masked_fill(~present, torch.finfo(weights.dtype).min).softmax(dim=1)
        return weights * present
