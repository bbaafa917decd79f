"""Do fields go together on the held-out rows as they did in training?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Needs, NullCalibrated, Scope
from recspect.diagnosis.diagnostics.policy import (
    SINGLE_VALUED,
    between,
    examined_fields,
    names,
    plural,
    require_rows,
    two_sided_p,
)
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.jackknife import t_quantile
from recspect.diagnosis.multiplicity import Check
from recspect.diagnosis.stats.counting import weight_sums
from recspect.diagnosis.stats.row_sample import RowSample, RowSampleSummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable
from recspect.schema import Kind

Floats = NDArray[np.float64]
WARN, FAIL = 0.55, 0.65
MOST = 24
"""Columns looked at: 276 pairs."""
SHOWN = 10
SEEN, PRIOR = 3, 2.0
"""A value must have been seen so often on both sides for its pairs to count; rows with which a side's lift is drawn to that of both sides."""


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Two columns: how well what goes together tells the sides apart, on users that were not used to learn it."""

    columns: tuple[str, str]
    auc: Estimate
    p_value: float

    @property
    def name(self) -> str:
        return " x ".join(column.removeprefix("@") for column in self.columns)

    @property
    def check(self) -> Check:
        return Check(p_value=self.p_value, effect=self.auc.value - 0.5, minimum=WARN - 0.5)


class JointDrift(NullCalibrated):
    """A two-sample test by classifier on every pair of columns, of what the pair tells beyond both columns alone.

    For a pair of values (a, b), lift = rows with both / rows expected if a and b were independent, on each side. The score of a row is
    ln(lift held-out / lift training), learned on one half of the users (for the user with fields that
    describe users: of the rows); its AUC in telling held-out from training rows is taken on the other half. Values
    that are new or rare on a side give no score: what each field does alone is the question of data.drift.
    """

    code = "data.joint_drift"
    question = "Do fields go together on the held-out rows as they did in training?"
    sources = ("Lopez-Paz and Oquab 2017, Revisiting Classifier Two-Sample Tests", "Obuchowski 1997, Nonparametric Analysis of Clustered ROC Curve Data",
               "Benjamini and Hochberg 1995")

    def needs(self, scope: Scope) -> Needs:
        """A sample of rows of both sides, with their values."""
        scope.require_reference()
        scope.require_target("@cluster")
        scope.require_reference("@cluster")
        return Needs.of(both=[_stat(scope)])

    def measure(self, target: Tally, reference: Tally, scope: Scope) -> list[_Pair]:
        return _pairs(target, reference, scope)

    def checks(self, measured: list[_Pair]) -> Sequence[Check]:
        """Every pair of columns."""
        return [pair.check for pair in measured]

    def findings(self, measured: list[_Pair], target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - all is measured
        """One finding, which names the pairs and the field that most of them have in common."""
        pairs = sorted(measured, key=lambda pair: (-pair.auc.value, pair.columns))
        bad = [pair for pair in pairs if pair.check.counted <= scope.p_limit]
        verdict = Verdict.PASS if not bad else Verdict.FAIL if any(pair.auc.surely_above(FAIL) for pair in bad) else Verdict.WARN
        shown = (bad or pairs)[:SHOWN]
        bars = Bars(title="Which fields go together in another way than before?", unit="AUC of telling held-out from training rows", reference=0.5,
                    names=tuple(pair.name for pair in shown), values=tuple(pair.auc.value for pair in shown),
                    low=tuple(pair.auc.low or 0.5 for pair in shown), high=tuple(pair.auc.high or 0.5 for pair in shown), highlighted=tuple(pair.name for pair in bad),
                    caption=f"{plural(len(pairs), 'pair')} of fields, {pairs[0].auc.n:,} sampled rows; 0.5 is no change")
        threshold = f"WARN when the AUC of a pair is above {WARN} and unlikely by chance among all checks of the run (q < 0.05), FAIL when surely above {FAIL}"
        if not bad:
            yield Finding(code=self.code, verdict=verdict, estimate=pairs[0].auc, neutral=0.5, limit=WARN, threshold=threshold, evidence=(bars,), sources=self.sources,
                          claim=f"{plural(len(pairs), 'pair')} of fields go together as they did in training: the largest change, of {pairs[0].name}, tells "
                                f"held-out from training rows with an AUC of {between(pairs[0].auc, 3)} ({pairs[0].auc.n:,} sampled rows).")
            return
        often = Counter(column for pair in bad for column in pair.columns).most_common(2)
        common = often[0][0].removeprefix("@") if len(bad) > 1 and (len(often) < 2 or often[0][1] > often[1][1]) else ""
        shared = f" {common} is in {often[0][1]} of {len(bad)} such pairs, so look there first." if common else ""
        yield Finding(
            code=self.code, verdict=verdict, estimate=bad[0].auc, neutral=0.5, limit=FAIL if verdict is Verdict.FAIL else WARN, threshold=threshold,
            place=Place(kind="field", name=common or bad[0].name), concerns=min(1.0, 2 * (bad[0].auc.value - 0.5)), evidence=(bars,), sources=self.sources,
            claim=f"{bad[0].name} go together in another way than in training: from the pair alone held-out rows are told from training rows with an AUC of "
                  f"{between(bad[0].auc, 3)} ({bad[0].auc.n:,} sampled rows; 0.5 is no change)."
                  + (f" The same holds for {names([pair.name for pair in bad[1:]])}." if bad[1:] else "") + shared,
            meaning="Each field alone can look right while its values belong to other rows; the model then scores combinations that do not exist.",
            causes=("a field is joined by the wrong key, or shifted against the others", "one table of features is older than the others",
                    "codes of a field mean something else than before", "the world changed: what is bought, shown or clicked together"),
            remedies=(Remedy(code="fix_join", text=f"Check the keys by which {common or bad[0].name} is joined, on a few rows by hand."),
                      Remedy(code="version_features", text="Build all features of a row from one version of the tables."),
                      Remedy(code="retrain_recent", text="If the rows are right, train on rows closer in time.")))


def _columns(scope: Scope) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Categorical and numeric columns on both sides, the label with the first; the user, which makes the clusters, only where fields describe it.

    Raises:
        Unavailable: Fewer than two.
    """
    apart = (scope.schema.user, scope.schema.request, scope.schema.time)
    fields = [field for field in examined_fields(scope, *SINGLE_VALUED, reference=True) if field.name not in apart]
    kinds = {field.name: field.kind for field in fields}
    item = scope.schema.item
    if item and item not in kinds and item in scope.target and item in scope.reference:
        kinds = {item: Kind.CATEGORICAL, **kinds}
    if scope.binary and "@label" in scope.target and "@label" in scope.reference:
        kinds = {"@label": Kind.CATEGORICAL, **kinds}
    chosen = list(kinds.items())[:MOST]
    user = scope.schema.user
    if user in scope.target and user in scope.reference and any(name in _of_users(scope) for name, _ in chosen):
        chosen.append((str(user), Kind.CATEGORICAL))
    if len(chosen) < 2:
        raise Unavailable("fewer than two single-valued fields are columns of both the training and the held-out rows")
    return tuple(name for name, kind in chosen if kind is Kind.CATEGORICAL), tuple(name for name, kind in chosen if kind is Kind.NUMERIC)


