"""Slices of rows held against others: calibration and loss, with intervals from buckets of users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostics.policy import two_sided_p
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.jackknife import t_quantile
from recspect.diagnosis.multiplicity import Check
from recspect.diagnosis.stats.outcomes import LOSS, POSITIVE, PREDICTED, ROWS, VARIANCE

Floats = NDArray[np.float64]
LEAST_BUCKETS = 10
"""Rows of so few buckets of users say nothing about other users."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows of one slice.

    Args:
        name: Such as `city=Oslo`.
        sums: Of `Outcomes`, shape (buckets, 5).
        fields: The fields it is about.
    """

    name: str
    sums: Floats
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One slice against others.

    Args:
        part: The slice.
        rows: How many.
        ratio: Predicted over observed positives.
        entropy: Normalised entropy.
        off: Predicted over observed, over what is usual, less 1.
        excess: Normalised entropy above that of all rows (and of its parents), where it is above 1; else 0.
        p_rate, p_loss: Chance of at least this difference in calibration, and of at least this loss above a constant's.
    """

    part: Part
    rows: int
    ratio: Estimate
    entropy: Estimate
    off: float
    excess: float
    p_rate: float
    p_loss: float

    def checks(self, off: float, excess: float) -> tuple[Check, Check]:
        """Both comparisons, with the smallest effects that are worth an alarm."""
        return (Check(p_value=self.p_rate, effect=abs(self.off), minimum=off), Check(p_value=self.p_loss, effect=self.excess, minimum=excess))


def judge_parts(parts: Sequence[Part], usual: Sequence[Sequence[Floats]], total: Floats) -> list[Judged]:
    """Every slice against what is usual: the rows (sums per bucket) it is compared with, all rows first.

    With several to compare with (the slices a crossing lies in), a slice is off only as far as it is off from the nearest, and the largest
    p-value counts; its loss counts as far as it is above theirs, that of all rows and that of a constant. Standard errors are
    delete-a-group jackknife over buckets of users, the same bucket left out on both sides, and at least what
    independent outcomes give, as few users can be alike by chance; p-values by Student's t over the buckets that hold rows of the slice.
    """
    own = np.stack([part.sums for part in parts])
    widest = max(len(others) for others in usual)
    found = [_rates(own, np.stack([others[min(i, len(others) - 1)] for others in usual]), total) for i in range(widest)]
    nearest = np.argmin([np.abs(off) for _, off in found], axis=0)
    picks = np.arange(len(parts))
    off = np.array([off for _, off in found])[nearest, picks]
    same_side = np.ptp(np.sign([off for _, off in found]), axis=0) == 0
    p_rate = np.where(same_side, np.max([p for p, _ in found], axis=0), 1.0)
    off = np.where(same_side, off, 0.0)
    freedom = (own[..., ROWS] > 0).sum(1) - 1
    whole, without = own.sum(1), own.sum(1, keepdims=True) - own
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, ratio_error = _jackknifed(np.log(whole[:, PREDICTED] / whole[:, POSITIVE]), np.log(without[..., PREDICTED] / without[..., POSITIVE]), total)
        ratio_error = np.maximum(np.nan_to_num(ratio_error, nan=np.inf), _relative_spread(whole, total))
        elsewhere = np.broadcast_to(_entropy(total.sum(0)), len(parts))
        elsewhere_without = np.broadcast_to(_entropy(total.sum(0) - total), own.shape[:2])
        for i in range(1, widest):
            parent = np.stack([others[i] if i < len(others) else total for others in usual])
            elsewhere = np.fmax(elsewhere, _entropy(parent.sum(1)))
            elsewhere_without = np.fmax(elsewhere_without, _entropy(parent.sum(1, keepdims=True) - parent))
        entropy, entropy_error = _jackknifed(_entropy(whole), _entropy(without), total)
        above, above_error = _jackknifed(_entropy(whole) - np.fmax(1.0, elsewhere), _entropy(without) - np.fmax(1.0, elsewhere_without), total)
    excess = np.where(entropy > 1, entropy - elsewhere, 0.0)
    judged = []
    for i, part in enumerate(parts):
        n, reach = int(whole[i, ROWS]), t_quantile(0.95, int(freedom[i]))
        ends = np.exp(ratio[i] + reach * ratio_error[i] * np.array([-1, 1])) if np.isfinite(ratio_error[i]) else (None, None)
        known = np.isfinite(entropy_error[i])
        judged.append(Judged(
            part=part, rows=n, off=float(off[i]), excess=float(excess[i]), p_rate=float(p_rate[i]),
            ratio=Estimate(value=float(np.exp(ratio[i])), low=ends[0], high=ends[1], n=n, unit="predicted / observed positives"),
            entropy=Estimate(value=float(entropy[i]), low=float(entropy[i] - reach * entropy_error[i]) if known else None,
                             high=float(entropy[i] + reach * entropy_error[i]) if known else None, n=n, unit="normalised entropy"),
            p_loss=two_sided_p(max(0.0, above[i]) / above_error[i], int(freedom[i])) if np.isfinite(above_error[i]) and above_error[i] > 0 else 1.0))
    return judged


