"""A split by time of a table that is not in memory: the same rows in the same parts as `split_rows` gives, from a few passes over the times.

The time at a rank is found digit by digit (radix selection, 16 bits a pass): exact, whatever the order of the rows, in memory that does not
grow with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Array

DIGIT = 16
_SIGN = np.uint64(2**63)

Times = Callable[[], Iterator[NDArray[np.float64]]]
"""A pass over the times of all rows, in the order of the table."""


@dataclass(frozen=True)
class Border:
    """Where one part ends and the next begins, in order of time; rows of one time are in the order of the table.

    Args:
        time: Of the first row of the next part.
        tied: So many rows of that time, the first ones of the table, belong to the part before.
    """

    time: float
    tied: int

    def passed(self, times: NDArray[np.float64], seen: int) -> tuple[NDArray[np.bool_], int]:
        """Which rows lie beyond the border, and how many rows of its time were seen with them.

        Args:
            times: Of rows in the order of the table.
            seen: Rows of the border's time before these.
        """
        at = times == self.time
        rank = seen + np.cumsum(at)
        return (times > self.time) | (at & (rank > self.tied)), seen + int(at.sum())


def borders_at(ranks: tuple[int, ...], times: Times) -> tuple[Border, ...]:
    """The borders before the rows of these ranks (from 0) in the order of time.

    Args:
        ranks: Each below the number of rows.
        times: Finite.
    """
    prefixes, below = [0] * len(ranks), [0] * len(ranks)
    for shift in range(64 - DIGIT, -1, -DIGIT):
        counts: dict[int, Array] = {prefix: np.zeros(2**DIGIT, dtype=np.int64) for prefix in prefixes}
        for part in times():
            keys = _ordered(part)
            for prefix in counts:
                mine = keys if shift == 64 - DIGIT else keys[keys >> np.uint64(shift + DIGIT) == np.uint64(prefix)]
                digits = (mine >> np.uint64(shift)) & np.uint64(2**DIGIT - 1)
                counts[prefix] += np.bincount(digits.astype(np.int64), minlength=2**DIGIT)
        for place, rank in enumerate(ranks):
            ends = np.cumsum(counts[prefixes[place]])
            digit = int(np.searchsorted(ends, rank - below[place], side="right"))
            below[place] += int(ends[digit - 1]) if digit else 0
            prefixes[place] = (prefixes[place] << DIGIT) | digit
    return tuple(Border(_number(prefix), rank - before) for prefix, rank, before in zip(prefixes, ranks, below, strict=True))


def _ordered(times: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Whole numbers in the order of the times."""
    bits = (times + 0.0).view(np.uint64)  # -0 as 0
    return np.where(bits & _SIGN != 0, ~bits, bits | _SIGN)


def _number(key: int) -> float:
    """The time of such a whole number."""
    bits = np.array([key], dtype=np.uint64)
    found: NDArray[np.float64] = np.where(bits & _SIGN != 0, bits & ~_SIGN, ~bits).view(np.float64)
    return float(found[0])
