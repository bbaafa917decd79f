"""Whether a remedy is accepted: the target is healthy again, quality allows it, nothing that is guarded gets worse, and a placebo does not do as much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.finding import Finding, Verdict
from recspect.optimising.arms import Arm, PairedFigure, beats_constant, paired_figures
from recspect.optimising.holdout import Use
from recspect.optimising.remedy import Gate, Proposal
from recspect.schema import Schema

MARGIN = 0.002
"""Normalised entropy by which a remedy that mends a defect may surely not cost more."""
GUARDED = {"auc": 0.001, "user_auc": 0.002, "calibration": 0.02}
"""Figures that may not surely get worse by more than so much; ranking is not guarded where it was too good to be honest."""
MOST = 0.8
"""Share of the seeds that must agree on whether a finding is there."""
USUAL_WARNINGS = frozenset({"features.disagreement", "features.unused", "predictions.calibration", "predictions.calibration_slope", "recommendations.coverage",
                            "recommendations.miscalibrated_lists", "training.dead_units", "training.gradient_flow", "training.overfitting"})
"""Diagnostics that WARN of healthy runs too (docs/exam.md): where such a one FAILed, a WARN is back in its healthy range."""


class Outcome(StrEnum):
    """What came of a remedy."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the rows of the proof say about a remedy.

    Args:
        outcome: Accepted, rejected, or undecided: the finding was not seen on these rows without the remedy, so that there is nothing to mend.
        reasons: In words, with numbers; those that decided against it first.
        figures: With and without it.
        healthy_before, healthy_after: Share of the seeds in which the target is healthy.
        use: Which use of the rows this was.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    figures: tuple[PairedFigure, ...]
    healthy_before: float
    healthy_after: float
    use: Use

    @property
    def accepted(self) -> bool:
        return self.outcome is Outcome.ACCEPTED

    @property
    def gain(self) -> Estimate:
        """Of quality: how much normalised entropy falls."""
        return next(figure.gain for figure in self.figures if figure.name == "quality")


def judge(proposal: Proposal, before: Arm, after: Arm, rows: Batch, schema: Schema, use: Use, *, margin: float = MARGIN) -> Judgement:
    """Judge pairs of trainings without and with a remedy (or a placebo).

    Args:
        proposal: Says what must be healthy again and what quality must show.
        before, after: Trainings with the same seeds.
        rows: Of the proof.
        schema: Names the label and the user.
        use: Its level is that of every interval.
        margin: For remedies that must lose nothing.

    Raises:
        Unavailable: The rows are too few to judge by.
    """
    figures = paired_figures(rows, schema, before, after, level=use.level)
    failed = {pair for pair in proposal.target if sum(_worst(one.findings, pair) is Verdict.FAIL for one in before) > len(before) / 2}
    states = [[_healthy(one.findings, proposal, failed) for one in arm] for arm in (before, after)]
    shares = [sum(state is True for state in arm) / len(arm) for arm in states]
    ill = sum(state is False for state in states[0]) / len(states[0])
    named = ", ".join(code + (f" ({place})" if place else "") for code, place in proposal.target) or "nothing"
    counted = f"{named}: healthy in {sum(s is True for s in states[0])} of {len(before)} trainings without, in {sum(s is True for s in states[1])} with it"
    against, good = [], []
    (good if shares[1] >= MOST else against).append(counted)
    problem, praise = _quality(proposal, figures, after, rows, schema, use, margin)
    against += problem
    good += praise
    worse = [*_guards(proposal, figures), *_new_failures(proposal, before, after)]
    against += worse
    if not worse:
        good.append("nothing that is guarded gets surely worse")
    outcome = Outcome.REJECTED if against else Outcome.ACCEPTED
    if ill < MOST:
        outcome = Outcome.UNDECIDED
        against.insert(0, f"{named} is not seen without the remedy on the rows of the proof in {MOST:.0%} of the trainings: nothing to mend")
    return Judgement(outcome=outcome, reasons=(*against, *good), figures=figures, healthy_before=shares[0], healthy_after=shares[1], use=use)


