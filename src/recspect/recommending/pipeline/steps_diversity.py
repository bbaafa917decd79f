"""Steps that trade some relevance for a list that is less of the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.errors import UsageError
from recspect.recommending.pipeline.slate import Situation, Slate

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MMR:
    """Maximal marginal relevance: each place goes to the largest `balance r_i - (1 - balance) max_{j above} cos(i, j)`.

    r is the score, brought to [0, 1] over the candidates; the first k places are filled so, the rest keep their order.

    Args:
        balance: 1 for relevance alone, 0 for difference alone.
        among: Only the best so many candidates are looked at.

    Source: Carbonell, Goldstein, "The Use of MMR, Diversity-Based Reranking", SIGIR 1998.
    """

    balance: float = 0.7
    among: int = 200

    def __post_init__(self) -> None:
        _share("mmr: balance", self.balance)
        _at_least_one("mmr: among", self.among)

    def apply(self, slate: Slate, situation: Situation) -> Slate:
        vectors, n = _vectors("mmr", slate, situation, self.among), min(self.among, len(slate))
        if n < 2:
            return slate
        relevance = _unit(slate.scores[:n])
        alike = np.full(n, -1.0)  # cosine to the most alike item above; below every cosine while nothing is chosen
        order, worth, left = [], [], np.ones(n, dtype=bool)
        for place in range(min(situation.k, n)):
            marginal = self.balance * relevance - ((1 - self.balance) * alike if place else 0.0)
            best = int(np.argmax(np.where(left, marginal, -np.inf)))
            order.append(best)
            worth.append(float(marginal[best]))
            left[best] = False
            alike = np.maximum(alike, vectors @ vectors[best])
        return _chosen_first(slate, order, worth)


@dataclass(frozen=True, kw_only=True)
class DPP:
    """Determinantal point process: the k items of greatest det L, found greedily, L_ij = q_i q_j (cos(i, j) + 1) / 2, q = exp(strength r / 2).

    r is the score, brought to [0, 1] over the candidates. Greedy steps update a Cholesky factor, O(k^2 n) in all.

    Args:
        strength: How much relevance weighs against difference; 0 for difference alone.
        among: Only the best so many candidates are looked at.

    Source: Chen, Zhang, Zhou, "Fast Greedy MAP Inference for Determinantal Point Process to Improve Recommendation Diversity", NeurIPS 2018.
    """

    strength: float = 4.0
    among: int = 200

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 100:
            raise UsageError(f"dpp: strength is {self.strength}, expected 0 to 100")
        _at_least_one("dpp: among", self.among)

    def apply(self, slate: Slate, situation: Situation) -> Slate:
        vectors, n = _vectors("dpp", slate, situation, self.among), min(self.among, len(slate))
        if n < 2:
            return slate
        quality = np.exp(self.strength / 2 * _unit(slate.scores[:n]))
        kernel = quality[:, None] * quality * (1 + vectors @ vectors.T) / 2
        order, gains = greedy_map(kernel, min(situation.k, n))
        return _chosen_first(slate, order, gains)


def greedy_map(kernel: Floats, k: int) -> tuple[list[int], list[float]]:
    """Greedy MAP of a determinantal point process: places chosen, and what each adds to log det of the chosen.

    Args:
        kernel: Symmetric, positive semidefinite, shape (n, n).
        k: At most so many; fewer where nothing is left that is not a combination of what was chosen.
    """
    factor = np.zeros((k, len(kernel)))
    rest = np.diag(kernel).copy()
    order: list[int] = []
    gains: list[float] = []
    best = int(np.argmax(rest))
    while len(order) < k and rest[best] > 1e-10:
        place = len(order)
        row = (kernel[best] - factor[:place, best] @ factor[:place]) / np.sqrt(rest[best])
        order.append(best)
        gains.append(float(np.log(rest[best])))
        factor[place] = row
        rest = rest - row**2
        rest[order] = -np.inf
        best = int(np.argmax(rest))
    return order, gains


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """Brings the categories of the first k places near those of what the user had: greedily the largest `(1 - weight) sum r - weight KL(p || q)`.

    p: shares of categories in the user's history; q: in the list, mixed with a hundredth of p. r is the score, brought to [0, 1]. Users with fewer than
    `least_history` items keep their list.

    Args:
        weight: 0 for relevance alone, 1 for calibration alone.
        least_history: Items of known categories that a history needs.
        among: Only the best so many candidates are looked at.

    Source: Steck, "Calibrated Recommendations", RecSys 2018.
    """

    weight: float = 0.5
    least_history: int = 5
    among: int = 200

    def __post_init__(self) -> None:
        _share("calibrated: weight", self.weight)
        _at_least_one("calibrated: among", self.among)

    def apply(self, slate: Slate, situation: Situation) -> Slate:
        if situation.items.category is None:
            raise UsageError("calibrated needs to know the category of items", hint="build the recommender with --category COLUMN")
        shares = situation.items.category_shares
        profile = shares[situation.history].astype(np.float64)
        known = profile.sum(axis=1) > 0
        n, k = min(self.among, len(slate)), min(situation.k, len(slate), self.among)
        if known.sum() < self.least_history or n < 2:
            return slate
        p = profile[known].mean(axis=0)
        mine, relevance = shares[slate.items[:n]].astype(np.float64), _unit(slate.scores[:n])
        total, order, worth, left = np.zeros(len(p)), [], [], np.ones(n, dtype=bool)
        gained = 0.0
        for place in range(1, k + 1):
            value = (1 - self.weight) * (gained + relevance) - self.weight * divergence(p, (total + mine) / place)
            best = int(np.argmax(np.where(left, value, -np.inf)))
            order.append(best)
            worth.append(float(value[best]))
            left[best] = False
            total, gained = total + mine[best], gained + float(relevance[best])
        return _chosen_first(slate, order, worth)


def divergence(p: Floats, q: Floats, *, mixed: float = 0.01) -> Any:
    """Steck's C_KL in nats along the last axis: sum p ln(p / ((1 - mixed) q + mixed p))."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * np.log(p / ((1 - mixed) * q + mixed * p)), 0.0).sum(axis=-1)


