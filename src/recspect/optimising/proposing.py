"""From findings to remedies with numbers, the most promising first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

from recspect.diagnosis.causes import Cause
from recspect.diagnosis.finding import Finding, Report, Verdict
from recspect.errors import UsageError, listing
from recspect.optimising.catalogue import REMEDIES
from recspect.optimising.remedy import Facts, Gate, Part, Prepared, Proposal, RemedyKind

Skip = frozenset[tuple[str, str]]
"""(code, place) of remedies that were tried."""


def propose(report: Report, facts: Facts | None = None, *, finding: str = "", skip: Skip = frozenset()) -> Iterator[Proposal]:
    """Remedies for what a report says, one after another; numbers are chosen when a proposal is asked for, as some take a training.

    Order: for each cause, most certain first, its first remedy; then the second remedy of each; and so on. After these, in the same way, remedies for FAIL and WARN
    findings that no cause accounts for. A cause without a remedy in the catalogue brings that of its rule, to be done by hand.

    Args:
        report: Of the diagnosis.
        facts: What is known of the model; None for a model from elsewhere.
        finding: Only remedies that are to make this diagnostic healthy.
        skip: Tried already.

    Raises:
        UsageError: `finding` is no FAIL or WARN of the report.
    """
    facts = facts or Facts(report=report)
    alarms = report.with_verdict(Verdict.FAIL, Verdict.WARN)
    if finding and finding not in {alarm.code for alarm in alarms}:
        raise UsageError(f"{finding!r} is no FAIL or WARN of this diagnosis", hint=f"there are {listing(dict.fromkeys(alarm.code for alarm in alarms))}")
    causes = [cause for cause in _by_pattern(report) if not finding or finding in {code for code, _ in (*cause.signs, *cause.explains)}]
    told = {pair for cause in causes for pair in (*cause.signs, *cause.explains)}
    left = [alarm for alarm in alarms if (alarm.code, alarm.place.name) not in told and (not finding or alarm.code == finding)]
    seen = set(skip)
    for kind, place, why, target in (*_in_turn([_of_cause(cause, report) for cause in causes]), *_in_turn([_of_finding(alarm) for alarm in left])):
        if (kind.code, place) in seen:
            continue
        seen.add((kind.code, place))
        prepared = kind.prepare(replace(facts, report=report, place=place))
        if prepared is not None:
            yield Proposal(kind=kind, place=place, why=why, prepared=prepared, target=target)


def instructions(report: Report, *, finding: str = "") -> tuple[Proposal, ...]:
    """What a team does by hand about a report of a model that we cannot train; see `propose`."""
    return tuple(propose(report, finding=finding))


# ---------------------------------------------------------------------- details

_Row = tuple[RemedyKind, str, str, tuple[tuple[str, str], ...]]


def _in_turn(groups: Sequence[Sequence[_Row]]) -> list[_Row]:
    """The first of each group, then the second of each, ..."""
    return [row for turn in zip_longest(*groups) for row in turn if row is not None]


def _by_pattern(report: Report) -> list[Cause]:
    """The causes in their order, but what was learned by heart before a prior shift where scores are too sure: a prior shift moves all odds alike and leaves their slope at 1."""
    causes = list(report.causes)
    places = {cause.code: place for place, cause in enumerate(causes)}
    too_sure = any(finding.verdict is Verdict.FAIL and finding.estimate is not None and finding.estimate.surely_below(finding.neutral) for finding in report.find("predictions.calibration_slope"))
    if too_sure and "prior_shift" in places and places.get("memorisation", -1) > places["prior_shift"]:
        causes.insert(places["prior_shift"], causes.pop(places["memorisation"]))
    return causes


def _of_cause(cause: Cause, report: Report) -> list[_Row]:
    kinds = [kind for kind in REMEDIES if cause.code in kind.causes]
    if not kinds:
        kinds = [RemedyKind(code=cause.remedy.code, part=Part.SERVING, prepare=lambda _: Prepared(f"{cause.remedy.text} To be seen: {cause.verify}"), causes=(cause.code,), gate=Gate.NO_LOSS)]
    alarming = [(finding.code, finding.place.name) for finding in report.with_verdict(Verdict.FAIL, Verdict.WARN)]
    signs = [pair for pair in (*cause.signs, *cause.explains) if pair in alarming]
    rows = []
    for kind in kinds:
        target = _placed(tuple(pair for pair in signs if pair[0] in kind.codes) or tuple(signs[:1]), report)
        rows.append((kind, _place(kind, cause.place.name), cause.claim, target))
    for finding in report.with_verdict(Verdict.FAIL, Verdict.WARN):  # a field without use that a wider cause accounts for is a remedy of that cause
        if finding.code == "features.spurious" and (finding.code, finding.place.name) in cause.explains and cause.code == "memorisation":
            rows[1:1] = [row for row in _of_finding(finding) if row[0].code == "drop_field"]
            break
    return rows


def _of_finding(finding: Finding) -> list[_Row]:
    mine = ((finding.code, "" if finding.place.kind in _PASSING else finding.place.name),)
    return [(kind, _place(kind, finding.place.name), finding.claim, mine) for kind in REMEDIES if finding.code in kind.codes]


def _placed(target: tuple[tuple[str, str], ...], report: Report) -> tuple[tuple[str, str], ...]:
    """The target without places that a training has and another need not have, such as a layer or a step."""
    passing = {(finding.code, finding.place.name) for finding in report.findings if finding.place.kind in _PASSING}
    return tuple(dict.fromkeys((code, "" if (code, place) in passing else place) for code, place in target))


_PASSING = ("layer", "step", "epoch")
_PLACED = {"drop_leaking_field", "drop_field", "more_buckets", "weigh_slice"}
"""Remedies of a place; the others are about the whole run, whatever place the finding has."""


def _place(kind: RemedyKind, place: str) -> str:
    return place if kind.code in _PLACED else ""


__all__ = ["Skip", "instructions", "propose"]
