"""Which settings of each built-in model are worth searching, and between which ends. Needs no torch and no search library.

The ends come from the papers of the models and from what ran here; the defaults of `recspect train` lie inside every space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recspect.errors import UsageError, listing
from recspect.models.registry import MODELS


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A whole number from `low` to `high`; `log`: as likely to double as to double again."""

    name: str
    low: int
    high: int
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Real:
    """A number from `low` to `high`."""

    name: str
    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several values: numbers, texts, None. Sizes of layers are texts such as "256-128"."""

    name: str
    options: tuple[Any, ...]


Dimension = Whole | Real | Choice
"""A setting that is searched; its name is `training.x`, `model.x` or `model.own.x`."""

SIZES = ("model.hidden", "model.own.bottom", "model.own.attention", "model.own.tower")
"""Settings that are several sizes of layers."""

_TRAINING: tuple[Dimension, ...] = (
    Real(name="training.learning_rate", low=1e-4, high=1e-2, log=True),
    Real(name="training.table_learning_rate", low=1e-3, high=1e-1, log=True),
    Choice(name="training.batch_rows", options=(512, 1024, 2048, 4096)),
    Choice(name="training.dense_l2", options=(0.0, 1e-6, 1e-5, 1e-4, 1e-3)),
    Choice(name="training.embedding_l2", options=(0.0, 1e-6, 1e-5, 1e-4, 1e-3)),
    Choice(name="training.unknown_share", options=(0.0, 0.003, 0.01, 0.03)),
    Real(name="model.embedding_deviation", low=0.003, high=0.1, log=True),
)
_VECTORS: tuple[Dimension, ...] = (*_TRAINING, Choice(name="model.embedding_width", options=(4, 8, 16, 32)))
_LAYERS: tuple[Dimension, ...] = (
    *_VECTORS,
    Choice(name="model.hidden", options=("64", "128-64", "256-128", "512-256", "256-128-64")),
    Choice(name="model.activation", options=("relu", "silu", "gelu")),
    Real(name="model.dropout", low=0.0, high=0.5),
)

SPACES: Mapping[str, tuple[Dimension, ...]] = {
    "linear": _TRAINING,
    "fm": _VECTORS,
    "mlp": _LAYERS,
    "deepfm": _LAYERS,
    "dcnv2": (*_LAYERS, Whole(name="model.own.layers", low=1, high=4), Choice(name="model.own.rank", options=(None, 8, 32)), Choice(name="model.own.structure", options=("stacked", "parallel"))),
    "dlrm": (*_LAYERS, Choice(name="model.own.bottom", options=("32", "64", "128-64"))),
    "din": (*_LAYERS, Choice(name="model.own.attention", options=("16", "36", "64-32")), Choice(name="model.own.normalised", options=(False, True))),
    "mmoe": (*_LAYERS, Whole(name="model.own.experts", low=2, high=8), Choice(name="model.own.tower", options=("16", "32", "64-32"))),
    "ple": (*_LAYERS, Whole(name="model.own.layers", low=1, high=3), Whole(name="model.own.shared_experts", low=1, high=3), Whole(name="model.own.label_experts", low=1, high=3),
            Choice(name="model.own.tower", options=("16", "32", "64-32"))),
}
"""Model to what is searched."""


def space_of(model: str) -> tuple[Dimension, ...]:
    """What is searched of a model.

    Raises:
        UsageError: No model of that name.
    """
    if model not in SPACES:
        raise UsageError(f"no model named {model!r}; models: {listing(MODELS)}", hint=f"choose one of {listing(MODELS)}")
    return SPACES[model]


def as_setting(name: str, value: Any) -> Any:
    """A value of a space as the setting holds it: sizes of layers as numbers."""
    return tuple(int(size) for size in str(value).split("-")) if name in SIZES else value


def as_value(name: str, setting: Any) -> Any:
    """The inverse of `as_setting`."""
    return "-".join(str(size) for size in setting) if name in SIZES else setting
