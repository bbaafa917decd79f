"""One experiment as it enters a corpus: effects on several metrics with their known sampling noise, and many of them together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recspect.errors import DataError, listing

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Experiment:
    """Treatment against control, measured once.

    Args:
        name: Tells it from every other.
        metrics: Names of the metrics, in the order of `effects`.
        effects: Treatment minus control (or the relative difference) per metric, shape (metrics,); NaN where it was not measured.
        noise: Covariance of the sampling errors of `effects`, shape (metrics, metrics); rows of metrics that were not measured are NaN.
        users: Users of control and of treatment.
        scene: Where it ran (home, search); experiments of one scene share their latent covariance.
        family: Experiments that vary one idea, or share a control: never split between fitting and holding out. Empty: its own.
        start, end: When it ran; None where nobody knows.
        maturity: Share of the north star's window that every user has had, in [0, 1]; 1 is final.
        halves: Effects on two random halves of the users, shape (2, metrics), for estimates that need no noise covariance; None where not kept.

    Raises:
        DataError: Shapes that disagree, a covariance that is none, numbers that are infinite.
    """

    name: str
    metrics: tuple[str, ...]
    effects: Floats
    noise: Floats
    users: tuple[int, int] = (0, 0)
    scene: str = ""
    family: str = ""
    start: datetime | None = None
    end: datetime | None = None
    maturity: float = 1.0
    halves: Floats | None = None

    def __post_init__(self) -> None:
        width = len(self.metrics)
        effects, noise = np.asarray(self.effects, np.float64), np.asarray(self.noise, np.float64)
        object.__setattr__(self, "effects", effects)
        object.__setattr__(self, "noise", noise)
        if effects.shape != (width,) or noise.shape != (width, width):
            raise DataError(f"experiment {self.name!r} has {width} metrics, effects of shape {effects.shape} and noise of shape {noise.shape}",
                            hint="one effect per metric, and a square covariance")
        if len(set(self.metrics)) != width:
            raise DataError(f"experiment {self.name!r} names a metric twice: {listing(self.metrics)}")
        if not 0 <= self.maturity <= 1:
            raise DataError(f"experiment {self.name!r} has a maturity of {self.maturity}, expected 0 to 1")
        _require_covariance(self.name, self.metrics, noise, ~np.isnan(effects))
        if self.halves is not None:
            halves = np.asarray(self.halves, np.float64)
            object.__setattr__(self, "halves", halves)
            if halves.shape != (2, width):
                raise DataError(f"experiment {self.name!r} has halves of shape {halves.shape}, expected (2, {width})")

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Which metrics were measured, shape (metrics,)."""
        return ~np.isnan(self.effects)

    @property
    def group(self) -> str:
        """The family, or the experiment's own name where it has none."""
        return self.family or self.name

    @property
    def z(self) -> Floats:
        """Effects in standard errors, shape (metrics,)."""
        z: Floats = self.effects / np.sqrt(np.diag(self.noise))
        return z

    def of_metrics(self, names: Sequence[str]) -> Experiment:
        """The same experiment with these metrics in this order; NaN for those that it lacks."""
        places = {name: place for place, name in enumerate(self.metrics)}
        there = np.array([places.get(name, -1) for name in names], np.int64)
        missing = there < 0
        effects, noise = np.where(missing, np.nan, self.effects[there]), self.noise[np.ix_(there, there)].copy()
        noise[missing, :] = noise[:, missing] = np.nan
        halves = None if self.halves is None else np.where(missing, np.nan, self.halves[:, there])
        return replace(self, metrics=tuple(names), effects=effects, noise=noise, halves=halves)


def _require_covariance(name: str, metrics: Sequence[str], noise: Floats, measured: NDArray[np.bool_]) -> None:
    part = noise[np.ix_(measured, measured)]
    if not measured.any():
        raise DataError(f"experiment {name!r} measured nothing")
    spread = np.diag(part)
    if not np.isfinite(part).all() or (spread <= 0).any():
        worst = np.array(metrics)[measured][~np.isfinite(part).all(1) | (spread <= 0)]
        raise DataError(f"experiment {name!r}: the variance of the effect on {listing(worst.tolist(), limit=4)} is not a number above 0",
                        hint="give the squared standard error of every effect; leave metrics out that did not vary")
    scale = np.sqrt(spread)
    correlation = part / np.outer(scale, scale)
    if np.abs(correlation - correlation.T).max() > 1e-6 or np.linalg.eigvalsh(correlation)[0] < -1e-6:
        raise DataError(f"experiment {name!r}: the noise is not a covariance matrix (not symmetric, or a combination of metrics has a negative variance)",
                        hint="compute it from the same users for all metrics")


@dataclass(frozen=True)
class Corpus:
    """Experiments on the same metrics, as arrays.

    Args:
        experiments: In the order in which they are to be read; `in_order` sorts by end.
    """

    experiments: tuple[Experiment, ...]

    def __post_init__(self) -> None:
        names = [experiment.name for experiment in self.experiments]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise DataError(f"experiments that are there twice: {listing(twice)}", hint="each comparison of a treatment with control has a name of its own")
        if len({experiment.metrics for experiment in self.experiments}) > 1:
            raise DataError("the experiments of a corpus have different metrics", hint="Corpus.of(experiments, metrics) puts them in one order")

    @classmethod
    def of(cls, experiments: Iterable[Experiment], metrics: Sequence[str]) -> Corpus:
        """The experiments with these metrics in this order; those that measured none of them are left out."""
        kept = [experiment for experiment in experiments if set(metrics) & {name for name, there in zip(experiment.metrics, experiment.measured, strict=True) if there}]
        return cls(tuple(experiment.of_metrics(metrics) for experiment in kept))

    def __len__(self) -> int:
        return len(self.experiments)

    def __iter__(self) -> Iterator[Experiment]:
        return iter(self.experiments)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names, in order; empty for an empty corpus."""
        return self.experiments[0].metrics if self.experiments else ()

    @cached_property
    def effects(self) -> Floats:
        """Shape (experiments, metrics); NaN where not measured."""
        return np.array([experiment.effects for experiment in self.experiments]).reshape(len(self), -1)

    @cached_property
    def noise(self) -> Floats:
        """Shape (experiments, metrics, metrics); NaN where not measured."""
        width = len(self.metrics)
        return np.array([experiment.noise for experiment in self.experiments]).reshape(len(self), width, width)

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """A number per experiment, equal within a family, shape (experiments,)."""
        return np.unique([experiment.group for experiment in self.experiments], return_inverse=True)[1].astype(np.int64) if self.experiments else np.zeros(0, np.int64)

    @property
    def scenes(self) -> tuple[str, ...]:
        """Names of the scenes, sorted."""
        return tuple(sorted({experiment.scene for experiment in self.experiments}))

    def of_scene(self, scene: str) -> Corpus:
        """The experiments of one scene."""
        return Corpus(tuple(experiment for experiment in self.experiments if experiment.scene == scene))

    def outside_scene(self, scene: str) -> Corpus:
        """The experiments of all other scenes."""
        return Corpus(tuple(experiment for experiment in self.experiments if experiment.scene != scene))

    def take(self, places: Iterable[int]) -> Corpus:
        """The experiments at these places."""
        return Corpus(tuple(self.experiments[place] for place in places))

    def in_order(self) -> Corpus:
        """Sorted by end; those without one first, in the order that they have."""
        return Corpus(tuple(sorted(self.experiments, key=lambda experiment: 0.0 if experiment.end is None else experiment.end.timestamp())))


__all__ = ["Corpus", "Experiment", "Floats"]