def against_placebo(judged: Judgement, placebo: Judgement) -> Judgement:
    """The judgement, rejected where the placebo makes the target healthy as well: then it went away by itself."""
    if judged.accepted and placebo.healthy_after >= MOST:
        reason = f"the placebo makes it healthy as well, in {placebo.healthy_after:.0%} of the trainings: it goes away by itself"
        return Judgement(**{**vars(judged), "outcome": Outcome.REJECTED, "reasons": (reason, *judged.reasons)})
    return judged


# ---------------------------------------------------------------------- details


def _mine(findings: Sequence[Finding], pair: tuple[str, str]) -> list[Finding]:
    code, place = pair
    return [finding for finding in findings if finding.code == code and (not place or finding.place.name == place)]


def _worst(findings: Sequence[Finding], pair: tuple[str, str]) -> Verdict | None:
    verdicts = [finding.verdict for finding in _mine(findings, pair)]
    return max(verdicts, key=lambda verdict: verdict.severity) if verdicts else None


def _healthy(findings: Sequence[Finding], proposal: Proposal, failed: set[tuple[str, str]]) -> bool | None:
    """Whether all of the target is healthy; None where it could not be asked."""
    asked = True
    for pair in proposal.target:
        worst = _worst(findings, pair)
        usual = worst is Verdict.WARN and pair[0] in USUAL_WARNINGS and pair in failed
        if worst in (Verdict.FAIL, Verdict.WARN) and not usual:
            return False
        answered = any(finding.code == pair[0] and finding.verdict is not Verdict.UNKNOWN for finding in findings)
        asked &= answered or proposal.kind.vanishes
    return True if asked else None


def _quality(proposal: Proposal, figures: Sequence[PairedFigure], after: Arm, rows: Batch, schema: Schema, use: Use, margin: float) -> tuple[list[str], list[str]]:
    """What speaks against it, and what for it."""
    figure = next(one for one in figures if one.name == "quality")
    gain, gate = figure.gain, proposal.kind.gate
    told = f"{gain.unit} {figure.before:.4f} without and {figure.after:.4f} with it, a gain of {between(gain)}"
    if gate is Gate.HONEST:
        better = beats_constant(rows, schema, after, level=use.level)
        holds, wanted = better.surely_above(0.0), "surely better than a constant; a fall is success"
        told = f"{told}; {better.value:.4f} ({better.low or 0:.4f} to {better.high or 0:.4f}) better than a constant"
    elif gate is Gate.GAIN:
        holds, wanted = gain.surely_above(0.0), "surely above 0"
    else:
        holds, wanted = gain.surely_above(-margin), f"surely above {-margin:g}"
    sentence = f"{told} (wanted: {wanted})"
    return ([], [sentence]) if holds else ([sentence], [])


def _guards(proposal: Proposal, figures: Sequence[PairedFigure]) -> list[str]:
    honest = proposal.kind.gate is Gate.HONEST
    return [f"{figure.name} gets worse: {figure.before:.4f} without, {figure.after:.4f} with it, a gain of {between(figure.gain)}"
            for figure in figures if figure.name in GUARDED and not (honest and figure.name != "calibration") and figure.gain.surely_below(-GUARDED[figure.name])]


def _new_failures(proposal: Proposal, before: Arm, after: Arm) -> list[str]:
    """Diagnostics that fail with it in most trainings and hardly without it."""
    mine = {code for code, _ in proposal.target}

    def share(arm: Arm, code: str) -> float:
        return sum(any(finding.code == code and finding.verdict is Verdict.FAIL for finding in one.findings) for one in arm) / len(arm)

    codes = sorted({finding.code for one in after for finding in one.findings if finding.verdict is Verdict.FAIL} - mine)
    return [f"{code} fails with it and not without" for code in codes if share(after, code) >= MOST and share(before, code) <= 1 - MOST]


def between(gain: Estimate) -> str:
    """A gain with its interval, such as "+0.0031 (+0.0012 to +0.0050)"."""
    return f"{gain.value:+.4f}" + (f" ({gain.low:+.4f} to {gain.high:+.4f})" if gain.has_interval else "")


__all__ = ["GUARDED", "MARGIN", "MOST", "USUAL_WARNINGS", "Judgement", "Outcome", "against_placebo", "between", "judge"]
