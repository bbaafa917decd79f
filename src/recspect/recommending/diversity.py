"""How unlike recommended lists are, within and between users, and how far from what everybody knows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.errors import DataError, UsageError
from recspect.recommending.ids import distinct, positions

Floats = NDArray[np.float64]


def intra_list_diversity(lists: Batch, items: Batch, distance: NDArray[Any], *, item: str = "item") -> Floats:
    """Mean distance over the pairs of items of each list, shape (lists,), in the order of the users' ids; NaN for a list of one item.

    Args:
        lists: Columns `user` and `item`, such as `make_lists` gives.
        items: One row per item, in the order of `distance`.
        distance: Between items, shape (items, items), symmetric; what stands on its diagonal does not matter.
        item: Name of the item column of `items`.

    Raises:
        DataError: A list holds an item that is not among `items`.
        UsageError: A distance of another shape.

    Pairs are counted once and divided by how many there are, so that items all one apart give 1 for lists of every length. Source: Ziegler et al. 2005,
    Improving Recommendation Lists Through Topic Diversification.
    """
    if distance.shape != (items.rows, items.rows):
        raise UsageError(f"distances have shape {distance.shape}, expected {(items.rows, items.rows)}: one row and column per item")
    _, known = distinct(items, item)
    order = positions(items, item, known)
    place = np.empty(len(known), dtype=np.int64)
    place[order] = np.arange(items.rows)
    found = positions(lists, "item", known)
    if (found < 0).any():
        raise DataError(f"{int((found < 0).sum()):,} places of the lists hold items that are not among the {items.rows:,} given")
    users, values = distinct(lists, "user")
    result = np.full(len(values), np.nan)
    by_user = np.argsort(users, kind="stable")
    for user, rows in enumerate(np.split(place[found[by_user]], np.cumsum(np.bincount(users, minlength=len(values)))[:-1])):
        k = len(rows)
        if k > 1:
            pairs = np.asarray(distance, dtype=np.float64)[np.ix_(rows, rows)]
            result[user] = (pairs.sum() - np.trace(pairs)) / (k * (k - 1))
    return result


def personalisation(lists: Batch) -> float:
    """1 - mean cosine similarity between the lists of two users: 0 where all users get the same, 1 where no two share an item; NaN for fewer than two users.

    Args:
        lists: Columns `user` and `item`; a list may have any length.

    All pairs of users, without walking through them: the sum over pairs is a sum over items. O(rows). Lists that share nothing are 1 apart whatever their lengths.
    """
    users, values = distinct(lists, "user")
    items, _ = distinct(lists, "item")
    count = len(values)
    if count < 2:
        return float("nan")
    pairs = np.unique(np.stack([users, items], 1), axis=0)  # an item that stands twice in a list counts once
    length = np.bincount(pairs[:, 0], minlength=count)
    weight = 1 / np.sqrt(length[pairs[:, 0]])
    together = float(np.square(np.bincount(pairs[:, 1], weight)).sum()) - count
    return 1 - together / (count * (count - 1))


def novelty(lists: Batch, popularity: Floats) -> Floats:
    """Bits of surprise of each place: -log2 of the share of users who know its item already, shape (places,).

    Args:
        lists: Any batch of as many rows.
        popularity: Share of users who had the item of each place, in [0, 1], shape (places,); 0 gives infinity.

    Raises:
        UsageError: Shares outside [0, 1], or not one per place.

    Source: Zhou et al. 2010, Solving the apparent diversity-accuracy dilemma of recommender systems (self-information).
    """
    shares = np.asarray(popularity, dtype=np.float64)
    if shares.shape != (lists.rows,) or not ((shares >= 0) & (shares <= 1)).all():
        raise UsageError(f"expected {lists.rows:,} shares in [0, 1], one per place", hint="users who had the item / users")
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log2(shares))
