"""Features: from the columns of a table to the tensors of a model, and back from files.

Names are loaded when they are first asked for, so that decoding a label of a scored table needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recspect.features.canary import with_canary
    from recspect.features.encoded import Encoded, InputSize
    from recspect.features.labels import encode_label
    from recspect.features.transform import FeatureTransform

_HOMES = {"Encoded": "encoded", "InputSize": "encoded", "encode_label": "labels", "FeatureTransform": "transform",
          "with_canary": "canary"}

__all__ = ["Encoded", "FeatureTransform", "InputSize", "encode_label", "with_canary"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
