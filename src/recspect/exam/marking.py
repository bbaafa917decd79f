"""From outcomes to marks: what was found, named and placed, and how often nothing was wrong and something was said.

An *alarm* of a case is a FAIL or WARN finding that its healthy twin does not have with that verdict, code and place: what the twin has too is the
program's, not the fault's. A fault is *detected* when one of its expected codes is such an alarm. False alarms are counted on healthy and benign cases without any
twin to excuse them: a run is a false alarm when anything FAILs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from recspect.exam.faults import BENIGN, FAULTS, SEVERITIES
from recspect.exam.programs import program_of
from recspect.exam.seen import causes_seen
from recspect.exam.sitting import HEALTHY, Outcome, Sheet

Name = tuple[str, str, str]
"""Code, place and verdict of a finding."""


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Shares in [0, 1] with what they are out of.

    Args:
        cases: Faulty cases.
        detected: Share in which an expected code alarms.
        cause_first, cause_top3: Share in which the right cause is named first, or among the first three.
        placed: Share of the detected with a known place in which an alarm is about it.
        kept_silent: Share in which no code that must be silent alarms.
    """

    cases: int
    detected: float
    cause_first: float
    cause_top3: float
    placed: float
    kept_silent: float


@dataclass
class _Sum:
    cases: int = 0
    detected: int = 0
    cause_first: int = 0
    cause_top3: int = 0
    placeable: int = 0
    placed: int = 0
    kept_silent: int = 0

    def marks(self) -> Marks:
        def share(count: int, of: int) -> float:
            return count / of if of else float("nan")

        return Marks(cases=self.cases, detected=share(self.detected, self.cases), cause_first=share(self.cause_first, self.cases),
                     cause_top3=share(self.cause_top3, self.cases), placed=share(self.placed, self.placeable), kept_silent=share(self.kept_silent, self.cases))


@dataclass(frozen=True, kw_only=True)
class Result:
    """The whole exam.

    Args:
        by_fault: (fault, severity) to marks.
        by_severity: Severity to marks over all faults.
        healthy: Healthy and benign cases.
        false_alarm_runs: Share of them in which anything FAILs, with its 95% interval.
        warned_runs: Share of them in which anything WARNs or FAILs.
        cries: (code, verdict) to in how many healthy and benign cases it was said.
        missed: (fault, severity, program, seed) of what was not detected.
    """

    by_fault: Mapping[tuple[str, str], Marks]
    by_severity: Mapping[str, Marks]
    healthy: int
    false_alarm_runs: float
    false_alarm_interval: tuple[float, float]
    warned_runs: float
    cries: Mapping[tuple[str, str], int] = field(default_factory=dict)
    missed: Sequence[tuple[str, str, str, int]] = ()

    def to_mapping(self) -> dict[str, object]:
        """The line that `make exam` prints."""
        typical, barely = (self.by_severity.get(severity) for severity in ("typical", "barely"))
        shares = {"detected": typical.detected, "cause_first": typical.cause_first, "cause_top3": typical.cause_top3} if typical else {}
        return {**{name: _rounded(shares.get(name)) for name in ("detected", "cause_first", "cause_top3")},
                "detected_barely": _rounded(barely.detected if barely else None), "false_alarm_runs": _rounded(self.false_alarm_runs),
                "cells": sum(marks.cases for marks in self.by_fault.values()) + self.healthy}

    def to_text(self) -> str:
        """Tables for a person, in Markdown."""
        lines = ["| fault | severity | cases | detected | cause first | among three | place | silent |", "| --- | --- | --- | --- | --- | --- | --- | --- |"]
        rows = [*self.by_fault.items(), *((("all faults", severity), marks) for severity, marks in self.by_severity.items())]
        for (fault, severity), marks in rows:
            shares = asdict(marks)
            cells = [f"{100 * shares[name]:.0f}%" if not math.isnan(shares[name]) else "–"
                     for name in ("detected", "cause_first", "cause_top3", "placed", "kept_silent")]
            lines.append(f"| {fault} | {severity} | {marks.cases} | {' | '.join(cells)} |")
        low, high = self.false_alarm_interval
        lines.append(f"\nHealthy and benign cases: {self.healthy}. With a FAIL: {100 * self.false_alarm_runs:.1f}% (95% interval {100 * low:.1f} to "
                     f"{100 * high:.1f}%). With a WARN or FAIL: {100 * self.warned_runs:.0f}%.")
        if self.cries:
            lines += ["", "| said of healthy cases | verdict | cases |", "| --- | --- | --- |"]
            lines += [f"| {code} | {verdict} | {count} |" for (code, verdict), count in sorted(self.cries.items(), key=lambda entry: -entry[1])]
        return "\n".join(lines)


