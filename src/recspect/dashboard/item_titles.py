"""What people call the items of a run: a title beside the item's id in the table that it was trained on, where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recspect.errors import RecspectError

if TYPE_CHECKING:
    from recspect.recommending.pipeline.recommender import Recommender

TITLE_NAMES = ("title", "item_title", "movie_title", "video_title", "item_name", "product_name", "name", "headline", "caption")
"""Columns that are taken for the title, the first that is there."""


def titles_of(recommender: Recommender, folder: Path) -> dict[Any, str]:
    """Item to its title: from the recommender's own table of items, else from the run's data; empty where neither has any.

    Args:
        recommender: Of the run.
        folder: The run directory.
    """
    from recspect.explaining.pairs import plain_value

    own = next((name for name in TITLE_NAMES if name in recommender.items.rows), None)
    if own is not None:
        return {plain_value(item): str(title) for item, title in zip(recommender.items.ids.values, recommender.items.rows.categories(own).decode(), strict=True) if title is not None}
    from recspect.examining.runs import open_data
    from recspect.training.run import Run

    try:
        run = Run.open(folder)
        source = open_data(run.record["data"])
    except RecspectError:  # trained on data in memory, or a recommender's own folder: ids do
        return {}
    item = run.schema.item
    column = next((name for name in TITLE_NAMES if name in source.columns), None)
    if item is None or column is None or item not in source.columns:
        return {}
    found: dict[Any, str] = {}
    for batch in source.batches([item, column]):
        for one, title in dict.fromkeys(zip(batch.categories(item).decode().tolist(), batch.categories(column).decode().tolist(), strict=True)):
            if one is not None and title is not None:
                found.setdefault(plain_value(one), str(title))
    return found


__all__ = ["TITLE_NAMES", "titles_of"]
