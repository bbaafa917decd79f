"""Are rows of the held-out side also among the training rows, and do training rows repeat?"""

from __future__ import annotations

import math
from collections.abc import Iterable

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import percent, require_rows, with_normal_interval
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stats.sample import BottomK, BottomKSummary, overlap_share
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

ACROSS, WITHIN = 0.001, 0.01


class SplitOverlap(Diagnostic):
    """Rows equal in every column of the schema, across the split and within training.

    With user and time among the columns an equal row is the same event. Without them equal rows can be different events, so what
    training rows repeat among themselves is what is expected by coincidence.
    """

    code = "data.split_overlap"
    question = "Are rows of the held-out side also among the training rows, and do training rows repeat?"
    sources = ("Bar-Yossef et al. 2002 (sampling by smallest hash)", "Barz and Denzler 2020 (near-duplicates across splits)")

    def needs(self, scope: Scope) -> Needs:
        """A uniform sample of distinct rows of each side."""
        scope.require_reference()
        return Needs.of(both=[_stat(scope)])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """One finding about the split, one about repeats within training where there are many."""
        stat = _stat(scope)
        now, before = target.get_summary(stat), reference.get_summary(stat)
        require_rows(now.count, "the held-out rows")
        require_rows(before.count, "the training rows")
        overlap, repeated = overlap_share(now, before), before.duplicate_share()
        if overlap is None or repeated is None:
            raise Unavailable("the samples of both sides have no hash range in common")
        is_event = _is_event(scope, stat)
        yield self._across(overlap, repeated, _coincidence(before), is_event=is_event, columns=len(stat.over))
        if is_event and (repeated.value > WITHIN or repeated.surely_above(WITHIN)):
            yield self._within(repeated)

    def _across(self, overlap: Estimate, repeated: Estimate, coincidence: float, *, is_event: bool, columns: int) -> Finding:
        expected = 0.0 if is_event else coincidence
        excess = _excess(overlap, expected)
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

    def _within(self, repeated: Estimate) -> Finding:
        return Finding(
            code=self.code, verdict=Verdict.WARN, estimate=repeated, place=Place(), sources=self.sources, limit=WITHIN, concerns=repeated.value,
            claim=f"{percent(repeated.value)} of {repeated.n:,} training rows repeat an event that is already there.",
            threshold=f"WARN when more than {percent(WITHIN)} of training rows repeat another",
            meaning="A repeated event counts twice: the model fits it harder, and intervals look narrower than they are.",
            causes=("an ingestion job was run twice, or delivers at least once", "a join matched several rows on the other side"),
            remedies=(Remedy(code="deduplicate", text="Keep one row per event; if repeats are meant, use a weight column."),),
            evidence=(Bars(title="How many training rows repeat another?", unit="share of rows", names=("repeated", "all others"),
                           values=(repeated.value, 1 - repeated.value), caption=f"{repeated.n:,} training rows"),))


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


def _excess(overlap: Estimate, expected: float) -> Estimate:
    sampling = (overlap.error or 0.0) / 1.96
    chance = math.sqrt((overlap.value * (1 - overlap.value) + expected * (1 - expected) + 1 / overlap.n) / overlap.n)
    return with_normal_interval(overlap.value - expected, math.hypot(sampling, chance), n=overlap.n, level=0.999,
                                unit="share of held-out rows in training beyond coincidence")
