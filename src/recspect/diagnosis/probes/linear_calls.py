"""Linear layers over a matrix, as a forward pass calls them."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class LinearInputs(TorchFunctionMode):
    """While active, keeps a copy of the input of every linear layer over a matrix, in the order of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if is_linear(func, args):
            self.inputs.append(args[0].clone())
        return func(*args, **(kwargs or {}))


def is_linear(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether a call is a linear layer over a matrix: rows by columns, not a list of positions."""
    return func is F.linear and len(args) >= 2 and isinstance(args[0], Tensor) and args[0].dim() == 2
