"""Do contributions say what happens when fields are taken out?"""

from __future__ import annotations

from collections.abc import Iterable

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.explanations.scored import (
    CAUSES,
    FAIL_SHARE,
    REMEDIES,
    SOURCES,
    WARN_SHARE,
    combined,
    compared,
    measured_explainers,
    needs_of,
    ratio,
    require_telling,
    skill_of,
)
from recspect.diagnosis.diagnostics.policy import between, verdict_below
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.explanation_columns import CONSTANT, MEASURED, OURS, RANDOM
from recspect.diagnosis.finding import Finding, Verdict
from recspect.diagnosis.tally import Tally


class Infidelity(Diagnostic):
    """Skill 1 - I / I_constant, where I is the mean squared difference between what contributions say of sets of fields and how far the logit falls when these are moved to the baseline."""

    code = "explanations.infidelity"
    question = "Do contributions say what happens to the score when fields are taken out?"
    sources = ("Yeh et al. 2019, On the (In)fidelity and Sensitivity of Explanations", *SOURCES)

    def needs(self, scope: Scope) -> Needs:
        return needs_of(scope, "infidelity")

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        found = {name: skill(target, scope, name) for name in measured_explainers(target, scope, "infidelity")}
        gains = fidelity_gains(target, scope)
        require_telling(list(gains.values()), "infidelity")
        ours = found[OURS]
        share = combined(target, scope, [("infidelity", CONSTANT), ("infidelity", OURS), ("infidelity", MEASURED)], lambda m: ratio(m[0] - m[1], m[0] - m[2]),
                         unit="share of the gain of what is measured")
        verdict = verdict_below(share, fail=FAIL_SHARE, warn=WARN_SHARE) if gains[MEASURED][1].surely_above(0.0) else Verdict.PASS
        yield Finding(
            code=self.code, verdict=verdict, estimate=share, limit=FAIL_SHARE if verdict is Verdict.FAIL else WARN_SHARE, neutral=1.0, sources=self.sources,
            claim=f"Contributions explain {between(ours)} of what happens to the score when sets of fields are taken out, where the best explanation that is the same for all rows explains 0 and exact ones "
                  f"1; measured contributions {between(found[MEASURED])} ({ours.n:,} rows).",
            threshold=f"FAIL when the skill is surely less than {FAIL_SHARE:g} times that of the measured explanation, WARN when surely less than {WARN_SHARE:g} times",
            meaning="Contributions that do not foretell what the model does without a field do not describe the model.", causes=() if verdict is Verdict.PASS else CAUSES,
            remedies=() if verdict is Verdict.PASS else REMEDIES,
            evidence=compared(found, title="Do contributions foretell what happens without fields?", unit="skill against the best constant explanation", better="more"))


def skill(target: Tally, scope: Scope, explainer: str) -> Estimate:
    """1 - infidelity / infidelity of the best constant explanation: 1 is exact, 0 is no better than knowing nothing of the row.

    Raises:
        Unavailable: Nothing happens without fields, or too few rows.
    """
    if explainer == CONSTANT:
        return combined(target, scope, [("infidelity", CONSTANT)], lambda m: 0.0 if m[0] > 0 else float("nan"), unit="skill against the best constant explanation")
    return combined(target, scope, [("infidelity", explainer), ("infidelity", CONSTANT)], skill_of, unit="skill against the best constant explanation")


def fidelity_gains(target: Tally, scope: Scope) -> dict[str, tuple[Estimate, Estimate]]:
    """By how much ours and the measured explanation have less infidelity than random numbers, and than the best constant one.

    Raises:
        Unavailable: Too few rows.
    """
    return {name: tuple(combined(target, scope, [("infidelity", over), ("infidelity", name)], lambda m: m[0] - m[1], unit="squared logits") for over in (RANDOM, CONSTANT))  # type: ignore[misc]
            for name in (OURS, MEASURED)}
