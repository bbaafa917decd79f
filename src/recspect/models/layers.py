"""The hidden layers that the built-in models share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from recspect.models.config import Activation

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def hidden_layers(inputs: int, hidden: Sequence[int], *, activation: Activation, dropout: float) -> nn.Sequential:
    """Linear, activation, (dropout), ..., and a last linear layer to one number: (B, inputs) to (B, 1).

    Activations are modules of their own, so that whoever looks inside can name them.
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), _ACTIVATIONS[activation]()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1))
