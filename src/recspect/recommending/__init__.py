"""From scores to lists, the baselines that every model is compared with, and the protocols of others."""

from recspect.recommending.compare import Baselines, baseline_columns, fit_baselines
from recspect.recommending.ease import EASE
from recspect.recommending.item_knn import ItemKNN
from recspect.recommending.lists import LIST_SCHEMA, audience, catalogue, list_table, make_lists
from recspect.recommending.popular import Popular

__all__ = [
    "EASE", "LIST_SCHEMA", "Baselines", "ItemKNN", "Popular", "audience", "baseline_columns", "catalogue",
    "fit_baselines", "list_table", "make_lists",
]
