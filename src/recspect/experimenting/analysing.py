"""An experiment in, a report out: arms first, then every metric, slices, and one decision per treatment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recspect.diagnosis.diagnostics.data.sample_ratio import CHANCE, chance_of_sizes
from recspect.diagnosis.diagnostics.policy import number, percent, plural, with_normal_interval
from recspect.diagnosis.evidence import Bars, RankedTable, Reasons
from recspect.diagnosis.finding import Finding, Place, Remedy, Report, Verdict
from recspect.diagnosis.multiplicity import FALSE_DISCOVERIES, adjusted
from recspect.errors import Unavailable, UsageError, listing
from recspect.experimenting.arms import Arms
from recspect.experimenting.deciding import (
    Action,
    Decision,
    Reading,
    Rule,
    State,
    decide,
    in_words,
    readings,
    sentence,
)
from recspect.experimenting.effects import effects
from recspect.experimenting.heterogeneity import heterogeneity
from recspect.experimenting.looks import course, looks, told
from recspect.experimenting.metric import Metric

CODES: Mapping[str, str] = {
    "effects.sample_ratio": "Are the arms as large as they were meant to be?",
    "effects.metric": "Did a success metric change?",
    "effects.guardrail": "Is a guardrail within its margin?",
    "effects.slices": "Does the treatment do the same to everybody?",
    "effects.decision": "Ship, hold, or wait for more data?",
}
"""Codes of the findings, and their questions; docs/experiments.md tells how each is answered."""
CROSSED = 0.01
"""Share of users in several arms from which on the arms are not what they seem."""
SOURCES = ("Deng et al. 2013 (CUPED)", "Deng, Knoblich and Lu 2018 (delta method)", "Schultzberg, Ankargren and Frånberg 2024 (decision rule)")
SEQUENTIAL_SOURCES = ("Johari et al. 2017 (mSPRT)", "Waudby-Smith et al. 2024 (asymptotic confidence sequences)")


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What came of an experiment.

    Args:
        report: Findings, figures, provenance.
        decisions: One per treatment.
        readings: One per treatment and metric.
    """

    report: Report
    decisions: tuple[Decision, ...]
    readings: tuple[Reading, ...]


def analyse(arms: Arms, metrics: Sequence[Metric], *, control: str = "", rule: Rule | None = None, shares: Mapping[str, float] | None = None, title: str = "",
            provenance: Mapping[str, Any] | None = None) -> Analysis:
    """Analyse an experiment.

    Args:
        arms: `read_arms` or `read_aggregated`.
        metrics: The metrics that they were read for.
        control: Name of the control arm.
        rule: How sure to be.
        shares: Share of users that each arm was meant to have; equal where None.
        title: What the experiment is called.
        provenance: For the report.

    Raises:
        UsageError: Shares or a control that the arms do not have.
        DataError: Fewer than two arms.
    """
    rule = Rule() if rule is None else rule
    control = arms.require_control(control)
    treatments = [name for name in arms.moments if name != control]
    ratio = _sample_ratio(arms, shares)
    broken = (f"{CODES['effects.sample_ratio']} No: {ratio.claim}",) if ratio.verdict is Verdict.FAIL else ()
    findings, read, decisions = [ratio], [], []
    for arm in treatments:
        if broken:
            findings += [_unread(metric, arm) for metric in metrics]
            decisions.append(Decision(arm=arm, action=Action.NEEDS_DATA, reasons=broken))
            continue
        try:
            found = effects(arms.moments[control], arms.moments[arm], arms.columns, metrics, pooled=arms.total, joint=arms.joint)
        except Unavailable as reason:
            decisions.append(Decision(arm=arm, action=Action.NEEDS_DATA, reasons=(f"{reason.reason}; {reason.hint}",)))
            continue
        own = readings(found, arm, rule, treatments=len(treatments), of=arms.of)
        read += own
        decisions.append(decide(own, rule))
        findings += [f for column in dict.fromkeys(name for name, _ in arms.slices) for f in _slices(arms, column, control, arm, metrics)]
    decisions = _best_of(decisions, read, arms, metrics, rule)
    rates = dict(zip([(one.arm, one.metric.name) for one in read], adjusted([one.p for one in read]), strict=True))
    findings += [_metric(one, rates[one.arm, one.metric.name], rule) for one in read]
    seen = {} if broken else {arm: tuple(looks(arms, metrics, control, arm, rule)) for arm in treatments}
    findings += [_decision(decision, rule, "" if broken else told(seen[decision.arm], arms, rule)) for decision in decisions]
    overview = (*_overview(read, rates, rule), *(curve for arm in seen for curve in course(seen[arm], metrics, arm, rule)))
    return Analysis(report=Report(findings=tuple(findings), overview=overview, title=title or "experiment", provenance=dict(provenance or {})), decisions=tuple(decisions),
                    readings=tuple(read))


