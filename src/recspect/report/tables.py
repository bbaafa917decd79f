"""Evidence -> a short table: the text alternative of every chart, and what a terminal shows of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from recspect.diagnosis.evidence import (
    Bars,
    Curve,
    DistributionPair,
    Evidence,
    HeatMap,
    RankedTable,
    Reasons,
    Scatter,
    StageGraph,
)
from recspect.report.bounds import bounded
from recspect.report.wording import clean, figure, figures, finite

_WRITTEN = re.compile(r"[-−+]?[\d.,]+%?( to [-−+]?[\d.,]+%?)?")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text cells, ready to be escaped. `numeric` says per column whether it is read as numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    note: str = ""


def table(evidence: Evidence, *, limit: int = 40) -> Table:
    """The numbers of a piece of evidence as text.

    Args:
        evidence: Any kind.
        limit: Rows kept; longer series are taken at equal steps, ranked things from the top.
    """
    small, note = bounded(evidence)
    match small:
        case Curve():
            columns = ["line", clean(small.x_title) or "x", clean(small.y_title) or "y"]
            banded = any(line.low for line in small.lines)
            each = max(2, limit // max(1, len(small.lines)))
            rows = [[line.name, line.x[i], line.y[i], *([line.low[i], line.high[i]] if line.low else [None, None] if banded else [])]
                    for line in small.lines for i in _steps(len(line.x), each)]
            columns += ["from", "to"] if banded else []
        case Bars():
            rows = [[*([small.group[i]] if small.group else []), name, small.values[i], *([small.low[i], small.high[i]] if small.low else [])]
                    for i, name in enumerate(small.names)]
            columns = [*(["series"] if small.group else []), "name", clean(small.unit) or "value", *(["from", "to"] if small.low else [])]
        case HeatMap():
            columns = [clean(small.row_title), *small.columns]
            rows = [[name, *small.values[r]] for r, name in enumerate(small.rows)]
        case DistributionPair():
            columns = [clean(small.x_title) or "bin", small.target_name, small.reference_name]
            rows = [[label, small.target[i], small.reference[i]] for i, label in enumerate(small.bins)]
        case Scatter():
            columns = [*(["name"] if small.names else []), clean(small.x_title) or "x", clean(small.y_title) or "y"]
            rows = [[*([small.names[i]] if small.names else []), small.x[i], small.y[i]] for i in _steps(len(small.x), limit)]
        case RankedTable():
            columns, rows = list(small.columns), [list(row) for row in small.rows]
        case Reasons():
            columns, rows = ["reason"], [[item] for item in small.items]
        case StageGraph():
            columns = ["stage", "count", "from"]
            rows = [[name, count, "; ".join(f"{clean(s)} ({figure(c)})" for s, e, c in small.edges if e == name)] for name, count in small.nodes]
    return _table(columns, rows, limit, note)


def _table(columns: Sequence[object], rows: list[list[object]], limit: int, note: str) -> Table:
    width = len(columns)
    kept = [(row + [None] * width)[:width] for row in rows[:limit]]
    more = f"… {len(rows) - limit:,} more rows." if len(rows) > limit else ""
    numeric = tuple(any(_is_number(row[c]) for row in kept) and all(_is_number(row[c]) or _is_missing(row[c]) for row in kept) for c in range(width))
    by_column = [_cells([row[c] for row in kept], as_numbers=numeric[c]) for c in range(width)]
    return Table(columns=tuple(clean(name, limit=80) for name in columns), rows=tuple(zip(*by_column, strict=True)) if kept else (),
                 numeric=numeric, note=" ".join(filter(None, (note, more))))


def _is_number(value: object) -> bool:
    """A number, or one written out: `5.7%`, `0.0371 to 0.0436`."""
    return bool(_WRITTEN.fullmatch(value.strip())) if isinstance(value, str) else finite(value) is not None


def _is_missing(value: object) -> bool:
    return value is None or value == "" or (not isinstance(value, str) and finite(value) is None)


def _cells(values: list[object], *, as_numbers: bool) -> list[str]:
    return figures(values) if as_numbers else [clean(v, limit=400) if isinstance(v, str) else figure(v) for v in values]


def _steps(n: int, limit: int) -> list[int]:
    """At most `limit` of n indices at equal steps, the first and the last among them."""
    if n <= limit:
        return list(range(n))
    return sorted({round(i * (n - 1) / (limit - 1)) for i in range(limit)})
