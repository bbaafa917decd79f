"""The items whose vectors have the largest inner product with a query: exact, or by a graph of neighbours where there are many."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recspect.errors import MissingExtraError, RunError
from recspect.files import write_bytes
from recspect.recommending.ranking import top_k

EXACT_ITEMS = 50_000
"""Up to so many items the exact index is used where nobody says otherwise."""

BLOCK_SCORES = 4_000_000
"""Scores held at once by the exact index."""

Vectors = NDArray[np.float32]


class VectorIndex(Protocol):
    """Finds items by vectors."""

    def search(self, queries: Vectors, n: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Places of the vectors and inner products, both of shape (queries, n), best first; -1 and NaN where there are no more."""
        ...


class ExactIndex:
    """Compares with every vector.

    Args:
        vectors: Shape (items, D).
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)

    def search(self, queries: Vectors, n: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        count = len(self.vectors)
        found = np.full((len(queries), min(n, count)), -1, dtype=np.int64)
        values = np.full(found.shape, np.nan)
        if not found.size:
            return found, values
        block = max(1, BLOCK_SCORES // count)
        for first in range(0, len(queries), block):
            scores = queries[first:first + block] @ self.vectors.T
            if count > 4 * found.shape[1]:  # a first cut in float32: what is clearly worse is not looked at again
                near = np.argpartition(-scores, found.shape[1], axis=1)[:, : found.shape[1] + 1]
                edge = np.take_along_axis(scores, near, axis=1).min(axis=1)
                if ((scores >= edge[:, None]).sum(axis=1) == near.shape[1]).all():  # else ties at the edge: let `top_k` choose the smaller place
                    near.sort(axis=1)
                    best, value = top_k(np.take_along_axis(scores, near, axis=1).astype(np.float64), found.shape[1])
                    found[first:first + block], values[first:first + block] = np.take_along_axis(near, best, axis=1), value
                    continue
            found[first:first + block], values[first:first + block] = top_k(scores.astype(np.float64), found.shape[1])
        return found, values


class GraphIndex:
    """Walks a graph of neighbours (HNSW) by usearch: approximate, and nearly as fast for ten times as many items.

    Args:
        vectors: Shape (items, D).
        path: A file that `save` wrote for the same vectors; the graph is built where there is none.
        search_width: Items kept in view during a search; more finds more of the true neighbours and takes longer.

    Source: Malkov, Yashunin, "Efficient and Robust Approximate Nearest Neighbor Search Using Hierarchical Navigable Small World Graphs", TPAMI 2020.

    Raises:
        MissingExtraError: usearch is not installed.
        RunError: The file is damaged, or of other vectors.
    """

    def __init__(self, vectors: Vectors, path: Path | None = None, *, search_width: int = 256) -> None:
        try:
            from usearch.index import Index
        except ImportError:
            raise MissingExtraError("usearch", extra="index", purpose="Searching many items by their vectors") from None
        self.vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self.search_width = search_width
        self._index: Any = Index(ndim=self.vectors.shape[1], metric="ip", dtype="f32", connectivity=16, expansion_add=128, expansion_search=search_width)
        if path is None:
            self._index.add(np.arange(len(self.vectors), dtype=np.uint64), self.vectors, threads=1)  # one thread: the same graph each time
            return
        try:
            self._index.load(path.read_bytes())
        except (OSError, RuntimeError, ValueError) as error:
            raise RunError(f"the index {path} is damaged: {error!r:.200}", hint="build the recommender anew") from None
        if len(self._index) != len(self.vectors) or self._index.ndim != self.vectors.shape[1]:
            raise RunError(f"the index {path} holds {len(self._index):,} vectors, expected {len(self.vectors):,}", hint="build the recommender anew")

    def search(self, queries: Vectors, n: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        most = min(n, len(self.vectors))
        found = np.full((len(queries), most), -1, dtype=np.int64)
        values = np.full(found.shape, np.nan)
        if not found.size:
            return found, values
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        self._index.expansion_search = max(self.search_width, 2 * most)  # read back, it is the width of building
        matches = self._index.search(queries, most, threads=1)
        keys = np.asarray(matches.keys).reshape(len(queries), -1).astype(np.int64)
        counts = np.atleast_1d(np.asarray(matches.counts)) if hasattr(matches, "counts") else np.full(len(queries), keys.shape[1])
        for row in range(len(queries)):
            mine = keys[row, : int(counts[row])]
            exact = (self.vectors[mine] @ queries[row]).astype(np.float64)
            order = np.lexsort((mine, -exact))
            found[row, : len(mine)], values[row, : len(mine)] = mine[order], exact[order]
        return found, values

    def save(self, path: Path) -> None:
        """Write the graph into a file."""
        write_bytes(path, bytes(self._index.save()))


def make_index(vectors: Vectors, *, kind: str = "auto", path: Path | None = None) -> ExactIndex | GraphIndex:
    """An index over vectors: `exact`, `graph`, or `auto`: exact up to `EXACT_ITEMS` items."""
    if kind == "exact" or (kind == "auto" and len(vectors) <= EXACT_ITEMS):
        return ExactIndex(vectors)
    return GraphIndex(vectors, path if path is not None and path.exists() else None)
