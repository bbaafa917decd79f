"""The page that says why: a user's list, what carried an item, what comes before what, and the list again without some of what the user did.

Reading a run's model and data takes seconds to minutes, so it happens in the background, once per run; a page asks again until it is there.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recspect.errors import RecspectError, UsageError
from recspect.explaining.pictures import item_fields, named, pictures
from recspect.report.wording import clean

if TYPE_CHECKING:
    from recspect.explaining.explainer import RecommendationExplainer

KEPT = 2
"""Runs whose model and data are held in memory."""

LENGTH = 10
"""Items of a list."""

Open = Callable[[Path], "RecommendationExplainer"]


@dataclass(frozen=True, kw_only=True)
class State:
    """How far the reading of a run is: what is being done, what went wrong, or what came of it."""

    doing: str = ""
    failure: str = ""
    ready: RecommendationExplainer | None = None


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place of a list: the item, its ranking score, and by how many places it moved beside another list (None: it was not there)."""

    rank: int
    item: str
    name: str
    score: float
    moved: int | None = 0


class Explainers:
    """Explainers of runs, read in the background and kept.

    Args:
        open_run: Reads the recommender of a run's folder; told by `say` what it does.
    """

    def __init__(self, open_run: Callable[[Path, Callable[[str], None]], RecommendationExplainer] | None = None) -> None:
        self._open = open_run or open_explainer
        self._states: OrderedDict[Path, State] = OrderedDict()
        self._lock = threading.Lock()
        self.asking = threading.Lock()
        """Held while one is asked: models and their caches are not made for several threads."""

    def state(self, folder: Path) -> State:
        """How far it is; the first question starts the reading."""
        with self._lock:
            known = self._states.get(folder)
            if known is not None:
                self._states.move_to_end(folder)
                return known
            self._states[folder] = State(doing="opening the run")
            while len(self._states) > KEPT:
                self._states.popitem(last=False)
        threading.Thread(target=self._read, args=(folder,), name="recspect dashboard reading", daemon=True).start()
        return self._states.get(folder, State(doing="opening the run"))

    def forget(self, folder: Path) -> None:
        """Read it anew when it is asked for again."""
        with self._lock:
            self._states.pop(folder, None)

    def _read(self, folder: Path) -> None:
        def told(state: State) -> None:
            with self._lock:
                if folder in self._states:
                    self._states[folder] = state

        try:
            told(State(ready=self._open(folder, lambda text: told(State(doing=text)))))
        except RecspectError as error:
            told(State(failure=" ".join(filter(None, (error.message, error.hint)))))
        except Exception as error:
            told(State(failure=f"the run's recommender could not be read: {type(error).__name__}: {str(error)[:300]}"))


def open_explainer(folder: Path, say: Callable[[str], None]) -> RecommendationExplainer:
    """The explainer of a run or a recommender's folder.

    Raises:
        RecspectError: It cannot be read, or cannot make lists.
    """
    from recspect.dashboard.item_titles import titles_of
    from recspect.examining.runs import open_data
    from recspect.explaining.explainer import RecommendationExplainer
    from recspect.recommending.commands import opened

    found = opened(folder, open_data, say)
    say("reading the titles of items")
    return RecommendationExplainer(found, item_names=titles_of(found, folder))


# ---------------------------------------------------------------------- what the page shows


def some_users(explainer: RecommendationExplainer, most: int = 8) -> list[str]:
    """A few known users, evenly spaced, to begin with."""
    values = explainer.recommender.audience.ids.values
    return [str(values[k]) for k in np.unique(np.linspace(0, len(values) - 1, min(most, len(values))).astype(int))] if len(values) else []


def explained(explainer: RecommendationExplainer, user: str, *, item: str = "", over: str = "", gone: Sequence[int] = (), language: str = "en") -> dict[str, Any]:
    """Everything about one user's list.

    Args:
        explainer: Of the run.
        user: Id as text.
        item: Whose place is explained; empty for the first of the list.
        over: Another item to compare with; empty for none.
        gone: Numbers of the user's actions and fields that are taken away, for the second list.
        language: Of the sentences.

    Raises:
        UsageError: Nobody knows the user or an item, or a number that is none of the user's.
    """
    from recspect.explaining.counterfactual import Removable
    from recspect.recommending.pipeline.batch import require_known

    known = explainer.recommender
    asked = require_known(known.audience.ids, user)
    found = explainer.explain(asked, item or None, over=over or None, k=LENGTH)
    requests = known.audience.requests([asked])
    units = Removable.of(known, requests)
    wrong = [k for k in gone if not 0 <= k < len(units.units)]
    if wrong:
        raise UsageError(f"nothing number {wrong[0]} can be taken away from this user, who has {len(units.units)} actions and fields")
    before = known.answer(requests, LENGTH, seed=explainer.seed)
    items = item_fields(known.items.schema)
    places = _places(before, found.names)
    after = None
    if gone:
        mask = np.zeros((1, len(units.units)), dtype=bool)
        mask[0, list(gone)] = True
        after = _places(known.answer(units.without(mask), LENGTH, seed=explainer.seed), found.names, beside=places)
    return {"user": str(asked), "item": str(found.item), "over": "" if found.over is None else str(found.over), "explanation": found, "sentences": found.sentences(language),
            "places": places, "after": after, "gone": list(gone), "units": [(k, unit.kind, clean(unit.field, limit=60), named(unit.value, found.names if unit.kind == "action" or unit.field in items else {})) for k, unit in enumerate(units.units)],
            "pictures": pictures(found, items)}


def _places(lists: Any, names: Mapping[Any, str], beside: Sequence[Place] | None = None) -> list[Place]:
    slate, ids = lists.slates[0], lists.ids(0)
    earlier = {place.item: place.rank for place in beside or ()}
    found = []
    for rank, (item, score) in enumerate(zip(ids, slate.relevance.tolist(), strict=True), 1):
        moved = 0 if beside is None else earlier[str(item)] - rank if str(item) in earlier else None
        found.append(Place(rank=rank, item=str(item), name=clean(names.get(item, ""), limit=80), score=float(score), moved=moved))
    return found


__all__ = ["Explainers", "Place", "State", "explained", "open_explainer", "some_users"]
