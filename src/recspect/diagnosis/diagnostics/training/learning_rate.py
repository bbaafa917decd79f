"""Whether updates are far too large or far too small for what the loss does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import number
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stats.series import Series, SeriesSummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

RATIO, TOUCHED, LOSS = Series(name="update_ratio"), Series(name="touched_rows"), Series(name="loss/train")
FEWEST_LOOKS, FEWEST_LOSSES = 10, 30
HIGH, LOW = 0.05, 1e-5
EARLY = 3
FIRST, LAST, SURELY = 5, 15, 3.0
"""Losses whose median is the level at the start and at the end; deviations by which the end must be lower."""

Floats = NDArray[np.float64]


class LearningRate(Diagnostic):
    """Are updates far larger or far smaller than training needs?

    r = |update| / |weights| per step: the median over weight matrices (tables and biases left out), then over all looks or over the
    first three, whichever is larger: what a far too high rate has killed no longer moves. Judged only where the loss did not fall.
    """

    code = "training.learning_rate"
    question = "Do updates of the weights have a size with which the loss falls?"
    sources = ("Karpathy, CS231n: ratio of weight updates to weights, about 1e-3",
               "Smith 2017, Cyclical Learning Rates for Training Neural Networks (loss against learning rate)")

    def needs(self, scope: Scope) -> Needs:
        scope.require_target(*RATIO.columns, why="no training steps were recorded")
        return Needs.of(target=(RATIO, TOUCHED, LOSS))

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:  # noqa: ARG002 - the interface's
        steps, ratios = matrix_ratios(target.get_summary(RATIO), tables=frozenset(target.get_summary(TOUCHED).lines))
        line = target.get_summary(LOSS).line()
        losses = np.zeros(0) if line is None else line.values
        if len(ratios) < FEWEST_LOOKS or len(losses) < FEWEST_LOSSES:
            raise Unavailable(f"{len(ratios)} looks at updates and {len(losses)} losses are too few; {FEWEST_LOOKS} and {FEWEST_LOSSES} are needed",
                              hint="observe a longer training, or more often (observe_every)")
        if not np.isfinite(losses).all() or not np.isfinite(ratios).all():
            raise Unavailable("losses or updates are NaN or infinite", hint="see training.loss_anomaly and training.gradient_flow")
        curve = Curve(title="How much does one update change the weights?", x_title="step", y_title="update / weights",
                      lines=(Line(name="median weight matrix", x=tuple(map(float, steps)), y=tuple(map(float, ratios))),),
                      log_y=bool((ratios > 0).all()))
        yield rate_finding(ratios, losses, (curve,))


def rate_finding(ratios: Floats, losses: Floats, evidence: tuple[Curve, ...] = ()) -> Finding:
    """The finding for the ratios of all looks and the losses of all steps that were recorded, in order; all finite."""
    ratio, learned = max(float(np.median(ratios)), float(np.median(ratios[:EARLY]))), loss_fell(losses)
    side = judge_rate(ratio, learned=learned)
    first, last = float(np.median(losses[:FIRST])), float(np.median(losses[-LAST:]))
    seen = (f"the median weight matrix changes by {number(100 * ratio)}% per step ({len(ratios):,} looks), and the loss goes from {number(first)} "
            f"to {number(last)}")
    claims = {"": f"Updates have a usual size: {seen}.", "high": f"The learning rate looks too high: {seen}, no better than at the start.",
              "low": f"The learning rate looks too low: {seen}, no better than at the start."}
    change = (Remedy(code="lower_learning_rate", text="Lower the learning rate ten times, or warm it up.") if side == "high" else
              Remedy(code="raise_learning_rate", text="Raise the learning rate ten times."))
    return Finding(
        code=LearningRate.code, verdict=Verdict.WARN if side else Verdict.PASS, claim=claims[side], place=Place(),
        estimate=Estimate(value=ratio, unit="update / weights", n=len(ratios), of="looks"),
        threshold=f"WARN above {HIGH:g} or below {LOW:g} where the loss did not fall by {SURELY:g} deviations of its noise",
        limit=LOW if side == "low" else HIGH,
        meaning="Updates of a few percent keep overwriting what was learned; updates a hundred times smaller than usual learn nothing in time.",
        causes=(("a learning rate meant for another optimiser", "no warm-up", "weights that start very small") if side == "high" else
                ("a learning rate meant for another optimiser", "a schedule that ended early", "gradients that vanish before they arrive")),
        remedies=(change,), evidence=evidence, sources=LearningRate.sources)


def judge_rate(ratio: float, *, learned: bool) -> Literal["", "high", "low"]:
    """On which side of the usual updates are, where the loss did not fall; "" where all is well."""
    if learned:
        return ""
    return "high" if ratio > HIGH else "low" if 0 < ratio < LOW else ""  # exactly 0 is no rate: there is no gradient


def loss_fell(losses: Floats) -> bool:
    """Whether the last level of the loss is surely below that of the start and below the very first loss.

    The first loss was made before any update: where the first updates blow the loss up, coming back is no learning. Noise is taken from
    differences of neighbours, so that a trend adds none.
    """
    noise = 1.4826 * float(np.median(np.abs(np.diff(losses)))) / np.sqrt(2)
    last, error = float(np.median(losses[-LAST:])), 1.2533 * noise * np.sqrt(1 / FIRST + 1 / LAST)
    alone = noise * np.sqrt(1 + 1.2533**2 / LAST)
    return bool(float(np.median(losses[:FIRST])) - last > SURELY * error and float(losses[0]) - last > alone)


def matrix_ratios(ratios: SeriesSummary, *, tables: frozenset[str]) -> tuple[NDArray[np.int64], Floats]:
    """(steps, median ratio over weight matrices at each); the whole model's where no matrix was recorded by name."""
    lines = [line for place, line in ratios.lines.items() if place and place not in tables and not place.endswith("bias") and len(line.steps)]
    if not lines:
        whole = ratios.line()
        return (np.zeros(0, dtype=np.int64), np.zeros(0)) if whole is None else (whole.steps, whole.values)
    steps = np.concatenate([line.steps for line in lines])
    values = np.concatenate([line.values for line in lines])
    distinct, inverse = np.unique(steps, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    parts = np.split(values[order], np.cumsum(np.bincount(inverse))[:-1])
    return distinct, np.array([float(np.median(part)) for part in parts])
