"""Norms of weights, gradients and updates, on some rows where a parameter is large."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SNAPSHOT_VALUES = 262_144
"""The weights of a parameter, and its update with a dense gradient, are measured on at most so many numbers of evenly spaced rows."""


def thinned(parameter: Tensor) -> Tensor:
    """Evenly spaced rows of a large parameter, a view; a small one as it is."""
    if parameter.numel() <= SNAPSHOT_VALUES or parameter.dim() == 0:
        return parameter
    return parameter[::-(-parameter.numel() // SNAPSHOT_VALUES)]


def weight_norms(parameters: Sequence[Tensor]) -> list[float]:
    """Euclidean norm of each parameter; that of a large one is estimated from evenly spaced rows."""
    some = [thinned(parameter) for parameter in parameters]
    scales = [(whole.numel() / max(1, part.numel())) ** 0.5 for whole, part in zip(parameters, some, strict=True)]
    return [norm * scale for norm, scale in zip(norms(some), scales, strict=True)]


def norms(tensors: Sequence[Tensor]) -> list[float]:
    """Euclidean norm of each tensor, with one transfer from each device."""
    found: list[float] = [0.0] * len(tensors)
    groups: dict[object, list[int]] = {}
    for position, tensor in enumerate(tensors):
        if tensor.numel():
            groups.setdefault((tensor.device, tensor.dtype), []).append(position)
    for positions in groups.values():
        values = torch.stack(torch._foreach_norm([tensors[i] for i in positions])).tolist()  # noqa: SLF001 - what clip_grad_norm_ uses too
        for position, value in zip(positions, values, strict=True):
            found[position] = value
    return found


class Snapshot:
    """Weights before the update: the touched rows of a table, all of a small parameter, some rows of a large one."""

    def __init__(self, name: str, parameter: Tensor, rows: Tensor | None) -> None:
        self.name, self.rows = name, rows
        self.before = self._of(parameter).clone()

    def difference(self, parameter: Tensor) -> Tensor:
        """How the weights changed since."""
        return self._of(parameter) - self.before

    def _of(self, parameter: Tensor) -> Tensor:
        return thinned(parameter) if self.rows is None else parameter.index_select(0, self.rows)
