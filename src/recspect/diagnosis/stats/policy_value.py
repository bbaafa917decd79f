"""What another policy would have earned on the log of this one: the sums behind every off-policy estimate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.errors import UsageError

Floats = NDArray[np.float64]
_SMALLEST, _LARGEST = 1e-30, 1e70
"""Smaller propensities and larger rewards make sums of squares infinite."""


@dataclass(frozen=True)
class PolicyValueSummary(Summary):
    """Sums over rows; w is the target's probability of what was shown over the logged one, q what a model of rewards says.

    Args:
        count: Weight of the rows that can be used.
        reward: Sum of r.
        ratio, ratio_squares: Sums of w and w^2.
        weighted, weighted_squares: Sums of w r and (w r)^2.
        largest: Largest w.
        expected: Sum of the model's expected reward under the target policy.
        corrected: Sum of w (r - q).
        within, within_squares: For every limit the sums of w (r - q) over rows with w at most the limit, and of squares of what the switch left out, shape (limits,); of size 0 without a model.
        invalid: Weight of rows without a reward, with a propensity outside (0, 1] or a target probability outside [0, 1].
    """

    count: float
    reward: float
    ratio: float
    ratio_squares: float
    weighted: float
    weighted_squares: float
    largest: float
    expected: float
    corrected: float
    within: Floats
    within_squares: Floats
    invalid: float

    def __add__(self, other: PolicyValueSummary) -> PolicyValueSummary:
        return PolicyValueSummary(
            self.count + other.count, self.reward + other.reward, self.ratio + other.ratio, self.ratio_squares + other.ratio_squares, self.weighted + other.weighted,
            self.weighted_squares + other.weighted_squares, max(self.largest, other.largest), self.expected + other.expected, self.corrected + other.corrected, self.within + other.within,
            self.within_squares + other.within_squares, self.invalid + other.invalid)

    @property
    def logged(self) -> float:
        """Mean reward of the policy that made the log; NaN for no rows."""
        return self.reward / self.count if self.count else np.nan

    @property
    def mean_ratio(self) -> float:
        """Mean of w, which is 1 where the log can show all that the target policy may; NaN for no rows."""
        return self.ratio / self.count if self.count else np.nan

    @property
    def effective_share(self) -> float:
        """Effective sample size over n, (sum w)^2 / (n sum w^2), Kish 1965; NaN where no row weighs anything."""
        return self.ratio**2 / (self.count * self.ratio_squares) if self.ratio_squares else np.nan

    @property
    def effective_rewards(self) -> float:
        """How many rewarded rows of equal weight would say as much, (sum w r)^2 / sum (w r)^2; NaN where nothing was earned."""
        return self.weighted**2 / self.weighted_squares if self.weighted_squares else np.nan

    @property
    def ips(self) -> float:
        """Inverse propensity score estimate (Horvitz and Thompson 1952): mean of w r."""
        return self.weighted / self.count if self.count else np.nan

    @property
    def snips(self) -> float:
        """Self-normalised (Swaminathan and Joachims 2015): sum of w r over sum of w."""
        return self.weighted / self.ratio if self.ratio else np.nan

    @property
    def dm(self) -> float:
        """Direct method: what the model expects; NaN without a model."""
        return self.expected / self.count if self.count and len(self.within) else np.nan

    @property
    def dr(self) -> float:
        """Doubly robust (Dudik, Langford and Li 2011)."""
        return self.dm + self.corrected / self.count if self.count else np.nan

    @property
    def sndr(self) -> float:
        """Self-normalised doubly robust."""
        return self.dm + self.corrected / self.ratio if self.ratio else np.nan

    def switch(self, limit: int) -> float:
        """SWITCH (Wang, Agarwal and Dudik 2017) at the limit of this place: doubly robust where w is at most the limit, the model alone beyond."""
        return self.dm + float(self.within[limit]) / self.count if self.count else np.nan

    def left_out(self, limit: int) -> tuple[float, float]:
        """Bias that the switch at this limit seems to have, and its standard error: mean of w (r - q) over the rows beyond it."""
        if not self.count:
            return np.nan, np.nan
        mean = (self.corrected - float(self.within[limit])) / self.count
        return mean, float(np.sqrt(max(float(self.within_squares[limit]) / self.count - mean**2, 0.0) / self.count))


@dataclass(frozen=True, kw_only=True)
class PolicyValue(Stat[PolicyValueSummary]):
    """Sums for the value of a target policy.

    Args:
        reward: Column of what came of what was shown.
        logged: Column of the probability with which it was shown.
        target: Column of the probability with which the target policy would show it.
        predicted: Column of the model's reward for what was shown; empty without a model.
        expected: Column of the model's mean reward under the target policy; empty without a model.
        limits: Largest weights at which SWITCH trusts the log.

    Example:
        >>> log = Batch({"r": np.array([1.0, 0.0]), "p": np.array([0.5, 0.5]), "e": np.array([0.9, 0.1])})
        >>> PolicyValue(reward="r", logged="p", target="e").summarize(log).ips
        0.9
    """

    reward: str
    logged: str
    target: str
    predicted: str = ""
    expected: str = ""
    limits: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.predicted) != bool(self.expected) or bool(self.predicted) != bool(self.limits):
            raise UsageError("a model of rewards is two columns and limits: its reward for what was shown, and its mean reward under the target policy", hint="give all of them, or none")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.reward, self.logged, self.target, self.predicted, self.expected)))

    def zero(self) -> PolicyValueSummary:
        width = len(self.limits)
        return PolicyValueSummary(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, np.zeros(width), np.zeros(width), 0.0)

    def summarize(self, batch: Batch, weight: Weights = None) -> PolicyValueSummary:
        reward, logged, target = (batch.numbers(column) for column in (self.reward, self.logged, self.target))
        w = np.ones(batch.rows) if weight is None else weight
        predicted, expected = (batch.numbers(column) if column else np.zeros(batch.rows) for column in (self.predicted, self.expected))
        with np.errstate(invalid="ignore"):
            finite = (np.abs(reward) < _LARGEST) & (np.abs(predicted) < _LARGEST) & (np.abs(expected) < _LARGEST)
            valid = finite & (logged > _SMALLEST) & (logged <= 1) & (target >= 0) & (target <= 1) & (w > 0)
        invalid = float(w[~valid].sum())
        reward, predicted, expected, w = reward[valid], predicted[valid], expected[valid], w[valid]
        ratio = target[valid] / logged[valid]
        corrected = ratio * (reward - predicted)
        within, squares = np.zeros(len(self.limits)), np.zeros(len(self.limits))
        for place, limit in enumerate(self.limits):
            inside = ratio <= limit
            within[place] = float(w[inside] @ corrected[inside])
            squares[place] = float(w[~inside] @ corrected[~inside] ** 2)
        return PolicyValueSummary(
            float(w.sum()), float(w @ reward), float(w @ ratio), float(w @ ratio**2), float(w @ (ratio * reward)), float(w @ (ratio * reward) ** 2),
            float(ratio.max(initial=0.0)), float(w @ expected),
            float(w @ corrected) if self.limits else 0.0, within, squares, invalid)
