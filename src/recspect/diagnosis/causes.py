"""Findings read together: which few causes explain them.

A small, explicit base of rules (`cause_rules`), in the order in which things flow: data before training, training before the model, the model before
what it predicts. A rule holds when all its signs are there and nothing excludes it. From the first rule to the last, a cause that holds takes the
findings that it explains; what an earlier cause has taken needs no second explanation. There are
no weights: every step can be followed on paper. Docs: docs/causes.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A finding that speaks for a cause, or against it.

    Args:
        codes: Any of these diagnostics.
        verdict: At least this verdict: WARN, or FAIL where a warning says too little.
        where: Asked of the finding, and of all findings beside it, worst first, those that PASS among them.
        kind: Kind of place the finding must be about, or "".
    """

    codes: tuple[str, ...]
    verdict: Verdict = Verdict.WARN
    where: Callable[[Finding, Sequence[Finding]], bool] | None = None
    kind: str = ""

    def among(self, findings: Sequence[Finding]) -> list[Finding]:
        """The findings that are this sign, in their order."""
        return [finding for finding in findings if finding.code in self.codes and finding.verdict.severity >= self.verdict.severity and (not self.kind or finding.place.kind == self.kind)
                and (self.where is None or self.where(finding, findings))]


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
        verdict: The worst among the findings that it accounts for.
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


@dataclass(frozen=True)
class _Candidate:
    """A rule that holds: the findings that are its signs, and all alarms that it accounts for, the signs among them."""

    rule: Rule
    needed: tuple[Finding, ...]
    signs: tuple[Finding, ...]
    accounts_for: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        return max((finding.verdict for finding in self.accounts_for), key=lambda verdict: verdict.severity)


def causes_of(findings: Sequence[Finding], rules: Sequence[Rule] | None = None) -> tuple[Cause, ...]:
    """The causes that explain these findings, most certain first.

    Order: causes of their own before those that are only possible; those that account for a FAIL before those that account for warnings; then the
    order of the rules, which is that of the flow.

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
    taken: set[int] = set()
    own: dict[str, Cause] = {}
    possible: dict[str, Cause] = {}
    for candidate in holding:
        if all(id(finding) in taken for finding in candidate.needed):
            possible.setdefault(candidate.rule.code, _cause(candidate, (), possible=True))
            continue
        explained = [finding for finding in candidate.accounts_for if id(finding) not in taken]
        own.setdefault(candidate.rule.code, _cause(candidate, explained, possible=False))
        taken.update(id(finding) for finding in explained)
    return (*own.values(), *(cause for code, cause in possible.items() if code not in own))


def _candidate(rule: Rule, ranked: Sequence[Finding]) -> _Candidate | None:
    alarms = [finding for finding in ranked if finding.verdict in (Verdict.FAIL, Verdict.WARN)]
    if any(sign.among(ranked) for sign in rule.excluded_by):
        return None
    found = [sign.among(ranked) for sign in rule.signs]
    if not all(found):
        return None
    needed = _once(finding for group in found for finding in group)
    signs = _once((*needed, *(finding for sign in rule.support for finding in sign.among(ranked))))
    return _Candidate(rule, needed, signs, _once((*signs, *(finding for finding in alarms if finding.code in rule.explains))))


def _once(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple({id(finding): finding for finding in findings}.values())


def _cause(candidate: _Candidate, explained: Sequence[Finding], *, possible: bool) -> Cause:
    place = candidate.needed[0].place
    return Cause(code=candidate.rule.code, claim=candidate.rule.claim.format(place=place.name or "the run"), place=place, verdict=candidate.verdict,
                 signs=_named(candidate.signs), explains=_named(explained), possible=possible, remedy=candidate.rule.remedy, verify=candidate.rule.verify)


def _named(findings: Iterable[Finding]) -> tuple[tuple[str, str], ...]:
    return tuple(dict.fromkeys((finding.code, finding.place.name) for finding in findings))


__all__ = ["Cause", "Rule", "Sign", "causes_of"]
