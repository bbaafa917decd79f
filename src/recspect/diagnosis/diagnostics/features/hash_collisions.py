"""Do ids that share a row of a hashed table behave alike?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, number, percent, require_classes
from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.jackknife import estimate_from
from recspect.diagnosis.stats.shared_rows import SharedRows, SharedRowsSummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable
from recspect.schema import Kind

Floats = NDArray[np.float64]
WARN, FAIL, CHANCE = 0.10, 0.50, 0.01
DRAWS, TESTED, GROUPS = 199, 2000, 25
MANY, TIMES = 10, 5.0
"""A table row with more ids than both (so many, so many times the mean) is the one for rare or unknown ids, shared on purpose."""


class HashCollisions(Diagnostic):
    """Share of rows whose table row is read for several ids with surely different label rates.

    Of n ids in m rows 1 - (1 - 1/m)^(n - 1) are expected to share one. A table row is discordant where chance makes its ids differ as much in at most 1%.
    """

    code = "features.hash_collisions"
    question = "Do ids that share a row of a hashed table behave alike?"
    sources = ("Weinberger et al. 2009, Feature Hashing for Large Scale Multitask Learning", "Shi et al. 2020, Compositional Embeddings Using Complementary Partitions")

    def needs(self, scope: Scope) -> Needs:
        """Rows and positives by table row and id, of the training rows where they hold what is needed."""
        scope.require_binary()
        stats = _stats(scope)
        if not stats:
            raise Unavailable("no field is hashed, and it is not known which table rows are read", hint="set hash_buckets on a field, or examine a PyTorch model")
        return Needs.of(target=[stat for stat, trained in stats if not trained], reference=[stat for stat, trained in stats if trained])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """One finding per field that shares rows, or one that none does."""
        quiet: list[Finding] = []
        found: list[Finding] = []
        reasons: list[Unavailable] = []
        for stat, trained in _stats(scope):
            try:
                finding = self._field((reference if trained else target).get_summary(stat), scope.schema.field(stat.column).hash_buckets, stat.column)
            except Unavailable as reason:
                reasons.append(reason)
                continue
            (quiet if finding.verdict is Verdict.PASS else found).append(finding)
        if not quiet and not found:
            raise reasons[0]
        return found or [max(quiet, key=lambda finding: finding.estimate.value if finding.estimate else 0.0)]

    def _field(self, summary: SharedRowsSummary, buckets: int | None, field: str) -> Finding:
        starts = summary.starts
        several = np.diff(starts)
        require_classes(float(summary.sums[:, 1].sum()), float(summary.sums[:, 0].sum()), f"the rows with {field}")
        ordinary = several <= max(MANY, TIMES * float(several.mean()))
        traffic = np.add.reduceat(summary.sums[:, 0], starts[:-1])
        shared = (several > 1) & ordinary
        tested = np.flatnonzero(shared)[:TESTED]
        p = np.array([_chance(summary.sums[starts[k]:starts[k + 1]]) for k in tested])
        untested = np.flatnonzero(shared)[TESTED:]
        discordant = np.zeros(len(several))
        discordant[tested] = p <= CHANCE
        discordant[untested] = discordant[tested].mean() if len(tested) else 0.0
        group = np.arange(len(several)) % GROUPS
        sums = np.stack([np.bincount(group, traffic * (discordant - CHANCE * shared), GROUPS), np.bincount(group, traffic, GROUPS)])
        sums = sums[:, sums[1] > 0]
        replicas = np.divide(sums[0].sum() - sums[0], sums[1].sum() - sums[1], out=np.zeros(sums.shape[1]), where=sums[1].sum() > sums[1])
        n = int(traffic.sum())
        share = estimate_from(max(0.0, float(sums[0].sum() / sums[1].sum())), replicas, unit="share of rows on table rows of unlike ids", n=n)
        verdict = Verdict.FAIL if share.surely_above(FAIL) else Verdict.WARN if share.surely_above(WARN) else Verdict.PASS
        ids, occupied, alone = len(summary.ids), len(several), traffic[shared].sum() / n
        expected = "" if not buckets else f"; {percent(1 - (1 - 1 / buckets) ** (ids - 1))} of {number(ids, 0)} ids are expected to share one of {buckets:,} rows"
        numbers = (f"{percent(float(alone))} of {n:,} rows read a table row that several ids of {field} share, and {between(share, 3)} (as a share of all rows) one whose ids have surely different "
                   f"label rates{expected}")
        claim = (f"Ids that share a table row differ in their label rates: {numbers}." if verdict is not Verdict.PASS else f"Few rows read a table row of ids that surely differ: {numbers}.")
        complete = summary.cut == 2**64 - 1
        theory = None if not buckets or not complete else round(buckets * (1 - (1 - 1 / buckets) ** ids), 1)
        return Finding(
            code=self.code, verdict=verdict, claim=claim, place=Place(kind="field", name=field), estimate=share, limit=FAIL if verdict is Verdict.FAIL else WARN, concerns=min(1.0, share.value),
            threshold=f"FAIL when surely more than {percent(FAIL, 0)} of the rows read a table row whose ids have different label rates (chance at most {percent(CHANCE, 0)}, which is subtracted), "
                      f"WARN when surely more than {percent(WARN, 0)}",
            meaning="Ids that share a vector are one id to the model: it predicts their mean for each.",
            causes=("hash_buckets is small for the number of ids", "the hash puts many ids into few rows", "the vocabulary grew since the table was sized"),
            remedies=(Remedy(code="more_buckets", text="Raise hash_buckets to several times the number of ids, or use a vocabulary."),
                      Remedy(code="two_hashes", text="Add up two vectors from two hashes (or quotient and remainder): ids that share both are rare.")),
            evidence=(RankedTable(title=f"How are the ids of {field} spread over the table?", columns=("figure", "found", "expected of a good hash"),
                                  rows=(("ids", ids, None), ("table rows read", occupied, theory),
                                        ("ids that share a row", int(several[several > 1].sum()), None if theory is None or not buckets else round(ids * (1 - (1 - 1 / buckets) ** (ids - 1)), 1)),
                                        ("rows for rare or unknown ids, left out", int((~ordinary).sum()), None)),
                                  caption=f"{n:,} rows{'' if complete else ', a sample of table rows'}"),), sources=self.sources)


def _stats(scope: Scope) -> list[tuple[SharedRows, bool]]:
    """The stat of each field, and whether it is taken over the training rows."""
    out = []
    for field in scope.schema.fields:
        for columns, trained in ((scope.reference, True), (scope.target, False)):
            if field.kind is not Kind.CATEGORICAL or not {field.name, "@label"} <= columns:
                continue
            if f"@row:{field.name}" in columns:
                out.append((SharedRows(column=field.name, row=f"@row:{field.name}"), trained))
                break
            if field.hash_buckets:
                out.append((SharedRows(column=field.name, buckets=field.hash_buckets), trained))
                break
    return out


def _chance(sums: Floats) -> float:
    """How often ids of one rate differ as much: positives dealt to the rows at random, which keeps small counts exact."""
    rows, positives = np.round(sums).astype(np.int64).T
    total, all_positive = int(rows.sum()), int(positives.sum())
    if not 0 < all_positive < total:
        return 1.0
    expected = rows * (all_positive / total)
    drawn = np.random.default_rng(0).multivariate_hypergeometric(rows, all_positive, size=DRAWS, method="marginals")
    seen = float(((positives - expected) ** 2 / rows).sum())
    return (1 + float((((drawn - expected) ** 2 / rows).sum(1) >= seen - 1e-9).sum())) / (DRAWS + 1)
