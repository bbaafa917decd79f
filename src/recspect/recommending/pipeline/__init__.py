"""From candidates to lists: sources, ranking, re-ranking, exploration, with the trace of every list.

Names are loaded when they are first asked for: most of them need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recspect.recommending.pipeline.building import build_recommender
    from recspect.recommending.pipeline.ranker import Ranker
    from recspect.recommending.pipeline.recommender import Lists, Recommender
    from recspect.recommending.pipeline.settings import SOURCES, STEPS, RecommenderSettings

_HOMES = {"SOURCES": "settings", "STEPS": "settings", "Lists": "recommender", "Ranker": "ranker", "Recommender": "recommender",
          "RecommenderSettings": "settings", "build_recommender": "building"}

__all__ = ["SOURCES", "STEPS", "Lists", "Ranker", "Recommender", "RecommenderSettings", "build_recommender"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
