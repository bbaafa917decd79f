"""Are the arms of an experiment as large as they were meant to be?"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.chi_square import chi_square_tail
from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import (
    between,
    percent,
    plural,
    require_rows,
    with_normal_interval,
)
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.stat import Grouped, Stat, Weighted
from recspect.diagnosis.stats.categories import CategoryCounts
from recspect.diagnosis.stats.distinct import Distinct
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

CHANCE = 0.001
ARMS = 100
STEP = 0.05
"""Designs that are not equal are looked for in twentieths."""


class SampleRatio(Diagnostic):
    """Sizes of the arms against equal sizes: users where there is a user column, else rows, each counted by the weight column where there is one.

    Randomised arms differ by chance only. When they differ by more, whatever dropped users from one arm can also have changed its outcomes.
    """

    code = "data.sample_ratio"
    question = "Are the arms of an experiment as large as they were meant to be?"
    sources = ("Fabijan et al. 2019, Diagnosing Sample Ratio Mismatch in Online Controlled Experiments", "Pearson 1900 (chi-square)")

    def needs(self, scope: Scope) -> Needs:
        """Users, or rows, of each arm."""
        scope.require_target(scope.require_role("arm"), *([scope.schema.weight] if scope.schema.weight and not scope.schema.user else []))
        return Needs.of(target=[_stat(scope)])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        """One finding."""
        names, counts, of = _sizes(target, scope)
        if len(names) < 2:
            raise Unavailable(f"there is only one arm: {names[0] if names else 'none'}", hint="give the rows of all arms")
        total, arms = counts.sum(), len(counts)
        require_rows(total, "the arms")
        equal = 1 / arms
        p = chance_of_sizes(counts, np.full(arms, equal))
        worst = int(np.abs(counts / total - equal).argmax())
        share = float(counts[worst] / total)
        error = math.sqrt(share * (1 - share) / total)
        estimate = with_normal_interval(share / equal, error / equal, unit="share of the arm / equal share", n=int(total), of=of)
        design = _other_design(counts) if p < CHANCE else None
        verdict = Verdict.PASS if p >= CHANCE else Verdict.WARN if design is not None else Verdict.FAIL
        sizes = ", ".join(f"{name or 'no arm'} {count:,.0f}" for name, count in list(zip(names, counts, strict=True))[:6])
        numbers = f"{sizes}{f' and {arms - 6} more' if arms > 6 else ''} {of}; {names[worst] or 'no arm'} has {between(estimate, 3)} times an equal share, chance {p:.2g}"
        claim = {Verdict.PASS: f"The {plural(arms, 'arm')} are as large as equal shares make them: {numbers}.",
                 Verdict.WARN: f"The arms are not equal but fit a design of {design}: {numbers}. If that is the design, all is well.",
                 Verdict.FAIL: f"The arms are not as large as equal shares make them: {numbers}."}[verdict]
        off = math.sqrt(max(_quantile(arms - 1), 0.0) * (1 - equal) / (equal * total))
        yield Finding(
            code=self.code, verdict=verdict, estimate=estimate, neutral=1.0, limit=1 + math.copysign(off, estimate.value - 1), claim=claim, sources=self.sources,
            threshold=f"FAIL when chance (chi-square against equal shares) is below {CHANCE}; WARN instead where the shares fit another design in twentieths",
            meaning="Whatever took users out of one arm, or put them in, may also make its outcomes differ: no difference between the arms can be trusted.",
            causes=("users of one arm are lost before they are logged (redirects, crashes, slow pages)", "bots are filtered in one arm more than in the other",
                    "the assignment changed while the experiment ran", "arms were meant to be of unequal size"),
            remedies=(Remedy(code="stop_reading", text="Do not read the metrics of this experiment."),
                      Remedy(code="find_lost_users", text="Compare the arms at assignment and at logging, by day, browser and version of the app.")),
            evidence=(Bars(title="How many are in each arm?", unit=of, names=tuple(name or "no arm" for name in names[:20]), values=tuple(counts[:20].tolist()),
                           reference=float(total * equal), highlighted=() if verdict is Verdict.PASS else (names[worst] or "no arm",),
                           caption=f"{total:,.0f} {of}; the line is an equal share of {percent(equal)}"),))


def _stat(scope: Scope) -> Stat:  # type: ignore[type-arg]
    arm, weight = scope.require_role("arm"), scope.schema.weight
    if scope.schema.user is not None:
        scope.require_target("@cluster")
        return Grouped(stat=Distinct(column="@cluster", k=65_536), by=arm, capacity=ARMS)
    counts = CategoryCounts(column=arm, capacity=ARMS)
    return counts if weight is None else Weighted(stat=counts, by=weight)


def _sizes(target: Tally, scope: Scope) -> tuple[list[str], NDArray[np.float64], str]:
    """Name and size of every arm, and what is counted.

    Raises:
        Unavailable: There are too many arms, or too many users to count them one by one.
    """
    summary = target.get_summary(_stat(scope))
    if summary.truncated:
        raise Unavailable(f"there are more than {ARMS} arms", hint="the role 'arm' names the variant of one experiment")
    if scope.schema.user is None:
        return list(summary.names), summary.counts, "rows"
    parts = dict(sorted(summary.parts.items()))
    if not all(part.exact for part in parts.values()):
        raise Unavailable("an arm has more than 65,536 users, too many to count them one by one", hint="give one row per user and leave the user column out of the schema")
    return list(parts), np.array([part.distinct for part in parts.values()]), "users"


def chance_of_sizes(counts: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    """Chance of arms at least so far from these shares (chi-square), shape (arms,) each."""
    expected = counts.sum() * shares
    return chi_square_tail(float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1)


def _quantile(freedom: int) -> float:
    """The chi-square that chance exceeds as often as CHANCE, by Wilson and Hilferty."""
    return freedom * (1 - 2 / (9 * freedom) + 3.090 * math.sqrt(2 / (9 * freedom))) ** 3


def _other_design(counts: NDArray[np.float64]) -> str | None:
    """Shares in twentieths that the sizes fit, such as "90% / 10%", where these are not nearly equal."""
    rounded = np.round(counts / counts.sum() / STEP) * STEP
    if not np.isclose(rounded.sum(), 1) or (rounded <= 0).any() or np.ptp(rounded) < STEP / 2:
        return None
    return " / ".join(percent(share, 0) for share in rounded) if chance_of_sizes(counts, rounded) > 0.05 else None
