"""Parts of a Vega-Lite specification that every chart uses."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recspect.report.wording import short

Drawing = dict[str, Any]
"""A chart without its frame: marks, data and height."""

def data(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows as inline data; what is not finite becomes null, which JSON can carry and Vega leaves out."""
    return {"values": [{key: None if isinstance(value, float) and not math.isfinite(value) else value
                        for key, value in row.items()} for row in rows]}


def layer(mark: Mapping[str, Any], encoding: Mapping[str, Any], *, data: Mapping[str, Any] | None = None,
          filter: str = "") -> dict[str, Any]:  # noqa: A002 - Vega-Lite's word
    """One layer. `filter` is an expression of ours; never put text of data into it."""
    result: dict[str, Any] = {"mark": dict(mark), "encoding": dict(encoding)}
    if data is not None:
        result["data"] = data
    if filter:
        result["transform"] = [{"filter": filter}]
    return result


def quantitative(name: str, **settings: Any) -> dict[str, Any]:
    """Encoding of a number; an empty title means none."""
    return {"field": name, "type": "quantitative"} | _titled(settings)


def nominal(name: str, **settings: Any) -> dict[str, Any]:
    """Encoding of a name, in the order of the data (never sorted by an expression)."""
    return {"field": name, "type": "nominal", "sort": None} | _titled(settings)


def _titled(settings: dict[str, Any]) -> dict[str, Any]:
    if "title" not in settings:
        return settings
    # Two lines at most, short enough for a telephone.
    lines = textwrap.wrap(short(settings["title"], 76), 40)
    return settings | {"title": (lines if len(lines) > 1 else lines[0]) if lines else None}


def unique(names: Sequence[str]) -> list[str]:
    """Names made different by a number, since an axis puts equal names in one place."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result


def log_values(low: float, high: float) -> dict[str, Any]:
    """Axis settings of a logarithmic axis: powers of ten only, where there are at least two (else Vega chooses)."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    every = max(1, (last - first) // 6)
    powers = [10.0**k for k in range(first, last + 1, every)]
    return {"values": powers, "format": "~g" if first > -5 and last < 7 else ".0e"} if len(powers) >= 2 else {}