def _of_users(scope: Scope) -> set[str]:
    """Fields that describe the user."""
    return {field.name for field in scope.schema.fields if field.side == "user" and field.name != scope.schema.user}


def _stat(scope: Scope) -> RowSample:
    categories, numbers = _columns(scope)
    return RowSample(categories=categories, numbers=numbers, buckets=scope.buckets)


def _pairs(target: Tally, reference: Tally, scope: Scope) -> list[_Pair]:
    stat = _stat(scope)
    now, before = target.get_summary(stat), reference.get_summary(stat)
    require_rows(now.count, "the held-out rows")
    require_rows(before.count, "the training rows")
    side = np.repeat([True, False], [len(now.hashes), len(before.hashes)])
    weight, bucket = (np.concatenate([getattr(now, name), getattr(before, name)]) for name in ("weights", "buckets"))
    codes = _codes(now, before)
    half = bucket % 2 == 0
    if min(np.unique(bucket[side & h]).size for h in (half, ~half)) < 3 or min(np.unique(bucket[~side & h]).size for h in (half, ~half)) < 3:
        raise Unavailable(f"the rows come from too few {scope.cluster_name} to learn on one half and judge on the other")
    any_half = np.concatenate([now.hashes, before.hashes]) % np.uint64(2) == 0
    columns, found = stat.categories + stat.numbers, []
    for i, j in combinations(range(len(codes)), 2):
        halves = half
        if scope.schema.user in (columns[i], columns[j]):  # a user is in one half only, so what belongs to users is learned from half of the rows
            if not {columns[i], columns[j]} & _of_users(scope):
                continue
            halves = any_half
        pair = _judged(columns[i], columns[j], codes[i], codes[j], side=side, weight=weight, bucket=bucket, half=halves)
        if pair is not None:
            found.append(pair)
    if not found:
        raise Unavailable("no two fields have values that are known on both sides")
    return found


