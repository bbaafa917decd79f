"""What each user had, in the order in which it happened: what sequence models learn from, in plain NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recspect.errors import DataError
from recspect.recommending.interactions import Interactions, codes

Array = NDArray[Any]


@dataclass(frozen=True)
class Histories:
    """Items by user and time: user u had `items[offsets[u]:offsets[u + 1]]`, oldest first.

    Args:
        items: Shape (events,), item codes.
        times: Shape (events,), int64, in any unit, ascending within a user.
        offsets: Shape (users + 1,).
        n_items: How many items there are.
    """

    items: NDArray[np.int64]
    times: NDArray[np.int64]
    offsets: NDArray[np.int64]
    n_items: int

    @property
    def n_users(self) -> int:
        """Number of users, those without an event included."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Events per user, shape (users,)."""
        return np.diff(self.offsets)

    @property
    def users(self) -> NDArray[np.int64]:
        """The user of each event, shape (events,)."""
        return np.repeat(np.arange(self.n_users), self.lengths)

    @property
    def interactions(self) -> Interactions:
        """Who had what, without order and repetition."""
        return Interactions.from_pairs(self.users, self.items, n_users=self.n_users, n_items=self.n_items)

    @classmethod
    def from_events(cls, users: ArrayLike, items: ArrayLike, times: ArrayLike, *, n_users: int, n_items: int) -> Histories:
        """Events in any order; equal times of a user keep the order in which they are given.

        Args:
            users: Shape (events,), codes from 0 to n_users - 1.
            items: Shape (events,), codes from 0 to n_items - 1.
            times: Shape (events,), whole numbers.
            n_users: How many users there are.
            n_items: How many items there are.

        Raises:
            DataError: Codes out of range, lengths that differ, times that are no whole numbers.

        Example:
            >>> Histories.from_events([0, 1, 0], [5, 6, 7], [30, 10, 20], n_users=2, n_items=8).items
            array([7, 5, 6])
        """
        user, item, time = codes(users, n_users, "users"), codes(items, n_items, "items"), np.asarray(times)
        if not len(user) == len(item) == len(time):
            raise DataError(f"expected one user, item and time per event, found {len(user):,}, {len(item):,} and {len(time):,}")
        if time.dtype.kind not in "iu" and len(time):
            raise DataError(f"times have type {time.dtype}, expected whole numbers", hint="seconds or microseconds since 1970, or an order")
        time = time.astype(np.int64)
        order = np.lexsort((time, user))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=n_users))]).astype(np.int64)
        return cls(item[order].astype(np.int64), time[order], offsets, n_items)

    def of(self, user: int) -> NDArray[np.int64]:
        """The items of one user, oldest first."""
        return self.items[self.offsets[user]:self.offsets[user + 1]]

    def without_last(self, count: int = 1) -> Histories:
        """Every user's history without its last `count` events; shorter ones become empty."""
        kept = self._rank_from_end() >= count
        lengths = np.maximum(self.lengths - count, 0)
        return Histories(self.items[kept], self.times[kept], np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), self.n_items)

    def last(self, back: int = 1) -> NDArray[np.int64]:
        """Each user's item that is the `back`-th from the end, shape (users,); -1 where the history is shorter."""
        has = self.lengths >= back
        found = np.full(self.n_users, -1, dtype=np.int64)
        found[has] = self.items[self.offsets[1:][has] - back]
        return found

    def windows(self, users: ArrayLike, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The last `length` items and times of some users, padded on the right.

        Args:
            users: Shape (n,), user codes.
            length: Entries per row at most; rows are as wide as the longest of them needs, at least 1.

        Returns:
            Items + 1 (0 is padding) and times (the last one goes on over the padding), both of shape (n, width).
        """
        wanted = np.asarray(users, dtype=np.int64)
        ends = self.offsets[wanted + 1]
        counts = np.minimum(ends - self.offsets[wanted], length)
        width = max(int(counts.max(initial=0)), 1)
        columns = np.arange(width)
        present = columns < counts[:, None]
        if not len(self.items):
            return np.zeros((len(wanted), width), dtype=np.int64), np.zeros((len(wanted), width), dtype=np.int64)
        place = np.clip((ends - counts)[:, None] + np.minimum(columns, np.maximum(counts - 1, 0)[:, None]), 0, len(self.items) - 1)
        times = np.where(counts[:, None] > 0, self.times[place], 0)
        return np.where(present, self.items[place] + 1, 0), times

    def batches(self, rows: int, length: int, *, seed: int, least: int = 2) -> Iterator[NDArray[np.int64]]:
        """Users with at least `least` events, each once, `rows` at a time, those of like length together, in a new order.

        Padding costs what events cost, so users are sorted by length with some noise (a tenth of the length), cut into batches, and the batches shuffled.
        """
        generator = np.random.default_rng(seed)
        eligible = np.flatnonzero(self.lengths >= least)
        shown = np.minimum(self.lengths[eligible], length)
        order = eligible[np.argsort(shown * generator.uniform(0.9, 1.1, len(eligible)), kind="stable")]
        starts = np.arange(0, len(order), rows)
        for start in generator.permutation(starts):
            yield order[start:start + rows]

    def _rank_from_end(self) -> NDArray[np.int64]:
        return np.repeat(self.offsets[1:], self.lengths) - 1 - np.arange(len(self.items))
