"""Do predicted and observed positives agree, over all rows, along the scores, and in the declared slices?"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import (
    between,
    names,
    number,
    percent,
    plural,
    q_values,
    require_classes,
    spread_of_positives,
    two_sided_p,
    with_normal_interval,
    worst,
)
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, Curve, Line
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.slice import Slice
from recspect.diagnosis.stat import Bucketed, jackknife
from recspect.diagnosis.stats.score_label import ScoreLabel, ScoreLabelSummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

OFF_WARN, OFF_FAIL = 0.03, 0.10
CURVE_FAIL = 0.10
SLICE_OFF, SLICE_ROWS = 0.10, 100


class Calibration(Diagnostic):
    """Predicted over observed positives (on held-out rows, less what is already off in training), and the reliability curve."""

    code = "predictions.calibration"
    question = "Do predicted and observed positives agree, over all rows, along the scores, and in the declared slices?"
    sources = ("Kumar et al. 2019, Verified Uncertainty Calibration", "Brocker and Smith 2007, Increasing the Reliability of Reliability Diagrams",
               "Benjamini and Hochberg 1995")

    def needs(self, scope: Scope) -> Needs:
        """The scores against the label: overall, on training rows where scored, and in each declared slice."""
        scope.require_binary()
        scope.require_target("@score", "@label", "@cluster")
        overall = _overall(scope)
        slices = [(s, ScoreLabel(detail=2)) for s in scope.slices if set(s.columns) <= scope.target]
        base = Needs.of(target=[overall], reference=[overall] if set(overall.columns) <= scope.reference else [])
        return Needs(target=(*base.target, *slices), reference=base.reference)

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """One finding for all rows, one per slice that is off."""
        stat = _overall(scope)
        summary = target.get_summary(stat)
        total: ScoreLabelSummary = summary.total
        require_classes(total.positive, total.count, "the held-out rows")
        ratio = summary.estimate(lambda t: t.calibration_ratio, unit="predicted / observed positives", n=lambda t: t.count)
        trained = reference.get_summary(stat) if reference.has(stat) and reference.get_summary(stat).total.positive else None
        contrast = None
        if trained is not None:
            contrast = jackknife([summary, trained], lambda t: t[0].calibration_ratio / t[1].calibration_ratio, n=int(total.count),
                                 unit="calibration ratio, held-out / train")
        verdict = worst([_ratio_verdict(ratio), Verdict.PASS if contrast is None else _ratio_verdict(contrast)])
        rows = total.reliability(10)
        error, chance, debiased = _calibration_error(rows)
        curve_off = error > chance and math.sqrt(max(debiased, 0.0)) > CURVE_FAIL * total.base_rate
        if curve_off:
            verdict = worst([verdict, Verdict.WARN])
        how = ("agree" if verdict is Verdict.PASS else f"{'more' if ratio.value > 1 else 'fewer'} positives are predicted than observed"
               if abs(ratio.value - 1) > OFF_WARN else "agree on average but not along the scores" if curve_off else "drift apart after training")
        start = f"Predicted and observed positives {how}" if how[0] in "ad" else f"{how[:1].upper()}{how[1:]}"
        against = "" if contrast is None or trained is None else (
            f" In training the ratio is {number(trained.total.calibration_ratio, 3)}, so held-out over train is {between(contrast, 3)}.")
        yield Finding(
            code=self.code, verdict=verdict, estimate=ratio, sources=self.sources, neutral=1.0,
            limit=_limit(verdict, ratio),
            claim=f"{start}: ratio {between(ratio, 3)} on {ratio.n:,} held-out rows, mean calibration error {number(100 * error, 2)} points where "
                  f"chance gives up to {number(100 * chance, 2)}.{against}",
            threshold=f"FAIL when the ratio is surely more than {percent(OFF_FAIL, 0)} off 1, WARN when surely more than {percent(OFF_WARN, 0)} (held-out, "
                      f"or held-out over train), or when the curve is off by more than chance (99%) and by {percent(CURVE_FAIL, 0)} of the base rate",
            meaning="Bids, blended rankings and forecasts use the probability itself; off by a factor, they are off by that factor.",
            causes=("negatives were sampled in training and not corrected for", "the label rate changed after training",
                    "labels of the newest rows are not complete yet", "an overfitted model is too sure of itself"),
            remedies=(Remedy(code="correct_sampling", text="With negatives kept at rate w, use p / (p + (1 - p) / w)."),
                      Remedy(code="recalibrate", text="Fit a Platt or isotonic calibration on the newest complete rows."),
                      Remedy(code="retrain_recent", text="Train on newer rows if the label rate moved.")),
            evidence=(_curve(rows),))
        yield from self._slices(target, scope, total)

    def _slices(self, target: Tally, scope: Scope, total: ScoreLabelSummary) -> Iterable[Finding]:
        found: list[tuple[Slice, ScoreLabelSummary, float]] = []
        small = []
        for slice_ in scope.slices:
            if not target.has(ScoreLabel(detail=2), slice_):
                continue
            part = target.get_summary(ScoreLabel(detail=2), slice_)
            if part.count < SLICE_ROWS or part.positive < 5 or not part.variance_sum:
                small.append(f"{slice_} ({plural(part.count, 'row')}, {part.positive:,.0f} positive)")
                continue
            expected = part.predicted / total.calibration_ratio
            spread = spread_of_positives(part.variance_sum, part.positive, part.count, total.calibration_ratio)
            found.append((slice_, part, (part.positive - expected) / spread))
        if not found:
            if small:
                raise Unavailable(f"too few rows to judge calibration in {names(small)}")
            return
        adjusted = q_values([two_sided_p(z) for _, _, z in found])
        estimates = [_slice_ratio(part) for _, part, _ in found]
        bars = Bars(title="In which slices do predictions and outcomes disagree?", unit="predicted / observed positives",
                    names=tuple(str(s) for s, *_ in found), values=tuple(e.value for e in estimates),
                    low=tuple(e.low or 0.0 for e in estimates), high=tuple(e.high or 0.0 for e in estimates), reference=1.0,
                    caption=f"{plural(len(found), 'declared slice')}; the verdict corrects for their number and for the overall ratio")
        off = 0
        for (slice_, part, _), q, estimate in zip(found, adjusted, estimates, strict=True):
            relative = estimate.value / total.calibration_ratio - 1
            if q < 0.05 and abs(relative) > SLICE_OFF:
                off += 1
                yield Finding(
                    code=self.code, verdict=Verdict.WARN, place=Place(kind="slice", name=str(slice_)), estimate=estimate, evidence=(bars,),
                    neutral=total.calibration_ratio, limit=total.calibration_ratio * (1 + SLICE_OFF), concerns=part.count / total.count,
                    claim=f"In {slice_} the model predicts {percent(abs(relative))} {'more' if relative > 0 else 'fewer'} positives than over all rows: "
                          f"ratio {between(estimate, 3)} against {number(total.calibration_ratio, 3)}, {part.count:,.0f} rows.",
                    threshold=f"WARN when more than {percent(SLICE_OFF, 0)} off the overall ratio and unlikely by chance among {len(found)} slices (q < 0.05)",
                    meaning="The group is over- or underserved: its items or users get more or less than their outcomes deserve.",
                    causes=("no field tells the group apart", "the group is rare in training", "a field is broken for this group"),
                    remedies=(Remedy(code="add_field", text="Give the model a field that tells the group apart."),
                              Remedy(code="recalibrate", text="Calibrate the group separately.")), sources=self.sources)
        if not off:
            largest = max(estimates, key=lambda e: abs(math.log(max(e.value, 1e-9))))
            yield Finding(code=self.code, verdict=Verdict.PASS, estimate=largest, evidence=(bars,), sources=self.sources,
                          claim=f"{'The declared slice is not' if len(found) == 1 else f'None of {len(found)} declared slices is'} off after correction for their number; the furthest has a ratio of "
                                f"{between(largest, 3)}." + (f" Too small to judge: {names(small)}." if small else ""))


def _limit(verdict: Verdict, ratio: Estimate) -> float:
    """The ratio that decided; the value itself (no distance) where the ratio did not decide."""
    off = OFF_FAIL if verdict is Verdict.FAIL else OFF_WARN
    return 1 + off if abs(ratio.value - 1) > off else ratio.value


def _overall(scope: Scope) -> Bucketed:
    return scope.bucketed(ScoreLabel())


def _ratio_verdict(ratio: Estimate) -> Verdict:
    if ratio.surely_above(1 + OFF_FAIL) or ratio.surely_below(1 / (1 + OFF_FAIL)):
        return Verdict.FAIL
    off = ratio.surely_above(1 + OFF_WARN) or ratio.surely_below(1 / (1 + OFF_WARN))
    return Verdict.WARN if off else Verdict.PASS


def _slice_ratio(part: ScoreLabelSummary) -> Estimate:
    """Predicted over observed with the binomial error of the observed."""
    return with_normal_interval(part.calibration_ratio, part.calibration_ratio * math.sqrt(part.variance_sum) / max(part.predicted, 1e-12),
                                unit="predicted / observed positives", n=int(part.count))


def _calibration_error(rows: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Mean |observed - predicted| over groups, its 99% level for right probabilities, and the debiased mean square.

    For right probabilities |observed - predicted| of a group is half-normal with deviation sqrt(p (1 - p) / n).
    """
    weight, score, rate = (np.array(column) for column in zip(*rows, strict=True))
    share = weight / weight.sum()
    error = float((share * np.abs(rate - score)).sum())
    deviation = np.sqrt(score * (1 - score) / weight)
    mean = float((share * deviation).sum() * math.sqrt(2 / math.pi))
    spread = float(np.sqrt((share**2 * deviation**2).sum() * (1 - 2 / math.pi)))
    debiased = float((share * ((rate - score) ** 2 - rate * (1 - rate) / np.maximum(weight - 1, 1))).sum())
    return error, mean + 2.33 * spread, debiased


def _curve(rows: list[tuple[float, float, float]]) -> Curve:
    weight, score, rate = (np.array(column) for column in zip(*rows, strict=True))
    reach = 1.96 * np.sqrt(np.maximum(rate * (1 - rate), 1 / weight) / weight)
    ends = (float(min(score.min(), rate.min())), float(max(score.max(), rate.max())))
    return Curve(title="Do predicted and observed rates agree along the scores?", x_title="predicted probability", y_title="observed share of positives",
                 lines=(Line(name="observed", x=tuple(score.tolist()), y=tuple(rate.tolist()), low=tuple(np.maximum(rate - reach, 0).tolist()),
                             high=tuple(np.minimum(rate + reach, 1).tolist())),
                        Line(name="agreement", x=ends, y=ends, role="ideal")),
                 caption=f"{plural(len(rows), 'group')} of equal size by score, {weight.sum():,.0f} held-out rows")
