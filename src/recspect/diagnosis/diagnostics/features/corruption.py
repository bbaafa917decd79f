"""What happens to the model when a field comes without a value in a share of the rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, percent, require_classes
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.ranks import auc_of_counts
from recspect.diagnosis.stat import Bucketed, jackknife
from recspect.diagnosis.stats.score_label import ScoreLabel, ScoreLabelSummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

PRESENT = "@score:missing"
SHARES = (0.0, 0.1, 0.3, 1.0)
FAIL_SHARE, WARN_SHARE, CONSTANT = 0.3, 1.0, 1.0
"""Shares of rows without the field at which the normalised entropy may not be above that of a constant."""
DRAWN = 6


@dataclass(frozen=True, kw_only=True)
class _Lost:
    """What losing a field costs.

    Args:
        field: Its name.
        some, all: Normalised entropy with the field missing in 30% of the rows, and in all.
        entropy, auc: At each of `SHARES`.
        area: Mean rise of the normalised entropy over all shares from 0 to 1.
        broken: Rows whose score is no probability without the field.
    """

    field: str
    some: Estimate
    all: Estimate
    entropy: tuple[float, ...]
    auc: tuple[float, ...]
    area: float
    broken: float

    @property
    def verdict(self) -> Verdict:
        if self.broken or self.some.surely_above(CONSTANT):
            return Verdict.FAIL
        return Verdict.WARN if self.all.surely_above(CONSTANT) else Verdict.PASS


class Corruption(Diagnostic):
    """Which field, when it is missing, makes the model worse than no model?

    NE(rho) and AUC(rho): expected when each row misses the field with probability rho, in closed form from the scores with and without it. NE is
    linear in rho; the area under its rise is half of that at 1.
    """

    code = "features.corruption"
    question = "Does the model stay useful when a field comes without a value?"
    sources = ("Hendrycks and Dietterich 2019, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (curves of corruption)",
               "Kott 2001, The Delete-a-Group Jackknife (interval)")

    def needs(self, scope: Scope) -> Needs:
        """Scores of held-out rows, as they are and without each field."""
        scope.require_binary()
        fields = _fields(scope)
        if not fields:
            raise Unavailable("there are no scores of rows without a field", hint="examine a model that takes missing values")
        scope.require_target(PRESENT, "@label", "@cluster")
        return Needs.of(target=[_stat(scope), *(_stat(scope, field) for field in fields)])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - the interface's
        present = target.get_summary(_stat(scope))
        require_classes(present.total.positive, present.total.count, "the held-out rows")
        if present.total.normalised_entropy >= CONSTANT:
            raise Unavailable("the model is no better than a constant with all fields there", hint="see predictions.normalised_entropy")
        lost = sorted((self._lost(field, target, scope) for field in _fields(scope)), key=lambda one: (-one.broken, -one.all.value))
        table = RankedTable(title="What does losing a field cost?", columns=("field", *(f"AUC, {percent(share)} missing" for share in SHARES[1:]),
                                                                             *(f"normalised entropy, {percent(share)} missing" for share in SHARES[1:]), "area"),
                            rows=tuple((one.field, *(round(auc, 4) for auc in one.auc[1:]), *(round(entropy, 4) for entropy in one.entropy[1:]), round(one.area, 4)) for one in lost),
                            caption=f"{present.total.count:,.0f} rows; with all fields AUC {present.total.auc:.4f}, normalised entropy {present.total.normalised_entropy:.4f}")
        curve = Curve(title="How does the loss go when a field is missing in more and more rows?", x_title="share of rows without the field", y_title="normalised entropy",
                      lines=(*(Line(name=one.field, x=SHARES, y=one.entropy) for one in lost[:DRAWN] if np.isfinite(one.entropy).all()),
                             Line(name="a constant", x=(0.0, 1.0), y=(CONSTANT, CONSTANT), role="reference")), caption=table.caption)
        bad = [one for one in lost if one.verdict is not Verdict.PASS]
        for one in bad:
            yield self._finding(one, one.verdict, (curve, table), present.total)
        if not bad:
            yield self._finding(lost[0], Verdict.PASS, (curve, table), present.total)

    def _lost(self, field: str, target: Tally, scope: Scope) -> _Lost:
        sides = [target.get_summary(_stat(scope)), target.get_summary(_stat(scope, field))]
        broken = sides[1].total.invalid - sides[0].total.invalid
        n = int(sides[0].total.count)
        unit = "normalised entropy"
        if broken:  # a mixture of rows that have a score and rows that have none says nothing
            nothing = Estimate(value=broken / max(broken + sides[1].total.count, 1.0), unit="share of rows without a score", n=n)
            return _Lost(field=field, some=nothing, all=nothing, entropy=(np.nan,) * len(SHARES), auc=(np.nan,) * len(SHARES), area=np.nan, broken=broken)
        some = jackknife(sides, lambda t: _entropy(t, FAIL_SHARE), unit=f"{unit}, {percent(FAIL_SHARE)} missing", n=n)
        every = jackknife(sides, lambda t: _entropy(t, WARN_SHARE), unit=f"{unit}, {percent(WARN_SHARE)} missing", n=n)
        totals = [side.total for side in sides]
        entropy = tuple(_entropy(totals, share) for share in SHARES)
        return _Lost(field=field, some=some, all=every, entropy=entropy, auc=tuple(_auc(totals, share) for share in SHARES), area=(entropy[-1] - entropy[0]) / 2, broken=0.0)

    def _finding(self, one: _Lost, verdict: Verdict, evidence: tuple[Curve, RankedTable], present: ScoreLabelSummary) -> Finding:
        decided = one.some if verdict is Verdict.FAIL else one.all
        if one.broken:
            claim = f"Without {one.field}, {one.broken:,.0f} rows get no score that is a probability ({percent(one.some.value)})."
        else:
            seen = (f"normalised entropy goes from {present.normalised_entropy:.3f} to {between(one.some, 3)} when {one.field} is missing in {percent(FAIL_SHARE)} of the rows and to "
                    f"{between(one.all, 3)} when it is missing in all; AUC from {present.auc:.3f} to {one.auc[2]:.3f} and {one.auc[-1]:.3f} ({one.all.n:,} rows)")
            claim = (f"The model stays better than a constant without any one field. The most is lost without {one.field}: {seen}." if verdict is Verdict.PASS else
                     f"Without {one.field} the model is worse than a constant: {seen}.")
        return Finding(
            code=self.code, verdict=verdict, place=Place() if verdict is Verdict.PASS else Place(kind="field", name=one.field), claim=claim, estimate=decided,
            limit=0.0 if one.broken else CONSTANT, neutral=0.0 if one.broken else CONSTANT, evidence=evidence, sources=self.sources,
            threshold=f"FAIL when rows get no score, or the normalised entropy is surely above 1 with the field missing in {percent(FAIL_SHARE)} of the rows; WARN when it is with the field missing in all",
            meaning="Joins fail and new users have no history: on such a day the field is missing, and a model that meets it badly does more harm than none.",
            causes=("training never saw the value that stands for missing, so what it reads is random", "missing numbers become 0 or another number that means something else",
                    "one field carries nearly all that the model knows"),
            remedies=(Remedy(code="train_unknown", text="Hide a share of values in training, so that what stands for missing is trained (unknown_share)."),
                      Remedy(code="mark_missing", text="Fill missing numbers with the mean, and give the model a mark that they were missing."),
                      Remedy(code="alarm_on_missing", text="Watch the share of missing values when serving (data.missing_values).")))


def _fields(scope: Scope) -> list[str]:
    return [field for field in scope.fields if f"{PRESENT}:{field}" in scope.target]


def _stat(scope: Scope, field: str = "") -> Bucketed:
    return scope.bucketed(ScoreLabel(score=f"{PRESENT}:{field}" if field else PRESENT))


def _entropy(sides: list[ScoreLabelSummary], share: float) -> float:
    """Expected normalised entropy when a share of the rows is scored without the field."""
    present, missing = sides
    constant = present.log_loss / present.normalised_entropy
    return ((1 - share) * present.log_loss + share * missing.log_loss) / constant


def _auc(sides: list[ScoreLabelSummary], share: float) -> float:
    """Expected AUC: the two rows of a pair miss the field independently of each other."""
    present, missing = sides
    positives = (1 - share) * present.positives + share * missing.positives
    negatives = (1 - share) * present.negatives + share * missing.negatives
    return auc_of_counts(positives, negatives)
