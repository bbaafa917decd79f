"""Do the held-out rows look like the rows that the model learned from?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
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
    with_normal_interval,
)
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import DistributionPair, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stat import Stat
from recspect.diagnosis.stats.categories import CategoryCounts, compare_categories, unseen_share
from recspect.diagnosis.stats.quantiles import Quantiles, compare_quantiles, kolmogorov_smirnov
from recspect.diagnosis.stats.shares import Shares
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable
from recspect.schema import Field, Kind

FAIL, WARN = 0.25, 0.10
SHOWN = 10
MANY = 1000
"""With more categories than this a field is treated like an id."""

_KINDS = (Kind.CATEGORICAL, Kind.NUMERIC, Kind.MULTI_VALUED, Kind.SEQUENCE)
_THRESHOLD = ("FAIL when PSI is surely above 0.25 and above what chance gives, WARN above 0.10 and above chance (99.9% of samples without "
              "drift); ids, fields of many values and fields that follow the clock WARN at most")


@dataclass(frozen=True, kw_only=True)
class _Drift:
    field: Field
    verdict: Verdict
    psi: Estimate
    chance: float
    shares: Shares
    effect: str
    note: str


class Drift(Diagnostic):
    """PSI per field against its null band, with effect sizes that a person can read."""

    code = "data.drift"
    question = "Do the held-out rows look like the rows that the model learned from?"
    sources = ("Yurdakul and Naranjo 2020, Statistical Properties of the Population Stability Index",
               "Siddiqi 2006, Credit Risk Scorecards (0.10 and 0.25)", "Good 1953 (unseen categories)")

    def needs(self, scope: Scope) -> Needs:
        """Counts per category, or quantiles, of every field on both sides."""
        scope.require_reference()
        fields = examined_fields(scope, *_KINDS, reference=True)
        if not fields:
            raise Unavailable("no field of the schema is a column of both the training and the held-out rows")
        return Needs.of(both=[_stat(field) for field in fields])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """One finding per drifting field, at most ten, and one for the others."""
        drifts, skipped = [], []
        for field in examined_fields(scope, *_KINDS, reference=True):
            now, before = target.get_summary(_stat(field)), reference.get_summary(_stat(field))
            require_rows(now.count + getattr(now, "missing", 0), "the held-out rows")
            require_rows(before.count + getattr(before, "missing", 0), "the training rows")
            try:
                drifts.append(_measure(field, now, before, scope))
            except Unavailable:
                skipped.append(field.name)
        if not drifts:
            raise Unavailable(f"no field has values on both sides: {names(skipped)}")
        drifts.sort(key=lambda d: (-d.verdict.severity, -d.psi.value, d.field.name))
        bad = [drift for drift in drifts if drift.verdict is not Verdict.PASS]
        for drift in bad[:SHOWN]:
            yield _finding(drift)
        table = RankedTable(title="Which fields changed most?", columns=("field", "PSI", "by chance up to", "verdict"),
                            rows=tuple((d.field.name, round(d.psi.value, 4), round(d.chance, 4), d.verdict.value) for d in drifts[:30]))
        if bad[SHOWN:]:
            more = bad[SHOWN:]
            yield Finding(code=self.code, verdict=more[0].verdict, estimate=more[0].psi, evidence=(table,), threshold=_THRESHOLD, limit=more[0].psi.value,
                          claim=f"{plural(len(more), 'more field')} changed: {names([d.field.name for d in more])}.", sources=self.sources)
        rest = [drift for drift in drifts if drift.verdict is Verdict.PASS]
        if rest:
            yield Finding(code=self.code, verdict=Verdict.PASS, estimate=rest[0].psi, evidence=(table,), threshold=_THRESHOLD,
                          claim=f"{plural(len(rest), 'field')} look the same in the held-out and the training rows: the largest change, "
                                f"of {rest[0].field.name}, is a PSI of {number(rest[0].psi.value, 3)}.", sources=self.sources)


def _stat(field: Field) -> Stat[Any]:
    return Quantiles(column=field.name) if field.kind is Kind.NUMERIC else CategoryCounts(column=field.name)


def _measure(field: Field, now: Any, before: Any, scope: Scope) -> _Drift:
    note, soft = "", False
    if field.kind is Kind.NUMERIC:
        shares = compare_quantiles(now, before)
        gap = kolmogorov_smirnov(now, before)
        effect = f"the two distribution functions differ by up to {percent(gap)} of the rows"
        if now.low > before.high or field.name == scope.schema.time:
            note, soft = "It follows the clock: with a split by time it differs by construction.", True
    else:
        shares = compare_categories(now, before)
        effect = f"{percent(shares.total_variation)} of the rows would have to change category to look like training"
        if is_identity(field.name, scope) or before.distinct > MANY:
            unseen, expected = unseen_share(now, before)
            effect += f"; {percent(unseen)} of the rows have a value never seen in training, where {percent(expected)} is expected by chance"
            note, soft = "New values come and old ones leave with time in every catalogue, so this alone is not a fault.", True
    psi = _interval(shares)
    chance = shares.psi_under_no_drift(0.999)
    verdict = verdict_above(psi, fail=max(FAIL, 2 * chance)) if psi.value > max(WARN, chance) else Verdict.PASS
    if verdict is Verdict.PASS and psi.value > max(WARN, chance):
        verdict = Verdict.WARN
    if soft and verdict is Verdict.FAIL:
        verdict = Verdict.WARN
    return _Drift(field=field, verdict=verdict, psi=psi, chance=chance, shares=shares, effect=effect, note=note)


def _interval(shares: Shares) -> Estimate:
    """PSI with its multinomial standard error by the delta method; rows are taken as independent."""
    p, q = shares.smoothed
    n, m = float(shares.target.sum()), float(shares.reference.sum())
    slope_p, slope_q = np.log(p / q) + 1 - q / p, -np.log(p / q) + 1 - p / q
    variance = ((slope_p**2 * p).sum() - (slope_p * p).sum() ** 2) / n + ((slope_q**2 * q).sum() - (slope_q * q).sum() ** 2) / m
    found = with_normal_interval(shares.psi, math.sqrt(max(float(variance), 0.0)), unit="PSI", n=int(n))
    return Estimate(value=found.value, low=max(found.low or 0.0, 0.0), high=found.high, unit="PSI", n=int(n))


def _finding(drift: _Drift) -> Finding:
    name, shares = drift.field.name, drift.shares
    pair = DistributionPair(
        title=f"How did {name} change?", x_title=name, bins=shares.names, target=tuple((shares.target / shares.target.sum()).tolist()),
        reference=tuple((shares.reference / shares.reference.sum()).tolist()),
        caption=f"{shares.target.sum():,.0f} held-out and {shares.reference.sum():,.0f} training rows")
    change = shares.target / shares.target.sum() - shares.reference / shares.reference.sum()
    where = int(np.abs(change).argmax())
    moved = (f"'{shares.names[where]}' went from {percent(shares.reference[where] / shares.reference.sum())} of the training rows to "
             f"{percent(shares.target[where] / shares.target.sum())}")
    return Finding(
        code=Drift.code, verdict=drift.verdict, place=Place(kind="field", name=name), estimate=drift.psi, threshold=_THRESHOLD,
        limit=max(FAIL, 2 * drift.chance) if drift.verdict is Verdict.FAIL else max(WARN, drift.chance),
        claim=f"{name} changed between training and held-out rows: {moved}; {drift.effect} (PSI {between(drift.psi, 3)}, by chance at most "
              f"{number(drift.chance, 3)}). {drift.note}".strip(),
        meaning="The model is asked about rows unlike those it learned from; its quality there was never measured.",
        causes=("the world changed: season, campaign, new users or items", "a feature job changed its units, defaults or source",
                "the split separates unlike periods or surfaces", "a filter is applied on one side only"),
        remedies=(Remedy(code="retrain_recent", text="Train on rows closer in time to those the model will serve."),
                  Remedy(code="fix_feature_pipeline", text=f"Compare how {name} is computed in both periods."),
                  Remedy(code="drop_field", text=f"Train without {name} if it cannot be made stable.")),
        evidence=(pair,), sources=Drift.sources)
