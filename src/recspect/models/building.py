"""From settings to a model; nothing else is needed to rebuild one than its settings and the sizes of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import nn

from recspect.errors import UsageError, listing
from recspect.features.encoded import InputSize
from recspect.models.config import ModelConfig
from recspect.models.registry import MODELS


def model_class(config: ModelConfig) -> type[nn.Module]:
    """The class that the settings name.

    Raises:
        UsageError: No model of that name.
    """
    if config.name not in MODELS:
        raise UsageError(f"no model named {config.name!r}; models: {listing(MODELS)}", hint=f"choose one of {listing(MODELS)}")
    file, name = MODELS[config.name].path.split(":")
    found: type[nn.Module] = getattr(import_module(f"recspect.models.{file}"), name)
    return found


def build(config: ModelConfig, sizes: Sequence[InputSize]) -> nn.Module:
    """A model with fresh weights, drawn from torch's global generator.

    Raises:
        UsageError: No model of that name, or it cannot read these inputs.
    """
    chosen: Any = model_class(config)
    model: nn.Module = chosen(sizes, config)
    return model


def require_buildable(config: ModelConfig, sizes: Sequence[InputSize]) -> None:
    """Let `build` raise what it would, without memory for weights and without drawing a random number."""
    with torch.device("meta"):
        build(config, sizes)
