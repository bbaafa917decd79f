"""A list in the making, and what a step does to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recspect.recommending.pipeline.catalogue import Catalogue


@dataclass(frozen=True, eq=False)
class Slate:
    """Candidates of one request, best first.

    Args:
        items: Item codes, shape (m,), each once.
        scores: By which they stand in this order, shape (m,); steps change them.
        relevance: What the ranking gave, shape (m,); no step changes it.
        propensity: Chance with which each item came to stand at its place, shape (m,); None where nothing was drawn.
        dropped: What was taken out so far: (step, reason, item codes).
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float64]
    relevance: NDArray[np.float64]
    propensity: NDArray[np.float64] | None = None
    dropped: tuple[tuple[str, str, NDArray[np.int64]], ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def take(self, order: NDArray[Any], *, scores: NDArray[np.float64] | None = None) -> Slate:
        """The candidates at these places in this order, with new scores (in the new order) where given."""
        return Slate(self.items[order], self.scores[order] if scores is None else scores, self.relevance[order],
                     None if self.propensity is None else self.propensity[order], self.dropped)

    def without(self, gone: NDArray[np.bool_], step: str, reason: str) -> Slate:
        """The others, with a note of what was taken out and why."""
        if not gone.any():
            return self
        return replace(self.take(~gone), dropped=(*self.dropped, (step, reason, self.items[gone])))

    def ranked(self, scores: NDArray[np.float64]) -> Slate:
        """Ordered anew by these scores, one per place; equal ones keep their order."""
        order = np.argsort(-scores, kind="stable")
        return self.take(order, scores=scores[order])


@dataclass(frozen=True, eq=False)
class Situation:
    """What a step may know of the request.

    Args:
        items: The catalogue.
        k: Length of the list that is asked for.
        history: What the user wanted so far, item codes, oldest first.
        met: What the user was shown or had at all, item codes, oldest first.
        seed: Of everything that is drawn for this list.
        vectors: Of items, shape (items, D), length 1, float32; None where no source has vectors.
        probabilities: Whether `relevance` is a probability.
    """

    items: Catalogue
    k: int
    history: NDArray[np.int64]
    met: NDArray[np.int64]
    seed: Sequence[int] = (0,)
    vectors: NDArray[np.float32] | None = None
    probabilities: bool = False

    @cached_property
    def generator(self) -> np.random.Generator:
        """Random numbers of this list: the same for the same seed, whatever other lists are made."""
        return np.random.default_rng(list(self.seed))


class Step(Protocol):
    """Changes a list: takes out, orders anew, or draws. A frozen dataclass, so that it can be written to a file."""

    def apply(self, slate: Slate, situation: Situation) -> Slate:
        """The list after this step."""
        ...


@dataclass(frozen=True)
class Stage:
    """A list after a step, for the trace.

    Args:
        step: Name of the step.
        items: Item codes, best first.
        scores: One per item.
    """

    step: str
    items: NDArray[np.int64]
    scores: NDArray[np.float64] = field(repr=False)
