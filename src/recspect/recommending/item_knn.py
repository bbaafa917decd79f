"""Items that go with those the user had: neighbours by cosine."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recspect.errors import UsageError
from recspect.recommending.interactions import Array, Interactions, codes
from recspect.recommending.ranking import BLOCK_BYTES, recommend_in_blocks, top_k


@dataclass(frozen=True, kw_only=True)
class ItemKNN:
    """Scores an item by how alike it is to the items the user had, counting only its nearest neighbours.

    `s(i, j) = <x_i, x_j> / (|x_i| |x_j| + shrinkage)` over the columns x of the user by item matrix, and
    `score(u, i) = sum of x_uj s(i, j) over the `neighbours` items j most alike to i` (ties: the smaller code).

    Args:
        neighbours: How many neighbours of each item count; 100 is RecBole's default.
        shrinkage: Added to the denominator; above 0 it trusts rare items less.

    Source: Sarwar et al. 2001 (item-based collaborative filtering); the shrinkage is Bell and Koren 2007's.
    """

    neighbours: int = 100
    shrinkage: float = 0.0

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise UsageError(f"neighbours is {self.neighbours}, expected 1 or more")
        if not self.shrinkage >= 0:
            raise UsageError(f"shrinkage is {self.shrinkage}, expected 0 or more")

    def fit(
        self, users: ArrayLike, items: ArrayLike, *, n_users: int, n_items: int, weights: ArrayLike | None = None,
    ) -> FittedItemKNN:
        """Find every item's neighbours, in blocks of items.

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
        norms = np.sqrt(np.bincount(interactions.items, interactions.weights**2, minlength=n_items))
        kept = min(self.neighbours, n_items)
        neighbours, similarities = np.zeros((n_items, kept), dtype=np.int64), np.zeros((n_items, kept))
        had = np.flatnonzero(norms)  # an item that nobody had is like no other: in a large catalogue these are most
        if not len(had):
            return FittedItemKNN.of(interactions, neighbours, similarities)
        place = np.cumsum(norms > 0) - 1
        among = Interactions.from_pairs(np.repeat(np.arange(n_users), interactions.lengths), place[interactions.items], n_users=n_users,
                                        n_items=len(had), weights=interactions.weights)
        near = min(kept, len(had))
        if among.shares_few:
            for row, column, product in among.gram_entries():
                cosine = product / (norms[had[row]] * norms[had[column]] + self.shrinkage)
                cosine[row == column] = 0.0  # no item is its own neighbour
                chosen, rank = _best(row, cosine, near)
                neighbours[had[row[chosen]], rank], similarities[had[row[chosen]], rank] = had[column[chosen]], cosine[chosen]
            return FittedItemKNN.of(interactions, neighbours, similarities)
        for first, products in among.gram(block=max(1, BLOCK_BYTES // (8 * len(had)))):
            rows = np.arange(first, first + len(products))
            products[rows - first, rows] = 0.0
            scale = norms[had[rows], None] * norms[had] + self.shrinkage
            cosine = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
            alike, how_much = top_k(cosine, near)
            neighbours[had[rows], :near], similarities[had[rows], :near] = had[alike], how_much
        return FittedItemKNN.of(interactions, neighbours, similarities)


@dataclass(frozen=True)
class FittedItemKNN:
    """Neighbours of every item.

    Args:
        interactions: What was seen in training.
        neighbours: Shape (items, neighbours), item codes, most alike first; any item where the similarity is 0.
        similarities: Shape (items, neighbours); 0 where nothing is shared.
        reached: By item j, the items that count j among their neighbours, with the similarity as weight.
    """

    interactions: Interactions
    neighbours: Array
    similarities: NDArray[np.float64]
    reached: Interactions

    @classmethod
    def of(cls, interactions: Interactions, neighbours: Array, similarities: NDArray[np.float64]) -> FittedItemKNN:
        """Also turn the lists of neighbours round, so that a user's items lead straight to what they speak for."""
        n_items = interactions.n_items
        targets = np.repeat(np.arange(n_items), neighbours.shape[1])
        reached = Interactions.from_pairs(neighbours.reshape(-1), targets, n_users=n_items, n_items=n_items,
                                          weights=similarities.reshape(-1))
        return cls(interactions, neighbours, similarities, reached)

    def score_pairs(self, users: ArrayLike, items: ArrayLike, *, block_bytes: int = BLOCK_BYTES) -> NDArray[np.float64]:
        """One score per pair, shape (pairs,); 0 where none of the user's items is a neighbour."""
        user_codes = codes(users, self.interactions.n_users, "users")
        item_codes = codes(items, self.interactions.n_items, "items")
        if self.profiles_are_short:
            return self._score_by_profile(user_codes, item_codes)
        scores = np.zeros(len(user_codes))
        distinct, row = np.unique(user_codes, return_inverse=True)
        order = np.argsort(row.reshape(-1), kind="stable")
        ends = np.searchsorted(row.reshape(-1)[order], np.arange(len(distinct) + 1))
        size = max(1, block_bytes // (8 * self.interactions.n_items))
        step = max(1, block_bytes // (8 * self.neighbours.shape[1]))
        for first in range(0, len(distinct), size):
            profiles = self.interactions.dense(distinct[first:first + size])
            last = min(first + size, len(distinct))
            for start in range(ends[first], ends[last], step):
                pairs = order[start:min(start + step, ends[last])]
                mine = profiles[(row.reshape(-1)[pairs] - first)[:, None], self.neighbours[item_codes[pairs]]]
                scores[pairs] = (mine * self.similarities[item_codes[pairs]]).sum(axis=1)
        return scores

    @cached_property
    def profiles_are_short(self) -> bool:
        """Whether users had so few items that each is better looked up among an item's neighbours than the neighbours among the user's items.

        One answer for all pairs, so that equal scores are equal to the last bit.
        """
        lengths = self.interactions.lengths.astype(np.float64)
        return 8 * float((lengths**2).sum()) < self.neighbours.shape[1] * float(lengths.sum())

    def _score_by_profile(self, users: Array, items: Array) -> NDArray[np.float64]:
        """Sums over the user's items of their similarity, where the item counts them among its neighbours."""
        n_items = self.interactions.n_items
        scores = np.zeros(len(users))
        if not len(self._reached_keys):
            return scores
        step = max(1, int(BLOCK_BYTES // (8 * max(1.0, float(self.interactions.lengths.max())))))
        for first in range(0, len(users), step):
            pair, had, weights = self.interactions.entries(users[first:first + step])
            keys = had * n_items + items[first:first + step][pair]
            place = np.minimum(np.searchsorted(self._reached_keys, keys), len(self._reached_keys) - 1)
            found = np.flatnonzero(self._reached_keys[place] == keys)
            mine = np.bincount(pair[found], weights[found] * self.reached.weights[place[found]], minlength=len(users[first:first + step]))
            scores[first:first + step] = mine
        return scores

    @cached_property
    def _reached_keys(self) -> NDArray[np.int64]:
        """Each pair of an item and one that counts it among its neighbours, as one number; ascending."""
        n_items = self.interactions.n_items
        return np.repeat(np.arange(n_items), self.reached.lengths) * n_items + self.reached.items

    def scores(self, users: ArrayLike) -> NDArray[np.float64]:
        """Scores of every item, shape (users, items)."""
        wanted = codes(users, self.interactions.n_users, "users")
        n_items = self.interactions.n_items
        scores = np.zeros((len(wanted), n_items))
        rows, items, weights = self.interactions.entries(wanted)
        # In steps of profile entries, so that the expansion stays bounded; each user's sum keeps its order.
        step = max(1, BLOCK_BYTES // (32 * self.neighbours.shape[1]))
        for start, end in _whole_rows(rows, step):
            entry, targets, similarity = self.reached.entries(items[start:end])
            low, high = rows[start], rows[end - 1] + 1
            keys = (rows[start:end][entry] - low) * n_items + targets
            found = np.bincount(keys, weights[start:end][entry] * similarity, minlength=(high - low) * n_items)
            scores[low:high] = found.reshape(high - low, n_items)
        return scores

    def recommend(
        self, users: ArrayLike, k: int, *, exclude_seen: bool = True, block_bytes: int = BLOCK_BYTES,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The best k items per user and their scores, both of shape (users, k); -1 and NaN where none is left."""
        return recommend_in_blocks(self.scores, users, k, seen=self.interactions, exclude_seen=exclude_seen,
                                   block_bytes=block_bytes)


def _best(row: Array, values: NDArray[np.float64], k: int) -> tuple[Array, Array]:
    """Which of these entries are among the k largest above 0 of their row, and their place there; ties go to the earlier one. Rows ascend."""
    there = np.flatnonzero(values > 0)
    order = there[np.lexsort((-values[there], row[there]))]
    sorted_rows = row[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_rows, sorted_rows)
    return order[rank < k], rank[rank < k]


def _whole_rows(rows: Array, step: int) -> list[tuple[int, int]]:
    """Cut ascending row numbers into stretches of about `step` entries that do not split a row."""
    cuts = [0]
    while cuts[-1] < len(rows):
        last = rows[min(cuts[-1] + step, len(rows)) - 1]
        cuts.append(int(np.searchsorted(rows, last, side="right")))
    return list(itertools.pairwise(cuts))