def _best_of(decisions: Sequence[Decision], read: Sequence[Reading], arms: Arms, metrics: Sequence[Metric], rule: Rule) -> list[Decision]:
    """Where several treatments ship: the one that gains most on the first success metric says so, and by how much it is ahead of the next."""
    first = next((metric for metric in metrics if not metric.guardrail), None)
    shipped = {decision.arm for decision in decisions if decision.action is Action.SHIP}
    if first is None or len(shipped) < 2:
        return list(decisions)
    ranked = sorted((one for one in read if one.arm in shipped and one.metric.name == first.name), key=lambda one: -one.metric.sign * one.estimate.value)
    best, second = ranked[0].arm, ranked[1].arm
    found = effects(arms.moments[second], arms.moments[best], arms.columns, [first], pooled=arms.total, joint=arms.joint)
    (ahead,) = readings(found, best, rule, of=arms.of)
    surely = "surely ahead of" if ahead.state is State.BETTER else "not surely ahead of"
    told_ = f"of {len(shipped)} arms that ship it gains most on {first.name}, {surely} {second}: {ahead.text} ({percent(ahead.estimate.level, 1)} interval; {ahead.estimate.basis})"
    return [Decision(arm=one.arm, action=one.action, reasons=(*one.reasons, told_)) if one.arm == best else one for one in decisions]


def _code(metric: Metric) -> str:
    return "effects.guardrail" if metric.guardrail else "effects.metric"


def _sample_ratio(arms: Arms, shares: Mapping[str, float] | None) -> Finding:
    names = list(arms.moments)
    counts = np.array([arms.moments[name].count for name in names])
    meant = np.full(len(names), 1 / len(names)) if shares is None else np.array([shares.get(name, np.nan) for name in names])
    if not np.isfinite(meant).all() or (meant <= 0).any() or (shares is not None and set(shares) != set(names)):
        raise UsageError(f"shares are given for {listing(shares or {})}; arms: {listing(names)}", hint="--share NAME=NUMBER for every arm, each above 0")
    meant = meant / meant.sum()
    p, total = chance_of_sizes(counts, meant), counts.sum()
    worst = int(np.abs(counts / total / meant - 1).argmax())
    share = float(counts[worst] / total)
    estimate = with_normal_interval(share / meant[worst], math.sqrt(share * (1 - share) / total) / meant[worst], unit="share of the arm / share it was meant to have",
                                    n=int(total), of=arms.of)
    crossed = arms.crossed / (total + arms.crossed)
    verdict = Verdict.FAIL if p < CHANCE or crossed > CROSSED else Verdict.PASS
    sizes = ", ".join(f"{name} {count:,.0f}" for name, count in list(zip(names, counts, strict=True))[:6])
    off = p < CHANCE
    claim = f"The arms are {'not ' if off else ''}as large as they were meant to be: {sizes} {arms.of}, chance {p:.2g}."
    if arms.crossed:
        claim += f" {plural(arms.crossed, 'user')} ({percent(crossed)}) {'was' if arms.crossed == 1 else 'were'} in more than one arm and left out."
    return Finding(
        code="effects.sample_ratio", verdict=verdict, estimate=estimate, neutral=1.0, limit=None, claim=claim,
        threshold=f"FAIL when chance (chi-square) is below {CHANCE}, or more than {percent(CROSSED, 0)} of users were in several arms; nothing else is read then",
        meaning="Whatever took users out of one arm, or put them in, may also make its outcomes differ: no difference between the arms can be trusted.",
        causes=("users of one arm are lost before they are logged (redirects, crashes, slow pages)", "bots are filtered in one arm more than in the other",
                "the assignment changed while the experiment ran", "the arms were meant to have other shares"),
        remedies=(Remedy(code="find_lost_users", text="Compare the arms at assignment and at logging, by day, browser and version of the app; give --share if arms were meant to be unequal."),),
        evidence=(Bars(title="How many are in each arm?", unit=arms.of, names=tuple(names[:20]), values=tuple(float(count) for count in counts[:20]),
                       caption=f"{total:,.0f} {arms.of}; meant: {', '.join(f'{name} {percent(part, 1)}' for name, part in list(zip(names, meant, strict=True))[:6])}"),),
        sources=("Fabijan et al. 2019, Diagnosing Sample Ratio Mismatch",))


