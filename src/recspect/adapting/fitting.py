"""From past experiments and a metric file to a metric: everything that a release or a proposal says of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from recspect.adapting.adoption import Gate
from recspect.adapting.bootstrap import Stability, stability
from recspect.adapting.held_out import Policy
from recspect.adapting.latent import Latent, Prior, fit_latent, prior_weight, to_correlation, usual_noise
from recspect.adapting.metric_file import MetricFile
from recspect.adapting.posterior import Costs
from recspect.adapting.surprise import forgetting
from recspect.adapting.weights import Rules, choose, quality
from recspect.errors import DataError
from recspect.experimenting.experiment import Corpus, Experiment, Floats

FINAL = 1.0
LEAST_FAMILIES = 10
"""Draws of fewer families repeat the same few experiments and say nothing of how sure weights are."""
BELIEF_ONLY = 1e9
"""A belief worth so many experiments leaves nothing to the data but the variances."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A metric and what it rests on.

    Args:
        policy: Weights, latent covariance, costs.
        latent: How the covariance came about.
        noise: Sampling noise of the usual experiment, shape (metrics, metrics).
        quality: Proxy quality of the weights at that noise, in [0, 1].
        alone: Proxy quality of the best single short-term metric.
        exact: Whether all subsets of metrics were compared.
        stability: Over draws of experiments; None where not asked for, or of fewer than ten families.
        experiments: Names of those that were fitted on.
        prior_experiments: What the belief was worth.
    """

    policy: Policy
    latent: Latent
    noise: Floats
    quality: float
    alone: float
    exact: bool
    stability: Stability | None
    experiments: tuple[str, ...]
    prior_experiments: float


def kept_apart(experiment: Experiment, share: float) -> bool:
    """Whether an experiment, with all of its family, is among those that are decided by the north star alone and never fitted on."""
    place = int.from_bytes(hashlib.blake2b(experiment.group.encode(), digest_size=8).digest(), "big") / 2**64
    return place < share


def to_fit_on(corpus: Corpus, file: MetricFile) -> Corpus:
    """Experiments to fit on: those kept apart are left out, and a north star that is not final counts as not measured.

    Its early reading shares its noise with the final one, so that fitting on it would learn that the metric foretells itself.
    """
    kept = [experiment for experiment in corpus if not kept_apart(experiment, file.decision.apart)]
    return Corpus.of([experiment if experiment.maturity >= FINAL else without_north_star(experiment) for experiment in kept], file.names)


def without_north_star(experiment: Experiment) -> Experiment:
    """The same experiment as if its north star had not been measured."""
    return experiment.of_metrics(experiment.metrics[1:]).of_metrics(experiment.metrics)


def prior_of(file: MetricFile) -> Prior:
    """What the file believes."""
    sizes = np.array([np.nan if metric.typical_effect is None else metric.typical_effect**2 for metric in file.all])
    weight = 40.0 if file.decision.prior_experiments is None else file.decision.prior_experiments
    return Prior.of_beliefs(tuple(metric.belief for metric in file.metrics), experiments=weight, variance=None if np.isnan(sizes).all() else sizes)


def rules_of(file: MetricFile) -> Rules:
    """What the file allows weights to be. The north star's own weight cannot be negative."""
    return Rules(signs=(1, *(metric.sign for metric in file.metrics)), prices=(0.0, *(metric.price for metric in file.metrics)), most=file.decision.most_metrics, joint=file.decision.joint)


def costs_of(file: MetricFile) -> Costs:
    """What mistakes cost."""
    return Costs(false_ship=file.decision.cost_false_ship, missed=file.decision.cost_missed, smallest_effect=file.decision.smallest_effect)


def gate_of(file: MetricFile) -> Gate:
    """What a change has to show."""
    return Gate(least_experiments=file.decision.least_experiments, dwell_days=file.decision.dwell_days, step=file.decision.step)


