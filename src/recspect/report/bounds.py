"""Evidence cut to what can be drawn and read, with a sentence that says what was left out.

A page of 60 charts opens fast only if no chart carries a million points. Curves keep their spikes (the lowest and highest
point of every stretch stays), ranked things keep their first entries, neighbouring bins are merged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from recspect.diagnosis.evidence import (
    Bars,
    Curve,
    DistributionPair,
    Evidence,
    HeatMap,
    Line,
    RankedTable,
    Reasons,
    Scatter,
    StageGraph,
)
from recspect.report.wording import clean, finite

MAX_POINTS = 500
MAX_LINES = 12
MAX_BARS = 40
MAX_CELLS = 60
MAX_BINS = 50
MAX_DOTS = 1000
MAX_ROWS = 200
MAX_REASONS = 50
MAX_NODES = 40
MAX_EDGES = 120
MAX_MARKS = 6
_GREATEST = 1e100


def bounded(evidence: Evidence) -> tuple[Evidence, str]:
    """Evidence of the same kind that is small, rectangular and finite-or-NaN, and what was left out ("" for nothing).

    Raises:
        TypeError: Not one of the eight kinds.
    """
    match evidence:
        case Curve():
            return _curve(evidence)
        case Bars():
            return _bars(evidence)
        case HeatMap():
            return _heat_map(evidence)
        case DistributionPair():
            return _distribution_pair(evidence)
        case Scatter():
            return _scatter(evidence)
        case RankedTable():
            rows = tuple(tuple(row)[: len(evidence.columns)] for row in evidence.rows[:MAX_ROWS])
            return replace(evidence, rows=rows), _left_out(len(rows), len(evidence.rows), "rows")
        case Reasons():
            items = evidence.items[:MAX_REASONS]
            return replace(evidence, items=items), _left_out(len(items), len(evidence.items), "reasons")
        case StageGraph():
            return _stage_graph(evidence)
    raise TypeError(f"{type(evidence).__name__} is no kind of evidence; see EVIDENCE_KINDS")


def _curve(curve: Curve) -> tuple[Curve, str]:
    notes = []
    lines, thinned, hidden = [], 0, 0
    for line in curve.lines[:MAX_LINES]:
        points = _points(line)
        if curve.log_x:
            points = [point for point in points if point[0] > 0]
        if curve.log_y:
            hidden += sum(point[1] <= 0 for point in points)
            points = [(x, *(v if v > 0 else math.nan for v in rest)) for x, *rest in points]
        kept = _thin(points)
        thinned = max(thinned, len(points) if len(kept) < len(points) else 0)
        x, y, low, high = zip(*kept, strict=True) if kept else ((), (), (), ())
        banded = bool(line.low) and bool(line.high)
        lines.append(replace(line, x=x, y=y, low=low if banded else (), high=high if banded else ()))
    if thinned:
        notes.append(f"{thinned:,} points thinned to {MAX_POINTS}, lowest and highest kept.")
    if hidden:
        notes.append(f"{hidden:,} values of zero or less have no place on the logarithmic axis.")
    notes.append(_left_out(len(lines), len(curve.lines), "lines"))
    marks = tuple((x, text) for x, text in curve.marks if _drawable(x) is not None and (x > 0 or not curve.log_x))
    return replace(curve, lines=tuple(lines), marks=marks[:MAX_MARKS]), " ".join(filter(None, notes))


def _points(line: Line) -> list[tuple[float, float, float, float]]:
    """(x, y, low, high) by x; points without a place on the x axis go."""
    n = min(len(line.x), len(line.y))
    low, high = _numbers(line.low, n), _numbers(line.high, n)
    points = [(_drawable(line.x[i]), y, low[i], high[i]) for i, y in enumerate(_numbers(line.y, n))]
    return [point for point in points if point[0] is not None]  # type: ignore[misc]


def _thin(points: list[tuple[float, float, float, float]]) -> list[tuple[float, float, float, float]]:
    n = len(points)
    if n <= MAX_POINTS:
        return points
    stretches = (MAX_POINTS - 2) // 2
    keep = {0, n - 1}
    for s in range(stretches):
        stretch = range(1 + s * (n - 2) // stretches, 1 + (s + 1) * (n - 2) // stretches)
        measured = [i for i in stretch if not math.isnan(points[i][1])] or list(stretch)[:1]
        if measured:
            keep |= {min(measured, key=lambda i: points[i][1]), max(measured, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(keep)]


def _bars(bars: Bars) -> tuple[Bars, str]:
    n = min(len(bars.names), len(bars.values))
    group = bars.group if len(bars.group) >= n else ()
    kept = list(range(n))[:MAX_BARS]
    values, low, high = _numbers(bars.values, n), _numbers(bars.low, n), _numbers(bars.high, n)
    banded = bool(bars.low) and bool(bars.high)
    return replace(
        bars,
        names=tuple(bars.names[i] for i in kept),
        values=tuple(values[i] for i in kept),
        low=tuple(low[i] for i in kept) if banded else (),
        high=tuple(high[i] for i in kept) if banded else (),
        group=tuple(group[i] for i in kept) if group else (),
        reference=_drawable(bars.reference),
    ), _left_out(len(kept), n, "bars")


def _heat_map(heat: HeatMap) -> tuple[HeatMap, str]:
    rows, columns = heat.rows[:MAX_CELLS], heat.columns[:MAX_CELLS]
    values = tuple(_numbers(heat.values[r] if r < len(heat.values) else (), len(columns)) for r in range(len(rows)))
    notes = [_left_out(len(rows), len(heat.rows), "rows"), _left_out(len(columns), len(heat.columns), "columns")]
    return replace(heat, rows=rows, columns=columns, values=values), " ".join(filter(None, notes))


def _distribution_pair(pair: DistributionPair) -> tuple[DistributionPair, str]:
    n = len(pair.bins)
    target, reference = _numbers(pair.target, n), _numbers(pair.reference, n)
    if n <= MAX_BINS:
        return replace(pair, target=target, reference=reference), ""
    width = math.ceil(n / MAX_BINS)
    starts = range(0, n, width)

    def merged(shares: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sum(v for v in shares[s:s + width] if not math.isnan(v)) for s in starts)

    labels = tuple(clean(pair.bins[s], limit=40) for s in starts)
    return (replace(pair, bins=labels, target=merged(target), reference=merged(reference)),
            f"{n:,} bins drawn as {len(labels)}: {width} neighbours together, named by the first.")


def _scatter(scatter: Scatter) -> tuple[Scatter, str]:
    n = min(len(scatter.x), len(scatter.y))
    x, y = _numbers(scatter.x, n), _numbers(scatter.y, n)
    good = [i for i in range(n) if not math.isnan(x[i]) and not math.isnan(y[i])
            and (x[i] > 0 or not scatter.log_x) and (y[i] > 0 or not scatter.log_y)]
    kept = good if len(good) <= MAX_DOTS else [good[k * len(good) // MAX_DOTS] for k in range(MAX_DOTS)]
    names = scatter.names if len(scatter.names) >= n else ()
    notes = [_left_out(len(kept), len(good), "points")]
    if len(good) < n:
        notes.append(f"{n - len(good):,} points have no place on the axes.")
    return replace(scatter, x=tuple(x[i] for i in kept), y=tuple(y[i] for i in kept),
                   names=tuple(names[i] for i in kept) if names else ()), " ".join(filter(None, notes))


def _stage_graph(graph: StageGraph) -> tuple[StageGraph, str]:
    nodes: dict[str, float] = {}
    for name, count in graph.nodes[:MAX_NODES]:
        nodes.setdefault(name, max(0.0, _drawable(count) or 0.0))
    edges = [(start, end, max(0.0, _drawable(count) or 0.0)) for start, end, count in graph.edges
             if start in nodes and end in nodes and start != end]
    notes = [_left_out(min(len(graph.nodes), MAX_NODES), len(graph.nodes), "stages"),
             _left_out(min(len(edges), MAX_EDGES), len(edges), "connections")]
    return (replace(graph, nodes=tuple(nodes.items()), edges=tuple(edges[:MAX_EDGES])), " ".join(filter(None, notes)))


def _drawable(value: object) -> float | None:
    """A finite number of a size for which widths and ratios of axes are finite too; None for what has no place."""
    number = finite(value)
    if number is None or abs(number) > _GREATEST:
        return None
    return number if abs(number) >= 1 / _GREATEST else 0.0


def _numbers(values: Sequence[object], n: int) -> tuple[float, ...]:
    """So many floats, NaN where there is no finite number."""
    found = [_drawable(value) for value in values[:n]]
    return tuple(math.nan if value is None else value for value in found) + (math.nan,) * (n - len(found))


def _left_out(shown: int, total: int, things: str) -> str:
    return f"{shown:,} of {total:,} {things} shown; … {total - shown:,} more." if shown < total else ""
