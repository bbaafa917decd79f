"""From a request to an answer: which model, what the user did lately, what is left when something is down. Knows nothing of HTTP."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from recspect.errors import DataError, RecspectError, RunError, UsageError
from recspect.events.event import NAME_CHARACTERS, EventError, parse_event
from recspect.experimenting.interleaving import team_draft
from recspect.explaining.explanation import Explanation
from recspect.recommending.pipeline.id_table import text_of
from recspect.recommending.pipeline.recommender import Lists, Recommender
from recspect.serving.explaining import Explaining, Question
from recspect.serving.online_features import OnlineFeatures
from recspect.serving.recent import Done, Recent
from recspect.serving.recent_shared import SharedRecent
from recspect.serving.rollout import Rollout
from recspect.serving.shown import ShownLog
from recspect.serving.slot import Slot

_log = logging.getLogger(__name__)

POPULAR = "popular"
"""What the version of a list says where no model made it."""


class UnknownItemError(DataError):
    """An item that is not in the catalogue."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place of a list.

    Args:
        item: Id.
        rank: From 1.
        score: By which it stands there; None where nothing scored it.
        propensity: Chance with which it came there, 1 where nothing was drawn; None where the list is of two models.
        model: Version of the model that picked it, in a list of two models; else empty.
    """

    item: Any
    rank: int
    score: float | None
    propensity: float | None
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A list, and what made it.

    Args:
        request: Id of the request, for the events that follow from it.
        places: Best first.
        model: Version of the recommender, of both where the list is of two; `popular` where no model could answer.
        arm: `first` or `second`: which of the two models the user gets; `interleaved` for a list of both.
        notes: What the recommender says of the list.
        degraded: What was down and is missing in this list.
        shadow: What the other model would have shown, (version, item ids), or None.
        trace: The way of each candidate, where it was asked for.
    """

    request: str
    places: tuple[Place, ...]
    model: str
    arm: str
    notes: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    shadow: tuple[str, tuple[Any, ...]] | None = None
    trace: Mapping[str, Any] | None = field(default=None, repr=False)


