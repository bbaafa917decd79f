"""A linear model of all items on all items, in closed form: the baseline that neural recommenders often fail to beat."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recspect.errors import UsageError
from recspect.recommending.interactions import Array, Interactions, codes
from recspect.recommending.ranking import BLOCK_BYTES, recommend_in_blocks

_COPIES = 1.75
"""Square matrices held at once while inverting: the matrix itself and three quarter-sized products."""


@dataclass(frozen=True, kw_only=True)
class EASE:
    """Predicts each item from all others: `min |X - X B|^2 + l2 |B|^2` with a zero diagonal of B.

    With `P = (X'X + l2 I)^-1`, `B_ij = -P_ij / P_jj` off the diagonal, and `score(u, i) = x_u B_i`.

    Args:
        l2: Strength of the penalty; 250 is RecBole's default. Sparser data wants less, longer profiles more.
        precision: Of the matrix and its inverse; float32 halves memory and time.
        max_items: Refuse more items with an interaction than this: memory grows with their square, time with their cube.

    Source: Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data".
    """

    l2: float = 250.0
    precision: Literal["float64", "float32"] = "float64"
    max_items: int = 20_000

    def __post_init__(self) -> None:
        if not 0 < self.l2 < float("inf"):
            raise UsageError(f"l2 is {self.l2}, expected above 0", hint="without a penalty the inverse may not exist")
        if self.precision not in ("float64", "float32"):
            raise UsageError(f"precision is {self.precision!r}", hint="choices: 'float64', 'float32'")
        if self.max_items < 1:
            raise UsageError(f"max_items is {self.max_items}, expected 1 or more")

    def memory_bytes(self, items: int) -> int:
        """Memory that fitting so many items takes at its peak."""
        return int(_COPIES * items**2 * np.dtype(self.precision).itemsize)

    def fit(
        self, users: ArrayLike, items: ArrayLike, *, n_users: int, n_items: int, weights: ArrayLike | None = None,
    ) -> FittedEASE:
        """Solve for B. Items without an interaction have a zero row and column and cost nothing.

        Args:
            users: Shape (pairs,), codes from 0 to n_users - 1: who had something.
            items: Shape (pairs,), codes from 0 to n_items - 1: what they had.
            n_users: How many users there are.
            n_items: How many items there are.
            weights: Shape (pairs,), the entries of X, above 0; 1 each when left out.

        Raises:
            UsageError: More than `max_items` items have an interaction.
            DataError: Codes out of range, lengths that differ, weights that are negative or not finite.
        """
        interactions = Interactions.from_pairs(users, items, n_users=n_users, n_items=n_items, weights=weights)
        known = np.unique(interactions.items)
        if len(known) > self.max_items:
            raise UsageError(
                f"EASE inverts a matrix of items by items: {len(known):,} items would take "
                f"{self.memory_bytes(len(known)) / 2**30:,.1f} GiB, the limit is {self.max_items:,} items "
                f"({self.memory_bytes(self.max_items) / 2**30:,.1f} GiB)",
                hint="leave out rare items, use ItemKNN, or raise EASE(max_items=...)",
            )
        position = np.full(n_items, -1, dtype=np.int64)
        position[known] = np.arange(len(known))
        compact = Interactions(position[interactions.items], interactions.weights, interactions.offsets, len(known))
        gram = np.empty((len(known), len(known)), dtype=self.precision)
        for first, products in compact.gram(block=max(1, BLOCK_BYTES // (8 * max(1, len(known))))):
            gram[first:first + len(products)] = products
        gram[np.diag_indices_from(gram)] += self.l2
        invert(gram)
        gram /= -np.diag(gram).copy()
        np.fill_diagonal(gram, 0.0)
        return FittedEASE(interactions, gram, known, position)


def invert(matrix: Array) -> None:
    """Invert a symmetric positive definite matrix in place, in its own precision.

    By halves: with the matrix as [[A, B], [B', D]] and the Schur complement S = D - B' A^-1 B, both A and S are again
    symmetric positive definite. NumPy's LAPACK calls always work in float64 and on copies; this is half the
    arithmetic, keeps float32, and needs less than half the memory.
    """
    size = len(matrix)
    if size <= 256:
        matrix[...] = np.linalg.inv(matrix)
        return
    half = size // 2
    upper, corner, lower = matrix[:half, :half], matrix[:half, half:], matrix[half:, half:]
    invert(upper)
    step = upper @ corner
    lower -= corner.T @ step
    invert(lower)
    product = step @ lower
    upper += product @ step.T
    np.negative(product, out=corner)
    matrix[half:, :half] = corner.T


@dataclass(frozen=True)
class FittedEASE:
    """The matrix B.

    Args:
        interactions: What was seen in training.
        effects: B, shape (known, known): what having item i says about wanting item j.
        known: Shape (known,), codes of the items that had an interaction, ascending.
        position: Shape (items,), row of each item in `effects`; -1 where it had no interaction.
    """

    interactions: Interactions
    effects: Array
    known: Array
    position: Array

    def score_pairs(self, users: ArrayLike, items: ArrayLike) -> NDArray[np.float64]:
        """One score per pair, shape (pairs,); 0 for items and users without an interaction."""
        user_codes = codes(users, self.interactions.n_users, "users")
        target = self.position[codes(items, self.interactions.n_items, "items")]
        scores = np.zeros(len(user_codes))
        order = np.argsort(user_codes, kind="stable")
        borders = np.flatnonzero(np.diff(user_codes[order], prepend=-1, append=-1))  # of the stretches of one user
        for first, last in itertools.pairwise(borders):
            pairs = order[first:last]
            pairs = pairs[target[pairs] >= 0]
            _, mine, weights = self.interactions.entries(user_codes[order[first:first + 1]])
            if len(pairs) and len(mine):
                scores[pairs] = weights @ self.effects[np.ix_(self.position[mine], target[pairs])]
        return scores

    def scores(self, users: ArrayLike) -> NDArray[np.float64]:
        """Scores of every item, shape (users, items).

        One user at a time, so that a user's scores do not depend on who else is in the block.
        """
        wanted = codes(users, self.interactions.n_users, "users")
        scores = np.zeros((len(wanted), self.interactions.n_items))
        step = max(1, BLOCK_BYTES // (8 * max(1, len(self.known))))
        for row, user in enumerate(wanted):
            first, last = self.interactions.offsets[user], self.interactions.offsets[user + 1]
            total = np.zeros(len(self.known))
            for start in range(first, last, step):
                end = min(start + step, last)
                mine = self.position[self.interactions.items[start:end]]
                total += self.interactions.weights[start:end].astype(self.effects.dtype) @ self.effects[mine]
            scores[row, self.known] = total
        return scores

    def recommend(
        self, users: ArrayLike, k: int, *, exclude_seen: bool = True, block_bytes: int = BLOCK_BYTES,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The best k items per user and their scores, both of shape (users, k); -1 and NaN where none is left."""
        return recommend_in_blocks(self.scores, users, k, seen=self.interactions, exclude_seen=exclude_seen,
                                   block_bytes=block_bytes)
