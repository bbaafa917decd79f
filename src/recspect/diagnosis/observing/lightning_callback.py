"""Watching a training of Lightning's Trainer: `Trainer(callbacks=[Watch("runs/mine")])`.

A loop of Lightning Fabric is a hand-written one: use `Observer` in it, as docs/observing.md shows.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Any

import torch

from recspect.diagnosis.observing.look import Look
from recspect.diagnosis.observing.observer import Observer
from recspect.errors import MissingExtraError

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    try:
        from pytorch_lightning.callbacks import Callback
    except ImportError:
        raise MissingExtraError("lightning", extra="lightning", purpose="The callback for Lightning's Trainer") from None


class Watch(Callback):  # type: ignore[misc] # Lightning's types are not read
    """An observer that looks on while a Trainer trains.

    Micro-batches of one update (`accumulate_grad_batches`) are one step, whose loss is their mean. Validation figures whose names say so
    ("val_loss", "valid_auc", "loss/val") are recorded as `loss/validation` and `auc/validation` at the end of each epoch.

    Args:
        folder: Where the files go that `recspect diagnose` reads; None keeps rows in memory.
        settings: Of `Observer`, such as `every`, `on_finding`, `held_out`, `keep_every_epochs`.

    Attributes:
        observer: The observer, once the training has begun.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, **settings: Any) -> None:
        super().__init__()
        self.folder, self.settings = folder, settings
        self.observer: Observer | None = None
        self._step: Any = None
        self._look: Look | None = None
        self._loss: torch.Tensor | float = 0.0
        self._updated = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.observer = Observer(pl_module, folder=self.folder, steps_done=trainer.global_step, **self.settings)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002 - Lightning's interface
        self.observer.epoch = trainer.current_epoch + 1

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        if self._step is None:
            self._step, self._updated, self._loss = self.observer.step(), False, 0.0
            self._look = self._step.__enter__()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:  # noqa: ARG002
        self._updated = True
        if self._look is not None:
            self._look.before_update()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor):
            self._loss = self._loss + loss.detach()  # already divided by the number of micro-batches
        if self._updated and self._step is not None:
            if isinstance(self._loss, torch.Tensor):
                self._look.record_loss(self._loss)
            step, self._step, self._look = self._step, None, None
            step.__exit__(None, None, None)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        figures = {series: float(value) for name, value in trainer.callback_metrics.items() if (series := _series(name)) is not None}
        self.observer.end_epoch(figures)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        self._close(None)
        self.observer.finish()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        self._close(exception)
        if self.observer is not None:
            self.observer.finish("interrupted")

    def _close(self, exception: BaseException | None) -> None:
        step, self._step, self._look = self._step, None, None
        if step is not None:
            error = exception or RuntimeError("the training ended within a step")
            with suppress(type(error)):  # the step gives back the exception that is told to it, and leaves no hook
                step.__exit__(type(error), error, error.__traceback__)


def _series(name: str) -> str | None:
    """The series of a logged figure of validation rows, None for others."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    if not words & {"val", "valid", "validation"}:
        return None
    metrics = {"loss": "loss", "auc": "auc", "auroc": "auc", "rmse": "rmse"}
    return next((f"{metric}/validation" for word, metric in metrics.items() if word in words), None)
