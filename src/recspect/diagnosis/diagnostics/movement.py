"""How much things move anyhow: the training rows in blocks of time, each held against what came before it.

A catalogue, a season or a community that changes from month to month changes from the training rows to the held-out rows too. What is no larger than
that is how the world is, not something that broke at the split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.diagnostics.policy import ENOUGH_ROWS
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.slice import Slice, Term
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.quantiles import Quantiles
from recspect.diagnosis.stats.shares_by_user import BucketedShares
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

FEWEST, MOST = 4, 12
"""Blocks of training rows: as many rows each as are held out, but so many."""
CLOCK_SIZE = 65_535
"""Times that a sketch of them holds, so that blocks begin at the same rows whenever up to so many rows are examined, and beyond at rows that differ by
hundredths of a percent: where a field jumps at the edge of a block, a few rows on its other side decide what is usual."""
MARGIN = 0.05
"""Share of rows of one side that may lie on the wrong side in time: a few rows carry a wrong time."""

Compare = Callable[[Any, Any], BucketedShares]
"""Two bucketed summaries of a field, later and earlier, over the same bins."""


@dataclass(frozen=True, kw_only=True)
class Movement:
    """PSI of a field from one block of time to the next.

    Args:
        held_out: From the last block of training rows to the held-out rows.
        usual: The largest from one block of training rows to the next.
        blocks: How many blocks the training rows were cut into.
    """

    held_out: Estimate
    usual: Estimate
    blocks: int

    @property
    def beyond(self) -> bool:
        """Whether the field moved surely more than it does among training rows: the intervals do not meet."""
        return self.held_out.surely_above(self.usual.value if self.usual.high is None else self.usual.high)


def clocks(scope: Scope) -> list[Quantiles]:
    """The times of a side, where both sides have them; else nothing."""
    time = scope.schema.time
    return [Quantiles(column=time, k=CLOCK_SIZE)] if time is not None and time in scope.target and time in scope.reference else []


def blocks_of_training(target: Tally, reference: Tally, scope: Scope) -> tuple[Slice, ...]:
    """Slices of the training rows in order of time, about as large as the held-out rows; none where these do not come after them."""
    for clock in clocks(scope):
        later, earlier = target.get_summary(clock), reference.get_summary(clock)
        if min(later.count, earlier.count) < ENOUGH_ROWS or later.quantile(MARGIN) < earlier.quantile(1 - MARGIN):
            return ()
        blocks = min(max(round(earlier.count / later.count), FEWEST), MOST)
        edges = earlier.quantiles([k / blocks for k in range(1, blocks)]).tolist()
        if len(set(edges)) < len(edges):  # time stands still for more than a block
            return ()
        below = [Term(clock.column, "<", repr(edge)) for edge in edges]
        above = [Term(clock.column, ">=", repr(edge)) for edge in edges]
        return (Slice((below[0],)), *(Slice((low, high)) for low, high in zip(above, below[1:], strict=False)), Slice((above[-1],)))
    return ()


def last_block(blocks: Sequence[Slice]) -> tuple[Slice, Slice]:
    """All training rows before the last block, and those of the last block."""
    (edge,) = blocks[-1].terms
    return Slice((Term(edge.column, "<", edge.value),)), blocks[-1]


def movement(stat: Bucketed, blocks: Sequence[Slice], target: Tally, reference: Tally, compare: Compare) -> Movement | None:
    """How far the field went from block to block; None where the blocks were not tallied or hold no values."""
    if not blocks or not all(reference.has(stat, block) for block in blocks):
        return None
    parts = [reference.get_summary(stat, block) for block in blocks]
    try:
        usual = max((compare(later, earlier).psi() for earlier, later in pairwise(parts)), key=lambda psi: psi.value)
        return Movement(held_out=compare(target.get_summary(stat), parts[-1]).psi(), usual=usual, blocks=len(blocks))
    except Unavailable:
        return None
