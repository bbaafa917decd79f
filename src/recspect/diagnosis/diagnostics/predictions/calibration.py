"""Do predicted and observed positives agree, over all rows, along the scores, and in the declared slices?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Needs, NullCalibrated, Scope
from recspect.diagnosis.diagnostics.policy import (
    between,
    names,
    number,
    percent,
    plural,
    require_classes,
    worst,
)
from recspect.diagnosis.diagnostics.predictions.hosmer_lemeshow import MOST_ROWS, HosmerLemeshow, hosmer_lemeshow
from recspect.diagnosis.diagnostics.predictions.slices import LEAST_BUCKETS, Judged, Part, judge_parts
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, Curve, Line, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.jackknife import BucketedSummary, jackknife
from recspect.diagnosis.multiplicity import Check
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.calibration_error import calibration_error_by_chance, expected_calibration_error
from recspect.diagnosis.stats.outcomes import POSITIVE, ROWS, Outcomes
from recspect.diagnosis.stats.score_label import ScoreLabel, ScoreLabelSummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

OFF_WARN, OFF_FAIL = 0.03, 0.10
OFF_ALREADY = 0.20
"""FAIL for a ratio that is off in training as well: the last steps of a healthy training leave it up to 0.15 off."""
CURVE_FAIL, CURVE_GROUPS = 0.10, 10
BY_CHANCE = NormalDist().cdf(2.33)
"""How often the calibration error of right scores stays below what is put down to chance: 99%."""
SLICE_OFF, SLICE_ROWS, SLICE_POSITIVES = 0.10, 100, 10


_Measured = tuple[list[Judged], list[str]]
"""The declared slices against all rows, and those that are too small to judge."""


class Calibration(NullCalibrated):
    """Predicted over observed positives (on held-out rows, less what is already off in training), and the reliability curve."""

    code = "predictions.calibration"
    question = "Do predicted and observed positives agree, over all rows, along the scores, and in the declared slices?"
    sources = ("Kumar et al. 2019, Verified Uncertainty Calibration", "Brocker and Smith 2007, Increasing the Reliability of Reliability Diagrams",
               "Benjamini and Hochberg 1995", "Cameron, Gelbach and Miller 2008, Bootstrap-Based Improvements for Inference with Clustered Errors",
               "Hosmer and Lemeshow 1980, Goodness of fit tests for the multiple logistic regression model")

    def needs(self, scope: Scope) -> Needs:
        """The scores against the label: overall, on training rows where scored, and in each declared slice."""
        scope.require_binary()
        scope.require_target("@score", "@label", "@cluster")
        overall = _overall(scope)
        slices = [(s, _sliced(scope)) for s in scope.slices if set(s.columns) <= scope.target]
        base = Needs.of(target=[overall, *([_sliced(scope)] if slices else [])], reference=[overall] if set(overall.columns) <= scope.reference else [])
        return Needs(target=(*base.target, *slices), reference=base.reference)

    def measure(self, target: Tally, reference: Tally, scope: Scope) -> _Measured:  # noqa: ARG002 - the slices of one side
        return _judged_slices(target, scope)

    def checks(self, measured: _Measured) -> Sequence[Check]:
        """Every declared slice against all rows."""
        return [j.checks(SLICE_OFF, math.inf)[0] for j in measured[0]]

    def findings(self, measured: _Measured, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
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
        fail = OFF_FAIL if contrast is None else OFF_ALREADY
        verdict = worst([_ratio_verdict(ratio, fail), Verdict.PASS if contrast is None else _ratio_verdict(contrast, OFF_FAIL)])
        rows = total.reliability(CURVE_GROUPS)
        residuals = _residuals(summary, len(rows))
        error, chance, debiased = _calibration_error(rows, residuals)
        together = hosmer_lemeshow(rows, residuals) if total.count < MOST_ROWS else None
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
            threshold=f"FAIL when the ratio, held-out over train, is surely more than {percent(OFF_FAIL, 0)} off 1 (held-out alone: {percent(fail, 0)}), WARN when "
                      f"either is surely more than {percent(OFF_WARN, 0)}, or when the curve is off by more than chance (99%) and by {percent(CURVE_FAIL, 0)} of the base rate",
            meaning="Bids, blended rankings and forecasts use the probability itself; off by a factor, they are off by that factor.",
            causes=("negatives were sampled in training and not corrected for", "the label rate changed after training",
                    "labels of the newest rows are not complete yet", "an overfitted model is too sure of itself"),
            remedies=(Remedy(code="correct_sampling", text="With negatives kept at rate w, use p / (p + (1 - p) / w)."),
                      Remedy(code="recalibrate", text="Fit a Platt or isotonic calibration on the newest complete rows."),
                      Remedy(code="retrain_recent", text="Train on newer rows if the label rate moved.")),
            evidence=(_curve(rows), *(() if together is None else (_table(together, total.count),))))
        yield from self._slices(measured, scope, total)

    def _slices(self, measured: _Measured, scope: Scope, total: ScoreLabelSummary) -> Iterable[Finding]:
        found, small = measured
        if not found:
            if small:
                raise Unavailable(f"too few rows to judge calibration in {names(small)}")
            return
        bars = Bars(title="In which slices do predictions and outcomes disagree?", unit="predicted / observed positives",
                    names=tuple(j.part.name for j in found), values=tuple(j.ratio.value for j in found),
                    low=tuple(j.ratio.low or 0.0 for j in found), high=tuple(j.ratio.high or 0.0 for j in found), reference=1.0,
                    caption=f"{plural(len(found), 'declared slice')}; the verdict corrects for the number of checks and for the overall ratio")
        off = 0
        for j in found:
            if j.checks(SLICE_OFF, math.inf)[0].counted <= scope.p_limit:
                off += 1
                yield Finding(
                    code=self.code, verdict=Verdict.WARN, place=Place(kind="slice", name=j.part.name), estimate=j.ratio, evidence=(bars,),
                    neutral=total.calibration_ratio, limit=total.calibration_ratio * (1 + SLICE_OFF), concerns=j.rows / total.count,
                    claim=f"In {j.part.name} the model predicts {percent(abs(j.off))} {'more' if j.off > 0 else 'fewer'} positives than over all rows: "
                          f"ratio {between(j.ratio, 3)} against {number(total.calibration_ratio, 3)}, {j.rows:,} rows.",
                    threshold=f"WARN when more than {percent(SLICE_OFF, 0)} off the overall ratio and unlikely by chance among the {scope.checks:,} checks of "
                              "the run (q < 0.05)",
                    meaning="The group is over- or underserved: its items or users get more or less than their outcomes deserve.",
                    causes=("no field tells the group apart", "the group is rare in training", "a field is broken for this group"),
                    remedies=(Remedy(code="add_field", text="Give the model a field that tells the group apart."),
                              Remedy(code="recalibrate", text="Calibrate the group separately.")), sources=self.sources)
        if not off:
            largest = max((j.ratio for j in found), key=lambda e: abs(math.log(max(e.value, 1e-9))))
            start = "The declared slice is not" if len(found) == 1 else f"None of {len(found)} declared slices is"
            yield Finding(code=self.code, verdict=Verdict.PASS, estimate=largest, evidence=(bars,), sources=self.sources,
                          claim=f"{start} off after correction for the number of checks; the furthest has a ratio of {between(largest, 3)}."
                                + (f" Too small to judge: {names(small)}." if small else ""))


def _sliced(scope: Scope) -> Outcomes:
    return Outcomes(buckets=scope.buckets)


def _judged_slices(target: Tally, scope: Scope) -> _Measured:
    """The declared slices against all rows, and those that are too small to judge."""
    stat, parts, small = _sliced(scope), [], []
    for slice_ in scope.slices:
        if not target.has(stat, slice_):
            continue
        sums = target.get_summary(stat, slice_).total
        rows, positive = sums[:, ROWS].sum(), sums[:, POSITIVE].sum()
        if rows < SLICE_ROWS or positive < SLICE_POSITIVES or (sums[:, ROWS] > 0).sum() < LEAST_BUCKETS:
            small.append(f"{slice_} ({plural(rows, 'row')}, {positive:,.0f} positive)")
        else:
            parts.append(Part(name=str(slice_), sums=sums, fields=slice_.columns))
    if not parts:
        return [], small
    total = target.get_summary(stat).total
    return judge_parts(parts, [[total]] * len(parts), total), small


def _overall(scope: Scope) -> Bucketed:
    return scope.bucketed(ScoreLabel())


def _ratio_verdict(ratio: Estimate, fail: float) -> Verdict:
    if ratio.surely_above(1 + fail) or ratio.surely_below(1 / (1 + fail)):
        return Verdict.FAIL
    off = ratio.surely_above(1 + OFF_WARN) or ratio.surely_below(1 / (1 + OFF_WARN))
    return Verdict.WARN if off else Verdict.PASS


def _limit(verdict: Verdict, ratio: Estimate) -> float:
    """The ratio that decided; the value itself (no distance) where the ratio did not decide."""
    off = OFF_FAIL if verdict is Verdict.FAIL else OFF_WARN
    return 1 + off if abs(ratio.value - 1) > off else ratio.value


def _residuals(summary: BucketedSummary, groups: int) -> NDArray[np.float64]:
    """Observed less predicted positives per bucket of users and group of the reliability curve, centred; shape (buckets, groups)."""
    total: ScoreLabelSummary = summary.total
    weight = total.positives + total.negatives
    share = (np.cumsum(weight) - weight / 2) / weight.sum()
    group = np.minimum((share * CURVE_GROUPS).astype(int), CURVE_GROUPS - 1)
    place = np.searchsorted(np.unique(group[weight > 0]), group).clip(max=groups - 1)
    residuals = np.array([np.bincount(place, part.positives - part.score_sums, groups) for part in summary.parts if part.count])
    centred: NDArray[np.float64] = residuals - residuals.mean(0)
    return centred


def _calibration_error(rows: list[tuple[float, float, float]], residuals: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean |observed - predicted| over groups, its 99% level for right probabilities, and the debiased mean square.

    The level is the larger of two. For independent outcomes |observed - predicted| of a group is half-normal with deviation
    sqrt(p (1 - p) / n). For outcomes of the same users the residuals of whole buckets are given random signs (wild cluster bootstrap,
    Cameron, Gelbach and Miller 2008).
    """
    weight, score, rate = (np.array(column) for column in zip(*rows, strict=True))
    share = weight / weight.sum()
    variance, chance = rate * (1 - rate) / np.maximum(weight - 1, 1), calibration_error_by_chance(rows, BY_CHANCE)
    if len(residuals) >= LEAST_BUCKETS:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (1000, len(residuals)))
        drawn = (np.abs(signs @ residuals) / weight.sum()).sum(1)
        chance = max(chance, float(np.quantile(drawn, 0.99)))
        variance = np.maximum(variance, len(residuals) / (len(residuals) - 1) * (residuals**2).sum(0) / weight**2)
    return expected_calibration_error(rows), chance, float((share * ((rate - score) ** 2 - variance)).sum())


