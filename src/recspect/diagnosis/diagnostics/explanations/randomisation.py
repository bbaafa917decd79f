"""Does the explanation notice when the model's weights are drawn anew?"""

from __future__ import annotations

from collections.abc import Iterable

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.explanations.scored import SOURCES, compared, cosines, needs_of
from recspect.diagnosis.diagnostics.policy import between, verdict_above
from recspect.diagnosis.explanation_columns import CONSTANT, OURS
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

LIMIT = 0.5
"""Half of the way between nothing in common and the same."""


class Randomisation(Diagnostic):
    """Mean cosine, over rows, between the contributions of the model and those of a copy with random weights of the same means and deviations."""

    code = "explanations.randomisation"
    question = "Is a model with random weights explained differently?"
    sources = ("Adebayo et al. 2018, Sanity Checks for Saliency Maps", *SOURCES)

    def needs(self, scope: Scope) -> Needs:
        return needs_of(scope, "randomised")

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        found = cosines(target, scope, "randomised")
        if not found[CONSTANT].surely_above(LIMIT):
            raise Unavailable("the measure cannot tell here: it does not find an explanation that never looks at the weights")
        ours = found[OURS]
        verdict = verdict_above(ours, fail=LIMIT)
        yield Finding(
            code=self.code, verdict=verdict, estimate=ours, limit=LIMIT, sources=self.sources,
            claim=f"With all weights drawn anew the contributions have a cosine of {between(ours)} with those of the model, where 1 is the same and 0 nothing in common ({ours.n:,} rows).",
            threshold=f"FAIL when surely above {LIMIT:g}, WARN when above", meaning="An explanation that stays the same with other weights explains the rows, not the model.",
            causes=() if verdict is Verdict.PASS else ("the explanation is kept from another model, or computed once and reused", "the explanation reads the inputs only"),
            remedies=() if verdict is Verdict.PASS else (Remedy(code="recompute", text="Compute explanations from the weights that are served, and keep the checkpoint's mark beside them."),),
            evidence=compared(found, title="How much of the explanation stays with random weights?", unit="cosine", better="less"))
