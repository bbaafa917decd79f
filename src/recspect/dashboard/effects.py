"""What was found out about effects below a folder: experiments, logged choices judged anew, model against model, and the decisions that came of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from recspect.dashboard.kept import Kept
from recspect.dashboard.shelf import Entry, Shelf, stamp
from recspect.diagnosis.finding import Finding, Report, Verdict
from recspect.errors import RunError
from recspect.report.wording import amount, certainty, clean, split_claim

DECISIONS = {"effects.release": "release", "effects.decision": "experiment"}
"""Findings that decide, and what they decide on."""
KINDS = {"effects.release": "model against model", "effects.decision": "experiment", "effects.policy_value": "off-policy", "effects.interleaving": "interleaving",
         "effects.offline_metric": "past launches"}
"""Code of the finding that says most to what was done; other effects are told under the name of their code."""
ACTIONS = {Verdict.PASS: "ship", Verdict.FAIL: "hold", Verdict.UNKNOWN: "needs data"}
HELD = 500
"""Reports whose effects are held in memory; each takes some hundred bytes."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One answer about effects.

    Args:
        name: Of the entry that holds it.
        what: What was done, such as `experiment`.
        code, place, verdict: Of the finding.
        action: `ship`, `hold` or `needs data` of a decision; empty of other findings.
        claim, rest: What was seen, and what follows it.
        amount, certainty: The number; empty where there is none.
        runs: Names of the runs that were compared, the candidate last.
    """

    name: str
    what: str
    code: str
    place: str
    verdict: str
    action: str
    claim: str
    rest: str
    amount: str
    certainty: str
    runs: tuple[str, ...]


class Effects:
    """Reads the effects of entries and keeps them.

    Args:
        shelf: Where entries come from.
        report: Gives an entry's report as it may be shown.
    """

    def __init__(self, shelf: Shelf, report: Callable[[Entry], Report | None]) -> None:
        self.shelf, self._report = shelf, report
        self._held: Kept[tuple[Effect, ...]] = Kept(HELD)

    def all(self, entries: Iterable[Entry]) -> list[Effect]:
        """Of all entries, in their order; those whose files are damaged are left out, the overview names them."""
        found: list[Effect] = []
        for entry in entries:
            if entry.effects and not entry.damaged:
                try:
                    found += self._held.get(entry.name, stamp(entry.findings_path), lambda entry=entry: self._of(entry))  # type: ignore[misc]
                except RunError:
                    continue
        return found

    def decisions(self, entries: Iterable[Entry]) -> list[Effect]:
        """What to do with a release or a treatment, in the order of the entries."""
        return [one for one in self.all(entries) if one.action]

    def _of(self, entry: Entry) -> tuple[Effect, ...]:
        report = self._report(entry)
        if report is None:
            return ()
        runs = report.provenance.get("runs")
        names = tuple(map(str, runs)) if isinstance(runs, list | tuple) else ()
        own = [finding for finding in report.ranked if finding.stage == "effects"]
        own.sort(key=lambda finding: finding.code not in KINDS)  # what decides first, the others as they are ranked
        return tuple(_effect(entry, finding, names) for finding in own)


def _effect(entry: Entry, finding: Finding, runs: tuple[str, ...]) -> Effect:
    claim, rest = split_claim(finding.claim)
    number = finding.estimate
    return Effect(
        name=entry.name, what=KINDS.get(finding.code, finding.code.partition(".")[2].replace("_", " ")), code=clean(finding.code, limit=80), verdict=finding.verdict.value,
        place=clean(finding.place, limit=120) if finding.place.name else "", action=ACTIONS.get(finding.verdict, "") if finding.code in DECISIONS else "", claim=claim, rest=rest,
        amount=f"{amount(number)} {clean(number.unit, limit=80)}" if number else "", certainty=certainty(number) if number else "", runs=runs)


__all__ = ["ACTIONS", "DECISIONS", "KINDS", "Effect", "Effects"]
