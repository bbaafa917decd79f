"""Baseline scores beside the model's: one column per baseline on the very rows on which the model is judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.errors import Unavailable, UsageError
from recspect.recommending.ease import EASE, FittedEASE
from recspect.recommending.ids import distinct, positions
from recspect.recommending.item_knn import FittedItemKNN, ItemKNN
from recspect.recommending.positives import positive_rows
from recspect.schema import Schema

Array = NDArray[Any]

PRIOR_ROWS = 20.0
"""How many rows at the overall rate are added to each item, so that one lucky row does not make a favourite."""

COMPARED_ITEMS = 10_000
"""Most items with an interaction for which EASE is fitted beside a model: inverting grows with their cube, and takes about a minute of one core here."""


def baseline_columns(train: Batch, batch: Batch, schema: Schema) -> dict[str, NDArray[np.float64]]:
    """Scores of the baselines for each row of `batch`, fitted on `train`; see `Baselines`.

    Returns:
        `baseline:popular` and, where the schema has a user column and the data allows it, `baseline:item_knn` and
        `baseline:ease`; each of shape (rows,), higher is better.

    Raises:
        Unavailable: The schema has no item column, or there are no training rows.
    """
    return fit_baselines(train, schema).columns(batch)


@dataclass(frozen=True)
class Baselines:
    """Fitted baselines that score rows.

    Popular: the smoothed rate of positive rows of the item, (positive + 20 rate) / (rows + 20). ItemKNN and EASE: fitted
    on the positive rows. A user without a positive training row gets the score of the average user, an item without
    one 0 (which is what the formulas give it); an item unknown to Popular gets the overall rate.

    Args:
        schema: Names the columns.
        items: Shape (items,), ids in training.
        users: Shape (users,), ids in training.
        rates: Shape (items,), Popular's score.
        rate: The overall rate.
        item_knn, ease: Fitted on codes into `users` and `items`; None where they cannot be had.
        absent: Name of each baseline that is missing, and why.
    """

    schema: Schema
    items: Array
    users: Array
    rates: NDArray[np.float64]
    rate: float
    item_knn: FittedItemKNN | None = None
    ease: FittedEASE | None = None
    absent: dict[str, str] = field(default_factory=dict)

    def columns(self, batch: Batch) -> dict[str, NDArray[np.float64]]:
        """Column name to scores of shape (rows,).

        Raises:
            DataError: The user or item column is missing.
        """
        item = positions(batch, self.schema.require("item"), self.items)
        columns = {"baseline:popular": np.append(self.rates, [self.rate])[item]}
        if self.item_knn is None and self.ease is None:
            return columns
        user = positions(batch, self.schema.require("user"), self.users)
        for name, fitted in (("baseline:item_knn", self.item_knn), ("baseline:ease", self.ease)):
            if fitted is None:
                continue
            known = user >= 0
            known[known] = fitted.interactions.lengths[user[known]] > 0
            scores = np.append(self._average_user[name], [0.0])[item]
            scores[item < 0] = 0.0
            pairs = known & (item >= 0)
            scores[known] = 0.0
            scores[pairs] = fitted.score_pairs(user[pairs], item[pairs])
            columns[name] = scores
        return columns

    @cached_property
    def _average_user(self) -> dict[str, NDArray[np.float64]]:
        """Scores of each item for the average user, by the name of the column."""
        fitted = {"baseline:item_knn": self.item_knn, "baseline:ease": self.ease}
        return {name: _average_user(one) for name, one in fitted.items() if one is not None}


def fit_baselines(
    train: Batch, schema: Schema, *, item_knn: ItemKNN | None = None, ease: EASE | None = None,
) -> Baselines:
    """Fit every baseline that these training rows allow.

    Args:
        train: Training rows with item, label and, for ItemKNN and EASE, user columns.
        schema: Names them.
        item_knn: Other settings than ItemKNN's defaults.
        ease: Other settings than EASE's defaults (with float32, up to `COMPARED_ITEMS` items).

    Raises:
        Unavailable: The schema has no item column, or there are no training rows.
        DataError: A column is missing, or the label cannot be read.
    """
    if schema.item is None:
        raise Unavailable("no column has the role 'item', so nothing can be popular", hint="Schema(item='item_id')")
    if train.rows == 0:
        raise Unavailable("there are no training rows to count")
    positive = positive_rows(train, schema)
    item, items = distinct(train, schema.item)
    known = item >= 0
    rate = float(positive.mean())
    rows = np.bincount(item[known], minlength=len(items))
    hits = np.bincount(item[known & positive], minlength=len(items))
    rates = (hits + PRIOR_ROWS * rate) / (rows + PRIOR_ROWS)
    if schema.user is None:
        reason = "no column has the role 'user'"
        return Baselines(schema, items, np.empty(0, dtype=np.int64), rates, rate,
                         absent={"item_knn": reason, "ease": reason})
    user, users = distinct(train, schema.user)
    pairs = known & (user >= 0) & positive
    if not pairs.any():
        reason = "no training row is positive"
        return Baselines(schema, items, users, rates, rate, absent={"item_knn": reason, "ease": reason})
    fitted: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for name, baseline in (("item_knn", item_knn or ItemKNN()), ("ease", ease or EASE(precision="float32", max_items=COMPARED_ITEMS))):
        try:
            fitted[name] = baseline.fit(user[pairs], item[pairs], n_users=len(users), n_items=len(items))
        except UsageError as error:  # too many items
            absent[name] = error.message
    return Baselines(schema, items, users, rates, rate, absent=absent, **fitted)


def _average_user(fitted: FittedItemKNN | FittedEASE) -> NDArray[np.float64]:
    """Mean score of each item over the users who have a positive, shape (items,). Both models are linear in the user."""
    interactions = fitted.interactions
    profile = interactions.item_weights / max(1, int((interactions.lengths > 0).sum()))
    if isinstance(fitted, FittedEASE):
        scores = np.zeros(interactions.n_items)
        scores[fitted.known] = profile[fitted.known] @ fitted.effects
        return scores
    entry, targets, similarity = fitted.reached.entries(np.arange(interactions.n_items))
    return np.bincount(targets, profile[entry] * similarity, minlength=interactions.n_items).astype(np.float64)
