"""Evidence: data to draw, never a drawing. A closed set of kinds that every renderer knows.

Text, HTML, JSON, notebook and dashboard draw these and nothing else. A new kind is a visible decision: it goes into
`EVIDENCE_KINDS`, into every renderer, and into the frozen list of the surface test.

Every kind has `title` (the question that it answers), `caption` (with its n) and `stage`: the chapter of a report's overview
that it belongs to ("training", "predictions"). Inside a finding the stage is that of the finding and stays empty.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a `Curve`.

    Args:
        name: Direct label of the line.
        x, y: Coordinates, same length; y may hold NaN where nothing was measured.
        low, high: Band around y, or empty.
        role: `target` (blue), `reference` (grey), `fault` (orange) or `ideal` (dashed): the same hue for the same thing.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    role: str = "target"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Lines over a common axis. `title` is the question that the chart answers."""

    title: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    caption: str = ""
    stage: str = ""
    log_x: bool = False
    log_y: bool = False
    marks: tuple[tuple[float, str], ...] = ()
    """Vertical marks: (x, what happened there)."""


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Ranked bars with intervals. `names[i]` has length `values[i]`, from `low[i]` to `high[i]` where given.

    `group[i]` is the series that bar i belongs to, such as "train" or "held-out": a name stands once per series, and bars of one name
    are drawn together, a shade for each series. Empty where there is one series.
    """

    title: str
    unit: str
    names: tuple[str, ...]
    values: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    group: tuple[str, ...] = ()
    highlighted: tuple[str, ...] = ()
    reference: float | None = None
    """A line to compare with, such as 1.0 for a ratio."""
    caption: str = ""
    stage: str = ""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """`values[row][column]`; NaN is drawn as "not measured"."""

    title: str
    unit: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    row_title: str = ""
    column_title: str = ""
    diverging: bool = False
    caption: str = ""
    stage: str = ""


@dataclass(frozen=True, kw_only=True)
class DistributionPair:
    """Two distributions over the same bins: shares that sum to 1 each. `bins` are labels in order."""

    title: str
    x_title: str
    bins: tuple[str, ...]
    target: tuple[float, ...]
    reference: tuple[float, ...]
    target_name: str = "held-out"
    reference_name: str = "train"
    caption: str = ""
    stage: str = ""


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """A bounded sample of points."""

    title: str
    x_title: str
    y_title: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    names: tuple[str, ...] = ()
    log_x: bool = False
    log_y: bool = False
    caption: str = ""
    stage: str = ""


@dataclass(frozen=True, kw_only=True)
class RankedTable:
    """Rows of cells, best or worst first. Cells are text, numbers or None."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]
    caption: str = ""
    stage: str = ""


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """A list of sentences, each backed by a number in it."""

    title: str
    items: tuple[str, ...]
    caption: str = ""
    stage: str = ""


@dataclass(frozen=True, kw_only=True)
class StageGraph:
    """What flowed through the stages of a pipeline: nodes with counts, edges (from, to, count)."""

    title: str
    nodes: tuple[tuple[str, float], ...]
    edges: tuple[tuple[str, str, float], ...] = field(default=())
    caption: str = ""
    stage: str = ""


Evidence = Curve | Bars | HeatMap | DistributionPair | Scatter | RankedTable | Reasons | StageGraph

EVIDENCE_KINDS: dict[str, type] = {
    "curve": Curve,
    "bars": Bars,
    "heat_map": HeatMap,
    "distribution_pair": DistributionPair,
    "scatter": Scatter,
    "ranked_table": RankedTable,
    "reasons": Reasons,
    "stage_graph": StageGraph,
}
"""Name in JSON -> class. Closed: see the module's docstring."""
