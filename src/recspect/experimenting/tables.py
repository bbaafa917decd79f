"""Tables of experiments: aggregated results of any experimentation platform, one row per experiment and metric.

Two forms, told apart by their columns, both in long format (Parquet, CSV, a frame):

- effects: `experiment, metric, effect, variance` (the squared standard error), and for covariances rows with `other` and `covariance`;
- arms: `experiment, arm, metric, users, mean, variance` (of users, not of the mean), the control named `control`; with a column `time` there are several snapshots, the last of which is the
  result, and from whose steps the correlation of errors is estimated where no covariance is given.

Either may have `scene, family, start, end, maturity`, effects also `users_control, users_treatment`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import polars as pl

from recspect.diagnosis.source import Source, read
from recspect.errors import DataError, listing
from recspect.experimenting.experiment import Corpus, Experiment, Floats

EFFECTS = ("experiment", "metric", "effect", "variance")
ARMS = ("experiment", "arm", "metric", "users", "mean", "variance")
ABOUT = ("scene", "family", "start", "end", "maturity")
CONTROL = "control"


def read_experiments(data: Any, metrics: Sequence[str], *, noise_correlation: float | None = None, relative: bool = False) -> Corpus:
    """Experiments of a table, in order of their end.

    Args:
        data: A path or a frame; see the module for the columns.
        metrics: The north star and the short-term metrics; others in the table are left out.
        noise_correlation: Correlation of the errors of any two metrics, where the table gives no covariances and no snapshots.
        relative: Whether effects are log ratios to control, about relative differences (arms only; effects are taken as they are).

    Raises:
        DataError: Columns or covariances that are missing, metrics that nothing measured, values that cannot be.
    """
    source = read(data)
    columns = set(source.columns)
    form = EFFECTS if set(EFFECTS) <= columns else ARMS if set(ARMS) <= columns else None
    if form is None:
        raise DataError(f"{source.name} is no table of experiments; columns: {listing(source.columns)}", hint=f"needed: {', '.join(EFFECTS)}; or {', '.join(ARMS)}")
    rows = whole_table(source).to_dicts()
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["experiment"] is None:
            raise DataError(f"{source.name} has a row without an experiment", hint="name every experiment, or leave the row out")
        if row["metric"] is not None and str(row["metric"]) in metrics:
            grouped[str(row["experiment"])].append(row)
    if not grouped:
        found = sorted({str(row["metric"]) for row in rows})
        raise DataError(f"{source.name} measures none of {listing(metrics)}; its metrics: {listing(found)}", hint="names of the metric file and of the table have to agree")
    experiments: list[Experiment] = []
    if form is EFFECTS:
        experiments = [_of_effects(name, part, metrics, noise_correlation) for name, part in grouped.items()]
    else:
        correlation = step_correlation(grouped, metrics) if "time" in columns else None
        for name, part in grouped.items():
            experiments.extend(_of_arms(name, part, metrics, noise_correlation if correlation is None else correlation, relative=relative))
    measured = {name for experiment in experiments for name, there in zip(experiment.metrics, experiment.measured, strict=True) if there}
    missing = [name for name in metrics if name not in measured]
    if missing:
        raise DataError(f"{source.name}: no experiment measured {listing(missing)}", hint="names of the metric file and of the table have to agree")
    return Corpus.of(experiments, metrics).in_order()


def whole_table(source: Source) -> pl.DataFrame:
    """All rows and columns of a source, in memory."""
    frame = source.frame()
    found: pl.DataFrame = (pl.concat([pl.DataFrame({name: batch[name] for name in source.columns}) for batch in source.batches()]) if frame is None
                           else frame.collect(backend="polars").to_native())
    return found


def write_experiments(corpus: Corpus) -> pl.DataFrame:
    """The table in its effects form, all covariances in it, from which `read_experiments` reads the same again."""
    rows = []
    for experiment in corpus:
        about = {"experiment": experiment.name, "scene": experiment.scene, "family": experiment.family, "start": experiment.start, "end": experiment.end,
                 "maturity": experiment.maturity, "users_control": experiment.users[0], "users_treatment": experiment.users[1]}
        there = np.flatnonzero(experiment.measured)
        rows += [{**about, "metric": experiment.metrics[place], "effect": float(experiment.effects[place]), "variance": float(experiment.noise[place, place]),
                  "other": None, "covariance": None} for place in there]
        rows += [{**about, "metric": experiment.metrics[one], "effect": None, "variance": None, "other": experiment.metrics[two], "covariance": float(experiment.noise[one, two])}
                 for one in there for two in there if one < two]
    return pl.DataFrame(rows, schema_overrides={"other": pl.String, "covariance": pl.Float64, "start": pl.Datetime("us", "UTC"), "end": pl.Datetime("us", "UTC")}, infer_schema_length=None)


def step_correlation(grouped: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[str]) -> Floats:
    """Correlation of errors between metrics, from the steps that cumulative effects take between snapshots.

    Between two snapshots a cumulative total changes by what the new users did: its noise is independent of what came before, and a steady effect is small beside it. Steps are taken of
    (mean_t - mean_c) * users, divided by the standard deviation of each metric's steps in that experiment; correlations of all steps together. Shape (metrics, metrics).
    """
    scaled: list[Floats] = []
    for rows in grouped.values():
        arms = {row["arm"] for row in rows} - {CONTROL}
        for arm in arms:
            series = _snapshots(rows, arm, metrics)
            if series is None or len(series) < 4:
                continue
            steps = np.diff(series, axis=0)
            steps = steps - steps.mean(0)
            spread = steps.std(0)
            scaled.append(np.divide(steps, spread, out=np.full_like(steps, np.nan), where=spread > 0))
    if not scaled:
        raise DataError("the snapshots are too few to tell how the errors of metrics go together", hint="give covariances, or noise_correlation in the metric file")
    together = np.concatenate(scaled)
    known = ~np.isnan(together).any(1)
    if known.sum() < 10 * len(metrics):
        raise DataError(f"only {known.sum()} steps between snapshots measure all metrics", hint="give covariances, or noise_correlation in the metric file")
    found: Floats = np.corrcoef(together[known].T).reshape(len(metrics), len(metrics))
    return found


def _snapshots(rows: Sequence[Mapping[str, Any]], arm: str, metrics: Sequence[str]) -> Floats | None:
    """Cumulative totals of treatment less control, shape (times, metrics); None where they are not complete."""
    values: dict[tuple[str, Any, str], tuple[float, float]] = {(str(row["arm"]), row["time"], str(row["metric"])): (float(row["users"]), float(row["mean"])) for row in rows}
    times = sorted({row["time"] for row in rows if row["arm"] == arm})
    found = []
    for time in times:
        line = []
        for metric in metrics:
            treated, control = values.get((arm, time, metric)), values.get((CONTROL, time, metric))
            if treated is None or control is None:
                return None
            line.append((treated[1] - control[1]) * 2 / (1 / treated[0] + 1 / control[0]))
        found.append(line)
    return np.array(found) if found else None


def _of_effects(name: str, rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], correlation: float | None) -> Experiment:
    width, places = len(metrics), {metric: place for place, metric in enumerate(metrics)}
    effects, noise, covered = np.full(width, np.nan), np.full((width, width), np.nan), False
    for row in rows:
        place, other = places[str(row["metric"])], row.get("other")
        if other is not None and str(other) != str(row["metric"]):
            if str(other) in places:
                covered = True
                noise[place, places[str(other)]] = noise[places[str(other)], place] = _number(row["covariance"], f"experiment {name!r}: covariance")
        elif row["effect"] is not None:
            if not np.isnan(effects[place]):
                raise DataError(f"experiment {name!r} has two effects on {row['metric']!r}", hint="one row per experiment and metric")
            effects[place], noise[place, place] = _number(row["effect"], f"experiment {name!r}: effect"), _number(row["variance"], f"experiment {name!r}: variance")
    there = ~np.isnan(effects)
    if not covered:
        noise = _spread(noise, correlation, name, int(there.sum()))
    lacking = np.isnan(noise[np.ix_(there, there)])
    if lacking.any():
        raise DataError(f"experiment {name!r} lacks covariances of some of its metrics", hint="give all of them, or none and noise_correlation in the metric file")
    users = (int(rows[0].get("users_control") or 0), int(rows[0].get("users_treatment") or 0))
    return Experiment(name=name, metrics=tuple(metrics), effects=effects, noise=noise, users=users, **_about(name, rows[0]))


def _of_arms(name: str, rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], correlation: Floats | float | None, *, relative: bool) -> list[Experiment]:
    last = max((row["time"] for row in rows), default=None) if "time" in rows[0] else None
    places, results = {metric: place for place, metric in enumerate(metrics)}, defaultdict(lambda: np.full((3, len(metrics)), np.nan))
    latest: dict[tuple[str, str], Any] = {}
    for row in rows:
        arm, metric = str(row["arm"]), str(row["metric"])
        if last is not None and latest.get((arm, metric)) is not None and latest[arm, metric] > row["time"]:
            continue
        if last is None and not np.isnan(results[arm][0, places[metric]]):
            raise DataError(f"experiment {name!r}, arm {arm!r} has two results for {metric!r}", hint="one row per experiment, arm and metric, or a column `time`")
        latest[arm, metric] = row["time"] if last is not None else True
        results[arm][:, places[metric]] = [_number(row[column], f"experiment {name!r}: {column}") for column in ("users", "mean", "variance")]
    if CONTROL not in results:
        raise DataError(f"experiment {name!r} has no arm named {CONTROL!r}; arms: {listing(results)}", hint=f"call the arm that the others are compared with {CONTROL!r}")
    found = []
    control = results[CONTROL]
    treated = [arm for arm in results if arm != CONTROL]
    for arm in treated:
        users, mean, variance = results[arm]
        errors, reference = variance / users, control[2] / control[0]
        effects, spread = mean - control[1], errors + reference
        if relative:
            positive = (mean > 0) & (control[1] > 0)
            treated_mean, control_mean = np.where(positive, mean, np.nan), np.where(positive, control[1], np.nan)
            effects, spread = np.log(treated_mean / control_mean), errors / treated_mean**2 + reference / control_mean**2
        spread = np.where(spread > 0, spread, np.nan)  # a metric that did not vary was not measured
        effects = np.where(np.isnan(spread), np.nan, effects)
        if np.isnan(effects).all():
            continue
        noise = np.full((len(metrics), len(metrics)), np.nan)
        np.fill_diagonal(noise, spread)
        title = name if len(treated) == 1 else f"{name}: {arm}"
        about = _about(name, rows[0])
        found.append(Experiment(name=title, metrics=tuple(metrics), effects=effects, noise=_spread(noise, correlation, name, int((~np.isnan(effects)).sum())),
                                users=(int(np.nanmax(control[0])), int(np.nanmax(users))), **{**about, "family": about["family"] or (name if len(treated) > 1 else "")}))
    return found


def _spread(noise: Floats, correlation: Floats | float | None, name: str, measured: int) -> Floats:
    """Covariances from variances and a correlation."""
    if correlation is None:
        if measured <= 1:
            return noise
        raise DataError(f"experiment {name!r} gives variances and no covariances: how the errors of its metrics go together is not known",
                        hint="rows with `other` and `covariance`, snapshots with `time`, or noise_correlation in the metric file")
    width = len(noise)
    matrix = np.full((width, width), correlation) if isinstance(correlation, float) else correlation.copy()
    np.fill_diagonal(matrix, 1.0)
    scale = np.sqrt(np.diag(noise))
    found: Floats = matrix * np.outer(scale, scale)
    return found


def _about(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    maturity = row.get("maturity")
    return {"scene": str(row.get("scene") or ""), "family": str(row.get("family") or ""), "start": _moment(row.get("start"), name), "end": _moment(row.get("end"), name),
            "maturity": 1.0 if maturity is None else _number(maturity, f"experiment {name!r}: maturity")}


def _moment(given: Any, name: str) -> datetime | None:
    if given is None or given == "":
        return None
    if isinstance(given, str):
        try:
            given = datetime.fromisoformat(given)
        except ValueError:
            raise DataError(f"experiment {name!r}: {given!r:.60} is no time", hint="2026-05-01, or 2026-05-01T12:00:00Z") from None
    if isinstance(given, datetime):
        return given if given.tzinfo is not None else given.replace(tzinfo=UTC)
    if isinstance(given, date):
        return datetime(given.year, given.month, given.day, tzinfo=UTC)
    raise DataError(f"experiment {name!r}: {given!r:.60} is no time", hint="2026-05-01, or 2026-05-01T12:00:00Z")


def _number(given: Any, where: str) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not np.isfinite(given):
        raise DataError(f"{where} is {given!r:.60}, expected a number")
    return float(given)


__all__ = ["ARMS", "CONTROL", "EFFECTS", "read_experiments", "step_correlation", "whole_table", "write_experiments"]