def mark(outcomes: Iterable[Outcome]) -> Result:
    """Mark an exam. Outcomes whose healthy twin is not there are held against an empty one."""
    outcomes = list(outcomes)
    twins = {(o.sheet.program, o.sheet.seed): frozenset(seen.name for seen in o.alarms) for o in outcomes if o.sheet.fault == HEALTHY}
    by_fault: dict[tuple[str, str], _Sum] = {}
    missed = []
    well = [o for o in outcomes if o.sheet.fault == HEALTHY or o.sheet.fault in BENIGN]
    order = {(name, severity): k for k, (name, severity) in enumerate((name, severity) for name in FAULTS for severity in SEVERITIES)}
    for outcome in sorted((o for o in outcomes if o.sheet.fault in FAULTS), key=lambda o: order[o.sheet.fault, o.sheet.severity]):
        total = by_fault.setdefault((outcome.sheet.fault, outcome.sheet.severity), _Sum())
        if not _add(total, outcome, twins.get((outcome.sheet.program, outcome.sheet.seed), frozenset())):
            missed.append(_named(outcome.sheet))
    cries: dict[tuple[str, str], int] = {}
    for outcome in well:
        for code, verdict in {(seen.code, seen.verdict) for seen in outcome.alarms}:
            cries[code, verdict] = cries.get((code, verdict), 0) + 1
    failing = sum(bool(o.refused) or any(seen.verdict == "FAIL" for seen in o.findings) for o in well)
    return Result(by_fault={key: total.marks() for key, total in by_fault.items()},
                  by_severity={severity: _joined(total for (_, at), total in by_fault.items() if at == severity) for severity in SEVERITIES
                               if any(at == severity for _, at in by_fault)},
                  healthy=len(well), false_alarm_runs=failing / len(well) if well else float("nan"),
                  false_alarm_interval=clopper_pearson(failing, len(well)), missed=tuple(missed), cries=cries,
                  warned_runs=sum(bool(o.alarms) for o in well) / len(well) if well else float("nan"))


def _add(total: _Sum, outcome: Outcome, twin: frozenset[Name]) -> bool:
    """Whether the fault was detected."""
    fault = FAULTS[outcome.sheet.fault]
    new = [seen for seen in outcome.alarms if seen.name not in twin]
    found = [seen for seen in new if seen.code in fault.expected]
    causes = [cause.code for cause in causes_seen(outcome.findings) if not cause.possible]
    total.cases += 1
    total.detected += bool(found)
    total.cause_first += causes[:1] == [fault.cause]
    total.cause_top3 += fault.cause in causes[:3]
    if found and fault.place:
        total.placeable += 1
        total.placed += any(fault.place_in(program_of(outcome.sheet.program).columns) in seen.place for seen in found)
    total.kept_silent += not any(seen.code in fault.silent for seen in new)
    return bool(found)


def _joined(sums: Iterable[_Sum]) -> Marks:
    joined = _Sum()
    for total in sums:
        for name, count in asdict(total).items():
            setattr(joined, name, getattr(joined, name) + count)
    return joined.marks()


def _named(sheet: Sheet) -> tuple[str, str, str, int]:
    return sheet.fault, sheet.severity, sheet.program, sheet.seed


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 4)


def clopper_pearson(count: int, of: int, *, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share (Clopper and Pearson 1934): (0, 1) of nothing."""
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else _solved(lambda p: 1 - _at_most(count - 1, of, p) - tail)
    high = 1.0 if count == of else _solved(lambda p: tail - _at_most(count, of, p))
    return low, high


def _at_most(count: int, of: int, p: float) -> float:
    """P(X <= count) of a binomial."""
    return math.fsum(math.comb(of, k) * p**k * (1 - p) ** (of - k) for k in range(count + 1))


def _solved(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
