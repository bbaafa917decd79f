"""One pass over the training rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from recspect.diagnosis.observing import Observer, name_nonfinite
from recspect.errors import RunError
from recspect.models import ModelConfig
from recspect.training.config import TrainingConfig
from recspect.training.optimisers import RowwiseAdagrad, clip_gradients
from recspect.training.ranks import ALONE, Ranks
from recspect.training.rows import Part
from recspect.training.shuffling import StreamedPart
from recspect.training.unknown import hide_ids


@dataclass(frozen=True)
class Machine:
    """What trains: the model with its optimisers, plain and as Fabric wraps them.

    Args:
        fabric: Device and precision.
        model: The model itself: weights, names, hooks.
        wrapped: The same model for forward passes in the chosen precision.
        optimisers: By name (`dense`, `tables`), plain: their state goes into checkpoints.
        steppers: The same optimisers, wrapped.
        observer: Looks on.
        vocabulary_fields: Fields of which `unknown_share` hides ids.
    """

    fabric: Fabric
    model: nn.Module
    wrapped: nn.Module
    optimisers: Mapping[str, torch.optim.Optimizer]
    steppers: tuple[Any, ...]
    observer: Observer
    vocabulary_fields: tuple[str, ...] = ()


def one_epoch(machine: Machine, part: Part | StreamedPart, config: TrainingConfig, *, seed: int,
              tell: Callable[[int, float], None], ranks: Ranks = ALONE) -> float:
    """Train on every row once, in a new order; gives the mean loss (nats, or the label's unit squared).

    Args:
        machine: Is changed.
        part: Training rows.
        config: Rows per step, clipping.
        seed: Decides the order of rows and the dropout, whatever happened before.
        tell: Called with the step from 1 and the mean loss so far.
        ranks: The processes that share every step; their gradients are added up.

    Raises:
        RunError: The loss became NaN or infinite; the weights are those before that step.
    """
    torch.manual_seed(seed)
    machine.model.train()
    observer, device = machine.observer, machine.fabric.device
    hiding = torch.Generator().manual_seed(seed + 1 + ranks.rank)  # of its own, so that order and dropout do not depend on the share
    unit = config.model.output_scale**2
    total, seen = 0.0, 0
    for step, given in enumerate(part.batches(config.batch_rows, seed=seed, ranks=ranks), start=1):
        rows = hide_ids(given.encoded, machine.vocabulary_fields, config.unknown_share, hiding)
        inputs = rows.to(device).inputs
        target = given.target.to(device)
        with observer.step() as look:
            tasks = config.model.tasks
            losses = row_losses(machine.wrapped(inputs, every=True) if tasks else machine.wrapped(inputs), target, config.model)
            judged = losses[:, 0] if tasks else losses  # what is told is the first label's; what is learned from is the sum over labels
            loss = losses.sum() / given.rows if ranks.several else losses.mean(dim=0).sum() if tasks else losses.mean()
            value = ranks.mean(judged, loss, given.rows) if ranks.several else judged.mean().item() if tasks and math.isfinite(loss.item()) else loss.item()
            if not math.isfinite(value):
                why = name_nonfinite(machine.model, partial(machine.wrapped, inputs))
                raise RunError(f"the loss is {value} at step {observer.steps_done} (epoch {observer.epoch}): {why}",
                               hint="lower the learning rates, set clip_norm, and look for extreme values in the inputs")
            look.before_backward(losses.sum(dim=1) if tasks else losses, {task.label: losses[:, k].mean() for k, task in enumerate(tasks)} or None)
            for stepper in machine.steppers:
                stepper.zero_grad()
            machine.fabric.backward(loss)
            ranks.add_gradients(machine.model.parameters())
            look.before_update(value * unit, judged * unit if look.sampled else None)
            if config.clip_norm is not None:
                clip_gradients(machine.model.parameters(), config.clip_norm)
            for stepper in machine.steppers:
                stepper.step()
        total, seen = total + value * given.rows, seen + given.rows
        tell(step, total / seen * unit)
    return total / seen * unit


def epoch_seed(seed: int, epoch: int) -> int:
    """What the order of rows and the dropout of an epoch (from 1) are drawn by, from the run's seed."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint32)[0])


def order_of_rows(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Positions of the training rows in the order in which an epoch (from 1) of a run reads them, shape (rows,): which rows were in a step."""
    order: NDArray[np.int64] = torch.randperm(rows, generator=torch.Generator().manual_seed(epoch_seed(seed, epoch))).numpy()
    return order


def row_losses(output: Tensor, target: Tensor, model: ModelConfig) -> Tensor:
    """Per row, (B,): cross-entropy in nats, or squared error in deviations of the label; per row and label, (B, T), of a model of several."""
    if model.tasks:
        return torch.stack([row_losses(output[:, k], target[:, k], replace(model, tasks=(), output=task.output, output_mean=task.mean, output_scale=task.scale)) * task.weight
                            for k, task in enumerate(model.tasks)], dim=1)
    if model.output == "logit":
        return functional.binary_cross_entropy_with_logits(output, target, reduction="none")
    return ((output - target) / model.output_scale).square()


def make_optimisers(model: nn.Module, config: TrainingConfig) -> dict[str, torch.optim.Optimizer]:
    """`tables` for embedding tables, `dense` (fused Adam) for everything else; biases are not regularised."""
    tables = [parameter for name, parameter in model.named_parameters() if name.endswith("table.weight")]
    chosen = {id(parameter) for parameter in tables}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    groups = [{"params": [parameter for parameter in rest if parameter.dim() > 1], "weight_decay": config.dense_l2},
              {"params": [parameter for parameter in rest if parameter.dim() <= 1], "weight_decay": 0.0}]
    optimisers: dict[str, torch.optim.Optimizer] = {"dense": torch.optim.Adam(groups, lr=config.learning_rate, fused=True)}
    if tables and config.table_optimiser == "rowwise_adagrad":
        optimisers["tables"] = RowwiseAdagrad(tables, lr=config.table_learning_rate, l2=config.embedding_l2)
    elif tables:
        if not torch.sparse.check_sparse_tensor_invariants.is_enabled():
            torch.sparse.check_sparse_tensor_invariants.disable()  # says that the default is meant; else torch warns
        optimisers["tables"] = torch.optim.SparseAdam(tables, lr=config.table_learning_rate)
    return optimisers