def _unread(metric: Metric, arm: str) -> Finding:
    return Finding(code=_code(metric), verdict=Verdict.UNKNOWN, place=Place(kind="metric", name=f"{metric.name}, {arm}"),
                   claim="Not read: the arms are not as large as they were meant to be.", threshold="find out why, and run the experiment again")


def _metric(one: Reading, rate: float, rule: Rule) -> Finding:
    bad, open_ = one.state in (State.WORSE, State.BROKEN), one.state is State.UNCLEAR
    verdict = Verdict.FAIL if bad else Verdict.UNKNOWN if open_ else Verdict.PASS
    saved = f"; what users did before saves {percent(one.saved, 0)} of the variance" if one.metric.covariate else ""
    text = sentence(one)
    claim = (f"{text[0].upper()}{text[1:]}; control {number(one.control)}, {one.arm} {number(one.treatment)}; p {one.p:.2g}, "
             f"adjusted for false discoveries {rate:.2g}{saved}.")
    margin = one.metric.margin
    held = (f"FAIL when the interval lies beyond a relative loss of {percent(margin)}, PASS when it lies within" if margin is not None
            else "FAIL when the uncorrected interval lies on the bad side of 0, PASS when the corrected one lies on the good side")
    return Finding(code=_code(one.metric), verdict=verdict, claim=claim, place=Place(kind="metric", name=f"{one.metric.name}, {one.arm}"), estimate=one.estimate,
                   threshold="wait for more users" if open_ else held, limit=None if margin is None else -one.metric.sign * margin,
                   meaning="A loss that chance does not explain." if bad else "", sources=(*SOURCES, *(SEQUENTIAL_SOURCES if rule.sequential else ())),
                   remedies=(Remedy(code="look_at_slices", text="Look for whom it got worse (--by COLUMN) before changing the treatment."),) if bad else ())


