"""An explanation as data to draw: contributions as bars, and the item's way through the stages. The dashboard and notebooks draw the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recspect.diagnosis.evidence import Bars, Evidence, RankedTable
from recspect.report.wording import clean

if TYPE_CHECKING:
    from recspect.explaining.explanation import Explanation, Reasons
    from recspect.schema import Schema

SHOWN_PARTS = 12
"""Fields and entries drawn, largest first."""


def item_fields(schema: Schema) -> frozenset[str]:
    """Fields whose values are items, which have titles; the same number in another field is somebody or something else."""
    return frozenset(field.name for field in schema.fields if schema.item is not None and schema.item in (field.name, field.shares))


def pictures(found: Explanation, items: frozenset[str] = frozenset()) -> list[Evidence]:
    """Contributions as bars, and the item's way through the stages.

    Args:
        found: The explanation.
        items: Fields whose values are shown by the titles of items.
    """
    shown: list[Evidence] = []
    if found.contrast is not None:
        shown.append(_bars("What puts the one above the other?", found.contrast, found, items))
    if found.reasons is not None:
        shown.append(_bars("What carries its score?", found.reasons, found, items))
    if found.way is not None:
        rows = [(f"source {clean(one['source'], limit=40)}", one["rank"], one["score"]) for one in found.way["sources"]]
        rows += [(clean(one["step"], limit=60), one["rank"], one["score"]) for one in found.way["stages"]]
        if rows:
            shown.append(RankedTable(title="Which way did it come?", columns=("stage", "place", "score"), rows=tuple(rows)))
    return shown


def named(value: Any, names: Mapping[Any, str]) -> str:
    """A value, by its name where it has one."""
    return clean(f"{names[value]} ({value})" if isinstance(value, str | int) and value in names else value, limit=80)


def _bars(title: str, reasons: Reasons, found: Explanation, items: frozenset[str]) -> Bars:
    parts = sorted((part for part in reasons.parts if part.contribution), key=lambda part: -abs(part.contribution))[:SHOWN_PARTS]
    unit = "log odds" if reasons.is_logit else "score"
    share = reasons.bound / max(1, len(reasons.parts))
    names = tuple(f"{part.field} = {named(part.value, found.names if part.field in items else {})}" for part in parts)
    return Bars(title=title, unit=unit, names=names, values=tuple(part.contribution for part in parts), low=tuple(part.contribution - share for part in parts),
                high=tuple(part.contribution + share for part in parts), reference=0.0, highlighted=tuple(name for name, part in zip(names, parts, strict=True) if part.contribution < 0),
                caption=f"{len(reasons.parts)} fields; together they are off by at most about {reasons.bound:.2g} {unit}, spread evenly over the ranges")


__all__ = ["SHOWN_PARTS", "item_fields", "named", "pictures"]
