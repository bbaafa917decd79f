"""Faults of lists and of logs of lists: each function returns new rows with one thing wrong, the same for the same seed."""

from __future__ import annotations

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.errors import UsageError


def plant_position_bias(batch: Batch, label: str, *, column: str = "position", places: int = 10, steepness: float = 1.0, by: str | None = None, seed: int = 0) -> Batch:
    """A place for each row, and a share 1 - place^-steepness of the positives not seen, so that their label is 0.

    Args:
        batch: Rows with the label.
        label: Its column, 0/1.
        column: Name of the new column, 1 to places.
        places: Length of lists.
        steepness: 0 leaves labels as they are: the healthy twin.
        by: Column by which an imperfect ranker puts rows in order, highest first; None puts them at random.
        seed: Of everything drawn.
    """
    if places < 2 or steepness < 0:
        raise UsageError(f"{places} places and steepness {steepness}, expected at least 2 places and a steepness of at least 0")
    rng = np.random.default_rng(seed)
    order = rng.random(batch.rows)
    if by is not None:
        known = np.argsort(np.argsort(-batch.numbers(by))) / max(batch.rows, 1)
        order = known + rng.normal(0, 0.3, batch.rows)
    place = 1 + np.argsort(np.argsort(order)) * places // max(batch.rows, 1)
    seen = rng.random(batch.rows) < place**-steepness
    return batch.with_columns({column: place, label: np.where(seen, batch.numbers(label), 0).astype(np.int64)})


def plant_narrow_lists(lists: Batch, items: Batch, category: str, *, share: float = 1.0, seed: int = 0) -> Batch:
    """In a share of the users' lists, every place taken by an item of the category that the list has most of: tastes are narrowed to one.

    Args:
        lists: Columns `user` and `item`.
        items: One row per item: `item` and the category.
        category: Its column.
        share: Of the lists.
        seed: Of everything drawn.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"share is {share}, expected 0 to 1")
    rng = np.random.default_rng(seed)
    of_item, user, listed = dict(zip(items["item"], items.categories(category).codes, strict=True)), np.asarray(lists["user"]), np.array(lists["item"])
    group = np.array([of_item[i] for i in listed])
    for one in np.unique(user):
        if rng.random() < share:
            mine = user == one
            most = np.bincount(group[mine]).argmax()
            pool = np.flatnonzero(items.categories(category).codes == most)
            listed[mine] = np.asarray(items["item"])[rng.choice(pool, mine.sum(), replace=len(pool) < mine.sum())]
    return lists.with_columns({"item": listed})


def feedback_lists(*, users: int = 200, items: int = 150, generations: int = 8, length: int = 10, loop: float = 1.0, exploration: float = 0.0, seed: int = 0) -> Batch:
    """Lists of several generations of a recommender that learns popularity from the clicks on its own lists.

    A place goes to the items of greatest taste + loop x log clicks so far (less their mean) + noise.

    Args:
        users, items, generations, length: How many there are, and places of a list.
        loop: Weight of popularity; 0 is the healthy twin, which learns nothing from its lists.
        exploration: Share of places given to random items; clicks are then learned from these alone, by their rate.
        seed: Of everything drawn.

    Returns:
        Columns user, item, rank and generation.
    """
    if not 0 <= exploration <= 1 or length > items:
        raise UsageError(f"exploration {exploration} and lists of {length} of {items} items", hint="exploration is a share, and lists are no longer than the catalogue")
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(users, items))
    clicks, shown = np.ones(items), np.full(items, 10.0)
    out = []
    for generation in range(generations):
        known = np.log(clicks / shown if exploration else clicks)
        score = taste + loop * (known - known.mean()) + rng.gumbel(size=(users, items))
        best = np.argsort(-score, axis=1)[:, :length]
        random = rng.random((users, length)) < exploration
        best = np.where(random, rng.integers(0, items, (users, length)), best)
        clicked = rng.random((users, length)) < 1 / (1 + np.exp(1.5 - np.take_along_axis(taste, best, axis=1)))
        learned = random if exploration else np.ones_like(random)
        clicks += np.bincount(best[clicked & learned], minlength=items)
        shown += np.bincount(best[learned], minlength=items)
        out.append(np.stack([np.repeat(np.arange(users), length), best.ravel(), np.tile(np.arange(1, length + 1), users), np.full(users * length, generation)]))
    user, item, rank, number = np.concatenate(out, axis=1)
    return Batch({"user": user, "item": item, "rank": rank, "generation": number})
