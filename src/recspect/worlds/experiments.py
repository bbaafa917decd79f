"""Worlds of past experiments whose true effects are known: what a learnt metric has to find out from noisy effects."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

import numpy as np

from recspect.errors import UsageError
from recspect.experimenting.experiment import Corpus, Experiment, Floats

NORTH_STAR = "north_star"
EPOCH = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class ExperimentWorld:
    """Experiments with a north star (first metric) and short-term metrics, each effect in standard errors of an experiment of usual size.

    Effects of an experiment that is not null are D R D with D the signals and R one factor: corr(N, j) = r_j, corr(j, k) = r_j r_k + s_j s_k, where s are loadings on
    a second factor that has nothing to do with the north star.

    Args:
        correlation: Latent correlation of each short-term metric with the north star.
        signal: Standard deviation of the true effects of each, in standard errors of an experiment of usual size.
        north_signal: The same for the north star.
        second_factor: Loadings of the short-term metrics on what they share beside the north star; () for none.
        null_share: Share of experiments whose true effects are all 0.
        noise_correlation: Correlation of the sampling errors of any two metrics.
        family_size: Experiments per family; those of a family share `family_share` of their effects' variance.
        family_share: See `family_size`, in [0, 1).
        tail: Degrees of freedom of Student's t of the effects' common scale (variance kept); 0 for normal effects.
        users_spread: Largest over smallest number of users, drawn log-uniformly; noise variance goes with 1 / users.
        change_at: From this experiment on, `changed_correlation` holds; None for never.
        changed_correlation: See `change_at`.
        clickbait: Name of a metric that teams optimise from `change_at` on: its correlation becomes `clickbait_correlation` and its signal grows by half.
        clickbait_correlation: See `clickbait`.
        immature_last: The last so many experiments have a north star of maturity 0.5, known with twice the noise variance.
    """

    correlation: tuple[float, ...] = (0.85, 0.65, 0.5, 0.3, 0.0, 0.0, -0.25, 0.75)
    signal: tuple[float, ...] = (1.6, 2.5, 1.2, 2.0, 2.5, 1.0, 1.5, 0.5)
    north_signal: float = 0.6
    second_factor: tuple[float, ...] = ()
    null_share: float = 0.3
    noise_correlation: float = 0.3
    family_size: int = 1
    family_share: float = 0.0
    tail: float = 0.0
    users_spread: float = 1.0
    change_at: int | None = None
    changed_correlation: tuple[float, ...] = ()
    clickbait: str = ""
    clickbait_correlation: float = -0.5
    immature_last: int = 0

    def __post_init__(self) -> None:
        if len(self.signal) != len(self.correlation) or (self.second_factor and len(self.second_factor) != len(self.correlation)):
            raise UsageError(f"{len(self.correlation)} correlations, {len(self.signal)} signals, {len(self.second_factor)} second loadings", hint="one each per metric")
        if self.changed_correlation and len(self.changed_correlation) != len(self.correlation):
            raise UsageError(f"{len(self.changed_correlation)} changed correlations for {len(self.correlation)} metrics")
        if self.clickbait and self.clickbait not in self.metrics[1:]:
            raise UsageError(f"the world has no metric {self.clickbait!r}", hint=f"metrics: {', '.join(self.metrics[1:])}")
        if 0 < self.tail <= 2:
            raise UsageError(f"Student's t with {self.tail} degrees of freedom has no variance", hint="more than 2, or 0 for normal effects")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names: the north star, then metric_1 and on."""
        return (NORTH_STAR, *(f"metric_{place + 1}" for place in range(len(self.correlation))))

    @cached_property
    def latent(self) -> Floats:
        """Covariance of the true effects before any change, null experiments among them, shape (metrics, metrics)."""
        return self._covariance(self.correlation, self.signal)

    @cached_property
    def latent_after(self) -> Floats:
        """The same after the change."""
        correlation, signal = list(self.changed_correlation or self.correlation), list(self.signal)
        if self.clickbait:
            place = self.metrics.index(self.clickbait) - 1
            correlation[place] = self.clickbait_correlation
            signal[place] *= 1.5
        return self._covariance(correlation, signal)

    @cached_property
    def usual_noise(self) -> Floats:
        """Noise covariance of an experiment of usual size, shape (metrics, metrics)."""
        width = len(self.metrics)
        return np.full((width, width), self.noise_correlation) + (1 - self.noise_correlation) * np.eye(width)

    def _covariance(self, correlation: tuple[float, ...] | list[float], signal: tuple[float, ...] | list[float]) -> Floats:
        loading = np.array([1.0, *correlation])
        second = np.array([0.0, *(self.second_factor or (0.0,) * len(correlation))])
        matrix = np.outer(loading, loading) + np.outer(second, second)
        np.fill_diagonal(matrix, 1.0)
        scale = np.array([self.north_signal, *signal])
        return (1 - self.null_share) * matrix * np.outer(scale, scale)

    def draw(self, experiments: int, seed: int | list[int] = 0) -> tuple[Corpus, Floats]:
        """Experiments with noisy effects, and their true effects of shape (experiments, metrics)."""
        generator = np.random.default_rng(seed)
        width = len(self.metrics)
        after = np.arange(experiments) >= (experiments if self.change_at is None else self.change_at)
        before_root, after_root = (np.linalg.cholesky(matrix / (1 - self.null_share) + 1e-9 * np.eye(width)) for matrix in (self.latent, self.latent_after))
        own = generator.normal(size=(experiments, width))
        families = np.arange(experiments) // self.family_size
        shared = generator.normal(size=(int(families[-1]) + 1 if experiments else 0, width))
        mixed = np.sqrt(self.family_share) * shared[families] + np.sqrt(1 - self.family_share) * own
        truth = np.where(after[:, None], mixed @ after_root.T, mixed @ before_root.T)
        if self.tail:
            truth *= np.sqrt((self.tail - 2) / generator.chisquare(self.tail, experiments))[:, None]
        truth *= (generator.random(experiments) >= self.null_share)[:, None]
        users = np.exp(np.log(self.users_spread) * (generator.random(experiments) - 0.5))
        noise_root = np.linalg.cholesky(self.usual_noise)
        immature = np.arange(experiments) >= experiments - self.immature_last
        errors = generator.normal(size=(experiments, width)) @ noise_root.T
        found = []
        for place in range(experiments):
            scale = np.full(width, 1 / np.sqrt(users[place]))
            scale[0] *= np.sqrt(2.0) if immature[place] else 1.0
            found.append(Experiment(
                name=f"experiment_{place:04d}", metrics=self.metrics, effects=truth[place] + errors[place] * scale, noise=self.usual_noise * np.outer(scale, scale),
                users=(round(10_000 * users[place]),) * 2, family=f"family_{families[place]:04d}" if self.family_size > 1 else "",
                start=EPOCH + timedelta(days=place), end=EPOCH + timedelta(days=place + 14), maturity=0.5 if immature[place] else 1.0))
        return Corpus(tuple(found)), truth


