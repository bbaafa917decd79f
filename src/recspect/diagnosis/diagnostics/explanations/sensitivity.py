"""Do explanations jump when a row hardly changes?"""

from __future__ import annotations

from collections.abc import Iterable

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.explanations.infidelity import fidelity_gains
from recspect.diagnosis.diagnostics.explanations.scored import (
    SOURCES,
    combined,
    compared,
    explainers,
    moves_per_move,
    needs_of,
)
from recspect.diagnosis.diagnostics.policy import between, number, verdict_above
from recspect.diagnosis.explanation_columns import CONSTANT, MOVED_SHARE, OURS, RANDOM
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

FAIL, WARN = 10.0, 4.0
"""Times the row's own move. Contributions of a linear model move as far as the row, of products of two fields twice, of three cross layers four times as far."""


class Sensitivity(Diagnostic):
    """Sum over rows of the largest change of the contributions under small moves of the row, over their length, in units of the move."""

    code = "explanations.sensitivity"
    question = "Do explanations stay much the same when a row hardly changes?"
    sources = ("Yeh et al. 2019, On the (In)fidelity and Sensitivity of Explanations (max-sensitivity)", *SOURCES)

    def needs(self, scope: Scope) -> Needs:
        return needs_of(scope, "moved", "length", "infidelity")

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        found = {name: combined(target, scope, [("moved", name), ("length", name)], moves_per_move, unit="times the row's own move") for name in explainers(scope, "moved")}
        if not found[RANDOM].surely_above(FAIL):
            raise Unavailable(f"the measure cannot tell here: random numbers move only {between(found[RANDOM])} times as far as the row ({found[RANDOM].n:,} rows)")
        if not fidelity_gains(target, scope)[OURS][1].surely_above(0.0):
            raise Unavailable("the measure cannot tell here: an explanation that is the same for every row never moves, and the one judged is not surely more faithful than that one",
                              hint="see explanations.infidelity")
        ours = found[OURS]
        verdict = verdict_above(ours, fail=FAIL, warn=WARN)
        yield Finding(
            code=self.code, verdict=verdict, estimate=ours, limit=FAIL if verdict is Verdict.FAIL else WARN, sources=self.sources,
            claim=f"When rows move by up to {MOVED_SHARE:.0%} of the way to their baseline, their contributions move at most {between(ours)} times as far; random numbers would move "
                  f"{number(found[RANDOM].value)} times as far ({ours.n:,} rows).",
            threshold=f"FAIL when surely above {FAIL:g}, WARN when surely above {WARN:g}; judged only where explanations.infidelity tells the explanation from one that is {CONSTANT}",
            meaning="Two rows that are nearly the same would be told different reasons.",
            causes=() if verdict is Verdict.PASS else ("the model itself jumps: very large weights, saturated or periodic activations", "too few points along the path for this model"),
            remedies=() if verdict is Verdict.PASS else (Remedy(code="smooth_activations", text="Train with smooth activations or more weight decay, and compare on held-out rows."),
                                                         Remedy(code="more_points", text="Integrate with more points, or with a tolerance instead of a fixed number.")),
            evidence=compared(found, title="How far do contributions move with the row?", unit="times the row's own move", better="less"))
