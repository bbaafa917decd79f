"""What a decision rule would have earned on experiments that it was not fitted on, although their true effects are known to nobody.

The rule "ship where w'x >= t" and the observed north star share their noise, so that the mean of the north star over what was shipped flatters every rule that looks at it. Noise of
known covariance X can be split (Gaussian data thinning; Neufeld, Dharamshi, Gao and Witten, JMLR 2024): with h ~ N(0, X), x + c h and x - h / c are independent given the
truth. Deciding on the first, valuing by the second, and averaging over h has a closed form, with s = c sqrt(w'Xw) and a = w'x - t:

    E[value] = (x_N - d) F(a / s) - (X w)_N / s f(a / s),

F and f the normal distribution and density. It is unbiased, for any truth, for the rule at 1 + c^2 times the noise variance. With c^2 = 1/2 that is as if two thirds of the users
had decided and the last third had judged, averaged over all ways to take them. A smaller c is closer to the rule on all users and less sure: what judges has 1 + 1 / c^2 times the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from recspect.adapting.posterior import NORMAL, Costs, slope_and_variance
from recspect.errors import UsageError
from recspect.experimenting.experiment import Corpus, Experiment, Floats

SPLIT = math.sqrt(0.5)
"""The c of the module's text."""
SIGNIFICANT = 1.96
_ROOT = math.sqrt(2 * math.pi)
_cdf = np.vectorize(NORMAL.cdf, otypes=[np.float64])


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A metric and the model that turns it into decisions.

    Args:
        weights: Shape (metrics,); a metric that an experiment did not measure counts as unchanged there.
        latent: Covariance of true effects, shape (metrics, metrics).
        costs: What mistakes cost.
    """

    weights: Floats
    latent: Floats
    costs: Costs = field(default_factory=Costs)

    def bar(self, noise: Floats) -> float:
        """From which w'x on an experiment with this noise is shipped; infinite where the metric says nothing."""
        slope, variance = slope_and_variance(self.weights, self.latent, noise)
        asked = self.costs.smallest_effect + NORMAL.inv_cdf(self.costs.certainty) * math.sqrt(variance)
        return asked / slope if slope > 0 else math.inf


def values(corpus: Corpus, policy: Policy) -> Floats:
    """Unbiased estimate of what the policy earns in each experiment, in the north star's unit above the smallest effect, shape (experiments,).

    NaN where the north star was not measured. An experiment that is not shipped earns 0.
    """
    return np.array([_value(experiment, policy) for experiment in corpus])


def _value(experiment: Experiment, policy: Policy) -> float:
    if not experiment.measured[0]:
        return math.nan
    effects, noise = np.nan_to_num(experiment.effects), np.nan_to_num(experiment.noise)
    spread = SPLIT * math.sqrt(max(float(policy.weights @ noise @ policy.weights), 0.0))
    bar = policy.bar(noise)
    if spread == 0 or math.isinf(bar):
        return 0.0
    at = (float(policy.weights @ effects) - bar) / spread
    density = math.exp(-at * at / 2) / _ROOT
    return (float(effects[0]) - policy.costs.smallest_effect) * NORMAL.cdf(at) - float(noise[0] @ policy.weights) / spread * density