@dataclass(frozen=True, kw_only=True)
class Debiased:
    """Takes off what popularity alone gives: orders by `r - strength ln(1 + positives) / ln(1 + most positives)`, r the score brought to [0, 1].

    Args:
        strength: 0 changes nothing.

    Source: the idea of Abdollahpouri, Burke, Mobasher, "Managing Popularity Bias in Recommender Systems with Personalized Re-ranking", FLAIRS 2019, as a
    penalty per item.
    """

    strength: float = 0.2

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            raise UsageError(f"debiased: strength is {self.strength}, expected 0 or more")

    def apply(self, slate: Slate, situation: Situation) -> Slate:
        known = np.log1p(situation.items.positives[slate.items]) / max(np.log1p(situation.items.positives.max(initial=0)), 1e-12)
        return slate.ranked(_unit(slate.scores) - self.strength * known)


def _vectors(step: str, slate: Slate, situation: Situation, among: int) -> Floats:
    if situation.vectors is None:
        raise UsageError(f"{step} compares items by their vectors, and no source has any", hint="add the source two_tower or sequence")
    return situation.vectors[slate.items[:among]].astype(np.float64)


def _chosen_first(slate: Slate, order: list[int], worth: list[float]) -> Slate:
    """The chosen in their order, with what they were worth; behind them the rest, below the last of the chosen by what its score is below the best."""
    chosen = np.array(order, dtype=np.int64)
    rest = np.setdiff1d(np.arange(len(slate)), chosen)
    below = min(worth, default=0.0) - 1 - np.arange(len(rest)) / max(1, len(rest))
    return slate.take(np.concatenate([chosen, rest]), scores=np.concatenate([np.array(worth), below]))


def _unit(scores: Floats) -> Floats:
    """Scores brought to [0, 1]; 1 where all are equal; what has no score gets 0."""
    known = np.isfinite(scores)
    if not known.any():
        return np.zeros(len(scores))
    low, high = scores[known].min(), scores[known].max()
    return np.where(known, (scores - low) / (high - low) if high > low else 1.0, 0.0)


def _share(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UsageError(f"{what} is {value}, expected 0 to 1")


def _at_least_one(what: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"{what} is {value}, expected 1 or more")