def scene_prior(corpus: Corpus, file: MetricFile, scene: str) -> Prior:
    """What all other scenes say of this one, worth `scene_experiments`; the file's beliefs where there is no other scene."""
    others = corpus.outside_scene(scene)
    if not len(others):
        return prior_of(file)
    pooled = fit_latent(others, prior_of(file)).covariance
    return Prior(to_correlation(pooled), file.decision.scene_experiments, np.diag(pooled).copy())


def fit_metric(corpus: Corpus, file: MetricFile, *, scene: str = "", draws: int = 0, belief_only: bool = False, recent: float | None = None) -> Fitted:
    """The metric that these experiments and the file's beliefs give.

    Args:
        corpus: Experiments with the file's metrics, `to_fit_on`.
        file: Metrics, beliefs, costs.
        scene: Which scene it is for; empty for all together.
        draws: Of experiments, for the intervals of weights; 0 for none.
        belief_only: Let the data say how large effects are, and nothing else: the metric to begin with.
        recent: So many experiments count in the long run, the latest most; all alike where None. The order is that of the corpus.

    Raises:
        DataError: No experiments in that scene, or none with a final north star.
    """
    prior = prior_of(file) if not scene else scene_prior(corpus, file, scene)
    part = corpus if not scene else corpus.of_scene(scene)
    counted = None if recent is None else forgetting(len(part), recent)
    if not len(part):
        raise DataError(f"no experiment to fit on{f' in scene {scene!r}' if scene else ''}", hint=f"scenes: {', '.join(map(repr, corpus.scenes)) or 'none'}; those kept apart and those without any of the metrics do not count")
    if belief_only:
        prior = Prior(prior.correlation, BELIEF_ONLY, prior.variance)
    elif file.decision.prior_experiments is None and not scene:
        prior = Prior(prior.correlation, prior_weight(part, prior), prior.variance)
    measured = (~np.isnan(part.effects)).any(0)
    if not measured[0]:
        raise DataError(f"no experiment to fit on has a final {file.north_star.name!r}", hint="maturity 1 says that it is final; until then decide by what is in use")
    rules, noise = rules_of(file), usual_noise(part)
    rules = replace(rules, prices=tuple(price if there else math.inf for price, there in zip(rules.prices, measured, strict=True)))  # of what was never measured not even the unit is known
    latent = fit_latent(part, prior, method="moments" if belief_only else "likelihood", weights=counted)
    found = choose(latent.covariance, noise, rules)
    unit = np.eye(len(noise))
    alone = max(abs(quality(unit[place], latent.covariance, noise)) for place in range(1, len(noise)))
    return Fitted(policy=Policy(weights=found.values, latent=latent.covariance, costs=costs_of(file)), latent=latent, noise=noise, quality=found.quality, alone=alone, exact=found.exact,
                  stability=stability(part, prior, rules, noise, draws=draws, counted=counted) if draws and len(np.unique(part.groups)) >= LEAST_FAMILIES else None,
                  experiments=tuple(experiment.name for experiment in part), prior_experiments=prior.experiments)


def fitter(file: MetricFile, *, scene: str = "", others: tuple[Experiment, ...] = (), recent: float | None = None) -> Callable[[Corpus], Policy]:
    """What `held_out.compare` fits with: the same way to a metric, without intervals; `others` are experiments of other scenes, which are always there."""
    def fit(corpus: Corpus) -> Policy:
        return fit_metric(Corpus((*others, *corpus)), file, scene=scene, recent=recent).policy

    return fit


def north_star_alone(policy: Policy) -> Policy:
    """The fallback: decide by the north star's own reading."""
    return replace(policy, weights=np.eye(len(policy.weights))[0])


__all__ = ["Fitted", "costs_of", "fit_metric", "fitter", "gate_of", "kept_apart", "north_star_alone", "prior_of", "rules_of", "scene_prior", "to_fit_on", "without_north_star"]
