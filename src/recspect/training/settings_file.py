"""Settings of a training in a TOML file, without what belongs to one machine or one table."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from recspect.errors import RunError, UsageError, listing
from recspect.files import write_bytes
from recspect.models.config import ModelConfig
from recspect.training.config import TrainingConfig

TRAINING = ("maximum_epochs", "patience_epochs", "select_by", "batch_rows", "learning_rate", "table_learning_rate", "table_optimiser", "dense_l2", "embedding_l2", "clip_norm", "unknown_share", "precision")
"""Of `TrainingConfig`; the rest is about the table, the split, the machine, and what is watched."""
MODEL = ("name", "embedding_width", "hidden", "activation", "dropout", "embedding_deviation", "rows_per_table", "own")
"""Of `ModelConfig`; the rest is filled in from the labels."""


def write_settings(path: Path, config: TrainingConfig, *, comment: str = "") -> None:
    """Write the file; what is None stays out, as it is None by default."""
    write_bytes(path, to_toml(config, comment=comment).encode())


def to_toml(config: TrainingConfig, *, comment: str = "") -> str:
    """The settings as text, with a comment on top."""
    own = {} if config.model.own is None else {spec.name: getattr(config.model.own, spec.name) for spec in fields(config.model.own)}
    parts = {"training": {name: getattr(config, name) for name in TRAINING}, "model": {name: getattr(config.model, name) for name in MODEL if name != "own"}, "model.own": own}
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    for title, values in parts.items():
        told = {name: value for name, value in values.items() if value is not None}
        if told:
            lines += ["", f"[{title}]", *(f"{name} = {_toml(value)}" for name, value in told.items())]
    return "\n".join(lines).lstrip("\n") + "\n"


def _toml(value: Any) -> str:
    """Texts, numbers, booleans and lists of them are written alike in TOML and JSON."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def read_settings(path: Path, base: TrainingConfig | None = None) -> TrainingConfig:
    """The settings of a file; those that it does not name are those of `base`, by default the defaults.

    Raises:
        UsageError: The file is missing, is no TOML, or names a setting that there is not or a value that makes no sense.
    """
    base = base or TrainingConfig()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the settings {path}: {error.strerror or error}", hint="`recspect tune` writes one") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no TOML: {error}", hint="[training] and [model], with settings such as learning_rate = 0.001") from None
    training, model = _part(path, content, "training", TRAINING), _part(path, content, "model", MODEL)
    if unknown := sorted(set(content) - {"training", "model"}):
        raise UsageError(f"{path} has the parts {listing(unknown)}, expected training and model")
    try:
        if model.get("name", base.model.name) != base.model.name and "own" not in model:
            model["own"] = None
        made = replace(base.model, **model) if model else base.model
        return replace(base, model=made, **training)
    except (TypeError, ValueError, RunError) as error:
        raise UsageError(f"{path}: {error}", hint="correct the value") from None


def of_command(path: Path | None, *, model: str = "", epochs: int | None = None, **others: Any) -> TrainingConfig:
    """Settings as a command line gives them: the file's where there is one, over them what was said on the line.

    Args:
        path: File of settings, or None.
        model: Name; by default the file's, or deepfm.
        epochs: At most; by default the file's, or 10.
        others: Further settings of the training.

    Raises:
        UsageError: The file says something else than the line, or one of them makes no sense.
    """
    config = TrainingConfig(maximum_epochs=10) if path is None else read_settings(path, TrainingConfig(maximum_epochs=10))
    if model and model != config.model.name:
        if path is not None:
            raise UsageError(f"{path} has settings of model {config.model.name!r}, asked for {model!r}", hint="leave --model out, or the file")
        config = replace(config, model=ModelConfig(name=model))
    return replace(config, **({} if epochs is None else {"maximum_epochs": epochs}), **others)


def _part(path: Path, content: Mapping[str, Any], title: str, known: tuple[str, ...]) -> dict[str, Any]:
    found = content.get(title, {})
    if not isinstance(found, dict):
        raise UsageError(f"{path}: {title} is {found!r:.100}, expected a table of settings", hint=f"[{title}]")
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise UsageError(f"{path}: {title} has {listing(unknown)}; settings: {listing(known)}", hint="correct the name, or take it away")
    return dict(found)


__all__ = ["of_command", "read_settings", "to_toml", "write_settings"]
