"""Scores of a built-in model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recspect.features.encoded import Encoded


def predict(model: nn.Module, encoded: Encoded, batch_rows: int = 8192) -> NDArray[np.float64]:
    """Probabilities (binary label) or values in the label's unit (graded label), shape (rows,).

    The model is read in evaluation mode and left in the mode it was in.
    """
    outputs = raw_outputs(model, encoded, batch_rows)
    return outputs if model.config.output == "value" else _probability(outputs)


def _probability(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    small = np.exp(-np.abs(logits))  # never overflows
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))


def predict_labels(model: nn.Module, encoded: Encoded, batch_rows: int = 8192) -> dict[str, NDArray[np.float64]]:
    """As `predict`, for every label of a model that was trained on several, by name, in their order."""
    outputs = raw_outputs(model, encoded, batch_rows, every=True)
    return {task.label: _probability(outputs[:, place]) if task.output == "logit" else outputs[:, place] for place, task in enumerate(model.config.tasks)}


def raw_outputs(model: nn.Module, encoded: Encoded, batch_rows: int = 8192, *, every: bool = False) -> NDArray[np.float64]:
    """What `forward` returns, logits or values, for all rows, shape (rows,); with `every`, of a model of several labels, (rows, labels)."""
    asked = {"every": True} if every else {}
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad():
            parts = [model(encoded.slice(start, start + batch_rows).to(device).inputs, **asked).float().cpu()
                     for start in range(0, encoded.rows, batch_rows)]
    finally:
        model.train(was_training)
    return torch.cat(parts).numpy().astype(np.float64) if parts else np.empty(0)
