"""Goodhart's law watched: a short-term metric that teams optimise and that stops going with the north star, or turns against it.

For each metric j the experiments that come in are held against two stories: true effects vary as they did (L), or j has come loose or turned round, with everything else as it
was. The second story has two forms: D L D, where D turns the sign of j (and, half-way, cuts it loose from all other metrics), and L with only the entry of j and the north star changed
(clickbait that still goes with other clicks). The log ratio of the likelihoods of each experiment is added up in a cumulative sum, the test that finds a change of this kind soonest
at a given rate of false alarms (Page 1954; Lorden 1971). All metrics of an experiment count, so that the change is seen in the company that the metric keeps, long before noisy
north stars alone could tell. The limit is found by simulation: of worlds without a change, whose covariance is as uncertain as the number of past experiments leaves it, `false_alarms` may
reach it within `horizon` experiments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recspect.adapting.latent import nearest_covariance, to_correlation
from recspect.adapting.surprise import cusum
from recspect.experimenting.experiment import Corpus, Floats

KINDS = ("loose", "turned", "loose from the north star", "turned against the north star")
"""What may have become of a metric."""
SURE = 0.12
"""The simulated past has so many times the experiments that the covariance rests on: the belief is wrong in part, and effects are not normal."""
TAIL = 8.0


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """What was seen of one metric.

    Args:
        metric: Its name.
        sums: Cumulative sum of the worst story after each experiment, shape (experiments,), in nats.
        limit: Sum at which the alarm is given.
        alarm: Place of the experiment at which it was, or None.
        kind: The story that told best, one of `KINDS`.
        before, now: Correlation of its true effects with the north star's, as fitted, and as that story has it.
    """

    metric: str
    sums: Floats
    limit: float
    alarm: int | None
    kind: str
    before: float
    now: float


def stories(latent: Floats, place: int) -> list[Floats]:
    """Covariances of true effects after a change of the metric at `place`, one per entry of `KINDS`."""
    turn = np.ones(len(latent))
    turn[place] = -1.0
    turned = latent * np.outer(turn, turn)
    found = [(latent + turned) / 2, turned]
    for share in (0.0, -1.0):
        entry = latent.copy()
        entry[0, place] = entry[place, 0] = share * latent[0, place]
        found.append(nearest_covariance(entry))
    return found


def watch(corpus: Corpus, latent: Floats, *, past: float, metrics: tuple[int, ...] | None = None, false_alarms: float = 0.03, horizon: int = 20, draws: int = 200,
          seed: int = 0) -> tuple[Suspect, ...]:
    """Every watched metric, the most suspicious first.

    Args:
        corpus: Experiments that the covariance was not fitted on, in order of their end.
        latent: Covariance of true effects, the north star first.
        past: How many experiments, the belief's among them, it rests on.
        metrics: Places of the metrics to watch; by default those whose correlation with the north star is at least 0.1 in size (no alarm can be given about a metric that promises nothing).
        false_alarms: Share of simulated healthy worlds in which any metric may be alarmed within `horizon` experiments. Where beliefs are wrong in part it is more: 9% at 3% in the pilot's world.
        horizon: See `false_alarms`.
        draws: Simulated healthy worlds.
        seed: Of the simulation.
    """
    correlation = to_correlation(latent)[0]
    watched = tuple(place for place in range(1, len(latent)) if abs(correlation[place]) >= 0.1) if metrics is None else metrics
    if not watched or not len(corpus):
        return ()
    told = {place: stories(latent, place) for place in watched}
    limit = _limit(corpus, latent, told, past, false_alarms, horizon, draws, seed)
    effects, noise, measured = corpus.effects, np.nan_to_num(corpus.noise), ~np.isnan(corpus.effects)
    usual = _densities(np.nan_to_num(effects), noise, measured, latent)
    found = []
    for place in watched:
        each = np.array([cusum(_densities(np.nan_to_num(effects), noise, measured, story) - usual) for story in told[place]])
        sums = each.max(0)
        over = np.flatnonzero(sums >= limit)
        best = int(np.argmax(each[:, over[0] if len(over) else -1]))
        now = to_correlation(told[place][best])[0, place]
        found.append(Suspect(metric=corpus.metrics[place], sums=sums, limit=limit, alarm=int(over[0]) if len(over) else None, kind=KINDS[best], before=float(correlation[place]), now=float(now)))
    return tuple(sorted(found, key=lambda suspect: -float(suspect.sums.max())))


def _densities(effects: Floats, noise: Floats, measured: np.ndarray, latent: Floats) -> Floats:
    """Log densities up to a constant of effects (..., experiments, metrics) under latent + noise (experiments, metrics, metrics), what was not measured left out; shape (..., experiments).

    Student's t with `TAIL` degrees of freedom: under a normal density one large experiment outweighs all others, and effects have heavy tails (Azevedo et al. 2020).
    """
    both = measured[:, :, None] & measured[:, None, :]
    total = np.where(both, latent + noise, 0.0) + np.einsum("ej,jk->ejk", (~measured).astype(np.float64), np.eye(latent.shape[0]))
    values, vectors = np.linalg.eigh(total)
    values = np.maximum(values, 1e-12 * values[:, -1:])
    white = np.einsum("...ej,ejk->...ek", np.where(measured, effects, 0.0), vectors) / np.sqrt(values)
    found: Floats = -0.5 * (TAIL + latent.shape[0]) * np.log1p((white**2).sum(-1) / (TAIL - 2)) - 0.5 * np.log(values).sum(-1)
    return found


def _limit(corpus: Corpus, latent: Floats, told: dict[int, list[Floats]], past: float, false_alarms: float, horizon: int, draws: int, seed: int) -> float:
    """The quantile, over healthy worlds, of the largest cumulative sum within the horizon. Experiments of these worlds are as large as those of the corpus."""
    generator = np.random.default_rng(seed)
    width = len(latent)
    picked = generator.integers(0, len(corpus), horizon)
    noise, measured = np.nan_to_num(corpus.noise)[picked], ~np.isnan(corpus.effects)[picked]
    effects = np.empty((draws, horizon, width))
    root = _root(latent)
    noise_roots = np.array([_root(np.where(np.outer(there, there), one, 0.0)) for one, there in zip(noise, measured, strict=True)])
    for draw in range(draws):
        # What the past leaves open: a covariance fitted on so many experiments.
        sample = generator.normal(size=(max(int(past * SURE), width + 1), width)) @ root.T
        true_root = _root(sample.T @ sample / len(sample))
        effects[draw] = generator.normal(size=(horizon, width)) @ true_root.T + np.einsum("ejk,ek->ej", noise_roots, generator.normal(size=(horizon, width)))
    usual = _densities(effects, noise, measured, latent)
    largest = np.zeros(draws)
    for stories_of in told.values():
        for story in stories_of:
            ratios, total = _densities(effects, noise, measured, story) - usual, np.zeros(draws)
            for place in range(horizon):
                total = np.maximum(0.0, total + ratios[:, place])
                largest = np.maximum(largest, total)
    return float(np.quantile(largest, 1 - false_alarms))


def _root(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    found: Floats = vectors * np.sqrt(np.maximum(values, 0.0))
    return found


__all__ = ["KINDS", "Suspect", "stories", "watch"]
