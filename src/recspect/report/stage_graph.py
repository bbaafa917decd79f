"""The chart of a `StageGraph`: what flowed from stage to stage, top to bottom, widths proportional to counts."""

from __future__ import annotations

from typing import Any

from recspect.diagnosis.evidence import StageGraph
from recspect.report.marks import Drawing, data, layer, quantitative
from recspect.report.palette import Palette
from recspect.report.wording import figure, short

_ROW = 74
_BOX = 16
_STEPS = 16
_THINNEST = 0.006
"""Width, as a share of the chart, below which a flow could not be seen."""


def stage_chart(graph: StageGraph, palette: Palette) -> Drawing | None:
    """A drawing, or None without nodes. The graph must be bounded (names unique)."""
    if not graph.nodes:
        return None
    depth = _depths(graph)
    rows: dict[int, list[tuple[str, float]]] = {}
    for name, count in graph.nodes:
        rows.setdefault(depth[name], []).append((name, count))
    scale = max(sum(count for _, count in row) for row in rows.values()) or 1.0
    height = _ROW * (len(rows) - 1) + 20 + _BOX + 4
    places: dict[str, tuple[float, float, float]] = {}
    boxes: list[dict[str, Any]] = []
    for level, row in sorted(rows.items()):
        gap = 0.03 if len(row) > 1 else 0.0
        room = 1.0 - gap * (len(row) - 1)
        slots = _slots([count / scale for _, count in row], room)
        left = 0.0
        for (name, count), slot in zip(row, slots, strict=True):
            wide = min(slot, max(_THINNEST, count / scale * room))
            top = level * _ROW + 20
            places[name] = (left, wide, float(top))
            # The last of several nodes is named from the right, where its words cannot leave the chart.
            side = "right" if len(row) > 1 and left > 0.5 and name == row[-1][0] else "left"
            number = figure(int(count) if count == int(count) else count)
            boxes.append({"x": left, "x2": left + wide, "y": top, "y2": top + _BOX, "text": f"{short(name, 30)}  {number}",
                          "name": short(name, 60), "count": number, "side": side, "at": left if side == "left" else left + slot})
            left += slot + gap
    x = quantitative("x", axis=None, scale={"domain": [0, 1], "nice": False})
    y = quantitative("y", axis=None, scale={"domain": [0, height], "nice": False, "reverse": True})
    place = {"x": x, "y": y}
    layers = []
    if ribbons := _ribbons(graph, places, depth):
        # The area runs along the vertical axis: x and x2 are its two sides at each height.
        layers.append(layer({"type": "area", "orient": "horizontal", "color": palette.target, "opacity": 0.2},
                            place | {"x2": {"field": "x2"}, "detail": {"field": "edge", "type": "nominal"}}, data=data(ribbons)))
    tooltip = [{"field": "name", "type": "nominal", "title": "stage"}, {"field": "count", "type": "nominal"}]
    layers.append(layer({"type": "rect", "color": palette.target, "cornerRadius": 2},
                        place | {"x2": {"field": "x2"}, "y2": {"field": "y2"}, "tooltip": tooltip}, data=data(boxes)))
    for side in ("left", "right"):
        named = [{"x": box["at"], "y": box["y"], "text": box["text"]} for box in boxes if box["side"] == side]
        if named:
            layers.append(layer({"type": "text", "align": side, "baseline": "bottom", "dy": -4},
                                place | {"text": {"field": "text"}}, data=data(named)))
    return {"height": height, "layer": layers}


def _depths(graph: StageGraph) -> dict[str, int]:
    """Longest way from a start, over edges that go forward in the order of the nodes (an edge back makes no cycle)."""
    order = {name: i for i, (name, _) in enumerate(graph.nodes)}
    depth = dict.fromkeys(order, 0)
    if not graph.edges:
        return dict(order)
    for name in order:
        for start, end, _ in graph.edges:
            if end == name and order[start] < order[end]:
                depth[name] = max(depth[name], depth[start] + 1)
    return depth


def _slots(shares: list[float], room: float) -> list[float]:
    """Room per node: its share, but enough for a label, all together at most `room`."""
    if len(shares) == 1:
        return [room]
    least = min(0.24, room / len(shares))
    wanted = [max(share, least) for share in shares]
    total = sum(wanted)
    return [room * w / total for w in wanted]


def _ribbons(graph: StageGraph, place: dict[str, tuple[float, float, float]], depth: dict[str, int]) -> list[dict[str, Any]]:
    """Sides of every edge at a few heights. A node's edges share its width in proportion to their counts."""
    leaving, entering = _shares(graph, 0, depth), _shares(graph, 1, depth)
    used_out: dict[str, float] = {}
    used_in: dict[str, float] = {}
    rows = []
    for k, (start, end, _) in enumerate(graph.edges):
        if depth[start] >= depth[end]:
            continue
        left0, wide0, top0 = place[start]
        left1, wide1, top1 = place[end]
        a, b = used_out.get(start, 0.0), used_in.get(end, 0.0)
        share0, share1 = leaving[k], entering[k]
        used_out[start], used_in[end] = a + share0, b + share1
        for s in range(_STEPS + 1):
            t = s / _STEPS
            ease = t * t * (3 - 2 * t)
            x_from, x_to = left0 + a * wide0, left1 + b * wide1
            width = wide0 * share0 + ease * (wide1 * share1 - wide0 * share0)
            left = x_from + ease * (x_to - x_from)
            rows.append({"edge": str(k), "y": top0 + _BOX + t * (top1 - top0 - _BOX), "x": left, "x2": left + max(_THINNEST / 2, width)})
    return rows


def _shares(graph: StageGraph, side: int, depth: dict[str, int]) -> dict[int, float]:
    """Share of its node's width that each edge takes: its count against the node's count, at most all of it."""
    counts = dict(graph.nodes)
    totals: dict[str, float] = {}
    for edge in graph.edges:
        if depth[edge[0]] < depth[edge[1]]:
            totals[edge[side]] = totals.get(edge[side], 0.0) + edge[2]
    shares = {}
    for k, edge in enumerate(graph.edges):
        whole = max(totals.get(edge[side], 0.0), counts[edge[side]])
        shares[k] = edge[2] / whole if whole else 0.0
    return shares
