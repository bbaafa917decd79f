"""Offline against online: how well each offline metric foretold what past launches did.

Every launch is a model against the one before it: the difference of each offline metric, the effect of the experiment, and the sampling variances of both. Both are noisy, so that
the plain correlation is too near to 0, and too far from it where offline and online noise are taken for signal; the covariance of the true differences is fitted with the known noise
(errors in variables). Kendall's tau tells how often pairs of launches are ordered alike. The gain of choosing by a metric is
taken over pairs of launches: what the one with the better metric earned more than a random one of both; that is unbiased, as the choice does not look at the online result. The regret
is what the truly better one of both would have earned beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recspect.adapting.latent import Prior, fit_latent
from recspect.diagnosis.diagnostics.policy import number
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import RankedTable, Scatter
from recspect.diagnosis.finding import Finding, Place, Report, Verdict
from recspect.diagnosis.source import read, require_columns
from recspect.errors import DataError, Unavailable, UsageError
from recspect.experimenting.experiment import Corpus, Experiment, Floats

CODES: Mapping[str, str] = {"effects.offline_metric": "Did this offline metric foretell what launches did online?"}
FEWEST = 8
"""Fewer launches say nothing about a correlation."""
SOURCES = ("Kendall 1938 (tau)", "Bernardi, Mavridis and Estevez 2019, 150 Successful Machine Learning Models (offline gains that were none online)", "Bibaut et al. 2024 (correlated noise biases effect covariances)")


@dataclass(frozen=True, kw_only=True)
class Foresight:
    """What an offline metric foretold.

    Args:
        metric: Which.
        correlation: Of true offline and true online differences.
        plain: Correlation as observed.
        tau: Kendall's, with ties counted half (tau b).
        same_sign: Share of launches whose online effect has the sign that the metric promised.
        gain: Online gain of choosing the one with the better metric of two launches, over a random one, in the online unit.
        regret: What the truly better one of both would have earned beyond it.
        slope: Online effect per unit of true offline difference.
    """

    metric: str
    correlation: Estimate
    plain: float
    tau: Estimate
    same_sign: float
    gain: Estimate
    regret: float
    slope: float


def read_launches(data: Any, *, online: str, offline: Sequence[str], lower: Sequence[str] = ()) -> Corpus:
    """Launches of a table, a row each: columns of the online effect and of offline differences to the model before, each with NAME_variance beside it where its noise is known.

    Args:
        data: Anything that `read` takes.
        online: Column of the online effect; its variance is needed.
        offline: Columns of offline differences; without a variance they count as exact.
        lower: Offline metrics of which less is better; their sign is turned.

    Raises:
        DataError: Columns that are missing, or numbers that cannot be.
        UsageError: No offline metric.
    """
    if not offline or not set(lower) <= set(offline):
        raise UsageError("no offline metric was named" if not offline else "less is said to be better of a metric that is not compared", hint="--offline COLUMN (repeatable)")
    source = read(data)
    require_columns(source, [online, f"{online}_variance", *offline])
    names = (online, *offline)
    spreads = [name for name in names if f"{name}_variance" in source.columns]
    launches = []
    for batch in source.batches((*names, *(f"{name}_variance" for name in spreads))):
        values = np.column_stack([batch.numbers(name) * (-1 if name in lower else 1) for name in names])
        noise = np.column_stack([batch.numbers(f"{name}_variance") if name in spreads else np.full(batch.rows, np.nan) for name in names])
        for row in range(batch.rows):
            if not np.isfinite(values[row]).all() or any(not noise[row, names.index(name)] > 0 for name in spreads):
                raise DataError(f"launch {len(launches):,} lacks a number, or has a variance that is not above 0", hint="an effect with its squared standard error, and a difference of every offline metric")
            launches.append((values[row], noise[row]))
    if not launches:
        raise DataError(f"{source.name} has no rows", hint="a row per launch")
    table = np.array([values for values, _ in launches])
    exact = np.maximum(table.var(0) * 1e-9, 1e-30)  # a covariance needs a diagonal above 0
    return Corpus(tuple(Experiment(name=f"launch {place}", metrics=names, effects=values, noise=np.diag(np.where(np.isnan(noise), exact, noise))) for place, (values, noise) in enumerate(launches)))


def foresight(launches: Corpus, *, draws: int = 200, level: float = 0.9, seed: int = 0) -> tuple[Foresight, ...]:
    """How well each offline metric foretold the first metric, best first. Intervals draw launches again.

    Raises:
        Unavailable: Fewer than eight launches.
    """
    if len(launches) < FEWEST:
        raise Unavailable(f"only {len(launches)} launches; {FEWEST} are needed", hint="add past launches")
    effects = launches.effects
    whole = _latent(launches, None)
    generator = np.random.default_rng(seed)
    times = [np.bincount(generator.integers(0, len(launches), len(launches)), minlength=len(launches)).astype(np.float64) for _ in range(draws)]
    drawn = [_latent(launches, counted, start=whole) for counted in times]
    power = math.sqrt(max(whole[0, 0], 0.0) / math.pi)  # what the better one of two earns more than a random one, for normal true effects

    def estimate(value: float, values: Sequence[float], unit: str) -> Estimate:
        kept = [one for one in values if math.isfinite(one)]
        low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2]) if len(kept) >= draws / 2 else (math.nan, math.nan)
        return Estimate(value=value, low=float(min(low, value)), high=float(max(high, value)), unit=unit, n=len(launches), of="launches", level=level)

    found = []
    for place, name in enumerate(launches.metrics[1:], start=1):
        x, y = effects[:, place], effects[:, 0]
        over_draws: Callable[[Callable[[Floats], float]], list[float]] = lambda value: [value(counted) for counted in times]  # noqa: E731 - a short name for a short thing
        correlation = estimate(_correlation(whole, place), [_correlation(one, place) for one in drawn], "correlation of true differences")
        ones = np.ones(len(launches))
        tau, gain = _tau(x, y, ones), _gain(x, y, ones)
        found.append(Foresight(
            metric=name, correlation=correlation, plain=float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else 0.0,
            tau=estimate(tau, over_draws(lambda counted, x=x, y=y: _tau(x, y, counted)), "Kendall tau"), same_sign=float((np.sign(x) == np.sign(y)).mean()),  # type: ignore[misc]
            gain=estimate(gain, over_draws(lambda counted, x=x, y=y: _gain(x, y, counted)), f"{launches.metrics[0]} over a random choice of two"),  # type: ignore[misc]
            regret=max(power - gain, 0.0), slope=float(whole[0, place] / whole[place, place]) if whole[place, place] > 0 else 0.0))
    return tuple(sorted(found, key=lambda one: (-one.gain.value, one.metric)))


def _latent(launches: Corpus, counted: Floats | None, start: Floats | None = None) -> Floats:
    return fit_latent(launches, Prior.of_beliefs((0.0,) * (len(launches.metrics) - 1), experiments=0.0), weights=counted, start=start).covariance


def _correlation(covariance: Floats, place: int) -> float:
    scale = math.sqrt(max(float(covariance[0, 0] * covariance[place, place]), 0.0))
    return float(covariance[0, place]) / scale if scale else 0.0


def _tau(x: Floats, y: Floats, counted: Floats) -> float:
    """Kendall's tau b, pairs counted by the product of weights (a launch drawn twice is tied with itself)."""
    weight = np.outer(counted, counted)
    one, other = np.sign(np.subtract.outer(x, x)), np.sign(np.subtract.outer(y, y))
    scale = math.sqrt(float((weight * one**2).sum()) * float((weight * other**2).sum()))
    return float((weight * one * other).sum()) / scale if scale else 0.0


