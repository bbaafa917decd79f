"""Does the model rely on fields that do not help?"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.features.scores import (
    epoch_stats,
    error_stats,
    field_scores,
    flow_stat,
    loss_stat,
    score_evidence,
    usefulness,
)
from recspect.diagnosis.diagnostics.policy import between, number, percent
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable


class Spurious(Diagnostic):
    """High reliance with a usefulness of 0 or less on held-out rows: the signature of a memorised or spurious field."""

    code = "features.spurious"
    question = "Does the model rely on fields that do not help?"
    sources = ("Dhamdhere, Sundararajan and Yan 2018, How Important Is a Neuron?",
               "Covert, Lundberg and Lee 2020, Understanding Global Feature Contributions With Additive Importance Measures (SAGE)")

    def needs(self, scope: Scope) -> Needs:
        """Flows of all fields on held-out rows, after each epoch and by slice, and what fields take off the loss on training rows."""
        scope.require_target("@cluster")
        flows, loss = scope.bucketed(flow_stat(scope)), scope.bucketed(loss_stat(scope))
        epochs = tuple((ALL, stat) for stat in epoch_stats(scope).values())
        reference = (loss,) if scope.reference.issuperset(loss.columns) else ()
        needs = Needs.of(target=dict.fromkeys((flows, loss, *error_stats(scope))), reference=reference)
        slices = tuple((slice_, loss_stat(scope)) for slice_ in scope.slices)
        return Needs(target=(*needs.target, *epochs, *slices), reference=needs.reference)

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """A finding per field that is relied on without help, or one that there is none."""
        scores = field_scores(target, scope)
        trained: dict[str, Estimate] = {}
        with suppress(Unavailable):  # training rows are not always there, and may be too few
            trained = usefulness(reference, scope)
        evidence = score_evidence(target, scope, scores, trained)
        equal = 1 / len(scores)
        found = [s for s in scores if s.usefulness is not None and s.usefulness.has_interval
                 and s.reliance.value > equal and s.usefulness.value <= 0]
        for s in found:
            assert s.usefulness is not None
            sure = s.usefulness.surely_below(0.0) and s.reliance.surely_above(equal)
            earlier = trained.get(s.field)
            memorised = earlier is not None and earlier.surely_above(0.0)
            told = f" On training rows it takes {between(earlier)} nats off: it was learned by heart." if earlier is not None and memorised else ""
            yield Finding(
                code=self.code, verdict=Verdict.FAIL if sure else Verdict.WARN, place=Place(kind="field", name=s.field), estimate=s.usefulness,
                concerns=s.reliance.value,
                claim=f"The model relies on {s.field} without being helped by it: its reliance score is {percent(s.reliance.value)} (an equal share is {percent(equal)}), and it changes the "
                      f"loss by {_added(s.usefulness)} nats per held-out row ({s.usefulness.n:,} rows), where above 0 is worse.{told}",
                threshold="FAIL when the field has surely more than an equal share of reliance and surely adds to the loss; WARN when the values say so",
                meaning="Movement of the score that does not predict the outcome is noise, and ranks items by chance.",
                causes=(("its values were memorised: many rare ids, large embeddings, several epochs",) if memorised else
                        ("it drifted: what was learned holds no longer", "its values were memorised: many rare ids, several epochs"))
                       + ("it is noise that was not regularised away",),
                remedies=(Remedy(code="drop_field", text=f"Train without {s.field} and compare on held-out rows."),
                          Remedy(code="regularise_field", text=f"Raise the minimum count or the weight decay of {s.field}, or train fewer epochs.")),
                evidence=evidence, sources=self.sources)
        if not found:
            first = scores[0]
            yield Finding(
                code=self.code, verdict=Verdict.PASS, estimate=first.reliance, evidence=evidence, sources=self.sources,
                claim=f"No field that the model relies on much is without help: {first.field} comes first with a reliance score of "
                      f"{percent(first.reliance.value)}, and takes {number(_value(first.usefulness))} nats of loss off per held-out row "
                      f"({0 if first.usefulness is None else first.usefulness.n:,} rows).",
                threshold=f"relied on: above an equal share, {percent(equal)}; without help: usefulness of 0 or less")


def _value(estimate: Estimate | None) -> float:
    return float("nan") if estimate is None else estimate.value


def _added(usefulness: Estimate) -> str:
    """What a field adds to the loss: its usefulness with the other sign."""
    low, high = (None if end is None else -end for end in (usefulness.high, usefulness.low))
    return between(Estimate(value=-usefulness.value, low=low, high=high, unit=usefulness.unit, n=usefulness.n))
