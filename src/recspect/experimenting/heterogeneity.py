"""Whether a treatment does the same to everybody: effects by slice, and one test that asks whether they differ at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recspect.diagnosis.chi_square import chi_square_tail
from recspect.diagnosis.diagnostics.policy import ENOUGH_ROWS
from recspect.diagnosis.stats.gram import GramSummary
from recspect.errors import Unavailable
from recspect.experimenting.effects import Effects, effects
from recspect.experimenting.experiment import Floats
from recspect.experimenting.metric import Metric


@dataclass(frozen=True, kw_only=True, eq=False)
class Heterogeneity:
    """Effects on one metric by the values of a column.

    Args:
        column: Which column.
        metric: Which metric.
        values: Its values, in order of size.
        effects: Differences of treatment and control, shape (values,).
        errors: Their standard errors.
        users: Users of both arms of each.
        p: Chance of so much difference between slices if the effect is the same in all (Cochran's Q).
        left_out: Values with too few users to be read.
    """

    column: str
    metric: Metric
    values: tuple[str, ...]
    effects: Floats
    errors: Floats
    users: tuple[int, ...]
    p: float
    left_out: int


def heterogeneity(slices: Mapping[tuple[str, str], Mapping[str, GramSummary]], column: str, control: str, treatment: str, columns: Sequence[str],
                  metrics: Sequence[Metric]) -> tuple[Heterogeneity, ...]:
    """Of every metric, whether its effect differs between the values of a column. Values with fewer than 100 users in an arm are left out.

    Raises:
        Unavailable: Fewer than two values are left.
    """
    found: dict[str, Effects] = {}
    left_out = 0
    for (name, value), arms in slices.items():
        if name != column:
            continue
        sides = [arms.get(arm) for arm in (control, treatment)]
        if any(side is None or side.count < ENOUGH_ROWS for side in sides):
            left_out += 1
            continue
        try:
            found[value] = effects(sides[0], sides[1], columns, metrics)  # type: ignore[arg-type]
        except Unavailable:  # a denominator of about 0 in this slice
            left_out += 1
    if len(found) < 2:
        raise Unavailable(f"fewer than two values of {column!r} have {ENOUGH_ROWS} users in both arms", hint="wait for more users, or take a column of fewer values")
    ordered = sorted(found, key=lambda value: (-sum(found[value].users), value))
    users = tuple(sum(found[value].users) for value in ordered)
    result = []
    for place, metric in enumerate(metrics):
        differences = np.array([found[value].differences[place] for value in ordered])
        variance = np.array([found[value].noise[place, place] for value in ordered])
        result.append(Heterogeneity(column=column, metric=metric, values=tuple(ordered), effects=differences, errors=np.sqrt(variance), users=users,
                                    p=cochran(differences, variance), left_out=left_out))
    return tuple(result)


def cochran(differences: Floats, variance: Floats) -> float:
    """Chance of effects so different, by Cochran's Q with len - 1 degrees of freedom; 1 where nothing varies."""
    if not (variance > 0).all() or len(differences) < 2:
        return 1.0
    return chi_square_tail(cochran_q(differences, variance), len(differences) - 1)


def cochran_q(values: Floats, variance: Floats) -> float:
    """Cochran's Q: squared distances from the mean, each in its sampling variance, which is above 0."""
    precision = 1 / variance
    return float((precision * (values - np.average(values, weights=precision)) ** 2).sum())


__all__ = ["Heterogeneity", "cochran", "cochran_q", "heterogeneity"]
