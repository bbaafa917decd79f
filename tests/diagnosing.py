"""Diagnoses small tables the way the command line does: needs, totals, judgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostic import Diagnostic, Scope, judge, plan
from recspect.diagnosis.finding import Finding, Verdict
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.source import read
from recspect.schema import Schema

Table = Mapping[str, Any]


def diagnose(diagnostic: Diagnostic, schema: Schema, target: Table, reference: Table | None = None, **scope: Any) -> list[Finding]:
    """All findings of one diagnostic over two tables; the label, the user and the row number fill @label and @cluster."""
    now = with_roles(target, schema)
    before = with_roles(reference, schema) if reference is not None else None
    examined = Scope(schema=schema, target=frozenset(now), reference=frozenset(before or ()), buckets=25,
                     cluster_name="users" if schema.user else "rows", **scope)
    planned = plan([diagnostic], examined)
    totals = tally(read(now), planned.needs.target, rows=100_000)
    base = tally(read(before), planned.needs.reference, rows=100_000) if before else tally(read(now), ())
    return judge(planned, totals, base, examined)


def with_roles(table: Table, schema: Schema) -> dict[str, Any]:
    """The table with @label and @cluster."""
    out = dict(table)
    rows = len(next(iter(out.values())))
    if "@label" not in out and schema.labels and schema.label.name in out:
        out["@label"] = np.asarray(out[schema.label.name], dtype=np.float64)
    out.setdefault("@cluster", out[schema.user] if schema.user and schema.user in out else np.arange(rows))
    return out


def verdicts(findings: Sequence[Finding]) -> dict[str, Verdict]:
    """Place to verdict, the worst where a place has several."""
    out: dict[str, Verdict] = {}
    for finding in findings:
        name = finding.place.name
        if name not in out or out[name].severity < finding.verdict.severity:
            out[name] = finding.verdict
    return out


def is_quiet(findings: Sequence[Finding]) -> bool:
    """Something was found out, and nothing is wrong."""
    return bool(findings) and all(finding.verdict is Verdict.PASS for finding in findings)


def halves(frame: Any, share: float = 0.8) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first rows and the last rows of a frame as columns."""
    cut = int(len(frame) * share)
    batch = Batch.from_arrow(frame.to_arrow())
    return dict(batch.take(np.arange(cut))), dict(batch.take(np.arange(cut, batch.rows)))
