"""The figures of an epoch, and which epoch is best by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from recspect.training.config import TrainingConfig
from recspect.training.metrics import auc, log_loss, squared_error
from recspect.training.predict import raw_outputs
from recspect.training.rows import Part
from recspect.training.run import plain_number

TRAIN_ROWS_JUDGED = 50_000
"""Training rows (evenly spaced) on which `train_auc` is measured after each epoch."""


def epoch_figures(model: nn.Module, parts: tuple[Part, Part, Part]) -> dict[str, float | None]:
    """AUC (binary label) or root mean squared error (graded) of training, validation and test rows, and the losses.

    None where a figure does not exist, such as the AUC of rows of one class. The loss of training rows is not among them:
    `train_loss` is the mean over the steps of the epoch.
    """
    train, validation, test = parts
    evenly = np.linspace(0, train.encoded.rows - 1, min(TRAIN_ROWS_JUDGED, train.encoded.rows)).astype(np.int64)
    figures: dict[str, float | None] = {}
    for name, part in (("train", train.take(evenly)), ("validation", validation), ("test", test)):
        outputs = raw_outputs(model, part.encoded)
        if model.config.output == "logit":
            loss = log_loss(part.label, outputs)
            figures[f"{name}_auc"] = plain_number(auc(part.label, outputs))
        else:
            loss = squared_error(part.label, outputs)
            figures[f"{name}_rmse"] = plain_number(loss**0.5)
        if name != "train":
            figures[f"{name}_loss"] = plain_number(loss)
    return figures


def selected_by(config: TrainingConfig) -> str:
    """Name of the figure that decides: `validation_auc` or `validation_loss`."""
    by_auc = config.select_by == "auc" or (config.select_by is None and config.model.output == "logit")
    return "validation_auc" if by_auc else "validation_loss"


def best_epoch(epochs: Sequence[Mapping[str, Any]], key: str) -> int | None:
    """The first epoch with the best value; the loss decides where AUC does not exist."""
    if not epochs:
        return None
    if any(figures.get(key) is None for figures in epochs):
        key = "validation_loss"
    sign = -1 if key == "validation_auc" else 1

    def badness(figures: Mapping[str, Any]) -> float:
        value = figures.get(key)
        return float("inf") if value is None else sign * value

    return int(min(epochs, key=badness)["epoch"])


def stale_epochs(epochs: Sequence[Mapping[str, Any]], key: str) -> int:
    """How many epochs ended since the best one."""
    best = best_epoch(epochs, key)
    return 0 if best is None else int(epochs[-1]["epoch"]) - best
