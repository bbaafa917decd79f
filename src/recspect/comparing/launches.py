"""Offline against online: how well each offline metric foretold what past launches did, from a table of launches to a report.

Every launch is a model against the one before it: the difference of each offline metric, the effect of the experiment, and the sampling variances of both. The figures are those of
`recspect.adapting.foretelling`, without any belief. Beside them stands the gain of choosing by a metric, over pairs of launches: what the one with the better metric earned more than a
random one of both. It is unbiased, as the choice does not look at the online result; the regret is not, as the best of several noisy results is partly luck.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recspect.adapting.foretelling import Foretold, foretold
from recspect.adapting.latent import Prior
from recspect.adapting.likelihood_interval import correlation_interval
from recspect.diagnosis.diagnostics.policy import number
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import RankedTable, Scatter
from recspect.diagnosis.finding import Finding, Place, Report, Verdict
from recspect.diagnosis.source import read, require_columns
from recspect.errors import DataError, UsageError
from recspect.experimenting.experiment import Corpus, Experiment, Floats

CODES: Mapping[str, str] = {"effects.offline_metric": "Did this offline metric foretell what launches did online?"}
SOURCES = ("Kendall 1938 (tau)", "Bernardi, Mavridis and Estevez 2019, 150 Successful Machine Learning Models (offline gains that were none online)", "Bibaut et al. 2024 (correlated noise biases effect covariances)")


@dataclass(frozen=True, kw_only=True)
class Foresight:
    """What an offline metric foretold.

    Args:
        told: Correlations, signs, tau and regret.
        correlation: Of true offline and true online differences, with its interval.
        gain: Online gain of choosing the one with the better metric of two launches, over a random one, in the online unit.
    """

    told: Foretold
    correlation: Estimate
    gain: Estimate

    @property
    def metric(self) -> str:
        """Which metric."""
        return self.told.metric


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
    launches: list[tuple[Floats, Floats]] = []
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
    """How well each offline metric foretold the first metric, largest gain first. Intervals of correlations are those of the likelihood, of gains from drawing launches again.

    Raises:
        DataError: Fewer than ten launches.
    """
    effects, online = launches.effects, launches.metrics[0]
    generator = np.random.default_rng(seed)
    times = [np.bincount(generator.integers(0, len(launches), len(launches)), minlength=len(launches)).astype(np.float64) for _ in range(draws)]
    found = []
    for told in foretold(launches, Prior.of_beliefs((0.0,) * (len(launches.metrics) - 1), experiments=0.0), draws=0, level=level, choices=2, seed=seed):
        place = launches.metrics.index(told.metric)
        ends = correlation_interval(effects[:, [0, place]], launches.noise[:, [0, place]][:, :, [0, place]], level=level)
        told = replace(told, low=min(ends[0], told.latent), high=max(ends[1], told.latent))  # noqa: PLW2901 - the same with the interval of the likelihood
        x, y = effects[:, place], effects[:, 0]
        value = _gain(x, y, np.ones(len(launches)))
        low, high = np.quantile([_gain(x, y, counted) for counted in times], [(1 - level) / 2, (1 + level) / 2])
        found.append(Foresight(
            told=told, correlation=Estimate(value=told.latent, low=told.low, high=told.high, unit="correlation of true differences", n=told.launches, of="launches", level=level),
            gain=Estimate(value=value, low=float(low), high=float(high), unit=f"{online} over a random choice of two", n=len(launches), of="launches", level=level)))
    return tuple(sorted(found, key=lambda one: (-one.gain.value, one.metric)))


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
            claim=f"{one.metric} {'foretold' if good else 'foretold the opposite of' if bad else 'is not known to foretell'} {online}: true differences are correlated by {_range(one.correlation)} (observed {one.told.observed:.2f}), Kendall's tau "
                  f"{one.told.tau:.2f}, the same sign in {one.told.same_sign:.0%} of {one.correlation.n} launches; choosing by it gains {number(one.gain.value)} ({number(one.gain.low or 0.0)} to {number(one.gain.high or 0.0)}) "
                  f"over a random choice of two, and loses {number(one.told.regret)} against the one that did better (part of which is luck).",
            threshold="PASS when the 90% interval of the correlation is above 0, FAIL when it is below" if good or bad else "more launches, or larger experiments, would tell", sources=SOURCES,
            meaning="Models that look better offline do worse online: do not choose by it." if bad else "",
            evidence=(Scatter(title=f"Did {one.metric} foretell {online}?", x_title=f"difference of {one.metric}", y_title=online, x=tuple(launches.effects[:, place].tolist()), y=tuple(launches.effects[:, 0].tolist()),
                              caption=f"{len(launches)} launches; both with noise"),)))
    rows = tuple((one.metric, one.correlation.value, one.correlation.low, one.correlation.high, one.told.observed, one.told.tau, one.told.same_sign, one.gain.value, one.told.regret) for one in found)
    table = RankedTable(title="Which offline metric foretells launches?", columns=("metric", "correlation", "from", "to", "observed", "tau", "same sign", "gain", "regret"), rows=rows, stage="effects",
                        caption=f"{len(launches)} launches; 90% intervals by the likelihood")
    return Report(findings=tuple(findings), overview=(table,), title=title or "offline metrics against launches", provenance=dict(provenance or {}))


def _range(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


__all__ = ["CODES", "Foresight", "foresight", "read_launches", "report"]
