"""What another policy would have earned, from the log of this one: six estimates with intervals from buckets of users, or a refusal where the log cannot say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recspect.diagnosis.diagnostics.policy import number, percent, require_rows
from recspect.diagnosis.diagnostics.recommendations.policy_support import ERRORS, LEAST_SHARE, MOST_OF_ONE
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Report, Verdict
from recspect.diagnosis.jackknife import BucketedSummary
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.policy_value import PolicyValue, PolicyValueSummary
from recspect.errors import Unavailable
from recspect.experimenting.policies import RARE_ROWS, LoggedChoices

CODES: Mapping[str, str] = {
    "effects.policy_support": "Can the log speak for the other policy?",
    "effects.policy_value": "What would the other policy have earned?",
}
MOST_RARE = 0.10
"""Share of the other policy's choices that the log may hardly show: what is earned there is not known, and weights say nothing of what never came up."""
FEW_REWARDS = 30.0
"""Fewer rewarded rows of equal weight make intervals that are themselves uncertain."""
LIMITS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0, math.inf)
"""Largest weights at which SWITCH may trust the log; the one with the smallest estimated mean squared error is taken."""
SOURCES = ("Horvitz and Thompson 1952 (IPS)", "Swaminathan and Joachims 2015 (SNIPS)", "Dudik, Langford and Li 2011 (DR)", "Wang, Agarwal and Dudik 2017 (SWITCH)",
           "Saito et al. 2021, Open Bandit Dataset and Pipeline", "Kott 2001, The Delete-a-Group Jackknife (intervals)")
DESCRIPTIONS = {"ips": "inverse propensity score", "snips": "self-normalised", "dm": "direct method", "dr": "doubly robust", "sndr": "self-normalised doubly robust",
                "switch": "doubly robust where weights are small, else the model"}


