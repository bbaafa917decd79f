"""Questions that the steps of a training alone can answer, whoever wrote them down."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from recspect.diagnosis.diagnostic import Scope, all_diagnostics, judge, plan
from recspect.diagnosis.finding import Finding
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.source import read
from recspect.diagnosis.tally import Tally
from recspect.schema import Schema


def as_columns(steps: pa.Table) -> pa.Table:
    """The table under the names that diagnostics ask for: `@step`, `@series`, `@value`, ..."""
    return steps.rename_columns([f"@{name}" for name in steps.column_names])


def findings_on(steps: pa.Table, *, name: str, source: str, questions: Sequence[str]) -> tuple[Finding, ...]:
    """What some questions about training find.

    Args:
        steps: What `as_columns` gave.
        name: Of the training.
        source: What the table is called in errors.
        questions: Codes of diagnostics.
    """
    scope = Scope(schema=Schema(name=name), target=frozenset(steps.column_names))
    planned = plan([diagnostic for diagnostic in all_diagnostics() if diagnostic.code in questions], scope)
    return tuple(judge(planned, tally(read(steps, name=source), planned.needs.target), Tally({}), scope))


__all__ = ["as_columns", "findings_on"]
