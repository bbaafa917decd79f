"""What the built-in models share between their vectors and their output."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from recspect.models.config import Activation

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def hidden_layers(inputs: int, hidden: Sequence[int], *, activation: Activation, dropout: float, outputs: int | None = 1) -> nn.Sequential:
    """Linear, activation, (dropout), ..., and a last linear layer to the outputs: (B, inputs) to (B, outputs).

    Activations are modules of their own, so that whoever looks inside can name them.

    Args:
        inputs: Numbers per row.
        hidden: Neurons of each hidden layer.
        activation: Behind each of them.
        dropout: Share dropped behind each of them in training.
        outputs: None for no last linear layer: (B, inputs) to (B, hidden[-1]).
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), _ACTIVATIONS[activation]()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        inputs = width
    return nn.Sequential(*layers) if outputs is None else nn.Sequential(*layers, nn.Linear(inputs, outputs))


def pairwise_products(vectors: Tensor) -> Tensor:
    """sum_{f<g} <v_f, v_g> = (|sum_f v_f|^2 - sum_f |v_f|^2) / 2: (B, F, D) to (B,)."""
    return (vectors.sum(dim=1).square() - vectors.square().sum(dim=1)).sum(dim=1) / 2
