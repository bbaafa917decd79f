"""Which user had which item: the sparse matrix that baselines are fitted on, in plain NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recspect.errors import DataError, UsageError

Array = NDArray[Any]

_EXPANSION = 2_000_000
"""Entries expanded at a time when items are counted together; some 100 MB of working memory."""


@dataclass(frozen=True)
class Interactions:
    """A sparse matrix of users by items, by user: user u had `items[offsets[u]:offsets[u + 1]]`, ascending.

    Args:
        items: Shape (pairs,), item codes.
        weights: Shape (pairs,), float64, above 0.
        offsets: Shape (users + 1,).
        n_items: Number of columns.
    """

    items: Array
    weights: NDArray[np.float64]
    offsets: Array
    n_items: int

    @property
    def n_users(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Array:
        """Distinct items per user, shape (users,)."""
        return np.diff(self.offsets)

    @property
    def item_weights(self) -> NDArray[np.float64]:
        """Sum of weights per item, shape (items,); without weights, the number of its users."""
        return np.bincount(self.items, self.weights, minlength=self.n_items).astype(np.float64)

    @classmethod
    def from_pairs(
        cls, users: ArrayLike, items: ArrayLike, *, n_users: int, n_items: int, weights: ArrayLike | None = None,
    ) -> Interactions:
        """Pairs of codes, in any order.

        A pair that occurs more than once counts as 1 without weights; with weights, its weights add up. Pairs of weight
        0 did not happen.

        Raises:
            UsageError: `n_users` or `n_items` is below 1.
            DataError: Lengths differ, codes out of range, weights negative or not finite.
        """
        for name, count in (("n_users", n_users), ("n_items", n_items)):
            if count < 1:
                raise UsageError(f"{name} is {count}, expected 1 or more")
        user_codes = codes(users, n_users, "users")
        item_codes = codes(items, n_items, "items")
        if len(user_codes) != len(item_codes):
            raise DataError(f"a pair needs a user and an item: {len(user_codes)} users, {len(item_codes)} items")
        keys = user_codes * n_items + item_codes
        if weights is None:
            distinct = np.unique(keys)
            sums = np.ones(len(distinct))
        else:
            given = np.asarray(weights, dtype=np.float64)
            if given.shape != keys.shape:
                raise DataError(f"expected one weight for each of {len(keys)} pairs, found shape {given.shape}")
            if not (np.isfinite(given) & (given >= 0)).all():
                raise DataError("weights must be finite and not negative",
                                hint="leave out the rows that say that the user did not want the item")
            distinct, inverse = np.unique(keys, return_inverse=True)
            sums = np.bincount(inverse.reshape(-1), given, minlength=len(distinct)).astype(np.float64)
            distinct, sums = distinct[sums > 0], sums[sums > 0]
        offsets = np.searchsorted(distinct, np.arange(n_users + 1, dtype=np.int64) * n_items)
        return cls(distinct % n_items, sums, offsets, n_items)

    def entries(self, users: Array) -> tuple[Array, Array, NDArray[np.float64]]:
        """All entries of these users: position within `users`, item, weight; each of shape (entries,)."""
        lengths = self.lengths[users]
        ends = np.cumsum(lengths)
        positions = np.repeat(self.offsets[users] - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
        return np.repeat(np.arange(len(users)), lengths), self.items[positions], self.weights[positions]

    def dense(self, users: Array) -> NDArray[np.float64]:
        """The rows of these users, shape (users, items)."""
        rows, items, weights = self.entries(users)
        matrix = np.zeros((len(users), self.n_items))
        matrix[rows, items] = weights
        return matrix

    def transpose(self) -> Interactions:
        """The same matrix by item."""
        order = np.argsort(self.items, kind="stable")
        users = np.repeat(np.arange(self.n_users), self.lengths)[order]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(self.items, minlength=self.n_items))])
        return Interactions(users, self.weights[order], offsets, self.n_users)

    def contains(self, users: Array, items: Array) -> NDArray[np.bool_]:
        """Whether each pair is there; shapes (n,) and (n,) to (n,). Item -1 (nothing) is never there."""
        mine = np.repeat(np.arange(self.n_users), self.lengths) * self.n_items + self.items
        if not len(mine):
            return np.zeros(len(users), dtype=bool)
        asked = users.astype(np.int64) * self.n_items + items
        place = np.minimum(np.searchsorted(mine, asked), len(mine) - 1)
        found: NDArray[np.bool_] = (mine[place] == asked) & (items >= 0)
        return found

    def gram(self, *, block: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """The item by item matrix `X.T @ X`, as (first row, block of up to `block` rows of shape (rows, items)).

        Cost: one addition per pair of items of the same user, and memory for one block: the dense product would take
        users x items x items.
        """
        by_item = self.transpose()
        for first in range(0, self.n_items, block):
            wanted = np.arange(first, min(first + block, self.n_items))
            rows, users, weights = by_item.entries(wanted)
            counts = np.zeros(len(wanted) * self.n_items)
            size = np.cumsum(self.lengths[users])
            steps = np.arange(_EXPANSION, (size[-1] if len(size) else 0) + _EXPANSION, _EXPANSION)
            for start, end in itertools.pairwise([0, *np.searchsorted(size, steps), len(users)]):
                if start == end:
                    continue
                entry, items, other = self.entries(users[start:end])
                keys = rows[start:end][entry] * self.n_items + items
                counts += np.bincount(keys, weights[start:end][entry] * other, minlength=len(counts))
            yield first, counts.reshape(len(wanted), self.n_items)

    @property
    def shares_few(self) -> bool:
        """Whether most pairs of items share no user, so that `gram_entries` is the faster way."""
        return 8 * float((self.lengths.astype(np.float64) ** 2).sum()) < float(self.n_items) ** 2

    def gram_entries(self) -> Iterator[tuple[Array, Array, NDArray[np.float64]]]:
        """The entries of `X.T @ X` that are not 0, ascending by row and column: row, column, value, each of shape (entries,); every row is whole.

        Cost: sorting one entry per pair of items of the same user, whatever the number of items; memory for some two million of these.
        """
        by_item = self.transpose()
        size = np.concatenate([[0], np.cumsum(np.bincount(self.items, np.repeat(self.lengths, self.lengths), minlength=self.n_items))])
        first = 0
        while first < self.n_items:
            last = max(first + 1, int(np.searchsorted(size, size[first] + _EXPANSION, side="right")) - 1)
            rows, users, weights = by_item.entries(np.arange(first, last))
            entry, items, other = self.entries(users)
            keys, place = np.unique((first + rows[entry]) * self.n_items + items, return_inverse=True)
            yield keys // self.n_items, keys % self.n_items, np.bincount(place, weights[entry] * other, minlength=len(keys)).astype(np.float64)
            first = last


def codes(values: ArrayLike, count: int, what: str) -> NDArray[np.int64]:
    """An array of codes in 0..count-1 as int64.

    Raises:
        DataError: Not a one-dimensional array of integers, or a code out of range.
    """
    found = np.asarray(values)
    if found.size == 0:
        found = found.astype(np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise DataError(f"{what}: expected a one-dimensional array of integer codes, found shape {found.shape} of type "
                        f"{found.dtype}", hint="turn ids into codes first, such as with np.unique(ids, return_inverse=True)")
    if found.size and (found.min() < 0 or found.max() >= count):
        raise DataError(f"{what}: expected codes from 0 to {count - 1}, found {found.min()} to {found.max()}")
    return found.astype(np.int64, copy=False)
