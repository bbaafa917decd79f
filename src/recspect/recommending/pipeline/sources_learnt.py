"""Sources that compare vectors: two towers, and sequence models that say what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.errors import RunError, UsageError
from recspect.recommending.pipeline.audience import Audience, Requests
from recspect.recommending.pipeline.candidates import Floats, Ints
from recspect.recommending.pipeline.catalogue import Catalogue
from recspect.recommending.pipeline.parts import REBUILD, read_arrays, write_arrays
from recspect.recommending.pipeline.vector_index import GraphIndex, VectorIndex, Vectors, make_index

INDEXES = ("auto", "exact", "graph")


@dataclass(frozen=True, kw_only=True)
class TwoTowerSource:
    """Items near to the request in the space of two towers, trained here on the rows with a positive label.

    Args:
        epochs, batch_rows, width, seed: See `TwoTowerTraining` and `TwoTowerConfig`.
        index: `exact`, `graph`, or `auto`: by the number of items.
    """

    epochs: int = 5
    batch_rows: int = 1024
    width: int = 64
    seed: int = 0
    index: str = "auto"

    def __post_init__(self) -> None:
        _known_index("two_tower", self.index)

    def fit(self, items: Catalogue, audience: Audience, rows: Batch) -> TwoTowers:
        from recspect.models.two_tower import TwoTowerConfig
        from recspect.training.two_tower import TwoTowerTraining, train_two_tower

        settings = TwoTowerTraining(model=TwoTowerConfig(width=self.width), epochs=self.epochs, batch_rows=self.batch_rows, seed=self.seed)
        fitted = train_two_tower(rows, items.schema, settings)
        vectors = fitted.items(items.rows)
        return TwoTowers(fitted, audience, vectors, make_index(vectors, kind=self.index), self.index)


@dataclass(frozen=True, eq=False)
class TwoTowers:
    """Trained towers, and an index over the vectors of all items.

    Args:
        fitted: The towers.
        audience: Gives the fields of a request.
        vectors: Of items, shape (items, D), length 1.
        index: Over these.
        kind: Which index is to be made when it is loaded.
    """

    fitted: Any
    audience: Audience
    vectors: Vectors
    index: VectorIndex
    kind: str
    name: str = "two_tower"

    def candidates(self, requests: Requests, n: int) -> tuple[Ints, Floats]:
        """Nothing for a user who is not known: the tower would say what it learnt of nobody."""
        known = np.flatnonzero(requests.users >= 0)
        if not len(known):
            return np.empty((requests.rows, 0), dtype=np.int64), np.empty((requests.rows, 0))
        some = requests if len(known) == requests.rows else requests.take(known)
        found, values = self.index.search(self.fitted.requests(self.audience.field_rows(some)), n)
        return _spread(found, values, known, requests.rows)

    def save(self, folder: Path) -> dict[str, Any]:
        self.fitted.save(folder)
        _save_vectors(folder, self.vectors, self.index)
        return {"kind": "two_tower", "index": self.kind}

    @classmethod
    def load(cls, name: str, folder: Path, note: dict[str, Any], audience: Audience) -> TwoTowers:
        from recspect.training.two_tower import FittedTwoTower

        vectors, index = _load_vectors(folder, str(note["index"]))
        return cls(FittedTwoTower.load(folder), audience, vectors, index, str(note["index"]), name)


@dataclass(frozen=True, kw_only=True)
class SequenceSource:
    """Items that come next after what the user had, by SASRec or HSTU, trained here on the histories of wanted items.

    Args:
        model: `sasrec` or `hstu`.
        maximum_epochs, width, layers, max_length, sampled, seed: See `NextItemTraining` and `NextItemConfig`.
        index: `exact`, `graph`, or `auto`: by the number of items.
    """

    model: str = "sasrec"
    maximum_epochs: int = 30
    width: int = 64
    layers: int = 2
    max_length: int = 50
    sampled: int = 0
    seed: int = 0
    index: str = "auto"

    def __post_init__(self) -> None:
        _known_index("sequence", self.index)
        if self.model not in ("sasrec", "hstu"):
            raise UsageError(f"sequence: model is {self.model!r}", hint="choices: 'sasrec', 'hstu'")

    def fit(self, items: Catalogue, audience: Audience) -> Sequences:
        from recspect.models.next_item import NextItemConfig
        from recspect.training.next_item import NextItemTraining, train_next_item

        model = NextItemConfig(name=self.model, width=self.width, layers=self.layers, max_length=self.max_length)
        fitted = train_next_item(audience.wanted, NextItemTraining(model=model, maximum_epochs=self.maximum_epochs, sampled=self.sampled, seed=self.seed))
        # An item that nobody had still has the vector that it began with, which says nothing.
        known = np.flatnonzero(np.bincount(audience.wanted.items, minlength=len(items)) > 0)
        return Sequences.of(fitted, known, self.index)


@dataclass(frozen=True, eq=False)
class Sequences:
    """A trained sequence model, and an index over the items that it knows.

    Args:
        fitted: The model.
        known: Codes of these items, ascending.
        vectors: Of all items, shape (items, D).
        index: Over those of the known items.
        kind: Which index is to be made when it is loaded.
    """

    fitted: Any
    known: NDArray[np.int64]
    vectors: Vectors
    index: VectorIndex
    kind: str
    name: str = "sequence"

    @classmethod
    def of(cls, fitted: Any, known: NDArray[np.int64], kind: str, name: str = "sequence", path: Path | None = None) -> Sequences:
        vectors = fitted.item_vectors()
        return cls(fitted, known, vectors, make_index(vectors[known], kind=kind, path=path), kind, name)

    def candidates(self, requests: Requests, n: int) -> tuple[Ints, Floats]:
        """Nothing for a request without a history."""
        rows = np.flatnonzero(requests.histories.lengths)
        if not len(rows):
            return np.empty((requests.rows, 0), dtype=np.int64), np.empty((requests.rows, 0))
        found, values = self.index.search(self.fitted.states(requests.histories, rows), n)
        return _spread(np.where(found >= 0, self.known[found], -1), values, rows, requests.rows)

    def save(self, folder: Path) -> dict[str, Any]:
        self.fitted.save(folder)
        write_arrays(folder / "known.safetensors", {"known": self.known})
        if isinstance(self.index, GraphIndex):
            self.index.save(folder / "graph.usearch")
        return {"kind": "sequence", "index": self.kind}

    @classmethod
    def load(cls, name: str, folder: Path, note: dict[str, Any]) -> Sequences:
        from recspect.training.next_item import FittedNextItem

        return cls.of(FittedNextItem.load(folder), read_arrays(folder / "known.safetensors", "known")["known"], str(note["index"]), name,
                      folder / "graph.usearch")


def _save_vectors(folder: Path, vectors: Vectors, index: VectorIndex) -> None:
    write_arrays(folder / "vectors.safetensors", {"vectors": vectors})
    if isinstance(index, GraphIndex):
        index.save(folder / "graph.usearch")


def _load_vectors(folder: Path, kind: str) -> tuple[Vectors, VectorIndex]:
    if kind not in INDEXES:
        raise RunError(f"the index in {folder} is of kind {kind!r}, this recspect knows {INDEXES}", hint=REBUILD)
    vectors = read_arrays(folder / "vectors.safetensors", "vectors")["vectors"]
    return vectors, make_index(vectors, kind=kind, path=folder / "graph.usearch")


def _spread(found: Ints, values: Floats, rows: NDArray[np.int64], requests: int) -> tuple[Ints, Floats]:
    """Rows of some requests as rows of all; the others have nothing."""
    if len(rows) == requests:
        return found, values
    all_found, all_values = np.full((requests, found.shape[1]), -1, dtype=np.int64), np.full((requests, found.shape[1]), np.nan)
    all_found[rows], all_values[rows] = found, values
    return all_found, all_values


def _known_index(source: str, index: str) -> None:
    if index not in INDEXES:
        raise UsageError(f"{source}: index is {index!r}", hint=f"choices: {INDEXES}")


__all__ = ["SequenceSource", "Sequences", "TwoTowerSource", "TwoTowers"]
