"""Two distributions over the same bins, in buckets of users: the interval of PSI, and what PSI is by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.chi_square import chi_square_quantile, chi_square_tail
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.jackknife import t_quantile
from recspect.diagnosis.stats.shares import Shares

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BucketedShares:
    """Weight per bucket of users and bin.

    Args:
        names: What each bin holds.
        target, reference: Shape (buckets, bins).
        halved: Whether half of the reference's rows, drawn at random, chose the bins and are not in it.
    """

    names: tuple[str, ...]
    target: Floats
    reference: Floats
    halved: bool = False

    @cached_property
    def shares(self) -> Shares:
        """All buckets together."""
        return Shares(names=self.names, target=self.target.sum(0), reference=self.reference.sum(0))

    @property
    def _occupied(self) -> NDArray[np.bool_]:
        return np.asarray((self.target + self.reference).sum(1) > 0)

    def _without_each(self) -> list[Shares]:
        whole = self.shares
        return [Shares(names=self.names, target=whole.target - t, reference=whole.reference - r)
                for t, r in zip(self.target[self._occupied], self.reference[self._occupied], strict=True)]

    def psi(self, level: float = 0.95) -> Estimate:
        """PSI of all rows together with the jackknife interval: the same bucket of users is left out of both sides.

        PSI of a sample is too large by about what chance gives. The interval is that of the distributions behind it, so it lies lower: around the
        value less its jackknife bias (Efron and Tibshirani 1993, ch. 10), cut off at 0.
        """
        value, n = self.shares.psi, int(self.shares.target.sum())
        groups = int(self._occupied.sum())
        if groups < 5:
            return Estimate(value=value, unit="PSI", n=n, level=level)
        left = self._without_each()
        if min(min(s.target.sum(), s.reference.sum()) for s in left) <= 0:
            return Estimate(value=value, unit="PSI", n=n, level=level)
        replicas = np.array([shares.psi for shares in left])
        middle = groups * value - (groups - 1) * float(replicas.mean())
        reach = t_quantile(level, groups - 1) * math.sqrt((groups - 1) / groups * float(((replicas - replicas.mean()) ** 2).sum()))
        return Estimate(value=value, low=max(0.0, min(middle - reach, value)), high=max(middle + reach, value), unit="PSI", n=n, level=level)

    @cached_property
    def _chance(self) -> tuple[float, float]:
        """Scale and degrees of freedom of the chi-square variable that PSI is about, without drift."""
        groups, whole = int(self._occupied.sum()), self.shares
        p, q = whole.smoothed
        middle = (p + q) / 2
        left = self._without_each()
        apart = np.array([s.target / max(s.target.sum(), 1e-12) - s.reference / max(s.reference.sum(), 1e-12) for s in left])
        apart = (apart - apart.mean(0)) / np.sqrt(middle)
        spread = (groups - 1) / groups * apart.T @ apart
        if self.halved:
            spread += (np.eye(len(q)) - np.sqrt(np.outer(middle, middle))) / (2 * whole.reference.sum())
        first = float(np.trace(spread))
        second = max(float((spread**2).sum()) - first**2 / max(groups - 1, 1), first**2 / max(len(q) - 1, 1), 1e-300)
        return second / max(first, 1e-300), max(first**2 / second, 1.0)

    def psi_under_no_drift(self, level: float = 0.999) -> float:
        """What PSI exceeds with probability 1 - level without drift, though rows of one user are alike.

        A quadratic form of shares is about a chi-square variable whose scale and degrees of freedom match its first two moments (Rao and Scott 1984); these
        are estimated by the jackknife over users. At least what independent rows give, as few users can be alike by chance.
        """
        independent = self.shares.psi_under_no_drift(level)
        if self._occupied.sum() < 5:
            return independent
        scale, freedom = self._chance
        return max(independent, scale * chi_square_quantile(level, freedom))

    def p_value(self) -> float:
        """Probability of at least this PSI without drift, by the same reasoning."""
        found = [chi_square_tail(self.shares.psi / (1 / self.shares.target.sum() + 1 / self.shares.reference.sum()), len(self.names) - 1)]
        if self._occupied.sum() >= 5:
            scale, freedom = self._chance
            found.append(chi_square_tail(self.shares.psi / scale, freedom))
        return max(found)
