"""Nearest training evidence: what the user, and users who wanted the same items, did with an item."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recspect.explaining.explanation import Evidence
from recspect.explaining.pairs import shown_values

if TYPE_CHECKING:
    from recspect.recommending.histories import Histories
    from recspect.recommending.pipeline.recommender import Recommender

NEAREST, SHARED = 5, 3
"""How many similar users, and how many shared items, are told."""


class TrainingEvidence:
    """Who wanted what in training, ready to be asked about pairs.

    Args:
        recommender: Its audience holds what users wanted and met.
    """

    def __init__(self, recommender: Recommender) -> None:
        self.items, self.audience = recommender.items, recommender.audience
        pairs = np.unique(np.stack([self.audience.wanted.users, self.audience.wanted.items]), axis=1)
        self._users, self._items = pairs
        order = np.argsort(self._items, kind="stable")
        self._by_item = self._users[order]
        self._starts = np.searchsorted(self._items[order], np.arange(len(self.items) + 1))
        self._wanted = np.bincount(self._users, minlength=max(1, len(self.audience)))

    def of(self, user: int, item: int) -> Evidence:
        """What is nearest to a pair; codes, -1 for a user that is not known."""
        own = _distinct(self.audience.wanted, user)
        others = self._by_item[self._starts[item]:self._starts[item + 1]]
        others = others[others != user]
        own = own[own != item]
        shared = np.zeros(len(self._wanted), dtype=np.int64)
        among = np.zeros(len(self._wanted), dtype=bool)
        among[others] = True
        counts = np.zeros(len(own), dtype=np.int64)
        for place, mine in enumerate(own.tolist()):
            theirs = self._by_item[self._starts[mine]:self._starts[mine + 1]]
            theirs = theirs[among[theirs]]
            shared[theirs] += 1
            counts[place] = len(theirs)
        alike = others[shared[others] > 0]
        likeness = shared[alike] / np.sqrt(self._wanted[alike] * max(1, len(own)))
        nearest = alike[np.lexsort((alike, -likeness))][:NEAREST]
        best = np.lexsort((own, -counts))[:SHARED]
        return Evidence(met=_count(self.audience.met, user, item), wanted=_count(self.audience.wanted, user, item), wanted_by=len(others), alike=len(alike),
                        shared=tuple((name, int(counts[place])) for name, place in zip(shown_values(self.items.ids.values, own[best]), best.tolist(), strict=True) if counts[place]),
                        nearest=tuple(int(shared[one]) for one in nearest))


def _distinct(histories: Histories, user: int) -> NDArray[np.int64]:
    return np.unique(histories.of(user)) if user >= 0 else np.zeros(0, dtype=np.int64)


def _count(histories: Histories, user: int, item: int) -> int:
    return int((histories.of(user) == item).sum()) if user >= 0 else 0
