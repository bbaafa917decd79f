"""A table of sums per category and bucket of users that is bounded by how many categories it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.stat import Summary
from recspect.diagnosis.stats.counting import kept_names, union_of_names

Floats = NDArray[np.float64]
ROWS = 0
"""Place of the weight of rows among the sums."""


@dataclass(frozen=True)
class CategoryTableSummary(Summary):
    """Sums per category and bucket.

    The categories of smallest hash are kept, each complete, the rest added up in a last one.

    Args:
        names: Categories as text, ascending; missing is "".
        sums: Shape (names + 1, buckets, sums): rows first. The last name is the others.
        capacity: How many categories are kept.
    """

    names: tuple[str, ...]
    sums: Floats
    capacity: int

    def __add__(self, other: Self) -> Self:
        return self.sum_of((self, other))

    @classmethod
    def sum_of(cls, parts: Sequence[Self]) -> Self:
        """All of them."""
        names, places = union_of_names([part.names for part in parts])
        sums = np.zeros((len(names) + 1, *parts[0].sums.shape[1:]))
        for part, rows in zip(parts, places, strict=True):
            sums[np.append(rows, len(names))] += part.sums
        keep = kept_names(names, parts[0].capacity)
        if keep is None:
            return cls(names, sums, parts[0].capacity)
        inner, rest = sums[:-1], sums[-1]
        return cls(tuple(np.array(names, dtype=object)[keep]), np.concatenate([inner[keep], (rest + inner[~keep].sum(0))[None]]), parts[0].capacity)

    @property
    def count(self) -> float:
        """Weight of the rows counted."""
        return float(self.sums[..., ROWS].sum())

    @property
    def truncated(self) -> bool:
        """Whether there were more categories than fit."""
        return bool(self.sums[-1, :, ROWS].sum() > 0)
