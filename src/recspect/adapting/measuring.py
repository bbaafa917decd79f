"""Experiments measured from users' days: who was in which arm, which of them can be trusted, and what each treatment did to every metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

import numpy as np
import polars as pl

from recspect.adapting.held_out import SIGNIFICANT
from recspect.adapting.metric_file import PER_DAY, PER_USER, DeclaredMetric, MetricFile
from recspect.adapting.posterior import NORMAL
from recspect.adapting.user_days import DAY, EVENTS, EXPOSURES, USER, UserDays, numerator
from recspect.diagnosis.diagnostics.data.sample_ratio import chance_of_sizes
from recspect.diagnosis.diagnostics.policy import two_sided_p
from recspect.diagnosis.source import read
from recspect.diagnosis.stats.hashes import wilson
from recspect.errors import DataError, Unavailable, listing
from recspect.experimenting.arms import read_arms
from recspect.experimenting.effects import effects
from recspect.experimenting.experiment import Corpus, Experiment, Floats
from recspect.experimenting.metric import Metric
from recspect.experimenting.tables import CONTROL, whole_table

MISMATCH = 0.0005
"""Chance of arm sizes, or of exposed shares, below which an experiment is not trusted (as is usual for sample-ratio checks)."""
BOT_EVENTS = 5_000
"""Events of one day beyond which a user is taken for a machine."""
ASSIGNED = ("experiment", "user", "arm", "start")
WIDTH = 1e-9


@dataclass(frozen=True)
class Measured:
    """What came out.

    Args:
        corpus: Experiments that can be trusted.
        left_out: Name of each other comparison to the reason.
    """

    corpus: Corpus
    left_out: Mapping[str, str]


def measure(days: UserDays, assignments: Any, file: MetricFile, *, shares: Mapping[str, float] | None = None, stored: Callable[[str], str] | None = None) -> Measured:
    """Effects and their noise for every experiment of a table of assignments.

    A user counts from the day of assignment until the experiment's `end` (where the table gives one), for the north star until its window has passed; days of users that had no event count as nothing
    done. A user in two arms of an experiment is left out of it.

    Args:
        days: What users did.
        assignments: Table with `experiment, user, arm, start` (when the user was assigned), the arm to compare with named `control`; `end`, `scene` and `family` where known.
        file: What is measured, how it is cut, and whether effects are relative.
        shares: Share of users that each arm was meant to have; equal where not given.
        stored: What the events call a user of the assignments, such as `EventStore.stored_user`; the same where not given.

    Raises:
        DataError: Columns that are missing.
    """
    source = read(assignments)
    lacking = [needed for needed in ASSIGNED if needed not in source.columns]
    if lacking:
        raise DataError(f"{source.name} lacks the columns {listing(lacking)} of assignments", hint=f"needed: {', '.join(ASSIGNED)}")
    table = whole_table(source)
    table = table.with_columns(pl.col(USER).cast(pl.String), pl.col("experiment").cast(pl.String), pl.col("arm").cast(pl.String), _as_date(table, "start"), *([_as_date(table, "end")] if "end" in table.columns else []))
    if stored is not None:
        names = table[USER].unique().to_list()
        table = table.with_columns(pl.col(USER).replace_strict(names, [stored(name) for name in names], return_dtype=pl.String))
    bots = days.frame.filter(pl.col(EVENTS) > BOT_EVENTS)[USER].unique()
    found, left_out = [], {}
    for (name,), part in table.filter(~pl.col(USER).is_in(bots.implode())).group_by("experiment", maintain_order=True):
        users = part.group_by(USER).agg(pl.col("arm").first(), pl.col("arm").n_unique().alias("arms"), pl.col("start").min()).filter(pl.col("arms") == 1)
        arms = sorted(users["arm"].unique())
        if CONTROL not in arms or len(arms) < 2:
            left_out[str(name)] = f"its arms are {listing(arms)}: one named {CONTROL!r} and another are needed"
            continue
        about = {key: str(part[key].drop_nulls().first() or "") if key in part.columns else "" for key in ("scene", "family")}
        end = part["end"].max() if "end" in part.columns else None
        values = _per_user(days, users, file, end)
        for arm in arms:
            if arm == CONTROL:
                continue
            title = str(name) if len(arms) == 2 else f"{name}: {arm}"
            pair = values.filter(pl.col("arm").is_in([CONTROL, arm]))
            reason = distrust(pair, arm, shares)
            if reason:
                left_out[title] = reason
                continue
            try:
                found.append(_experiment(title, pair, arm, file, days, users, end, {**about, "family": about["family"] or (str(name) if len(arms) > 2 else "")}))
            except Unavailable as error:
                left_out[title] = error.reason
            except DataError as error:
                left_out[title] = error.message
    return Measured(Corpus(tuple(found)).in_order(), left_out)


def distrust(users: pl.DataFrame, arm: str, shares: Mapping[str, float] | None = None) -> str:
    """Why two arms cannot be compared, or an empty text: their sizes are not as meant, or one sees lists more often than the other.

    Args:
        users: One row per user with `arm` and `exposed` (0 or 1).
        arm: The treatment.
        shares: Meant shares; equal where not given.
    """
    sizes = np.array([users.filter(pl.col("arm") == name).height for name in (CONTROL, arm)], np.float64)
    meant = np.array([1.0, 1.0] if shares is None else [shares.get(CONTROL, 0.0), shares.get(arm, 0.0)])
    p = chance_of_sizes(sizes, meant / meant.sum())
    if p < MISMATCH:
        return f"sample ratio: {sizes[0]:,.0f} users of {CONTROL} and {sizes[1]:,.0f} of {arm}, chance {p:.2g}"
    exposed = np.array([users.filter(pl.col("arm") == name)["exposed"].mean() or 0.0 for name in (CONTROL, arm)], np.float64)
    pooled = float((exposed * sizes).sum() / sizes.sum())
    error = (pooled * (1 - pooled) * (1 / sizes).sum()) ** 0.5
    p = two_sided_p((exposed[1] - exposed[0]) / error) if error > 0 else 1.0
    return f"exposures: {exposed[0]:.2%} of the users of {CONTROL} and {exposed[1]:.2%} of {arm} saw anything, chance {p:.2g}" if p < MISMATCH else ""


def null_significance(z: Floats) -> tuple[float, float, float, float]:
    """How A/A tests came out: share of |z| > 1.96 with its 95% interval (Wilson), and the chance of z values so far from normal (Kolmogorov).

    Args:
        z: Effects in standard errors of experiments in which nothing was changed, shape (experiments,).

    Returns:
        Share, low, high, and the chance; a share outside [0.04, 0.06] with an interval that excludes 0.05, or a chance below 0.01, says that errors are computed wrongly.
    """
    n = len(z)
    share = float((np.abs(z) > SIGNIFICANT).mean())
    low, high = wilson(share, n, 0.95)
    ranks = np.array([NORMAL.cdf(float(one)) for one in np.sort(z)])
    distance = max(float((np.arange(1, n + 1) / n - ranks).max()), float((ranks - np.arange(n) / n).max()))
    at = (n**0.5 + 0.12 + 0.11 / n**0.5) * distance  # Stephens 1970
    chance = float(np.clip(2 * sum((-1) ** (k - 1) * np.exp(-2 * k * k * at * at) for k in range(1, 101)), 0.0, 1.0)) if at > 0.2 else 1.0
    return share, low, high, chance


def _as_date(table: pl.DataFrame, name: str) -> pl.Expr:
    kind = table.schema[name]
    return pl.col(name).str.to_datetime(time_zone="UTC", strict=False).dt.date() if kind == pl.String else pl.col(name).cast(pl.Date)


def _per_user(days: UserDays, users: pl.DataFrame, file: MetricFile, end: Any) -> pl.DataFrame:
    """One row per user: arm, exposed, and a numerator and denominator per metric, those before the experiment too where CUPED is asked for."""
    joined = days.frame.join(users.select(USER, "arm", "start"), on=USER, how="inner")
    age = (pl.col(DAY) - pl.col("start")).dt.total_days()
    after, short = age >= 0, pl.lit(value=True) if end is None else pl.col(DAY) <= end
    asked = [(age >= 0).and_(pl.col(EXPOSURES) > 0).any().cast(pl.Float64).alias("exposed")]
    for place, metric in enumerate(file.all):
        within = after & (age < file.window_days) if place == 0 else after & short
        asked += _sums(metric, f"m{place}", within)
        if file.cuped_days:
            asked += _sums(metric, f"b{place}", (age < 0) & (age >= -file.cuped_days))
    found = users.select(USER, "arm").join(joined.group_by(USER).agg(asked), on=USER, how="left").fill_null(0.0)
    return found.with_columns(pl.col(f"{prefix}{place}").clip(upper_bound=pl.col(f"{prefix}{place}").quantile(metric.winsorise, "higher"))
                              for prefix in ("m", *(["b"] if file.cuped_days else [])) for place, metric in enumerate(file.all) if metric.measure != "any" and metric.winsorise < 1)


def _sums(metric: DeclaredMetric, name: str, within: pl.Expr) -> list[pl.Expr]:
    top = pl.col(numerator(metric)).filter(within)
    if metric.measure == "any":
        top = (top > 0).any().cast(pl.Float64) if metric.per == PER_USER else (top > 0).sum().cast(pl.Float64)
    else:
        top = top.sum()
    found = [top.alias(name)]
    if metric.per == PER_DAY:
        found.append(within.sum().cast(pl.Float64).alias(f"{name}.per"))
    elif metric.per != PER_USER:
        found.append(pl.col(f"{metric.per}.count").filter(within).sum().alias(f"{name}.per"))
    return found


def _experiment(title: str, users: pl.DataFrame, arm: str, file: MetricFile, days: UserDays, assigned: pl.DataFrame, end: Any, about: dict[str, str]) -> Experiment:
    varying = [place for place, _ in enumerate(file.all) if _varies(users, f"m{place}")]
    if not varying:
        raise Unavailable("none of the metrics varied")
    metrics = [Metric(name=metric.name, numerator=f"m{place}", denominator=f"m{place}.per" if f"m{place}.per" in users.columns else "",
                      covariate=f"b{place}" if file.cuped_days and _varies(users, f"b{place}") else "",
                      covariate_denominator=f"b{place}.per" if file.cuped_days and f"m{place}.per" in users.columns and _varies(users, f"b{place}") else "")
               for place, metric in enumerate(file.all) if place in varying]
    arms = read_arms(users, arm="arm", metrics=metrics)
    found = effects(arms.moments[CONTROL], arms.moments[arm], arms.columns, metrics, pooled=arms.total)
    last = assigned["start"].max()
    waited = (min(days.last, days.log_end) - last) / timedelta(days=1) + 1
    start = datetime.combine(assigned["start"].min(), time(), UTC)
    finish = datetime.combine(end if end is not None else days.last, time(), UTC)
    record = found.experiment(title, relative=file.effect == "relative", start=start, end=finish, maturity=float(np.clip(waited / file.window_days, 0.0, 1.0)), **about)
    return record.of_metrics(file.names)


def _varies(users: pl.DataFrame, name: str) -> bool:
    spread = users[name].std()
    return spread is not None and float(spread) > WIDTH


__all__ = ["Measured", "distrust", "measure", "null_significance"]
