"""Treatment against control on several metrics at once: effects and the covariance of their sampling errors, by the delta method and CUPED.

Each metric is a smooth function g of the vector of column means of an arm. With S the covariance of a user's columns and J the gradients, the sampling covariance of
the metrics in an arm of n users is J S J' / n; arms are independent, so theirs add. A ratio of means x / y has gradient (1, -R) / mean(y) (delta method). CUPED takes
t (c - mean c) off, c the same metric before the experiment, t its regression coefficient over all arms together: the mean effect stays, the variance falls by the squared
correlation. Sources: Deng, Xu, Kohavi and Walker 2013 (CUPED); Deng, Knoblich and Lu 2018, Applying the Delta Method in Metric Analytics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostics.policy import ENOUGH_ROWS, two_sided_p
from recspect.diagnosis.stats.gram import GramSummary
from recspect.errors import Unavailable
from recspect.experimenting.experiment import Experiment, Floats
from recspect.experimenting.metric import Metric

SURE_OF_ZERO = 3.0
"""Standard errors that a denominator must lie from 0 for the delta method to hold."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Effects:
    """What a treatment did.

    Args:
        metrics: In the order of the arrays.
        control, treatment: Values per metric (adjusted where there is a covariate), shape (metrics,).
        control_noise, treatment_noise: Covariance of their sampling errors, shape (metrics, metrics).
        users: Units of control and of treatment.
        saved: Share of the variance that the covariates saved, shape (metrics,).
        joint: Whether covariances between metrics are known (they are not in aggregated tables).
    """

    metrics: tuple[Metric, ...]
    control: Floats
    treatment: Floats
    control_noise: Floats
    treatment_noise: Floats
    users: tuple[int, int]
    saved: Floats
    joint: bool = True

    @property
    def differences(self) -> Floats:
        """Treatment minus control, shape (metrics,)."""
        return self.treatment - self.control

    @property
    def noise(self) -> Floats:
        """Covariance of the sampling errors of `differences`."""
        return self.control_noise + self.treatment_noise

    @property
    def lifts(self) -> Floats:
        """Relative difference to control, shape (metrics,); NaN where an arm is not surely above 0 (three standard errors), as a ratio then means nothing."""
        return np.where(self._positive, self.treatment / np.where(self._positive, self.control, 1.0) - 1, np.nan)

    @property
    def log_ratios(self) -> Floats:
        """log(treatment / control), about the relative difference where that is small; NaN like `lifts`.

        Unlike that of the ratio, its error is symmetric: intervals are made of it, and miss on both sides alike.
        """
        return np.log1p(self.lifts)

    @property
    def log_noise(self) -> Floats:
        """Covariance of the sampling errors of `log_ratios`, by the delta method."""
        control, treatment = (np.where(self._positive, values, 1.0) for values in (self.control, self.treatment))
        found = self.treatment_noise / np.outer(treatment, treatment) + self.control_noise / np.outer(control, control)
        return np.where(np.outer(self._positive, self._positive), found, np.nan)

    @property
    def _positive(self) -> NDArray[np.bool_]:
        return np.asarray((self.control > SURE_OF_ZERO * np.sqrt(np.diag(self.control_noise))) & (self.treatment > SURE_OF_ZERO * np.sqrt(np.diag(self.treatment_noise))))

    @property
    def p_values(self) -> Floats:
        """Two-sided, of no difference, shape (metrics,)."""
        return np.array([two_sided_p(float(difference / math.sqrt(variance))) for difference, variance in zip(self.differences, np.diag(self.noise), strict=True)])

    def experiment(self, name: str, *, relative: bool = True, scene: str = "", family: str = "", start: datetime | None = None, end: datetime | None = None,
                   maturity: float = 1.0) -> Experiment:
        """The record that a corpus of past experiments keeps.

        Args:
            name: Of the experiment.
            relative: Log ratios, which compare between scenes, or differences.
            scene, family, start, end, maturity: See `Experiment`.

        Raises:
            Unavailable: The covariances between metrics are not known.
        """
        if not self.joint:
            raise Unavailable("covariances between metrics cannot be had from an aggregated table", hint="analyse one row per user")
        return Experiment(name=name, metrics=tuple(metric.name for metric in self.metrics), effects=self.log_ratios if relative else self.differences,
                          noise=self.log_noise if relative else self.noise, users=self.users, scene=scene, family=family, start=start, end=end, maturity=maturity)


