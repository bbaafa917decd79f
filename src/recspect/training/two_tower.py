"""Training of two towers: each positive row's item against the items of the other rows of its step.

The other rows' items were drawn by their popularity, so each is weighed by one over how often it is expected there (log-Q correction); without it the model
learns that popular items are wrong (Yi et al., RecSys 2019; Bengio, Senecal 2008). The row's own item was not drawn: its score stays as it is, so that
the loss is an estimate of the softmax over all items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from recspect.diagnosis.batch import Batch
from recspect.errors import RunError, SchemaError, UsageError, listing
from recspect.features import Encoded, FeatureTransform, encode_label
from recspect.files import require_writable
from recspect.models.two_tower import TwoTower, TwoTowerConfig
from recspect.recommending.ids import distinct
from recspect.schema import Schema
from recspect.training.config import known
from recspect.training.epoch import epoch_seed
from recspect.training.files import read_note, read_tensors, write_json, write_tensors
from recspect.training.optimisers import RowwiseAdagrad

ROWS = 8192
"""Rows that pass a tower at once outside training."""


@dataclass(frozen=True, kw_only=True)
class TwoTowerTraining:
    """Settings of one training.

    Args:
        model: Size of the towers.
        epochs: Passes over the positive rows.
        batch_rows: Rows per step; each is compared with the items of all others.
        learning_rate: Of Adam, for everything but embeddings.
        table_learning_rate: Of row-wise Adagrad, for embeddings.
        corrected: Whether the log of how often an item is expected in a step is taken off its score; leave it so.
        seed: Of weights and order.
    """

    model: TwoTowerConfig = field(default_factory=TwoTowerConfig)
    epochs: int = 5
    batch_rows: int = 1024
    learning_rate: float = 1e-3
    table_learning_rate: float = 0.05
    corrected: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_rows", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"training settings: {name} is {getattr(self, name)}, expected {least} or more")
        if not (self.learning_rate > 0 and self.table_learning_rate > 0):
            raise UsageError(f"training settings: learning rates are {self.learning_rate} and {self.table_learning_rate}, expected more than 0")


@dataclass(frozen=True, eq=False)
class FittedTwoTower:
    """Two trained towers with the features of both sides.

    Args:
        model: In evaluation mode.
        transform: Fields of both sides as fitted on the training rows.
        config: How it was trained.
        losses: Mean training loss per epoch, in nats.
    """

    model: TwoTower
    transform: FeatureTransform
    config: TwoTowerTraining
    losses: list[float]

    def requests(self, batch: Batch) -> NDArray[np.float32]:
        """Vectors of requests, (rows, D): a table with the columns of user and context fields is enough."""
        return self._vectors(batch, side(self.transform, item=False), self.model.requests)

    def items(self, batch: Batch) -> NDArray[np.float32]:
        """Vectors of items, (rows, D): a table with the columns of item fields is enough. Scores are inner products of these and `requests`."""
        return self._vectors(batch, side(self.transform, item=True), self.model.items)

    def _vectors(self, batch: Batch, transform: FeatureTransform, tower: Callable[[Mapping[str, Tensor]], Tensor]) -> NDArray[np.float32]:
        encoded = transform.transform(batch)
        with torch.no_grad():
            parts = [tower(encoded.slice(start, start + ROWS).inputs) for start in range(0, encoded.rows, ROWS)]
        return np.concatenate([part.numpy() for part in parts]) if parts else np.zeros((0, self.config.model.width), dtype=np.float32)

    def save(self, folder: str | Path) -> None:
        """Write features, settings and weights into a folder, each file whole or not at all."""
        folder = Path(folder)
        require_writable(folder, folder=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.transform.save(folder)
        write_tensors(folder / "two_tower.safetensors", self.model.state_dict())
        write_json(folder / "two_tower.json", {"format": "recspect-two-tower", "version": 1, "training": asdict(self.config), "losses": self.losses})

    @classmethod
    def load(cls, folder: str | Path) -> FittedTwoTower:
        """Read what `save` wrote.

        Raises:
            RunError: A file is missing, damaged, or of a newer version.
        """
        folder = Path(folder)
        note = read_note(folder / "two_tower.json", "recspect-two-tower")
        transform = FeatureTransform.load(folder)
        tensors, _ = read_tensors(folder / "two_tower.safetensors")
        try:
            settings = dict(note["training"])
            settings["model"] = TwoTowerConfig(**known(TwoTowerConfig, settings["model"], "model"))
            config = TwoTowerTraining(**known(TwoTowerTraining, settings, "training"))
            model = build(transform, config.model)
            model.load_state_dict(tensors)
            return cls(model.eval(), transform, config, [float(loss) for loss in note["losses"]])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"the towers in {folder} are damaged: {error!r:.300}", hint="train anew, or restore the files") from None


def side(transform: FeatureTransform, *, item: bool) -> FeatureTransform:
    """The fields of one tower."""
    schema = transform.schema
    names = [entry.name for entry in schema.fields if (entry.side == "item") == item]
    return FeatureTransform(schema, {name: transform.encoders[name] for name in names})


def build(transform: FeatureTransform, config: TwoTowerConfig) -> TwoTower:
    """Towers with fresh weights, drawn from torch's global generator.

    Raises:
        SchemaError: All fields belong to one side.
    """
    request, item = side(transform, item=False).sizes, side(transform, item=True).sizes
    if not request or not item:
        names = listing([entry.name for entry in transform.schema.fields])
        raise SchemaError(f"two towers need fields of the item and fields of the user or the context; fields: {names}",
                          hint='say for each field of the schema which side it describes, such as side = "item"')
    return TwoTower(request, item, config)


def train_two_tower(batch: Batch, schema: Schema, config: TwoTowerTraining | None = None, *, transform: FeatureTransform | None = None,
                    progress: Callable[[int, float], None] | None = None) -> FittedTwoTower:
    """Learn from the rows with a positive label.

    Args:
        batch: Training rows; where the label is negative, only the features are fitted on them.
        schema: Fields with their sides, the item, the label.
        config: Settings.
        transform: Fitted features; by default they are fitted here.
        progress: Called after each epoch with its number and loss.

    Raises:
        SchemaError: No item column, or all fields on one side.
        UsageError: Fewer than two positive rows.
        RunError: The loss became NaN or infinite.
    """
    config = config or TwoTowerTraining()
    if schema.item is None:
        raise SchemaError("the schema names no item column", hint='add item = "..." under [roles]')
    transform = transform or FeatureTransform.fit(schema, batch)
    positive = np.flatnonzero(encode_label(schema.label, batch) > 0)
    if len(positive) < 2:
        raise UsageError(f"{len(positive)} rows have a positive label, expected two or more")
    rows = batch.take(positive)
    encoded = transform.transform(rows)
    items, names = distinct(rows, schema.item)
    chances = np.bincount(items[items >= 0], minlength=len(names)).astype(np.float64)
    log_chance = torch.from_numpy(np.log(np.maximum(chances, 1) / chances.sum()).astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build(transform, config.model)
        tables = [parameter for name, parameter in model.named_parameters() if name.endswith("table.weight")]
        rest = [parameter for name, parameter in model.named_parameters() if not name.endswith("table.weight")]
        optimisers: list[torch.optim.Optimizer] = [torch.optim.Adam(rest, lr=config.learning_rate, fused=True)]
        if tables:
            optimisers.append(RowwiseAdagrad(tables, lr=config.table_learning_rate))
        losses = []
        for epoch in range(1, config.epochs + 1):
            losses.append(_epoch(model, optimisers, encoded, torch.from_numpy(items), log_chance, config, seed=epoch_seed(config.seed, epoch)))
            if progress is not None:
                progress(epoch, losses[-1])
    return FittedTwoTower(model.eval(), transform, config, losses)


def in_batch_loss(model: TwoTower, inputs: Mapping[str, Tensor], items: Tensor, log_chance: Tensor | None) -> Tensor:
    """Mean cross-entropy of each row's own item among the items of the step, in nats.

    Args:
        model: The towers.
        inputs: Field to tensor, B rows.
        items: Item code per row, (B,): another row with the same item is no wrong answer.
        log_chance: Log of the chance that an item is drawn, by item code; None leaves the scores as they are.
    """
    scores = model.requests(inputs) @ model.items(inputs).T / model.config.temperature
    if log_chance is not None:
        expected = log_chance[items] + math.log(max(1, len(items) - 1))
        scores = scores - expected + torch.diag(expected)
    own = torch.arange(len(items))
    same = (items[:, None] == items) & (own[:, None] != own)
    return functional.cross_entropy(scores.masked_fill(same, float("-inf")), own)


def _epoch(model: TwoTower, optimisers: list[torch.optim.Optimizer], encoded: Encoded, items: Tensor, log_chance: Tensor, config: TwoTowerTraining, *,
           seed: int) -> float:
    torch.manual_seed(seed)
    model.train()
    order = torch.randperm(encoded.rows)
    total, seen = 0.0, 0
    for start in range(0, encoded.rows, config.batch_rows):
        index = order[start:start + config.batch_rows]
        if len(index) < 2:
            continue
        loss = in_batch_loss(model, encoded.take(index).inputs, items[index], log_chance if config.corrected else None)
        if not math.isfinite(loss.item()):
            raise RunError(f"the loss is {loss.item()}", hint="lower the learning rates, and look for extreme values in the inputs")
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
        total, seen = total + loss.item() * len(index), seen + len(index)
    return total / seen
