"""One answer of a diagnostic, and all answers together with where they came from.

`Report.to_json` is the documented, versioned format that the command line, the dashboard, notebooks and CI gates read
(docs/findings-format.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import EVIDENCE_KINDS, Evidence, Line
from recspect.errors import RunError

if TYPE_CHECKING:
    from recspect.diagnosis.causes import Cause

FINDINGS_FORMAT = 1
"""Version of the findings JSON; raised when a reader of the old one would misread the new one."""


class Verdict(StrEnum):
    """What a diagnostic says. Worst first: FAIL, WARN, UNKNOWN, PASS."""

    FAIL = "FAIL"
    WARN = "WARN"
    UNKNOWN = "UNKNOWN"
    PASS = "PASS"

    @property
    def severity(self) -> int:
        """0 for PASS to 3 for FAIL."""
        return {"PASS": 0, "UNKNOWN": 1, "WARN": 2, "FAIL": 3}[self.value]


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a finding is about.

    Args:
        kind: `run`, `field`, `layer`, `table` (an embedding table), `slice`, `step`, `epoch`, `label`, `metric` or `arm`.
        name: Which one; empty for the whole run.
    """

    kind: str = "run"
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.name else self.kind


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """What to try. `code` is stable so that the optimiser can apply it; `command` is what a person can paste."""

    code: str
    text: str
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One answer.

    Args:
        code: Stable, `stage.question`, such as `training.overfitting`.
        verdict: PASS, WARN, FAIL or UNKNOWN.
        claim: What was seen, in one or two plain sentences with the numbers in them (not which test fired).
        place: What it is about.
        estimate: The one number that decided, or None for UNKNOWN.
        threshold: What the number was held against, in words.
        limit: The threshold that decided, as a number in the unit of the estimate, or None where it is none.
        neutral: From where distances in that unit are measured: 0, or 1 for ratios, 0.5 for AUC.
        concerns: Share of the data (rows, lookups, fields) that it is about, in [0, 1]. 1 for the whole.
        meaning: Why it matters, one sentence.
        causes: What usually causes it, most likely first.
        remedies: What to try, first thing first.
        evidence: Data to draw.
        sources: Papers or libraries behind the method.
    """

    code: str
    verdict: Verdict
    claim: str
    place: Place = Place()
    estimate: Estimate | None = None
    threshold: str = ""
    limit: float | None = None
    neutral: float = 0.0
    concerns: float = 1.0
    meaning: str = ""
    causes: tuple[str, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        """The part of the loop the finding belongs to: the code before the dot."""
        return self.code.split(".", 1)[0]

    @property
    def severity(self) -> float:
        """How bad, within a verdict: how far the number is surely beyond its limit, times the share of the data. In [0, 1].

        With a = distance of the interval's end nearest to the limit from `neutral` and b = distance of the limit, it is
        (1 - min(a, b) / max(a, b)) * concerns: 0.5 is twice the limit (or half of it, for a limit from below), on all the
        data. 0 where the interval reaches the limit, and for PASS and UNKNOWN. A finding that names no limit counts as 0.5.
        It compares each number with its own threshold. What a finding costs in the user's metric is another question.
        """
        if self.verdict in (Verdict.PASS, Verdict.UNKNOWN):
            return 0.0
        return _beyond(self.estimate, self.limit, self.neutral) * min(1.0, max(0.0, self.concerns))


@dataclass(frozen=True, kw_only=True)
class Report:
    """Findings plus provenance, and the figures a reader expects to see whatever the verdicts.

    Args:
        findings: In any order; `ranked` gives worst first.
        provenance: Plain data: run id, data fingerprint, schema, versions, seeds, command to reproduce.
        overview: Evidence that belongs to the run rather than to one finding (training curves, importance, baselines).
        title: What was examined.
    """

    findings: tuple[Finding, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    overview: tuple[Evidence, ...] = ()
    title: str = ""

    @property
    def ranked(self) -> tuple[Finding, ...]:
        """Worst verdict first, then by severity; ties by code and place, so that two runs of the same thing print the same."""
        return tuple(sorted(self.findings, key=lambda f: (-f.verdict.severity, -f.severity, f.code, f.place.kind, f.place.name)))

    @property
    def verdict(self) -> Verdict:
        """The worst verdict; UNKNOWN when nothing was found out at all."""
        known = [finding.verdict for finding in self.findings if finding.verdict is not Verdict.UNKNOWN]
        return max(known, key=lambda verdict: verdict.severity) if known else Verdict.UNKNOWN

    @property
    def causes(self) -> tuple[Cause, ...]:
        """What most likely lies behind the findings, most certain first (`recspect.diagnosis.causes`)."""
        from recspect.diagnosis.causes import causes_of

        return causes_of(self.findings)

    def with_verdict(self, *verdicts: Verdict) -> tuple[Finding, ...]:
        """The findings that have one of these verdicts, ranked."""
        return tuple(finding for finding in self.ranked if finding.verdict in verdicts)

    def find(self, code: str) -> tuple[Finding, ...]:
        """The findings of one diagnostic, ranked."""
        return tuple(finding for finding in self.ranked if finding.code == code)

    def to_mapping(self) -> dict[str, Any]:
        """Plain data, JSON-safe: NaN and infinities become null."""
        return {
            "format": "recspect-findings",
            "version": FINDINGS_FORMAT,
            "title": self.title,
            "verdict": self.verdict.value,
            "counts": {v.value: sum(f.verdict is v for f in self.findings) for v in Verdict},
            "findings": [plain(finding) | {"severity": round(finding.severity, 4)} for finding in self.ranked],
            "causes": [plain(cause) for cause in self.causes],
            "overview": [plain(evidence) for evidence in self.overview],
            "provenance": plain(dict(self.provenance)),
        }

    def to_json(self) -> str:
        """The findings format as text."""
        return json.dumps(self.to_mapping(), indent=1, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Report:
        """Read `to_mapping` back.

        Raises:
            RunError: Not a findings file, or of a newer version.
        """
        if not isinstance(content, Mapping) or content.get("format") != "recspect-findings":
            raise RunError("this is not a recspect findings file (no 'format': 'recspect-findings')",
                           hint="recspect diagnose RUN --format json writes one")
        if content.get("version") != FINDINGS_FORMAT:
            raise RunError(f"findings format {content.get('version')!r}; this recspect reads {FINDINGS_FORMAT}",
                           hint="run `recspect diagnose` again with this version")
        try:
            return cls(
                findings=tuple(_finding(entry) for entry in content["findings"]),
                provenance=dict(content.get("provenance", {})),
                overview=tuple(_evidence(entry) for entry in content.get("overview", ())),
                title=str(content.get("title", "")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"the findings file is damaged: {type(error).__name__}: {error}",
                           hint="run `recspect diagnose` again") from None

    @classmethod
    def read(cls, path: str | Path) -> Report:
        """Read a findings JSON file.

        Raises:
            RunError: Missing or damaged.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"no findings at {path}", hint="recspect diagnose RUN writes them") from None
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path} is not JSON: {error}", hint="run `recspect diagnose` again") from None
        return cls.from_mapping(content)

    def _repr_html_(self) -> str:
        """What a notebook shows: the same report as the page, in a frame."""
        from recspect.report.html import notebook_html

        return notebook_html(self)