PILOT = ExperimentWorld()
"""The world that the design was tried on."""

BELIEFS = (0.7, 0.5, 0.5, 0.5, 0.3, 0.0, 0.2, 0.5)
"""What a business believes of the pilot's metrics: right in order, wrong by more than 0.15 for four of them and in sign for one."""

HARDER = {
    "families": ExperimentWorld(family_size=5, family_share=0.8),
    "heavy_tails": ExperimentWorld(tail=3.0),
    "second_factor": ExperimentWorld(second_factor=(0.4, -0.5, 0.6, 0.7, 0.8, -0.6, 0.5, 0.0)),
    "unequal_users": ExperimentWorld(users_spread=100.0),
    "delayed": ExperimentWorld(immature_last=15),
}
"""Worlds that break one assumption each."""

CLICKBAIT = ExperimentWorld(correlation=(0.85, 0.65, 0.5, 0.3, 0.0, 0.0, -0.25, 0.75), change_at=100, clickbait="metric_2", clickbait_correlation=-0.5)
"""A metric of latent correlation 0.65 that teams optimise from experiment 100 on, and whose correlation turns to -0.5."""

__all__ = ["BELIEFS", "CLICKBAIT", "HARDER", "NORTH_STAR", "PILOT", "ExperimentWorld"]
