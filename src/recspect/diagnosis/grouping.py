"""A summary per category, of a bounded number of categories, and the rule that says which are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.column import Array, Categorical
from recspect.diagnosis.hashing import hash_values
from recspect.diagnosis.summary import Summary, is_zero


@dataclass(frozen=True)
class GroupedSummary(Summary):
    """A summary per category, of a bounded number of categories.

    When there are more than `capacity` categories, those with the smallest hashes are kept, each complete, and the
    others are added up in `other`: a rule that depends on the set of categories only, so it adds exactly and in any order.
    (Keeping the heaviest ones instead would not be associative.) The kept ones are then a random sample of categories.

    Args:
        parts: Category (as text; missing is "") to summary.
        other: Everything else.
        capacity: How many categories are kept.
    """

    parts: Mapping[str, Any]
    other: Any
    capacity: int

    def __add__(self, other: GroupedSummary) -> GroupedSummary:
        parts = dict(self.parts)
        for key, part in other.parts.items():
            parts[key] = parts[key] + part if key in parts else part
        return bounded_groups(parts, self.other + other.other, self.capacity)

    @property
    def count(self) -> float:
        """Categories kept."""
        return float(len(self.parts))

    @property
    def truncated(self) -> bool:
        """Whether there were more categories than fit."""
        return not is_zero(self.other)


def bounded_groups(parts: dict[str, Any], rest: Any, capacity: int) -> GroupedSummary:
    """Keep the categories of smallest hash; add the others up."""
    if len(parts) > capacity:
        names = np.array(list(parts), dtype=object)
        order = np.argsort(hash_values(names), kind="stable")
        for name in names[order[capacity:]]:
            rest = rest + parts.pop(name)
    return GroupedSummary(parts, rest, capacity)


def kept_codes(values: Array, capacity: int, codes: Array) -> NDArray[np.bool_]:
    """Which codes can be among the kept ones, with a last entry for missing (code -1)."""
    keep = np.ones(len(values) + 1, dtype=bool)
    present = np.unique(codes)
    if len(present) > capacity:
        names = np.array(["" if code < 0 else category_name(values[code]) for code in present], dtype=object)
        order = np.argsort(hash_values(names), kind="stable")
        keep[present[order[capacity:]]] = False
    return keep


@dataclass(frozen=True)
class Names:
    """The categories of a column as text.

    Args:
        texts: Each text once, ascending, missing as "", shape (texts,). Some may be unused.
        place: Where the text of each code is, shape (distinct values + 1,); of a missing value (code -1) at the end.
    """

    texts: Array
    place: NDArray[np.int64]

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """Of the texts, which decide what is kept."""
        return hash_values(self.texts)


def names_of(column: Categorical) -> Names:
    """Texts of a column's categories; named once for a column and all parts of it."""
    if "names" not in column.known:
        whole = column.values.dtype.kind in "iu"
        named = [*map(str if whole else category_name, column.values.tolist() if whole else column.values), ""]
        texts = sorted(set(named))
        at = {text: i for i, text in enumerate(texts)}
        held = np.empty(len(texts), dtype=object)
        held[:] = texts
        column.known["names"] = Names(held, np.array([at[text] for text in named], dtype=np.int64))
    found: Names = column.known["names"]
    return found


def category_name(value: Any) -> str:
    """A category as text: whole-number floats without the point, so that 3 and 3.0 are one category."""
    if isinstance(value, (float, np.floating)) and np.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def segments(keys: NDArray[np.int64]) -> list[tuple[int, Array]]:
    """Each key with the positions of its rows, in the order of rows."""
    if not len(keys):
        return []
    small = keys.astype(np.uint16) if keys.min() >= 0 and keys.max() < 2**16 else keys  # radix sort
    order = np.argsort(small, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return [(int(ordered[start]), order[start:stop])
            for start, stop in zip(starts, [*starts[1:], len(order)], strict=True)]
