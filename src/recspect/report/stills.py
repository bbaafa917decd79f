"""Charts as still SVG: what a page shows without scripts, on paper, and until the script has drawn.

The drawing library writes SVG; of it only known elements and attributes are kept and written anew with every text escaped, so
that nothing of the data can become markup, style, script or a link.
"""

from __future__ import annotations

import html
import re
from typing import Any
from xml.etree import ElementTree as ET

WIDTH = 560
"""Pixels at which stills are laid out; a page scales them."""

_ELEMENTS = frozenset({"svg", "g", "path", "text", "tspan", "line", "rect", "circle", "defs", "clipPath"})
_ATTRIBUTES = frozenset({
    "clip-path", "cx", "cy", "d", "dx", "dy", "fill", "fill-opacity", "font-size", "font-style", "font-weight", "height", "id", "opacity", "r", "rx", "ry",
    "stroke", "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "stroke-opacity", "stroke-width",
    "text-anchor", "transform", "viewBox", "width", "x", "x1", "x2", "y", "y1", "y2",
})
_DEFAULTS = {"opacity": "1", "fill-opacity": "1", "stroke-opacity": "1", "stroke-miterlimit": "10", "stroke-width": "1", "transform": "translate(0,0)", "stroke-dashoffset": "0",
             "font-weight": "normal", "font-style": "normal"}
_LONG = re.compile(r"-?\d*\.\d{2,}(?:e-?\d+)?")
_NOTHING = re.compile(r"M0,0(h0v0h0Z)?|")


def still(spec: dict[str, Any], *, prefix: str) -> str:
    """A chart as an `svg` element to stand inside a page, 5 to 30 KB, 0.05 s.

    Args:
        spec: Vega-Lite; a width of "container" becomes `WIDTH`.
        prefix: Put before ids (of clipping paths), which must differ between the charts of a page.
    """
    import vl_convert

    if spec.get("width") == "container":
        spec = spec | {"width": WIDTH}
    # No address is allowed: nothing is fetched while drawing.
    drawn: str = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    root = ET.fromstring(drawn)  # noqa: S314 - written by the library a moment ago, without entities
    parts: list[str] = []
    _write(root, prefix, parts)
    return "".join(parts)


def _write(element: ET.Element, prefix: str, parts: list[str]) -> None:
    name = element.tag.rpartition("}")[2]
    if name not in _ELEMENTS or element.get("display") == "none":
        return
    if name == "path" and (element.get("class") == "background" or _NOTHING.fullmatch(element.get("d", ""))):
        return
    attributes = "".join(f' {key}="{html.escape(value, quote=True)}"' for key, value in _kept(element, prefix))
    if name == "svg":
        attributes = f' class="still" aria-hidden="true"{attributes}'
    start = len(parts)
    parts.append(f"<{name}{attributes}>")
    if element.text and name in ("text", "tspan"):
        parts.append(html.escape(element.text))
    for child in element:
        _write(child, prefix, parts)
    if len(parts) > start + 1:
        parts.append(f"</{name}>")
    elif name == "g":  # a group of nothing
        del parts[start:]
    else:
        parts[start] = f"<{name}{attributes}/>"


def _kept(element: ET.Element, prefix: str) -> list[tuple[str, str]]:
    kept = []
    for key, value in element.attrib.items():
        if key not in _ATTRIBUTES or _DEFAULTS.get(key) == value:
            continue
        if key == "id":
            text = prefix + value
        elif key == "clip-path":
            text = value.replace("url(#", f"url(#{prefix}")
        else:
            text = _LONG.sub(_shorter, value)
        kept.append((key, text))
    return kept


def _shorter(number: re.Match[str]) -> str:
    """A tenth of a pixel is less than anyone sees."""
    return f"{float(number[0]):.1f}".removesuffix(".0")


__all__ = ["WIDTH", "still"]
