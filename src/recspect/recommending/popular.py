"""What is the plainest recommendation: the same list for everybody, most popular first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recspect.recommending.interactions import Interactions, codes
from recspect.recommending.ranking import BLOCK_BYTES, recommend_in_blocks


@dataclass(frozen=True, kw_only=True)
class Popular:
    """Ranks items by the number of users who had them.

    Example:
        >>> fitted = Popular().fit([0, 1, 1], [2, 2, 0], n_users=2, n_items=3)
        >>> fitted.recommend([0], k=2)[0]
        array([[0, 1]])
    """

    def fit(
        self, users: ArrayLike, items: ArrayLike, *, n_users: int, n_items: int, weights: ArrayLike | None = None,
    ) -> FittedPopular:
        """Count.

        Args:
            users: Shape (pairs,), codes from 0 to n_users - 1: who had something.
            items: Shape (pairs,), codes from 0 to n_items - 1: what they had.
            n_users: How many users there are.
            n_items: How many items there are.
            weights: Shape (pairs,), above 0; 1 each when left out.

        Raises:
            DataError: Codes out of range, lengths that differ, weights that are negative or not finite.
        """
        interactions = Interactions.from_pairs(users, items, n_users=n_users, n_items=n_items, weights=weights)
        return FittedPopular(interactions, interactions.item_weights)


@dataclass(frozen=True)
class FittedPopular:
    """Popularity of each item.

    Args:
        interactions: What was seen in training.
        popularity: Shape (items,), users (or their weights) per item.
    """

    interactions: Interactions
    popularity: NDArray[np.float64]

    def score_pairs(self, users: ArrayLike, items: ArrayLike) -> NDArray[np.float64]:
        """The item's popularity, shape (pairs,)."""
        codes(users, self.interactions.n_users, "users")
        scores: NDArray[np.float64] = self.popularity[codes(items, self.interactions.n_items, "items")]
        return scores

    def scores(self, users: ArrayLike) -> NDArray[np.float64]:
        """Scores of every item, shape (users, items); every row is the same."""
        wanted = codes(users, self.interactions.n_users, "users")
        return np.broadcast_to(self.popularity, (len(wanted), self.interactions.n_items))

    def recommend(
        self, users: ArrayLike, k: int, *, exclude_seen: bool = True, block_bytes: int = BLOCK_BYTES,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The best k items per user and their scores, both of shape (users, k); -1 and NaN where none is left."""
        return recommend_in_blocks(self.scores, users, k, seen=self.interactions, exclude_seen=exclude_seen,
                                   block_bytes=block_bytes)
