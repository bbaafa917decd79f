"""What is known of items: ids, fields, categories, author, when they first appeared, how they fared."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Ragged, concatenate
from recspect.diagnosis.stat import category_name
from recspect.errors import DataError, SchemaError, UsageError, listing
from recspect.recommending.ids import distinct
from recspect.recommending.interactions import Interactions
from recspect.recommending.lists import catalogue, side_of
from recspect.recommending.pipeline.id_table import IdTable
from recspect.recommending.positives import positive_rows
from recspect.schema import Kind, Schema

AUTHOR_NAMES = ("author", "artist", "creator", "author_id", "artist_id", "creator_id", "brand", "director", "publisher", "seller", "channel")
"""Columns that are taken for the author where none is named."""

CATEGORY_NAMES = ("genres", "genre", "category", "categories", "tag", "tags", "topic", "item_category")
"""Columns that are taken for the categories where none is named."""

NEVER = np.iinfo(np.int64).min
"""First appearance of an item of which no time is known: older than everything."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items by code: `ids.values[code]`, row `code` of `rows`.

    Args:
        schema: Names the item column and the fields.
        ids: Of the items, ascending.
        rows: One row per item: its id, its item-side fields, and other columns that describe it.
        exposures: Training rows of each item, shape (items,).
        positives: Training rows that say that it was wanted, shape (items,).
        first_seen: Time of the first training row, shape (items,), in the unit of the time column; `NEVER` where unknown.
        author: Column of `rows` that says who made the item, or None.
        category: Column of `rows` with its categories, or None.
        kept: What was derived from columns, by name.
    """

    schema: Schema
    ids: IdTable
    rows: Batch
    exposures: NDArray[np.int64]
    positives: NDArray[np.int64]
    first_seen: NDArray[np.int64]
    author: str | None = None
    category: str | None = None
    kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_rows(cls, rows: Batch, schema: Schema, *, items: Batch | None = None, author: str | None = None,
                  category: str | None = None) -> Catalogue:
        """From training rows, and where there is one a table of items, of which there may be more than were ever shown.

        Args:
            rows: Training rows; the last known value of each item-side field counts.
            schema: Names the item column, the label and the time.
            items: One row per item; what it says of an item goes before what the training rows say.
            author, category: Columns; by default the first whose name is in `AUTHOR_NAMES`, `CATEGORY_NAMES`.

        Raises:
            SchemaError: No item column.
            DataError: An item occurs twice in `items`, or `items` lacks fields.
            UsageError: No such column.
        """
        item = _required_item(schema)
        found = catalogue(rows, schema)
        if items is not None:
            found = _with_table(found, items, schema, item)
        codes, values = distinct(found, item)
        found = found.take(np.argsort(codes, kind="stable"))
        ids = IdTable(values)
        code = ids.codes_of(rows, item)
        there = code >= 0
        wanted = positive_rows(rows, schema) & there
        first = np.full(len(ids), NEVER, dtype=np.int64)
        if schema.time is not None:
            time = whole_times(rows, schema.time)
            known = there & (time != NEVER)
            first[:] = np.iinfo(np.int64).max
            np.minimum.at(first, code[known], time[known])
            first[first == np.iinfo(np.int64).max] = NEVER
        return cls(schema, ids, found, np.bincount(code[there], minlength=len(ids)), np.bincount(code[wanted], minlength=len(ids)), first,
                   _chosen(found, author, AUTHOR_NAMES, "author"), _chosen(found, category, CATEGORY_NAMES, "category"))

    @cached_property
    def by_popularity(self) -> NDArray[np.int64]:
        """Item codes, most wanted first; ties by exposures, then by code."""
        return np.lexsort((np.arange(len(self)), -self.exposures, -self.positives))

    @cached_property
    def popularity(self) -> NDArray[np.float64]:
        """Share of all positives that each item has, shape (items,)."""
        return np.asarray(self.positives / max(1, int(self.positives.sum())), dtype=np.float64)

    @cached_property
    def authors(self) -> NDArray[np.int64]:
        """A code of the author per item, shape (items,); -1 where unknown or where there is no such column."""
        if self.author is None:
            return np.full(len(self), -1, dtype=np.int64)
        return self.values_of(self.author)

    def values_of(self, name: str) -> NDArray[np.int64]:
        """A code per item for the value of a column, shape (items,); -1 where missing. Texts that differ in case or in spaces only are one value.

        Raises:
            UsageError: No such column.
        """
        if f"value {name}" not in self.kept:
            self.require_column(name)
            column = self.rows.categories(name)
            names = [" ".join(category_name(value).split()).casefold() for value in column.values]
            place = {value: code for code, value in enumerate(dict.fromkeys(names))}
            self.kept[f"value {name}"] = np.append(np.array([place[value] for value in names], dtype=np.int64), [-1])[column.codes]
        found: NDArray[np.int64] = self.kept[f"value {name}"]
        return found

    def groups(self, name: str | None) -> tuple[Interactions, tuple[str, ...]]:
        """Items by category of a column, each with weight 1 / how many it has, and the names of the categories.

        Raises:
            UsageError: No such column.
        """
        if f"groups {name}" not in self.kept:
            self.kept[f"groups {name}"] = _groups(self, name)
        found: tuple[Interactions, tuple[str, ...]] = self.kept[f"groups {name}"]
        return found

    @cached_property
    def category_shares(self) -> NDArray[np.float32]:
        """Share of each of the item's categories, shape (items, categories); rows of 0 where none is known."""
        entries, names = self.groups(self.category)
        shares = np.zeros((len(self), len(names)), dtype=np.float32)
        shares[np.repeat(np.arange(len(self)), entries.lengths), entries.items] = entries.weights
        return shares

    def require_column(self, name: str) -> None:
        """Make sure that items have a column.

        Raises:
            UsageError: They have not.
        """
        if name not in self.rows:
            raise UsageError(f"items have no column {name!r}; columns: {listing(self.rows)}", hint="name one of these, or give a table of items that has it")


