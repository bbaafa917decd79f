"""Two towers: what is known of the request on one side, of the item on the other, an inner product between them.

Source: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from recspect.errors import UsageError
from recspect.features.encoded import InputSize
from recspect.models.vectors import FieldVectors


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """Settings of the two towers.

    Args:
        embedding_width: Numbers per field vector.
        hidden: Neurons of each hidden layer of a tower; none leaves a linear map.
        width: Numbers of the vectors that are compared (D).
        temperature: Scores are inner products of vectors of length 1 divided by this.
        embedding_deviation: Standard deviation of embeddings at the start.
        dropout: Share of hidden activations dropped in training, 0 to below 1.
    """

    embedding_width: int = 32
    hidden: tuple[int, ...] = (128,)
    width: int = 64
    temperature: float = 0.07
    embedding_deviation: float = 0.05
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if min(self.embedding_width, self.width, *self.hidden) < 1:
            raise UsageError(f"model settings: embedding_width {self.embedding_width}, hidden {self.hidden}, width {self.width}: expected 1 or more each")
        if not (self.temperature > 0 and self.embedding_deviation > 0 and 0 <= self.dropout < 1):
            raise UsageError(f"model settings: temperature {self.temperature}, embedding_deviation {self.embedding_deviation}, dropout {self.dropout}",
                             hint="expected more than 0; more than 0; 0 or more and below 1")


class TwoTower(nn.Module):
    """z = <q, i> / temperature with q = unit(MLP(request fields)), i = unit(MLP(item fields)).

    Args:
        request: Fields of user and context.
        item: Fields of the item.
        config: Settings.
    """

    def __init__(self, request: Sequence[InputSize], item: Sequence[InputSize], config: TwoTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.request_tower = _Tower(request, config)
        self.item_tower = _Tower(item, config)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Field to tensor (see `Encoded`), to one score per row, (B,)."""
        return (self.requests(inputs) * self.items(inputs)).sum(dim=1) / self.config.temperature

    def requests(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Vectors of requests, (B, D), of length 1."""
        return self.request_tower(inputs)

    def items(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Vectors of items, (B, D), of length 1."""
        return self.item_tower(inputs)


class _Tower(nn.Module):
    def __init__(self, sizes: Sequence[InputSize], config: TwoTowerConfig) -> None:
        super().__init__()
        self.vectors = FieldVectors(sizes, config.embedding_width, deviation=config.embedding_deviation)
        layers: list[nn.Module] = []
        inputs = len(sizes) * config.embedding_width
        for width in config.hidden:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            if config.dropout:
                layers.append(nn.Dropout(config.dropout))
            inputs = width
        self.mlp = nn.Sequential(*layers, nn.Linear(inputs, config.width))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return functional.normalize(self.mlp(self.vectors(inputs).flatten(1)), dim=1)
