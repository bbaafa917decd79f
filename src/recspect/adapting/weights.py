"""Weights of short-term metrics that foretell the north star, exactly, under signs, a price per metric and a largest number of metrics.

The proxy quality of weights w is the correlation of the true effect on the north star with the observed metric w'x (Tripuraneni et al., "Choosing a proxy metric from
past experiments", KDD 2024): PQ(w) = w'L_N / sqrt(L_NN w'(L + X)w), L the covariance of true effects and X the noise of the experiment at hand. It is largest at w = (L + X)^-1 L_N; the
better the metrics are measured (the more users), the more the weights lean on those that are aligned, and the less on those that are merely precise. The joint form has the
north star's own early reading as one more column.

Signs make it a quadratic program. Its solution on the metrics that stay is the free solution of those metrics, so that searching all subsets for the best one whose free
solution has the right signs is exact; the price per metric and the largest number come in at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice

import numpy as np
from numpy.typing import NDArray

from recspect.errors import UsageError
from recspect.experimenting.experiment import Floats

EXHAUSTIVE = 200_000
"""Subsets that are looked at one by one; beyond it the metrics with the best quality of their own are searched."""
PIECE = 4096


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What weights may be.

    Args:
        signs: Per metric 1 (no negative weight), -1 (no positive one), 0 (any); shape (metrics,), the north star among them.
        most: Most short-term metrics with a weight; the north star's early reading does not count.
        prices: What a metric must add in proxy quality to be worth keeping, shape (metrics,).
        joint: Whether the north star's early reading is a column too (it costs nothing: it is measured anyway).
    """

    signs: tuple[int, ...]
    prices: tuple[float, ...]
    most: int = 5
    joint: bool = True

    def __post_init__(self) -> None:
        if len(self.signs) != len(self.prices):
            raise UsageError(f"{len(self.signs)} signs and {len(self.prices)} prices", hint="one of each per metric, the north star first")
        if not set(self.signs) <= {-1, 0, 1}:
            raise UsageError(f"signs are {self.signs}, each is -1, 0 or 1")
        if self.most < 1 or min(self.prices) < 0:
            raise UsageError(f"at most {self.most} metrics at prices {self.prices}", hint="at least one metric, prices of 0 or more")

    @classmethod
    def free(cls, metrics: int, *, most: int | None = None, joint: bool = True) -> Rules:
        """No signs and no prices, for so many metrics with the north star."""
        return cls(signs=(0,) * metrics, prices=(0.0,) * metrics, most=metrics if most is None else most, joint=joint)


@dataclass(frozen=True)
class Weights:
    """The chosen metric.

    Args:
        values: Shape (metrics,): w with E[true north star | observed] = w'x for an experiment with this noise. 0 for what is left out.
        quality: Proxy quality in [0, 1].
        objective: Quality less the prices.
        exact: Whether all subsets were compared.
    """

    values: Floats
    quality: float
    objective: float
    exact: bool

    @property
    def chosen(self) -> NDArray[np.int64]:
        """Places of the metrics with a weight."""
        return np.flatnonzero(self.values)


def free_weights(latent: Floats, noise: Floats, *, joint: bool = True) -> Floats:
    """(L + X)^-1 L_N over all metrics (`joint`) or the short-term ones, shape (metrics,). Singular covariances give the shortest solution."""
    columns = np.arange(0 if joint else 1, len(latent))
    found = np.zeros(len(latent))
    part = np.ix_(columns, columns)
    found[columns] = np.linalg.lstsq(latent[part] + noise[part], latent[columns, 0], rcond=None)[0]
    return found


def quality(weights: Floats, latent: Floats, noise: Floats) -> float:
    """Proxy quality of these weights for an experiment with this noise, in [-1, 1]; 0 where they weigh nothing."""
    spread = float(weights @ (latent + noise) @ weights)
    return float(weights @ latent[:, 0]) / math.sqrt(latent[0, 0] * spread) if spread > 0 and latent[0, 0] > 0 else 0.0