def effects(control: GramSummary, treatment: GramSummary, columns: Sequence[str], metrics: Sequence[Metric], *, pooled: GramSummary | None = None,
            joint: bool = True) -> Effects:
    """Effects of a treatment on every metric.

    Args:
        control, treatment: Means and covariances of the columns over the users of an arm.
        columns: What the columns of these are.
        metrics: What is asked for; each reads some of the columns.
        pooled: All arms together, from which CUPED's coefficient and centre come; control and treatment where None.
        joint: Whether covariances between columns are known.

    Raises:
        Unavailable: An arm has fewer than 100 users, or a denominator cannot be told from 0.
    """
    for name, arm in (("control", control), ("treatment", treatment)):
        if arm.count < ENOUGH_ROWS:
            raise Unavailable(f"{name} has {arm.count:,.0f} users; {ENOUGH_ROWS} are needed", hint="wait for more users")
    pooled = control + treatment if pooled is None else pooled
    found = [_arm(arm, pooled, columns, metrics) for arm in (control, treatment)]
    before = sum(np.diag(plain @ arm.covariance @ plain.T) / arm.count for arm, (_, _, plain) in zip((control, treatment), found, strict=True))
    noise = [_spread(gradient, arm) for arm, (_, gradient, _) in zip((control, treatment), found, strict=True)]
    after = np.diag(noise[0] + noise[1])
    return Effects(metrics=tuple(metrics), control=found[0][0], treatment=found[1][0], control_noise=noise[0], treatment_noise=noise[1],
                   users=(int(control.count), int(treatment.count)), saved=1 - after / np.where(before > 0, before, 1.0), joint=joint)


def user_moments(arm: GramSummary, columns: Sequence[str], metrics: Sequence[Metric]) -> tuple[Floats, Floats]:
    """Value of every metric, and the variance that a single user contributes to it (what covariates save taken off): what planning needs. Shape (metrics,) each."""
    values, gradients, _ = _arm(arm, arm, columns, metrics)
    return values, np.diag(_spread(gradients, arm)) * arm.count


def _spread(gradient: Floats, arm: GramSummary) -> Floats:
    found: Floats = gradient @ arm.covariance @ gradient.T / arm.count
    return found


def _arm(arm: GramSummary, pooled: GramSummary, columns: Sequence[str], metrics: Sequence[Metric]) -> tuple[Floats, Floats, Floats]:
    """Values, their gradients, and their gradients without covariates."""
    values, gradients, plain = [], [], []
    for metric in metrics:
        value, gradient = _ratio(arm, columns, metric.numerator, metric.denominator)
        plain.append(gradient)
        if metric.covariate:
            before, of_before = _ratio(arm, columns, metric.covariate, metric.covariate_denominator)
            centre, of_centre = _ratio(pooled, columns, metric.covariate, metric.covariate_denominator)
            _, of_pooled = _ratio(pooled, columns, metric.numerator, metric.denominator)
            spread = float(of_centre @ pooled.covariance @ of_centre)
            slope = float(of_pooled @ pooled.covariance @ of_centre) / spread if spread > 0 else 0.0
            value, gradient = value - slope * (before - centre), gradient - slope * of_before
        values.append(value)
        gradients.append(gradient)
    return np.array(values), np.array(gradients), np.array(plain)


def _ratio(arm: GramSummary, columns: Sequence[str], numerator: str, denominator: str) -> tuple[float, Floats]:
    """A mean, or a ratio of means, and its gradient with respect to all means."""
    gradient = np.zeros(len(columns))
    top = columns.index(numerator)
    if not denominator:
        gradient[top] = 1.0
        return float(arm.mean[top]), gradient
    bottom = columns.index(denominator)
    below = float(arm.mean[bottom])
    if abs(below) <= SURE_OF_ZERO * math.sqrt(max(float(arm.covariance[bottom, bottom]) / arm.count, 0.0)):
        raise Unavailable(f"the mean of {denominator!r} cannot be told from 0, so nothing can be divided by it", hint="wait for more users, or take another denominator")
    value = float(arm.mean[top]) / below
    gradient[top] += 1 / below
    gradient[bottom] -= value / below
    return value, gradient


__all__ = ["SURE_OF_ZERO", "Effects", "effects", "user_moments"]
