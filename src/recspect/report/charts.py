"""Evidence -> chart: a Vega-Lite specification (plain data) for each of the eight kinds.

Specifications are written directly, not through Altair's classes, which validate each part again and need 60 ms a chart;
`altair_chart` gives the Altair object to whom wants to go on with it, and the tests validate against Altair's schema.
No text of data reaches an expression, a field name or an option: strings stand in data values, in scale domains and in
titles, which Vega draws as text. Lengths start at zero; positions (lines, dots) need not.
"""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any, Literal

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
from recspect.report.bars import bars_chart
from recspect.report.bounds import bounded
from recspect.report.curves import curve_chart
from recspect.report.marks import Drawing, data, layer, log_values, nominal, quantitative, unique
from recspect.report.palette import LIGHT, Palette, config
from recspect.report.stage_graph import stage_chart
from recspect.report.wording import clean, figure, figures, short

if TYPE_CHECKING:
    import altair as alt

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
"""Name of the grammar, not an address that anything fetches."""


def spec(evidence: Evidence, *, palette: Palette = LIGHT, width: int | Literal["container"] = 640,
         title: bool = True) -> dict[str, Any]:
    """The chart of one piece of evidence.

    Args:
        evidence: Of any size; what is drawn is bounded (`bounded`).
        palette: Colours.
        width: Pixels, or "container" to fill the element it is put into.
        title: Whether title and caption are part of the chart (a page sets them itself, as text).

    Returns:
        A Vega-Lite specification. Evidence without a single measured value gives a chart that says so.
    """
    small, note = bounded(evidence)
    drawing = _draw(small, palette) or _nothing(palette)
    result: dict[str, Any] = {
        "$schema": SCHEMA, "description": clean(evidence.title, limit=300), "width": width, **drawing,
        "autosize": {"type": "fit-x", "contains": "padding"}, "padding": 4, "config": config(palette),
    }
    if title:
        subtitle = " · ".join(filter(None, (clean(evidence.caption, limit=300), note)))
        result["title"] = {"text": textwrap.wrap(clean(evidence.title, limit=300), 80) or [""],
                           "subtitle": textwrap.wrap(subtitle, 100)}
    return result


def altair_chart(evidence: Evidence, *, width: int = 640) -> alt.Chart | alt.LayerChart:
    """The chart as an Altair object, validated against Altair's schema."""
    import altair as alt

    chart: alt.Chart | alt.LayerChart = alt.Chart.from_dict(spec(evidence, width=width))
    return chart


def is_empty(evidence: Evidence) -> bool:
    """Whether there is nothing to draw: no row, or no finite value."""
    return _draw(bounded(evidence)[0], LIGHT) is None


def _draw(evidence: Evidence, palette: Palette) -> Drawing | None:
    match evidence:
        case Curve():
            return curve_chart(evidence, palette)
        case Bars():
            return bars_chart(evidence, palette)
        case HeatMap():
            return _heat_map(evidence, palette)
        case DistributionPair():
            return _distribution_pair(evidence, palette)
        case Scatter():
            return _scatter(evidence, palette)
        case RankedTable():
            return _table(evidence, palette)
        case Reasons():
            return _reasons(evidence, palette)
        case StageGraph():
            return stage_chart(evidence, palette)
    return None


def _nothing(palette: Palette) -> Drawing:
    mark = {"type": "text", "align": "left", "x": 0, "color": palette.muted, "text": "Nothing was measured here."}
    return {"height": 32, **layer(mark, {}, data=data([{}]))}


def _heat_map(heat: HeatMap, palette: Palette) -> Drawing | None:
    measured = [v for row in heat.values for v in row if not math.isnan(v)]
    if not measured:
        return None
    colours = palette.diverging if heat.diverging else palette.ramp
    steps = len(colours)
    span = max(abs(v) for v in measured)
    low, high = (-span, span) if heat.diverging else (min(measured), max(measured))
    size = (high - low) or 1.0
    names = unique(figures([low + size * k / steps for k in range(steps)]))
    row_names = unique([short(name, 36) for name in heat.rows])
    column_names = unique([short(name, 24) for name in heat.columns])
    texts = iter(figures([v for row in heat.values for v in row]))
    cells = []
    for r, row in enumerate(heat.values):
        for c, value in enumerate(row):
            missing = math.isnan(value)
            k = 0 if missing else min(steps - 1, max(0, int(steps * ((value - low) / size))))
            inverted = k in (0, 1, steps - 2, steps - 1) if heat.diverging else k >= palette.ramp_inverts
            cells.append({"row": row_names[r], "column": column_names[c], "step": None if missing else names[k],
                          "text": next(texts), "ink": "on" if inverted and not missing else "off"})
    angled = sum(len(name) for name in column_names) > 40
    place = {
        "x": nominal("column", title=heat.column_title, scale={"paddingInner": 0.04},
                     axis={"labelAngle": -40 if angled else 0, "labelLimit": 110, "domain": False, "ticks": False,
                           "labelOverlap": "greedy" if len(column_names) > 20 else False}),
        "y": nominal("row", title=heat.row_title, scale={"paddingInner": 0.04},
                     axis={"labelColor": palette.ink, "labelLimit": 132}),
    }
    colour = nominal("step", scale={"domain": names, "range": list(colours)},
                     legend={"title": f"{short(heat.unit, 50)}, from" if heat.unit else "from", "columns": 4, "symbolType": "square", "symbolStrokeWidth": 0,
                             "offset": 26 if heat.row_title else 8})
    tooltip = [{"field": key, "type": "nominal"} for key in ("row", "column", "text")]
    layers = [layer({"type": "rect"}, place | {"color": colour, "tooltip": tooltip}, filter="datum.step !== null"),
              layer({"type": "rect", "fillOpacity": 0, "stroke": palette.reference, "strokeDash": [2, 2]}, place,
                    filter="datum.step === null")]
    if len(column_names) <= 12:
        ink = nominal("ink", scale={"domain": ["off", "on"], "range": [palette.ink, palette.surface]}, legend=None)
        layers.append(layer({"type": "text", "fontSize": 10.5}, place | {"text": {"field": "text"}, "color": ink}))
    return {"height": max(40, 25 * len(row_names)), "data": data(cells), "layer": layers,
                            "resolve": {"scale": {"color": "independent"}}}