def choose(latent: Floats, noise: Floats, rules: Rules) -> Weights:
    """The best weights under the rules.

    Args:
        latent: Covariance of true effects, shape (metrics, metrics), the north star first.
        noise: Sampling noise of the experiments that it is for.
        rules: See `Rules`.

    Raises:
        UsageError: Rules for another number of metrics.

    Example:
        >>> latent = np.array([[1.0, 0.8, -0.5], [0.8, 1.0, -0.4], [-0.5, -0.4, 1.0]])
        >>> choose(latent, np.diag([4.0, 0.5, 0.5]), Rules(signs=(1, 1, 1), prices=(0.0, 0.0, 0.0), joint=False)).values.round(3).tolist()
        [0.0, 0.533, 0.0]
    """
    width = len(latent)
    if len(rules.signs) != width:
        raise UsageError(f"rules for {len(rules.signs)} metrics, a covariance of {width}")
    scale = np.sqrt(np.maximum(np.diag(latent) + np.diag(noise), 1e-300))  # in units where every column has variance 1
    total, target = (latent + noise) / np.outer(scale, scale), latent[:, 0] / scale
    columns, exact = _candidates(total, target, rules, width)
    best, best_objective, best_weights = 0.0, 0.0, np.zeros(width)
    power = latent[0, 0]
    signs, prices = np.array(rules.signs), np.array(rules.prices)
    for subsets in _pieces(columns, rules):
        if not subsets.shape[1]:
            continue
        solved = _solve(total[subsets[:, :, None], subsets[:, None, :]], target[subsets])
        fits = (solved * signs[subsets] >= 0).all(1)
        explained = np.einsum("sj,sj->s", solved, target[subsets])
        value = np.sqrt(np.clip(explained / power if power > 0 else np.zeros(len(subsets)), 0.0, 1.0))
        objective = np.where(fits, value - np.where(subsets > 0, prices[subsets], 0.0).sum(1), -np.inf)  # a price may be infinite
        first = int(np.argmax(objective))
        if objective[first] > best_objective + 1e-12:
            best, best_objective = float(value[first]), float(objective[first])
            best_weights = np.zeros(width)
            best_weights[subsets[first]] = solved[first] / scale[subsets[first]]
    return Weights(best_weights, best, best_objective, exact)


def _candidates(total: Floats, target: Floats, rules: Rules, width: int) -> tuple[list[int], bool]:
    """Short-term metrics that are searched, and whether these are all."""
    columns = list(range(1, width))
    if _count(len(columns), rules.most) <= EXHAUSTIVE:
        return columns, True
    own = target**2 / np.diag(total)
    ranked = sorted(columns, key=lambda place: -own[place])
    keep = next(size for size in range(len(ranked), 0, -1) if _count(size, rules.most) <= EXHAUSTIVE)
    return sorted(ranked[:keep]), False


def _count(metrics: int, most: int) -> int:
    return sum(math.comb(metrics, size) for size in range(min(metrics, most) + 1))


def _pieces(columns: Sequence[int], rules: Rules) -> Iterator[NDArray[np.int64]]:
    """All subsets, those of one size together, in bounded pieces; with and without the north star's early reading where it may count."""
    heads: tuple[tuple[int, ...], ...] = ((0,), ()) if rules.joint else ((),)
    for size in range(min(len(columns), rules.most) + 1):
        for head in heads:
            found = (chain(head, subset) for subset in combinations(columns, size))
            while piece := [tuple(subset) for subset in islice(found, PIECE)]:
                yield np.array(piece, np.int64).reshape(len(piece), size + len(head))


def _solve(matrices: Floats, targets: Floats) -> Floats:
    """Solutions of many small systems; of singular ones the shortest."""
    try:
        found: Floats = np.linalg.solve(matrices, targets[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        found = np.einsum("sjk,sk->sj", np.linalg.pinv(matrices, hermitian=True), targets)
    return found


def normalised(weights: Floats, noise: Floats) -> Floats:
    """Weights per standard error of an experiment with this noise, absolute values summing to 1: what is shown to people and compared between versions."""
    found: Floats = weights * np.sqrt(np.diag(noise))
    total = np.abs(found).sum()
    return found / total if total > 0 else found


def cosine(one: Floats, other: Floats) -> float:
    """Cosine of two weight vectors, in [-1, 1]; 0 where one weighs nothing."""
    product = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / product if product > 0 else 0.0


__all__ = ["Rules", "Weights", "choose", "cosine", "free_weights", "normalised", "quality"]
