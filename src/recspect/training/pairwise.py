"""Learning from pairs: what a user had shall score above what the user did not have.

Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

from recspect.errors import DataError, UsageError
from recspect.models.matrix_factorisation import MatrixFactorisation
from recspect.recommending.interactions import Interactions, codes
from recspect.recommending.ranking import BLOCK_BYTES, recommend_in_blocks

K = 10
"""Length of the lists by which the best epoch is chosen."""


@dataclass(frozen=True, kw_only=True)
class BPR:
    """Matrix factorisation trained on pairs of a wanted and an unknown item.

    Args:
        width: Numbers per vector.
        maximum_epochs: Passes over the pairs at most.
        patience: Looks at the validation pairs, one every `judge_every` epochs, without a better recall before it stops.
        judge_every: Epochs between two looks.
        batch_pairs: Pairs per step.
        learning_rate: Of Adam.
        l2: Weight of |vector|^2 / 2 of the vectors of a step.
        validation_share: Share of the pairs held out to choose the number of epochs by; all pairs are then learnt for so many. 0 trains all epochs.
        seed: Of vectors, order, and what is drawn.
    """

    width: int = 64
    maximum_epochs: int = 200
    patience: int = 5
    judge_every: int = 4
    batch_pairs: int = 2048
    learning_rate: float = 1e-3
    l2: float = 0.01
    validation_share: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "maximum_epochs", "patience", "judge_every", "batch_pairs"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if not (self.learning_rate > 0 and self.l2 >= 0 and 0 <= self.validation_share < 1):
            raise UsageError(f"learning_rate is {self.learning_rate}, l2 {self.l2}, validation_share {self.validation_share}",
                             hint="expected more than 0; 0 or more; 0 or more and below 1")

    def fit(self, users: ArrayLike, items: ArrayLike, *, n_users: int, n_items: int,
            progress: Callable[[Mapping[str, Any]], None] | None = None) -> FittedBPR:
        """Learn the vectors.

        Args:
            users: Shape (pairs,), codes from 0 to n_users - 1: who had something.
            items: Shape (pairs,), codes from 0 to n_items - 1: what they had.
            n_users: How many users there are.
            n_items: How many items there are.
            progress: Called after each look with `epoch`, `train_loss` and `validation_recall`.

        Raises:
            DataError: Codes out of range, lengths that differ, no pair.
        """
        user, item = codes(users, n_users, "users"), codes(items, n_items, "items")
        interactions = Interactions.from_pairs(user, item, n_users=n_users, n_items=n_items)
        pairs = np.stack([np.repeat(np.arange(n_users), interactions.lengths), interactions.items])
        if not pairs.shape[1]:
            raise DataError("no pairs to learn from")
        generator = np.random.default_rng(self.seed)
        held = generator.random(pairs.shape[1]) < self.validation_share
        learnt, validation = pairs[:, ~held], pairs[:, held]
        known = Interactions.from_pairs(*learnt, n_users=n_users, n_items=n_items)
        wanted = Interactions.from_pairs(*validation, n_users=n_users, n_items=n_items)
        judged = np.flatnonzero(wanted.lengths)
        best_epoch, epochs = self.maximum_epochs, []
        if len(judged):
            best_epoch, epochs = self._chosen(learnt, known, wanted, judged, progress)
        model = self._learnt(pairs, interactions, best_epoch)
        return FittedBPR(interactions, model.user_table.detach().numpy(), model.item_table.detach().numpy(), epochs, best_epoch)

    def _chosen(self, pairs: NDArray[np.int64], known: Interactions, wanted: Interactions, judged: NDArray[np.int64],
                progress: Callable[[Mapping[str, Any]], None] | None) -> tuple[int, list[dict[str, Any]]]:
        """The number of epochs with the best recall of the pairs held out, and what was seen on the way."""
        epochs: list[dict[str, Any]] = []

        def stop(model: MatrixFactorisation, epoch: int, loss: float) -> bool:
            if epoch % self.judge_every and epoch != self.maximum_epochs:
                return False
            epochs.append({"epoch": epoch, "train_loss": loss, "validation_recall": _recall(model, known, wanted, judged)})
            if progress is not None:
                progress(epochs[-1])
            return len(epochs) - 1 - _best(epochs) >= self.patience

        self._learnt(pairs, known, self.maximum_epochs, stop)
        return int(epochs[_best(epochs)]["epoch"]), epochs

    def _learnt(self, pairs: NDArray[np.int64], known: Interactions, epochs: int,
                stop: Callable[[MatrixFactorisation, int, float], bool] = lambda *_: False) -> MatrixFactorisation:
        generator = np.random.default_rng([self.seed, 1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = MatrixFactorisation(known.n_users, known.n_items, self.width)
            # Adam over whole tables: exact, and cheap while tables are small; rows without a gradient move by their momentum, as in RecBole.
            optimiser = torch.optim.Adam(model.parameters(), lr=self.learning_rate, fused=True)
            for epoch in range(1, epochs + 1):
                if stop(model, epoch, self._epoch(model, optimiser, pairs, known, generator)):
                    break
        return model

    def _epoch(self, model: MatrixFactorisation, optimiser: torch.optim.Optimizer, pairs: NDArray[np.int64], known: Interactions,
               generator: np.random.Generator) -> float:
        order = generator.permutation(pairs.shape[1])
        total = 0.0
        for start in range(0, len(order), self.batch_pairs):
            chosen = order[start:start + self.batch_pairs]
            users, items = pairs[0, chosen], pairs[1, chosen]
            unknown = draw_unknown(known, users, generator)
            rows = [torch.from_numpy(part) for part in (users, items, unknown)]
            own, right, wrong = (functional.embedding(rows[0], model.user_table), functional.embedding(rows[1], model.item_table),
                                 functional.embedding(rows[2], model.item_table))
            loss = functional.softplus(-(own * (right - wrong)).sum(dim=1)).mean()
            whole = loss + self.l2 / 2 * sum(part.square().sum(dim=1).mean() for part in (own, right, wrong))
            optimiser.zero_grad()
            whole.backward()
            optimiser.step()
            total += loss.item() * len(chosen)
        return total / len(order)


@dataclass(frozen=True, eq=False)
class FittedBPR:
    """Vectors of users and items.

    Args:
        interactions: What was seen, the pairs held out for validation included.
        user_vectors: Shape (users, width).
        item_vectors: Shape (items, width).
        epochs: What was seen at each look, before all pairs were learnt.
        best_epoch: For how many epochs all pairs were learnt.
    """

    interactions: Interactions
    user_vectors: NDArray[np.float32]
    item_vectors: NDArray[np.float32]
    epochs: list[dict[str, Any]]
    best_epoch: int

    def score_pairs(self, users: ArrayLike, items: ArrayLike) -> NDArray[np.float64]:
        """One score per pair, shape (pairs,)."""
        user, item = codes(users, self.interactions.n_users, "users"), codes(items, self.interactions.n_items, "items")
        found: NDArray[np.float64] = np.einsum("pd,pd->p", self.user_vectors[user], self.item_vectors[item], dtype=np.float64)
        return found

    def scores(self, users: ArrayLike) -> NDArray[np.float64]:
        """Scores of every item, shape (users, items)."""
        found: NDArray[np.float64] = (self.user_vectors[codes(users, self.interactions.n_users, "users")] @ self.item_vectors.T).astype(np.float64)
        return found

    def recommend(self, users: ArrayLike, k: int, *, exclude_seen: bool = True,
                  block_bytes: int = BLOCK_BYTES) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The best k items per user and their scores, both of shape (users, k); -1 and NaN where none is left."""
        return recommend_in_blocks(self.scores, users, k, seen=self.interactions, exclude_seen=exclude_seen, block_bytes=block_bytes)