class Answering:
    """Answers requests with one model or two.

    Args:
        first: The model that everybody gets.
        second: One that is let in, or None.
        rollout: How it is let in.
        recent: What users did lately, or None where nothing tells it.
        shown: Where exposures are written down, or None.
        features: Derived columns of the moment, or None for those of when the recommender was built.
        surface: What the exposures name as their surface.
        told: Called with each answer's model and whether it was made without it, for counters.
    """

    def __init__(self, first: Slot, second: Slot | None = None, *, rollout: Rollout | None = None, recent: Recent | SharedRecent | None = None, shown: ShownLog | None = None,
                 features: OnlineFeatures | None = None, surface: str = "api", told: Callable[[Answer], None] = lambda _: None) -> None:
        self.first, self.second = first, second
        self.rollout = rollout or Rollout()
        self.recent, self.shown, self.features, self.surface, self._told = recent, shown, features, surface, told
        self.explaining = Explaining()
        self.unwritable = 0

    def answer(self, user: str | int, k: int, *, context: Mapping[str, Any] | None = None, surface: str = "", trace: bool = False) -> Answer:
        """The list for a user.

        Raises:
            UsageError: A context that names no field; a user or k that is none.
        """
        asked = Asked(user, k, dict(context or {}), trace, uuid.uuid4().hex, *self._lately(user))
        arm, slot = self._slot(user)
        found = self._made(slot.current, asked)
        if arm == "second" and self.rollout.interleave:
            arm, found = interleaved(self._made(self.first.current, asked), found, asked)
        shadow = None
        if self.second is not None and self.rollout.shadow:
            other = (self.first if arm == "second" else self.second).current
            unseen = self._made(other, asked.untraced())
            shadow = (unseen.model, tuple(place.item for place in unseen.places))
        answer = Answer(request=asked.request, places=found.places, model=found.model, arm=arm, notes=found.notes, shadow=shadow, trace=found.trace,
                        degraded=(*asked.degraded, *found.degraded, *self._shown_degraded()))
        self._write_down(answer, asked, surface or self.surface)
        self._told(answer)
        return answer

    def explain(self, question: Question) -> tuple[Explanation, str, tuple[str, ...]]:
        """Why an item is where it is on the list that the user would get now; steps that draw are left out.

        Returns:
            The explanation, the arm whose list it is, and what was down and is missing in it.

        Raises:
            UnknownItemError: An item that is not in the catalogue.
            RunError: There is no second model.
            UsageError: A context that names no field, no such column of names, a list without items.
            BusyError: Too many explanations are asked for.
        """
        arm, slot = self._slot(question.user, question.arm)
        recommender = slot.current
        for item in (question.item, question.over):
            if item is not None:
                self._code(recommender, item)
        asked = Asked(question.user, question.k, question.context, False, "", *self._lately(question.user))
        context, stale = self._context(recommender, asked)
        found = self.explaining.of(recommender, question, context=context, recent=[(done.item, now_in(recommender, done.time)) for done in asked.lately],
                                   time=now_in(recommender, time.time_ns() // 1000))
        return found, arm, (*asked.degraded, *stale)

    def similar(self, item: str, k: int) -> list[Place]:
        """Items like one, by the vectors of the recommender.

        Raises:
            UnknownItemError: Not in the catalogue.
            DataError: The recommender has nothing to compare items by.
        """
        recommender = self.first.current
        code = self._code(recommender, item)
        if recommender.vectors is None:
            raise DataError("this recommender has no vectors of items", hint="build it with the source two_tower or sequence")
        scores = recommender.vectors @ recommender.vectors[code]
        scores[code] = -np.inf
        best = np.argsort(-scores, kind="stable")[:min(k, len(scores) - 1)]
        return [Place(item=_plain(recommender.items.ids.values[other]), rank=rank, score=float(scores[other]), propensity=1.0)
                for rank, other in enumerate(best.tolist(), 1)]

    # ------------------------------------------------------------------ details

    @staticmethod
    def _code(recommender: Recommender, item: str | int) -> int:
        code = int(recommender.items.ids.codes([item])[0])
        if code < 0:
            raise UnknownItemError(f"no item {str(item)[:100]!r} in the catalogue of {len(recommender.items):,}")
        return code

    def _slot(self, user: str | int, arm: str | None = None) -> tuple[str, Slot]:
        """The model of a user, or the one of an arm."""
        if arm == "second" and self.second is None:
            raise RunError("there is no second model", hint="start the server with --second FOLDER")
        chosen = arm or ("second" if self.second is not None and self.rollout.second(str(user)) else "first")
        return chosen, self.second if chosen == "second" and self.second is not None else self.first

    def _context(self, recommender: Recommender, asked: Asked) -> tuple[dict[str, Any], tuple[str, ...]]:
        """What the request brings, before derived columns of the moment; and what is missing of these, in words."""
        if self.features is None:
            return dict(asked.context), ()
        derived, missing = self.features.of(recommender, asked.user, asked.context)
        return {**derived, **asked.context}, (missing,) if missing else ()

    def _lately(self, user: str | int) -> tuple[Sequence[Done], tuple[str, ...]]:
        if self.recent is None:
            return (), ()
        done, failure = self.recent.of(str(user)), self.recent.failure
        return done, (f"the store of events is not reachable, so what the user did lately may be missing: {failure}",) if failure else ()

    def _shown_degraded(self) -> tuple[str, ...]:
        if self.shown is None or not self.shown.failure:
            return ()
        return ("what is shown waits to be written down: the store of events is not reachable",)

    def _made(self, recommender: Recommender, asked: Asked) -> Answer:
        """The model's list; where it fails for a reason that is not the request's, the popular one."""
        stale: tuple[str, ...] = ()
        try:
            context, stale = self._context(recommender, asked)
            lists = recommender.recommend([asked.user], asked.k, context=context, time=now_in(recommender, time.time_ns() // 1000),
                                          recent={0: [(done.item, now_in(recommender, done.time)) for done in asked.lately]},
                                          seed=asked.seed, trace=asked.trace)
        except UsageError:
            raise
        except Exception as error:
            _log.exception("the model could not answer")
            what = error.message if isinstance(error, RecspectError) else type(error).__name__
            return self._popular(recommender, asked, f"the model could not answer ({what}), so these are popular items")
        found = _answer(lists, asked)
        return replace(found, degraded=stale) if stale else found

    def _popular(self, recommender: Recommender, asked: Asked, why: str) -> Answer:
        items = recommender.items
        order = np.lexsort((np.arange(len(items)), -items.positives))
        had = set(items.ids.codes([done.item for done in asked.lately]).tolist())
        chosen = [code for code in order[:asked.k + len(had)].tolist() if code not in had][:asked.k]
        return Answer(request=asked.request, model=POPULAR, arm="", degraded=(why,), places=tuple(
            Place(item=_plain(items.ids.values[code]), rank=rank, score=None, propensity=1.0) for rank, code in enumerate(chosen, 1)))

    def _write_down(self, answer: Answer, asked: Asked, surface: str) -> None:
        if self.shown is None:
            return
        now = datetime.now(UTC)
        attributes: dict[str, Any] = {"arm": answer.arm, **({"degraded": len(answer.degraded)} if answer.degraded else {})}
        events = []
        for place in answer.places:
            try:
                events.append(parse_event({
                    "event_id": f"{answer.request}:{place.rank}", "kind": "exposure", "user": str(asked.user), "item": str(place.item), "request": answer.request,
                    "position": place.rank, "propensity": place.propensity, "model_version": (place.model or answer.model)[:NAME_CHARACTERS], "surface": surface, "time": now,
                    "value": place.score, "attributes": attributes | _shadow_of(answer, place.rank)}, received=now))
            except EventError as error:  # an id of the catalogue that no event can hold
                self.unwritable += 1
                _log.warning("an exposure cannot be written down: %s", error.message)
        self.shown.add(events)


@dataclass(frozen=True)
class Asked:
    """A request with what is known at its time."""

    user: str | int
    k: int
    context: Mapping[str, Any]
    trace: bool
    request: str
    lately: Sequence[Done]
    degraded: tuple[str, ...]

    @property
    def seed(self) -> int:
        """Of what is drawn for this list: new with every request."""
        return int(self.request[:12], 16)

    def untraced(self) -> Asked:
        """The same without the trace."""
        return replace(self, trace=False)


def interleaved(one: Answer, other: Answer, asked: Asked) -> tuple[str, Answer]:
    """One list of both models by team draft, and its arm; where a model could not answer, the other's alone, so that popular items are no team.

    Args:
        one: Of the first model.
        other: Of the second.
        asked: Its seed draws who picks first.
    """
    for arm, answer, failed in (("second", other, one), ("first", one, other)):
        if failed.model == POPULAR:
            return arm, replace(answer, degraded=(*answer.degraded, *failed.degraded))
    lists = [{text_of(place.item): place for place in answer.places} for answer in (one, other)]
    shown, teams = team_draft(list(lists[0]), list(lists[1]), asked.k, np.random.default_rng(asked.seed))
    places = tuple(replace(lists[team][str(item)], rank=rank, propensity=None, model=(one, other)[team].model) for rank, (item, team) in enumerate(zip(shown, teams, strict=True), 1))
    trace = None if one.trace is None else {"first": one.trace, "second": other.trace}
    return "interleaved", replace(one, places=places, model=f"{one.model}+{other.model}", notes=tuple(dict.fromkeys((*one.notes, *other.notes))),
                                  degraded=tuple(dict.fromkeys((*one.degraded, *other.degraded))), trace=trace)


def now_in(recommender: Recommender, microseconds: int) -> int:
    """A time in the unit of the recommender's time column: dates are counted in microseconds, numbers in the unit that the schema names."""
    schema = recommender.audience.schema
    divisor = {"s": 1_000_000, "ms": 1_000, "days": 86_400_000_000}.get(schema.time_unit or "us")
    if schema.time is None or schema.time_unit == "row":
        return recommender.audience.time + 1
    if schema.time_unit == "ns":
        return microseconds * 1000
    return microseconds // divisor if divisor else microseconds


def _answer(lists: Lists, asked: Asked) -> Answer:
    slate = lists.slates[0]
    drawn = slate.propensity
    places = tuple(Place(item=_plain(item), rank=rank, score=_finite(score), propensity=1.0 if drawn is None else float(drawn[rank - 1]))
                   for rank, (item, score) in enumerate(zip(lists.ids(0), slate.scores.tolist(), strict=True), 1))
    return Answer(request=asked.request, places=places, model=lists.version, arm="", notes=lists.notes[0],
                  trace=lists.trace_rows()[0] if asked.trace else None)


def _shadow_of(answer: Answer, rank: int) -> dict[str, Any]:
    if answer.shadow is None:
        return {}
    version, items = answer.shadow
    return {"shadow_model": version, "shadow_item": str(items[rank - 1]) if rank <= len(items) else None}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
