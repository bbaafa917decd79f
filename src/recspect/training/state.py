"""Where a training stands at the end of an epoch: enough to go on as if it had never stopped.

One safetensors file holds everything (tensors, and plain data in its header), so that there is one moment at which a
state becomes the last one. Random numbers need no state: each epoch seeds them from the run's seed and its number.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recspect.errors import RunError
from recspect.training.files import read_tensors, write_json, write_tensors

LAST = "last.safetensors"


def save_state(folder: Path, model: nn.Module, optimisers: Mapping[str, torch.optim.Optimizer],
               progress: Mapping[str, Any]) -> None:
    """Write `last.safetensors`, then its plain part once more as `last.json` for people and the dashboard.

    Args:
        folder: The run's `checkpoints`.
        model: Weights are taken from it.
        optimisers: By name; the state of each parameter is saved under the parameter's name.
        progress: Plain data: `epoch`, `step`, and the metrics so far.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {f"weights/{name}": tensor for name, tensor in model.state_dict().items()}
    numbers: dict[str, float] = {}
    for label, optimiser in optimisers.items():
        for parameter, state in optimiser.state.items():
            for key, value in state.items():
                place = f"{label}/{names[parameter]}/{key}"
                if isinstance(value, Tensor):
                    tensors[place] = value
                else:
                    numbers[place] = value
    note = {**progress, "optimiser_numbers": numbers}
    write_tensors(folder / LAST, tensors, note)
    write_json(folder / "last.json", note)


def load_state(folder: Path, model: nn.Module, optimisers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Any] | None:
    """Put weights and optimiser state back; gives the plain data, or None where no epoch was finished.

    Raises:
        RunError: The file is damaged or belongs to another model.
    """
    if not (folder / LAST).exists():
        return None
    tensors, note = read_tensors(folder / LAST)
    parameters = dict(model.named_parameters())
    weights = {name.removeprefix("weights/"): tensor for name, tensor in tensors.items() if name.startswith("weights/")}
    numbers = note.pop("optimiser_numbers", {})
    try:
        model.load_state_dict(weights)
        for place, value in {**tensors, **numbers}.items():
            label, rest = place.split("/", 1)
            if label == "weights":
                continue
            name, key = rest.rsplit("/", 1)
            parameter = parameters[name]
            moved = isinstance(value, Tensor) and value.dim() > 0  # step counts stay where the optimiser keeps them
            optimisers[label].state[parameter][key] = value.to(parameter.device) if moved else value
    except (RuntimeError, KeyError, ValueError) as error:
        raise RunError(f"{folder / LAST} does not fit this run: {error}", hint="were files of two runs mixed?") from None
    return note
