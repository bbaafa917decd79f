"""The built-in recommenders: small, readable, each file an equation.

Names are loaded when they are first asked for, so that listing the models needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recspect.models.building import build
    from recspect.models.config import ModelConfig
    from recspect.models.registry import MODELS

_HOMES = {"MODELS": "registry", "ModelConfig": "config", "build": "building"}

__all__ = ["MODELS", "ModelConfig", "build"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
