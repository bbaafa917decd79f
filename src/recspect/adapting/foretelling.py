"""How well each metric foretold past launches: offline metrics of model versions against what came online, or short-term metrics against the north star.

A model version is an experiment like any other: its "effects" on offline metrics are differences to the champion with a covariance from users drawn again, its effect on the north star that of the online experiment. Observed correlations
are drawn towards 0 by noise; the latent one is not. A rank agrees, or not, whatever the scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from recspect.adapting.bootstrap import NEAR, draw_families
from recspect.adapting.latent import Prior, fit_latent
from recspect.errors import DataError, UsageError
from recspect.experimenting.experiment import Corpus, Floats

LEAST = 10
"""Launches below which nothing is said."""


@dataclass(frozen=True, kw_only=True)
class Foretold:
    """One metric against the north star.

    Args:
        metric: Its name.
        launches: Launches that measured both.
        observed: Correlation of the observed effects.
        latent, low, high: Correlation of the true effects, and its interval over draws of families.
        same_sign: Share of launches in which both point the same way.
        tau: Kendall's rank correlation (tau-b) of the observed effects.
        regret: Mean loss in the north star, per choice among `choices` launches drawn at random, of taking the best by this metric instead of the best by the north star.
    """

    metric: str
    launches: int
    observed: float
    latent: float
    low: float
    high: float
    same_sign: float
    tau: float
    regret: float


def foretold(corpus: Corpus, prior: Prior, *, draws: int = 100, level: float = 0.9, choices: int = 4, seed: int = 0) -> tuple[Foretold, ...]:
    """Every metric, the one that foretells best first.

    Args:
        corpus: Launches; the north star first.
        prior: What is believed of the metrics; small beliefs where the launches should speak.
        draws: Of families, for the interval.
        level: Of the interval.
        choices: How many launches a choice is made among.
        seed: Of the draws.

    Raises:
        DataError: Fewer than ten launches.
    """
    if len(corpus) < LEAST:
        raise DataError(f"{len(corpus)} launches say nothing about metrics; {LEAST} are needed", hint="collect more launches, with their online results")
    generator = np.random.default_rng(seed)
    whole = fit_latent(corpus, prior)
    latent = whole.correlation[0]
    drawn = [fit_latent(corpus, prior, weights=draw_families(corpus, generator), start=whole.covariance, close=NEAR).correlation[0] for _ in range(draws)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0) if draws else (latent,) * 2
    found = []
    for place, name in enumerate(corpus.metrics[1:], start=1):
        both = corpus.effects[:, [0, place]]
        x, y = both[~np.isnan(both).any(1)].T
        if len(x) < LEAST:
            continue
        varies = x.std() > 0 and y.std() > 0
        found.append(Foretold(metric=name, launches=len(x), observed=float(np.corrcoef(x, y)[0, 1]) if varies else 0.0, latent=float(latent[place]), low=float(low[place]),
                              high=float(high[place]), same_sign=float((np.sign(x) == np.sign(y)).mean()), tau=kendall(x, y), regret=selection_regret(y, x, choices=choices, seed=seed)))
    return tuple(sorted(found, key=lambda one: -abs(one.latent)))


def kendall(x: Floats, y: Floats) -> float:
    """Kendall's tau-b, in [-1, 1]; 0 where one of them is the same everywhere."""
    upper = np.triu_indices(len(x), 1)
    one, other = np.sign(x[:, None] - x)[upper], np.sign(y[:, None] - y)[upper]
    pairs = math.sqrt(float((one != 0).sum()) * float((other != 0).sum()))
    return float((one * other).sum()) / pairs if pairs else 0.0


def selection_regret(scores: Floats, values: Floats, *, choices: int, draws: int = 4_000, seed: int = 0) -> float:
    """Mean loss in value of taking the best by score among `choices` candidates drawn at random, against the best by value.

    Raises:
        UsageError: Fewer candidates than choices, or fewer than two choices.
    """
    if not 2 <= choices <= len(scores):
        raise UsageError(f"a choice among {choices} of {len(scores)} candidates", hint="at least two, at most as many as there are")
    generator = np.random.default_rng(seed)
    picked = generator.random((draws, len(scores))).argpartition(choices - 1, axis=1)[:, :choices]
    taken = np.take_along_axis(picked, scores[picked].argmax(1)[:, None], 1)[:, 0]
    return float((values[picked].max(1) - values[taken]).mean())


__all__ = ["Foretold", "foretold", "kendall", "selection_regret"]