def _distribution_pair(pair: DistributionPair, palette: Palette) -> Drawing | None:
    if all(math.isnan(v) for v in (*pair.target, *pair.reference)):
        return None
    most = max(v for v in (*pair.target, *pair.reference) if not math.isnan(v))
    target, reference = unique([short(pair.target_name, 40), short(pair.reference_name, 40)])
    bins = unique([short(label, 24) for label in pair.bins])
    angled = sum(len(label) + 2 for label in bins) > 60
    encoding = {
        "x": nominal("bin", title=pair.x_title, scale={"paddingInner": 0.12, "domain": bins},
                     axis={"labelAngle": -40 if angled else 0, "labelLimit": 100, "labelOverlap": "greedy"}),
        "y": quantitative("share", title="share", stack=None, scale={"domain": [0, most or 1.0], "nice": True}, axis={"format": ".0~%", "tickCount": 5}),
        "color": nominal("series", scale={"domain": [target, reference], "range": [palette.target, palette.reference]},
                         legend={"title": None, "symbolType": "square", "symbolOpacity": 1, "offset": 28}),
        "tooltip": [{"field": "bin", "type": "nominal"}, {"field": "series", "type": "nominal"},
                    {"field": "share", "type": "quantitative", "format": ".2%"}],
    }
    # The reference is a wide pale bar and the target a narrow one in front: told apart by shape, not only by colour.
    layers = []
    for series, shares, mark in ((reference, pair.reference, {"opacity": 0.5}), (target, pair.target, {"width": {"band": 0.42}})):
        rows = [{"bin": label, "share": share, "series": series} for label, share in zip(bins, shares, strict=True)]
        layers.append(layer({"type": "bar", **mark}, encoding, data=data(rows)))
    return {"height": 210, "layer": layers}


def _scatter(scatter: Scatter, palette: Palette) -> Drawing | None:
    if not scatter.x:
        return None
    names = [short(name, 40) for name in scatter.names] or [""] * len(scatter.x)
    rows = [{"x": x, "y": y, "name": name} for x, y, name in zip(scatter.x, scatter.y, names, strict=True)]

    def axis(field: str, title: str, values: tuple[float, ...], *, log: bool) -> dict[str, Any]:
        scale = {"type": "log"} if log else {"zero": False, "nice": True}
        return quantitative(field, title=title, scale=scale,
                            axis={"tickCount": 5} | (log_values(min(values), max(values)) if log else {}))

    place = {"x": axis("x", scatter.x_title, scatter.x, log=scatter.log_x), "y": axis("y", scatter.y_title, scatter.y, log=scatter.log_y)}
    tooltip = [{"field": "name", "type": "nominal"}] * bool(scatter.names) + [
        {"field": field, "type": "quantitative", "format": ".4~g"} for field in ("x", "y")]
    many = len(rows) > 150
    dot = {"type": "circle", "color": palette.target, "opacity": 0.4 if many else 0.8, "size": 26 if many else 54}
    layers = [layer(dot, place | {"tooltip": tooltip})]
    named = bool(scatter.names) and len(rows) <= 14
    if named:
        layers.append(layer({"type": "text", "align": "left", "dx": 8, "limit": 120}, place | {"text": {"field": "name"}}))
    return {"height": 250, "data": data(rows), "layer": layers}


def _table(table: RankedTable, palette: Palette) -> Drawing | None:
    if not table.rows or not table.columns:
        return None
    cells = [{"column": c, "row": 0, "text": short(name, 34)} for c, name in enumerate(table.columns)]
    cells += [{"column": c, "row": r + 1, "text": short(figure(cell), 34)}
              for r, row in enumerate(table.rows) for c, cell in enumerate(row)]
    encoding = {
        "x": quantitative("column", axis=None, scale={"domain": [0, len(table.columns)], "nice": False}),
        "y": quantitative("row", axis=None, scale={"domain": [-0.5, len(table.rows) + 0.5], "reverse": True, "nice": False}),
        "text": {"field": "text"},
    }
    layers = [layer({"type": "text", "align": "left", "fontWeight": 600, "color": palette.muted}, encoding, filter="datum.row === 0"),
              layer({"type": "text", "align": "left"}, encoding, filter="datum.row > 0")]
    return {"height": 19 * (len(table.rows) + 1), "data": data(cells), "layer": layers}


def _reasons(reasons: Reasons, palette: Palette) -> Drawing | None:
    lines = []
    for item in reasons.items:
        wrapped = textwrap.wrap(clean(item), 86) or [""]
        lines += [("• " if k == 0 else "   ") + line for k, line in enumerate(wrapped)]
    if not lines:
        return None
    y = quantitative("row", axis=None, scale={"domain": [-0.5, len(lines) - 0.5], "reverse": True, "nice": False})
    mark = {"type": "text", "align": "left", "x": 0, "fontSize": 12, "color": palette.ink}
    rows = [{"row": r, "text": line} for r, line in enumerate(lines)]
    return {"height": 19 * len(lines), "data": data(rows), **layer(mark, {"y": y, "text": {"field": "text"}})}