@dataclass(frozen=True, kw_only=True)
class PolicyEstimate:
    """One estimate of a policy's value.

    Args:
        name: ips, snips, dm, dr, sndr or switch.
        value: Mean reward per row, with its interval.
        ratio: The same over the mean reward of the policy that made the log.
    """

    name: str
    value: Estimate
    ratio: Estimate


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What the log says of the target policy.

    Args:
        choices: The log.
        summary: Sums in buckets of users.
        refused: Why the log cannot say; empty where it can.
        estimates: All that can be had; they are computed also where the log cannot say, but not to be read.
        limit: Weight up to which SWITCH trusts the log; None without a model.
    """

    choices: LoggedChoices
    summary: BucketedSummary
    refused: tuple[str, ...]
    estimates: tuple[PolicyEstimate, ...]
    limit: float | None

    @property
    def total(self) -> PolicyValueSummary:
        """All sums."""
        found: PolicyValueSummary = self.summary.total
        return found

    def estimate(self, name: str) -> PolicyEstimate:
        """One of the estimates by name.

        Raises:
            Unavailable: It could not be had.
        """
        for one in self.estimates:
            if one.name == name:
                return one
        raise Unavailable(f"there is no estimate {name!r}: it needs a model of rewards", hint="give one")


def evaluate(choices: LoggedChoices, *, limit: float | None = None, buckets: int = 50, level: float = 0.95) -> Evaluation:
    """Estimate a target policy's value.

    Args:
        choices: `read_log`, or a log of one's own.
        limit: Weight up to which SWITCH trusts the log; chosen among `LIMITS` where None.
        buckets: Of users, for intervals.
        level: Coverage of the intervals.

    Raises:
        Unavailable: Fewer than 100 rows can be used, or what was logged earned nothing.
    """
    modelled = choices.predicted is not None
    limits = LIMITS if limit is None else (limit,)
    model: dict[str, Any] = {"predicted": "predicted", "expected": "expected", "limits": limits} if modelled else {}
    stat = PolicyValue(reward="reward", logged="logged", target="target", **model)
    summary = Bucketed(stat=stat, by="cluster", buckets=buckets).summarize(choices.batch)
    total: PolicyValueSummary = summary.total
    require_rows(total.count, "the log with propensities")
    if not total.reward:
        raise Unavailable("nothing in the log earned a reward", hint="give more rows, or the right column")
    place = (_best_limit(total) if limit is None else 0) if modelled else None
    named: dict[str, Callable[[PolicyValueSummary], float]] = {"ips": lambda t: t.ips, "snips": lambda t: t.snips}
    if place is not None:
        named |= {"dm": lambda t: t.dm, "dr": lambda t: t.dr, "sndr": lambda t: t.sndr, "switch": lambda t: t.switch(place)}
    estimates = []
    for name, value in named.items():
        if not np.isfinite(value(total)):
            continue
        estimates.append(PolicyEstimate(
            name=name, value=summary.estimate(value, unit="mean reward", n=lambda t: t.count, level=level),
            ratio=summary.estimate(lambda t, value=value: value(t) / t.logged if t.reward else np.nan, unit="reward / reward of the logged policy", n=lambda t: t.count, level=level)))
    return Evaluation(choices=choices, summary=summary, refused=tuple(_refusals(summary, choices.rare)), estimates=tuple(estimates), limit=None if place is None else limits[place])


def _best_limit(total: PolicyValueSummary) -> int:
    """The limit whose squared bias and variance are smallest together. The bias is taken one standard error larger than what is left out, so that the model is trusted only where it is seen to be right; the variance is by rows, as only the order matters."""
    scores = []
    for place in range(len(LIMITS)):
        bias, error = total.left_out(place)
        kept = float(total.within_squares[0]) - float(total.within_squares[place])  # squares of rows between the smallest limit and this one
        scores.append((abs(bias) + error) ** 2 + kept / total.count**2)
    return int(np.argmin(scores))


def _refusals(summary: BucketedSummary, rare: float | None = None) -> list[str]:
    """Why the log cannot say; the limits of weights are those of recommendations.policy_support."""
    total: PolicyValueSummary = summary.total
    share = total.effective_share
    mean = summary.estimate(lambda t: t.mean_ratio, unit="mean weight", n=lambda t: t.count)
    by_rows = math.sqrt(max(total.ratio_squares / total.count - total.mean_ratio**2, 0.0) / total.count)
    error = max(by_rows, (mean.error or 0.0) / 2)
    largest = total.largest / total.ratio if total.ratio else 1.0
    found = []
    if not share >= LEAST_SHARE:
        found.append(f"the effective sample size is {percent(share) if math.isfinite(share) else 'none'} of the rows; at least {percent(LEAST_SHARE, 0)} is asked for")
    if abs(mean.value - 1) > max(ERRORS * error, 1e-6):
        found.append(f"the mean weight is {number(mean.value, 3)}, more than {ERRORS:.0f} standard errors from 1: the target policy shows what the log never shows, or the propensities are wrong")
    if largest > MOST_OF_ONE:
        found.append(f"one row has {percent(largest)} of all weight; at most {percent(MOST_OF_ONE, 0)} is allowed")
    if rare is not None and rare > MOST_RARE:
        found.append(f"{percent(rare, 0)} of the other policy's choices are shown in fewer than {RARE_ROWS} rows of the log; at most {percent(MOST_RARE, 0)} may be")
    if total.invalid:
        found.append(f"{number(total.invalid, 0)} rows lack a reward, a propensity in (0, 1] or a target probability in [0, 1]")
    return found


def report(found: Evaluation, *, title: str = "", provenance: Mapping[str, Any] | None = None) -> Report:
    """The evaluation as findings: support first, then every estimate; UNKNOWN where the log cannot say."""
    return Report(findings=(_support(found), *_values(found)), overview=() if found.refused else (_bars(found),), title=title or f"what {found.choices.name} would have earned",
                  provenance=dict(provenance or {}))


def _support(found: Evaluation) -> Finding:
    total, choices = found.total, found.choices
    share = found.summary.estimate(lambda t: t.effective_share, unit="effective sample size / rows", n=lambda t: t.count) if total.ratio else None
    largest = total.largest / total.ratio if total.ratio else 1.0
    figures = (f"effective sample size {percent(total.effective_share)} of {total.count:,.0f} rows, mean weight {number(total.mean_ratio, 3)}, largest weight {number(total.largest, 1)}, "
               f"largest share of one row {percent(largest)}")
    few = not total.effective_rewards >= FEW_REWARDS
    figures += f", rewards of {number(total.effective_rewards, 1)} rows of equal weight"
    warning = f" That is few ({FEW_REWARDS:.0f} are asked for): the intervals are themselves uncertain." if few and not found.refused else ""
    return Finding(
        code="effects.policy_support", verdict=Verdict.FAIL if found.refused else Verdict.WARN if few else Verdict.PASS, estimate=share, limit=LEAST_SHARE, place=Place(kind="arm", name=choices.name),
        claim=f"The log cannot speak for {choices.name}: {'; '.join(found.refused)} ({figures})." if found.refused else f"The log can speak for {choices.name}: {figures}.{warning}",
        threshold=f"FAIL when the effective sample size is below {percent(LEAST_SHARE, 0)} of the rows, the mean weight is more than {ERRORS:.0f} standard errors from 1, one row has more than "
                  f"{percent(MOST_OF_ONE, 0)} of all weight, more than {percent(MOST_RARE, 0)} of the other policy's choices are shown in fewer than {RARE_ROWS} rows, or numbers are missing; WARN when the rewarded rows say no more than {FEW_REWARDS:.0f} of equal weight would",
        meaning="An estimate from such a log is decided by a few rows, or is about other choices than those logged; its interval does not show it." if found.refused else "",
        causes=("the logged policy hardly ever shows what the other one prefers", "propensities were clipped, rounded or logged for another place or model") if found.refused else (),
        remedies=(Remedy(code="explore", text="Show a share of random items, and log the probability with which each item was shown."),
                  Remedy(code="run_experiment", text="Compare the policies in an experiment: recspect experiment plan")) if found.refused else (),
        evidence=(RankedTable(title="How much does the log weigh for the other policy?", columns=("figure", "value", "limit"),
                              rows=(("effective sample size / rows", total.effective_share, LEAST_SHARE), ("mean weight", total.mean_ratio, 1.0), ("largest share of one row", largest, MOST_OF_ONE),
                                    ("rows that cannot be used", total.invalid, 0.0)), caption=f"{total.count:,.0f} rows"),), sources=SOURCES)


def _values(found: Evaluation) -> Sequence[Finding]:
    place = Place(kind="arm", name=found.choices.name)
    if found.refused:
        return [Finding(code="effects.policy_value", verdict=Verdict.UNKNOWN, place=place, claim="Not estimated: the log cannot speak for the other policy.", threshold="run an experiment, or log with more exploration")]
    findings = []
    logged = found.total.logged
    for one in found.estimates:
        surely = one.ratio.surely_above(1.0), one.ratio.surely_below(1.0)
        word = "more than" if surely[0] else "less than" if surely[1] else "not surely more or less than"
        model = f", with {found.choices.model}" if one.name in ("dm", "dr", "sndr", "switch") else ""
        limit = f", weights up to {found.limit:g} trusted" if one.name == "switch" and found.limit is not None else ""
        note = " Its interval does not hold what the model gets wrong." if one.name == "dm" else ""
        findings.append(Finding(
            code="effects.policy_value", verdict=Verdict.FAIL if surely[1] else Verdict.PASS if surely[0] else Verdict.UNKNOWN, estimate=one.ratio, limit=1.0, neutral=1.0,
            place=Place(kind="arm", name=f"{found.choices.name}, {one.name}"),
            claim=(f"By {one.name} ({DESCRIPTIONS[one.name]}{model}{limit}) {found.choices.name} earns {number(one.value.value, 6)} ({number(one.value.low or 0.0, 6)} to {number(one.value.high or 0.0, 6)}) per row, "
                   f"{word} the logged {number(logged, 6)}: {number(one.ratio.value, 3)} times ({number(one.ratio.low or 0.0, 3)} to {number(one.ratio.high or 0.0, 3)}); {one.value.n:,} rows.{note}"),
            threshold="PASS when the whole interval of the ratio is above 1, FAIL when it is below" if any(surely) else "log more rows, or run an experiment", sources=SOURCES))
    return findings


def _bars(found: Evaluation) -> Bars:
    return Bars(title="What would the other policy earn?", unit="reward / reward of the logged policy", names=tuple(one.name for one in found.estimates),
                values=tuple(one.ratio.value for one in found.estimates), low=tuple(one.ratio.low if one.ratio.low is not None else math.nan for one in found.estimates),
                high=tuple(one.ratio.high if one.ratio.high is not None else math.nan for one in found.estimates), reference=1.0, stage="effects",
                caption=f"{found.total.count:,.0f} rows; 95% intervals from buckets of {found.choices.of}; 1 is the policy that made the log")


__all__ = ["CODES", "LIMITS", "Evaluation", "PolicyEstimate", "evaluate", "report"]
