"""How sure the weights are: everything is fitted again on families of experiments drawn with replacement.

Experiments are what varies, not users: the next weights will come from other experiments. Drawing users again would only repeat the noise that is known anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recspect.adapting.latent import Prior, fit_latent
from recspect.adapting.weights import Rules, choose, cosine, normalised
from recspect.experimenting.experiment import Corpus, Floats

NEAR = 1e-3
"""Draws need not be fitted as closely as the fit that they are about: they differ from each other by far more."""


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Weights over draws of experiments.

    Args:
        low, high: Ends of the central interval of each normalised weight, shape (metrics,).
        chosen: Share of draws in which each metric has a weight, shape (metrics,).
        cosine: Mean cosine of the weights with those of all experiments.
        cosine_low: Its tenth percentile.
        quality_low, quality_high: Interval of the proxy quality that the draws promise.
        draws: How many.
        level: Coverage of the intervals.
    """

    low: Floats
    high: Floats
    chosen: Floats
    cosine: float
    cosine_low: float
    quality_low: float
    quality_high: float
    draws: int
    level: float


def draw_families(corpus: Corpus, generator: np.random.Generator) -> Floats:
    """How often each experiment is there when as many families as there are, at least one, are drawn with replacement, shape (experiments,)."""
    families = int(corpus.groups.max()) + 1
    return np.bincount(generator.integers(0, families, families), minlength=families)[corpus.groups].astype(np.float64)


def stability(corpus: Corpus, prior: Prior, rules: Rules, noise: Floats, *, method: str = "likelihood", draws: int = 200, level: float = 0.9, seed: int = 0,
              counted: Floats | None = None) -> Stability:
    """Weights on `draws` draws of as many families as there are.

    Args:
        corpus: Experiments.
        prior: As in the fit; it belongs to no experiment and stays as it is in each draw.
        rules: As in the fit.
        noise: Of the experiments that the weights are for.
        method: As in the fit.
        draws: How many draws.
        level: Coverage of the intervals.
        seed: Of the draws.
        counted: How much each experiment counts, as in the fit.
    """
    generator = np.random.default_rng(seed)
    whole = fit_latent(corpus, prior, method=method, weights=counted)
    best = normalised(choose(whole.covariance, noise, rules).values, noise)
    found, cosines, qualities = [], [], []
    for _ in range(draws if len(corpus) else 0):
        times = draw_families(corpus, generator)
        drawn = fit_latent(corpus, prior, method=method, weights=times * (1.0 if counted is None else counted), start=whole.covariance if method == "likelihood" else None, close=NEAR)
        one = choose(drawn.covariance, noise, rules)
        found.append(normalised(one.values, noise))
        cosines.append(cosine(found[-1], best))
        qualities.append(one.quality)
    if not found:
        found, cosines, qualities = [best], [1.0], [0.0]
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(found, ends, axis=0)
    quality_low, quality_high = (float(end) for end in np.quantile(qualities, ends))
    return Stability(low=low, high=high, chosen=(np.array(found) != 0).mean(0), cosine=float(np.mean(cosines)), cosine_low=float(np.quantile(cosines, 0.1)),
                     quality_low=quality_low, quality_high=quality_high, draws=draws if len(corpus) else 0, level=level)


__all__ = ["NEAR", "Stability", "draw_families", "stability"]
