"""The best k of many scores: exact, the same on every run, ties in favour of the smaller code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recspect.errors import UsageError
from recspect.recommending.interactions import Interactions, codes

Array = NDArray[Any]

BLOCK_BYTES = 16 * 2**20
"""Size of one block of scores, unless told otherwise; ranking it takes some five times as much for a moment."""


class Fitted(Protocol):
    """A fitted baseline: scores for pairs, for all items, and lists."""

    interactions: Interactions

    def score_pairs(self, users: ArrayLike, items: ArrayLike) -> NDArray[np.float64]:
        """One score per pair, shape (n,)."""
        ...

    def scores(self, users: ArrayLike) -> NDArray[np.float64]:
        """Scores of every item, shape (users, items)."""
        ...

    def recommend(self, users: ArrayLike, k: int, *, exclude_seen: bool = True) -> tuple[Array, NDArray[np.float64]]:
        """The best k items per user and their scores, both of shape (users, k)."""
        ...


def top_k(
    scores: NDArray[np.float64], k: int, eligible: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k best columns of each row, best first; equal scores in order of the column.

    Args:
        scores: Shape (rows, columns), finite where eligible.
        k: At least 1.
        eligible: Shape (rows, columns); False leaves a column out.

    Returns:
        Columns and their scores, both of shape (rows, k). Where fewer than k are eligible: column -1, score NaN.

    Raises:
        UsageError: k is below 1.
    """
    _positive(k)
    rows, columns = scores.shape
    kept = min(k, columns)
    best = np.full((rows, k), -1, dtype=np.int64)
    values = np.full((rows, k), np.nan)
    if rows == 0 or kept == 0:
        return best, values
    ranked = np.asarray(scores, dtype=np.float64)
    if eligible is not None:
        ranked = np.where(eligible, ranked, -np.inf)
    # The k-th value of each row splits the columns into better, equal and worse; of the equal ones the first are taken,
    # which a plain argpartition would choose by accident. NumPy's partition takes 18 times as long on a row of mostly zeros
    # where the k-th value lies near its end, so the order is turned round.
    cut = -np.partition(-ranked, kept - 1, axis=1)[:, kept - 1, None]
    better = ranked > cut
    equal = ranked == cut
    room = kept - better.sum(axis=1, keepdims=True)
    chosen = np.nonzero(better | (equal & (np.cumsum(equal, axis=1) <= room)))[1].reshape(rows, kept)
    found = np.take_along_axis(ranked, chosen, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    chosen, found = np.take_along_axis(chosen, order, axis=1), np.take_along_axis(found, order, axis=1)
    nothing = np.isneginf(found)
    best[:, :kept] = np.where(nothing, -1, chosen)
    values[:, :kept] = np.where(nothing, np.nan, found)
    return best, values


def recommend_in_blocks(
    scores: Callable[[Array], NDArray[np.float64]], users: ArrayLike, k: int, *, seen: Interactions,
    exclude_seen: bool, block_bytes: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Lists for many users without ever holding all their scores.

    Args:
        scores: User codes of shape (n,) to scores of shape (n, items).
        users: Shape (n,), user codes.
        k: Length of the lists.
        seen: What was seen in training, and so is left out.
        exclude_seen: Whether to leave it out.
        block_bytes: Bound on the size of one block of scores; at least one user is done at a time.

    Returns:
        Items and scores, both of shape (n, k); item -1 and score NaN where no item is left.
    """
    _positive(k)
    wanted = codes(users, seen.n_users, "users")
    size = max(1, block_bytes // (8 * seen.n_items))
    best = np.full((len(wanted), k), -1, dtype=np.int64)
    values = np.full((len(wanted), k), np.nan)
    for first in range(0, len(wanted), size):
        block = wanted[first:first + size]
        found = scores(block)
        eligible = None
        if exclude_seen:
            rows, items, _ = seen.entries(block)
            eligible = np.ones(found.shape, dtype=bool)
            eligible[rows, items] = False
        best[first:first + size], values[first:first + size] = top_k(found, k, eligible)
    return best, values


def _positive(k: int) -> None:
    if k < 1:
        raise UsageError(f"k is {k}, expected 1 or more")
