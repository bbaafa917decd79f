"""What could not be read, said in the report: every number is of the rest."""

from __future__ import annotations

from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.runners.runner import Local, Lost, Runner
from recspect.diagnosis.source import Source
from recspect.diagnosis.source_files import Files
from recspect.diagnosis.source_frames import in_memory
from recspect.diagnosis.source_pieces import Divisible
from recspect.errors import DamagedError, listing
from recspect.examining.sides import Side

CODE = "run.partial"
"""Code of the finding that names what could not be read."""

HEAD_ROWS = 100_000
"""Rows of a readable partition by which a schema is held against the table."""


def partial_findings(*sides: Side) -> list[Finding]:
    """One finding that names every partition that is in no total; none where all could be read."""
    lost = {one.name: one for side in sides for one in (*side.lost.values(), *_left_out(side))}
    if not lost:
        return []
    named = sorted(lost.values(), key=lambda one: one.name)
    known = [one.rows for one in named if one.rows is not None]
    rows = f", {sum(known):,} rows{' and more' if len(known) < len(named) else ''}" if known else ""
    several = len(named) > 1
    return [Finding(
        code=CODE, verdict=Verdict.WARN, place=Place(),
        claim=f"{len(named)} partition{'s' if several else ''} could not be read{rows}: {listing((one.name for one in named), limit=3)}. Every number here is of the rest.",
        estimate=Estimate(value=float(len(named)), unit="partitions that could not be read", n=len(named), of="partitions"),
        threshold="WARN for any", limit=0.0,
        meaning="The rows that are missing may be unlike those that are there: of one day, one region, one machine.",
        causes=("a file was cut short while it was written or copied", "a disk or a transfer changed bytes"),
        remedies=(Remedy(code="write_again", text="Copy or export the files again, and diagnose again; with a folder of kept totals only they are read."),),
        evidence=(RankedTable(title="Which partitions could not be read?", caption="None of their rows is in any number.", columns=("partition", "rows", "reason"),
                              rows=tuple((one.name, "unknown" if one.rows is None else one.rows, one.reason) for one in named[:200])),))]


def _left_out(side: Side) -> list[Lost]:
    return [Lost(name, reason) for view in side.views if isinstance(view.source, Files) for name, reason in view.source.left_out]


def readable(source: Source, runner: Runner) -> Source:
    """The source by which a schema is held against the table: itself, or the head of a partition that can be read, where its runner leaves out the others."""
    if isinstance(runner, Local) or not isinstance(source, Divisible):
        return source
    for piece in source.pieces():
        try:
            table = next(iter(source.tables(piece, source.columns, rows=HEAD_ROWS)), None)
        except DamagedError:
            continue
        if table is not None and table.num_rows:
            return in_memory(table, name=source.name)
    return source


__all__ = ["CODE", "partial_findings", "readable"]
