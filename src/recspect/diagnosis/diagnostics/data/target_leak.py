"""Does a field know the answer: does it say what is only known after the event?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import (
    between,
    is_identity,
    names,
    number,
    percent,
    plural,
    require_classes,
    with_normal_interval,
)
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.ranks import rank_correlation
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.binned import BinnedLabel, BinnedLabelSummary
from recspect.diagnosis.stats.crosstab import Crosstab
from recspect.diagnosis.stats.ranges import GroupRanges, GroupRangesSummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable
from recspect.schema import Field, Kind

ALMOST_THE_LABEL = 0.90
OUTSTANDING, LEAD = 0.78, 0.07
SUSPICIOUS = 0.80
TRACKS_FAIL, TRACKS_UNNAMED = 0.25, 0.40
BUCKETS = 20
"""Fewer than elsewhere: a table of every category is kept per bucket."""
CONSTANT, CARRIED = 0.95, 0.50
ENOUGH_GROUPS, ENOUGH_NEW = 200, 20
_COUNT_WORDS = re.compile(r"(^|_)(count|counts|cnt|num|number|total|views?|plays?|clicks?|shows?|impressions?|likes?|sales|sold|"
                          r"ratings?|downloads?|popularity|ctr|cvr|rate)(_|$)", re.IGNORECASE)

_SOURCES = ("Kaufman et al. 2012, Leakage in Data Mining (TKDD)", "Airola et al. 2011 (leave-pair-out AUC)",
            "Moro et al. 2014 (call duration in bank marketing)")
_ALONE = ("FAIL when one field alone surely has an AUC above 0.90, or surely above 0.78 and 0.07 above every field below that; WARN above 0.80")
_FUTURE = ("FAIL when a field is fixed per item over the whole table, is already above 0 for most items first shown after the split, and its rank "
           "correlation with the number of held-out exposures is surely above 0.25 (and it is named like a count, or is above 0.40); else WARN")


class TargetLeak(Diagnostic):
    """Two questions: can one field alone tell the label, and does a statistic of the item count what had not happened yet?

    User, item and request ids are left out of the first: that some users click more is knowledge, not a leak.
    """

    code = "data.target_leak"
    question = "Does a field know the answer: does it say what is only known after the event?"
    sources = _SOURCES

    def needs(self, scope: Scope) -> Needs:
        """Each field against the label on training rows, and ranges of numeric fields per item and per user on both sides."""
        scope.require_reference("@label", "@cluster")
        scope.require_binary()
        singles = _singles(scope)
        if not singles:
            raise Unavailable("no categorical or numeric field besides ids is there to compare with the label")
        ranges = [_ranges(side, scope) for side in ("item", "user")]
        both = [stat for stat in ranges if stat is not None]
        return Needs.of(reference=[_stat(field) for field in singles], both=both)

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """A finding per field that tells too much, one per side for statistics of the future, one PASS."""
        singles = _singles(scope)
        aucs: dict[str, Estimate] = {}
        for field in singles:
            bucketed = reference.get_summary(_stat(field))
            total = bucketed.total
            _require_both_classes(total)
            aucs[field.name] = bucketed.estimate(_auc, unit="AUC of the field alone", n=lambda t: t.count)
        ordinary = max((e.value for e in aucs.values() if e.value <= OUTSTANDING), default=0.5)
        ranked = sorted(aucs.items(), key=lambda pair: (-pair[1].value, pair[0]))
        evidence = _bars(ranked)
        found = [_told_too_much(name, estimate, ordinary, evidence) for name, estimate in ranked]
        bad = [finding for finding in found if finding is not None]
        for side in ("item", "user"):
            stat = _ranges(side, scope)
            if stat is not None:
                finding = _future(side, stat, target.get_summary(stat), reference.get_summary(stat))
                if finding is not None:
                    bad.append(finding)
        if bad:
            yield from bad
        else:
            best, estimate = ranked[0]
            yield Finding(
                code=self.code, verdict=Verdict.PASS, estimate=estimate, evidence=(evidence,), threshold=_ALONE, sources=_SOURCES,
                claim=f"No field knows the answer by itself: the best, {best}, alone has an AUC of {between(estimate, 3)} on "
                      f"{estimate.n:,} training rows, and no statistic of items or users follows their later exposures.",
                meaning="A weak leak looks like an honest field here; only the time at which each value became known can tell "
                        "(name it in the schema: Field.time).")


# ---------------------------------------------------------------------- one field alone


def _singles(scope: Scope) -> tuple[Field, ...]:
    return tuple(field for field in scope.schema.fields
                 if field.kind in (Kind.CATEGORICAL, Kind.NUMERIC) and field.name in scope.reference and not is_identity(field.name, scope))


def _stat(field: Field) -> Bucketed:
    inner = (BinnedLabel(column=field.name) if field.kind is Kind.NUMERIC
             else Crosstab(row=field.name, column="@label", row_capacity=4096, column_capacity=8))
    return Bucketed(stat=inner, by="@cluster", buckets=BUCKETS)


def _auc(total: Any) -> float:
    try:
        return float(total.best_auc if isinstance(total, BinnedLabelSummary) else total.target_auc())
    except Unavailable:  # a bucket left out can take the last positive with it
        return np.nan


def _require_both_classes(total: Any) -> None:
    if isinstance(total, BinnedLabelSummary):
        positive = total.positive
    else:
        positive = sum(float(total.counts[:, i].sum()) for i, name in enumerate(total.column_names) if name in ("1", "True"))
    require_classes(positive, total.count, "the training rows")


def _told_too_much(name: str, auc: Estimate, ordinary: float, evidence: Bars) -> Finding | None:
    outstanding = auc.surely_above(OUTSTANDING) and auc.surely_above(ordinary + LEAD)
    if not (auc.value > SUSPICIOUS or outstanding):
        return None
    fail = auc.surely_above(ALMOST_THE_LABEL) or outstanding
    return Finding(
        code=TargetLeak.code, verdict=Verdict.FAIL if fail else Verdict.WARN, place=Place(kind="field", name=name), estimate=auc,
        claim=f"{name} alone tells the label with an AUC of {between(auc, 3)} on {auc.n:,} training rows; the best ordinary field reaches "
              f"{number(ordinary, 3)}. It is probably known only after the event.",
        threshold=_ALONE, evidence=(evidence,), sources=_SOURCES, neutral=0.5,
        limit=SUSPICIOUS if not fail else OUTSTANDING if outstanding else ALMOST_THE_LABEL,
        meaning="Offline quality is then a promise that cannot be kept: at serving time the field is empty or different.",
        causes=(f"{name} is measured during or after the event that the label records (a duration, a dwell time, an outcome code)",
                "it is computed from the label, or joined from a table written after the event",
                "less often: a strong honest field, such as a score of another model that is available at serving time"),
        remedies=(Remedy(code="drop_field", text=f"Train without {name}: move it to `ignored` in the schema, and compare."),
                  Remedy(code="point_in_time_join", text=f"Rebuild {name} from what was known before each event.")))


def _bars(ranked: list[tuple[str, Estimate]]) -> Bars:
    top = ranked[:15]
    return Bars(title="How well does each field alone tell the label?", unit="AUC of the field alone", names=tuple(name for name, _ in top),
                values=tuple(e.value for _, e in top), low=tuple(e.value if e.low is None else e.low for _, e in top),
                high=tuple(e.value if e.high is None else e.high for _, e in top), reference=0.5,
                highlighted=tuple(name for name, e in top if e.value > OUTSTANDING),
                caption=f"{len(top)} of {plural(len(ranked), 'field')}, {top[0][1].n:,} training rows, label rate of each value computed "
                        "without the row itself")


# ---------------------------------------------------------------------- statistics that tell the future


@dataclass(frozen=True, kw_only=True)
class _Statistic:
    name: str
    tracks: Estimate
    before: float
    new_items: int
    carried: float
    mean_of_new: float

    @property
    def fails(self) -> bool:
        named = bool(_COUNT_WORDS.search(self.name))
        there = self.new_items >= ENOUGH_NEW and self.carried > CARRIED
        return bool(there and self.tracks.surely_above(TRACKS_FAIL if named else TRACKS_UNNAMED))


def _ranges(side: str, scope: Scope) -> GroupRanges | None:
    """Fields that describe the item (or user) and could be running statistics; those with a time of their own are dated."""
    by = scope.schema.column(side)
    over = tuple(field.name for field in scope.schema.fields
                 if field.kind is Kind.NUMERIC and field.side == side and field.time is None and not is_identity(field.name, scope)
                 and field.name in scope.target and field.name in scope.reference)
    there = by is not None and by in scope.target and by in scope.reference
    return GroupRanges(by=by, over=over) if there and over and by is not None else None


def _future(side: str, stat: GroupRanges, now: GroupRangesSummary, before: GroupRangesSummary) -> Finding | None:
    both = now + before
    kept = [name for name in both.names if name]
    shown_now, shown_before = _counts(now, kept), _counts(before, kept)
    place = {name: i for i, name in enumerate(both.names)}
    rows = np.array([place[name] for name in kept], dtype=np.int64)
    later, several = shown_now > 0, shown_now + shown_before > 1
    new = later & (shown_before == 0)
    found = []
    for i, name in enumerate(stat.over):
        low, high = both.lows[rows, i], both.highs[rows, i]
        known = np.isfinite(low)
        used = known & later
        if used.sum() < ENOUGH_GROUPS or low[known].min() < 0 or len(np.unique(low[used])) < 20 or not _is_heavy_tailed(low[used]):
            continue
        if (low == high)[known & several].mean() < CONSTANT:
            continue  # it moves with time, as a statistic that knows only the past does
        tracks = _tracking(low[used], shown_now[used])
        if not tracks.surely_above(TRACKS_FAIL):
            continue
        arrived = new & known
        count = int(arrived.sum())
        found.append(_Statistic(
            name=name, tracks=tracks, before=_tracking(low[used], shown_before[used]).value, new_items=count,
            carried=float((low[arrived] > 0).mean()) if count else 0.0, mean_of_new=float(low[arrived].mean()) if count else 0.0))
    return _future_finding(side, found) if found else None


def _counts(summary: GroupRangesSummary, names: list[str]) -> NDArray[np.float64]:
    known = dict(zip(summary.names, summary.counts.tolist(), strict=True))
    return np.array([known.get(name, 0.0) for name in names])


def _is_heavy_tailed(values: NDArray[np.float64]) -> bool:
    """As counts of popularity are: the largest is at least 10 times the median."""
    return bool(values.max() >= 10 * np.median(values) and values.max() > 0)


def _tracking(x: NDArray[np.float64], y: NDArray[np.float64]) -> Estimate:
    """Spearman's correlation, with the standard error 1.03 / sqrt(n - 3) (Fieller, Hartley and Pearson 1957); 0 where all values are equal."""
    value = float(np.nan_to_num(rank_correlation(x, y)))
    return with_normal_interval(value, 1.03 / np.sqrt(len(x) - 3), unit="rank correlation with held-out exposures", n=len(x), of="items")


