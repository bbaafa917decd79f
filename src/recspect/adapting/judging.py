"""One experiment under the metric in use: ship or hold, with every reason and number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recspect.adapting.fitting import kept_apart
from recspect.adapting.history import Release
from recspect.adapting.metric_file import MetricFile
from recspect.adapting.posterior import NORMAL, Posterior, posterior, weights_for
from recspect.errors import DataError
from recspect.experimenting.experiment import Experiment

GUARDRAIL_ALPHA = 0.05
"""One-sided, per guardrail and not corrected: all of them have to hold (Schultzberg, Ankargren and Frånberg 2024)."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What is to be done.

    Args:
        experiment: Its name.
        ship: Whether the posterior reaches the bar and every guardrail holds.
        posterior: Of the true effect on the north star.
        by: `metric`, `weights for its size` where the file asks for them, `north star alone` for an experiment kept apart, `measured metrics` where one with weight is missing.
        reasons: A sentence per condition, each with its number; the failed ones begin with "no: ".
    """

    experiment: str
    ship: bool
    posterior: Posterior
    by: str
    reasons: tuple[str, ...]


def judge(experiment: Experiment, release: Release, file: MetricFile, *, widened: float = 1.0, fallback: bool = False) -> Judgement:
    """Ship or hold.

    Args:
        experiment: With the metrics of the release.
        release: What is in use.
        file: For guardrails and the share kept apart.
        widened: Factor of the posterior variance, after an alarm.
        fallback: Decide by the north star alone.
    """
    apart = kept_apart(experiment, file.decision.apart)
    weights, by = release.weights, "metric"
    if (apart or fallback) and experiment.measured[0]:
        weights, by = np.eye(len(weights))[0], "north star alone"
    elif file.decision.by_size or not experiment.measured[weights != 0].all():
        by = "weights for its size" if experiment.measured[weights != 0].all() else "measured metrics"
        weights = weights_for(experiment, release.latent, tuple(np.flatnonzero(weights).tolist()))
        if not weights.any():
            raise DataError(f"experiment {experiment.name!r} measured no metric that carries weight", hint="measure one, or fit a metric of what is measured")
    found = posterior(experiment, weights, release.latent, release.costs, widened=widened)
    low, high = found.interval()
    text = (f"the effect on {release.metrics[0]} is {found.mean:+.4g} ({low:+.4g} to {high:+.4g}), above {release.costs.smallest_effect:g} with probability {found.probability:.1%}; "
            f"{found.certainty:.1%} is asked for")
    conditions = [(found.ship, text), *guardrails(experiment, file)]
    return Judgement(experiment=experiment.name, ship=all(fits for fits, _ in conditions), posterior=found, by=by, reasons=tuple(told if fits else f"no: {told}" for fits, told in conditions))


def guardrails(experiment: Experiment, file: MetricFile) -> list[tuple[bool, str]]:
    """For every metric with a margin, whether it is surely not worse than that, and the numbers."""
    found = []
    places = {name: place for place, name in enumerate(experiment.metrics)}
    for metric in file.metrics:
        if metric.margin is None:
            continue
        place = places[metric.name]
        if not experiment.measured[place]:
            found.append((False, f"guardrail {metric.name} was not measured"))
            continue
        sign = metric.sign or 1
        worst = sign * float(experiment.effects[place]) - NORMAL.inv_cdf(1 - GUARDRAIL_ALPHA) * math.sqrt(float(experiment.noise[place, place]))
        found.append((worst > -metric.margin, f"guardrail {metric.name} changed by {experiment.effects[place]:+.4g}; it is worse by less than {max(0.0, -worst):.4g} with 95% certainty, {metric.margin:g} is tolerated"))
    return found


def table(judgements: Sequence[Judgement]) -> list[dict[str, object]]:
    """Plain rows, for JSON."""
    return [{"experiment": one.experiment, "ship": one.ship, "by": one.by, "probability": round(one.posterior.probability, 6), "certainty": round(one.posterior.certainty, 6),
             "mean": one.posterior.mean, "low": one.posterior.interval()[0], "high": one.posterior.interval()[1], "bar": one.posterior.bar, "z": one.posterior.z, "reasons": list(one.reasons)}
            for one in judgements]


__all__ = ["Judgement", "guardrails", "judge", "table"]
