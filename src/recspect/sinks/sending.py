"""A whole run directory, replayed into a sink."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from recspect.diagnosis.evidence import Bars, Evidence, RankedTable, Reasons
from recspect.diagnosis.finding import Report, Verdict
from recspect.diagnosis.mirror import HistogramRow, StepRow
from recspect.errors import RecspectError, UsageError
from recspect.sinks.sink import RunCard, Sink, slug
from recspect.sinks.targets import sink_for

ROWS_AT_ONCE = 5000
"""Rows of steps.parquet handed to a sink in one call."""

MOST_PICTURES = 24
"""Charts sent at most: those of the overview first, then those of findings, worst first."""

IMPORTANCE = "Which fields does the model use"
"""How the title of the table of importance begins."""

Row = TypeVar("Row", StepRow, HistogramRow)


def send(run_directory: str | Path, sink: Sink) -> str:
    """Show a run, with its findings and report where it has been diagnosed.

    Args:
        run_directory: As `recspect train` and `recspect diagnose` wrote it.
        sink: Not opened yet; is opened and closed.

    Returns:
        How to look at it, as the sink says.

    Raises:
        RunError: No run directory, or a damaged one.
        Exception: Whatever the sink's library raises, such as for a server that is not there.
    """
    from recspect.training.run import Run

    run = Run.open(run_directory)
    sink.open(RunCard.of(run.record))
    for steps in _pieces(run.steps(), StepRow):
        sink.scalars(steps)
    for histograms in _pieces(run.histograms(), HistogramRow):
        sink.histograms(histograms)
    if (run.folder / "findings.json").is_file():
        report = Report.read(run.folder / "findings.json")
        for name, table in tables_of(report):
            sink.table(name, table)
        for name, evidence in pictures_of(report):
            from recspect.report.pictures import png

            sink.picture(name, png(evidence), evidence.title)
        sink.findings(report)
    for name in ("report.html", "findings.json", "run.json", "schema.toml"):
        if (run.folder / name).is_file():
            sink.artefact(run.folder / name)
    sink.close(run.status)
    return sink.where


def send_to(run_directory: str | Path, targets: Sequence[str]) -> Iterator[str]:
    """Show a run in each place; yields how to look at it there. For the command line: a sink's own failure is told without a traceback.

    Raises:
        RunError, UsageError, MissingExtraError: No such run, no such target, its library is not there, or it does not take the run.
    """
    for target, sink in [(target, sink_for(target)) for target in targets]:
        try:
            yield send(run_directory, sink)
        except RecspectError:
            raise
        except Exception as error:
            raise UsageError(f"{target} did not take the run: {type(error).__name__}: {error}",
                             hint="is the place there, and may it be written to?") from error


def tables_of(report: Report) -> Iterator[tuple[str, RankedTable]]:
    """Tables by name: "importance" first, those of the overview, its bars as numbers, and those of findings that fail or warn.

    Columns of one table have different names.
    """
    everything = [*report.overview, *(evidence for finding in report.ranked for evidence in finding.evidence)]
    importance = [evidence for evidence in everything if isinstance(evidence, RankedTable) and evidence.title.startswith(IMPORTANCE)]
    found: list[tuple[str, Evidence]] = [("", evidence) for evidence in (*importance[:1], *report.overview)]
    found += [(f"{finding.code}/", evidence) for finding in report.with_verdict(Verdict.FAIL, Verdict.WARN) for evidence in finding.evidence]
    seen: set[str] = set()
    told: set[RankedTable] = set()
    for prefix, evidence in found:
        table = _numbers(evidence) if isinstance(evidence, Bars) and not prefix else evidence
        if isinstance(table, RankedTable) and table not in told:
            told.add(table)
            yield _name(table, prefix, seen), replace(table, columns=_different(table.columns))


def _numbers(bars: Bars) -> RankedTable:
    """The numbers behind a bar chart, not rounded."""
    columns = {"name": bars.names, "group": bars.group, "value": bars.values, "low": bars.low, "high": bars.high}
    there = {name: values for name, values in columns.items() if values}
    rows = tuple(tuple(None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in row) for row in zip(*there.values(), strict=True))
    return RankedTable(title=bars.title, columns=tuple(there), rows=rows, caption=f"{bars.unit}; {bars.caption}")


def _different(names: Sequence[str]) -> tuple[str, ...]:
    """Names of columns, a second "interval" as "interval (2)"."""
    counts: Counter[str] = Counter()
    out = []
    for name in names:
        counts[name] += 1
        out.append(name if counts[name] == 1 else f"{name} ({counts[name]})")
    return tuple(out)


def pictures_of(report: Report) -> Iterator[tuple[str, Evidence]]:
    """What can be drawn, by chapter and name: of the overview, then of what failed or warned."""
    seen: set[str] = set()
    found = [(evidence.stage or "overview", evidence) for evidence in report.overview]
    found += [(finding.code, evidence) for finding in report.with_verdict(Verdict.FAIL, Verdict.WARN) for evidence in finding.evidence]
    drawn = [(where, evidence) for where, evidence in found if not isinstance(evidence, (RankedTable, Reasons))]
    for where, evidence in drawn[:MOST_PICTURES]:
        yield _name(evidence, f"{where}/", seen), evidence


def _name(evidence: Evidence, prefix: str, seen: set[str]) -> str:
    stem = prefix + ("importance" if isinstance(evidence, RankedTable) and evidence.title.startswith(IMPORTANCE) else slug(evidence.title))
    name, number = stem, 2
    while name in seen:
        name, number = f"{stem}_{number}", number + 1
    seen.add(name)
    return name


def _pieces(table: pa.Table, kind: type[Row]) -> Iterator[Sequence[Row]]:
    """Rows in the order of their steps, some thousand at once."""
    table = table.sort_by("step")
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        yield [kind(**row) for row in batch.to_pylist()]
