"""How true effects vary together over experiments: the covariance of effects without the sampling noise.

The covariance of observed effects is that of true effects plus the noise, and stays wrong however many experiments there are (Bibaut, Chou, Ejdemyr and Kallus, "Learning
the covariance of treatment effects across many weak experiments", KDD 2024). The noise of each experiment is known, so it can be taken away. Three ways: `moments` subtracts
it, `halves` multiplies the effects on two halves of the users, whose noise is independent, and `likelihood` finds the most likely covariance (posterior mode), which
weighs experiments by how much they tell and never leaves the covariance matrices. Effects count from 0, not from their mean: the sign of an experiment is arbitrary
only in A/A tests, and shipping decisions are about zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.errors import DataError, UsageError
from recspect.experimenting.experiment import Corpus, Floats

METHODS = ("likelihood", "moments", "halves")
LEAST_RELIABILITY = 0.08
"""A product of two effects is taken to be at least so reliable: with few experiments its estimate may come out at nothing, and the belief would be worth nothing."""
LEAST_VARIANCE = 0.02
"""A latent variance is taken to be at least so many times the usual noise variance: a metric that never moved yet may move."""
ROUNDS = 200
CLOSE = 1e-4


@dataclass(frozen=True)
class Prior:
    """What is believed before any experiment.

    Args:
        correlation: Believed correlation of true effects, shape (metrics, metrics), a correlation matrix; the north star first.
        experiments: How many experiments of usual size the belief is worth, 0 or more.
        variance: Believed variance of true effects per metric, shape (metrics,); NaN where only the data say.
    """

    correlation: Floats
    experiments: float = 40.0
    variance: Floats | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.experiments) and self.experiments >= 0):
            raise UsageError(f"a prior worth {self.experiments} experiments, expected 0 or more")
        if np.abs(np.diag(self.correlation) - 1).max() > 1e-9 or np.linalg.eigvalsh(self.correlation)[0] < -1e-9:
            raise UsageError("the believed correlations are no correlation matrix", hint="Prior.of_beliefs makes one of each metric's correlation with the north star")

    @classmethod
    def of_beliefs(cls, beliefs: Floats | tuple[float, ...], *, experiments: float = 40.0, variance: Floats | None = None) -> Prior:
        """A prior of each short-term metric's believed correlation r_j with the north star: corr(N, j) = r_j, corr(j, k) = r_j r_k.

        Raises:
            UsageError: A correlation outside (-1, 1).
        """
        r = np.asarray(beliefs, np.float64)
        if not (np.abs(r) < 1).all():
            raise UsageError(f"believed correlations {r.tolist()}, each must lie between -1 and 1, without the ends", hint="0.9 is a strong belief")
        loading = np.concatenate([[1.0], r])
        matrix = np.outer(loading, loading)
        np.fill_diagonal(matrix, 1.0)
        return cls(matrix, experiments, variance)


@dataclass(frozen=True)
class Latent:
    """Covariance of true effects.

    Args:
        covariance: Shape (metrics, metrics), positive semi-definite; the north star first.
        experiments: How many experiments it rests on, weighted.
        prior: How many the belief counted for.
        method: One of `METHODS`, or `prior` where there were no experiments.
    """

    covariance: Floats
    experiments: float
    prior: float
    method: str

    @property
    def correlation(self) -> Floats:
        """Shape (metrics, metrics)."""
        return to_correlation(self.covariance)


def to_correlation(covariance: Floats) -> Floats:
    """Correlations; 0 beside a metric without variance."""
    scale = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    divisor = np.outer(scale, scale)
    found: Floats = np.divide(covariance, divisor, out=np.zeros_like(covariance), where=divisor > 0)
    np.fill_diagonal(found, 1.0)
    return found


def usual_noise(corpus: Corpus) -> Floats:
    """Noise covariance of an experiment of median size: median standard errors, mean correlation; shape (metrics, metrics).

    A metric that no experiment measured has variance 1 and no correlations: its unit is not known, and nothing may be weighed by it.
    """
    spread = np.sqrt(np.einsum("ejj->ej", corpus.noise))
    unknown = np.isnan(spread).all(0)
    scaled = corpus.noise / (spread[:, :, None] * spread[:, None, :])
    counts = (~np.isnan(scaled)).sum(0)
    correlation = np.where(counts > 0, np.nansum(scaled, 0) / np.maximum(counts, 1), 0.0)
    np.fill_diagonal(correlation, 1.0)
    error = np.nanmedian(np.where(unknown, 1.0, spread), 0)
    return nearest_covariance(correlation) * np.outer(error, error)


def nearest_covariance(matrix: Floats) -> Floats:
    """The nearest positive semi-definite matrix in Frobenius norm: negative eigenvalues become 0 (Higham 1988)."""
    symmetric = (matrix + matrix.T) / 2
    values, vectors = np.linalg.eigh(symmetric)
    if values[0] >= 0:
        return symmetric
    found: Floats = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return found


def fit_latent(corpus: Corpus, prior: Prior, *, method: str = "likelihood", weights: Floats | None = None, start: Floats | None = None,
               close: float = CLOSE) -> Latent:
    """The covariance of true effects, shrunk towards the prior as if that were `prior.experiments` experiments more.

    With S from the experiments and S0 the prior (believed correlations, variances of the data or the believed ones): (n0 S0 + M S) / (n0 + M), entry by entry with the M
    experiments that measured both metrics, projected on the covariance matrices (`moments`, `halves`); or the mode of the posterior with an inverse-Wishart prior of that
    weight, by expectation maximisation (`likelihood`). There true effects are counted, and one whose truth is known tells more than one that was measured with noise: the prior
    counts for n0 times the mean reliability of a product of effects, l_N l_j / ((l_N + x_N) (l_j + x_j)) with l and x the variances of true effects and of noise.

    Args:
        corpus: Experiments; the north star is the first metric. Missing effects are taken as missing, not as 0.
        prior: What is believed.
        method: See the module.
        weights: How much each experiment counts, shape (experiments,); for forgetting.
        start: Where expectation maximisation begins; for bootstraps.
        close: Largest change of an entry, relative to the largest entry, at which it ends.

    Raises:
        UsageError: An unknown method.
        DataError: No experiment and no believed variances; `halves` without halves.
    """
    if method not in METHODS:
        raise UsageError(f"method is {method!r}", hint=f"methods: {', '.join(METHODS)}")
    counted = np.ones(len(corpus)) if weights is None else np.asarray(weights, np.float64)
    if not len(corpus):
        if prior.variance is None or np.isnan(prior.variance).any():
            raise DataError("there are no experiments, and the typical size of true effects was not given for every metric",
                            hint="give typical_effect for each metric, or past experiments")
        scale = np.sqrt(prior.variance)
        return Latent(prior.correlation * np.outer(scale, scale), 0.0, prior.experiments, "prior")
    if prior.correlation.shape[0] != len(corpus.metrics):
        raise UsageError(f"the prior is about {prior.correlation.shape[0]} metrics, the experiments about {len(corpus.metrics)}")
    unit = np.sqrt(np.diag(usual_noise(corpus)))  # everything is computed in standard errors, where metrics are alike in size
    effects, noise = corpus.effects / unit, corpus.noise / np.outer(unit, unit)
    products, pairs = _products(corpus, effects, noise, unit, counted, method)
    believed = _believed(prior, unit, products, pairs)
    if method == "likelihood":
        found = _most_likely(effects, noise, counted, believed, prior.experiments * _reliability(np.diag(believed)), None if start is None else start / np.outer(unit, unit), close)
    else:
        total = prior.experiments + pairs
        found = nearest_covariance(np.where(total > 0, (prior.experiments * believed + pairs * products) / np.where(total > 0, total, 1.0), believed))
    return Latent(found * np.outer(unit, unit), float(counted.sum()), prior.experiments, method)


def _products(corpus: Corpus, effects: Floats, noise: Floats, unit: Floats, counted: Floats, method: str) -> tuple[Floats, Floats]:
    """Mean products of effects without the noise, and the weight of experiments behind each, both of shape (metrics, metrics)."""
    if method == "halves":
        if any(experiment.halves is None for experiment in corpus):
            raise DataError("method 'halves' needs the effects on two halves of the users of every experiment", hint="compute effects from users, or take 'likelihood'")
        halves = np.array([experiment.halves for experiment in corpus]) / unit
        one = halves[:, 0, :, None] * halves[:, 1, None, :]
        each = (one + one.transpose(0, 2, 1)) / 2
    else:
        each = effects[:, :, None] * effects[:, None, :] - noise
    there = ~np.isnan(each)
    pairs = (there * counted[:, None, None]).sum(0)
    total = (np.where(there, each, 0.0) * counted[:, None, None]).sum(0)
    return np.divide(total, pairs, out=np.zeros_like(total), where=pairs > 0), pairs


def _believed(prior: Prior, unit: Floats, products: Floats, pairs: Floats) -> Floats:
    """The prior covariance: believed correlations, and variances of the data, believed ones where given (as much worth as the prior)."""
    found = np.maximum(np.diag(products), LEAST_VARIANCE)
    if prior.variance is not None:
        given = prior.variance / unit**2
        known, weight = ~np.isnan(given), prior.experiments
        total = weight + np.diag(pairs)
        found = np.where(known & (total > 0), (weight * np.where(known, given, 0.0) + np.diag(pairs) * found) / np.where(total > 0, total, 1.0), found)
    scale = np.sqrt(found)
    return prior.correlation * np.outer(scale, scale)


def _reliability(variance: Floats) -> float:
    """How much less a noisy experiment tells of a covariance with the north star than one whose truth is known; variances in those of the usual noise."""
    share = variance / (1 + variance)
    return float(np.clip(share[0] * share[1:].mean() if len(share) > 1 else share[0], LEAST_RELIABILITY, 1.0))


def _most_likely(effects: Floats, noise: Floats, counted: Floats, believed: Floats, prior: float, start: Floats | None, close: float) -> Floats:
    """Expectation maximisation: S becomes the mean of E[true true'] over the experiments and the prior ones."""
    gains = _posterior(effects, noise)
    found, total = believed if start is None else start, prior + counted.sum()
    for _ in range(ROUNDS):
        second = gains(found)
        new = (prior * believed + np.einsum("e,ejk->jk", counted, second)) / total
        change = np.abs(new - found).max() / max(float(np.abs(new).max()), 1e-12)
        found = (new + new.T) / 2
        if change < close:
            break
    return found


def _posterior(effects: Floats, noise: Floats) -> Callable[[Floats], Floats]:
    """A function from a latent covariance to E[true true' | observed] per experiment, shape (experiments, metrics, metrics)."""
    missing = np.isnan(effects)
    observed = np.where(missing, 0.0, effects)
    # A metric that was not measured is one whose noise has no bounds: its row and column of the gain are 0.
    mask = (~missing).astype(np.float64)
    both = mask[:, :, None] * mask[:, None, :]
    clean = np.where(both > 0, np.nan_to_num(noise), 0.0)
    filling = np.einsum("ej,jk->ejk", missing.astype(np.float64), np.eye(effects.shape[1]))

    def second_moment(latent: Floats) -> Floats:
        total = both * latent + clean + filling
        reach = latent[None] * mask[:, None, :]  # covariance of true effects with what was measured
        gain = np.linalg.solve(total, reach.transpose(0, 2, 1)).transpose(0, 2, 1)
        mean = np.einsum("ejk,ek->ej", gain, observed)
        spread = latent[None] - np.einsum("ejk,elk->ejl", gain, reach)
        return mean[:, :, None] * mean[:, None, :] + spread

    return second_moment


def log_likelihood(corpus: Corpus, latent: Floats, *, without: int | None = None) -> Floats:
    """Log density of each experiment's observed effects (but for the metric `without`) when true effects have this covariance, shape (experiments,)."""
    used = np.arange(latent.shape[0]) != (-1 if without is None else without)
    return np.array([_log_density(experiment.effects, latent + experiment.noise, experiment.measured & used) for experiment in corpus])


def _log_density(effects: Floats, total: Floats, measured: NDArray[np.bool_]) -> float:
    part, x = total[np.ix_(measured, measured)], effects[measured]
    root = np.linalg.cholesky(part)
    white = np.linalg.solve(root, x)
    return float(-0.5 * (white @ white) - np.log(np.diag(root)).sum() - 0.5 * len(x) * np.log(2 * np.pi))


def prior_weight(corpus: Corpus, prior: Prior, *, grid: tuple[float, ...] = (10.0, 20.0, 40.0, 80.0, 160.0), method: str = "likelihood", parts: int = 10) -> float:
    """How many experiments the belief should be worth: the weight of the grid under which the north stars of families left out are most likely, given their other metrics.

    The likelihood of all metrics would be about how the short-term metrics go together, of which there is plenty to see, and hardly about the north star.

    Args:
        corpus: Experiments; families are dealt to `parts` parts, each left out once.
        prior: Its correlations and variances; its weight is what is looked for.
        grid: Weights to try.
        method: As in `fit_latent`.
        parts: How many parts.
    """
    part = corpus.groups % max(2, min(parts, int(corpus.groups.max()) + 1)) if len(corpus) else np.zeros(0, np.int64)
    if len(np.unique(part)) < 2:
        return prior.experiments
    scores = []
    for weight in grid:
        tried, score = Prior(prior.correlation, weight, prior.variance), 0.0
        for left in np.unique(part):
            fitted = fit_latent(corpus.take(np.flatnonzero(part != left)), tried, method=method)
            held = corpus.take(np.flatnonzero(part == left))
            score += float((log_likelihood(held, fitted.covariance) - log_likelihood(held, fitted.covariance, without=0)).sum())
        scores.append(score)
    return grid[int(np.argmax(scores))]


__all__ = ["METHODS", "Latent", "Prior", "fit_latent", "log_likelihood", "nearest_covariance", "prior_weight", "to_correlation", "usual_noise"]
