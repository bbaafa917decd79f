"""Several scenes (home, search, mail): each with few experiments of its own, all together with many.

The covariance of a scene is shrunk towards that of all: L_s = (k L_pool + M_s L_s) / (k + M_s), the pooled covariance counting for k experiments of the scene. How different scenes are is said by
I^2 of the chosen metric's slope: the share of its variance over scenes that is not sampling error (Higgins and Thompson 2002).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recspect.adapting.held_out import clustered_mean
from recspect.adapting.latent import Latent, Prior, fit_latent
from recspect.adapting.weights import Rules, choose, quality
from recspect.experimenting.experiment import Corpus, Floats
from recspect.experimenting.heterogeneity import cochran_q


@dataclass(frozen=True, kw_only=True)
class Heterogeneity:
    """How much scenes differ in what the metric foretells.

    Args:
        slopes: Per scene the north star's effect per unit of the metric's effect, and its standard error.
        q: Cochran's Q.
        i_squared: Share of the variance of slopes that is not sampling error, in [0, 1].
        scenes: How many scenes have enough experiments.
    """

    slopes: Mapping[str, tuple[float, float]]
    q: float
    i_squared: float
    scenes: int


def fit_scenes(corpus: Corpus, prior: Prior, *, worth: float = 40.0, method: str = "likelihood") -> tuple[Latent, dict[str, Latent]]:
    """The covariance of all scenes together, and of each scene shrunk towards it.

    Args:
        corpus: Experiments of all scenes.
        prior: What is believed of all.
        worth: How many of a scene's experiments the pooled covariance counts for.
        method: As in `fit_latent`.
    """
    pooled = fit_latent(corpus, prior, method=method)
    towards = Prior(pooled.correlation, worth, np.diag(pooled.covariance).copy())
    return pooled, {scene: fit_latent(corpus.of_scene(scene), towards, method=method) for scene in corpus.scenes}


def heterogeneity(corpus: Corpus, weights: Floats, *, least: int = 10) -> Heterogeneity:
    """I^2 of the slope of the north star's true effect on the metric's, over scenes with at least `least` experiments.

    The slope of a scene is mean(x_N y - noise) / mean(y^2 - noise), y = w'x: errors in variables with known noise; its standard error is clustered by family.
    """
    slopes: dict[str, tuple[float, float]] = {}
    for scene in corpus.scenes:
        part = [experiment for experiment in corpus.of_scene(scene) if experiment.measured[0] and experiment.measured[weights != 0].all()]
        if len(part) < least:
            continue
        effects, noise = np.nan_to_num([experiment.effects for experiment in part]), np.nan_to_num([experiment.noise for experiment in part])
        y = effects @ weights
        shared, power = effects[:, 0] * y - noise[:, 0] @ weights, y**2 - np.einsum("j,ejk,k->e", weights, noise, weights)
        if power.mean() <= 0:
            continue
        slope = float(shared.mean() / power.mean())
        _, error = clustered_mean((shared - slope * power) / power.mean(), np.ones(len(part)), Corpus(tuple(part)).groups)
        slopes[scene] = (slope, error)
    found = np.array(list(slopes.values())).reshape(-1, 2)
    if len(found) < 2:
        return Heterogeneity(slopes=slopes, q=0.0, i_squared=0.0, scenes=len(found))
    q = cochran_q(found[:, 0], np.maximum(found[:, 1], 1e-150) ** 2)
    return Heterogeneity(slopes=slopes, q=q, i_squared=max(0.0, 1 - (len(found) - 1) / q) if q > 0 else 0.0, scenes=len(found))


def left_out_quality(corpus: Corpus, prior: Prior, rules: Rules, noise: Floats) -> dict[str, float]:
    """Per scene: the proxy quality there of weights learnt on the other scenes, judged by the scene's own covariance; NaN where there is no other scene."""
    found = {}
    for scene in corpus.scenes:
        others = corpus.outside_scene(scene)
        if not len(others):
            found[scene] = math.nan
            continue
        weights = choose(fit_latent(others, prior).covariance, noise, rules).values
        found[scene] = quality(weights, fit_latent(corpus.of_scene(scene), prior).covariance, noise)
    return found


__all__ = ["Heterogeneity", "fit_scenes", "heterogeneity", "left_out_quality"]
