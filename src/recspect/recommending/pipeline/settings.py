"""What a recommender is put together from, and the short texts that name it on the command line and in its file."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from recspect.errors import RunError, UsageError, listing
from recspect.recommending.pipeline.exploration import EpsilonGreedy, Thompson
from recspect.recommending.pipeline.slate import Step
from recspect.recommending.pipeline.sources_learnt import SequenceSource, TwoTowerSource
from recspect.recommending.pipeline.sources_plain import FreshSource, ItemKNNSource, PopularSource, SameAuthorSource
from recspect.recommending.pipeline.steps_diversity import DPP, MMR, Calibrated, Debiased
from recspect.recommending.pipeline.steps_rules import AlreadySeen, AtMost, Deduplicate, Exclude, MinimumScore, Pin

SOURCES: dict[str, type[Any]] = {
    "two_tower": TwoTowerSource, "sequence": SequenceSource, "item_knn": ItemKNNSource, "same_author": SameAuthorSource, "popular": PopularSource,
    "fresh": FreshSource,
}
"""Name to settings of each candidate source."""

STEPS: dict[str, type[Any]] = {
    "already_seen": AlreadySeen, "deduplicate": Deduplicate, "exclude": Exclude, "minimum_score": MinimumScore, "at_most": AtMost, "calibrated": Calibrated,
    "debiased": Debiased, "mmr": MMR, "dpp": DPP, "pin": Pin, "epsilon_greedy": EpsilonGreedy, "thompson": Thompson,
}
"""Name to settings of each re-ranking step."""

FILTERS = (AlreadySeen, Exclude)
"""Steps that need no ranking score, and so are done before the ranking: what they take out is not scored."""

DRAWS = (EpsilonGreedy, Thompson)
"""Steps that draw; what comes after them would make their propensities wrong."""

SourceSettings = TwoTowerSource | SequenceSource | ItemKNNSource | SameAuthorSource | PopularSource | FreshSource


@dataclass(frozen=True, kw_only=True)
class RecommenderSettings:
    """What a recommender is put together from.

    Args:
        sources: Candidate sources; None for all that the data allows but `sequence`, whose training takes longest.
        steps: What is done to the list, in this order; a step that draws comes last.
        per_source: Candidates of each source, after those that are taken out before the ranking.
        candidates: At most so many are ranked, over all sources.
        author, category: Columns of items; found by their names where None.
    """

    sources: tuple[SourceSettings, ...] | None = None
    steps: tuple[Any, ...] = (AlreadySeen(),)
    per_source: int = 200
    candidates: int = 500
    author: str | None = None
    category: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if self.sources is not None:
            object.__setattr__(self, "sources", tuple(self.sources))
            names = [name_of(source) for source in self.sources]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice or not names:
                raise UsageError(f"sources given twice: {listing(twice)}" if twice else "no sources", hint=f"sources: {listing(SOURCES)}")
        if self.per_source < 1 or self.candidates < 1:
            raise UsageError(f"per_source is {self.per_source}, candidates {self.candidates}, expected 1 or more each")
        require_sound_steps(self.steps)


def require_sound_steps(steps: Sequence[Step]) -> None:
    """Make sure that a step that draws is the last, or its propensities would not be those of what is shown.

    Raises:
        UsageError: It is not.
    """
    for place, step in enumerate(steps):
        if isinstance(step, DRAWS) and place + 1 < len(steps):
            raise UsageError(f"the step {name_of(step)} is followed by {name_of(steps[place + 1])}, so its propensities would be wrong",
                             hint=f"put {name_of(step)} last; it leaves pinned places alone with first_place")


def name_of(part: Any) -> str:
    """The name of a source's or a step's settings.

    Raises:
        UsageError: It is neither.
    """
    for name, kind in {**SOURCES, **STEPS}.items():
        if type(part) is kind:
            return name
    raise UsageError(f"{type(part).__name__} is no source and no step", hint=f"sources: {listing(SOURCES)}; steps: {listing(STEPS)}")


def parse(text: str, choices: Mapping[str, type[Any]], what: str) -> tuple[Any, ...]:
    """Settings from a text such as `already_seen, mmr(balance=0.5), at_most(column="genre", n=2)`; values are those of Python.

    Raises:
        UsageError: No such name or setting, or no text of this form.
    """
    example = f"{what}s are written as: name, name(setting=value), ..."
    try:
        calls = ast.parse(f"[{text}]", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UsageError(f"{what}s {text[:200]!r} cannot be read", hint=example) from None
    found = []
    for call in calls.elts if isinstance(calls, ast.List) else [calls]:
        name = call.func if isinstance(call, ast.Call) else call
        if not isinstance(name, ast.Name) or (isinstance(call, ast.Call) and call.args):
            raise UsageError(f"{what} {ast.unparse(call)[:200]!r} cannot be read", hint=example)
        try:
            given = {word.arg: ast.literal_eval(word.value) for word in call.keywords} if isinstance(call, ast.Call) else {}
        except ValueError:
            raise UsageError(f"{what} {ast.unparse(call)[:200]!r}: a setting is no plain value", hint='numbers, "texts", [lists]') from None
        found.append(_made(name.id, given, choices, what))
    return tuple(found)


def to_plain(part: Any) -> dict[str, Any]:
    """A source's or a step's settings as plain data."""
    return {"name": name_of(part), **asdict(part)}


def from_plain(content: Mapping[str, Any], choices: Mapping[str, type[Any]], what: str) -> Any:
    """The inverse of `to_plain`.

    Raises:
        RunError: Written by a newer recspect, or damaged.
    """
    try:
        return _made(str(content["name"]), {key: value for key, value in content.items() if key != "name"}, choices, what)
    except (UsageError, KeyError, TypeError) as error:
        raise RunError(f"the recommender holds a {what} that this recspect does not know: {error!s:.200}", hint="upgrade recspect") from None


def _made(name: str, given: Mapping[Any, Any], choices: Mapping[str, type[Any]], what: str) -> Any:
    if name not in choices:
        raise UsageError(f"no {what} {name!r}", hint=f"{what}s: {listing(choices, limit=20)}")
    kind = choices[name]
    known = [spec.name for spec in fields(kind)]
    unknown = [str(key) for key in given if key not in known]
    if unknown:
        raise UsageError(f"{what} {name} has no setting {listing(unknown)}", hint=f"settings: {listing(known)}")
    try:
        return kind(**given)
    except TypeError as error:
        raise UsageError(f"{what} {name}: {error}".replace("__init__() ", ""), hint=f"settings: {listing(known)}") from None
