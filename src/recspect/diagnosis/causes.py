"""Findings read together: which few causes explain them.

A small, explicit base of rules (`cause_rules`), in the order in which things flow: data before training, training before the model, the model before
what it predicts. A rule holds when all its signs are there and nothing excludes it. From the first rule to the last, a cause that holds takes the
findings that it explains; what an earlier cause has taken needs no second explanation. Among causes, those with more certain signs come first. There are
no weights: a reader can follow every step on paper. Docs: docs/causes.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A finding that speaks for a cause, or against it.

    Args:
        codes: Any of these diagnostics.
        verdict: At least this verdict: WARN, or FAIL where a warning says too little.
        where: Asked of the finding, such as whether its number is above or below its neutral value.
        kind: Kind of place the finding must be about, or "".
    """

    codes: tuple[str, ...]
    verdict: Verdict = Verdict.WARN
    where: Callable[[Finding], bool] | None = None
    kind: str = ""

    def among(self, findings: Iterable[Finding]) -> list[Finding]:
        """The findings that are this sign, in their order."""
        return [finding for finding in findings if finding.code in self.codes and finding.verdict.severity >= self.verdict.severity
                and finding.verdict is not Verdict.UNKNOWN and (not self.kind or finding.place.kind == self.kind)
                and (self.where is None or self.where(finding))]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A pattern of findings, the cause behind it, and what to do.

    Args:
        code: Stable name of the cause.
        claim: The cause in one sentence; `{place}` stands for where the first sign was found.
        signs: All must be there.
        support: Speak for it, each one more.
        excluded_by: None may be there.
        explains: Codes of findings that this cause brings about, besides its signs.
        remedy: What to do.
        verify: How to see that it was this and that it is mended.
    """

    code: str
    claim: str
    signs: tuple[Sign, ...]
    support: tuple[Sign, ...] = ()
    excluded_by: tuple[Sign, ...] = ()
    explains: tuple[str, ...] = ()
    remedy: Remedy
    verify: str


@dataclass(frozen=True, kw_only=True)
class Cause:
    """What most likely lies behind findings.

    Args:
        code: Of the rule.
        claim: The cause in one sentence.
        place: Where.
        verdict: The worst among its signs.
        signs: Findings that speak for it, the needed ones first, as (code, place).
        explains: Findings that it brings about, as (code, place); what one cause has taken no later one has.
        possible: All of its signs are explained by causes before it, so it may be none of its own.
        remedy: What to do.
        verify: How to see that it was this.
    """

    code: str
    claim: str
    place: Place
    verdict: Verdict
    signs: tuple[tuple[str, str], ...]
    explains: tuple[tuple[str, str], ...] = ()
    possible: bool = False
    remedy: Remedy
    verify: str


@dataclass
class _Candidate:
    rule: Rule
    needed: list[Finding]
    support: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        return max((finding.verdict for finding in self.needed), key=lambda verdict: verdict.severity)


def causes_of(findings: Sequence[Finding], rules: Sequence[Rule] | None = None) -> tuple[Cause, ...]:
    """The causes that explain these findings, most certain first.

    Order: causes of their own before those that are only possible; a FAIL among the needed signs before a WARN; then the order of the rules, which is
    that of the flow.

    Args:
        findings: Of one report, in any order.
        rules: Default: those of `cause_rules`.
    """
    if rules is None:
        from recspect.diagnosis.cause_rules import RULES

        rules = RULES
    ranked = sorted(findings, key=lambda f: (-f.verdict.severity, -f.severity, f.code, f.place.kind, f.place.name))
    holding = [candidate for rule in rules if (candidate := _candidate(rule, ranked)) is not None]
    holding.sort(key=lambda candidate: -candidate.verdict.severity)  # stable: the order of the rules stays within a verdict
    alarms = [finding for finding in ranked if finding.verdict in (Verdict.FAIL, Verdict.WARN)]
    taken: set[int] = set()
    own, possible = [], []
    for candidate in holding:
        signs = [*candidate.needed, *candidate.support]
        explained = [finding for finding in alarms if id(finding) not in taken and (
            any(finding is sign for sign in signs) or finding.code in candidate.rule.explains)]
        only_possible = all(id(finding) in taken for finding in candidate.needed)
        (possible if only_possible else own).append(_cause(candidate, signs, () if only_possible else explained, only_possible))
        if not only_possible:
            taken.update(id(finding) for finding in explained)
    return (*own, *possible)


def _candidate(rule: Rule, findings: Sequence[Finding]) -> _Candidate | None:
    if any(sign.among(findings) for sign in rule.excluded_by):
        return None
    found = [sign.among(findings) for sign in rule.signs]
    if not all(found):
        return None
    return _Candidate(rule, list({id(f): f for group in found for f in group}.values()),
                      list({id(f): f for sign in rule.support for f in sign.among(findings)}.values()))


def _cause(candidate: _Candidate, signs: Sequence[Finding], explained: Sequence[Finding], possible: bool) -> Cause:
    place = candidate.needed[0].place
    named = list(dict.fromkeys((finding.code, finding.place.name) for finding in signs))
    where = place.name or "the run"
    return Cause(code=candidate.rule.code, claim=candidate.rule.claim.format(place=where), place=place, verdict=candidate.verdict, signs=tuple(named),
                 explains=tuple(dict.fromkeys((finding.code, finding.place.name) for finding in explained)), possible=possible,
                 remedy=candidate.rule.remedy, verify=candidate.rule.verify)


__all__ = ["Cause", "Rule", "Sign", "causes_of"]
