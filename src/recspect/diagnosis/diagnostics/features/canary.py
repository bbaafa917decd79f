"""Which fields does the model make no more of than of a field of pure chance?"""

from __future__ import annotations

from collections.abc import Iterable

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.features.scores import FieldScore, field_scores, flow_stat, loss_stat
from recspect.diagnosis.diagnostics.policy import between, names, number, percent, plural
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.jackknife import jackknife
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

CANARY = "canary:"
"""Prefix of fields that hold pure chance: `canary:item` has the values of `item`, dealt to other rows."""

_THRESHOLD = ("WARN when a field takes no more off the held-out loss than the canary that takes most off (without labels: is relied on no more than the canary); FAIL when a canary is surely "
              "relied on more than an equal share, WARN when surely more than half of one")


class Canary(Diagnostic):
    """Every field against a field of pure chance that was planted before training (`recspect.features.with_canary`).

    Fields that rank below it are noise to this model. How far it is relied on says how much noise the model learns by heart.
    """

    code = "features.canary"
    question = "Which fields does the model make no more of than of a field of pure chance?"
    sources = ("Kursa and Rudnicki 2010, Feature Selection with the Boruta Package (shadow features)", "Stoppiglia et al. 2003, Ranking a Random Feature for Variable and Feature Selection")

    def needs(self, scope: Scope) -> Needs:
        """Contributions of all fields on held-out rows, and the loss that they take off where there are labels.

        Raises:
            Unavailable: No canary was planted, or contributions were not measured.
        """
        if not any(field.startswith(CANARY) for field in scope.fields or scope.schema.field_names):
            raise Unavailable("no field of pure chance was planted", hint=f"add one before training, with recspect.features.with_canary, and declare it: '{CANARY}item'")
        scope.require_target("@cluster")
        stats = [scope.bucketed(flow_stat(scope))]
        if flow_stat(scope).loss:
            stats.append(scope.bucketed(loss_stat(scope)))
        return Needs.of(target=dict.fromkeys(stats))

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        """One finding about the fields, and one for each canary that is relied on."""
        scores = field_scores(target, scope)
        canaries = [score for score in scores if score.field.startswith(CANARY)]
        others = [score for score in scores if not score.field.startswith(CANARY)]
        if not canaries or not others:
            raise Unavailable("there is no contribution of a canary, or of no other field")
        table = RankedTable(title="Which fields rank below pure chance?", columns=("field", "usefulness, nats per row", "reliance", "rank"),
                            rows=tuple((s.field, None if s.usefulness is None else number(s.usefulness.value, 3), percent(s.reliance.value), rank + 1)
                                       for rank, s in enumerate(sorted(scores, key=_rank))), caption=f"{plural(scores[0].reliance.n, 'held-out row')}; the canaries hold values dealt at random")
        equal = 1 / len(scores)
        for canary in canaries:
            if canary.reliance.surely_above(equal / 2):
                yield self._relied_on(canary, equal, table)
        best = min(canaries, key=_rank)
        gaps = {other.field: _above(other, best, target, scope) for other in others}
        below = sorted((field for field, gap in gaps.items() if gap.value <= 0), key=lambda field: gaps[field].value)
        nearest = min(gaps, key=lambda field: gaps[field].value)
        what = "takes more off the held-out loss" if best.usefulness is not None else "is relied on more"
        if below:
            yield Finding(
                code=self.code, verdict=Verdict.WARN, estimate=gaps[below[0]], place=Place(kind="field", name=below[0]), threshold=_THRESHOLD, limit=0.0, evidence=(table,), sources=self.sources,
                concerns=sum(other.reliance.value for other in others if other.field in below),
                claim=f"{names(below)} rank{'s' if len(below) == 1 else ''} below {best.field}, which is pure chance: {below[0]} less the canary is {between(gaps[below[0]])} {gaps[below[0]].unit} "
                      f"({gaps[below[0]].n:,} rows).",
                meaning="To this model these fields are noise: what they add to scores ranks items by chance.",
                causes=("the fields say nothing that the others do not say", "they are too rare, or trained too little, for their effect to be learned", "they were learned by heart, like the canary"),
                remedies=(Remedy(code="drop_field", text=f"Train without {names(below)} and compare on held-out rows."),
                          Remedy(code="regularise_field", text="Raise the minimum count or the weight decay of these fields.")))
        else:
            yield Finding(
                code=self.code, verdict=Verdict.PASS, estimate=gaps[nearest], threshold=_THRESHOLD, neutral=0.0, evidence=(table,), sources=self.sources,
                claim=f"Every one of {plural(len(others), 'field')} {what} than {best.field}, which is pure chance; the nearest, {nearest}, by {between(gaps[nearest])} {gaps[nearest].unit} "
                      f"({gaps[nearest].n:,} rows).")

    def _relied_on(self, canary: FieldScore, equal: float, table: RankedTable) -> Finding:
        fail = canary.reliance.surely_above(equal)
        return Finding(
            code=self.code, verdict=Verdict.FAIL if fail else Verdict.WARN, place=Place(kind="field", name=canary.field), estimate=canary.reliance, threshold=_THRESHOLD,
            limit=equal if fail else equal / 2, concerns=canary.reliance.value, evidence=(table,), sources=self.sources,
            claim=f"The model relies on {canary.field}, which is pure chance: {between(canary.reliance)} of all reliance (an equal share is {percent(equal)}; {canary.reliance.n:,} rows).",
            meaning="It learns noise by heart, and does the same with the real fields that have as many values.",
            causes=("several epochs over rows with rare ids", "a learning rate too high, or no weight decay on embeddings", "embeddings larger than the rows can fill"),
            remedies=(Remedy(code="fewer_epochs", text="Train one epoch, or stop when held-out loss rises."),
                      Remedy(code="regularise_field", text="Raise the minimum count of ids, or the weight decay of embeddings."),
                      Remedy(code="tune_learning_rate", text="Lower the learning rate by a factor of ten.")))


def _rank(score: FieldScore) -> tuple[float, str]:
    """Most useful first; without labels, most relied on."""
    return (-(score.reliance.value if score.usefulness is None else score.usefulness.value), score.field)


def _above(other: FieldScore, canary: FieldScore, target: Tally, scope: Scope) -> Estimate:
    """How much more a field is worth than the canary, with the same users left out of both."""
    by_loss = canary.usefulness is not None
    stat = loss_stat(scope) if by_loss else flow_stat(scope)
    a, b = (stat.fields.index(score.field) for score in (other, canary))
    summary = target.get_summary(scope.bucketed(stat))
    if by_loss:
        return jackknife([summary], lambda t: float(t[0].mean_usefulness()[a] - t[0].mean_usefulness()[b]), unit="nats of loss taken off per row", n=int(summary.total.count))
    return jackknife([summary], lambda t: float(t[0].reliance()[a] - t[0].reliance()[b]), unit="reliance score", n=int(summary.total.count))