def _slices(arms: Arms, column: str, control: str, arm: str, metrics: Sequence[Metric]) -> list[Finding]:
    place = Place(kind="slice", name=f"{column}, {arm}")
    try:
        found = heterogeneity(arms.slices, column, control, arm, arms.columns, metrics)
    except Unavailable as reason:
        return [Finding(code="effects.slices", verdict=Verdict.UNKNOWN, place=place, claim=f"{reason.reason[0].upper()}{reason.reason[1:]}.", threshold=reason.hint)]
    rates = adjusted([one.p for one in found])
    findings = []
    for one, rate in zip(found, rates, strict=True):
        differs = rate < FALSE_DISCOVERIES
        far = int(np.argmax(np.abs(one.effects - np.median(one.effects)) / one.errors))
        estimate = with_normal_interval(float(one.effects[far]), float(one.errors[far]), unit=f"difference of {one.metric.name} where {column}={one.values[far]}", n=one.users[far], of=arms.of)
        claim = (f"The effect on {one.metric.name} {'differs' if differs else 'is not seen to differ'} between the {len(one.values)} values of {column} (p {one.p:.2g}, adjusted {rate:.2g}); "
                 f"farthest from the others: {one.values[far] or 'missing'}, {in_words(estimate, relative=False)}, {one.users[far]:,} {arms.of}.")
        findings.append(Finding(
            code="effects.slices", verdict=Verdict.WARN if differs else Verdict.PASS, claim=claim, place=Place(kind="slice", name=f"{column}, {one.metric.name}, {arm}"), estimate=estimate,
            threshold=f"WARN when the rate of false discoveries over the metrics is below {FALSE_DISCOVERIES} (Cochran's Q)", meaning="The mean effect is nobody's effect: some gain what others lose." if differs else "",
            evidence=(Bars(title=f"What does {arm} do to {one.metric.name} by {column}?", unit=f"difference of {one.metric.name}", names=tuple(value or "missing" for value in one.values[:40]),
                           values=tuple(one.effects[:40].tolist()), low=tuple((one.effects - 1.96 * one.errors)[:40].tolist()), high=tuple((one.effects + 1.96 * one.errors)[:40].tolist()),
                           reference=0.0, caption=f"{sum(one.users):,} {arms.of}; 95% intervals, each on its own; {one.left_out} values with fewer than 100 {arms.of} in an arm left out"),),
            sources=("Cochran 1954 (Q)", "Benjamini and Hochberg 1995")))
    return findings


def _decision(decision: Decision, rule: Rule, when: str) -> Finding:
    verdict = decision.action.verdict
    return Finding(code="effects.decision", verdict=verdict, place=Place(kind="arm", name=decision.arm), claim=f"{decision.action.capitalize()} {decision.arm}: {'; '.join(decision.reasons)}.{when}",
                   threshold=("Ship when a success metric is surely better, every guardrail surely within its margin and no success metric surely worse; hold when something is surely worse"
                              + (f" or no success metric can gain {percent(rule.least)} any more" if rule.least else "") if verdict is not Verdict.UNKNOWN else "wait for more users"),
                   evidence=(Reasons(title=f"Why {decision.action}?", items=decision.reasons),), sources=SOURCES)


def _overview(read: Sequence[Reading], rates: Mapping[tuple[str, str], float], rule: Rule) -> tuple[Any, ...]:
    if not read:
        return ()
    shown = [one for one in read if one.relative]
    caption = f"{'always-valid' if rule.sequential else 'fixed'} intervals, those that decide; {max(one.estimate.n for one in read):,} {read[0].estimate.of}"
    bars = (Bars(title="How much did each metric change?", unit="% of control", names=tuple(f"{one.metric.name}, {one.arm}" for one in shown), values=tuple(100 * one.estimate.value for one in shown),
                 low=tuple(100 * (one.estimate.low or 0.0) for one in shown), high=tuple(100 * (one.estimate.high or 0.0) for one in shown), reference=0.0,
                 highlighted=tuple(f"{one.metric.name}, {one.arm}" for one in shown if one.state in (State.WORSE, State.BROKEN)), caption=caption, stage="effects"),) if shown else ()
    rows = tuple((one.arm, one.metric.name, "guardrail" if one.metric.guardrail else "success", one.control, one.treatment, one.text, str(one.state), one.p, rates[one.arm, one.metric.name],
                  one.saved if one.metric.covariate else None, one.estimate.n) for one in read)
    table = RankedTable(title="What was measured?", columns=("arm", "metric", "kind", "control", "treatment", "difference (interval)", "state", "p", "adjusted p", "variance saved", "n"), rows=rows,
                        caption=caption, stage="effects")
    return (*bars, table)


__all__ = ["CODES", "Analysis", "analyse"]
