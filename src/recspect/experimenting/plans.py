"""A plan in words: what is known of the metrics from an earlier period, and how many users or days follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recspect.diagnosis.diagnostics.policy import number, percent
from recspect.diagnosis.source import read, require_columns
from recspect.diagnosis.source_query import quoted
from recspect.errors import DataError, UsageError
from recspect.experimenting.arms import read_arms
from recspect.experimenting.effects import user_moments
from recspect.experimenting.metric import Metric
from recspect.experimenting.planning import Design, effect_detectable, users_needed


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What is known of a metric before the experiment.

    Args:
        name: Of the metric.
        mean: Its value.
        variance: Of a single user (linearised for ratios), what the covariate saves taken off.
        margin: Relative, of a guardrail; None for a success metric.
        saved: Share of the variance that the covariate saves.
        users: Users that it was measured on; 0 where it was given.
    """

    name: str
    mean: float
    variance: float
    margin: float | None
    saved: float
    users: int


def baselines(data: Any, *, user: str, metrics: Sequence[Metric], winsorise: float = 1.0) -> list[Baseline]:
    """Values and variances of metrics over the users of a table.

    Raises:
        DataError: A column is missing, a metric does not vary or is 0.
    """
    source = read(data)
    require_columns(source, [*([user] if user else []), *dict.fromkeys(column for metric in metrics for column in metric.columns)])
    whole = "@all"
    arms = read_arms(read(source, sql=f"SELECT *, 'all' AS {quoted(whole)} FROM data"), arm=whole, user=user, metrics=metrics, winsorise=winsorise)  # noqa: S608 - names are quoted
    if not arms.moments:
        raise DataError(f"{source.name} has no users", hint="give the rows of an earlier period")
    total = arms.total
    values, variance = user_moments(total, arms.columns, metrics)
    _, plain = user_moments(total, arms.columns, [_without_covariate(metric) for metric in metrics])
    for metric, value, spread in zip(metrics, values, variance, strict=True):
        if not spread > 0 or not value:
            raise DataError(f"metric {metric.name!r} has mean {value:g} and variance {spread:g} between users", hint="a metric that varies and is not 0")
    return [Baseline(name=metric.name, mean=float(value), variance=float(spread), margin=metric.margin, saved=float(1 - spread / before), users=int(total.count))
            for metric, value, spread, before in zip(metrics, values, variance, np.maximum(plain, 1e-300), strict=True)]


def _without_covariate(metric: Metric) -> Metric:
    return Metric(name=metric.name, numerator=metric.numerator, denominator=metric.denominator)


def plan_lines(known: Sequence[Baseline], design: Design, *, effect: float = 0.0, users: int = 0, users_per_day: float = 0.0) -> list[str]:
    """The plan, a sentence per metric and one for the whole.

    Args:
        known: What is known of the metrics.
        design: See `Design`.
        effect: Relative gain to find; 0 where `users` is given.
        users: Users of all arms; 0 where `effect` is given.
        users_per_day: New users per day; 0 where nobody knows.

    Raises:
        UsageError: Fewer than 200 users.
    """
    if users and users < 200:
        raise UsageError(f"{users} users cannot be planned with", hint="at least 100 per arm")
    how = f"{percent(design.power, 0)} power for the decision ({percent(design.own_power, 1)} for each test), alpha {design.alpha:g}{', looked at all the time' if design.sequential else ''}"
    lines = []
    needed = []
    for one in known:
        guard = one.margin is not None
        rests = f"mean {number(one.mean)}, standard deviation {number(math.sqrt(one.variance))}{f', {percent(one.saved, 0)} of the variance saved by what users did before' if one.saved > 0.005 else ''}"
        rests += f", {one.users:,} users" if one.users else ""
        if users:
            found = effect_detectable(one.variance, users, design, guardrail=guard) / abs(one.mean)
            lines.append(f"{one.name}: {users:,} users find a relative {'loss' if guard else 'difference'} of {percent(found)} ({rests})")
        else:
            wanted = one.margin if one.margin is not None else effect
            needed.append(users_needed(one.variance, wanted * one.mean, design, guardrail=guard))
            lines.append(f"{one.name}: {needed[-1]:,} users {'show a loss of less than' if guard else 'find'} {percent(wanted)} ({rests})")
    if needed:
        lines.append(f"in all {max(needed):,} users of {design.treatments + 1} arms{_days(max(needed), users_per_day)}; {how}")
    else:
        lines.append(f"{users:,} users of {design.treatments + 1} arms{_days(users, users_per_day)}; {how}")
    return lines


def _days(users: int, users_per_day: float) -> str:
    if not users_per_day:
        return ""
    days = math.ceil(users / users_per_day)
    weeks = math.ceil(days / 7)
    return f", {days:,} days at {users_per_day:,.0f} new users per day (run whole weeks: {weeks})"


__all__ = ["Baseline", "baselines", "plan_lines"]
