"""The chart of a `Curve`: lines with bands, labelled at their right end."""

from __future__ import annotations

import math
from typing import Any

from recspect.diagnosis.evidence import Curve, Line
from recspect.report.marks import Drawing, data, layer, log_values, nominal, quantitative
from recspect.report.palette import Palette
from recspect.report.wording import short

HEIGHT = 230
_DASHES = ([1, 0], [6, 3], [2, 3], [8, 3, 2, 3])
_SHAPES = ("circle", "square", "triangle-up", "diamond")
_LABEL_GAP = 15
"""Pixels between two labels, the height of a line of text."""
_FEW = 24
"""Points of a line up to which each point is drawn."""


def curve_chart(curve: Curve, palette: Palette) -> Drawing | None:
    """A drawing, or None where no point was measured. The curve must be bounded."""
    measured = [_measured(line) for line in curve.lines]
    points = [point for line in measured for point in line]
    if not points:
        return None
    bands = [v for line in curve.lines for v in (*line.low, *line.high) if not math.isnan(v)]
    x_domain = _domain([x for x, _ in points], log=curve.log_x, margin=0.0)
    y_domain = _domain([y for _, y in points] + bands, log=curve.log_y, margin=0.05)
    x = quantitative("x", title=curve.x_title, scale=_scale(x_domain, log=curve.log_x),
                     axis={"labelFlush": True} | _ticks(curve, [x for x, _ in points], x_domain))
    y = quantitative("y", title=curve.y_title, scale=_scale(y_domain, log=curve.log_y),
                     axis={"tickCount": 5} | (log_values(*y_domain) if curve.log_y else {}))
    keys = [str(k) for k in range(len(curve.lines))]
    colours, dashes = _looks(curve, palette)
    colour = nominal("line", scale={"domain": keys, "range": colours}, legend=None)
    dash = nominal("line", scale={"domain": keys, "range": dashes}, legend=None)
    shape = nominal("line", scale={"domain": keys, "range": [_SHAPES[k % 4] for k in range(len(keys))]}, legend=None)
    tooltip = [{"field": "name", "type": "nominal", "title": "line"}] + [
        {"field": field, "type": "quantitative", "format": ".4~g"} for field in ("x", "y")]
    layers = []
    if bands:
        layers.append(layer({"type": "area", "opacity": 0.17}, {"x": x, "y": quantitative("low"), "y2": {"field": "high"}, "color": colour}))
    layers += _mark_layers(curve, x_domain, palette)
    dense = max(len(line) for line in measured) > 200
    stroke = {"type": "line", "strokeWidth": 1.2 if dense and len(keys) > 1 else 2.2, "strokeJoin": "round"}
    layers.append(layer(stroke, {"x": x, "y": y, "color": colour, "strokeDash": dash}))
    # A lone point between two gaps draws no line: points make it visible.
    dotted = {keys[k] for k, line in enumerate(measured)
              if (len(line) <= _FEW and curve.lines[k].role != "ideal") or len(line) < len(curve.lines[k].x)}
    rows = _rows(curve, dotted)
    if dotted:
        layers.append(layer({"type": "point", "filled": True, "size": 34, "opacity": 1},
                            {"x": x, "y": y, "color": colour, "shape": shape, "tooltip": tooltip}, filter="datum.dot"))
    labels = _labels(curve, y_domain)
    at = {"x": quantitative("x"), "y": quantitative("at")}
    # A swatch of the line before each label carries the colour, so that the label itself can be dark enough to read.
    layers.append(layer({"type": "rule", "xOffset": 8, "x2Offset": 24, "strokeWidth": 2.4},
                        at | {"x2": {"field": "x"}, "color": colour, "strokeDash": dash}, data=data(labels)))
    layers.append(layer({"type": "text", "align": "left", "dx": 29, "limit": 120}, at | {"text": {"field": "name"}}, data=data(labels)))
    return {"height": HEIGHT, "data": data(rows), "layer": layers}


def _measured(line: Line) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(line.x, line.y, strict=True) if not math.isnan(y)]


def _rows(curve: Curve, dotted: set[str]) -> list[dict[str, Any]]:
    rows = []
    for k, line in enumerate(curve.lines):
        name = short(line.name, 40)
        for i, (x, y) in enumerate(zip(line.x, line.y, strict=True)):
            row = {"line": str(k), "name": name, "x": x, "y": y, "dot": str(k) in dotted and not math.isnan(y)}
            if line.low:
                known = not math.isnan(line.low[i]) and not math.isnan(line.high[i])
                row |= {"low": line.low[i] if known else None, "high": line.high[i] if known else None}
            rows.append(row)
    return rows


