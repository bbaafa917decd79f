"""The smallest set of a user's own actions and fields whose removal changes the answer, found by running the recommender without them.

What a set does is never inferred: each set that is told was tried, with the whole recommender (sources, ranking, steps that draw nothing). An action is an item that the user wanted: without it, sources do
not know of it, and it is gone from the lists that the model reads. A field without its value is what a user of whom nothing is known has. Weights stay as they are: what training learned of the user through an
action remains in them.

Sources: Tran, Ghazimatin and Saha Roy 2021, Counterfactual Explanations for Neural Recommenders (ACCENT); Ghazimatin et al. 2020, PRINCE; Tan et al. 2021, CountER (necessity and sufficiency).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Column, Ragged, concatenate
from recspect.diagnosis.probes.swaps import without_entries
from recspect.explaining.explanation import Counterfactual, Unit
from recspect.explaining.pairs import entries_at, plain_value, value_at
from recspect.recommending.histories import Histories
from recspect.recommending.pipeline.audience import Requests, removed_value
from recspect.recommending.pipeline.id_table import text_of

if TYPE_CHECKING:
    from recspect.recommending.pipeline.recommender import Lists, Recommender

Mask = NDArray[np.bool_]
Answer = Callable[["Lists", int], bool]
"""Whether the answer has changed in one list."""

ACTIONS = 30
"""The latest items that the user wanted, and the latest entries of each list, that are tried."""
PAIRS = 20
"""With at most so many units every pair is tried, so that a set of two is known to be the smallest."""


@dataclass(frozen=True)
class Removable:
    """What can be removed of one request.

    Args:
        recommender: Whose answer it is.
        requests: The request, one row.
        units: What can be removed.
        item_lists: List fields that hold items, from which an action's item goes too.
    """

    recommender: Recommender
    requests: Requests
    units: tuple[Unit, ...]
    item_lists: tuple[str, ...]

    @classmethod
    def of(cls, recommender: Recommender, requests: Requests) -> Removable:
        """All units of a request of one row."""
        schema, ids = recommender.audience.schema, recommender.items.ids
        rows = recommender.audience.field_rows(requests)
        read = set(rows) if recommender.ranker is None else set(recommender.ranker.transform.encoders)
        history = list(dict.fromkeys(requests.histories.of(0)[::-1].tolist()))[:ACTIONS]
        units = [Unit(kind="action", field="", value=plain_value(ids.values[code])) for code in history]
        acted = {text_of(unit.value) for unit in units}
        item_lists = tuple(field.name for field in schema.fields if field.shares is not None and field.shares == schema.item)
        if recommender.ranker is not None:
            for name in (name for name in rows if name in read):
                column = rows[name]
                if isinstance(column, Ragged):
                    held = dict.fromkeys(entries_at(column, 0)[::-1])
                    units += [Unit(kind="entry", field=name, value=value) for value in list(held)[:ACTIONS] if not (name in item_lists and text_of(value) in acted)]
                elif (value := value_at(column, 0)) is not None:
                    units.append(Unit(kind="field", field=name, value=value))
        return cls(recommender, requests, tuple(units), item_lists)

    def without(self, gone: Mask) -> Requests:
        """One request per row of a mask over units, shape [variants, units]."""
        variants = len(gone)
        tiled = self.requests.take(np.zeros(variants, dtype=np.int64))
        values = self.recommender.items.ids.values
        codes = {text_of(unit.value): place for place, unit in enumerate(self.units) if unit.kind == "action"}
        events = self.requests.histories.of(0)
        unit_of_event = np.array([codes.get(text_of(values[code]), -1) for code in events.tolist()], dtype=np.int64)
        kept = ~(np.where(unit_of_event >= 0, gone[:, unit_of_event], False)) if len(events) else np.ones((variants, 0), dtype=bool)
        histories = Histories(np.tile(events, variants)[kept.ravel()], np.tile(self.requests.histories.times, variants)[kept.ravel()],
                              np.concatenate([[0], np.cumsum(kept.sum(1))]).astype(np.int64), self.requests.histories.n_items)
        return replace(tiled, histories=histories, given=self._fields(gone, codes))

    def _fields(self, gone: Mask, codes: dict[str, int]) -> Batch:
        """The fields of the variants: all that have a unit are given by the request."""
        rows, variants = self.recommender.audience.field_rows(self.requests), len(gone)
        columns: dict[str, Column] = {name: self.requests.given[name][np.zeros(variants, dtype=np.int64)] for name in self.requests.given}
        by_field = {unit.field: place for place, unit in enumerate(self.units) if unit.kind == "field"}
        for name, column in rows.items():
            if name in by_field:
                both = concatenate([Batch({"value": column}), Batch({"value": removed_value(self.recommender.audience, name)})])["value"]
                columns[name] = both[gone[:, by_field[name]].astype(np.int64)]
            elif isinstance(column, Ragged):
                place = {text_of(unit.value): k for k, unit in enumerate(self.units) if unit.kind == "entry" and unit.field == name}
                if name in self.item_lists:
                    place = {**codes, **place}
                owner = np.array([place.get(text_of(value), -1) for value in entries_at(column, 0)], dtype=np.int64)
                if len(owner) and (owner >= 0).any():
                    masks = [np.where(owner >= 0, row[owner], False) for row in gone]
                    columns[name] = without_entries(column[np.zeros(variants, dtype=np.int64)], masks)
        return Batch(columns, rows=variants)


def counterfactual(recommender: Recommender, requests: Requests, item: int, *, goal: str, k: int, over: int | None = None, below: float | None = None, seed: int = 0) -> Counterfactual:
    """Search the sets, smallest first.

    Args:
        recommender: Without steps that draw.
        requests: One request.
        item: Code of the item.
        goal: See `Counterfactual`.
        k: Length of the list.
        over: Code of the other item, for the goal `over`.
        below: Ranking score, for the goal `below`.
        seed: Of the lists.

    Returns:
        All single units are tried; all pairs where there are few units; beyond, units are removed one after the other, the strongest first, until the answer changes, and then put back one by one where it stays changed.
    """
    removable = Removable.of(recommender, requests)
    units = len(removable.units)
    tried = 1
    asked = recommender.answer(requests, recommender.settings.candidates, seed=seed).slates[0].items
    hidden = np.setdiff1d(requests.histories.of(0), asked)  # an item whose action is removed is still one that the user had: it cannot be what is shown instead

    def run(gone: Mask) -> list[_Seen]:
        nonlocal tried
        tried += len(gone)
        lists = recommender.answer(removable.without(gone), recommender.settings.candidates, seed=seed)
        return [_seen(lists, row, item, over, hidden, goal=goal, k=k, below=below) for row in range(len(gone))]

    def told(which: Sequence[int], seen: _Seen, *, smallest: bool) -> Counterfactual:
        kept = np.ones((1, units), dtype=bool)
        kept[0, list(which)] = False
        alone = run(kept)[0]
        return Counterfactual(goal=goal, removed=tuple(removable.units[place] for place in which), instead=seen.first, score=seen.score, instead_score=seen.first_score, necessary=seen.changed,
                              sufficient=not alone.changed, smallest=smallest, tried=tried, units=units)

    if not units:
        return Counterfactual(goal=goal, removed=())
    single = run(np.eye(units, dtype=bool))
    best = _best([(place,) for place in range(units)], single)
    if best is not None:
        return told(*best, smallest=True)
    pairs = list(combinations(range(units), 2)) if units <= PAIRS else []
    if pairs:
        masks = np.zeros((len(pairs), units), dtype=bool)
        for row, pair in enumerate(pairs):
            masks[row, list(pair)] = True
        best = _best(pairs, run(masks))
        if best is not None:
            return told(*best, smallest=True)
    order = np.argsort([one.margin for one in single], kind="stable")  # what brings the answer nearest to changing first
    prefixes = np.tri(units, dtype=bool)[:, np.argsort(order)]
    changed = [row for row, one in enumerate(run(prefixes)) if one.changed]
    if not changed:
        return Counterfactual(goal=goal, removed=(), tried=tried, units=units)
    chosen = [int(place) for place in order[:changed[0] + 1]]
    for place in list(chosen):  # what is not needed goes back
        fewer = [one for one in chosen if one != place]
        mask = np.zeros((1, units), dtype=bool)
        mask[0, fewer] = True
        if fewer and run(mask)[0].changed:
            chosen = fewer
    mask = np.zeros((1, units), dtype=bool)
    mask[0, chosen] = True
    return told(chosen, run(mask)[0], smallest=bool(pairs) and len(chosen) == 3)


@dataclass(frozen=True)
class _Seen:
    """The answer without some units: whether it changed, how far from changing it is (small is near), what is first then."""

    changed: bool
    margin: float
    first: Any
    first_score: float | None
    score: float | None


def _seen(lists: Lists, row: int, item: int, over: int | None, hidden: NDArray[np.int64], *, goal: str, k: int, below: float | None) -> _Seen:
    slate = lists.slates[row]
    slate = slate.take(np.flatnonzero(~np.isin(slate.items, hidden)))
    place = {code: at for at, code in enumerate(slate.items.tolist())}
    mine = place.get(item)
    score = None if mine is None else float(slate.relevance[mine])
    rival = _rival(slate.items, mine, over, goal=goal, k=k)
    rival_score = None if rival is None else float(slate.relevance[rival])
    first = None if rival is None else plain_value(lists.items.ids.values[slate.items[rival]])
    if mine is None or score is None:
        return _Seen(True, -np.inf, first, rival_score, None)
    if goal == "below":
        assert below is not None
        return _Seen(score < below, score - below, first, rival_score, score)
    if rival is None or rival_score is None:
        return _Seen(False, np.inf, None, None, score)
    limit = k if goal == "list" else 1
    changed = rival < mine if goal == "over" else mine >= limit
    return _Seen(changed, score - rival_score, first, rival_score, score)


def _rival(items: NDArray[np.int64], mine: int | None, over: int | None, *, goal: str, k: int) -> int | None:
    """Place of the item that would be there instead."""
    if goal == "over":
        found = np.flatnonzero(items == over)
        return int(found[0]) if len(found) else None
    at = k - 1 if goal == "list" else 0
    if mine is not None and at >= mine and goal == "list":
        at = k
    elif mine == at:
        at += 1
    return at if at < len(items) else None


def _best(sets: Sequence[tuple[int, ...]], seen: Sequence[_Seen]) -> tuple[tuple[int, ...], _Seen] | None:
    """Of the sets that change the answer the one that changes it most."""
    changing = [place for place, one in enumerate(seen) if one.changed]
    if not changing:
        return None
    place = min(changing, key=lambda one: (seen[one].margin, one))
    return sets[place], seen[place]
