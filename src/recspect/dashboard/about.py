"""Everything that is known of one thing: a field, a slice, a layer, a table, an item. Gathered from all evidence by its name, whichever room made it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recspect.diagnosis.closer import Closer
from recspect.diagnosis.evidence import Bars, Curve, Evidence, HeatMap, RankedTable
from recspect.diagnosis.finding import Finding, Report
from recspect.report.wording import clean

KINDS = ("field", "slice", "layer", "table", "item", "user", "label", "metric", "arm")
"""What has an address of its own."""
MOST_LINES, MOST_PICTURES = 120, 12


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of one thing.

    Args:
        findings: About it.
        lines: Every number that stands beside its name, as one table.
        pictures: Those of it alone.
    """

    findings: tuple[Finding, ...]
    lines: RankedTable
    pictures: tuple[Evidence, ...]

    @property
    def anything(self) -> bool:
        """Whether anything is."""
        return bool(self.findings or self.lines.rows or self.pictures)


def known_of(name: str, report: Report | None, pieces: Sequence[Closer], *, kind: str = "") -> Known:
    """Gather it.

    Args:
        name: As the data has it, or as a page shows it.
        report: Findings and pictures of the run.
        pieces: What was kept to be looked at closer.
        kind: One of `KINDS`; only findings of that kind of place, empty for any.
    """
    findings = tuple(f for f in (report.ranked if report is not None else ()) if _is(f.place.name, name) and kind in ("", f.place.kind, *(("field", "table") if kind in ("field", "table") else ())))
    evidence = [*(report.overview if report is not None else ()), *(piece for f in (report.ranked if report is not None else ()) for piece in f.evidence)]
    lines: list[tuple[Any, ...]] = []
    pictures: list[Evidence] = []
    seen: set[str] = set()
    for piece in (*evidence, *(piece for one in pieces for piece in one.evidence)):
        key = repr(replace(piece, stage=""))
        if key in seen:
            continue
        seen.add(key)
        lines += _lines(piece, name)
        if isinstance(piece, Curve) and any(_is(line.name, name) for line in piece.lines) and len(piece.lines) > 1:
            pictures.append(replace(piece, lines=tuple(line for line in piece.lines if _is(line.name, name) or line.role in ("reference", "ideal"))))
    own = [piece for one in pieces if _is(one.row, name) or _is(one.column, name) for piece in one.evidence]
    table = RankedTable(title="Which numbers stand beside its name?", columns=("question", "what", "number", "from", "to"), rows=tuple(dict.fromkeys(lines))[:MOST_LINES],
                        caption=f"the first {MOST_LINES} of {len(lines)}" if len(lines) > MOST_LINES else "")
    return Known(findings=findings, lines=table, pictures=tuple(dict.fromkeys((*pictures, *own)))[:MOST_PICTURES])


def _is(shown: object, name: str) -> bool:
    return bool(name) and (shown == name or clean(shown, limit=300) == name)


def _lines(piece: Evidence, name: str) -> Iterable[tuple[Any, ...]]:
    """(question, what, number, from, to) of every number beside the name."""
    if isinstance(piece, RankedTable) and piece.columns:
        for row in piece.rows:
            if row and _is(row[0], name):
                yield from ((piece.title, column, cell, None, None) for column, cell in zip(piece.columns[1:], row[1:], strict=False) if cell not in (None, "") and not (isinstance(cell, float) and math.isnan(cell)))
    elif isinstance(piece, Bars):
        for k, other in enumerate(piece.names[:len(piece.values)]):
            if _is(other, name) and math.isfinite(piece.values[k]):
                ends = (piece.low[k], piece.high[k]) if len(piece.low) > k and len(piece.high) > k else (None, None)
                yield (piece.title, f"{piece.unit} ({piece.group[k]})" if len(piece.group) > k else piece.unit, piece.values[k], *ends)
    elif isinstance(piece, HeatMap):
        for r, row_name in enumerate(piece.rows):
            if _is(row_name, name):
                yield from ((piece.title, f"{piece.unit}, {column}", value, None, None) for column, value in zip(piece.columns, piece.values[r], strict=False) if math.isfinite(value))
        for c, column_name in enumerate(piece.columns):
            if _is(column_name, name) and not any(_is(one, name) for one in piece.rows):
                yield from ((piece.title, f"{piece.unit}, {row_name}", piece.values[r][c], None, None) for r, row_name in enumerate(piece.rows) if math.isfinite(piece.values[r][c]))


__all__ = ["KINDS", "Known", "known_of"]
