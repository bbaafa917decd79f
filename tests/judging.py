"""Ask one diagnostic about small tables, the way the engine does: plan, tally, judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostic import Diagnostic, Scope, gathered, judge, plan
from recspect.diagnosis.finding import Finding, Report, Verdict
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.source import read
from recspect.diagnosis.tally import Tally
from recspect.schema import Schema

Table = Mapping[str, Any]


def ask(diagnostic: Diagnostic, target: Table, reference: Table | None = None, *, schema: Schema | None = None,
        probes: Sequence[Probe] = (), **scope: Any) -> list[Finding]:
    """The findings; every one of them survives the findings format."""
    added = {name for probe in probes for name in probe.adds}
    known = Scope(schema=schema or Schema(), target=frozenset(target) | added,
                  reference=frozenset() if reference is None else frozenset(reference) | added, **scope)
    planned = plan([diagnostic], known)
    held_out, train = gathered(planned, known, *(lambda keys, side=side: tally(read(side), keys, probes=probes) if keys else Tally({}) for side in (target, reference)))
    findings = judge(planned, held_out, train, known)
    mapping = Report(findings=tuple(findings)).to_mapping()
    assert Report.from_mapping(mapping).to_mapping() == mapping
    assert all(finding.code == diagnostic.code and finding.claim for finding in findings)
    return findings


def diagnose(diagnostic: Diagnostic, schema: Schema, target: Table, reference: Table | None = None, **scope: Any) -> list[Finding]:
    """`ask` with what the command line adds: the label, the user and the row number fill @label and @cluster."""
    return ask(diagnostic, with_roles(target, schema), None if reference is None else with_roles(reference, schema), schema=schema,
               buckets=25, **scope)


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


def users_apart(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Held-out and training rows of other users, alike in everything: what is of a user is the same in a hundred rows."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(60), 100)
    table = {"user": user, "city": np.array([f"city {c}" for c in rng.integers(0, 8, 60)])[user],
             "age": np.round(rng.normal(40, 10, 60))[user], "seconds": rng.exponential(10, 6000)}
    held_out, train = ({name: column[rows] for name, column in table.items()} for rows in (user >= 40, user < 40))
    return held_out, train


def halves(frame: Any, share: float = 0.8) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first rows and the last rows of a frame as columns."""
    cut = int(len(frame) * share)
    batch = Batch.from_arrow(frame.to_arrow())
    return dict(batch.take(np.arange(cut))), dict(batch.take(np.arange(cut, batch.rows)))
