"""Whether new rows look up vectors that training never touched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import hash_values
from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.movement import blocks_of_training, clocks, last_block
from recspect.diagnosis.diagnostics.policy import (
    ENOUGH_ROWS,
    between,
    is_identity,
    names,
    number,
    percent,
    verdict_above,
)
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stat import BucketedSummary
from recspect.diagnosis.stats.categories import CategoryCounts, CategoryCountsSummary
from recspect.diagnosis.stats.moments import MomentsSummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

FAIL, WARN = 0.20, 0.01


class UntrainedRows(Diagnostic):
    """How many held-out lookups read vectors that training never changed?

    Share of held-out lookups of a field whose table row no training row reads. Of ids of users, items and requests, where rows have times, the same share of
    the last block of training rows against those before it says what is usual.
    """

    code = "embeddings.untrained_rows"
    question = "How often do new rows look up vectors that training never touched?"
    sources = ("Kott 2001, The Delete-a-Group Jackknife (interval)",)

    def needs(self, scope: Scope) -> Needs:
        fields = _fields(scope)
        if not fields:
            raise Unavailable("it is not known which table rows are read", hint="examine a PyTorch model together with its training rows")
        stats = [_stat(field) for field in fields]
        identities = any(is_identity(field, scope) for field in fields)
        return Needs.of(target=[scope.bucketed(stat) for stat in stats], reference=stats, both=clocks(scope) if identities else [])

    def further(self, target: Tally, reference: Tally, scope: Scope) -> Needs:
        """Of ids that would fail, the lookups of the last block of training rows and of those before it."""
        gross = [field for field in _fields(scope) if is_identity(field, scope) and _gross(field, target, reference, scope)]
        blocks = blocks_of_training(target, reference, scope) if gross else ()
        return Needs(reference=tuple((part, _stat(field)) for field in gross for part in last_block(blocks))) if blocks else Needs()

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:
        shares: dict[str, Estimate] = {}
        for field in _fields(scope):
            share = _share(field, target, reference, scope)
            if share is not None:
                shares[field] = share
        if not shares:
            raise Unavailable(f"no field has {ENOUGH_ROWS} lookups on both sides", hint="give more rows")
        ranked = sorted(shares, key=lambda field: -shares[field].value)
        usual = {field: _usual(field, target, reference, scope) for field in ranked}
        verdicts = {field: verdict_above(shares[field], fail=FAIL + (usual[field] or 0.0), warn=WARN) for field in ranked}
        bars = Bars(title="Which share of new lookups reads a vector that training never touched?", unit="share of lookups",
                    names=tuple(ranked), values=tuple(shares[field].value for field in ranked),
                    low=tuple(_end(shares[field].low, shares[field]) for field in ranked),
                    high=tuple(_end(shares[field].high, shares[field]) for field in ranked),
                    highlighted=tuple(field for field in ranked if verdicts[field] is not Verdict.PASS))
        for field in ranked:
            if verdicts[field] is not Verdict.PASS:
                rows = reference.get_summary(_stat(field)).count
                yield self._finding(verdicts[field], shares[field], bars, field=field,
                                    usual=usual[field] or 0.0,
                                    claim=f"{percent(shares[field].value)} of held-out lookups read vectors of {field} that none of "
                                          f"{number(rows, 0)} training lookups touched (share {between(shares[field])}, "
                                          f"{shares[field].n:,} lookups).{_beside(usual[field], verdicts[field])}")
        quiet = [field for field in ranked if verdicts[field] is Verdict.PASS]
        if quiet:
            most = shares[quiet[0]]
            yield self._finding(Verdict.PASS, most, bars, claim=f"Held-out rows read vectors that training has touched, for {names(quiet)}: "
                                f"at most {percent(most.value)} of lookups read others ({quiet[0]}, {most.n:,} lookups).")

    def _finding(self, verdict: Verdict, estimate: Estimate, bars: Bars, *, claim: str, field: str = "", usual: float = 0.0) -> Finding:
        return Finding(
            code=self.code, verdict=verdict, claim=claim, estimate=estimate, place=Place(kind="table", name=field) if field else Place(),
            threshold=f"FAIL surely above {FAIL:.0%} of lookups, WARN surely above {WARN:.0%}" + (
                f"; FAIL of ids surely {FAIL:.0%} more of the lookups than in the last block of training rows" if usual else ""),
            limit=FAIL + usual if verdict is Verdict.FAIL else WARN, concerns=estimate.value,
            meaning="A vector that training never touched is random: its rows are scored by chance in this field.",
            causes=("users and items that are new since training", "values that share the row of unknown values, which training never reads",
                    "ids that are written differently at serving time"),
            remedies=(Remedy(code="train_unknown_row", text="Let training read the row of unknown values: drop ids at random, or raise minimum_count."),
                      Remedy(code="add_content_fields", text="Add fields that new users and items have too, such as category or age."),
                      Remedy(code="train_more_often", text="Train more often, or on a longer window.")),
            evidence=(bars,), sources=self.sources)


def _fields(scope: Scope) -> list[str]:
    there = scope.target & scope.reference
    known = scope.tables or scope.fields
    return [field for field in known if f"@row:{field}" in there]


def _stat(field: str) -> CategoryCounts:
    return CategoryCounts(column=f"@row:{field}")


def _share(field: str, target: Tally, reference: Tally, scope: Scope) -> Estimate | None:
    """Share of held-out lookups of rows that training never read; None for too few lookups."""
    train = reference.get_summary(_stat(field))
    parts = _unseen(target.get_summary(scope.bucketed(_stat(field))).parts, train)
    if min(parts.total.count, train.count) < ENOUGH_ROWS:
        return None
    return parts.estimate(lambda total: total.mean, unit="share of held-out lookups", n=lambda total: total.count, of="lookups")


def _gross(field: str, target: Tally, reference: Tally, scope: Scope) -> bool:
    share = _share(field, target, reference, scope)
    return share is not None and verdict_above(share, fail=FAIL) is Verdict.FAIL


def _usual(field: str, target: Tally, reference: Tally, scope: Scope) -> float | None:
    """Share of the lookups of the last block of training rows that read what those before it never read; None where it was not asked for."""
    if not is_identity(field, scope):
        return None
    blocks = blocks_of_training(target, reference, scope)
    if not blocks:
        return None
    earlier, last = last_block(blocks)
    if not reference.has(_stat(field), last):
        return None
    found = _unseen([reference.get_summary(_stat(field), last)], reference.get_summary(_stat(field), earlier)).total
    return float(found.mean) if found.count >= ENOUGH_ROWS else None


def _beside(usual: float | None, verdict: Verdict) -> str:
    if usual is None:
        return ""
    found = f" Of the last block of training rows {percent(usual)} read vectors that none before had touched"
    return f"{found}." if verdict is Verdict.FAIL else f"{found}: new ids are how this log is, and whether their rows are predicted well predictions.cold_start says."


def _unseen(parts: Sequence[CategoryCountsSummary], train: CategoryCountsSummary) -> BucketedSummary:
    """Per bucket, lookups as count and the share of untouched ones as mean, among rows that every summary could keep."""
    counts = [part.as_dict() for part in parts]
    for part in counts:
        part.pop("", None)  # an empty list reads nothing
    cuts = [_hashes(summary.names).max() for summary in (*parts, train) if summary.truncated]
    if cuts:
        every = tuple(dict.fromkeys(name for part in counts for name in part))
        kept = {name for name, hashed in zip(every, _hashes(every), strict=True) if hashed <= min(cuts)}
        counts = [{name: count for name, count in part.items() if name in kept} for part in counts]
    seen = set(train.names)
    totals = []
    for part in counts:
        rows = sum(part.values())
        unseen = sum(count for name, count in part.items() if name not in seen)
        totals.append(MomentsSummary(count=rows, mean=unseen / rows) if rows else MomentsSummary())
    return BucketedSummary(tuple(totals))


def _hashes(names: tuple[str, ...]) -> NDArray[np.uint64]:
    return hash_values(np.array(names, dtype=object))


def _end(end: float | None, estimate: Estimate) -> float:
    return min(1.0, max(0.0, estimate.value if end is None else end))
