"""The chart of `Bars`: bars from zero, or dots with intervals where there is a value to compare with."""

from __future__ import annotations

import math
from typing import Any

from recspect.diagnosis.estimate import significant_digits
from recspect.diagnosis.evidence import Bars
from recspect.report.marks import Drawing, data, layer, nominal, quantitative, unique
from recspect.report.palette import Palette, hues
from recspect.report.wording import clean, figure, figures, rounded, short


def bars_chart(bars: Bars, palette: Palette) -> Drawing | None:
    """A drawing, or None where no value was measured. The bars must be bounded.

    With `reference` a bar from zero would hide the difference that matters (1.02 against 1.00), so that values are dots,
    whose position and not length is the amount, and the axis need not show zero.
    """
    if all(math.isnan(v) for v in bars.values):
        return None
    groups = list(dict.fromkeys(short(g, 30) for g in bars.group))
    grouped, dots = len(groups) > 1, bars.reference is not None
    rows = _rows(bars, grouped=grouped, from_zero=not dots)
    low, high = _domain(rows, bars.reference)
    place = {"y": nominal("name", title="", axis={"labelColor": palette.ink, "labelLimit": 132},
                          scale={"type": "band", "paddingInner": 0.28, "paddingOuter": 0.14})}
    if grouped:
        place["yOffset"] = nominal("group", scale={"type": "band"})
        look = {"color": nominal("group", scale={"domain": groups, "range": hues(groups, palette)},
                                 legend={"title": None, "symbolType": "circle" if dots else "square"})}
        if dots:
            look["shape"] = nominal("group", scale={"domain": groups}, legend={"title": None})
        else:
            # Full and pale with an outline: told apart without colour.
            look["stroke"] = look["color"]
            look["fillOpacity"] = nominal("pale", scale={"domain": ["no", "yes"], "range": [1.0, 0.3]}, legend=None) | {"sort": "ascending"}
    else:
        look = {"color": nominal("hot", scale={"domain": ["no", "yes"], "range": [palette.target, palette.fault]}, legend=None)}
    tooltip = [{"field": "name", "type": "nominal"}, {"field": "text", "type": "nominal", "title": "value"}]
    x = quantitative("value", title=bars.unit, scale={"domain": [low, high], "nice": False, "zero": not dots},
                     axis={"tickCount": 5, "grid": True})
    mark = {"type": "point", "filled": True, "size": 62, "opacity": 1} if dots else {"type": "bar"}
    layers = [layer(mark, place | look | {"x": x, "tooltip": tooltip})]
    if bars.low:
        whisker = layer({"type": "rule", "strokeWidth": 1.6, "color": palette.muted if dots else palette.ink},
                        place | {"x": quantitative("low"), "x2": {"field": "high"}})
        layers.insert(0 if dots else 1, whisker)
    if bars.reference is not None:
        line = data([{"at": bars.reference, "text": figure(bars.reference)}])
        layers.insert(0, layer({"type": "rule", "strokeDash": [4, 3], "color": palette.muted}, {"x": quantitative("at")}, data=line))
        layers.append(layer({"type": "text", "baseline": "bottom", "dy": -3, "color": palette.muted},
                            {"x": quantitative("at"), "y": {"value": 0}, "text": {"field": "text"}}, data=line))
    else:
        layers.append(layer({"type": "rule", "color": palette.muted}, {"x": quantitative("at")}, data=data([{"at": 0.0}])))
    layers.append(layer({"type": "text", "align": "left", "dx": 7}, place | {"x": quantitative("end"), "text": {"field": "text"}}))
    step = 17 * len(groups) + 10 if grouped else 23
    return {"height": max(46, step * len({row["name"] for row in rows})), "data": data(rows), "layer": layers}


def _rows(bars: Bars, *, grouped: bool, from_zero: bool) -> list[dict[str, Any]]:
    labels = _labels(bars, grouped=grouped)
    highlighted = {clean(name) for name in bars.highlighted}
    groups = list(dict.fromkeys(short(g, 30) for g in bars.group)) or [""]
    rows: list[dict[str, Any]] = []
    for i, (name, value, text) in enumerate(zip(bars.names, bars.values, _texts(bars), strict=True)):
        low, high = (bars.low[i], bars.high[i]) if bars.low else (math.nan, math.nan)
        hot = clean(name) in highlighted
        group = short(bars.group[i], 30) if bars.group else ""
        ends = [v for v in (value, high, 0.0 if from_zero else value) if not math.isnan(v)]
        rows.append({
            "name": labels[i], "value": value, "low": low, "high": high, "hot": "yes" if hot else "no",
            "group": group, "pale": "yes" if groups.index(group) % 2 else "no",
            # The arrow says without colour which bars are meant. Text stands right of zero, also for negative values,
            # where it cannot cover the names.
            "text": ("not measured" if math.isnan(value) else text) + (" ←" if hot else ""), "end": max(ends, default=math.nan),
        })
    middle = next((v for row in rows if not math.isnan(v := row["end"])), 0.0)
    for row in rows:
        row["end"] = middle if math.isnan(row["end"]) else row["end"]
    return rows


def _texts(bars: Bars) -> list[str]:
    """Values with common decimals: those that the narrower intervals support, else those that the largest value needs."""
    errors = sorted((high - low) / 2 for low, high in zip(bars.low, bars.high, strict=True) if high > low)
    if not errors:
        return figures(bars.values)
    digits = max(0, significant_digits(1.0, errors[len(errors) // 4]) - 1)
    return ["–" if math.isnan(v) else rounded(v, digits) for v in bars.values]


def _domain(rows: list[dict[str, Any]], reference: float | None) -> tuple[float, float]:
    numbers = [v for row in rows for v in (row["value"], row["low"], row["high"]) if not math.isnan(v)]
    numbers.append(0.0 if reference is None else reference)
    low, high = min(numbers), max(numbers)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    if reference is not None:
        return low - margin, high + margin
    return (low - margin if low < 0 else 0.0), (high if high > 0 or low < 0 else 1.0)


def _labels(bars: Bars, *, grouped: bool) -> list[str]:
    """Axis labels: one per name; with groups the same name shares a place unless it repeats within its group."""
    names = [short(name, 40) for name in bars.names]
    if not grouped:
        return unique(names)
    seen: dict[tuple[str, str], int] = {}
    labels = []
    for name, group in zip(names, bars.group, strict=True):
        seen[name, group] = seen.get((name, group), 0) + 1
        labels.append(name if seen[name, group] == 1 else f"{name} ({seen[name, group]})")
    return labels