def _gain(x: Floats, y: Floats, counted: Floats) -> float:
    """Mean over pairs of what the one with the larger x earned beyond their mean."""
    weight = np.outer(counted, counted)
    np.fill_diagonal(weight, 0.0)
    total = float(weight.sum())
    return float((weight * np.sign(np.subtract.outer(x, x)) * np.subtract.outer(y, y)).sum()) / (2 * total) if total else 0.0


def report(found: Sequence[Foresight], launches: Corpus, *, title: str = "", provenance: Mapping[str, Any] | None = None) -> Report:
    """One finding per offline metric: PASS where it surely foretold, FAIL where it surely foretold the opposite."""
    online = launches.metrics[0]
    findings = []
    for one in found:
        good, bad = one.correlation.surely_above(0.0), one.correlation.surely_below(0.0)
        place = launches.metrics.index(one.metric)
        findings.append(Finding(
            code="effects.offline_metric", verdict=Verdict.PASS if good else Verdict.FAIL if bad else Verdict.UNKNOWN, place=Place(kind="metric", name=one.metric), estimate=one.correlation, limit=0.0,
            claim=f"{one.metric} {'foretold' if good else 'foretold the opposite of' if bad else 'is not known to foretell'} {online}: true differences are correlated by {_range(one.correlation)} (observed {one.plain:.2f}), Kendall's tau "
                  f"{_range(one.tau)}, the same sign in {one.same_sign:.0%} of {one.correlation.n} launches; choosing by it gains {number(one.gain.value)} ({number(one.gain.low or 0.0)} to {number(one.gain.high or 0.0)}) "
                  f"over a random choice of two, and {number(one.regret)} remain to the better one.",
            threshold="PASS when the 90% interval of the correlation is above 0, FAIL when it is below" if good or bad else "more launches, or larger experiments, would tell", sources=SOURCES,
            meaning="Models that look better offline do worse online: do not choose by it." if bad else "",
            evidence=(Scatter(title=f"Did {one.metric} foretell {online}?", x_title=f"difference of {one.metric}", y_title=online, x=tuple(launches.effects[:, place].tolist()), y=tuple(launches.effects[:, 0].tolist()),
                              caption=f"{len(launches)} launches; both with noise"),)))
    rows = tuple((one.metric, one.correlation.value, one.correlation.low, one.correlation.high, one.plain, one.tau.value, one.same_sign, one.gain.value, one.regret, one.slope) for one in found)
    table = RankedTable(title="Which offline metric foretells launches?", columns=("metric", "correlation", "from", "to", "observed", "tau", "same sign", "gain", "regret", "slope"), rows=rows, stage="effects",
                        caption=f"{len(launches)} launches; 90% intervals from drawing launches again")
    return Report(findings=tuple(findings), overview=(table,), title=title or "offline metrics against launches", provenance=dict(provenance or {}))


def _range(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


__all__ = ["CODES", "FEWEST", "Foresight", "foresight", "read_launches", "report"]
