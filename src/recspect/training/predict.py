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
    if model.config.output == "value":
        return outputs
    positive = outputs >= 0
    small = np.exp(-np.abs(outputs))  # never overflows
    return np.where(positive, 1 / (1 + small), small / (1 + small))


def raw_outputs(model: nn.Module, encoded: Encoded, batch_rows: int = 8192) -> NDArray[np.float64]:
    """What `forward` returns, logits or values, for all rows, shape (rows,)."""
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad():
            parts = [model(encoded.slice(start, start + batch_rows).to(device).inputs).float().cpu()
                     for start in range(0, encoded.rows, batch_rows)]
    finally:
        model.train(was_training)
    return torch.cat(parts).numpy().astype(np.float64) if parts else np.empty(0)
