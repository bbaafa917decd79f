"""Do explanations from other baselines say the same?"""

from __future__ import annotations

from collections.abc import Iterable

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.explanations.scored import SOURCES, compared, cosines, needs_of
from recspect.diagnosis.diagnostics.policy import between, verdict_below
from recspect.diagnosis.explanation_columns import OURS, RANDOM
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

FAIL, WARN = 0.4, 0.7


class Baselines(Diagnostic):
    """Mean cosine, over rows, between the contributions and integrated gradients averaged over rows drawn at random as baselines."""

    code = "explanations.baselines"
    question = "Do explanations say much the same from other baselines?"
    sources = ("Erion et al. 2021, Improving performance of deep learning models with axiomatic attribution priors and expected gradients", *SOURCES)

    def needs(self, scope: Scope) -> Needs:
        return needs_of(scope, "baselines")

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        found = cosines(target, scope, "baselines")
        if not found[RANDOM].surely_below(FAIL):
            raise Unavailable("the measure cannot tell here: random numbers agree as well as explanations", hint="give more fields or more rows")
        ours = found[OURS]
        verdict = verdict_below(ours, fail=FAIL, warn=WARN)
        yield Finding(
            code=self.code, verdict=verdict, estimate=ours, limit=FAIL if verdict is Verdict.FAIL else WARN, neutral=1.0, sources=self.sources,
            claim=f"Explained from other rows as baselines instead of their mean, contributions have a cosine of {between(ours)} with these, where 1 is the same ({ours.n:,} rows).",
            threshold=f"FAIL when surely below {FAIL:g}, WARN when surely below {WARN:g}", meaning="Where baselines disagree, an explanation says more about what the row is compared with than about the model.",
            causes=() if verdict is Verdict.PASS else ("the mean row is unlike any row: fields whose values form groups", "strong interactions between fields", "the baseline is zeros, or of another table"),
            remedies=() if verdict is Verdict.PASS else (Remedy(code="expected_gradients", text="Explain by expected gradients, and say what a row is compared with."),),
            evidence=compared(found, title="Do contributions agree from other baselines?", unit="cosine", better="more"))
