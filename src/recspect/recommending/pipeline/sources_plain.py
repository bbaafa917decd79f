"""Sources that need no model: popular, fresh, by the same author, and alike to what the user had."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.errors import SchemaError, UsageError
from recspect.recommending.interactions import Interactions
from recspect.recommending.item_knn import FittedItemKNN, ItemKNN
from recspect.recommending.pipeline.audience import Audience, Requests
from recspect.recommending.pipeline.candidates import Floats, Ints, padded
from recspect.recommending.pipeline.catalogue import NEVER, Catalogue
from recspect.recommending.pipeline.parts import read_arrays, write_arrays
from recspect.recommending.ranking import BLOCK_BYTES

ORDERED = 20_000
"""Items kept of an order that is the same for everybody."""


@dataclass(frozen=True, eq=False)
class Ordered:
    """The same order for everybody.

    Args:
        name: `popular` or `fresh`.
        items: Item codes, best first.
        scores: One per item.
    """

    name: str
    items: Ints
    scores: Floats

    def candidates(self, requests: Requests, n: int) -> tuple[Ints, Floats]:
        shape = (requests.rows, min(n, len(self.items)))
        return np.broadcast_to(self.items[:n], shape), np.broadcast_to(self.scores[:n], shape)

    def save(self, folder: Path) -> dict[str, Any]:
        write_arrays(folder / "order.safetensors", {"items": self.items, "scores": self.scores})
        return {"kind": "ordered"}

    @classmethod
    def load(cls, name: str, folder: Path, note: dict[str, Any]) -> Ordered:  # noqa: ARG003 - same call for every source
        arrays = read_arrays(folder / "order.safetensors", "items", "scores")
        return cls(name, arrays["items"].astype(np.int64), arrays["scores"])


@dataclass(frozen=True, kw_only=True)
class PopularSource:
    """Most positives first."""

    def fit(self, items: Catalogue, audience: Audience) -> Ordered:  # noqa: ARG002 - same call for every source
        order = items.by_popularity[:ORDERED]
        return Ordered("popular", order, items.positives[order].astype(np.float64))


@dataclass(frozen=True, kw_only=True)
class FreshSource:
    """Newest first, by the first row of each item (or a column of times of the table of items); ties by positives.

    Args:
        column: A column of items that says since when there is each.
    """

    column: str | None = None

    def fit(self, items: Catalogue, audience: Audience) -> Ordered:  # noqa: ARG002 - same call for every source
        if self.column is not None:
            items.require_column(self.column)
            since = items.rows.numbers(self.column)
            first = np.where(np.isfinite(since), np.nan_to_num(since), float(NEVER))
        elif items.schema.time is None:
            raise SchemaError("the source fresh needs to know since when there is each item, and the schema has no time column",
                              hint='add time = "..." under [roles], or fresh(column="...") with a column of items')
        else:
            first = items.first_seen.astype(np.float64)
        known = np.flatnonzero(first > float(NEVER))
        order = known[np.lexsort((known, -items.positives[known], -first[known]))][:ORDERED]
        return Ordered("fresh", order, first[order])


@dataclass(frozen=True, kw_only=True)
class SameAuthorSource:
    """More by the authors of the user's last items, the most frequent author first, then the most wanted item.

    Args:
        recent: Items of the user that count, the last ones.
        per_author: Items of each author, the most wanted ones.
    """

    recent: int = 50
    per_author: int = 50

    def __post_init__(self) -> None:
        _at_least_one("same_author", recent=self.recent, per_author=self.per_author)

    def fit(self, items: Catalogue, audience: Audience) -> SameAuthor:  # noqa: ARG002 - same call for every source
        if items.author is None:
            raise UsageError("the source same_author needs to know who made each item, and no column of items is called like an author",
                             hint="name it: --author COLUMN")
        author = items.authors
        order = items.by_popularity[author[items.by_popularity] >= 0]
        order = order[np.argsort(author[order], kind="stable")]
        starts = np.searchsorted(author[order], np.arange(author.max(initial=-1) + 2))
        place = np.arange(len(order)) - np.repeat(starts[:-1], np.diff(starts))
        order = order[place < self.per_author]
        offsets = np.searchsorted(author[order], np.arange(author.max(initial=-1) + 2))
        rank = np.empty(len(items))
        rank[items.by_popularity] = np.arange(len(items))
        return SameAuthor(author, order, offsets, 1 - rank / max(1, len(items)), self.recent)


@dataclass(frozen=True, eq=False)
class SameAuthor:
    """Items by author.

    Args:
        author: Code of the author per item; -1 where unknown.
        items: Item codes by author, the most wanted first.
        offsets: Where each author's begin.
        standing: In (0, 1], by popularity among all items.
        recent: Items of the user that count.
    """

    author: Ints
    items: Ints
    offsets: Ints
    standing: Floats
    recent: int
    name: str = "same_author"

    def candidates(self, requests: Requests, n: int) -> tuple[Ints, Floats]:
        rows, had = recent_items(requests, self.recent)
        author = self.author[had]
        rows, author = rows[author >= 0], author[author >= 0]
        width = max(1, len(self.offsets) - 1)
        pairs, count = np.unique(rows * width + author, return_counts=True)
        rows, author = pairs // width, pairs % width
        lengths = self.offsets[author + 1] - self.offsets[author] if len(author) else np.zeros(0, dtype=np.int64)
        ends = np.cumsum(lengths)
        index = np.repeat(self.offsets[author] - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0) if len(author) else lengths
        items = self.items[index]
        return padded(np.repeat(rows, lengths), items, np.repeat(count, lengths) + self.standing[items] - 1, requests.rows, n)

    def save(self, folder: Path) -> dict[str, Any]:
        write_arrays(folder / "authors.safetensors", {"author": self.author, "items": self.items, "offsets": self.offsets, "standing": self.standing})
        return {"kind": "same_author", "recent": self.recent}

    @classmethod
    def load(cls, name: str, folder: Path, note: dict[str, Any]) -> SameAuthor:
        arrays = read_arrays(folder / "authors.safetensors", "author", "items", "offsets", "standing")
        return cls(arrays["author"], arrays["items"], arrays["offsets"], arrays["standing"], int(note["recent"]), name)


@dataclass(frozen=True, kw_only=True)
class ItemKNNSource:
    """Items alike to the user's last ones, by who had both: the baseline's score over these items.

    Args:
        neighbours: Of each item.
        shrinkage: See `ItemKNN`.
        recent: Items of the user that count, the last ones.
    """

    neighbours: int = 100
    shrinkage: float = 0.0
    recent: int = 50

    def __post_init__(self) -> None:
        _at_least_one("item_knn", recent=self.recent)

    def fit(self, items: Catalogue, audience: Audience) -> Neighbours:
        had = audience.wanted
        fitted: FittedItemKNN = ItemKNN(neighbours=self.neighbours, shrinkage=self.shrinkage).fit(
            had.users, had.items, n_users=max(1, len(audience)), n_items=max(1, len(items)))
        return Neighbours(fitted.reached, self.recent)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """What each item speaks for.

    Args:
        reached: By item j, the items that count j among their neighbours, with the similarity as weight.
        recent: Items of the user that count.
    """

    reached: Interactions
    recent: int
    name: str = "item_knn"

    def candidates(self, requests: Requests, n: int) -> tuple[Ints, Floats]:
        n_items = self.reached.n_items
        step = max(1, BLOCK_BYTES // (8 * 4 * 100 * self.recent))
        found, values = np.full((requests.rows, n), -1, dtype=np.int64), np.full((requests.rows, n), np.nan)
        for first in range(0, requests.rows, step):
            block = requests if requests.rows <= step else requests.take(np.arange(first, min(first + step, requests.rows)))
            rows, had = recent_items(block, self.recent)
            once = np.unique(rows * n_items + had)  # an item that was had twice counts once, as in the baseline
            entry, target, similarity = self.reached.entries(once % n_items)
            key, place = np.unique((once // n_items)[entry] * n_items + target, return_inverse=True)
            score = np.bincount(place, similarity, minlength=len(key))
            items, scores = padded(key // n_items, key % n_items, score, block.rows, n)
            found[first:first + block.rows, : items.shape[1]], values[first:first + block.rows, : items.shape[1]] = items, scores
        return found, values

    def save(self, folder: Path) -> dict[str, Any]:
        write_arrays(folder / "neighbours.safetensors", {"items": self.reached.items, "weights": self.reached.weights, "offsets": self.reached.offsets})
        return {"kind": "item_knn", "recent": self.recent, "n_items": self.reached.n_items}

    @classmethod
    def load(cls, name: str, folder: Path, note: dict[str, Any]) -> Neighbours:
        arrays = read_arrays(folder / "neighbours.safetensors", "items", "weights", "offsets")
        return cls(Interactions(arrays["items"], arrays["weights"], arrays["offsets"], int(note["n_items"])), int(note["recent"]), name)


def recent_items(requests: Requests, most: int) -> tuple[Ints, Ints]:
    """The last items of each request's history: rows, and item codes, oldest first."""
    histories = requests.histories
    lengths = np.minimum(histories.lengths, most)
    ends = np.cumsum(lengths)
    index = np.repeat(histories.offsets[1:] - ends, lengths) + np.arange(ends[-1] if len(ends) else 0)
    items: NDArray[np.int64] = histories.items[index]
    return np.repeat(np.arange(requests.rows), lengths), items


def _at_least_one(source: str, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"{source}: {name} is {value}, expected 1 or more")
