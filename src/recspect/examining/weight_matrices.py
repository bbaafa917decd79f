"""The weight matrices of a model's linear layers, as tables to add up."""

from __future__ import annotations

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.subject import TorchSubject

WIDEST = 2048
"""Matrices whose shorter side is longer are left out: their Gram matrix takes more than 32 MiB."""


def weight_matrices(subject: TorchSubject) -> dict[str, Batch]:
    """Per linear layer a batch of `@weights:layer`, with one row for each entry of the longer side, shape [longer, shorter]. Layers to or from one neuron have no spectrum and are left out."""
    from torch import nn  # here, since this room is also entered without torch

    out = {}
    for name, module in subject.model.named_modules():
        if isinstance(module, nn.Linear) and 1 < min(module.weight.shape) <= WIDEST:
            weight = module.weight.detach().float().cpu()
            out[name] = Batch({f"@weights:{name}": (weight if weight.shape[0] >= weight.shape[1] else weight.T).contiguous().numpy()})
    return out
