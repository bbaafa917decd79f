"""Are rows of the held-out side also among the training rows, and do rows of a side repeat?"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import percent, require_rows, with_normal_interval
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.jackknife import BucketedSummary, t_quantile
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.hashes import threshold as complete_below
from recspect.diagnosis.stats.sample import BottomK, BottomKSummary, overlap_share
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

ACROSS, WITHIN = 0.001, 0.01
OF_A_BUCKET = 4096
"""Distinct rows kept of each bucket of users, for the interval only."""


class SplitOverlap(Diagnostic):
    """Rows equal in every column of the schema, across the split and within training.

    With user and time among the columns an equal row is the same event. Without them equal rows can be different events, so what
    training rows repeat among themselves is what is expected by coincidence.
    """

    code = "data.split_overlap"
    question = "Are rows of the held-out side also among the training rows, and do rows of a side repeat?"
    sources = ("Bar-Yossef et al. 2002 (sampling by smallest hash)", "Barz and Denzler 2020 (near-duplicates across splits)")

    def needs(self, scope: Scope) -> Needs:
        """A uniform sample of distinct rows of each side."""
        scope.require_reference()
        stat = _stat(scope)
        by_user = [] if _is_event(scope, stat) else [_by_user(scope, stat)]
        return Needs.of(both=[stat, *by_user])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """One finding about the split, and one about repeats within a side where there are many."""
        stat = _stat(scope)
        now, before = target.get_summary(stat), reference.get_summary(stat)
        require_rows(now.count, "the held-out rows")
        require_rows(before.count, "the training rows")
        overlap, repeated = overlap_share(now, before), before.duplicate_share()
        if overlap is None or repeated is None:
            raise Unavailable("the samples of both sides have no hash range in common")
        is_event = _is_event(scope, stat)
        error = 0.0 if is_event else _error_by_user(target.get_summary(_by_user(scope, stat)), reference.get_summary(_by_user(scope, stat)), now, before)
        yield self._across(overlap, repeated, 0.0 if is_event else _coincidence(before), error, is_event=is_event, columns=len(stat.over))
        for share, side in ((repeated, "training"), (now.duplicate_share(), "held-out")):
            if is_event and share is not None and (share.value > WITHIN or share.surely_above(WITHIN)):
                yield self._within(share, side)

    def _across(self, overlap: Estimate, repeated: Estimate, expected: float, error: float, *, is_event: bool, columns: int) -> Finding:
        excess = _excess(overlap, expected, error)
        if is_event:
            verdict = Verdict.FAIL if overlap.surely_above(0.0) and overlap.value > 0 else Verdict.PASS
            threshold = "FAIL when any event of the held-out side is also a training row (user and time are part of the row)"
            estimate = overlap
        else:
            verdict = Verdict.FAIL if excess.surely_above(ACROSS) else Verdict.PASS
            threshold = f"FAIL when surely (99.9%) more than {percent(ACROSS)} beyond what equal rows within training lead to expect"
            estimate = excess
        shared = f"{percent(overlap.value)} of {overlap.n:,} held-out rows" if overlap.value else f"none of {overlap.n:,} held-out rows"
        note = "" if is_event else (f" Without a time in the row, equal rows may be different events: {percent(expected)} is expected, since so many "
                                    "training rows have an equal one in training.")
        verb = "are also training rows" if overlap.value else "is also a training row"
        return Finding(
            code=self.code, verdict=verdict, estimate=estimate, threshold=threshold, sources=self.sources,
            limit=0.0 if is_event else ACROSS, concerns=overlap.value,
            claim=f"{shared[:1].upper()}{shared[1:]} {verb}, equal in all {columns} columns.{note}",
            meaning="On rows it has seen, a model is judged by its memory: held-out quality is too good, and most for models that memorise.",
            causes=("the table holds events twice and was split at random", "the training export was refreshed after the split",
                    "rows were multiplied (upsampled, joined one to many) before the split"),
            remedies=(Remedy(code="deduplicate", text="Remove equal rows before splitting."),
                      Remedy(code="split_by_time", text="Split by time, so that an event can be on one side only.")),
            evidence=(Bars(title="How many rows occur twice?", unit="share of rows", names=("held-out rows in training", "expected by coincidence",
                                                                                      "training rows repeated"),
                           values=(overlap.value, expected, repeated.value), highlighted=("held-out rows in training",),
                           caption=f"{overlap.n:,} held-out and {repeated.n:,} training rows"),))

    def _within(self, repeated: Estimate, side: str) -> Finding:
        trained = side == "training"
        return Finding(
            code=self.code, verdict=Verdict.WARN, estimate=repeated, place=Place(kind="slice", name=f"{side} rows"),
            sources=self.sources, limit=WITHIN, concerns=repeated.value,
            claim=f"{percent(repeated.value)} of {repeated.n:,} {side} rows repeat an event that is already there.",
            threshold=f"WARN when more than {percent(WITHIN)} of {side} rows repeat another",
            meaning=f"A repeated event counts twice: {'the model fits it harder' if trained else 'quality is mostly that of the repeated events'}, and intervals "
                    "look narrower than they are.",
            causes=("an ingestion job was run twice, or delivers at least once", "a join matched several rows on the other side"),
            remedies=(Remedy(code="deduplicate", text="Keep one row per event; if repeats are meant, use a weight column."),),
            evidence=(Bars(title=f"How many {side} rows repeat another?", unit="share of rows", names=("repeated", "all others"),
                           values=(repeated.value, 1 - repeated.value), caption=f"{repeated.n:,} {side} rows"),))


def _stat(scope: Scope) -> BottomK:
    wanted = [column for column in scope.schema.columns if column != scope.schema.score]
    shared = tuple(column for column in wanted if column in scope.target and column in scope.reference)
    if len(shared) < 2:
        raise Unavailable("fewer than two columns of the schema are on both sides, so equal rows mean nothing")
    return BottomK(over=shared)


def _is_event(scope: Scope, stat: BottomK) -> bool:
    schema = scope.schema
    return schema.time in stat.over and schema.user in stat.over and schema.time_unit != "days"


def _coincidence(before: BottomKSummary) -> float:
    """Share of training rows that have an equal one in training: about what a fresh row of the same kind has."""
    return float(before.counts[before.counts > 1].sum() / before.counts.sum())


def _by_user(scope: Scope, stat: BottomK) -> Bucketed:
    return scope.bucketed(BottomK(over=stat.over, k=OF_A_BUCKET))


def _excess(overlap: Estimate, expected: float, by_user: float) -> Estimate:
    """With the larger of two standard errors: rows independent, and rows of one user alike."""
    sampling = (overlap.error or 0.0) / 1.96
    chance = math.sqrt((overlap.value * (1 - overlap.value) + expected * (1 - expected) + 1 / overlap.n) / overlap.n)
    return with_normal_interval(overlap.value - expected, math.hypot(sampling, max(chance, by_user)), n=overlap.n, level=0.999,
                                unit="share of held-out rows in training beyond coincidence")


def _error_by_user(now: BucketedSummary, before: BucketedSummary, target: BottomKSummary, reference: BottomKSummary) -> float:
    """Jackknife error of overlap less coincidence over buckets of users, widened to what t quantiles give at the normal's; 0 where there are too few.

    Over the rows below the smallest threshold of any sample, which all samples kept.
    """
    cut = min(complete_below(part.hashes, part.k) for part in (*now.parts, *before.parts, target, reference))
    repeated = reference.hashes[reference.counts > 1]
    sums = np.array([[*_shared(a, reference.hashes, cut), *_shared(b, repeated, cut)] for a, b in zip(now.parts, before.parts, strict=True)])
    sums = sums[sums.sum(1) > 0]
    left = sums.sum(0) - sums
    groups = len(sums)
    if groups < 5 or (left[:, [1, 3]] <= 0).any():
        return 0.0
    replicas = left[:, 0] / left[:, 1] - left[:, 2] / left[:, 3]
    spread = math.sqrt((groups - 1) / groups * float(((replicas - replicas.mean()) ** 2).sum()))
    return spread * t_quantile(0.999, groups - 1) / t_quantile(0.999, 10**6)


def _shared(part: BottomKSummary, hashes: NDArray[np.uint64], cut: np.uint64 | float) -> tuple[float, float]:
    """Weight of the rows that are among these, and of all."""
    inside = part.hashes < cut
    counts = part.counts[inside]
    return float(counts[np.isin(part.hashes[inside], hashes)].sum()), float(counts.sum())
