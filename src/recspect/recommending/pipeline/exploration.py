"""Steps that draw, with a known chance for every item at every place, so that what follows can be judged off-policy.

The propensity of an item at a place is its chance to stand there whatever stands above: then the mean of `reward / propensity` over the rows of a log in which
a policy's item stands at its place is an unbiased estimate of that policy's value, for rewards of an item at a place (Strehl et al., NeurIPS 2010; Li et al.,
WSDM 2015). The chance given what stands above would not do: an item that may stand higher is then counted too rarely.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recspect.errors import UsageError
from recspect.recommending.pipeline.slate import Situation, Slate


@dataclass(frozen=True, kw_only=True)
class EpsilonGreedy:
    """Now and then shows what the order alone would not.

    Places: each place shows, with chance epsilon and independently, an item drawn evenly (without repeats) from the `reserve` candidates behind the first k.
    So the item of the order has propensity 1 - epsilon at its place, and each of the m in reserve epsilon / m.
    Lists: with chance epsilon the whole list is drawn evenly from the first k + reserve candidates (M): (1 - epsilon) [is there by the order] + epsilon / M.

    Args:
        epsilon: Chance, 0 to 1.
        reserve: Candidates behind the first k.
        unit: `place` or `list`.
        first_place: Places before this are left as they are (propensity 1), such as pinned ones; from 1.
    """

    epsilon: float = 0.1
    reserve: int = 50
    unit: str = "place"
    first_place: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise UsageError(f"epsilon_greedy: epsilon is {self.epsilon}, expected 0 to 1")
        if self.unit not in ("place", "list"):
            raise UsageError(f"epsilon_greedy: unit is {self.unit!r}", hint="choices: 'place', 'list'")
        _whole("epsilon_greedy", reserve=self.reserve, first_place=self.first_place)

    def apply(self, slate: Slate, situation: Situation) -> Slate:
        fixed, k = min(self.first_place - 1, len(slate), situation.k), min(situation.k, len(slate))
        places = np.arange(fixed, k)
        chance = np.ones(len(slate))
        order = np.arange(len(slate))
        pool = np.arange(k if self.unit == "place" else fixed, min(len(slate), k + self.reserve))
        if not len(places) or not len(pool):
            return replace(slate, propensity=chance)
        draw = situation.generator
        if self.unit == "place":
            # Never more places than there is reserve for: the last ones stay as they are, with certainty.
            places = places[: len(pool)]
            explored = places[draw.random(len(places)) < self.epsilon]
            order[explored] = draw.permutation(pool)[: len(explored)]
            chance[places] = 1 - self.epsilon
            chance[explored] = self.epsilon / len(pool)
        else:
            if draw.random() < self.epsilon:
                order[places] = draw.permutation(pool)[: len(places)]
            chance[places] = self.epsilon / len(pool) + np.where(order[places] == places, 1 - self.epsilon, 0.0)
        shown = order[:k]
        rest = np.setdiff1d(np.arange(len(slate)), shown)
        return replace(slate.take(np.concatenate([shown, rest])), propensity=np.concatenate([chance[:k], np.full(len(rest), np.nan)]))


@dataclass(frozen=True, kw_only=True)
class Thompson:
    """Orders the best candidates by a draw from what is believed of each: Beta(s r + positives, s (1 - r) + exposures - positives).

    r is the ranking's probability, worth `prior_rows` rows; counts are those of the training rows, each worth `count_weight`. Where the ranking gives no
    probability, r is the overall rate. A draw for all candidates is made `draws` times, and one of the draws is shown; with chance `floor` it is an even draw of
    the candidates instead. So the propensity is exact: (1 - floor) times the share of the draws in which the item stands at that place, + floor / candidates.

    Args:
        among: Candidates that take part, with those that are shown.
        prior_rows: s.
        count_weight: 1 takes each row for an independent trial; less keeps on exploring.
        draws: More draws give finer propensities.
        floor: Keeps every propensity above floor / candidates.
        first_place: Places before this are left as they are (propensity 1); from 1.

    Source: Thompson 1933; Chapelle, Li, "An Empirical Evaluation of Thompson Sampling", NeurIPS 2011.
    """

    among: int = 30
    prior_rows: float = 20.0
    count_weight: float = 1.0
    draws: int = 500
    floor: float = 0.05
    first_place: int = 1

    def __post_init__(self) -> None:
        _whole("thompson", among=self.among, draws=self.draws, first_place=self.first_place)
        if not (self.prior_rows > 0 and self.count_weight >= 0 and 0 <= self.floor <= 1):
            raise UsageError(f"thompson: prior_rows {self.prior_rows}, count_weight {self.count_weight}, floor {self.floor}",
                             hint="expected more than 0; 0 or more; 0 to 1")

    def apply(self, slate: Slate, situation: Situation) -> Slate:
        fixed, k = min(self.first_place - 1, len(slate), situation.k), min(situation.k, len(slate))
        last = min(len(slate), max(fixed + self.among, k))
        pool = np.arange(fixed, last)
        if k <= fixed or not len(pool):
            return replace(slate, propensity=np.ones(len(slate)))
        wanted, other = self._beliefs(slate, situation, pool)
        draw = situation.generator
        drawn = draw.beta(wanted, other, size=(self.draws, len(pool)))
        tops = np.argsort(-drawn, axis=1, kind="stable")[:, : k - fixed]
        shown = draw.permutation(len(pool))[: k - fixed] if draw.random() < self.floor else tops[draw.integers(self.draws)]
        chance = (1 - self.floor) * (tops == shown).mean(axis=0) + self.floor / len(pool)
        order = np.concatenate([np.arange(fixed), pool[shown]])
        rest = np.setdiff1d(np.arange(len(slate)), order)
        return replace(slate.take(np.concatenate([order, rest])), propensity=np.concatenate([np.ones(fixed), chance, np.full(len(rest), np.nan)]))

    def _beliefs(self, slate: Slate, situation: Situation, pool: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        items = situation.items
        exposures, positives = (self.count_weight * counts[slate.items[pool]].astype(np.float64) for counts in (items.exposures, items.positives))
        rate = items.positives.sum() / max(1, items.exposures.sum())
        r = slate.relevance[pool] if situation.probabilities else np.full(len(pool), rate)
        r = np.clip(np.where(np.isfinite(r), r, rate), 1e-3, 1 - 1e-3)
        return self.prior_rows * r + positives, self.prior_rows * (1 - r) + exposures - positives


def _whole(step: str, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"{step}: {name} is {value}, expected 1 or more")