def _looks(curve: Curve, palette: Palette) -> tuple[list[str], list[list[int]]]:
    """Colour and dash per line: the role's hue first, then other hues; dashes tell apart what shares a hue."""
    hues = {"target": palette.target, "reference": palette.reference, "fault": palette.fault, "ideal": palette.muted}
    used: dict[str, int] = {}
    colours, dashes = [], []
    for line in curve.lines:
        role = line.role if line.role in hues else "target"
        n = used.get(role, 0)
        used[role] = n + 1
        if role == "ideal":
            colours.append(hues[role])
            dashes.append([3, 3])
        elif role == "target" and n:
            colours.append(palette.others[(n - 1) % len(palette.others)])
            dashes.append(_DASHES[((n - 1) // len(palette.others) + (n - 1)) % 4])
        else:
            colours.append(hues[role])
            dashes.append(_DASHES[n % 4])
    return colours, dashes


def _labels(curve: Curve, domain: list[float]) -> list[dict[str, Any]]:
    """One label per line, level with its last measured point and pushed apart so that none covers another."""
    ends: list[tuple[float, float, str, str]] = []
    right = max(x for line in curve.lines for x, _ in _measured(line))
    for k, line in enumerate(curve.lines):
        points = _measured(line)
        if points:
            # Lines that end in the same place are labelled in the order in which they run.
            mean = sum(y for _, y in points) / len(points)
            ends.append((_pixel(points[-1][1], domain, log=curve.log_y), -mean, str(k), short(line.name, 24)))
    ends.sort()
    pixels = [end[0] for end in ends]
    for i in range(1, len(ends)):
        pixels[i] = max(pixels[i], pixels[i - 1] + _LABEL_GAP)
    if pixels[-1] > HEIGHT:
        pixels[-1] = HEIGHT
        for i in range(len(ends) - 2, -1, -1):
            pixels[i] = min(pixels[i], pixels[i + 1] - _LABEL_GAP)
    return [{"line": key, "name": name, "x": right, "at": _value(pixel, domain, log=curve.log_y)}
            for pixel, (_, _, key, name) in zip(pixels, ends, strict=True)]


def _pixel(value: float, domain: list[float], *, log: bool) -> float:
    low, high, at = (math.log(v) for v in (*domain, value)) if log else (*domain, value)
    return HEIGHT * (high - at) / (high - low)


def _value(pixel: float, domain: list[float], *, log: bool) -> float:
    low, high = (math.log(v) for v in domain) if log else domain
    at = high - pixel / HEIGHT * (high - low)
    return math.exp(at) if log else at


def _domain(values: list[float], *, log: bool, margin: float) -> list[float]:
    low, high = min(values), max(values)
    # Values that differ by rounding only are one value: an axis cannot show less.
    if log:
        ratio = (high / low) ** margin if high > low * (1 + 1e-12) else 2.0
        return [low / ratio, high * ratio]
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        space = max(abs(low), abs(high)) * 0.1 or 1.0
        return [low - space, high + space]
    return [low - margin * (high - low), high + margin * (high - low)]


def _scale(domain: list[float], *, log: bool) -> dict[str, Any]:
    return {"domain": domain, "nice": False, "type": "log"} if log else {"domain": domain, "nice": False, "zero": False}


def _ticks(curve: Curve, xs: list[float], domain: list[float]) -> dict[str, Any]:
    if curve.log_x:
        return log_values(*domain)
    whole = all(float(x).is_integer() for x in xs)
    low, high = math.ceil(domain[0]), math.floor(domain[1])
    if whole and 1 <= high - low <= 8:
        return {"values": list(range(low, high + 1)), "format": "d"}
    return {"tickCount": 6}


def _mark_layers(curve: Curve, domain: list[float], palette: Palette) -> list[dict[str, Any]]:
    """Dashed vertical rules with their word above the plot, on up to three lines so that neighbours do not collide."""
    layers = []
    for i, (x, text) in enumerate(curve.marks):
        if not domain[0] <= x <= domain[1]:
            continue
        late = x > domain[0] + 0.6 * (domain[1] - domain[0])
        row = data([{"x": float(x), "text": short(text, 36)}])
        place = {"x": quantitative("x")}
        layers.append(layer({"type": "rule", "strokeDash": [3, 3], "color": palette.muted}, place, data=row))
        layers.append(layer({"type": "text", "align": "right" if late else "left", "dx": 3 if late else -3, "color": palette.muted},
                            place | {"y": {"value": -24 - 13 * (i % 3)}, "text": {"field": "text"}}, data=row))
    return layers
