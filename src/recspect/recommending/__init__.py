"""From scores to lists, the baselines that every model is compared with, and the protocols of others.

Names are loaded when they are first asked for: the command line asks for its commands only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recspect.recommending.compare import Baselines, baseline_columns, fit_baselines
    from recspect.recommending.ease import EASE
    from recspect.recommending.item_knn import ItemKNN
    from recspect.recommending.lists import LIST_SCHEMA, audience, catalogue, list_table, make_lists
    from recspect.recommending.popular import Popular

_HOMES = {
    "EASE": "ease", "LIST_SCHEMA": "lists", "Baselines": "compare", "ItemKNN": "item_knn", "Popular": "popular", "audience": "lists",
    "baseline_columns": "compare", "catalogue": "lists", "fit_baselines": "compare", "list_table": "lists", "make_lists": "lists",
}

__all__ = [
    "EASE", "LIST_SCHEMA", "Baselines", "ItemKNN", "Popular", "audience", "baseline_columns", "catalogue",
    "fit_baselines", "list_table", "make_lists",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