_UNRATED = 0.5
"""Severity of a finding whose diagnostic names no limit: the middle, as nothing says how far beyond it is."""


def _beyond(estimate: Estimate | None, limit: float | None, neutral: float) -> float:
    if estimate is None or limit is None:
        return _UNRATED
    low, high = (estimate.low, estimate.high) if estimate.has_interval else (estimate.value, estimate.value)
    ends = (abs(low - neutral), abs(high - neutral))  # type: ignore[operator]
    crosses = low < neutral < high  # type: ignore[operator]
    nearest, farthest, far = 0.0 if crosses else min(ends), max(ends), abs(limit - neutral)
    if abs(estimate.value - neutral) > far:
        return 1.0 - far / nearest if nearest > far else 0.0
    return 1.0 - farthest / far if farthest < far else 0.0


def plain(value: Any) -> Any:
    """Data for JSON: mappings, lists, texts, numbers, None; NaN and infinities are None, and evidence has its kind beside its fields."""
    if is_dataclass(value) and not isinstance(value, type):
        kinds = {kind: name for name, kind in EVIDENCE_KINDS.items()}
        head = {"kind": kinds[type(value)]} if type(value) in kinds else {}
        return head | {spec.name: plain(getattr(value, spec.name)) for spec in fields(value)}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence):
        return [plain(entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (int, float, str)) else str(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value


def _known(kind: type, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that this version knows: a newer one of the same format may have added some."""
    names = {spec.name for spec in fields(kind)}
    return {key: value for key, value in entry.items() if key in names}


def _line(entry: Mapping[str, Any]) -> Line:
    content: dict[str, Any] = {key: _numbers(value) if key in ("x", "y", "low", "high") else value
                               for key, value in _known(Line, entry).items()}
    return Line(**content)


def _evidence(entry: Mapping[str, Any]) -> Evidence:
    kind = EVIDENCE_KINDS[entry["kind"]]
    content: dict[str, Any] = {key: _tuples(value) for key, value in _known(kind, entry).items()}
    if entry["kind"] == "curve":
        content["lines"] = tuple(_line(line) for line in entry["lines"])
    for key in ("values", "low", "high", "x", "y", "target", "reference"):
        if isinstance(content.get(key), tuple):
            content[key] = _numbers(content[key])
    evidence: Evidence = kind(**content)
    return evidence


def _numbers(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_numbers(v) if isinstance(v, (list, tuple)) else (math.nan if v is None else v) for v in values)


def _finding(entry: Mapping[str, Any]) -> Finding:
    content = _known(Finding, entry)
    content["verdict"] = Verdict(content["verdict"])
    content["place"] = Place(**_known(Place, content["place"]))
    content["estimate"] = Estimate(**_known(Estimate, content["estimate"])) if content.get("estimate") else None
    content["remedies"] = tuple(Remedy(**_known(Remedy, remedy)) for remedy in content.get("remedies", ()))
    content["evidence"] = tuple(_evidence(piece) for piece in content.get("evidence", ()))
    content["causes"] = tuple(content.get("causes", ()))
    content["sources"] = tuple(content.get("sources", ()))
    return Finding(**content)


__all__ = ["FINDINGS_FORMAT", "Finding", "Place", "Remedy", "Report", "Verdict"]
