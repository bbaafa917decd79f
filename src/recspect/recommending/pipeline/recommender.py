"""Sources, ranking and steps put together: from users to lists, with the trace of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Column, hash_values
from recspect.diagnosis.column import objects_of
from recspect.errors import UsageError
from recspect.recommending.pipeline.audience import Audience, Requests, subset
from recspect.recommending.pipeline.candidates import Candidates, CandidateSource, cut, gather
from recspect.recommending.pipeline.catalogue import Catalogue
from recspect.recommending.pipeline.id_table import text_of
from recspect.recommending.pipeline.settings import DRAWS, FILTERS, RecommenderSettings, name_of
from recspect.recommending.pipeline.slate import Situation, Slate, Stage
from recspect.recommending.pipeline.steps_rules import AlreadySeen
from recspect.recommending.pipeline.trace import Trace

MORE_FOR_SEEN = 1000
"""Candidates that a source is asked for at most in place of those that the user had."""


@dataclass(frozen=True, eq=False)
class Lists:
    """Lists of some users.

    Args:
        users: Ids as asked for.
        slates: The list of each, best first.
        traces: What became of the candidates of each; empty unless asked for.
        items: The catalogue.
        notes: Of each list, in words: what was fallen back to, and why.
        version: Of the recommender.
        seed: Of what was drawn.
    """

    users: Sequence[Any]
    slates: tuple[Slate, ...]
    traces: tuple[Trace, ...]
    items: Catalogue
    notes: tuple[tuple[str, ...], ...]
    version: str
    seed: int

    def ids(self, row: int) -> list[Any]:
        """Item ids of one list, best first."""
        return list(self.items.ids.values[self.slates[row].items].tolist())

    def table(self) -> Batch:
        """Columns `user`, `item`, `rank` (from 1), `score` (by which it stands there), `ranking_score`, `propensity` (1 where nothing was drawn)."""
        lengths = [len(slate) for slate in self.slates]
        items = np.concatenate([slate.items for slate in self.slates]) if self.slates else np.empty(0, dtype=np.int64)
        return Batch({
            "user": user_column(self.users, lengths), "item": self.items.ids.column(items),
            "rank": np.concatenate([np.arange(1, n + 1) for n in lengths]) if lengths else np.empty(0, dtype=np.int64),
            "score": _joined([slate.scores for slate in self.slates]), "ranking_score": _joined([slate.relevance for slate in self.slates]),
            "propensity": _joined([np.ones(len(slate)) if slate.propensity is None else slate.propensity for slate in self.slates])}, rows=sum(lengths))

    def trace_rows(self) -> list[dict[str, Any]]:
        """One mapping per list, plain data: user, recommender, seed, notes, candidates."""
        ids = self.items.ids.values.tolist()
        return [{"user": user, "recommender": self.version, "seed": self.seed, "notes": list(notes), "candidates": trace.rows(ids)}
                for user, notes, trace in zip(self.users, self.notes, self.traces, strict=True)]


@dataclass(frozen=True, eq=False)
class Recommender:
    """Makes lists. From `build_recommender`, or `Recommender.load`.

    Args:
        settings: What it is put together from.
        items: The catalogue.
        audience: The users.
        sources: Candidate sources, ready.
        ranker: The ranking model; None orders by reciprocal rank fusion of the sources.
        vectors: Of items, shape (items, D), length 1, for steps that compare items; None where no source has any.
        version: Told with every list.
        record: Content of `recommender.json`.
    """

    settings: RecommenderSettings
    items: Catalogue
    audience: Audience
    sources: tuple[CandidateSource, ...]
    ranker: Any
    vectors: NDArray[np.float32] | None
    version: str
    record: Mapping[str, Any]

    @classmethod
    def load(cls, folder: str | Path) -> Recommender:
        """Read a recommender's folder.

        Raises:
            RunError: It is none, is damaged, or was written by a newer recspect.
        """
        from recspect.recommending.pipeline.folder import load

        return load(Path(folder))

    def save(self, folder: str | Path, *, replace: bool = False) -> None:
        """Write a folder that is whole or not there; see `recspect.recommending.pipeline.folder`."""
        from recspect.recommending.pipeline.folder import save

        save(self, Path(folder), replacing=replace)

    def with_steps(self, *steps: Any) -> Recommender:
        """The same with other steps."""
        return replace(self, settings=replace(self.settings, steps=steps))

    def recommend(self, users: Sequence[Any], k: int = 10, *, context: Mapping[str, Any] | None = None, seed: int = 0, time: int | None = None,
                  recent: Mapping[int, Sequence[tuple[Any, int]]] | None = None, trace: bool = False) -> Lists:
        """Lists of some users, in their order.

        Args:
            users: Ids. A user that is not known gets what is not personal; the notes say so.
            k: Length of the lists; shorter where nothing is left.
            context: Field to a value, or to one per user: the surface, the hour. What is not given is the user's last known, else the usual value.
            seed: Of what is drawn. The same user, seed and state give the same list, whoever else is asked for.
            time: When the lists are made.
            recent: By row, (item id, time) of what a user had since this was built.
            trace: Whether the trace is kept; it costs about as much again.

        Raises:
            UsageError: k below 1, or a context that names no field.
            DataError: The model reads a field that neither the user nor the context has.
        """
        if isinstance(users, (str, bytes)):
            raise UsageError(f"users is the text {users[:50]!r}, expected a list of ids", hint="recommend([user])")
        if k < 1:
            raise UsageError(f"k is {k}, expected 1 or more")
        since = {row: [(int(self.items.ids.codes([item])[0]), when) for item, when in events] for row, events in (recent or {}).items()}
        requests = self.audience.requests(users, context=context, recent=since, time=time)
        return self.answer(requests, k, seed=seed, trace=trace)

    def answer(self, requests: Requests, k: int, *, seed: int = 0, trace: bool = False) -> Lists:
        """Lists for requests; see `recommend`."""
        situations = self._situations(requests, k, seed)
        found, dropped = self._candidates(requests, situations)
        kept = np.ones(len(found.item), dtype=bool)
        for _, _, rows in dropped:
            kept[rows] = False
        ranked = found.take(np.flatnonzero(kept))
        score = self._ranked(requests, ranked)
        offsets, all_offsets = ranked.offsets(requests.rows), found.offsets(requests.rows)
        later = [step for step in self.settings.steps if not isinstance(step, FILTERS)]
        slates, traces, notes = [], [], self._notes(requests, found)
        for row, situation in enumerate(situations):
            mine = slice(offsets[row], offsets[row + 1])
            order = np.lexsort((ranked.item[mine], -score[mine]))
            items, scores = ranked.item[mine][order], score[mine][order]
            slate = Slate(items, scores, scores)
            stages = [Stage("ranking", items, scores)]
            for step in later:
                slate = step.apply(slate, situation)
                if trace and not isinstance(step, DRAWS):  # what is drawn has a propensity, no score
                    stages.append(Stage(name_of(step), slate.items, slate.scores))
            shown = slate.take(np.arange(min(k, len(slate))))
            slates.append(shown)
            if trace:
                whole = slice(all_offsets[row], all_offsets[row + 1])
                before = [(step, reason, found.item[rows[(rows >= whole.start) & (rows < whole.stop)]]) for step, reason, rows in dropped]
                traces.append(Trace(found.take(whole), (items, scores), tuple(stages), shown, (*before, *slate.dropped), notes[row]))
        return Lists(list(requests.ids), tuple(slates), tuple(traces), self.items, notes, self.version, seed)

    # ------------------------------------------------------------------ stages

    def _situations(self, requests: Requests, k: int, seed: int) -> list[Situation]:
        met = subset(self.audience.met, requests.users)
        probabilities = self.ranker is not None and self.ranker.probabilities
        hashes = hash_values(objects_of([text_of(user) + "\0" for user in requests.ids])) if requests.rows else []
        return [Situation(self.items, k, requests.histories.of(row), met.of(row), (seed, int(hashes[row])), self.vectors, probabilities)
                for row in range(requests.rows)]

    def _candidates(self, requests: Requests, situations: Sequence[Situation]) -> tuple[Candidates, list[tuple[str, str, NDArray[np.int64]]]]:
        """All candidates, and which of them are not ranked: (step, reason, places)."""
        filters = [step for step in self.settings.steps if isinstance(step, FILTERS)]
        seen = [step.seen(situation) for step in filters if isinstance(step, AlreadySeen) for situation in situations]
        more = min(MORE_FOR_SEEN, max((len(items) for items in seen), default=0))
        found = gather(self.sources, requests, [self.settings.per_source + more] * len(self.sources), max(1, len(self.items)))
        offsets = found.offsets(requests.rows)
        kept = np.ones(len(found.item), dtype=bool)
        dropped: list[tuple[str, str, NDArray[np.int64]]] = []
        for step in filters:
            gone: dict[str, list[NDArray[np.int64]]] = {}
            for row, situation in enumerate(situations):
                items = found.item[offsets[row]:offsets[row + 1]]
                slate = step.apply(Slate(items, np.zeros(len(items)), np.zeros(len(items))), situation)
                for _, reason, codes in slate.dropped:
                    gone.setdefault(reason, []).append(offsets[row] + np.flatnonzero(np.isin(items, codes)))
            for reason, places in gone.items():
                place = np.concatenate(places)
                dropped.append((name_of(step), reason, place[kept[place]]))
                kept[place] = False
        left = np.flatnonzero(kept)
        few = cut(found.take(left), self.settings.candidates, requests.rows)
        if not few.all():
            dropped.append(("candidates", f"more than {self.settings.candidates} candidates", left[~few]))
        return found, dropped

    def _ranked(self, requests: Requests, candidates: Candidates) -> NDArray[np.float64]:
        if self.ranker is None or not len(candidates.item):
            return candidates.fused
        encoded = self.ranker.encode_requests(self.audience.field_rows(requests))
        scores: NDArray[np.float64] = self.ranker.scores(encoded, candidates.request, candidates.item)
        return scores

    def _notes(self, requests: Requests, found: Candidates) -> tuple[tuple[str, ...], ...]:
        offsets = found.offsets(requests.rows)
        brought = np.zeros((requests.rows, len(self.sources)), dtype=bool)
        if len(found.item):
            row, source = np.nonzero(found.ranks > 0)
            brought[found.request[row], source] = True
        notes = []
        for row in range(requests.rows):
            mine = []
            if requests.users[row] < 0:
                mine.append("the user is not known")
            elif not len(requests.histories.of(row)):
                mine.append("the user has no history")
            silent = [source.name for place, source in enumerate(self.sources) if not brought[row, place]]
            if silent and offsets[row + 1] > offsets[row]:
                mine.append(f"nothing from {', '.join(silent)}; the list comes from {', '.join(s.name for s in self.sources if s.name not in silent)}")
            elif silent:
                mine.append("no source has a candidate")
            notes.append(tuple(mine))
        return tuple(notes)


def user_column(users: Sequence[Any], lengths: Sequence[int]) -> Column:
    """Ids of users, each so many times, as a column."""
    from recspect.recommending.pipeline.id_table import column_of

    column: Column = column_of(list(users))[np.repeat(np.arange(len(users)), lengths)]
    return column


def _joined(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate(parts) if parts else np.empty(0)


__all__ = ["Lists", "Recommender"]
