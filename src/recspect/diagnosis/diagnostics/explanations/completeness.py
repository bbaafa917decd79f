"""Do contributions add up to what they explain?"""

from __future__ import annotations

from collections.abc import Iterable

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.explanations.scored import (
    REMEDIES,
    SOURCES,
    combined,
    compared,
    left_unexplained,
    measured_explainers,
    needs_of,
)
from recspect.diagnosis.diagnostics.policy import between, percent, verdict_above
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.explanation_columns import CONSTANT, OURS, RANDOM
from recspect.diagnosis.finding import Finding, Verdict
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

LIMIT = 0.05
"""Of what is explained: the rule of Captum's convergence delta, and about what eight points leave on a network with ReLUs without averaged kinks."""


class Completeness(Diagnostic):
    """Sum over rows of |sum of contributions - (score - baseline)|, as a share of the sum of |score - baseline|."""

    code = "explanations.completeness"
    question = "Do the contributions of fields add up to the score that they explain?"
    sources = ("Sundararajan, Taly and Yan 2017, Axiomatic Attribution for Deep Networks (completeness)", *SOURCES)

    def needs(self, scope: Scope) -> Needs:
        return needs_of(scope, "explained", "gap")

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        found = {name: share_left(target, scope, name) for name in measured_explainers(target, scope, "gap")}
        if not all(found[name].surely_above(LIMIT) for name in (RANDOM, CONSTANT)):
            passing = min((found[name] for name in (RANDOM, CONSTANT)), key=lambda estimate: estimate.value)
            raise Unavailable(f"the measure cannot tell here: an explanation that knows nothing of the row leaves only {between(passing)} of the score's differences unexplained ({passing.n:,} rows)",
                              hint="scores of these rows hardly differ from the baseline's")
        ours = found[OURS]
        verdict = verdict_above(ours, fail=LIMIT)
        yield Finding(
            code=self.code, verdict=verdict, estimate=ours, limit=LIMIT, sources=self.sources,
            claim=f"Contributions leave {percent(ours.value)} of the differences between scores and their baseline unexplained ({percent(ours.low or 0)} to {percent(ours.high or 0)}, {ours.n:,} rows).",
            threshold=f"FAIL when surely above {percent(LIMIT)}, WARN when above", meaning="What does not add up cannot be read as shares of the score.",
            causes=() if verdict is Verdict.PASS else ("too few points along the path for this model", "the explanation is of other weights than the model's, or begins at another baseline than it says",
                                                        "a method that does not add up: gradient x input counts products twice"),
            remedies=() if verdict is Verdict.PASS else REMEDIES,
            evidence=compared(found, title="How much of the score is left unexplained?", unit="share of the difference from the baseline", better="less"))


def share_left(target: Tally, scope: Scope, explainer: str) -> Estimate:
    """What an explainer leaves unexplained.

    Raises:
        Unavailable: Scores do not differ from the baseline, or too few rows.
    """
    return combined(target, scope, [("gap", explainer), ("explained", "")], left_unexplained, unit="share of the difference from the baseline")