def _future_finding(side: str, found: list[_Statistic]) -> Finding:
    found.sort(key=lambda s: (-s.fails, -s.tracks.value, s.name))
    fails = [s for s in found if s.fails]
    shown, worst = fails or found, found[0]
    table = RankedTable(
        title=f"Which statistics of the {side} follow what happened later?",
        columns=("field", "rank correlation with held-out exposures", "with training exposures", f"{side}s first seen after the split",
                 "of these above 0", "their mean value"),
        rows=tuple((s.name, round(s.tracks.value, 3), round(s.before, 3), s.new_items, percent(s.carried), float(f"{s.mean_of_new:.4g}"))
                   for s in found),
        caption=f"{worst.tracks.n:,} {side}s of the held-out rows; every field here has one value per {side} over the whole table")
    verb = "tells" if len(shown) == 1 else "tell"
    carried = (f"{worst.name} is already {number(worst.mean_of_new)} on average for {worst.new_items:,} {side}s that nobody had been shown before "
               f"the split (above 0 for {percent(worst.carried)} of them)" if worst.new_items
               else f"no {side} is new after the split, so it cannot be seen whether {worst.name} counts from the start")
    return Finding(
        code=TargetLeak.code, verdict=Verdict.FAIL if fails else Verdict.WARN, place=Place(kind="field", name=worst.name),
        estimate=worst.tracks, threshold=_FUTURE, evidence=(table,), sources=_SOURCES,
        claim=f"{plural(len(shown), f'statistic of the {side}', f'statistics of the {side}')} probably {verb} the future: {carried}, it never "
              f"changes as exposures come in, and it follows how often the {side} is shown after the split (rank correlation "
              f"{between(worst.tracks, 2)}). Fields: {names([s.name for s in shown], limit=60)}.",
        meaning="Such a statistic was added up over a period that contains the rows to be predicted; when serving, that period has not "
                "happened yet.",
        causes=(f"a table of {side} statistics was exported once, after the log, and joined to every row",
                "a rolling statistic is joined by key without the time of the event",
                "less often: a snapshot of before the log, or a fixed property that goes with popularity: then give Field.time"),
        remedies=(Remedy(code="point_in_time_join", text="Compute these from events before each row, and name the column that says when in Field.time."),
                  Remedy(code="drop_field", text=f"Train without {names([s.name for s in shown], limit=60)}: move them to `ignored` in the schema.")))