def _table(found: HosmerLemeshow, rows: float) -> RankedTable:
    by_user = "too few users" if found.p_value is None else number(found.p_value, 2)
    return RankedTable(title="Are the groups of the curve off all together?", columns=("statistic of Hosmer and Lemeshow", "groups", "by chance, users alike", "by chance, rows independent"),
                       rows=((number(found.statistic, 3), found.groups, by_user, number(found.p_independent, 2)),),
                       caption=f"{plural(rows, 'held-out row')}; right probabilities give about as much as there are groups, more where rows of a user are alike")


def _curve(rows: list[tuple[float, float, float]]) -> Curve:
    weight, score, rate = (np.array(column) for column in zip(*rows, strict=True))
    reach = 1.96 * np.sqrt(np.maximum(rate * (1 - rate), 1 / weight) / weight)
    ends = (float(min(score.min(), rate.min())), float(max(score.max(), rate.max())))
    return Curve(title="Do predicted and observed rates agree along the scores?", x_title="predicted probability", y_title="observed share of positives",
                 lines=(Line(name="observed", x=tuple(score.tolist()), y=tuple(rate.tolist()), low=tuple(np.maximum(rate - reach, 0).tolist()),
                             high=tuple(np.minimum(rate + reach, 1).tolist())),
                        Line(name="agreement", x=ends, y=ends, role="ideal")),
                 caption=f"{plural(len(rows), 'group')} of equal size by score, {weight.sum():,.0f} held-out rows")
