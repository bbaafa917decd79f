"""Candidates of several sources: who brings what, and how they come together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recspect.recommending.pipeline.audience import Requests

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FUSION = 60
"""Reciprocal rank fusion adds 1 / (FUSION + rank) per source (Cormack, Clarke, Büttcher, SIGIR 2009)."""


class CandidateSource(Protocol):
    """Brings candidates for requests; ready to be asked, and to be written to a folder."""

    name: str

    def candidates(self, requests: Requests, n: int) -> tuple[Ints, Floats]:
        """Item codes and scores, both of shape (requests, up to n), best first; -1 and NaN where it has no more. It need not leave out what the user had."""
        ...

    def save(self, folder: Path) -> dict[str, Any]:
        """Write what is large into a folder of its own; gives what is small, for `recommender.json`."""
        ...


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates of many requests, by request and then by item code; each item once per request.

    Args:
        request: Row of the request, shape (m,), ascending.
        item: Item code, shape (m,).
        ranks: Place in each source's list, from 1; 0 where it is not in it; shape (m, sources).
        scores: Each source's own score, NaN where it gives none; shape (m, sources).
        sources: Names.
    """

    request: Ints
    item: Ints
    ranks: NDArray[np.int32]
    scores: Floats
    sources: tuple[str, ...]

    @property
    def fused(self) -> Floats:
        """Reciprocal rank fusion: the order where nothing ranks, and which candidates are ranked where there are too many."""
        return np.where(self.ranks > 0, 1 / (FUSION + self.ranks), 0.0).sum(axis=1)

    def offsets(self, requests: int) -> Ints:
        """Where the candidates of each request begin, shape (requests + 1,)."""
        return np.searchsorted(self.request, np.arange(requests + 1))

    def take(self, rows: NDArray[Any]) -> Candidates:
        """Some of them, in ascending order of their place."""
        return Candidates(self.request[rows], self.item[rows], self.ranks[rows], self.scores[rows], self.sources)


def gather(sources: Sequence[CandidateSource], requests: Requests, n: Sequence[int], n_items: int) -> Candidates:
    """Ask every source for its candidates and bring them together.

    Args:
        sources: In any order.
        requests: Lists that are asked for.
        n: How many of each source.
        n_items: Size of the catalogue.
    """
    keys, ranks, scores, owners = [], [], [], []
    for number, (source, most) in enumerate(zip(sources, n, strict=True)):
        items, values = source.candidates(requests, most)
        row, column = np.nonzero(items >= 0)
        keys.append(row * n_items + items[row, column])
        ranks.append(column + 1)
        scores.append(values[row, column])
        owners.append(np.full(len(row), number))
    key = np.concatenate(keys) if keys else np.empty(0, dtype=np.int64)
    distinct, place = np.unique(key, return_inverse=True)
    all_ranks = np.zeros((len(distinct), len(sources)), dtype=np.int32)
    all_scores = np.full((len(distinct), len(sources)), np.nan)
    if len(distinct):
        owner = np.concatenate(owners)
        all_ranks[place, owner] = np.concatenate(ranks)
        all_scores[place, owner] = np.concatenate(scores)
    return Candidates(distinct // n_items, distinct % n_items, all_ranks, all_scores, tuple(source.name for source in sources))


def cut(candidates: Candidates, most: int, requests: int) -> NDArray[np.bool_]:
    """Which candidates stay where at most so many of each request are ranked: turn by turn the next best of each source, by rank and fused score."""
    offsets = candidates.offsets(requests)
    if not len(candidates.item) or int(np.diff(offsets).max()) <= most:
        return np.ones(len(candidates.item), dtype=bool)
    best_rank = np.where(candidates.ranks > 0, candidates.ranks, np.iinfo(np.int32).max).min(axis=1)
    order = np.lexsort((candidates.item, -candidates.fused, best_rank, candidates.request))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - np.repeat(offsets[:-1], np.diff(offsets))
    kept: NDArray[np.bool_] = place < most
    return kept


def padded(rows: Ints, items: Ints, scores: Floats, requests: int, n: int) -> tuple[Ints, Floats]:
    """The best n of flat (row, item, score) triples as arrays of shape (requests, n); equal scores by item code."""
    order = np.lexsort((items, -scores, rows))
    rows, items, scores = rows[order], items[order], scores[order]
    offsets = np.searchsorted(rows, np.arange(requests + 1))
    place = np.arange(len(rows)) - np.repeat(offsets[:-1], np.diff(offsets))
    kept = place < n
    width = min(n, int(np.diff(offsets).max(initial=0)))
    found, values = np.full((requests, width), -1, dtype=np.int64), np.full((requests, width), np.nan)
    found[rows[kept], place[kept]], values[rows[kept], place[kept]] = items[kept], scores[kept]
    return found, values