def wrong_signs(corpus: Corpus, policy: Policy, *, draws: int = 64, seed: int = 0) -> tuple[Floats, Floats]:
    """How often each experiment is significant by the metric, and how often it then points the wrong way.

    Of a split of the noise (see the module), the first part says whether the metric is significant and in which direction, the second, whose noise is independent, how likely the
    north star's true effect has the other sign.

    Returns:
        Chance of being significant, and of being significant and wrong, both of shape (experiments,); NaN where the north star was not measured.
    """
    generator = np.random.default_rng(seed)
    significant, wrong = np.full(len(corpus), np.nan), np.full(len(corpus), np.nan)
    for place, experiment in enumerate(corpus):
        if not experiment.measured[0]:
            continue
        effects, noise = np.nan_to_num(experiment.effects), np.nan_to_num(experiment.noise)
        error = math.sqrt(max(float(policy.weights @ noise @ policy.weights), 0.0))
        normal = generator.normal(size=(draws, 2))  # drawn always, so that two policies meet the same noise
        if error == 0:
            significant[place] = wrong[place] = 0.0
            continue
        # The pair (w'h, h_N) from two standard normals, the north star's noise first.
        north = math.sqrt(float(noise[0, 0]))
        shared = float(noise[0] @ policy.weights) / north
        own = math.sqrt(max(error**2 - shared**2, 0.0))
        of_north, of_metric = normal[:, 0] * north, normal[:, 0] * shared + normal[:, 1] * own
        z = (float(policy.weights @ effects) + SPLIT * of_metric) / (error * math.sqrt(1 + SPLIT**2))
        seen, variance = effects[0] - of_north / SPLIT, north**2 * (1 + 1 / SPLIT**2)
        power = max(float(policy.latent[0, 0]), 1e-300)
        negative = _cdf(-seen * math.sqrt(power / (variance * (power + variance))))  # P(true effect < 0 | this part)
        chosen = np.abs(z) > SIGNIFICANT
        significant[place] = chosen.mean()
        wrong[place] = (chosen * np.where(z > 0, negative, 1 - negative)).mean()
    return significant, wrong


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A new policy against the current one on experiments left out of the fit of the new.

    Args:
        gain: Mean difference of what they earn per experiment, in the north star's unit.
        low, high: One-sided bounds of it at `level` each.
        level: Coverage of each bound.
        value_new, value_current: What each earns per experiment.
        wrong_new, wrong_current: Share of significant experiments in which each points the wrong way, judged by the north star's own part of the noise: drawn towards 1/2 where
            that is large, for both alike.
        wrong_low: One-sided lower bound of their difference, new less current.
        experiments, families: How many it rests on.
    """

    gain: float
    low: float
    high: float
    level: float
    value_new: float
    value_current: float
    wrong_new: float
    wrong_current: float
    wrong_low: float
    experiments: int
    families: int


def compare(corpus: Corpus, fit: Callable[[Corpus], Policy], current: Policy, *, parts: int = 10, level: float = 0.9) -> Comparison:
    """Leave out families in turn, fit on the rest, and compare with the current policy on what was left out.

    Experiments count by what their north star tells (inverse of its variance, latent and noise), equally for both.

    Args:
        corpus: Experiments whose north star is final; those without one are fitted on and not compared on.
        fit: From experiments to a policy.
        current: What is in use; it may have seen some of these experiments, which only favours it.
        parts: Into how many parts families are dealt.
        level: Of each one-sided bound.

    Raises:
        UsageError: Fewer than two families with a north star.
    """
    with_north = np.array([experiment.measured[0] for experiment in corpus], bool)
    families = np.unique(corpus.groups[with_north]) if len(corpus) else np.zeros(0, np.int64)
    if len(families) < 2:
        raise UsageError(f"{len(families)} family of experiments with a north star cannot be left out", hint="give experiments of at least two families")
    part = corpus.groups % min(parts, int(corpus.groups.max()) + 1)
    new, old, sure, sure_wrong, now, now_wrong = (np.full(len(corpus), np.nan) for _ in range(6))
    for left in np.unique(part):
        places = np.flatnonzero(part == left)
        held, policy = corpus.take(places), fit(corpus.take(np.flatnonzero(part != left)))
        policy = replace(policy, costs=current.costs)
        new[places], old[places] = values(held, policy), values(held, current)
        sure[places], sure_wrong[places] = wrong_signs(held, policy, seed=int(left))
        now[places], now_wrong[places] = wrong_signs(held, current, seed=int(left))
    there = ~np.isnan(new)
    precision = 1 / np.array([current.latent[0, 0] + experiment.noise[0, 0] for experiment in corpus])[there]
    gain, error = clustered_mean((new - old)[there], precision, corpus.groups[there])
    reach = NORMAL.inv_cdf(level) * error
    wrong_new, wrong_current = _share(sure_wrong[there], sure[there]), _share(now_wrong[there], now[there])
    # A share is a ratio of sums: its error is that of the mean of (part - share * whole) / mean(whole).
    off = _off(sure_wrong[there], sure[there], wrong_new) - _off(now_wrong[there], now[there], wrong_current)
    wrong_error = clustered_mean(off, np.ones(len(off)), corpus.groups[there])[1]
    return Comparison(
        gain=gain, low=gain - reach, high=gain + reach, level=level, value_new=float(np.average(new[there], weights=precision)),
        value_current=float(np.average(old[there], weights=precision)), wrong_new=wrong_new, wrong_current=wrong_current,
        wrong_low=wrong_new - wrong_current - NORMAL.inv_cdf(level) * wrong_error, experiments=int(there.sum()), families=len(families))


def clustered_mean(x: Floats, weights: Floats, groups: Sequence[int] | np.ndarray) -> tuple[float, float]:
    """Weighted mean and its standard error when what belongs to one group goes together (sandwich, corrected for few groups)."""
    mean = float(np.average(x, weights=weights))
    _, group = np.unique(groups, return_inverse=True)
    totals = np.bincount(group, weights=weights * (x - mean))
    count = len(totals)
    correction = count / (count - 1) if count > 1 else math.inf
    return mean, math.sqrt(correction * float((totals**2).sum())) / float(weights.sum())


def _share(part: Floats, whole: Floats) -> float:
    return float(part.sum() / whole.sum()) if whole.sum() > 0 else 0.0


def _off(part: Floats, whole: Floats, share: float) -> Floats:
    mean = float(whole.mean())
    return (part - share * whole) / mean if mean > 0 else np.zeros(len(part))


__all__ = ["SIGNIFICANT", "Comparison", "Policy", "clustered_mean", "compare", "values", "wrong_signs"]
