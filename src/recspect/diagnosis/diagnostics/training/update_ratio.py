"""Whether single tensors move far faster than healthy ones do, or hardly at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import names, number, percent, plural
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Evidence, Line, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stats.series import Series
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

RATIO = Series(name="update_ratio")
HIGH, SHORTEST_WAY = 0.15, 0.02
"""Change per step, and change over all steps at the usual pace, as shares of the tensor's size."""
FEWEST_LOOKS, FEWEST_STEPS = 10, 100
DRAWN = 4


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    """One weight matrix or table.

    Args:
        name: Of the parameter.
        steps, ratios: |update| / |weights| at each look.
        way: Median ratio x steps of the training: how far the tensor goes at its usual pace, at most, as a share of its size.
    """

    name: str
    steps: NDArray[np.int64]
    ratios: NDArray[np.float64]
    way: float

    @property
    def pace(self) -> float:
        return float(np.median(self.ratios))


class UpdateRatio(Diagnostic):
    """Does every tensor learn at a usual pace?

    r = |update| / |weights| at each look, per weight matrix and table (touched rows only), biases left out since they start at 0; pace = median over
    looks. Too fast: pace above 0.15. Standing still: pace x steps below 0.02, so that the training as a whole changes the tensor by less than 2 %.
    """

    code = "training.update_ratio"
    question = "Are there weights that change far too fast or hardly at all?"
    sources = ("Karpathy, CS231n: ratio of weight updates to weights, about 1e-3",)

    def needs(self, scope: Scope) -> Needs:
        scope.require_target(*RATIO.columns, why="no training steps were recorded")
        return Needs.of(target=(RATIO,))

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:  # noqa: ARG002 - the interface's
        lines = {place: line for place, line in target.get_summary(RATIO).lines.items() if place and not place.endswith("bias")}
        looks = max((len(line.steps) for line in lines.values()), default=0)
        last = max((int(line.steps[-1]) for line in lines.values() if len(line.steps)), default=0)
        if looks < FEWEST_LOOKS or last < FEWEST_STEPS:
            raise Unavailable(f"{plural(looks, 'look')} at updates in {plural(last, 'step')} are too few; {FEWEST_LOOKS} looks and {FEWEST_STEPS} steps are needed",
                              hint="observe a longer training, or more often (observe_every)")
        if not all(np.isfinite(line.values).all() for line in lines.values()):
            raise Unavailable("updates are NaN or infinite", hint="see training.loss_anomaly and training.gradient_flow")
        tensors = [_Tensor(name=place, steps=line.steps, ratios=line.values, way=float(np.median(line.values)) * last)
                   for place, line in lines.items() if len(line.steps) >= FEWEST_LOOKS]
        fast = sorted((t for t in tensors if t.pace > HIGH), key=lambda t: -t.pace)
        still = sorted((t for t in tensors if t.way < SHORTEST_WAY), key=lambda t: t.way)
        if fast:
            yield self._fast(fast, tensors)
        if still:
            yield self._still(still, tensors, last)
        if not fast and not still:
            low, high = min(tensors, key=lambda t: t.pace), max(tensors, key=lambda t: t.pace)
            yield self._finding(tensors, [low, high], Verdict.PASS, high.pace, n=len(high.ratios), limit=HIGH, claim=(
                f"All {plural(len(tensors), 'tensor')} change at a usual pace: from {percent(low.pace)} of their size per step ({low.name}) to {percent(high.pace)} ({high.name})"
                f", {looks:,} looks in {last:,} steps."))

    def _fast(self, fast: list[_Tensor], tensors: list[_Tensor]) -> Finding:
        worst = fast[0]
        return self._finding(
            tensors, fast, Verdict.WARN, worst.pace, n=len(worst.ratios), limit=HIGH, place=worst.name,
            claim=f"{plural(len(fast), 'tensor changes', 'tensors change')} by more than {percent(HIGH)} of {'its' if len(fast) == 1 else 'their'} size in a usual step: "
                  f"{names([f'{t.name} ({percent(t.pace)})' for t in fast])}. Healthy ones of our runs stayed below 9%.",
            meaning="A tensor that is rewritten every few steps keeps nothing of what it learned.",
            causes=("weight decay so strong that weights are about as small as one update", "a learning rate that is too high for these parameters",
                    "weights that start very small under an adaptive optimiser"),
            remedies=(Remedy(code="lower_weight_decay", text="Lower the weight decay of these parameters."),
                      Remedy(code="lower_learning_rate", text="Lower the learning rate of these parameters ten times, or warm it up.")))

    def _still(self, still: list[_Tensor], tensors: list[_Tensor], steps: int) -> Finding:
        worst = still[0]
        frozen = [t for t in still if t.pace == 0]
        told = names([f"{t.name} ({percent(t.way)})" for t in still])
        return self._finding(
            tensors, still, Verdict.WARN, worst.way, n=len(worst.ratios), limit=SHORTEST_WAY, place=worst.name, unit="change over all steps / weights",
            claim=f"{plural(len(still), 'tensor hardly moves', 'tensors hardly move')}: at the usual pace, {steps:,} steps change {'it' if len(still) == 1 else 'each'} by at most {told} of its size."
                  + (f" {names([t.name for t in frozen])} did not change at all in most looks." if frozen else ""),
            meaning="What does not move stays as it was drawn at random: the parameters are paid for, but they learn nothing.",
            causes=("a learning rate that is far too low for these parameters, or another optimiser's", "no gradient arrives: units died, or a layer above is saturated",
                    "parameters that no optimiser was given, or frozen on purpose"),
            remedies=(Remedy(code="raise_learning_rate", text="Raise the learning rate of these parameters ten times."),
                      Remedy(code="check_parameter_groups", text="Look whether the optimiser was given these parameters, and at which rate.")))

    def _finding(self, tensors: list[_Tensor], drawn: list[_Tensor], verdict: Verdict, value: float, *, n: int, limit: float, claim: str, place: str = "",
                 unit: str = "update / weights", meaning: str = "", causes: tuple[str, ...] = (), remedies: tuple[Remedy, ...] = ()) -> Finding:
        drawn = drawn[:DRAWN]
        table = RankedTable(title="How fast does each tensor change?", columns=("tensor", "median update / weights", "times steps", "looks"),
                            rows=tuple((t.name, float(f"{t.pace:.3g}"), float(f"{t.way:.3g}"), len(t.ratios)) for t in sorted(tensors, key=lambda t: -t.pace)))
        curve = Curve(title="How much does one update change the weights?", x_title="step", y_title="update / weights",
                      lines=tuple(Line(name=t.name, x=tuple(map(float, t.steps)), y=tuple(t.ratios.tolist())) for t in drawn),
                      log_y=all((t.ratios > 0).all() for t in drawn))
        evidence: tuple[Evidence, ...] = (curve, table)
        return Finding(
            code=self.code, verdict=verdict, claim=claim, place=Place(kind="layer", name=place) if place else Place(),
            estimate=Estimate(value=value, unit=unit, n=n, of="looks"), limit=limit, meaning=meaning, causes=causes, remedies=remedies, evidence=evidence, sources=self.sources,
            threshold=f"WARN when the median update is above {number(HIGH)} of the weights, or when at that pace all steps together change less than {number(SHORTEST_WAY)} of them")