def _rates(own: Floats, usual: Floats, total: Floats) -> tuple[Floats, Floats]:
    """p-values, and predicted over observed over usual less 1, shape (slices,) each.

    Held against each other are positives observed over predicted, which are sums over users in the numerator: nearer to normal
    than the ratio the other way round where positives are few.
    """
    whole, other = own.sum(1), usual.sum(1)
    without, other_without = own.sum(1, keepdims=True) - own, usual.sum(1, keepdims=True) - usual
    with np.errstate(divide="ignore", invalid="ignore"):
        gap, error = _jackknifed(whole[:, POSITIVE] / whole[:, PREDICTED] - other[:, POSITIVE] / other[:, PREDICTED],
                                 without[..., POSITIVE] / without[..., PREDICTED] - other_without[..., POSITIVE] / other_without[..., PREDICTED], total)
        rate = whole[:, POSITIVE] / whole[:, PREDICTED]
        error = np.maximum(np.nan_to_num(error, nan=np.inf), rate * _relative_spread(whole, total))
        off = (other[:, POSITIVE] / other[:, PREDICTED]) / rate - 1
    freedom = (own[..., ROWS] > 0).sum(1) - 1
    return np.array([two_sided_p(g / e, int(f)) if e > 0 else 1.0 for g, e, f in zip(gap, error, freedom, strict=True)]), off


def _jackknifed(value: Floats, replicas: Floats, total: Floats) -> tuple[Floats, Floats]:
    """The value and its standard error; NaN where leaving a bucket out leaves nothing."""
    replicas = replicas[:, total[:, ROWS] > 0]
    groups = replicas.shape[1]
    error = np.sqrt((groups - 1) / groups * ((replicas - replicas.mean(1, keepdims=True)) ** 2).sum(1))
    return value, error


def _entropy(sums: Floats) -> Floats:
    b = sums[..., POSITIVE] / sums[..., ROWS]
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = sums[..., LOSS] / sums[..., ROWS] / -(b * np.log(b) + (1 - b) * np.log(1 - b))
    return found


def _relative_spread(whole: Floats, total: Floats) -> Floats:
    """Standard deviation of a slice's number of positives over that number, if outcomes are independent given the row.

    From the scores, sum of p (1 - p), where these are about right over all rows; else from the slice's own rate, which is wider
    but does not believe the scores.
    """
    rows, positive = whole[:, ROWS], whole[:, POSITIVE]
    believed = abs(total[:, PREDICTED].sum() / total[:, POSITIVE].sum() - 1) <= 0.1
    variance = whole[:, VARIANCE] if believed else positive * (1 - positive / rows)
    found: Floats = np.sqrt(np.maximum(variance, 1e-12)) / positive
    return found
