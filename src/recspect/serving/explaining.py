"""Why a list of the server is as it is: explanations of the recommender that answers, one at a time, beside the requests for lists. Knows nothing of HTTP."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from recspect.errors import DataError, RecspectError, UsageError
from recspect.explaining.explainer import RecommendationExplainer
from recspect.explaining.explanation import Explanation
from recspect.recommending.pipeline.recommender import Recommender

WAITING = 8
"""Explanations that wait or run at once; more are refused, or they would take the threads that lists are answered by."""

KEPT = 4
"""Explainers kept per recommender: one for each column of names and what is compared with."""


class BusyError(RecspectError):
    """So many explanations are asked for that another one would wait for long."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a list; see `RecommendationExplainer.explain`.

    Args:
        user: Id.
        item: Id; None for the first of the list.
        over: Another item, to say why the first is above it.
        k: Length of the list.
        context: Fields of the request.
        below: A ranking score to fall below.
        against: `mean` or `alike`.
        names: Column of items with names for people.
        with_counterfactual: Whether to search for what would change the answer.
        arm: `first` or `second` model; None for the one that the user gets.
    """

    user: str | int
    item: str | int | None = None
    over: str | int | None = None
    k: int = 10
    context: Mapping[str, Any] = field(default_factory=dict)
    below: float | None = None
    against: str = "alike"
    names: str | None = None
    with_counterfactual: bool = True
    arm: str | None = None


class Explaining:
    """Explains what recommenders answer.

    An explanation looks into the model while it runs, so it has a copy of the model's structure (tables and weights are shared, which costs no memory), and only one is made at a time.

    Args:
        waiting: How many may wait or run at once.
    """

    def __init__(self, *, waiting: int = WAITING) -> None:
        self.made = 0
        self._places = threading.BoundedSemaphore(waiting)
        self._one = threading.Lock()
        self._waiting = waiting
        self._explainers: WeakKeyDictionary[Recommender, OrderedDict[tuple[str | None, str], RecommendationExplainer]] = WeakKeyDictionary()

    def of(self, recommender: Recommender, asked: Question, *, context: Mapping[str, Any], recent: Sequence[tuple[Any, int]], time: int) -> Explanation:
        """Why an item is where it is.

        Args:
            recommender: Whose list it is.
            asked: The question.
            context: Fields of the request, and derived columns of the moment.
            recent: (item id, time) of what the user had since the recommender was built.
            time: Of the list.

        Raises:
            BusyError: Too many are asked for.
            UsageError: A column of names or an item that is none, or no list to explain.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError(f"{self._waiting} explanations are under way", hint="ask again in a second; with counterfactual false an answer takes a tenth of the time")
        try:
            with self._one:
                explainer = self._explainer(recommender, asked.names, asked.against)
                found = explainer.explain(asked.user, asked.item, over=asked.over, k=asked.k, context=context, below=asked.below, with_counterfactual=asked.with_counterfactual,
                                          recent=recent, time=time)
                self.made += 1
                return found
        finally:
            self._places.release()

    def _explainer(self, recommender: Recommender, names: str | None, against: str) -> RecommendationExplainer:
        kept = self._explainers.setdefault(recommender, OrderedDict())
        key = (names, against)
        if key not in kept:
            try:
                kept[key] = RecommendationExplainer(with_own_structure(recommender), item_names=names, against=against)
            except DataError as error:
                raise UsageError(f"names cannot be had: {error.message}", hint=error.hint) from None
        kept.move_to_end(key)
        if len(kept) > KEPT:
            kept.popitem(last=False)
        return kept[key]


def with_own_structure(recommender: Recommender) -> Recommender:
    """The same with modules of its own, whose weights are the same memory: what is hooked and frozen here is not seen by other threads."""
    ranker = recommender.ranker
    if ranker is None:
        return replace(recommender)
    memory: dict[int, Any] = {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in ranker.model.parameters()}
    memory |= {id(buffer): buffer for buffer in ranker.model.buffers()}
    return replace(recommender, ranker=replace(ranker, model=copy.deepcopy(ranker.model, memory)))
