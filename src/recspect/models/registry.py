"""The built-in ranking models by name. Needs no torch, so that a command can list them."""

from __future__ import annotations

from dataclasses import dataclass

from recspect.models.settings import (
    AttentionSettings,
    CrossSettings,
    DotSettings,
    ExtractionSettings,
    MixtureSettings,
    OwnSettings,
)


@dataclass(frozen=True)
class Entry:
    """Where a model lives.

    Args:
        path: `file:Class` below `recspect.models`.
        settings: Class of the settings that only this model has, or None.
        several: Whether it can predict several labels at once.
    """

    path: str
    settings: type[OwnSettings] | None = None
    several: bool = False


MODELS: dict[str, Entry] = {
    "linear": Entry("linear:Linear"),
    "fm": Entry("fm:FM"),
    "mlp": Entry("mlp:MLP"),
    "deepfm": Entry("deepfm:DeepFM"),
    "dcnv2": Entry("dcnv2:DCNv2", CrossSettings),
    "dlrm": Entry("dlrm:DLRM", DotSettings),
    "din": Entry("din:DIN", AttentionSettings),
    "mmoe": Entry("mmoe:MMoE", MixtureSettings, several=True),
    "ple": Entry("ple:PLE", ExtractionSettings, several=True),
}
"""Name in settings and on the command line, from the simplest on."""