def draw_unknown(known: Interactions, users: NDArray[np.int64], generator: np.random.Generator, *, tries: int = 30) -> NDArray[np.int64]:
    """One item per user, drawn evenly among those the user did not have (after `tries` attempts, among all: a user who had nearly everything)."""
    drawn = generator.integers(known.n_items, size=len(users))
    for _ in range(tries):
        had = known.contains(users, drawn)
        if not had.any():
            break
        drawn[had] = generator.integers(known.n_items, size=int(had.sum()))
    return drawn


def _best(epochs: list[dict[str, Any]]) -> int:
    return max(range(len(epochs)), key=lambda place: (epochs[place]["validation_recall"], -place))


def _recall(model: MatrixFactorisation, known: Interactions, wanted: Interactions, judged: NDArray[np.int64]) -> float:
    def scores(users: NDArray[Any]) -> NDArray[np.float64]:
        with torch.no_grad():
            found: NDArray[np.float64] = (model.user_table[torch.from_numpy(users)] @ model.item_table.T).double().numpy()
        return found

    lists, _ = recommend_in_blocks(scores, judged, K, seen=known, exclude_seen=True, block_bytes=BLOCK_BYTES)
    hits = wanted.contains(np.repeat(judged, K), lists.reshape(-1)).reshape(lists.shape)
    return float((hits.sum(axis=1) / wanted.lengths[judged]).mean())
