"""Which of given crossings of categories each row belongs to: one pass of integer codes per crossing of fields.

Shapes: M crossings of L fields each, N rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def each_crossing(fields: Ints, values: Ints, columns: list[Ints], use: Callable[[Ints, Ints], None]) -> None:
    """Call `use` for every crossing of fields among the slices: where its slices are, and which of these each row belongs to (their number where in none)."""
    if not len(fields):
        return
    order = np.lexsort(fields.T[::-1])
    starts = np.flatnonzero(np.append(True, (fields[order][1:] != fields[order][:-1]).any(1)))
    for where in np.split(order, starts[1:]):
        of_row = np.zeros(1, dtype=np.int64)
        wanted, width = np.zeros(len(where), dtype=np.int64), 1
        for place, field in enumerate(fields[where[0]].tolist()):
            used = np.unique(values[where, place])
            known = int(columns[field].max(initial=0)) + 1
            short = np.full(max(known, int(used[-1]) + 1), len(used), dtype=np.int64)  # the last place is that of other values
            short[used] = np.arange(len(used))
            code = short[columns[field]]
            of_row = of_row * (len(used) + 1) + code
            wanted = wanted * (len(used) + 1) + np.searchsorted(used, values[where, place])
            width *= len(used) + 1
        use(where, places_of(of_row, wanted, width))


def places_of(of_row: Ints, wanted: Ints, width: int) -> Ints:
    """Where each row's code is among the codes wanted, their number for none; by a table where codes are few."""
    if width <= 1 << 20:
        table = np.full(width, len(wanted), dtype=np.int64)
        table[wanted] = np.arange(len(wanted))
        return np.asarray(table[of_row])
    order = np.argsort(wanted)
    at = np.searchsorted(wanted[order], of_row).clip(max=len(wanted) - 1)
    return np.asarray(np.where(wanted[order][at] == of_row, order[at], len(wanted)))
