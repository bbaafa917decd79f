"""Do the held-out rows look like the rows that the model learned from?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recspect.diagnosis.diagnostic import Needs, NullCalibrated, Scope
from recspect.diagnosis.diagnostics.data.drift_of_ids import (
    GAINED_FAIL,
    GAINED_WARN,
    MORE_NEW,
    DriftOfIds,
    drift_of_ids,
)
from recspect.diagnosis.diagnostics.movement import Movement, blocks_of_training, clocks, movement
from recspect.diagnosis.diagnostics.policy import (
    between,
    examined_fields,
    is_identity,
    names,
    number,
    percent,
    plural,
    require_rows,
    verdict_above,
    worst,
)
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import DistributionPair, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.jackknife import BucketedSummary
from recspect.diagnosis.multiplicity import Check
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.categories import CategoryCounts, category_bins
from recspect.diagnosis.stats.category_sums import CategoryCountsByBucket
from recspect.diagnosis.stats.quantiles import (
    Quantiles,
    QuantilesSummary,
    kolmogorov_smirnov,
    quantile_bins,
    wasserstein,
)
from recspect.diagnosis.stats.shares import Shares
from recspect.diagnosis.stats.shares_by_user import BucketedShares
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable
from recspect.schema import Field, Kind

FAIL, WARN = 0.25, 0.10
SHOWN = 10
FEW = 5
"""Buckets of users: rows of fewer on one side only are those of a few users."""
MANY = 1000
"""With more categories than this a field is treated like an id."""

_KINDS = (Kind.CATEGORICAL, Kind.NUMERIC, Kind.MULTI_VALUED, Kind.SEQUENCE)
_THRESHOLD = ("FAIL when PSI is surely above 0.25 and above what chance gives, WARN above 0.10 and above chance (99.9% of samples without "
              "drift), each unlikely among all checks of the run (q < 0.05); fields that moved no less from one block of training rows to the next WARN where the size alone would be "
              "a FAIL, else PASS; fields that follow the clock WARN at most. Ids and fields of many values never FAIL by PSI; they FAIL when one old id surely gained "
              f"{GAINED_FAIL:.0%} of all rows, WARN from {GAINED_WARN:.0%}, and WARN when new ids are surely {MORE_NEW:.0%} of the rows more than usual")


@dataclass(frozen=True, kw_only=True)
class _Drift:
    field: Field
    psi: Estimate
    chance: float
    p_value: float
    shares: Shares
    effect: str
    note: str
    moved: Movement | None
    ids: DriftOfIds | None = None

    @property
    def check(self) -> Check:
        return Check(p_value=self.p_value, effect=self.psi.value, minimum=max(WARN, self.chance))

    @property
    def gross(self) -> bool:
        """Whether the size alone would be a FAIL. A field with a note differs by construction, and never fails."""
        return verdict_above(self.psi, fail=max(FAIL, 2 * self.chance)) is Verdict.FAIL and not self.note

    def verdict(self, limit: float) -> Verdict:
        """What moved no less among the training rows is quiet, and WARNs where its size alone would be a FAIL."""
        if self.ids is not None:
            return worst((self.ids.of_gain, self.ids.of_new, self._by_index(limit)))
        return self._by_index(limit)

    def _by_index(self, limit: float) -> Verdict:
        if self.check.counted > limit:
            return Verdict.PASS
        if self.moved is not None and not self.moved.beyond:
            return Verdict.WARN if self.gross or self.follows_the_clock else Verdict.PASS
        return Verdict.FAIL if self.gross else Verdict.WARN

    @property
    def follows_the_clock(self) -> bool:
        """Whether it is another value in every block by construction."""
        return bool(self.note) and self.ids is None


class Drift(NullCalibrated):
    """PSI per field against its null band, with effect sizes that a person can read.

    Where the rows have times and the held-out rows come later, a field that would fail is asked about again: how far did it move from one block of
    training rows to the next?
    """

    code = "data.drift"
    question = "Do the held-out rows look like the rows that the model learned from?"
    sources = ("Yurdakul and Naranjo 2020, Statistical Properties of the Population Stability Index",
               "Siddiqi 2006, Credit Risk Scorecards (0.10 and 0.25)", "Good 1953 (unseen categories)",
               "Rao and Scott 1984, On Chi-Squared Tests for Multiway Contingency Tables (dependent rows)", "Benjamini and Hochberg 1995")

    def needs(self, scope: Scope) -> Needs:
        """Counts per category, or quantiles, of every field on both sides."""
        scope.require_reference()
        fields = examined_fields(scope, *_KINDS, reference=True)
        if not fields:
            raise Unavailable("no field of the schema is a column of both the training and the held-out rows")
        scope.require_target("@cluster")
        scope.require_reference("@cluster")
        return Needs.of(both=[*(_stat(field, scope) for field in fields), *clocks(scope)])

    def further(self, target: Tally, reference: Tally, scope: Scope) -> Needs:
        """Fields that would alarm, in each block of the training rows."""
        blocks = blocks_of_training(target, reference, scope)
        asked = [field for field in examined_fields(scope, *_KINDS, reference=True) if _is_asked_again(field, target, reference, scope)] if blocks else []
        return Needs(reference=tuple((block, _stat(field, scope)) for field in asked for block in blocks))

    def measure(self, target: Tally, reference: Tally, scope: Scope) -> list[_Drift]:
        return _drifts(target, reference, scope)

    def checks(self, measured: list[_Drift]) -> Sequence[Check]:
        """PSI of every field."""
        return [drift.check for drift in measured]

    def findings(self, measured: list[_Drift], target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - all is measured
        """One finding per drifting field, at most ten, and one for the others."""
        verdicts = {drift.field.name: drift.verdict(scope.p_limit) for drift in measured}
        drifts = sorted(measured, key=lambda d: (-verdicts[d.field.name].severity, -d.psi.value, d.field.name))
        bad = [drift for drift in drifts if verdicts[drift.field.name] is not Verdict.PASS]
        for drift in bad[:SHOWN]:
            yield _finding(drift, verdicts[drift.field.name])
        table = RankedTable(title="Which fields changed most?", columns=("field", "PSI", "by chance up to", "verdict"),
                            rows=tuple((d.field.name, round(d.psi.value, 4), round(d.chance, 4), verdicts[d.field.name].value) for d in drifts[:30]))
        if bad[SHOWN:]:
            more = bad[SHOWN:]
            yield Finding(code=self.code, verdict=verdicts[more[0].field.name], estimate=more[0].psi, evidence=(table,), threshold=_THRESHOLD, limit=more[0].psi.value,
                          claim=f"{plural(len(more), 'more field')} changed: {names([d.field.name for d in more])}.", sources=self.sources)
        rest = drifts[len(bad):]
        if rest:
            same = [drift for drift in rest if drift.check.counted > scope.p_limit]
            usual = [drift for drift in rest if drift.check.counted <= scope.p_limit]
            told = []
            if same:
                told.append(f"{plural(len(same), 'field')} look{'s' if len(same) == 1 else ''} the same in the held-out and the training rows: the largest change, of "
                            f"{same[0].field.name}, is a PSI of {number(same[0].psi.value, 3)}.")
            if usual:
                told.append(f"{names([drift.field.name for drift in usual])} changed no more than from one block of training rows to the next (PSI "
                            f"{number(usual[0].psi.value, 3)}{' at most' if usual[1:] else ''}).")
            yield Finding(code=self.code, verdict=Verdict.PASS, estimate=(same or usual)[0].psi, evidence=(table,), threshold=_THRESHOLD, claim=" ".join(told), sources=self.sources,
                          meaning="Each field alone is as it was; that fields go together in another way than before is not looked at.")


def _stat(field: Field, scope: Scope) -> Bucketed:
    return scope.bucketed(Quantiles(column=field.name) if field.kind is Kind.NUMERIC else CategoryCounts(column=field.name))


def _drifts(target: Tally, reference: Tally, scope: Scope) -> list[_Drift]:
    """Every field that has values on both sides.

    Raises:
        Unavailable: Too few rows, or no field has.
    """
    drifts, skipped = [], []
    blocks = blocks_of_training(target, reference, scope)
    for field in examined_fields(scope, *_KINDS, reference=True):
        now, before = target.get_summary(_stat(field, scope)), reference.get_summary(_stat(field, scope))
        for side, name in ((now.total, "the held-out rows"), (before.total, "the training rows")):
            require_rows(side.count + (side.missing if field.kind is Kind.NUMERIC else 0), name)
        if min(now.count, before.count) < FEW <= max(now.count, before.count):
            raise Unavailable(f"{'the held-out rows' if now.count < before.count else 'the training rows'} come from too few {scope.cluster_name} to tell a change "
                              "from the ways of these few")
        try:
            measured = _measure(field, now, before, scope)
        except Unavailable:
            skipped.append(field.name)
            continue
        stat = _stat(field, scope)
        moved = movement(stat, blocks, target, reference, _comparison(field))
        ids = None if measured.ids is None or moved is None else drift_of_ids(now, before, [reference.get_summary(stat, block) for block in blocks])
        drifts.append(replace(measured, moved=moved, ids=ids or measured.ids))
    if not drifts:
        raise Unavailable(f"no field has values on both sides: {names(skipped)}")
    return drifts


def _is_asked_again(field: Field, target: Tally, reference: Tally, scope: Scope) -> bool:
    """Whether the size of the change alone would be an alarm; what takes long is computed only where the number itself is as large."""
    now, before = target.get_summary(_stat(field, scope)), reference.get_summary(_stat(field, scope))
    try:
        shares = _comparison(field)(now, before)
        return (shares.shares.psi > WARN and shares.shares.psi > shares.psi_under_no_drift()) or (_is_of_ids(field, before, scope) and drift_of_ids(now, before).worth_asking)
    except Unavailable:
        return False


def _measure(field: Field, now: BucketedSummary, before: BucketedSummary, scope: Scope) -> _Drift:
    note, ids = "", None
    if field.kind is Kind.NUMERIC:
        shares = _numeric_shares(now, before)
        gap = kolmogorov_smirnov(now.total, before.total)
        effect = f"the two distribution functions differ by up to {percent(gap)} of the rows, and {_distance(now.total, before.total)}"
        if now.total.low > before.total.high or field.name == scope.schema.time:
            note = "It follows the clock: with a split by time it differs by construction."
    else:
        shares = _category_shares(now, before)
        effect = f"{percent(shares.shares.total_variation)} of the rows would have to change category to look like training"
        if _is_of_ids(field, before, scope):
            ids = drift_of_ids(now, before)
            note = "New values come and old ones leave with time in every catalogue, so this alone is not a fault."
    return _Drift(field=field, psi=shares.psi(), chance=shares.psi_under_no_drift(), p_value=shares.p_value(), shares=shares.shares, effect=effect, note=note,
                  moved=None, ids=ids)


def _is_of_ids(field: Field, before: BucketedSummary, scope: Scope) -> bool:
    """Whether its values are names of things, or as many as names are."""
    return field.kind is not Kind.NUMERIC and (is_identity(field.name, scope) or before.total.distinct > MANY)


def _distance(now: QuantilesSummary, before: QuantilesSummary) -> str:
    """How far values would have to move, in the unit of the field and beside the middle half of the training rows."""
    moved = wasserstein(now, before)
    low, high = before.quantiles([0.25, 0.75])
    beside = f", {number(moved / (high - low), 2)} of the width of the middle half of the training rows" if high > low else ""
    return f"values would have to move by {number(moved)} on average (Wasserstein){beside}"


def _comparison(field: Field) -> Callable[[BucketedSummary, BucketedSummary], BucketedShares]:
    return _numeric_shares if field.kind is Kind.NUMERIC else _category_shares


def _numeric_shares(now: BucketedSummary, before: BucketedSummary) -> BucketedShares:
    bins = quantile_bins(before.total)
    left, right = (np.array([bins.counts(part) for part in side.parts]) for side in (now, before))
    used = (left + right).sum(0) > 0
    return BucketedShares(names=tuple(np.array(bins.labels, dtype=object)[used]), target=left[:, used], reference=right[:, used])


def _category_shares(now: BucketedSummary, before: BucketedSummary) -> BucketedShares:
    bins = category_bins(now.total, before.total)
    return BucketedShares(names=bins.labels, target=bins.counts_by_bucket(CategoryCountsByBucket.joined(now.parts)), halved=bins.halved,
                          reference=bins.counts_by_bucket(CategoryCountsByBucket.joined(before.parts), reference=True))


def _finding(drift: _Drift, verdict: Verdict) -> Finding:
    name, shares = drift.field.name, drift.shares
    pair = DistributionPair(
        title=f"How did {name} change?", x_title=name, bins=shares.names, target=tuple((shares.target / shares.target.sum()).tolist()),
        reference=tuple((shares.reference / shares.reference.sum()).tolist()),
        caption=f"{shares.target.sum():,.0f} held-out and {shares.reference.sum():,.0f} training rows")
    change = shares.target / shares.target.sum() - shares.reference / shares.reference.sum()
    where = int(np.abs(change).argmax())
    moved = (f"'{shares.names[where]}' went from {percent(shares.reference[where] / shares.reference.sum())} of the training rows to "
             f"{percent(shares.target[where] / shares.target.sum())}")
    index = f"PSI {between(drift.psi, 3)}, by chance at most {number(drift.chance, 3)}"
    estimate, limit, neutral, seen = drift.psi, max(FAIL, 2 * drift.chance) if verdict is Verdict.FAIL else max(WARN, drift.chance), 0.0, f"{moved}; {drift.effect} ({index})"
    if (ids := drift.ids) is not None:
        if verdict is ids.of_gain:
            estimate, limit, seen = ids.gained, GAINED_FAIL if verdict is Verdict.FAIL else GAINED_WARN, f"{ids.gain_in_words()}; {ids.new_in_words()} ({index})"
        elif verdict is ids.of_new:
            estimate, limit, neutral, seen = ids.new, ids.usual_new + MORE_NEW, ids.usual_new, f"{ids.new_in_words()} ({index})"
        else:
            seen = f"{moved}; {drift.effect}; {ids.new_in_words()} ({index})"
    return Finding(
        code=Drift.code, verdict=verdict, place=Place(kind="field", name=name), estimate=estimate, threshold=_THRESHOLD, limit=limit, neutral=neutral,
        claim=f"{name} changed between training and held-out rows: {seen}. {_usually(drift.moved)}{drift.note if estimate is drift.psi else ''}".strip(),
        meaning="The model is asked about rows unlike those it learned from; its quality there was never measured.",
        causes=("the world changed: season, campaign, new users or items", "a feature job changed its units, defaults or source",
                "the split separates unlike periods or surfaces", "a filter is applied on one side only"),
        remedies=(Remedy(code="retrain_recent", text="Train on rows closer in time to those the model will serve."),
                  Remedy(code="fix_feature_pipeline", text=f"Compare how {name} is computed in both periods."),
                  Remedy(code="drop_field", text=f"Train without {name} if it cannot be made stable.")),
        evidence=(pair,), sources=Drift.sources)


def _usually(moved: Movement | None) -> str:
    """The movement at the split beside that among training rows, in a sentence; "" where it is not known."""
    if moved is None:
        return ""
    last, usual = between(moved.held_out, 3), between(moved.usual, 3)
    what = (f"PSI from the last of {moved.blocks} blocks of training rows to the held-out rows is {last}, from one block of training rows to the next up to {usual}")
    return f"{what}: more than this field moves anyhow. " if moved.beyond else f"{what}: it moves as much anyhow, so nothing need have broken at the split. "
