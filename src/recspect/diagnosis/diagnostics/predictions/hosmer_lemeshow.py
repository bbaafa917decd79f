"""How far groups of rows are off all together: the statistic of Hosmer and Lemeshow, with a null that knows of users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.chi_square import chi_square_tail

Floats = NDArray[np.float64]

MOST_ROWS = 100_000
"""With more rows the statistic calls every model wrong, however little: then it is left out."""

DRAWS, LEAST_BUCKETS = 2000, 10


@dataclass(frozen=True, kw_only=True)
class HosmerLemeshow:
    """The statistic and how likely it is for right probabilities.

    Args:
        statistic: Sum over groups of (observed - predicted)^2 / (predicted (1 - predicted / n)).
        groups: How many there are: the degrees of freedom, as nothing was fitted to these rows.
        p_independent: Of at least this statistic, were rows independent: the upper tail of chi-square.
        p_value: The same where rows of one user are alike; None for too few buckets of users.
    """

    statistic: float
    groups: int
    p_independent: float
    p_value: float | None


def hosmer_lemeshow(rows: Sequence[tuple[float, float, float]], residuals: Floats) -> HosmerLemeshow | None:
    """Judge groups of rows by score.

    Args:
        rows: (weight, mean score, observed rate) per group.
        residuals: Observed less predicted positives per bucket of users and group, centred, shape (buckets, groups).

    Returns:
        None where no group has a predicted rate between 0 and 1.

    The null for alike rows gives the residuals of whole buckets random signs (wild cluster bootstrap, Cameron, Gelbach and Miller 2008). Source: Hosmer and Lemeshow 1980,
    Goodness of fit tests for the multiple logistic regression model; groups are of held-out rows, so the degrees of freedom are not lessened by 2.
    """
    weight, score, rate = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    variance = weight * score * (1 - score)
    used = variance > 0
    if not used.any():
        return None
    statistic = float(((weight * (rate - score))[used] ** 2 / variance[used]).sum())
    p_value = None
    if len(residuals) >= LEAST_BUCKETS:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (DRAWS, len(residuals)))
        drawn = ((signs @ residuals[:, used]) ** 2 / variance[used]).sum(1)
        p_value = float((1 + (drawn >= statistic).sum()) / (DRAWS + 1))
    return HosmerLemeshow(statistic=statistic, groups=int(used.sum()), p_independent=chi_square_tail(statistic, int(used.sum())), p_value=p_value)
