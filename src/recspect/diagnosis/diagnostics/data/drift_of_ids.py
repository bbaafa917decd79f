"""Of ids that drift: how many rows have one that is new, and whether one old id took over.

In every catalogue new ids come and old ones leave, so an index of all of it says little. Two things are not turnover: more new ids than the log
brings anyhow (they are written in another way, say), and one id of old that suddenly stands in many rows (a default for what is not found).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostics.policy import between, percent, verdict_above
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.jackknife import BucketedSummary, estimate_from
from recspect.diagnosis.stats.categories import unseen_share
from recspect.diagnosis.stats.category_sums import CategoryCountsByBucket, CategoryCountsSummary

Floats = NDArray[np.float64]

MORE_NEW = 0.05
"""WARN when the share of rows with new ids is surely so much above what is usual."""
GAINED_FAIL, GAINED_WARN = 0.20, 0.05
"""Of all rows, what one old id must surely have gained."""
GAINED, NEW = "share of rows that one id gained", "share of rows with ids new since training"
"""Units, by which rules of causes tell one from the other."""


@dataclass(frozen=True, kw_only=True)
class DriftOfIds:
    """What is judged of a field of ids.

    Args:
        name: The old id whose share rose most.
        before, gained: Its share of the training rows, and how much it rose.
        usual_gain: The most that an old id rose by from one block of training rows to the next; None where that is not known.
        new: Share of rows whose id training never saw.
        usual_new: The same of the last block of training rows against those before it (the upper end of its interval), or, without blocks, what chance gives.
        blocks: Whether there were blocks.
    """

    name: str
    before: float
    gained: Estimate
    usual_gain: float | None
    new: Estimate
    usual_new: float
    blocks: bool

    @property
    def of_gain(self) -> Verdict:
        """An old id that took over; no alarm where old ids rise as much anyhow."""
        if self.usual_gain is not None and not self.gained.surely_above(self.usual_gain):
            return Verdict.PASS
        return verdict_above(self.gained, fail=GAINED_FAIL, warn=GAINED_WARN)

    @property
    def of_new(self) -> Verdict:
        """More new ids than usual: a warning at most, since whether they are predicted well is another question."""
        return Verdict.WARN if self.new.surely_above(self.usual_new + MORE_NEW) else Verdict.PASS

    @property
    def worth_asking(self) -> bool:
        """Whether it takes the blocks of the training rows to say more."""
        return self.of_gain is not Verdict.PASS or self.of_new is not Verdict.PASS

    def gain_in_words(self) -> str:
        """What one id gained, in a sentence."""
        usual = "" if self.usual_gain is None else f", where no old id gains more than {percent(self.usual_gain)} from one block of training rows to the next"
        return f"'{self.name}' went from {percent(self.before)} of the training rows to {percent(self.before + self.gained.value)} (gained {between(self.gained, 3)}){usual}"

    def new_in_words(self) -> str:
        """How many ids are new, in a sentence."""
        usual = (f"where up to {percent(self.usual_new)} of the last block of training rows had one that no row before it had" if self.blocks
                 else f"where {percent(self.usual_new)} is expected by chance")
        return f"{percent(self.new.value)} of the rows have a value never seen in training, {usual}"


def drift_of_ids(now: BucketedSummary, before: BucketedSummary, blocks: Sequence[BucketedSummary] = ()) -> DriftOfIds:
    """Hold ids of held-out rows against those of training rows.

    Args:
        now, before: Counts per bucket of users and id, of at least one row each.
        blocks: The same of each block of the training rows, in order of time; none where they are not known.
    """
    name, _ = _risen(now.total, before.total)
    later, earlier = _with_id(now, name), _with_id(before, name)
    unseen = _unseen(now, before)
    rows = int(now.total.count)
    gained = _over_users(lambda t, r: _share(t) - _share(r), later, earlier, unit=GAINED, n=rows)
    new = _over_users(lambda t, _: _share(t), unseen, earlier, unit=NEW, n=rows)
    usual_gain, usual_new = None, unseen_share(now.total, before.total)[1]
    if len(blocks) > 1:
        usual_gain = max(_risen(one.total, other.total)[1] for other, one in pairwise(blocks))
        first = BucketedSummary.sum_of(blocks[:-1])
        last = _over_users(lambda t, _: _share(t), _unseen(blocks[-1], first), _with_id(first, name), unit=NEW, n=rows)
        usual_new = last.value if last.high is None else last.high
    return DriftOfIds(name=name, before=_share(earlier.sum(0)), gained=gained, usual_gain=usual_gain, new=new, usual_new=usual_new,
                      blocks=len(blocks) > 1)


def _risen(now: CategoryCountsSummary, before: CategoryCountsSummary) -> tuple[str, float]:
    """The id of `before` whose share of all rows rose most, and by how much; that values are missing is told elsewhere."""
    counts = now.as_dict()
    rises = np.array([counts.get(name, 0.0) for name in before.names]) / max(now.count, 1.0) - before.counts / max(before.count, 1.0)
    rises[[name == "" for name in before.names]] = -np.inf
    where = int(rises.argmax()) if len(rises) else -1
    return (before.names[where], float(rises[where])) if where >= 0 and np.isfinite(rises[where]) else ("", 0.0)


def _with_id(side: BucketedSummary, name: str) -> Floats:
    """Rows per bucket with the id and without it, shape (buckets, 2)."""
    parts = CategoryCountsByBucket.joined(side.parts)
    found = parts.sums(np.array([int(one != name) for one in parts.names], dtype=np.int64), 2)
    found[:, 1] += parts.other
    return found


def _unseen(now: BucketedSummary, before: BucketedSummary) -> Floats:
    """Rows per bucket whose id is new and whose id is old, shape (buckets, 2): of ids that both sides could keep."""
    kept, old = set((now.total + before.total).names), set(before.total.names)
    parts = CategoryCountsByBucket.joined(now.parts)
    return parts.sums(np.array([-1 if one not in kept else int(one in old) for one in parts.names], dtype=np.int64), 2)


def _share(counts: Floats) -> float:
    """Of rows in two groups, the share of the first; 0 of none."""
    return float(counts[0] / max(counts.sum(), 1e-300))


def _over_users(value: Callable[[Floats, Floats], float], target: Floats, reference: Floats, *, unit: str, n: int) -> Estimate:
    """A function of both sides' totals with the jackknife over buckets of users."""
    whole, other = target.sum(0), reference.sum(0)
    there = np.flatnonzero(target.sum(1) + reference.sum(1) > 0)
    return estimate_from(value(whole, other), np.array([value(whole - target[g], other - reference[g]) for g in there]), unit=unit, n=n)
