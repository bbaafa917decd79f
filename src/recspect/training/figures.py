"""The figures of an epoch, and which epoch is best by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from recspect.models.settings import Task
from recspect.training.config import TrainingConfig
from recspect.training.metrics import auc, log_loss, squared_error
from recspect.training.predict import raw_outputs
from recspect.training.rows import Part
from recspect.training.run import plain_number

TRAIN_ROWS_JUDGED = 50_000
"""Training rows (evenly spaced) on which `train_auc` is measured after each epoch."""


def epoch_figures(model: nn.Module, parts: tuple[Part, Part, Part]) -> dict[str, Any]:
    """AUC (binary label) or root mean squared error (graded) of training, validation and test rows, and the losses.

    None where a figure does not exist, such as the AUC of rows of one class. The loss of training rows is not among them:
    `train_loss` is the mean over the steps of the epoch. Of a model of several labels these are the first label's, and `labels`
    holds those of each, with the rows behind them.
    """
    train, validation, test = parts
    tasks: Sequence[Task] = model.config.tasks
    figures: dict[str, Any] = {}
    by_label: dict[str, dict[str, Any]] = {task.label: {} for task in tasks}
    for name, part in (("train", train), ("validation", validation), ("test", test)):
        outputs = raw_outputs(model, part.encoded, every=bool(tasks))
        first = outputs[:, 0] if tasks else outputs
        figures |= _figures(name, model.config.output, part.label, first)
        for place, task in enumerate(tasks):
            label = part.others.get(task.label, part.label)
            by_label[task.label] |= _figures(name, task.output, label, outputs[:, place]) | {f"{name}_rows": len(label)}
            if task.output == "logit":
                by_label[task.label][f"{name}_positives"] = int(label.sum())
    return {**figures, "labels": by_label} if tasks else figures


def _figures(name: str, output: str, label: NDArray[np.float64], outputs: NDArray[np.float64]) -> dict[str, float | None]:
    if output == "logit":
        loss = log_loss(label, outputs)
        figures = {f"{name}_auc": plain_number(auc(label, outputs))}
    else:
        loss = squared_error(label, outputs)
        figures = {f"{name}_rmse": plain_number(loss**0.5)}
    return figures if name == "train" else {**figures, f"{name}_loss": plain_number(loss)}


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
