"""Colours and type of charts: the same hue for the same thing everywhere, told apart by colour-blind readers.

Source: M. Okabe and K. Ito, Color Universal Design, 2008 (the eight-colour set).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', Arial, sans-serif"


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Colours of one appearance, any CSS colour.

    Args:
        ink, muted, grid, surface: Text, secondary text and axes, grid lines, the ground.
        target, reference, fault: What is examined (blue), what it is held against (grey), what is wrong (orange).
        others: Further lines of one chart.
        ramp: Seven steps from little to much; from `ramp_inverts` on, text on them is `surface`, not `ink`.
        diverging: Seven steps from negative over nothing to positive; the two outer steps on each side invert.
    """

    ink: str
    muted: str
    grid: str
    surface: str
    target: str
    reference: str
    fault: str
    others: tuple[str, ...]
    ramp: tuple[str, ...]
    diverging: tuple[str, ...]
    ramp_inverts: int = 4


LIGHT = Palette(
    ink="#1b1e21", muted="#5d646b", grid="#e7e9ec", surface="#ffffff",
    target="#0072B2", reference="#999999", fault="#D55E00",
    others=("#009E73", "#CC79A7", "#56B4E9", "#E69F00"),
    ramp=("#eef4f9", "#d3e5f1", "#abcfe5", "#74b0d6", "#2f8cc0", "#0072B2", "#004a75"),
    diverging=("#b84f00", "#e08a4a", "#f5cfb0", "#f1f2f3", "#bcd9ea", "#4d9fcd", "#00629a"),
)
DARK = Palette(
    ink="#e8eaec", muted="#a3abb3", grid="#2c3238", surface="#16191c",
    target="#4aa8dc", reference="#999999", fault="#f5883a",
    others=("#1fc095", "#df9cc1", "#8ccdf2", "#f0b63a"),
    ramp=("#1d2b36", "#1d3d52", "#1d5170", "#226b94", "#3489bb", "#63b0dd", "#a8d8f2"),
    diverging=("#ffa667", "#c9712c", "#6b4527", "#23282d", "#22495f", "#3489bb", "#8ccdf2"),
)


_REFERENCE = ("train", "reference", "baseline", "before", "expected")
"""How the names of what something is held against begin."""


def hues(names: Sequence[str], palette: Palette) -> list[str]:
    """A colour for each of several series: grey for what the others are held against, blue for the first other one, then further hues."""
    rest = iter((palette.target, *palette.others))
    return [palette.reference if name.lower().startswith(_REFERENCE) and len(names) > 1 else next(rest, palette.target) for name in names]


def as_variables(prefix: str = "--chart-") -> Palette:
    """A palette of CSS variables, so that a page changes appearance (dark, print) without drawing again."""
    def name(key: str) -> str:
        return f"var({prefix}{key})"

    return Palette(
        **{key: name(key) for key in ("ink", "muted", "grid", "surface", "target", "reference", "fault")},
        **{key: tuple(name(f"{key}-{i}") for i in range(len(getattr(LIGHT, key)))) for key in ("others", "ramp", "diverging")},
    )


def declarations(palette: Palette, prefix: str = "--chart-") -> str:
    """CSS declarations of the variables that `as_variables` names."""
    parts = [f"{prefix}{key}:{getattr(palette, key)}" for key in ("ink", "muted", "grid", "surface", "target", "reference", "fault")]
    for key in ("others", "ramp", "diverging"):
        parts += [f"{prefix}{key}-{i}:{colour}" for i, colour in enumerate(getattr(palette, key))]
    return ";".join(parts)


def config(palette: Palette) -> dict[str, Any]:
    """Vega-Lite config: quiet axes, horizontal grid, system type."""
    return {
        "background": "transparent" if palette.surface.startswith("var(") else palette.surface,
        "font": FONT,
        "view": {"stroke": None},
        "aria": True,
        "mark": {"aria": False},
        "axis": {
            "labelColor": palette.muted, "titleColor": palette.muted, "gridColor": palette.grid,
            "domainColor": palette.grid, "tickColor": palette.grid, "labelFontSize": 11, "titleFontSize": 11,
            "titleFontWeight": 500, "labelPadding": 5, "titlePadding": 9, "tickSize": 4, "titleLimit": 420,
            "labelLimit": 150, "titleAnchor": "end",
        },
        "axisX": {"grid": False, "domainColor": palette.muted, "tickColor": palette.muted},
        "axisY": {
            # Above the axis and level, so that nobody has to turn their head.
            "domain": False, "ticks": False, "titleAngle": 0, "titleAlign": "left", "titleBaseline": "bottom",
            "titleAnchor": "end", "titleX": -2, "titleY": -9,
        },
        "legend": {
            "labelColor": palette.ink, "titleColor": palette.muted, "labelFontSize": 11, "titleFontSize": 11,
            "titleFontWeight": 500, "orient": "top", "symbolSize": 90, "labelLimit": 180, "titleLimit": 300, "offset": 8,
            "padding": 0,
        },
        "title": {
            "color": palette.ink, "subtitleColor": palette.muted, "anchor": "start", "fontSize": 14, "fontWeight": 600,
            "subtitleFontSize": 11, "subtitlePadding": 5, "offset": 14,
        },
        "text": {"color": palette.ink, "fontSize": 11},
    }
