"""What lists look like before anything is ranked: how many rows they have, and how many of these are relevant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recspect.diagnosis.stats.lists import Floats, Lists
from recspect.diagnosis.stats.measures import Measure


@dataclass(frozen=True, kw_only=True)
class ListLength(Measure):
    """Rows of a list. Range 1 and up; the order does not matter."""

    @property
    def name(self) -> str:
        return "rows of a list"

    def values(self, lists: Lists) -> Floats:
        return np.asarray(lists.lengths, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class RelevantRows(Measure):
    """Relevant rows of a list. Range 0 and up; the order does not matter."""

    @property
    def name(self) -> str:
        return "relevant rows of a list"

    def values(self, lists: Lists) -> Floats:
        return lists.relevant
