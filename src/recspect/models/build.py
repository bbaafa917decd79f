"""From settings to a model; nothing else is needed to rebuild one than its settings and the sizes of its inputs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from recspect.errors import UsageError, listing
from recspect.features.encoded import InputSize
from recspect.models.config import ModelConfig
from recspect.models.deepfm import DeepFM
from recspect.models.mlp import MLP

MODELS: dict[str, type[DeepFM | MLP]] = {"deepfm": DeepFM, "mlp": MLP}
"""Name in settings and on the command line -> class."""


def model_class(config: ModelConfig) -> type[DeepFM | MLP]:
    """The class that the settings name.

    Raises:
        UsageError: No model of that name.
    """
    if config.name not in MODELS:
        raise UsageError(f"no model named {config.name!r}; models: {listing(MODELS)}", hint=f"choose one of {listing(MODELS)}")
    return MODELS[config.name]


def build(config: ModelConfig, sizes: Sequence[InputSize]) -> nn.Module:
    """A model with fresh weights, drawn from torch's global generator.

    Raises:
        UsageError: No model of that name.
    """
    return model_class(config)(sizes, config)
