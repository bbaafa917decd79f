"""What would be recommended: every user paired with every item, scored, the best k kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical, Column, Ragged, hash_rows
from recspect.errors import DataError, SubjectError, UsageError, listing
from recspect.recommending.ids import distinct, positions
from recspect.recommending.interactions import Interactions
from recspect.recommending.list_categories import category_columns
from recspect.recommending.positives import positive_rows
from recspect.recommending.ranking import BLOCK_BYTES, top_k
from recspect.schema import Schema, Side

Array = NDArray[Any]
Score = Callable[[Batch], Array]
"""A batch with every field of the schema to one score per row; higher is better."""

LIST_SCHEMA = Schema(user="user", item="item", score="score", position="rank")
"""What the columns of lists mean."""

HEAD, TAIL = 0.2, 0.8
"""Shares of training interactions at which popular items (head) end and the long tail begins."""


def make_lists(
    score: Score, users: Batch, items: Batch, schema: Schema, *, k: int = 10, exclude: Batch | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Batch:
    """The best k items of every user.

    Args:
        score: The model. It is called on blocks of pairs.
        users: One row per user: the user column, user-side and context-side fields (see `audience`).
        items: One row per item: the item column and item-side fields (see `catalogue`). Equal scores are ranked in the
            order of these rows.
        schema: Names the user and item columns and the fields.
        k: Length of the lists.
        exclude: Rows with user and item columns, such as the training rows, whose pairs are left out.
        block_bytes: Bound on the size of the columns of one block of pairs; the model's own memory comes on top.

    Returns:
        Columns `user`, `item`, `rank` (1 to k) and `score`, by user in the order of `users`. A user for whom fewer than k
        items are left has a shorter list. `LIST_SCHEMA` says what they mean.

    Raises:
        SchemaError: No user or no item column.
        DataError: A field is in neither table, a user or item occurs twice or is missing.
        SubjectError: The model gives other than one finite score per row.
        UsageError: k is below 1.

    Cost: the model scores users x items rows.
    """
    user_column, item_column = schema.require("user"), schema.require("item")
    if k < 1:
        raise UsageError(f"k is {k}, expected 1 or more")
    user_values, item_values = _one_row_each(users, user_column), _one_row_each(items, item_column)
    from_items = {name for name in schema.field_names if side_of(name, schema) == "item"} | {item_column}
    absent = [name for name in schema.field_names if name not in (items if name in from_items else users)]
    if absent:
        raise DataError(f"lists need every field of the model, {listing(absent)} is in neither table",
                        hint="item-side fields belong to the items' table, all others to the users'; "
                             "correct 'side' in the schema or make the tables with audience() and catalogue()")
    chosen_users = users.select([name for name in users if name not in from_items])
    chosen_items = items.select([name for name in items if name in from_items or name not in users])

    seen = None
    if exclude is not None:
        who, what = positions(exclude, user_column, user_values), positions(exclude, item_column, item_values)
        both = (who >= 0) & (what >= 0)
        seen = Interactions.from_pairs(who[both], what[both], n_users=max(1, users.rows), n_items=max(1, items.rows))
    row_bytes = 16 + sum(_bytes_per_row(batch[name]) for batch in (chosen_users, chosen_items) for name in batch)
    pairs = max(1, int(block_bytes // row_bytes))
    wide = min(max(1, items.rows), pairs)  # items at a time
    deep = max(1, pairs // max(1, items.rows))  # users at a time, more than one only where all items fit
    best = np.full((users.rows, k), -1, dtype=np.int64)
    values = np.full((users.rows, k), np.nan)
    for first in range(0, users.rows if items.rows else 0, deep):
        rows = np.arange(first, min(first + deep, users.rows))
        scores = np.concatenate([
            _score_pairs(score, chosen_users, chosen_items, rows, np.arange(start, min(start + wide, items.rows)))
            for start in range(0, items.rows, wide)
        ], axis=1)
        eligible = None
        if seen is not None:
            entry, item, _ = seen.entries(rows)
            eligible = np.ones(scores.shape, dtype=bool)
            eligible[entry, item] = False
        best[rows], values[rows] = top_k(scores, k, eligible)
    row, rank = np.nonzero(best >= 0)
    return Batch({"user": users[user_column][row], "item": items[item_column][best[row, rank]],
                  "rank": rank + 1, "score": values[row, rank]})


def _score_pairs(score: Score, users: Batch, items: Batch, rows: Array, columns: Array) -> NDArray[np.float64]:
    left = users.take(np.repeat(rows, len(columns)))
    scores = np.asarray(score(left.with_columns(items.take(np.tile(columns, len(rows))))))
    if scores.shape != (len(rows) * len(columns),):
        raise SubjectError(f"expected one score for each of {len(rows) * len(columns):,} rows, found shape {scores.shape}",
                           hint="the score function must return a one-dimensional array")
    wrong = int((~np.isfinite(scores)).sum())
    if wrong:
        raise SubjectError(f"{wrong:,} of {len(scores):,} scores are NaN or infinite, so the items have no order",
                           hint="look for missing inputs and diverged weights")
    return scores.astype(np.float64).reshape(len(rows), len(columns))


def catalogue(batch: Batch, schema: Schema) -> Batch:
    """One row per item of these rows: its id and the last known value of each item-side field, by ascending id.

    Last is by the schema's time column, else by row. A field that is never known for an item stays missing.

    Raises:
        SchemaError: No item column.
        DataError: A column is missing.
    """
    item = schema.require("item")
    names = [name for name in schema.field_names if side_of(name, schema) == "item"]
    codes, values = distinct(batch, item)
    return _last_known(batch, schema, item, names, codes=codes, count=len(values))


def audience(batch: Batch, schema: Schema, *, users: int = 1000, seed: int = 0) -> Batch:
    """One row per user for a sample of the users of these rows, with the last known user-side and context-side fields.

    The sample depends on the ids and the seed alone, not on row order; a larger sample contains the smaller one.

    Raises:
        SchemaError: No user column.
        DataError: A column is missing.
        UsageError: `users` is below 1.
    """
    if users < 1:
        raise UsageError(f"an audience of {users} users, expected 1 or more")
    user = schema.require("user")
    names = [name for name in schema.field_names if side_of(name, schema) != "item"]
    codes, values = distinct(batch, user)
    drawn = hash_rows(Batch({"user": Categorical(np.arange(len(values)), values), "seed": np.full(len(values), seed)}), ["seed", "user"])
    chosen = np.sort(np.argsort(drawn, kind="stable")[:users])
    place = np.full(len(values) + 1, -1, dtype=np.int64)  # the last place stands for missing ids
    place[chosen] = np.arange(len(chosen))
    return _last_known(batch, schema, user, names, codes=place[codes], count=len(chosen))


def list_table(lists: Batch, train: Batch, schema: Schema) -> Batch:
    """Lists with what the popularity diagnostics need, all of it from training rows.

    An interaction is a training row that says the user wanted the item: label 1, or a grade of at least the mean; every
    row where the schema has no label.

    Args:
        lists: From `make_lists`.
        train: Training rows with the schema's user, item and label columns.
        schema: Names them.

    Returns:
        The lists with these columns added:

        - `popularity`: interactions of the item, 0 for an item without any;
        - `popularity_decile`: 1 for the most popular tenth of the items with an interaction, ..., 10 for the least
          popular tenth and for items without any; items of equal popularity share a decile;
        - `popularity_group`: `head` where the items that are more popular have less than 20 % of all interactions
          together, `tail` where they have 80 % or more, `mid` between (Abdollahpouri et al. 2019 cut likewise);
        - `profile_popularity`: mean popularity over the user's own interactions, NaN for users without any;
        - `calibration:f`, `calibration_by_chance:f`, `calibration_impersonal:f` for item-side fields f of few categories: see
          `recspect.recommending.list_categories`.

    Raises:
        SchemaError: No user or no item column.
        DataError: A column is missing.
    """
    user_column, item_column = schema.require("user"), schema.require("item")
    wanted = train.take(positive_rows(train, schema))
    item_codes, item_values = distinct(wanted, item_column)
    user_codes, user_values = distinct(wanted, user_column)
    popularity = np.bincount(item_codes[item_codes >= 0], minlength=len(item_values)).astype(np.float64)
    descending = np.sort(popularity)[::-1]
    more_popular = np.searchsorted(-descending, -popularity, side="left")  # how many items are more popular
    decile = 1 + more_popular * 10 // max(1, len(popularity))
    above = np.concatenate([[0.0], np.cumsum(descending)])[more_popular] / max(1.0, descending.sum())
    group = np.where(above < HEAD, 0, np.where(above < TAIL, 1, 2))

    both = (item_codes >= 0) & (user_codes >= 0)
    rows = np.bincount(user_codes[both], minlength=len(user_values))
    total = np.bincount(user_codes[both], popularity[item_codes[both]], minlength=len(user_values))
    profile = np.divide(total, rows, out=np.full(len(rows), np.nan), where=rows > 0)

    there = schema.without_fields([name for name in schema.field_names if name not in train])
    there = there if schema.time in train else there.with_roles(time=None)
    # The last place stands for items and users that training does not know (position -1).
    item, user = positions(lists, "item", item_values), positions(lists, "user", user_values)
    return lists.with_columns({
        "popularity": np.append(popularity, [0.0])[item],
        "popularity_decile": np.append(decile, [10])[item],
        "popularity_group": Categorical(np.append(group, [2])[item], np.array(["head", "mid", "tail"], dtype=object)),
        "profile_popularity": np.append(profile, [np.nan])[user],
        **category_columns(lists, wanted, catalogue(train, there), there),
    })


def side_of(name: str, schema: Schema) -> Side:
    """Whose the field is; the user and item columns are known by their role, whatever side the field names."""
    if name == schema.item:
        return "item"
    if name == schema.user:
        return "user"
    return schema.field(name).side


def _last_known(batch: Batch, schema: Schema, key: str, names: list[str], *, codes: Array, count: int) -> Batch:
    order = np.arange(batch.rows)
    if schema.time is not None:
        order = np.argsort(np.nan_to_num(batch.numbers(schema.time), nan=-np.inf), kind="stable")
    order = order[codes[order] >= 0]
    last = np.zeros(count, dtype=np.int64)
    last[codes[order]] = order  # of repeated positions, the last assignment stays
    columns: dict[str, Column] = {key: batch[key][last]}
    for name in names:
        if name != key:
            known = order[~_missing(batch[name])[order]]
            rows = last.copy()
            rows[codes[known]] = known
            columns[name] = batch[name][rows]
    return Batch(columns, rows=count)


def _missing(column: Column) -> NDArray[np.bool_]:
    missing: NDArray[np.bool_] = np.zeros(len(column), dtype=bool)
    if isinstance(column, Categorical):
        missing = column.codes < 0
    elif isinstance(column, Ragged):
        missing = column.lengths == 0
    elif column.dtype.kind == "M":
        missing = np.asarray(np.isnat(column))
    elif column.dtype.kind == "f":
        missing = np.logical_or.reduce(np.isnan(column.reshape(len(column), -1)), axis=1)
    return missing


def _one_row_each(batch: Batch, column: str) -> Array:
    """The ids in the order of the rows."""
    codes, values = distinct(batch, column)
    if (codes < 0).any():
        raise DataError(f"{int((codes < 0).sum()):,} rows of the table have no {column!r}")
    if len(values) != batch.rows:
        raise DataError(f"expected one row per {column!r}, found {batch.rows:,} rows for {len(values):,} of them",
                        hint="make the tables with audience() and catalogue()")
    return values[codes]


def _bytes_per_row(column: Column) -> float:
    if isinstance(column, Categorical):
        return column.codes.itemsize
    if isinstance(column, Ragged):
        entries = column.values.codes if isinstance(column.values, Categorical) else column.values
        return 8 + entries.itemsize * len(entries) / max(1, len(column))
    return column.itemsize * (column.shape[1] if column.ndim == 2 else 1)
