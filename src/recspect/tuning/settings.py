"""Values of a search space as settings of a training, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from recspect.models.spaces import Choice, Dimension, Real, Whole, as_setting, as_value
from recspect.training.config import TrainingConfig


def values_of(config: TrainingConfig, space: Sequence[Dimension]) -> dict[str, Any]:
    """The values that the settings have in the space."""
    return {dimension.name: as_value(dimension.name, _owner(config, dimension.name)) for dimension in space}


def with_values(config: TrainingConfig, values: Mapping[str, Any]) -> TrainingConfig:
    """The settings with these values."""
    model, own = config.model, config.model.own
    training = {name.removeprefix("training."): value for name, value in values.items() if name.startswith("training.")}
    of_own = {name.removeprefix("model.own."): as_setting(name, value) for name, value in values.items() if name.startswith("model.own.")}
    of_model = {name.removeprefix("model."): as_setting(name, value) for name, value in values.items() if name.startswith("model.") and not name.startswith("model.own.")}
    if own is not None and of_own:
        of_model["own"] = replace(own, **of_own)
    return replace(config, model=replace(model, **of_model), **training)


def suggested(trial: Any, space: Sequence[Dimension]) -> dict[str, Any]:
    """What Optuna suggests for a trial; a trial that goes on has the same values again."""
    found: dict[str, Any] = {}
    for dimension in space:
        match dimension:
            case Whole():
                found[dimension.name] = trial.suggest_int(dimension.name, dimension.low, dimension.high, log=dimension.log)
            case Real():
                found[dimension.name] = trial.suggest_float(dimension.name, dimension.low, dimension.high, log=dimension.log)
            case Choice():
                found[dimension.name] = trial.suggest_categorical(dimension.name, dimension.options)
    return found


def _owner(config: TrainingConfig, name: str) -> Any:
    value: Any = {"training": config, "model": config.model}[name.split(".", 1)[0]]
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    return value


__all__ = ["suggested", "values_of", "with_values"]
