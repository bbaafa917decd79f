"""Small groups are not shown: what is said of a handful of people says something of each of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from recspect.diagnosis.evidence import Evidence, RankedTable
from recspect.diagnosis.finding import Finding, Report

SMALLEST = 20
"""Rows or people of the smallest group that is shown."""

GROUPED = ("slice", "group", "user", "segment")
"""Names of the first column of tables whose rows are groups of people or of what they did."""

COUNTED = ("rows", "users", "people", "requests")
"""Names of columns that count what such a row is about."""


def without_small_groups(report: Report, smallest: int = SMALLEST) -> Report:
    """The report without findings on slices of fewer rows, and without such rows in its tables; how many were left out is said there.

    Args:
        report: As it was written.
        smallest: 0 or 1 hides nothing.
    """
    if smallest <= 1:
        return report
    return replace(report, overview=tuple(_hidden(piece, smallest) for piece in report.overview),
                   findings=tuple(replace(f, evidence=tuple(_hidden(piece, smallest) for piece in f.evidence)) for f in report.findings if not _small(f, smallest)))


def pieces_without_small_groups(pieces: Iterable[Evidence], smallest: int = SMALLEST, *, least: int = 0) -> tuple[Evidence, ...]:
    """The same of pictures that stand alone.

    Args:
        pieces: As they were kept.
        smallest: 0 or 1 hides nothing.
        least: Rows of the smallest group in them, 0 where they show none. Where that is too few only tables are left, which say how many rows each line is about.
    """
    if smallest <= 1:
        return tuple(pieces)
    return tuple(_hidden(piece, smallest) for piece in pieces if isinstance(piece, RankedTable) or not 0 < least < smallest)


def _small(finding: Finding, smallest: int) -> bool:
    return finding.place.kind in ("slice", "user", "group") and finding.estimate is not None and finding.estimate.n < smallest


def _hidden(piece: Evidence, smallest: int) -> Evidence:
    if not isinstance(piece, RankedTable) or not piece.columns or piece.columns[0].strip().lower() not in GROUPED:
        return piece
    places = [k for k, column in enumerate(piece.columns) if column.strip().lower() in COUNTED]
    if not places:
        return piece
    kept = tuple(row for row in piece.rows if not any(_below(row[k], smallest) for k in places))
    if len(kept) == len(piece.rows):
        return piece
    note = f"{len(piece.rows) - len(kept)} groups of fewer than {smallest} are not shown"
    return replace(piece, rows=kept, caption=" · ".join(filter(None, (piece.caption, note))))


def _below(cell: object, smallest: int) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool) and cell < smallest


__all__ = ["SMALLEST", "pieces_without_small_groups", "without_small_groups"]