def _groups(items: Catalogue, name: str | None) -> tuple[Interactions, tuple[str, ...]]:
    if name is None:
        return Interactions(np.empty(0, dtype=np.int64), np.empty(0), np.zeros(len(items) + 1, dtype=np.int64), 1), ("",)
    items.require_column(name)
    column = items.rows[name]
    if isinstance(column, Ragged):
        entries = Batch({"value": column.values}).categories("value")
        owner = np.repeat(np.arange(len(items)), column.lengths)
        spread = [[category_name(value)] for value in entries.values]
        codes = entries.codes
    else:
        single = items.rows.categories(name)
        owner, codes = np.arange(len(items)), single.codes
        spread = [_parts(items.schema, name, category_name(value)) for value in single.values]
    names = tuple(sorted({part for parts in spread for part in parts})) or ("",)
    place = {value: code for code, value in enumerate(names)}
    known = codes >= 0
    lengths = np.array([len(spread[code]) for code in codes[known]], dtype=np.int64)
    flat = np.array([place[part] for code in codes[known] for part in spread[code]], dtype=np.int64)
    pairs = Interactions.from_pairs(np.repeat(owner[known], lengths), flat, n_users=max(1, len(items)), n_items=len(names))
    weights = np.repeat(1 / np.maximum(pairs.lengths, 1), pairs.lengths)
    return Interactions(pairs.items, weights, pairs.offsets, pairs.n_items), names


def _parts(schema: Schema, name: str, text: str) -> list[str]:
    separator = schema.field(name).separator if name in schema.field_names and schema.field(name).kind is Kind.MULTI_VALUED else None
    return [part for part in (text.split(separator) if separator else [text]) if part]


def _required_item(schema: Schema) -> str:
    if schema.item is None:
        raise SchemaError("the schema names no item column, so there is nothing to recommend", hint='add item = "..." under [roles]')
    return schema.item


def _with_table(found: Batch, items: Batch, schema: Schema, item: str) -> Batch:
    """Rows of the table of items, and behind them items that only training knows."""
    if item not in items:
        raise DataError(f"the table of items has no column {item!r}; columns: {listing(items)}", hint="it needs the item column of the schema")
    codes, values = distinct(items, item)
    if (codes < 0).any() or len(values) != items.rows:
        raise DataError(f"the table of items has {items.rows:,} rows for {len(values):,} items, expected one row each", hint="keep the last row of each item")
    own = [name for name in schema.field_names if side_of(name, schema) == "item"]
    lacking = [name for name in own if name not in items]
    if lacking:
        raise DataError(f"the table of items lacks {listing(lacking)}, which the model reads", hint="add these columns, or leave the table of items out")
    missing = IdTable(values).codes_of(found, item) < 0
    if not missing.any():
        return items
    shared = [name for name in items if name in found]
    return concatenate([items.select(shared), found.take(missing).select(shared)]) if shared == list(items) else _padded(items, found.take(missing))


def _padded(items: Batch, more: Batch) -> Batch:
    """Both, with columns that only the first has missing in the rows of the second."""
    absent = {name: items[name][np.zeros(0, dtype=np.int64)] for name in items if name not in more}
    wide = more.with_columns({name: _nothing(items, name, more.rows) for name in absent})
    return concatenate([items, wide.select(list(items))])


def _nothing(items: Batch, name: str, rows: int) -> Any:
    column = items[name]
    if isinstance(column, Ragged):
        return Ragged(column.values[:0], np.zeros(rows + 1, dtype=np.int64))
    if isinstance(column, np.ndarray) and column.ndim == 2:
        return np.full((rows, column.shape[1]), np.nan)
    if isinstance(column, np.ndarray) and column.dtype.kind == "M":
        return np.full(rows, np.datetime64("NaT"), dtype=column.dtype)
    return np.full(rows, np.nan)


def _chosen(rows: Batch, given: str | None, names: tuple[str, ...], what: str) -> str | None:
    if given is not None and given not in rows:
        raise UsageError(f"no column {given!r} for the {what} of items; columns: {listing(rows)}",
                         hint='it must be a field with side = "item", or stand in a table of items')
    return given or next((name for name in rows if name.lower() in names), None)


def whole_times(rows: Batch, name: str) -> NDArray[np.int64]:
    """Times as whole numbers in their own unit; `NEVER` where missing."""
    time = rows.numbers(name)
    return np.where(np.isfinite(time), np.floor(np.nan_to_num(time)), float(NEVER)).astype(np.int64)
