"""What an explanation of one recommendation is: numbers and names, of which sentences are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

from recspect.diagnosis.finding import plain


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one field, or one entry of a list, did to the score.

    Args:
        field: Which.
        value: What the row holds there; for an entry, the entry.
        contribution: Logits (or the score's unit) that it adds; below 0 where it speaks against.
        entry: Place in the list from 0, or None for a whole field.
    """

    field: str
    value: Any
    contribution: float
    entry: int | None = None


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """Contributions to the score of one row, or to the distance between two.

    Args:
        score, baseline: Logit (or value) of the row and of the mean row; of a contrast, their differences.
        bound: By how much the contributions together can be off, in the same unit.
        parts: All fields, those that speak for it most first.
        entries: Entries of lists, likewise; their sum is the contribution of their field.
        is_logit: Whether the unit is the logarithm of odds.
        against: What the row is compared with: `mean`, the mean pair, or `alike`, pairs with other values of like frequency.
    """

    score: float
    baseline: float
    bound: float
    parts: tuple[Part, ...]
    entries: tuple[Part, ...]
    is_logit: bool
    against: str = "mean"


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What can be taken away from a user: an action (an item that the user wanted), an entry of a list, or a field.

    Args:
        kind: `action`, `entry` or `field`.
        field: The field; empty for an action.
        value: The item, the entry, or the field's value.
    """

    kind: str
    field: str
    value: Any


@dataclass(frozen=True, kw_only=True)
class Counterfactual:
    """The smallest set of the user's own actions and fields that was found whose removal changes the answer; tried with the model.

    Args:
        goal: What was asked to change: `first` (another item comes first), `over` (the other item comes before), `list` (it leaves the list), `below` (its score falls below).
        removed: The set; empty where none of those tried changes the answer.
        instead: The item that is first then, or None.
        score, instead_score: Ranking scores of the item and of that one, with the set removed; None for an item that is no candidate then.
        necessary: Whether the answer changes when the set is removed: True for every set told, as it was tried.
        sufficient: Whether the answer stays when only the set is kept and everything else of the user is removed; None without a set.
        smallest: Whether all smaller sets were tried.
        tried: Requests that were run.
        units: How many actions, entries and fields there were to remove.
    """

    goal: str
    removed: tuple[Unit, ...]
    instead: Any = None
    score: float | None = None
    instead_score: float | None = None
    necessary: bool = False
    sufficient: bool | None = None
    smallest: bool = False
    tried: int = 0
    units: int = 0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What training saw that is nearest to this pair.

    Args:
        met, wanted: How often the user met and wanted the item.
        wanted_by: Users who wanted it.
        alike: Of these, users who wanted another item that this user wanted.
        shared: Items of this user that most of those who wanted it wanted as well: (item, users), most first.
        nearest: Shared items of the five most similar of them, by cosine; no ids, as they are other people's.
    """

    met: int
    wanted: int
    wanted_by: int
    alike: int
    shared: tuple[tuple[Any, int], ...]
    nearest: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One recommendation explained.

    Args:
        user, item, over: Ids; `over` is None where nothing was compared.
        rank, listed: Its place on the list (None where it is not on it), and the list's length.
        way: Its row of the trace: sources, ranking score, stages, by which step and why it is not shown.
        reasons: What carried its score; None where no model ranks.
        contrast: Why it is above `over`.
        whole: What the whole list rests on: means over its items.
        counterfactual, evidence: See there.
        names: Item to a name for people, where one is known; of the whole catalogue.
        recommender: Version of what made the list.
        notes: In words: what was fallen back to.
    """

    user: Any
    item: Any
    over: Any = None
    rank: int | None
    listed: int
    way: Mapping[str, Any] | None
    reasons: Reasons | None
    contrast: Reasons | None = None
    whole: Reasons | None = None
    counterfactual: Counterfactual | None = None
    evidence: Evidence | None = None
    names: Mapping[Any, str] = field(default_factory=dict)
    recommender: str = ""
    notes: tuple[str, ...] = ()

    def sentences(self, language: str = "en") -> tuple[str, ...]:
        """In plain words, each sentence with a number in it; names of data are made safe to show.

        Raises:
            UsageError: No such language.
        """
        from recspect.explaining.sentences import sentences_of

        return sentences_of(self, language)

    def text(self, language: str = "en") -> str:
        """The sentences, one per line."""
        return "\n".join(self.sentences(language))

    def html(self, language: str = "en") -> str:
        """The sentences as a list that can be put into a page: everything from the data is escaped."""
        return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in self.sentences(language)) + "</ul>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the sentences, and contributions as bars."""
        from recspect.explaining.pictures import pictures
        from recspect.report.notebook import framed

        return framed(pictures(self), title=f"Why {self.item} for user {self.user}?", lines=self.sentences())

    def to_mapping(self, language: str = "en") -> dict[str, Any]:
        """Plain data, JSON-safe, with the sentences; of `names` only those of items that it speaks of."""
        told = {item: self.names[item] for item in self._told() if item in self.names}
        mapping: dict[str, Any] = plain(replace(self, names=told))
        return {"format": "recspect-explanation", "version": 1, **mapping, "language": language, "sentences": list(self.sentences(language))}

    def _told(self) -> Iterator[Any]:
        """Items, and values that may be items, that are spoken of."""
        yield from (self.item, self.over)
        for reasons in (self.reasons, self.contrast, self.whole):
            for part in (*reasons.parts, *reasons.entries) if reasons is not None else ():
                yield from part.value if isinstance(part.value, (list, tuple)) else (part.value,)
        if self.counterfactual is not None:
            yield self.counterfactual.instead
            yield from (unit.value for unit in self.counterfactual.removed)
        if self.evidence is not None:
            yield from (item for item, _ in self.evidence.shared)
