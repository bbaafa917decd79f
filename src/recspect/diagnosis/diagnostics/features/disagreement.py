"""Do reliance, usefulness and permutation importance agree on every field?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.features.permuted import (
    BASE,
    METRICS,
    FieldPermutation,
    QualityMetric,
    field_permutations,
    permutation_stats,
    permuted_columns,
)
from recspect.diagnosis.diagnostics.features.scores import FieldScore, field_scores, flow_stat, loss_stat
from recspect.diagnosis.diagnostics.policy import between, number, percent, require_rows
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stat import jackknife
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

ALONE, COPIED = 2.0, 1.0
"""Permuting a field that adds to the logit on its own costs twice its usefulness (more where the model is too sure of its effect, less where it is not sure
enough: see `_alone`); of two copies, each costs its usefulness once. See docs/findings/features.disagreement.md."""


class Disagreement(Diagnostic):
    """Where one ranking of fields would mislead: noise that moves the score, and fields that others repeat."""

    code = "features.disagreement"
    question = "Do reliance, usefulness and permutation importance agree on every field?"
    sources = ("Fisher, Rudin and Dominici 2019, All Models are Wrong, but Many are Useful",
               "Covert, Lundberg and Lee 2020, Understanding Global Feature Contributions With Additive Importance Measures (SAGE)")

    def needs(self, scope: Scope) -> Needs:
        """Contributions of all fields, and scores with some of them permuted, on held-out rows."""
        scope.require_target("@cluster", "@label")
        fields = _permuted(scope)
        if not fields:
            raise Unavailable("no field was permuted", hint="give the model, not only its scores")
        metric = _metric(scope)
        permuted = [stat for field in fields for stat in permutation_stats(scope, metric, field)]
        flows = dict.fromkeys((scope.bucketed(flow_stat(scope)), scope.bucketed(loss_stat(scope))))
        return Needs.of(target=[*flows, *permutation_stats(scope, metric), *permuted])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        """One finding per field that the methods judge differently, or one that there is none."""
        metric = _metric(scope)
        scores = {score.field: score for score in field_scores(target, scope)}
        lost = field_permutations(target, scope, metric, _permuted(scope))
        n = lost[0].importance.n
        require_rows(n, "the rows whose fields were permuted")
        rate = target.get_summary(permutation_stats(scope, metric)[0]).total.base_rate if scope.binary else None
        ratios = _ratios(target, scope, metric, [scores[one.field] for one in lost if one.field in scores])
        evidence = (_bars(lost, metric), _table(list(scores.values()), lost, ratios, metric))
        equal = 1 / len(scores)
        found = False
        for one in lost:
            score, ratio = scores[one.field], ratios.get(one.field)
            alone = _alone(score.deviation, one.importance.value, rate)
            hidden = (alone + COPIED) / 2
            if score.reliance.surely_above(equal) and _without_worth(score, one):
                found = True
                yield Finding(
                    code=self.code, verdict=Verdict.WARN, place=Place(kind="field", name=one.field), estimate=one.importance, concerns=score.reliance.value,
                    claim=f"{one.field} moves the score without being worth it: its reliance score is {percent(score.reliance.value)} of 100%, and with its "
                          f"values dealt out to other rows the loss changes by {between(one.importance)} {_unit(metric)} ({n:,} rows). Its usefulness is "
                          f"{number(_value(score.usefulness))}.",
                    threshold=f"WARN when reliance is surely above an equal share ({percent(equal)}), and permuting does not surely cost anything or usefulness is surely below 0",
                    meaning="Ranked by reliance the field looks important, ranked by what it is good for it is not: do not keep it for its reliance.",
                    causes=("it is noise that was learned by heart", "its effect on training rows does not hold on these"),
                    remedies=(Remedy(code="drop_field", text=f"Train without {one.field} and compare on held-out rows."),
                              Remedy(code="regularise_field", text=f"Raise the minimum count or the weight decay of {one.field}.")),
                    evidence=evidence, sources=self.sources)
            elif ratio is not None and ratio.has_interval and ratio.value < hidden and ratio.surely_below(alone):
                found = True
                yield Finding(
                    code=self.code, verdict=Verdict.WARN, place=Place(kind="field", name=one.field), estimate=ratio, limit=hidden, neutral=0.0,
                    concerns=score.reliance.value,
                    claim=f"{one.field} is worth more than permuting it shows: it takes {number(_value(score.usefulness))} {_unit(metric)} off the loss, and permuting it "
                          f"alone costs {between(one.importance)}, {between(ratio)} times as much, where {number(alone, 2)} or more is usual for a field that stands alone and moves the logit as far as this one ({n:,} rows).",
                    threshold=f"WARN when permuting costs less than {number(hidden, 2)} times the usefulness and surely less than {number(alone, 2)} times, of fields with more than an equal share of it",
                    meaning="Another field says the same and stands in for it. Ranked by permutation both look dispensable; without both, what they are worth is gone.",
                    causes=("the field is a copy of another one, or nearly", "several fields are made from one source, such as an item and what is known of it"),
                    remedies=(Remedy(code="permute_together", text="Permute it together with the fields that may repeat it: permutation_importance(..., groups=...)."),
                              Remedy(code="drop_field", text="Drop one of the copies, not both.")),
                    evidence=evidence, sources=self.sources)
        if not found:
            first = lost[0]
            yield Finding(
                code=self.code, verdict=Verdict.PASS, place=Place(), estimate=first.importance, evidence=evidence, sources=self.sources,
                claim=f"Reliance, usefulness and permutation agree on the {len(lost)} fields that were permuted: permuting {first.field} costs most, "
                      f"{between(first.importance)} {_unit(metric)} ({n:,} rows).",
                threshold=f"noise: relied on, but nothing is lost by permuting; repeated: permuting costs less than halfway between {COPIED:g} (two copies) and {ALONE:g} (alone) times the usefulness")


def _without_worth(score: FieldScore, lost: FieldPermutation) -> bool:
    harmful = score.usefulness is not None and score.usefulness.has_interval and score.usefulness.surely_below(0.0)
    return harmful or (lost.importance.has_interval and not lost.importance.surely_above(0.0))


def _alone(deviation: float, cost: float, rate: float | None) -> float:
    """What permuting a field costs, times its usefulness, when no other field says the same.

    A model that gives only the part c of a field's effect e (few rows, few steps, decay) takes c - c^2/2 times w E e^2 off the loss, with w the curvature, and loses c w E e^2
    by permuting it: 2 / (2 - c) times as much. c follows from how far the field moves the logit, E (c e)^2, and that cost. Of copies the same sum
    gives no more than c, so they are never held against too much.

    Args:
        deviation: Of the field's contribution, logits.
        cost: Of permuting it.
        rate: Share of positives, whose r (1 - r) is the curvature; None for squared errors, where it is 2.
    """
    curvature = 2.0 if rate is None else rate * (1 - rate)
    given = min(1.0, curvature * deviation**2 / cost) if cost > 0 else 1.0
    return ALONE / (2.0 - given)


def _metric(scope: Scope) -> QualityMetric:
    return METRICS["log_loss" if scope.binary else "squared_error"]


def _unit(metric: QualityMetric) -> str:
    return metric.unit


def _permuted(scope: Scope) -> tuple[str, ...]:
    named = scope.fields or scope.schema.field_names
    return tuple(field for field in named if BASE in scope.target and permuted_columns(scope, field))


def _ratios(target: Tally, scope: Scope, metric: QualityMetric, scores: Sequence[FieldScore]) -> dict[str, Estimate]:
    """What permuting costs over what the field takes off the loss, for fields that surely help and have more than an equal share of that."""
    stat = loss_stat(scope)
    flows = target.get_summary(scope.bucketed(stat))
    useful = flows.total.mean_usefulness().clip(min=0)
    base = target.get_summary(permutation_stats(scope, metric)[0])
    found = {}
    for score in scores:
        f = stat.fields.index(score.field)
        if score.usefulness is None or not score.usefulness.surely_above(0.0) or useful[f] * len(useful) < useful.sum():
            continue
        repeats = [target.get_summary(one) for one in permutation_stats(scope, metric, score.field)]
        with suppress(Unavailable):  # nothing to divide by
            found[score.field] = jackknife(
                [flows, base, *repeats], lambda t, f=f: _cost(metric, t[1:]) / float(t[0].mean_usefulness()[f]),  # type: ignore[misc]
                unit="times the usefulness", n=int(base.total.count))
    return found


def _cost(metric: QualityMetric, totals: Sequence[object]) -> float:
    """How much the loss rises, mean over repeats; the first total is that of the scores as they are."""
    return sum(metric.value(total) for total in totals[1:]) / (len(totals) - 1) - metric.value(totals[0])


def _bars(lost: Sequence[FieldPermutation], metric: QualityMetric) -> Bars:
    return Bars(title="How much does the loss rise when a field is permuted?", unit=_unit(metric), names=tuple(one.field for one in lost),
                values=tuple(one.importance.value for one in lost),
                low=tuple(one.importance.value if one.importance.low is None else one.importance.low for one in lost),
                high=tuple(one.importance.value if one.importance.high is None else one.importance.high for one in lost),
                highlighted=tuple(one.field for one in lost if not one.importance.surely_above(0.0)), reference=0.0,
                caption=f"{lost[0].importance.n:,} held-out rows, 95% intervals; the fields that can raise the loss most to first order; marked: nothing is surely lost")


def _table(scores: Sequence[FieldScore], lost: Sequence[FieldPermutation], ratios: Mapping[str, Estimate], metric: QualityMetric) -> RankedTable:
    by_use = sorted(scores, key=lambda score: -_value(score.usefulness))
    rank = {score.field: (k + 1, by_use.index(score) + 1) for k, score in enumerate(scores)}
    by_name = {score.field: score for score in scores}
    rows = []
    for k, one in enumerate(lost):
        score, ratio = by_name[one.field], ratios.get(one.field)
        rows.append((one.field, k + 1, rank[one.field][0], rank[one.field][1], between(one.importance), percent(score.reliance.value),
                     number(_value(score.usefulness)), None if ratio is None else between(ratio)))
    return RankedTable(title="How do three methods rank the fields?",
                       columns=("field", "place by permutation", "place by reliance", "place by usefulness", f"lost by permuting ({_unit(metric)})", "reliance score",
                                f"usefulness ({_unit(metric)})", "permuting over usefulness"),
                       rows=tuple(rows), caption=f"{lost[0].importance.n:,} held-out rows permuted; permuting over usefulness is about 2 for a field that stands alone, "
                                                 "1 for one that another repeats, 4 for one that counts only together with another")


def _value(estimate: Estimate | None) -> float:
    return float("nan") if estimate is None else estimate.value
