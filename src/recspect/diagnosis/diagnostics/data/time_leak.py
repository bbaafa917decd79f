"""Does training come before what the model is judged on, and is every value known before its event?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import names, percent, require_rows
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, DistributionPair
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stats.hashes import wilson
from recspect.diagnosis.stats.later import Later, LaterSummary
from recspect.diagnosis.stats.quantiles import Quantiles, QuantilesSummary
from recspect.diagnosis.stats.ranges import GroupRanges, GroupRangesSummary
from recspect.diagnosis.tally import Tally
from recspect.schema import Field

FAIL = 0.001
_CAUSES = ("rows were split at random", "each user's last rows were held out (leave one out), so other users' later rows train",
           "training rows were extracted later than the held-out rows", "a few rows carry a wrong time")


class TimeLeak(Diagnostic):
    """Training rows after held-out rows, for each user and over all; and values of fields with a time of their own that came after the event.

    Judged by the order of times alone, so it is a hard check: chance has no part in it.
    """

    code = "data.time_leak"
    question = "Does training come before what the model is judged on, and is every value known before its event?"
    sources = ("Ji, Sun et al. 2023, A Critical Study on Data Leakage in Recommender System Offline Evaluation",
               "Kaufman et al. 2012, Leakage in Data Mining")

    def needs(self, scope: Scope) -> Needs:
        """The range of times, overall and per user, on both sides; and for fields with a time of their own whether it comes after."""
        time = scope.require_role("time")
        scope.require_target(time)
        fields = [_later(field, scope) for field in _timed_fields(scope)]
        if time not in scope.reference:
            if not fields:
                scope.require_reference(time)
            return Needs.of(target=fields)
        per_user = [_users(scope)] if _has_users(scope) else []
        known = [stat for stat in fields if set(stat.columns) <= scope.reference]
        return Needs.of(both=[Quantiles(column=time), *per_user], target=fields, reference=known)

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """One finding about the split, one per field with a time of its own."""
        time = scope.require_role("time")
        for field in _timed_fields(scope):
            stat = _later(field, scope)
            total = target.get_summary(stat) + (reference.get_summary(stat) if reference.has(stat) else stat.zero())
            require_rows(total.count, "the rows with both times")
            yield self._field(field, total)
        if reference.has(Quantiles(column=time)):
            yield self._split(target, reference, scope, time)

    def _split(self, target: Tally, reference: Tally, scope: Scope, time: str) -> Finding:
        now, before = target.get_summary(Quantiles(column=time)), reference.get_summary(Quantiles(column=time))
        require_rows(now.count, "the held-out rows")
        require_rows(before.count, "the training rows")
        overlap = _after(before, now.low)
        by_user = _has_users(scope) and _per_user(target.get_summary(_users(scope)), reference.get_summary(_users(scope)))
        estimate = by_user or overlap
        verdict = Verdict.PASS
        if estimate.value > FAIL:
            verdict = Verdict.FAIL
        elif estimate.value > 0 or overlap.value > 0:
            verdict = Verdict.WARN
        if scope.schema.time_unit == "row" and verdict is Verdict.FAIL:  # numbers that may have begun anew in each table
            verdict = Verdict.WARN
        globally = (f"{percent(overlap.value)} of {overlap.n:,} training rows are later than the first held-out row" if overlap.value
                    else f"no training row is later than the first held-out row ({overlap.n:,} training rows)")
        per_user = (f"{percent(by_user.value)} of the {by_user.n:,} users with rows on both sides have training rows later than their first held-out row; "
                    if by_user and by_user.value else f"of the {by_user.n:,} users with rows on both sides none has; " if by_user else "")
        start = "Training comes before the held-out rows" if verdict is Verdict.PASS else "The model learned from rows later than those it is judged on"
        return Finding(
            code=self.code, verdict=verdict, estimate=estimate if estimate.value or not overlap.value else overlap, limit=FAIL if verdict is Verdict.FAIL else 0.0,
            claim=f"{start}: {per_user}{globally}.", sources=self.sources, causes=_CAUSES,
            threshold=f"FAIL when more than {percent(FAIL)} of the users (without a user column: of the training rows) have it, WARN when any row has; times that only "
                      "give an order WARN at most",
            meaning="A model that has seen the future looks better than it will be, and even the order of models can change.",
            remedies=(Remedy(code="split_by_time", text="Split by time: train before one moment, judge after it."),
                      Remedy(code="check_time", text="Check the times of the latest training rows and of the earliest held-out rows.")),
            evidence=(_picture(now, before),))

    def _field(self, field: Field, total: LaterSummary) -> Finding:
        share = Estimate(value=total.share, unit="share of rows whose value is later than the event", n=int(total.count))
        bad = total.later > 0
        return Finding(
            code=self.code, verdict=Verdict.FAIL if bad else Verdict.PASS, place=Place(kind="field", name=field.name), estimate=share, limit=0.0,
            concerns=total.share, sources=self.sources, threshold="FAIL when any value became known after the event of its row",
            claim=(f"{field.name} was known only after the event in {percent(total.share)} of {share.n:,} rows, by up to {_duration(total.most)}." if bad
                   else f"{field.name} was known before the event in all of {share.n:,} rows with both times."),
            meaning="At serving time the value is not there yet, so the model learns from what it will not have.",
            causes=("the newest value was joined instead of the value as of the event", "an aggregate covers a window that reaches beyond the event",
                    "the value was corrected later"),
            remedies=(Remedy(code="point_in_time_join", text=f"Join {field.name} as of the event: the last value known before it."),
                      Remedy(code="drop_field", text=f"Train without {field.name} until it is joined so.")),
            evidence=(Bars(title="How often is the value later than the event?", unit="share of rows", names=(field.name,), values=(total.share,),
                           highlighted=(field.name,) if bad else (), caption=f"{share.n:,} rows with both times, {total.missing:,.0f} without"),))


def _timed_fields(scope: Scope) -> list[Field]:
    time = scope.schema.time
    return [field for field in scope.schema.fields if field.time is not None and time is not None and field.time != time and field.time in scope.target]


def _later(field: Field, scope: Scope) -> Later:
    return Later(column=field.time or "", than=scope.require_role("time"), time_unit=scope.schema.time_unit)


def _has_users(scope: Scope) -> bool:
    user = scope.schema.user
    return user is not None and user in scope.target and user in scope.reference


def _users(scope: Scope) -> GroupRanges:
    return GroupRanges(by=scope.require_role("user"), over=(scope.require_role("time"),))


def _after(before: QuantilesSummary, first: float) -> Estimate:
    """Share of training rows strictly later than a moment; more than 0 exactly when there is one."""
    share = 1.0 - float(before.cdf([first])[0]) if before.high > first else 0.0
    return Estimate(value=max(share, 1 / before.count) if before.high > first else 0.0, unit="share of training rows after the first held-out row",
                    n=int(before.count))


def _per_user(now: GroupRangesSummary, before: GroupRangesSummary) -> Estimate | None:
    """Share of users on both sides with a training row after their first held-out row; None where no user is on both."""
    lasts = dict(zip(before.names, before.highs[:, 0].tolist(), strict=True))
    pairs = np.array([(lasts[name], first) for name, first in zip(now.names, now.lows[:, 0].tolist(), strict=True) if name and name in lasts])
    if not len(pairs):
        return None
    pairs = pairs[np.isfinite(pairs).all(1)]
    if not len(pairs):
        return None
    share, n = float((pairs[:, 0] > pairs[:, 1]).mean()), len(pairs)
    sampled = now.truncated or before.truncated
    low, high = wilson(share, n, 0.95) if sampled else (None, None)
    return Estimate(value=share, low=low, high=high, unit="share of users with training rows after their first held-out row", n=n, of="users")


def _picture(now: QuantilesSummary, before: QuantilesSummary) -> DistributionPair:
    first, last = min(now.low, before.low), max(now.high, before.high)
    edges = np.linspace(first, last if last > first else first + 1, 21)
    shares = [side.histogram(edges) / max(side.count, 1) for side in (now, before)]
    return DistributionPair(title="When are the rows of each side?", x_title="time, from the first to the last row", bins=tuple(f"{5 * i}%" for i in range(20)),
                            target=tuple(shares[0].tolist()), reference=tuple(shares[1].tolist()),
                            caption=f"{now.count:,.0f} held-out and {before.count:,.0f} training rows; {names(['training ends before'] if before.high <= now.low else ['they overlap'])}")


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.3g} seconds"


