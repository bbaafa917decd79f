"""What layers know and how they react, on fixed training rows and held-out rows: measured between steps, never trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from recspect.diagnosis.observing.insides import OUTPUT, Insides, TorchInsides, first_tensor
from recspect.diagnosis.ranks import ranks
from recspect.errors import UsageError

FEWEST_OF_A_CLASS = 25
RIDGE = 1e-2
"""Ridge of the linear probe, per row, on activations of mean 0 and deviation 1."""
WIDEST = 2048
"""Layers of more units are not probed."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Two fixed samples of rows, on which every layer is measured.

    Series, all in evaluation mode:
        `layer_auc/train`, `layer_auc/held_out` per layer: how much of the label can be read off the layer linearly. AUC of a ridge
        regression of the label on the layer's outputs, fitted on one half of the sample's rows and judged on the other, both ways.
        `fluctuation/train`, `fluctuation/held_out`, `fluctuation_ratio` per layer: mean over units of the deviation of the unit's
        output over rows, and the mean over units of the training one over the held-out one. A ratio that grows above 1 is overfitting.
        `loss/train_sample`, `loss/held_out`, and `loss/slice` per slice of the held-out rows, where `losses` is given.

    Args:
        train: (inputs, labels) of some training rows: what `forward` takes, and 0/1 labels of shape (rows,).
        held_out: The same of rows that are not trained on; 1,000 to 10,000 rows are enough.
        forward: (model, inputs) to scores; by default `model(inputs)`.
        losses: (scores, labels) to one loss per row.
        slices: Name to a mask of the held-out rows, shape (rows,).

    Sources: Alain and Bengio 2016, Understanding Intermediate Layers Using Linear Classifier Probes; Guo et al. 2018, Visualizing and
    Understanding Deep Neural Networks in CTR Prediction (fluctuation of neurons on training against test rows).
    """

    train: tuple[Any, ArrayLike]
    held_out: tuple[Any, ArrayLike]
    forward: Callable[[nn.Module, Any], Any] = lambda model, inputs: model(inputs)
    losses: Callable[[Tensor, Tensor], Tensor] | None = None
    slices: Mapping[str, ArrayLike] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = len(np.asarray(self.held_out[1]))
        for name, mask in self.slices.items():
            if np.asarray(mask).shape != (rows,):
                raise UsageError(f"HeldOut: the mask of slice {name!r} has shape {np.asarray(mask).shape}, expected ({rows},)",
                                 hint="give one truth value per held-out row")

    def measure(self, model: nn.Module, insides: Insides | None = None) -> dict[tuple[str, str], float]:
        """{(series, place): value}; the model and the random generators are left as they were."""
        found: dict[tuple[str, str], float] = {}
        deviations: dict[str, dict[str, Floats]] = {}
        for part, (inputs, labels) in (("train", self.train), ("held_out", self.held_out)):
            y = np.asarray(labels, dtype=np.float64)
            layers, scores = self._run(model, insides or TorchInsides(model), inputs, len(y))
            for place, values in layers.items():
                deviations.setdefault(place, {})[part] = values.std(0)
                found[f"fluctuation/{part}", place] = float(values.std(0).mean())
                if (auc := probe_auc(values, y)) is not None:
                    found[f"layer_auc/{part}", place] = auc
            if self.losses is not None and scores is not None:
                loss = self.losses(scores, torch.as_tensor(y, dtype=torch.float32, device=scores.device)).double().cpu().numpy()
                found["loss/train_sample" if part == "train" else "loss/held_out", ""] = float(loss.mean())
                if part == "held_out":
                    found |= {("loss/slice", name): float(loss[np.asarray(mask, dtype=bool)].mean())
                              for name, mask in self.slices.items() if np.asarray(mask).any()}
        for place, by_part in deviations.items():
            alive = (by_part.get("held_out", np.zeros(0)) > 0) if len(by_part) == 2 else np.zeros(0, dtype=bool)
            if alive.any():
                found["fluctuation_ratio", place] = float((by_part["train"][alive] / by_part["held_out"][alive]).mean())
        return found

    def _run(self, model: nn.Module, insides: Insides, inputs: Any, rows: int) -> tuple[dict[str, Floats], Tensor | None]:
        layers: dict[str, Floats] = {}

        def see(place: str, module: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001 - the hook's signature
            values = first_tensor(output)
            if (place == OUTPUT or isinstance(module, (nn.Embedding, nn.EmbeddingBag, nn.Dropout, nn.Identity)) or values is None
                    or not values.is_floating_point() or values.dim() < 2 or values.shape[0] != rows):
                return
            flat = values.detach().reshape(rows, -1)
            if 1 < flat.shape[1] <= WIDEST:
                layers[place] = np.nan_to_num(flat.double().cpu().numpy(), nan=0.0, posinf=0.0, neginf=0.0)

        modes = [(module, module.training) for module in model.modules()]
        devices = sorted({parameter.device.index or 0 for parameter in insides.parameters().values() if parameter.is_cuda})
        removers: Sequence[Callable[[], None]] = ()
        try:
            with torch.random.fork_rng(devices=devices), torch.no_grad():
                model.eval()
                removers = insides.attach(see)
                scores = first_tensor(self.forward(model, inputs))
        finally:
            for remove in removers:
                remove()
            for module, training in modes:
                module.training = training
        return layers, None if scores is None else scores.detach().reshape(rows, -1)[:, 0] if scores.numel() >= rows else None


def probe_auc(values: Floats, labels: Floats) -> float | None:
    """AUC of a linear probe, mean of two halves judged by each other; None where a half has too few rows of a class, or labels are no 0/1.

    Args:
        values: Activations, shape (rows, units).
        labels: 0 or 1, shape (rows,).
    """
    halves = np.arange(len(labels)) % 2 == 0
    found = []
    for fit in (halves, ~halves):
        there = labels[~fit]
        if not np.isin(labels, (0, 1)).all() or min((labels[fit] == 1).sum(), (labels[fit] == 0).sum(), (there == 1).sum(), (there == 0).sum()) < FEWEST_OF_A_CLASS:
            return None
        mean, deviation = values[fit].mean(0), values[fit].std(0)
        x = np.divide(values - mean, deviation, out=np.zeros_like(values), where=deviation > 0)
        gram = x[fit].T @ x[fit] / fit.sum() + RIDGE * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, x[fit].T @ (labels[fit] - labels[fit].mean()) / fit.sum())
        found.append(auc(x[~fit] @ weights, there))
    return float(np.mean(found))


def auc(scores: Floats, labels: Floats) -> float:
    """Area under the ROC curve of scores, ties counted half; labels 0 or 1, both there."""
    positive = labels == 1
    n = int(positive.sum())
    return float((ranks(scores)[positive].sum() - n * (n + 1) / 2) / (n * (len(labels) - n)))
