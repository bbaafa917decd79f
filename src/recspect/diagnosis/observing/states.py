"""The weights of a training at a chosen rhythm, and any series computed from them afterwards.

`Observer(model, folder="runs/mine", keep_every_steps=500)` saves `states/step-00000500-epoch-001.safetensors` and so on while training;
`recompute("runs/mine", model, weight_norms)` gives the same series later, or one thought of today.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from recspect.diagnosis.observing.rows import STEPS
from recspect.diagnosis.observing.updates import norms
from recspect.diagnosis.ranks import rank_correlation
from recspect.errors import MissingExtraError, RunError, UsageError
from recspect.files import write_bytes

STATES = "states"

Measure = Callable[[nn.Module], Mapping[tuple[str, str], float]]
"""Model to {(series, place): value}. `HeldOut.measure` is one."""


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """Where the weights after a step lie."""

    step: int
    epoch: int
    path: Path


def save_state(folder: Path, parameters: Mapping[str, Tensor], model: nn.Module | None, *, step: int, epoch: int) -> Path:
    """Write the weights (and buffers) of a model; gives the file.

    Args:
        folder: Of the run; the file goes into its `states`.
        parameters: By name, where the model is no torch module with a `state_dict` of its own.
        model: The module.
        step, epoch: Of the training.
    """
    try:
        from safetensors.torch import save
    except ImportError:
        raise MissingExtraError("safetensors", extra="train", purpose="Saving the states of a training") from None

    found = model.state_dict() if isinstance(model, nn.Module) else parameters
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.items():
        if isinstance(tensor, Tensor):
            tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)  # tied weights must not share memory
    path = Path(folder) / STATES / f"step-{step:08d}-epoch-{epoch:03d}.safetensors"
    write_bytes(path, save(tensors))
    return path


def saved_states(folder: str | Path) -> Sequence[SavedState]:
    """The states of a folder, earliest step first.

    Raises:
        RunError: There are none.
    """
    found = [SavedState(step=int(match[1]), epoch=int(match[2]), path=path) for path in (Path(folder) / STATES).glob("step-*.safetensors")
             if (match := re.fullmatch(r"step-(\d+)-epoch-(\d+)", path.stem))]
    if not found:
        raise RunError(f"no saved states in {Path(folder) / STATES}", hint="Observer(..., keep_every_steps=500) or keep_every_epochs=1 saves them")
    return sorted(found, key=lambda state: state.step)


def load_state(state: SavedState, model: nn.Module) -> None:
    """Put the weights of a state into a model.

    Raises:
        RunError: They do not fit, or the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(state.path))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise RunError(f"{state.path} does not fit this model: {error}", hint="give a model of the same shape as the one that was trained") from None


def recompute(folder: str | Path, model: nn.Module, measure: Measure) -> pa.Table:
    """Apply a measure to every saved state.

    Args:
        folder: Of the run.
        model: Of the same shape as the trained one; its weights are as before when this returns.
        measure: See `weight_norms`, `Drift`, `NormByFrequency`, `HeldOut.measure`, or write your own.

    Returns:
        Rows in the format of `steps.parquet`.

    Raises:
        RunError: No states, or states of another model.
    """
    states = saved_states(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows: list[tuple[int, int, str, str, float]] = []
    try:
        for state in states:
            load_state(state, model)
            rows += [(state.step, state.epoch, series, place, float(value)) for (series, place), value in measure(model).items()]
    finally:
        model.load_state_dict(before)
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(STEPS.names)
    return pa.Table.from_arrays([pa.array(column, kind) for column, kind in zip(columns, STEPS.types, strict=True)], schema=STEPS)


# ---------------------------------------------------------------------- measures


def weight_norms(model: nn.Module) -> dict[tuple[str, str], float]:
    """Euclidean norm of every parameter, over all of it."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return {("weight_norm", name): norm for name, norm in zip(parameters, norms(list(parameters.values())), strict=True)}


class Drift:
    """How far embeddings moved since the state before.

    `drift`: norm of the change over the norm before. `turn`: mean of 1 - cosine over rows that are not 0. It remembers the
    state before, so use each for one `recompute`.

    Args:
        tables: Names of parameters; by default all of `nn.Embedding` and `nn.EmbeddingBag`.
    """

    def __init__(self, tables: Sequence[str] = ()) -> None:
        self.tables = tuple(tables)
        self._before: dict[str, Tensor] = {}

    def __call__(self, model: nn.Module) -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], float] = {}
        for name, table in _tables(model, self.tables).items():
            if (before := self._before.get(name)) is not None:
                size = float(before.norm())
                if size > 0:
                    found["drift", name] = float((table - before).norm()) / size
                filled = (before.norm(dim=1) > 0) & (table.norm(dim=1) > 0)
                if bool(filled.any()):
                    found["turn", name] = 1 - float(torch.nn.functional.cosine_similarity(table[filled], before[filled], dim=1).mean())
            self._before[name] = table.clone()
        return found


class NormByFrequency:
    """How the norm of an embedding goes with how often its id occurs: Spearman's rank correlation over rows with a count above 0.

    Args:
        counts: Name of the table's parameter to the number of training rows that read each of its rows, shape (rows,).
    """

    def __init__(self, counts: Mapping[str, ArrayLike]) -> None:
        self.counts = {name: np.asarray(count, dtype=np.float64) for name, count in counts.items()}

    def __call__(self, model: nn.Module) -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], float] = {}
        for name, table in _tables(model, tuple(self.counts)).items():
            counts = self.counts[name]
            if len(counts) != len(table):
                raise UsageError(f"NormByFrequency: {len(counts)} counts for the {len(table)} rows of {name!r}", hint="give one count per row")
            used = counts > 0
            size = table.norm(dim=1).double().cpu().numpy()[used]
            if len(size) > 2 and not np.isnan(correlation := rank_correlation(size, counts[used])):
                found["norm_frequency_correlation", name] = correlation
        return found


def _tables(model: nn.Module, chosen: Sequence[str]) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    if missing := [name for name in chosen if name not in parameters]:
        raise UsageError(f"the model has no parameter {missing[0]!r}", hint=f"its parameters: {', '.join(list(parameters)[:12])}")
    names = list(chosen)
    if not names:
        tables = {id(module.weight) for module in model.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))}
        names = [name for name, parameter in parameters.items() if id(parameter) in tables]
    return {name: parameters[name].detach().float() for name in names}
