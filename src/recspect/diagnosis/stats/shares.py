"""Two distributions over the same bins: how far apart, and how far apart two samples of one distribution would be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.chi_square import chi_square_quantile
from recspect.errors import Unavailable

_SMOOTHING = 0.5
"""Rows added to every bin on both sides, so that an empty bin gives no infinite distance (Jeffreys' prior)."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Weight per bin in a target and in a reference.

    Args:
        names: What each bin holds.
        target, reference: Weight per bin, shape (bins,).

    Raises:
        Unavailable: (from the distances) a side has no rows.
    """

    names: tuple[str, ...]
    target: NDArray[np.float64]
    reference: NDArray[np.float64]

    @property
    def smoothed(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Shares of target and reference, each bin with half a row more."""
        for side, weight in (("target", self.target.sum()), ("reference", self.reference.sum())):
            if not weight:
                raise Unavailable(f"the {side} has no rows to compare")
        p, q = self.target + _SMOOTHING, self.reference + _SMOOTHING
        return p / p.sum(), q / q.sum()

    @property
    def psi(self) -> float:
        """Population stability index: sum of (p - q) ln(p / q), in nats; 0 for equal shares."""
        p, q = self.smoothed
        return float(((p - q) * np.log(p / q)).sum())

    @property
    def js(self) -> float:
        """Jensen-Shannon divergence in bits, 0 (equal) to 1 (nothing in common)."""
        p, q = self.smoothed
        middle = (p + q) / 2
        return float((p * np.log2(p / middle) + q * np.log2(q / middle)).sum() / 2)

    @property
    def total_variation(self) -> float:
        """Share of rows that would have to move to another bin, 0 to 1; without smoothing."""
        self.smoothed  # noqa: B018 - raises where a side is empty
        return float(np.abs(self.target / self.target.sum() - self.reference / self.reference.sum()).sum() / 2)

    def psi_under_no_drift(self, level: float = 0.999) -> float:
        """What PSI exceeds with probability 1 - level when both sides are independent rows of one distribution.

        (1/n + 1/m) times a chi-square quantile with bins - 1 degrees of freedom (Yurdakul and Naranjo 2020). Rows of one
        user are not independent: where users have many rows the true quantile is larger.
        """
        self.smoothed  # noqa: B018 - raises where a side is empty
        sizes = 1 / float(self.target.sum()) + 1 / float(self.reference.sum())
        return sizes * chi_square_quantile(level, len(self.names) - 1)

    def js_under_no_drift(self, level: float = 0.999) -> float:
        """The same for the Jensen-Shannon divergence, which is PSI / 8 nats for small differences."""
        return self.psi_under_no_drift(level) / 8 / float(np.log(2))
