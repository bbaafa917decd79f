"""Are the odds of all scores off by one factor, as after sampling negatives?"""

from __future__ import annotations

import math
from collections.abc import Iterable

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, number, percent, require_classes
from recspect.diagnosis.diagnostics.predictions.logistic import (
    corrected_ratio,
    fit_offset,
    scores_needed,
    scores_of,
    slope_of,
)
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.jackknife import BucketedSummary
from recspect.diagnosis.stats.score_label import ScoreLabelSummary
from recspect.diagnosis.tally import Tally

WARN, FAIL = 1.25, 2.0
SLOPE_LOW, SLOPE_HIGH = 0.8, 1.25


class NegativeSampling(Diagnostic):
    """Predicted over true odds, taken as one factor for all rows: where the slope of the log odds is about 1, one factor explains what is off.

    A model trained on rows whose negatives were kept at rate w predicts odds 1 / w times too high. A label rate that fell by as much looks
    the same from totals; the label rates of both sides say which to suspect.
    """

    code = "predictions.negative_sampling"
    question = "Are the odds of all scores off by one factor, as after sampling negatives?"
    sources = ("He et al. 2014, Practical Lessons from Predicting Clicks on Ads at Facebook", "Saerens et al. 2002, Adjusting the Outputs of a Classifier to New a Priori Probabilities")

    def needs(self, scope: Scope) -> Needs:
        """The scores against the label, and the labels of training rows."""
        return scores_needed(scope)

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """One finding."""
        stat = scores_of(scope)
        summary = target.get_summary(stat)
        total: ScoreLabelSummary = summary.total
        require_classes(total.positive, total.count, "the held-out rows")
        factor, slope = _factor(summary), slope_of(summary)
        one_factor = SLOPE_LOW <= slope.value <= SLOPE_HIGH
        size = factor if factor.value >= 1 else _inverse(factor)
        verdict = Verdict.PASS
        if one_factor and size.surely_above(WARN):
            verdict = Verdict.FAIL if size.surely_above(FAIL) else Verdict.WARN
        trained: ScoreLabelSummary | None = reference.get_summary(stat).total if reference.has(stat) else None
        if trained is not None and not 0 < trained.positive < trained.count:
            trained = None
        keep = 1 / factor.value
        after = corrected_ratio(total, -math.log(factor.value))
        numbers = f"predicted odds are {between(factor, 2)} times the true ones on {factor.n:,} held-out rows, with a slope of {number(slope.value, 2)}"
        if verdict is Verdict.PASS:
            claim = (f"The odds of the scores are not off by one factor: {numbers}." if one_factor else
                     f"One factor does not explain the scores: {numbers}; see predictions.calibration_slope.")
        else:
            claim = (f"The odds of all scores are off by one factor: {numbers}. Dividing the odds by it makes predicted over observed positives "
                     f"{number(after, 3)} where it was {number(total.calibration_ratio, 3)}.{_sides(total, trained)}")
        limit = FAIL if verdict is Verdict.FAIL else WARN
        yield Finding(
            code=self.code, verdict=verdict, estimate=factor, neutral=1.0, limit=limit if factor.value >= 1 else 1 / limit, claim=claim, sources=self.sources,
            threshold=f"only where the slope of the log odds is about 1 ({SLOPE_LOW} to {SLOPE_HIGH}): FAIL when the factor is surely more than "
                      f"{FAIL:.0f} or less than its inverse, WARN when surely more than {WARN}",
            meaning="The order of rows is right and every probability is wrong by the same factor of odds, which one formula mends.",
            causes=_causes(factor.value, total, trained),
            remedies=(Remedy(code="correct_sampling", text=f"Use p / (p + (1 - p) / w) with w = {number(keep)}, or the rate at which you keep negatives."),
                      Remedy(code="retrain_recent", text="If no negatives were sampled, train on newer rows: the label rate moved."),
                      Remedy(code="recalibrate", text="Fit the intercept anew on recent complete rows.")),
            evidence=(_bars(total, trained, after),))


def _factor(summary: BucketedSummary) -> Estimate:
    """Predicted over true odds with its interval, which is taken on the log scale.

    Raises:
        Unavailable: One class only.
    """
    log = summary.estimate(lambda total: -fit_offset(total), unit="predicted / true odds", n=lambda total: total.count)
    if not log.has_interval:
        return Estimate(value=math.exp(log.value), unit=log.unit, n=log.n)
    return Estimate(value=math.exp(log.value), low=math.exp(log.low or 0.0), high=math.exp(log.high or 0.0), unit=log.unit, n=log.n)


def _inverse(factor: Estimate) -> Estimate:
    ends = (1 / (factor.high or 1), 1 / (factor.low or 1)) if factor.has_interval else (None, None)
    return Estimate(value=1 / factor.value, low=ends[0], high=ends[1], unit=factor.unit, n=factor.n)


def _odds(total: ScoreLabelSummary) -> float:
    return total.positive / (total.count - total.positive)


def _sides(total: ScoreLabelSummary, trained: ScoreLabelSummary | None) -> str:
    if trained is None:
        return ""
    return (f" {percent(trained.base_rate)} of the training rows are positive and {percent(total.base_rate)} of the held-out rows, so their odds differ by a factor of "
            f"{number(_odds(trained) / _odds(total), 2)}; on the training rows the scores are off by {number(math.exp(-fit_offset(trained)), 2)}.")


def _causes(factor: float, total: ScoreLabelSummary, trained: ScoreLabelSummary | None) -> tuple[str, ...]:
    sampled = "negatives were sampled in training and the scores were not corrected"
    moved = "the share of positives changed after training"
    other = "the model was trained on rows sampled otherwise than the training rows given here"
    if factor < 1:
        return ("positives were sampled, or negatives were added, in training", moved, "labels were counted in another way in training")
    if trained is None:
        return (sampled, moved)
    fits_training = abs(fit_offset(trained)) < math.log(factor) / 2
    return (sampled, moved) if fits_training and _odds(trained) / _odds(total) > math.sqrt(factor) else (other, sampled, moved)


def _bars(total: ScoreLabelSummary, trained: ScoreLabelSummary | None, after: float) -> Bars:
    values = {"held-out": total.calibration_ratio, "held-out, corrected": after, **({"train": trained.calibration_ratio} if trained else {})}
    return Bars(title="Would one factor mend the probabilities?", unit="predicted / observed positives", names=tuple(values), values=tuple(values.values()), reference=1.0,
                highlighted=("held-out",), caption=f"{total.count:,.0f} held-out rows")