def _codes(now: RowSampleSummary, before: RowSampleSummary) -> list[tuple[NDArray[np.int64], int]]:
    """Every column as small whole numbers, and how many: values, or ten groups of equal weight in training (missing apart)."""
    found = []
    for i in range(now.categories.shape[1]):
        values, place = np.unique(np.append(now.categories[:, i], before.categories[:, i]), return_inverse=True)
        found.append((place.astype(np.int64), len(values)))
    for i in range(now.numbers.shape[1]):
        x, known = np.append(now.numbers[:, i], before.numbers[:, i]), before.numbers[:, i][np.isfinite(before.numbers[:, i])]
        edges = np.unique(np.quantile(known, np.linspace(0, 1, 11)[1:-1])) if len(known) else np.zeros(0)
        found.append((np.where(np.isfinite(x), np.searchsorted(edges, x, side="right"), len(edges) + 1).astype(np.int64), len(edges) + 2))
    return found


def _judged(first: str, second: str, a: tuple[NDArray[np.int64], int], b: tuple[NDArray[np.int64], int], *, side: NDArray[np.bool_], weight: Floats,
            bucket: NDArray[np.int64], half: NDArray[np.bool_]) -> _Pair | None:
    """The AUC of a pair of columns, None where no pair of values is known on both sides. All is counted per pair of values that occurs."""
    cell, present = a[0] * b[1] + b[0], np.arange(a[1] * b[1])
    if len(present) > len(cell):
        present, cell = np.unique(cell, return_inverse=True)
    of = {(s, h): np.flatnonzero((side == s) & (half == h)) for s in (True, False) for h in (True, False)}
    counts = {key: weight_sums(cell[rows], weight[rows], len(present)) for key, rows in of.items()}
    alone = {key: [weight_sums(codes[rows], weight[rows], size) for codes, size in (a, b)] for key, rows in of.items()}
    aucs, errors, buckets = [], [], 0
    for learn in (True, False):
        score = _scores([counts[s, learn] for s in (True, False)], [[alone[s, learn][0][present // b[1]], alone[s, learn][1][present % b[1]]] for s in (True, False)])
        held_out, train = counts[True, not learn], counts[False, not learn]
        if not score[held_out + train > 0].any():
            return None
        apart = np.flatnonzero(half != learn)
        auc, error, groups = _clustered_auc(score, (held_out, train), cell[apart], side[apart], weight[apart], bucket[apart])
        aucs.append(auc)
        errors.append(error)
        buckets += groups
    auc, error, freedom = float(np.mean(aucs)), math.hypot(*errors) / 2, max(buckets - 4, 1)
    reach = t_quantile(0.95, freedom) * error
    return _Pair(columns=(first, second), p_value=two_sided_p((auc - 0.5) / error, freedom) if error > 0 else float(auc == 0.5),
                 auc=Estimate(value=auc, low=auc - reach, high=auc + reach, unit="AUC of telling held-out from training rows", n=len(cell)))


def _scores(together: list[Floats], alone: list[list[Floats]]) -> Floats:
    """ln(lift held-out / lift training) of every pair of values, from rows with both and with each; 0 where a value is rare on a side."""
    expected = [each[0] * each[1] / max(n.sum(), 1e-12) for n, each in zip(together, alone, strict=True)]
    pooled = PRIOR * (together[0] + together[1] + PRIOR) / (expected[0] + expected[1] + PRIOR)
    lifts = [(n + pooled) / (e + PRIOR) for n, e in zip(together, expected, strict=True)]
    known = np.all([count >= SEEN for each in alone for count in each], axis=0)
    return np.where(known, np.log(lifts[0] / lifts[1]), 0.0)


def _clustered_auc(score: Floats, counts: tuple[Floats, Floats], cell: NDArray[np.int64], side: NDArray[np.bool_], weight: Floats,
                   bucket: NDArray[np.int64]) -> tuple[float, float, int]:
    """AUC of a score per cell, its standard error with rows of one bucket dependent (Obuchowski 1997), and the number of buckets."""
    values, place = np.unique(score, return_inverse=True)
    sums = [np.bincount(place, count, len(values)) for count in counts]
    below = [(np.cumsum(total) - total / 2) / total.sum() for total in sums]
    auc = float((sums[0] * below[1]).sum() / sums[0].sum())
    pulls = [(below[1] - auc)[place] / sums[0].sum(), (1 - below[0] - auc)[place] / sums[1].sum()]
    per_bucket = np.bincount(bucket, weight * np.where(side, pulls[0][cell], pulls[1][cell]))
    groups = int((np.bincount(bucket) > 0).sum())
    return auc, math.sqrt(groups / (groups - 1) * float((per_bucket**2).sum())), groups
