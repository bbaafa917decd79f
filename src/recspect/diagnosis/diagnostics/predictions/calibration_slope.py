"""Are the scores as sure of themselves as they may be?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, number, require_classes
from recspect.diagnosis.diagnostics.predictions.logistic import fit_line, scores_needed, scores_of, slope_of
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.stats.score_label import ScoreLabelSummary
from recspect.diagnosis.tally import Tally

LOW_WARN, LOW_FAIL, HIGH_WARN, HIGH_FAIL = 0.9, 0.7, 1 / 0.9, 1 / 0.7


class CalibrationSlope(Diagnostic):
    """The slope c of logit P(y) = a + c logit p, fitted on the held-out rows: below 1 the scores are too extreme, above 1 not extreme enough."""

    code = "predictions.calibration_slope"
    question = "Are the scores as sure of themselves as they may be?"
    sources = ("Cox 1958, Two Further Applications of a Model for Binary Regression", "Van Calster et al. 2019, Calibration: the Achilles heel of predictive analytics")

    def needs(self, scope: Scope) -> Needs:
        """The scores against the label, on training rows too where they are scored."""
        return scores_needed(scope)

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """One finding."""
        stat = scores_of(scope)
        summary = target.get_summary(stat)
        total: ScoreLabelSummary = summary.total
        require_classes(total.positive, total.count, "the held-out rows")
        slope = slope_of(summary)
        intercept, _ = fit_line(total)
        in_training = fit_line(reference.get_summary(stat).total)[1] if reference.has(stat) else float("nan")
        verdict = _verdict(slope)
        sure = "too sure of themselves" if slope.value < 1 else "not sure enough"
        start = "The scores are as sure of themselves as they may be" if verdict is Verdict.PASS else f"The scores are {sure}"
        against = f" On the training rows it is {number(in_training, 2)}." if np.isfinite(in_training) else ""
        learned_by_heart = np.isfinite(in_training) and in_training > slope.value + 0.1
        low = ("trained for too long, or with too little regularisation" + (": on the training rows the slope is right" if learned_by_heart and in_training > LOW_WARN else ""),
               "the score is of another scale than a logistic probability", "the world changed, so that what was learned says less")
        high = ("regularised too strongly, or trained too briefly", "labels of training rows were noisier than these", "an average of several models")
        limit = {Verdict.FAIL: (LOW_FAIL, HIGH_FAIL), Verdict.WARN: (LOW_WARN, HIGH_WARN), Verdict.PASS: (LOW_WARN, HIGH_WARN)}[verdict][slope.value > 1]
        yield Finding(
            code=self.code, verdict=verdict, estimate=slope, neutral=1.0, limit=limit, sources=self.sources, evidence=(_curve(total, intercept, slope.value),),
            claim=f"{start}: slope {between(slope, 2)} and intercept {number(intercept, 2)} of the log odds on {slope.n:,} held-out rows; 1 and 0 are right.{against}",
            threshold=f"WARN when the slope is surely outside {LOW_WARN} to {number(HIGH_WARN, 2)}, FAIL when surely outside {LOW_FAIL} to {number(HIGH_FAIL, 2)}",
            meaning="High scores promise more than they keep and low scores less (or the other way), so bids and blended rankings are wrong at both ends even when "
                    "the average is right.",
            causes=low if slope.value < 1 else high,
            remedies=(Remedy(code="recalibrate", text=f"Fit a Platt calibration on recent rows: logit q = {number(intercept, 2)} + {number(slope.value, 2)} logit p."),
                      Remedy(code="regularise", text="Train for fewer epochs or with more regularisation (training.overfitting says which)." if slope.value < 1 else
                             "Train for longer or with less regularisation.")))


def _verdict(slope: Estimate) -> Verdict:
    if slope.surely_below(LOW_FAIL) or slope.surely_above(HIGH_FAIL):
        return Verdict.FAIL
    return Verdict.WARN if slope.surely_below(LOW_WARN) or slope.surely_above(HIGH_WARN) else Verdict.PASS


def _curve(total: ScoreLabelSummary, intercept: float, slope: float) -> Curve:
    rows = [(w, p, y) for w, p, y in total.reliability(12) if 0 < p < 1]
    x = np.array([np.log(p / (1 - p)) for _, p, _ in rows])
    observed = np.array([np.log((y * w + 0.5) / ((1 - y) * w + 0.5)) for w, _, y in rows])
    ends = np.array([x.min(), x.max()]) if len(x) else np.zeros(2)
    return Curve(title="Do the log odds rise as steeply as the scores say?", x_title="predicted log odds", y_title="observed log odds",
                 lines=(Line(name="observed", x=tuple(x.tolist()), y=tuple(observed.tolist())),
                        Line(name="fitted", x=tuple(ends.tolist()), y=tuple((intercept + slope * ends).tolist()), role="fault"),
                        Line(name="agreement", x=tuple(ends.tolist()), y=tuple(ends.tolist()), role="ideal")),
                 caption=f"{len(rows)} groups of equal size by score, {total.count:,.0f} held-out rows")
