"""Steps that take out or put in place by rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.errors import UsageError
from recspect.recommending.pipeline.slate import Situation, Slate


@dataclass(frozen=True, kw_only=True)
class AlreadySeen:
    """Takes out what the user had.

    Args:
        what: `wanted` (items with a positive label) or `met` (any row of the user with the item, shown or had).
        last: Only the last so many; 0 for all.
    """

    what: str = "wanted"
    last: int = 0

    def __post_init__(self) -> None:
        if self.what not in ("wanted", "met"):
            raise UsageError(f"already_seen: what is {self.what!r}", hint="choices: 'wanted', 'met'")
        if self.last < 0:
            raise UsageError(f"already_seen: last is {self.last}, expected 0 or more")

    def apply(self, slate: Slate, situation: Situation) -> Slate:
        seen = self.seen(situation)
        return slate.without(np.isin(slate.items, seen), "already_seen", "the user had it") if len(seen) else slate

    def seen(self, situation: Situation) -> NDArray[np.int64]:
        """Items that are taken out, with what the user had since this was built."""
        found = situation.history if self.what == "wanted" else np.concatenate([situation.met, situation.history])
        return found[-self.last:] if self.last else found


@dataclass(frozen=True, kw_only=True)
class Deduplicate:
    """Keeps the best of several items that are the same to a person.

    Args:
        by: Column of items, such as the title; case and spaces do not count. Items without a value are all kept.
    """

    by: str

    def apply(self, slate: Slate, situation: Situation) -> Slate:
        value = situation.items.values_of(self.by)[slate.items]
        gone = np.ones(len(slate), dtype=bool)
        gone[np.unique(value, return_index=True)[1]] = False
        gone[value < 0] = False
        return slate.without(gone, "deduplicate", f"the same {self.by} stands higher")


@dataclass(frozen=True, kw_only=True)
class Exclude:
    """Takes out items by id, or by the value of a column.

    Args:
        items: Ids.
        column: A column of items.
        values: Of this column; any of an item's several categories counts.
    """

    items: tuple[str | int, ...] = ()
    column: str | None = None
    values: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        object.__setattr__(self, "values", tuple(self.values))
        if bool(self.values) != (self.column is not None):
            raise UsageError("exclude: 'column' and 'values' belong together", hint='exclude(column="genre", values=["Horror"])')

    def apply(self, slate: Slate, situation: Situation) -> Slate:
        codes = situation.items.ids.codes(self.items)
        slate = slate.without(np.isin(slate.items, codes[codes >= 0]), "exclude", "excluded by id")
        if self.column is None:
            return slate
        entries, names = situation.items.groups(self.column)
        wanted = [place for place, name in enumerate(names) if name in {str(value) for value in self.values}]
        rows, found, _ = entries.entries(slate.items)
        gone = np.zeros(len(slate), dtype=bool)
        gone[rows[np.isin(found, wanted)]] = True
        return slate.without(gone, "exclude", f"excluded by {self.column}")


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Puts items at fixed places, whatever their score, also where they were no candidates.

    Args:
        items: Ids in the order of places; those that are not in the catalogue are passed over.
        place: Of the first, from 1.
    """

    items: tuple[str | int, ...]
    place: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        if self.place < 1:
            raise UsageError(f"pin: place is {self.place}, expected 1 or more")

    def apply(self, slate: Slate, situation: Situation) -> Slate:
        codes = situation.items.ids.codes(self.items)
        codes = np.array(list(dict.fromkeys(codes[codes >= 0].tolist())), dtype=np.int64)
        missing = codes[~np.isin(codes, slate.items)]
        nothing = np.full(len(missing), np.nan)
        joined = Slate(np.concatenate([slate.items, missing]), np.concatenate([slate.scores, nothing]), np.concatenate([slate.relevance, nothing]),
                       None, slate.dropped)
        pinned = np.array([int(np.flatnonzero(joined.items == code)[0]) for code in codes], dtype=np.int64)
        rest = np.setdiff1d(np.arange(len(joined)), pinned)
        ahead = min(self.place - 1, len(rest))
        order = np.concatenate([rest[:ahead], pinned, rest[ahead:]])
        return joined.take(order)


@dataclass(frozen=True, kw_only=True)
class AtMost:
    """At most n items of each value of a column among the first k places; what is beyond moves behind them.

    Args:
        column: Of items, such as the author or the category; an item of several categories counts for each.
        n: How many.
        strict: Take out what is beyond instead of moving it behind.
    """

    column: str
    n: int = 2
    strict: bool = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"at_most: n is {self.n}, expected 1 or more")

    def apply(self, slate: Slate, situation: Situation) -> Slate:
        entries, names = situation.items.groups(self.column)
        used = np.zeros(len(names), dtype=np.int64)
        beyond = np.zeros(len(slate), dtype=bool)
        taken = 0
        for place, item in enumerate(slate.items.tolist()):
            mine = entries.items[entries.offsets[item]:entries.offsets[item + 1]]
            if (used[mine] >= self.n).any():
                beyond[place] = True
                continue
            used[mine] += 1
            taken += 1
            if taken == situation.k and not self.strict:
                break
        if self.strict:
            return slate.without(beyond, "at_most", f"more than {self.n} of one {self.column}")
        return slate.take(np.concatenate([np.flatnonzero(~beyond), np.flatnonzero(beyond)]))


@dataclass(frozen=True, kw_only=True)
class MinimumScore:
    """Takes out what the ranking gives less than this.

    Args:
        least: In the unit of the ranking's score.
    """

    least: float

    def apply(self, slate: Slate, situation: Situation) -> Slate:  # noqa: ARG002 - same call for every step
        return slate.without(slate.relevance < self.least, "minimum_score", f"a score below {self.least:g}")


__all__ = ["AlreadySeen", "AtMost", "Deduplicate", "Exclude", "MinimumScore", "Pin"]
