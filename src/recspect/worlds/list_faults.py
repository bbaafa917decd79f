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
