"""Are there groups of rows on which the model is much worse than on the rest?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import (
    between,
    examined_fields,
    is_identity,
    names,
    number,
    percent,
    plural,
    q_values,
    require_classes,
    spread_of_positives,
    two_sided_p,
    with_normal_interval,
)
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stat import Grouped
from recspect.diagnosis.stats.score_label import ScoreLabel, ScoreLabelSummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable
from recspect.schema import Kind

CATEGORIES = 100
LEAST_ROWS, LEAST_SHARE, LEAST_POSITIVES = 100, 0.002, 10
OFF, LOSS_WARN, LOSS_FAIL = 0.10, 0.05, 0.20
SHOWN = 5
_STAT = ScoreLabel(detail=2)
_THRESHOLD = ("WARN when a slice is unlikely by chance among all that were looked at (q < 0.05) and its predictions are more than 10% off, or its loss "
              "more than 5% of its own entropy above the overall level; FAIL when surely above a constant's loss or surely more than 50% off")


@dataclass(frozen=True, kw_only=True)
class _Judged:
    name: str
    rows: int
    ratio: Estimate
    entropy: Estimate
    p_rate: float
    p_loss: float
    off: float
    excess: float


class WorstSlices(Diagnostic):
    """Every category of every field of at most 100 categories, and the declared slices: calibration and loss against all rows."""

    code = "predictions.worst_slices"
    question = "Are there groups of rows on which the model is much worse than on the rest?"
    sources = ("Chung et al. 2019, Slice Finder", "Sagadeeva and Boehm 2021, SliceLine", "Benjamini and Hochberg 1995")

    def needs(self, scope: Scope) -> Needs:
        """Scores against the label per category, and in declared slices."""
        scope.require_binary()
        scope.require_target("@score", "@label")
        grouped = _grouped(scope)
        slices = [s for s in scope.slices if set(s.columns) <= scope.target]
        if not grouped and not slices:
            raise Unavailable("there is no categorical field and no declared slice to look at", hint="declare one: --slice country=DE")
        base = Needs.of(target=[_STAT, *grouped])
        return Needs(target=(*base.target, *((s, _STAT) for s in slices)))

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        """A finding for each of the worst slices, or one PASS."""
        total: ScoreLabelSummary = target.get_summary(_STAT)
        require_classes(total.positive, total.count, "the held-out rows")
        least = max(LEAST_ROWS, LEAST_SHARE * total.count)
        parts: list[tuple[str, ScoreLabelSummary]] = []
        too_many = []
        for stat in _grouped(scope):
            grouped = target.get_summary(stat)
            if grouped.truncated:
                too_many.append(stat.by)
                continue
            parts += [(f"{stat.by}={name}", part) for name, part in grouped.parts.items()]
        known = {name for name, _ in parts}
        parts += [(str(s), target.get_summary(_STAT, s)) for s in scope.slices if target.has(_STAT, s) and str(s) not in known]
        parts = [(name, part) for name, part in parts
                 if least <= part.count < total.count and min(part.positive, part.count - part.positive) >= LEAST_POSITIVES]
        if not parts:
            raise Unavailable(f"no slice has {least:,.0f} rows and {LEAST_POSITIVES} of each class", hint="give more held-out rows")
        judged, bad = _peel(parts, total)
        order = sorted(judged, key=lambda j: (j.name not in bad, -max(abs(j.off), 2 * j.excess)))
        table = RankedTable(
            title="On which slices is the model worst?", columns=("slice", "rows", "predicted / observed", "normalised entropy"),
            rows=tuple((j.name, j.rows, round(j.ratio.value, 3), round(j.entropy.value, 3)) for j in order[:20]),
            caption=f"{plural(len(judged), 'slice')} of at least {least:,.0f} rows looked at; over all rows {number(total.calibration_ratio, 3)} and "
                    f"{number(total.normalised_entropy, 3)}" + (f"; too many categories to look at: {names(too_many)}" if too_many else ""))
        worst = [j for j in order if j.name in bad]
        for j in worst[:SHOWN]:
            yield self._finding(j, total, len(judged), table)
        if worst[SHOWN:]:
            yield Finding(code=self.code, verdict=Verdict.WARN, estimate=worst[SHOWN].ratio, evidence=(table,), threshold=_THRESHOLD, sources=self.sources,
                          limit=worst[SHOWN].ratio.value,
                          claim=f"{plural(len(worst) - SHOWN, 'more slice')} are off too: {names([j.name for j in worst[SHOWN:]], limit=10)}.")
        if not bad:
            yield Finding(code=self.code, verdict=Verdict.PASS, estimate=order[0].ratio, evidence=(table,), threshold=_THRESHOLD, sources=self.sources,
                          claim=f"None of {plural(len(judged), 'slice')} is much worse than the rest; the furthest, {order[0].name}, has a ratio of predicted "
                                f"to observed positives of {between(order[0].ratio, 3)} on {order[0].rows:,} rows.",
                          meaning="Crossings of two fields were not looked at.")

    def _finding(self, j: _Judged, total: ScoreLabelSummary, looked_at: int, table: RankedTable) -> Finding:
        by_rate = abs(j.off) > OFF
        ratio = 1 + j.off
        usual = j.ratio.value / ratio
        sure = by_rate and (j.ratio.surely_above(1.5 * usual) or j.ratio.surely_below(usual / 1.5))
        fail = sure or (j.excess > LOSS_FAIL and j.entropy.surely_above(1.0))
        what = (f"predicts {percent(abs(ratio - 1))} {'more' if ratio > 1 else 'fewer'} positives than it should" if by_rate
                else "orders and prices rows much worse than elsewhere")
        return Finding(
            code=self.code, verdict=Verdict.FAIL if fail else Verdict.WARN, place=Place(kind="slice", name=j.name), threshold=_THRESHOLD,
            estimate=j.ratio if by_rate else j.entropy, neutral=usual if by_rate else 0.0, concerns=j.rows / total.count,
            limit=usual * (1.5 if sure else 1 + OFF) if by_rate else 1.0 if fail else total.normalised_entropy,
            claim=f"Where {j.name}, the model {what}: predicted over observed {between(j.ratio, 3)} (all rows {number(total.calibration_ratio, 3)}), "
                  f"normalised entropy {between(j.entropy, 3)} (all rows {number(total.normalised_entropy, 3)}), {j.rows:,} rows. "
                  f"{looked_at:,} slices were looked at.",
            meaning="The average hides it: these users or items are served worse than the headline says.",
            causes=("a field is broken or defaulted for these rows", "the group is rare in training or behaves differently", "no field tells the group apart"),
            remedies=(Remedy(code="inspect_slice", text=f"Compare the fields inside {j.name} with the rest.", command=f"recspect diagnose RUN --slice '{j.name}'"),
                      Remedy(code="add_field", text="Add a field, or a crossing, that tells the group apart."),
                      Remedy(code="reweight", text="Give the group more weight in training, and compare.")),
            evidence=(table,), sources=self.sources)


def _grouped(scope: Scope) -> list[Grouped]:
    return [Grouped(stat=_STAT, by=field.name, capacity=CATEGORIES) for field in examined_fields(scope, Kind.CATEGORICAL)
            if not is_identity(field.name, scope)]


def _peel(parts: list[tuple[str, ScoreLabelSummary]], total: ScoreLabelSummary) -> tuple[list[_Judged], set[str]]:
    """All slices judged, and the names of the bad ones.

    A bad slice also moves the overall ratio that the others are held against, so the worst is taken out of it before the
    other slices of its field are judged again. Slices of other fields hold some of its rows, as all rows do, and keep theirs.
    """
    usual: dict[str, tuple[float, float]] = {}
    bad: set[str] = set()
    sums = dict(parts)
    while True:
        judged = []
        for name, part in parts:
            predicted, positive = usual.get(_field_of(name), (total.predicted, total.positive))
            judged.append(_judge(name, part, total, predicted / positive))
        adjusted = q_values([*(j.p_rate for j in judged), *(j.p_loss for j in judged)])
        more = [(min(j.p_rate, j.p_loss), -abs(j.off), j.name)
                for j, q_rate, q_loss in zip(judged, adjusted[:len(judged)], adjusted[len(judged):], strict=True)
                if j.name not in bad and ((q_rate < 0.05 and abs(j.off) > OFF) or (q_loss < 0.05 and j.excess > LOSS_WARN))]
        if not more:
            return judged, bad
        name = min(more)[2]
        bad.add(name)
        predicted, positive = usual.get(_field_of(name), (total.predicted, total.positive))
        if positive - sums[name].positive >= LEAST_POSITIVES and predicted > sums[name].predicted:
            usual[_field_of(name)] = (predicted - sums[name].predicted, positive - sums[name].positive)


def _field_of(name: str) -> str:
    return name.split("=", 1)[0]


def _judge(name: str, part: ScoreLabelSummary, total: ScoreLabelSummary, usual: float) -> _Judged:
    n = int(part.count)
    expected = part.predicted / usual
    spread = spread_of_positives(part.variance_sum, part.positive, part.count, total.calibration_ratio)
    ratio = with_normal_interval(part.calibration_ratio, part.calibration_ratio * spread / max(expected, 1e-12), n=n, unit="predicted / observed positives")
    b = part.base_rate
    own = float(-(b * np.log(b) + (1 - b) * np.log(1 - b)))
    error = _log_loss_error(part) / own
    entropy = with_normal_interval(part.normalised_entropy, error, unit="normalised entropy", n=n)
    excess = part.normalised_entropy - total.normalised_entropy
    # A slice whose fields say little has a high normalised entropy without any fault: what counts is loss above that of the constant.
    above_constant = max(0.0, part.normalised_entropy - max(1.0, total.normalised_entropy))
    return _Judged(name=name, rows=n, ratio=ratio, entropy=entropy, p_rate=two_sided_p((part.positive - expected) / spread),
                   p_loss=two_sided_p(above_constant / error if error else 0.0), off=expected / part.positive - 1,
                   excess=excess if part.normalised_entropy > 1 else 0.0)


def _log_loss_error(part: ScoreLabelSummary) -> float:
    """Standard error of the mean log loss, from the score bins."""
    weight = part.positives + part.negatives
    score = np.divide(part.score_sums, weight, out=np.full(len(weight), 0.5), where=weight > 0).clip(1e-9, 1 - 1e-9)
    loss_yes, loss_no = -np.log(score), -np.log(1 - score)
    mean = float((part.positives * loss_yes + part.negatives * loss_no).sum() / part.count)
    square = float((part.positives * loss_yes**2 + part.negatives * loss_no**2).sum() / part.count)
    return math.sqrt(max(square - mean**2, 0.0) / part.count)
