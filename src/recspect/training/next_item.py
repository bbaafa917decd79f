"""Training of sequence models: every position of every history is a question, asked in one causal pass.

A library that makes a sample of every prefix does the work of a history of L events some L / 2 times (RecBole#1094); the answers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from recspect.errors import RunError, UsageError, listing
from recspect.files import require_writable
from recspect.models.hstu import HSTU
from recspect.models.next_item import NextItemConfig
from recspect.models.sasrec import SASRec
from recspect.recommending.histories import Histories
from recspect.recommending.ranking import BLOCK_BYTES, recommend_in_blocks
from recspect.recommending.sequential import next_item_metrics
from recspect.training.config import known
from recspect.training.epoch import epoch_seed
from recspect.training.files import read_note, read_tensors, write_json, write_tensors
from recspect.training.state import load_state, save_state

MODELS: dict[str, type[SASRec | HSTU]] = {"sasrec": SASRec, "hstu": HSTU}
"""Name in settings -> class."""

QUESTIONS = 4096
"""Positions whose scores of all items are held at once; the rest of a batch waits."""

JUDGED_USERS = 20_000
"""Users on whose last training item the best epoch is chosen, at most."""

K = 10
"""Length of the lists by which the best epoch is chosen."""


@dataclass(frozen=True, kw_only=True)
class NextItemTraining:
    """Settings of one training.

    Args:
        model: Which model, and its size.
        maximum_epochs: Passes over the histories at most.
        patience_epochs: Stop after so many epochs in a row without a better validation NDCG@10.
        batch_users: Histories per step.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW, for matrices; vectors of items, biases and norms have none.
        sampled: Wrong answers each step compares with, drawn by popularity with their probability taken out (log-Q); 0 compares with all items, which is
            exact and right up to some hundred thousand items.
        clip_norm: Largest joint gradient norm; None for no clipping.
        seed: Of weights, order, dropout and what is drawn.
        device: `cpu`, `cuda` or `mps`.
    """

    model: NextItemConfig = field(default_factory=NextItemConfig)
    maximum_epochs: int = 100
    patience_epochs: int = 10
    batch_users: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    sampled: int = 0
    clip_norm: float | None = 5.0
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, least in (("maximum_epochs", 1), ("patience_epochs", 1), ("batch_users", 1), ("sampled", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"training settings: {name} is {getattr(self, name)}, expected {least} or more")
        if not self.learning_rate > 0:
            raise UsageError(f"training settings: learning_rate is {self.learning_rate}, expected more than 0")
        if not self.weight_decay >= 0:
            raise UsageError(f"training settings: weight_decay is {self.weight_decay}, expected 0 or more")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UsageError(f"training settings: clip_norm is {self.clip_norm}, expected more than 0 or None")


@dataclass(frozen=True)
class FittedNextItem:
    """A trained sequence model.

    Args:
        model: In evaluation mode.
        config: How it was trained.
        epochs: Figures per epoch: `epoch`, `train_loss` (nats), `validation_ndcg`, `validation_hit`.
        best_epoch: Whose weights the model has.
    """

    model: nn.Module
    config: NextItemTraining
    epochs: list[dict[str, Any]]
    best_epoch: int

    def states(self, histories: Histories, users: ArrayLike, *, rows: int = 512) -> NDArray[np.float32]:
        """What is expected next of some users, shape (n, D); users without an event have zeros."""
        return states(self.model, histories, users, rows=rows)

    def scores(self, histories: Histories) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
        """What scores all items for users (n,) of these histories: (n, N)."""
        return scorer(self.model, histories)

    def item_vectors(self) -> NDArray[np.float32]:
        """What states are compared with, by inner product: shape (N, D)."""
        with torch.no_grad():
            found: NDArray[np.float32] = self.model.items.vectors().cpu().numpy()
        return found

    def save(self, folder: str | Path) -> None:
        """Write `next_item.json` and `next_item.safetensors`, each whole or not at all."""
        folder = Path(folder)
        require_writable(folder, folder=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / "next_item.safetensors", self.model.state_dict())
        write_json(folder / "next_item.json", {"format": "recspect-next-item", "version": 1, "training": asdict(self.config), "epochs": self.epochs,
                                               "best_epoch": self.best_epoch, "n_items": self.model.items.weight.shape[0] - 1})

    @classmethod
    def load(cls, folder: str | Path) -> FittedNextItem:
        """Read what `save` wrote.

        Raises:
            RunError: A file is missing, damaged, or of a newer version.
        """
        folder = Path(folder)
        note = read_note(folder / "next_item.json", "recspect-next-item")
        tensors, _ = read_tensors(folder / "next_item.safetensors")
        try:
            settings = dict(note["training"])
            settings["model"] = NextItemConfig(**known(NextItemConfig, settings["model"], "model"))
            config = NextItemTraining(**known(NextItemTraining, settings, "training"))
            model = build(config.model, int(note["n_items"]))
            model.load_state_dict(tensors)
            return cls(model.eval(), config, list(note["epochs"]), int(note["best_epoch"]))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"the sequence model in {folder} is damaged: {error!r:.300}", hint="train anew, or restore the files") from None


def build(config: NextItemConfig, n_items: int) -> SASRec | HSTU:
    """A model with fresh weights, drawn from torch's global generator.

    Raises:
        UsageError: No model of that name.
    """
    if config.name not in MODELS:
        raise UsageError(f"no sequence model named {config.name!r}; models: {listing(MODELS)}", hint=f"choose one of {listing(MODELS)}")
    return MODELS[config.name](n_items, config)


def train_next_item(histories: Histories, config: NextItemTraining | None = None, *, folder: str | Path | None = None,
                    progress: Callable[[Mapping[str, Any]], None] | None = None) -> FittedNextItem:
    """Learn what comes next.

    The last event of each user is held out to choose the best epoch by, so those who judge by leaving out the last event give `histories.without_last()`.

    Args:
        histories: What each user had.
        config: Settings.
        folder: Where the state is kept after each epoch; a training that was stopped goes on there, with the same result to the bit.
        progress: Called after each epoch with its figures.

    Raises:
        UsageError: No user has three events.
        RunError: The loss became NaN or infinite.
    """
    config = config or NextItemTraining()
    learnt, answers = histories.without_last(), histories.last()
    if not (learnt.lengths >= 2).any():
        raise UsageError("no user has three events: two to learn from and one to choose by", hint="give histories of several events per user")
    judged = np.flatnonzero((learnt.lengths >= 1) & (answers >= 0))
    if len(judged) > JUDGED_USERS:
        judged = np.sort(np.random.default_rng(config.seed).choice(judged, JUDGED_USERS, replace=False))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build(config.model, histories.n_items).to(config.device)
        optimiser = _optimiser(model, config)
        done = (load_state(Path(folder), model, {"all": optimiser}) if folder is not None else None) or {"epochs": [], "best": None}
        epochs: list[dict[str, Any]] = done["epochs"]
        best = _best_weights(model, epochs, folder)
        chances = _popularity(learnt) if config.sampled else None
        while len(epochs) < config.maximum_epochs and _stale(epochs) < config.patience_epochs:
            epoch = len(epochs) + 1
            loss = _epoch(model, optimiser, learnt, config, chances, seed=epoch_seed(config.seed, epoch))
            figures = validation_figures(model, learnt, judged, answers[judged])
            epochs.append({"epoch": epoch, "train_loss": loss, **figures})
            if _best(epochs) == epoch:
                best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            if folder is not None:
                if _best(epochs) == epoch:
                    write_tensors(Path(folder) / "best.safetensors", best)
                save_state(Path(folder), model, {"all": optimiser}, {"epochs": epochs})
            if progress is not None:
                progress(epochs[-1])
    model.load_state_dict(best)
    return FittedNextItem(model.eval(), config, epochs, _best(epochs))


def states(model: nn.Module, histories: Histories, users: ArrayLike, *, rows: int = 512) -> NDArray[np.float32]:
    """The state behind the last event of each user, (n, D); zeros for who has none."""
    wanted = np.asarray(users, dtype=np.int64)
    found = np.zeros((len(wanted), model.config.width), dtype=np.float32)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for first in range(0, len(wanted), rows):
            chosen = wanted[first:first + rows]
            items, times = (torch.from_numpy(part).to(device) for part in histories.windows(chosen, model.config.max_length))
            lengths = (items != 0).sum(dim=1)
            hidden = model(items, times)[torch.arange(len(chosen)), (lengths - 1).clamp(min=0)]
            found[first:first + rows] = (hidden * (lengths > 0)[:, None]).cpu().numpy()
    model.train(was_training)
    return found


def scorer(model: nn.Module, histories: Histories) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
    """From users (n,) to scores of all items (n, N)."""

    def scores(users: NDArray[Any]) -> NDArray[np.float64]:
        with torch.no_grad():
            found: NDArray[np.float64] = model.items.score(torch.from_numpy(states(model, histories, users)).to(next(model.parameters()).device)) \
                .double().cpu().numpy()
        return found

    return scores


def validation_figures(model: nn.Module, histories: Histories, users: NDArray[np.int64], answers: NDArray[np.int64]) -> dict[str, float]:
    """Hit rate and NDCG of the next item among the first ten of all items that the user did not have."""
    lists, _ = recommend_in_blocks(scorer(model, histories), users, K, seen=histories.interactions, exclude_seen=True, block_bytes=BLOCK_BYTES)
    found = next_item_metrics(lists, answers)
    return {"validation_ndcg": float(found["ndcg"].mean()), "validation_hit": float(found["hit"].mean())}


def next_item_loss(model: nn.Module, hidden: Tensor, answers: Tensor, config: NextItemTraining, chances: Tensor | None) -> Tensor:
    """Mean cross-entropy of the right item among all items, in nats, or an estimate of it from some.

    Args:
        model: Its table of items.
        hidden: States, (P, D).
        answers: Item codes, (P,).
        config: How many items are drawn.
        chances: Chance of each item to be drawn, (N,); None compares with all.
    """
    if chances is None:
        parts = [functional.cross_entropy(model.items.score(hidden[first:first + QUESTIONS]), answers[first:first + QUESTIONS], reduction="sum")
                 for first in range(0, len(hidden), QUESTIONS)]
        return torch.stack(parts).sum() / len(hidden)
    drawn = torch.multinomial(chances, config.sampled, replacement=True)
    # Weighed by one over how often they are expected to be drawn, the wrong answers sum up to all wrong answers. The right one was not drawn, it is always
    # there, so its score is left as it is (Bengio, Senecal 2008; subtracting its chance too, as is often done, gives another softmax than the whole one).
    wrong = model.items.score(hidden, drawn) - (chances[drawn].log() + math.log(config.sampled))
    wrong = wrong.masked_fill(drawn[None, :] == answers[:, None], float("-inf"))
    right = model.items.score_pairs(hidden, answers)
    return (torch.logsumexp(torch.cat([right[:, None], wrong], dim=1), dim=1) - right).mean()


# ---------------------------------------------------------------------- details


def _epoch(model: nn.Module, optimiser: torch.optim.Optimizer, histories: Histories, config: NextItemTraining, chances: Tensor | None, *,
           seed: int) -> float:
    """One pass over all histories; gives the mean loss per position, in nats."""
    torch.manual_seed(seed)
    model.train()
    total, asked = 0.0, 0
    for users in histories.batches(config.batch_users, config.model.max_length + 1, seed=seed):
        items, times = (torch.from_numpy(part).to(config.device) for part in histories.windows(users, config.model.max_length + 1))
        questions, answers = items[:, :-1], items[:, 1:]
        open_ = answers != 0
        hidden = model(questions, times[:, :-1])[open_]
        loss = next_item_loss(model, hidden, answers[open_] - 1, config, chances)
        if not math.isfinite(loss.item()):
            raise RunError(f"the loss is {loss.item()}", hint="lower learning_rate, or set clip_norm")
        optimiser.zero_grad()
        loss.backward()
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimiser.step()
        total, asked = total + loss.item() * len(hidden), asked + len(hidden)
    return total / asked


def _popularity(histories: Histories) -> Tensor:
    counts = np.bincount(histories.items, minlength=histories.n_items).astype(np.float64) + 1
    return torch.from_numpy((counts / counts.sum()).astype(np.float32))


def _optimiser(model: nn.Module, config: NextItemTraining) -> torch.optim.Optimizer:
    decayed = [parameter for name, parameter in model.named_parameters() if parameter.dim() > 1 and not name.startswith(("items.", "positions"))]
    chosen = {id(parameter) for parameter in decayed}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    return torch.optim.AdamW([{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}], lr=config.learning_rate)


def _best(epochs: list[dict[str, Any]]) -> int:
    return int(max(epochs, key=lambda row: (row["validation_ndcg"], -row["epoch"]))["epoch"])


def _stale(epochs: list[dict[str, Any]]) -> int:
    return len(epochs) - _best(epochs) if epochs else 0


def _best_weights(model: nn.Module, epochs: list[dict[str, Any]], folder: str | Path | None) -> dict[str, Tensor]:
    if not epochs or folder is None:
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    tensors, _ = read_tensors(Path(folder) / "best.safetensors")
    return tensors
