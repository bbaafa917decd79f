"""Numbers of healthy runs kept, and a new run held against them.

A threshold that suits every model suits none exactly. Where a team keeps the findings of runs that were well, two things can be said of the next one:

- A warning whose number healthy runs of this model reach too is usual here, and asks nobody to look (FAIL stays FAIL).
- A run whose numbers, taken together, lie further from the healthy ones than any healthy run lies from the others is unlike them, also where every number is within its own
  threshold. One test for the whole run: p = (1 + healthy runs at least as far out) / (healthy runs + 1), so 19 runs reach 0.05.

Sources: Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World (conformal p-values); Westfall and Young 1993 (the largest of many statistics as one).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Finding, Remedy, Report, Verdict
from recspect.errors import RunError, UsageError
from recspect.files import write_bytes

FORMAT, VERSION = "recspect-reference", 1
CODE = "run.unlike_healthy"
"""Code of the finding that holds the whole run against the healthy ones."""

USUAL_RUNS, USUAL = 9, 0.1
"""From how many runs on a warning can be usual, and above which p-value it is."""

UNLIKE_RUNS, UNLIKE = 19, 0.05
"""From how many runs on a run can be unlike them, and up to which p-value it is."""

Key = tuple[str, str, str]


@dataclass(frozen=True)
class References:
    """Healthy runs of one kind of model.

    Args:
        runs: Id and numbers of each; a number by code, place and unit.
    """

    runs: tuple[tuple[str, Mapping[Key, float]], ...] = field(default=())

    @classmethod
    def read(cls, path: str | Path) -> References:
        """Read the file; a file that is not there holds no runs.

        Raises:
            RunError: Not such a file, damaged, or of a newer version.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path} is not JSON: {error}", hint="keep healthy runs in a file of their own: recspect reference add RUN --to FILE") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
            raise RunError(f"{path} is no file of healthy runs of version {VERSION}", hint="recspect reference add RUN --to FILE writes one")
        try:
            runs = tuple((str(run["run"]), {(str(n["code"]), str(n["place"]), str(n["unit"])): float(n["value"]) for n in run["numbers"]})
                         for run in content["runs"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} is damaged: {type(error).__name__}: {error}", hint="add the runs again") from None
        if not all(math.isfinite(value) for _, numbers in runs for value in numbers.values()):
            raise RunError(f"{path} is damaged: it holds a number that is NaN or infinite", hint="add the runs again")
        return cls(runs)

    def write(self, path: str | Path) -> None:
        """Write the file whole, or leave the old one."""
        runs = [{"run": name, "numbers": [{"code": code, "place": place, "unit": unit, "value": value} for (code, place, unit), value in sorted(numbers.items())]}
                for name, numbers in self.runs]
        write_bytes(Path(path), json.dumps({"format": FORMAT, "version": VERSION, "runs": runs}, indent=1).encode())

    def with_run(self, report: Report) -> References:
        """These and one more; a run that is there already is replaced.

        Raises:
            UsageError: Something fails in the report, so it is no healthy run.
        """
        failing = sorted({finding.code for finding in report.with_verdict(Verdict.FAIL)})
        if failing:
            raise UsageError(f"this run is not healthy: {', '.join(failing)} FAIL", hint="only runs that were found to be well serve as a reference")
        name = _name(report)
        kept = tuple((other, numbers) for other, numbers in self.runs if other != name)
        return References((*kept, (name, _numbers(report.findings))))

    def hold(self, report: Report) -> Report:
        """The report with usual warnings told as such, and one finding more about the whole run."""
        others = [numbers for name, numbers in self.runs if name != _name(report)]
        findings = tuple(self._held(finding, others) for finding in report.findings if finding.code != CODE)
        return replace(report, findings=(*findings, self._whole(report.findings, others)),
                       provenance={**report.provenance, "healthy_runs": len(others)})

    def _held(self, finding: Finding, others: Sequence[Mapping[Key, float]]) -> Finding:
        if finding.verdict is not Verdict.WARN or finding.estimate is None or finding.limit is None:
            return finding
        key = _key(finding)
        upwards = finding.estimate.value >= finding.limit  # the limit is passed on this side
        values = [numbers[key] for numbers in others if key in numbers]
        as_far = sum((value >= finding.estimate.value) if upwards else (value <= finding.estimate.value) for value in values)
        if len(values) < USUAL_RUNS or (1 + as_far) / (len(values) + 1) <= USUAL:
            return finding
        return replace(finding, verdict=Verdict.PASS, claim=f"Usual for this model, as in {as_far} of {len(values)} healthy runs that are as far out: {finding.claim}")

    def _whole(self, findings: Sequence[Finding], others: Sequence[Mapping[Key, float]]) -> Finding:
        if len(others) < UNLIKE_RUNS:
            return Finding(code=CODE, verdict=Verdict.UNKNOWN, threshold=f"{UNLIKE_RUNS} healthy runs",
                           claim=f"{len(others)} healthy runs are kept; {UNLIKE_RUNS} are needed to say whether this one is unlike them.",
                           remedies=(Remedy(code="keep_runs", text="Keep runs that were well.", command="recspect reference add RUN --to FILE"),))
        new = _numbers(findings)
        common = sorted(key for key in new if all(key in numbers for numbers in others))
        table = np.array([[*(numbers[key] for numbers in others), new[key]] for key in common]).reshape(len(common), len(others) + 1)
        distance = _distances(table)
        if not len(distance):
            return Finding(code=CODE, verdict=Verdict.UNKNOWN, claim="No number of this run is there in every healthy run.", threshold="the same questions asked of all")
        far = distance.max(0)
        p_value = float((1 + (far[:-1] >= far[-1]).sum()) / len(far))
        unlike = p_value <= UNLIKE
        order = np.argsort(-distance[:, -1], kind="stable")[:10]
        out = [common[k] for k in order if distance[k, -1] > far[:-1].max()]
        named = ", ".join(f"{code}{f' ({place})' if place else ''}" for code, place, _ in out[:3])
        rows = tuple((code, place, float(table[k, -1]), float(np.median(table[k, :-1])), float(table[k, :-1].min()), float(table[k, :-1].max()), float(distance[k, -1]))
                     for k in order for code, place, _ in [common[k]])
        return Finding(
            code=CODE, verdict=Verdict.WARN if unlike else Verdict.PASS, limit=UNLIKE,
            estimate=Estimate(value=p_value, unit="chance of a healthy run this far out", n=len(others), of="healthy runs"),
            threshold=f"WARN when at most {UNLIKE:g} of healthy runs lie as far out, over {len(common)} numbers together",
            claim=(f"This run is unlike the {len(others)} healthy ones: {named} {'lies' if len(out) == 1 else 'lie'} further out than any number of theirs." if unlike else
                   f"This run is as the {len(others)} healthy ones: of {len(common)} numbers none lies unusually far out."),
            meaning="What no threshold knows of: something changed since those runs, for better or worse.",
            causes=("data, settings or code changed since those runs", "the healthy runs are too alike: other seeds and other days belong among them"),
            remedies=(Remedy(code="compare", text="Compare settings and data with a healthy run; if this is how it should be, add this run to them."),),
            evidence=(RankedTable(title="Which numbers lie furthest from those of healthy runs?", caption=f"{len(others)} healthy runs",
                                  columns=("finding", "place", "this run", "median", "lowest", "highest", "distance"), rows=rows),),
            sources=("Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World",))


def _distances(table: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """For each number (row) and run (column), how far it is from the median of all other runs, in their median absolute deviations."""
    columns = []
    for run in range(table.shape[1]):
        others = np.delete(table[:, :-1], run, axis=1) if run < table.shape[1] - 1 else table[:, :-1]
        middle = np.median(others, axis=1)
        spread = 1.4826 * np.median(np.abs(others - middle[:, None]), axis=1)
        # numbers that are mostly the same in all runs have no scale by this: their range serves, and where they never differ a hundredth of their size
        spread = np.where(spread > 0, spread, np.ptp(others, axis=1) / 4)
        spread = np.where(spread > 0, spread, 0.01 * np.maximum(np.abs(middle), 1e-3))
        columns.append(np.abs(table[:, run] - middle) / spread)
    return np.stack(columns, 1)


def _name(report: Report) -> str:
    """What a run is known by: its id, or the fingerprint of a table that was examined without one."""
    return str(report.provenance.get("run") or report.provenance.get("data_fingerprint") or report.title)


def _numbers(findings: Sequence[Finding]) -> dict[Key, float]:
    """The numbers of findings, but for those of an earlier comparison with healthy runs."""
    return {_key(finding): finding.estimate.value for finding in findings
            if finding.code != CODE and finding.estimate is not None and math.isfinite(finding.estimate.value)}


def _key(finding: Finding) -> Key:
    return finding.code, finding.place.name, finding.estimate.unit if finding.estimate else ""


__all__ = ["CODE", "References"]
