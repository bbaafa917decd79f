"""What an experiment says about the north star, and the threshold that follows from what mistakes cost.

With true effects N(0, L) and observed ones L + X, an observed metric y = w'x tells about the true effect D on the north star: D | y ~ N(b y, v) with b = L_N w / w'(L + X)w and
v = L_NN - b L_N w. Shipping what is not worth it costs c_FP, not shipping what is costs c_FN; the expected cost is least when one ships exactly
if P(D > d) >= c_FP / (c_FP + c_FN), d being the smallest effect that is worth running. That is a bar for the posterior mean: d + z sqrt(v), z the normal quantile of the right side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from recspect.errors import DataError, UsageError
from recspect.experimenting.experiment import Experiment, Floats

NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What decisions cost, in any one unit: only their ratio matters.

    Args:
        false_ship: Shipping what is not worth it.
        missed: Not shipping what is worth it.
        smallest_effect: The effect on the north star below which running the thing is not worth it.
    """

    false_ship: float = 1.0
    missed: float = 1.0
    smallest_effect: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.false_ship) and math.isfinite(self.missed) and self.false_ship > 0 and self.missed > 0):
            raise UsageError(f"a false ship costs {self.false_ship}, a missed one {self.missed}; both must be above 0", hint="only their ratio matters: 3 and 1 asks for 75% certainty")
        if not math.isfinite(self.smallest_effect):
            raise UsageError(f"smallest_effect is {self.smallest_effect}, expected a number")

    @property
    def certainty(self) -> float:
        """The probability of being worth it from which on one ships, in (0, 1)."""
        return self.false_ship / (self.false_ship + self.missed)


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """The true effect on the north star after an experiment.

    Args:
        mean, variance: Of the posterior, in the north star's unit.
        probability: P(true effect > smallest effect), in [0, 1].
        certainty: The probability that is asked for.
        bar: The posterior mean that is asked for.
        observed: The metric w'x.
        z: w'x in standard errors of the noise: what an A/A test sees.
    """

    mean: float
    variance: float
    probability: float
    certainty: float
    bar: float
    observed: float
    z: float

    @property
    def ship(self) -> bool:
        """Whether the probability reaches what is asked for."""
        return self.probability >= self.certainty

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Central interval of the posterior."""
        reach = NORMAL.inv_cdf((1 + level) / 2) * math.sqrt(self.variance)
        return self.mean - reach, self.mean + reach


def slope_and_variance(weights: Floats, latent: Floats, noise: Floats) -> tuple[float, float]:
    """The b and v of the module's text: what one unit of w'x says of the north star, and how much stays unknown."""
    shared, spread = float(latent[0] @ weights), float(weights @ (latent + noise) @ weights)
    if spread <= 0:
        return 0.0, max(float(latent[0, 0]), 0.0)
    slope = shared / spread
    return slope, max(float(latent[0, 0]) - slope * shared, 0.0)


def posterior(experiment: Experiment, weights: Floats, latent: Floats, costs: Costs, *, widened: float = 1.0) -> Posterior:
    """What this experiment says of the north star.

    Args:
        experiment: Its metrics in the order of the weights.
        weights: Shape (metrics,).
        latent: Covariance of true effects, shape (metrics, metrics), the north star first.
        costs: What mistakes cost.
        widened: Factor of the posterior variance, above 1 after an alarm about the metric.

    Raises:
        DataError: The experiment did not measure a metric that carries weight.
    """
    used = np.flatnonzero(weights)
    missing = [experiment.metrics[place] for place in used if not experiment.measured[place]]
    if missing:
        raise DataError(f"experiment {experiment.name!r} did not measure {missing[0]!r}, which carries weight", hint="measure it, or decide with `by_size=True`, which weighs what is there")
    effects, noise = np.nan_to_num(experiment.effects), np.nan_to_num(experiment.noise)
    slope, variance = slope_and_variance(weights, latent, noise)
    observed = float(weights @ effects)
    mean, spread = slope * observed, math.sqrt(max(variance * widened, 1e-300))
    error = math.sqrt(max(float(weights @ noise @ weights), 1e-300))
    return Posterior(mean=mean, variance=spread**2, probability=NORMAL.cdf((mean - costs.smallest_effect) / spread), certainty=costs.certainty,
                     bar=costs.smallest_effect + NORMAL.inv_cdf(costs.certainty) * spread, observed=observed, z=observed / error)


def weights_for(experiment: Experiment, latent: Floats, columns: Floats | tuple[int, ...]) -> Floats:
    """The best weights for the size of this experiment on these columns, those that it measured: (L + X)^-1 L_N."""
    used = np.array([place for place in np.asarray(columns, np.int64) if experiment.measured[place]], np.int64)
    found = np.zeros(len(latent))
    if len(used):
        part = np.ix_(used, used)
        found[used] = np.linalg.lstsq(latent[part] + experiment.noise[part], latent[used, 0], rcond=None)[0]
    return found


__all__ = ["Costs", "Posterior", "posterior", "slope_and_variance", "weights_for"]
