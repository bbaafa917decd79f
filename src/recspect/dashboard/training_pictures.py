"""Pictures of a training from its rows alone, while it goes on and after: what went on in every layer over the steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recspect.diagnosis.evidence import Curve, DistributionPair, Evidence, HeatMap, Line
from recspect.diagnosis.finding import Finding, Verdict

STAGE = "training"
MOST_PLACES = 16
"""Layers or parameters in one heat map; those that vary most are shown."""
MOST_COLUMNS = 24
"""Stretches of steps in a heat map."""
ALARM = "!"
"""Behind the steps in which something happened, in a heat map."""
MOST_POINTS = 400
"""Points of a line."""


@dataclass(frozen=True, kw_only=True)
class Map:
    """One heat map of places over steps.

    Args:
        series: In steps.parquet.
        title: The question.
        unit: Of the colour.
        logarithm: Whether the colour is the decimal logarithm.
    """

    series: str
    title: str
    unit: str
    logarithm: bool = False


MAPS = (
    Map(series="gradient_norm", title="Where do gradients vanish or explode?", unit="log10 of the gradient's norm", logarithm=True),
    Map(series="update_ratio", title="How large are the updates beside the weights?", unit="log10 of update / weights", logarithm=True),
    Map(series="activation_deviation", title="How far do the activations of each layer spread?", unit="standard deviation"),
    Map(series="dead_share", title="In which layers are units dead?", unit="share of units"),
    Map(series="saturated_share", title="In which layers are units saturated?", unit="share of arguments at the flat ends"),
    Map(series="effective_rank_share", title="How much of the width of each table is used?", unit="effective rank / width of the rows touched"),
    Map(series="layer_auc/held_out", title="How much does each layer know about the label?", unit="AUC of a linear probe on held-out rows"),
)


def pictures(steps: pa.Table, findings: Sequence[Finding] = ()) -> list[Evidence]:
    """The pictures, in the order in which somebody looks.

    Args:
        steps: Columns step, epoch, series, place, value.
        findings: Of the training; what happened at a step is marked there.
    """
    alarms = tuple(sorted({(float(f.place.name), f.code.split(".")[-1].replace("_", " ")) for f in findings
                           if f.place.kind == "step" and f.place.name.isdecimal() and f.verdict in (Verdict.FAIL, Verdict.WARN)}))
    shown: list[Evidence] = []
    losses = _lines(steps, ("loss/train", "loss/validation", "loss/test"))
    if losses:
        shown.append(Curve(title="How does the loss fall?", x_title="step", y_title="loss", lines=losses, marks=(*_epoch_ends(steps), *alarms), stage=STAGE,
                           caption=_looked(steps)))
    for measure, unit in (("auc", "AUC"), ("rmse", "RMSE")):
        quality = _lines(steps, (f"{measure}/train", f"{measure}/validation", f"{measure}/test"))
        if quality:
            shown.append(Curve(title=f"How good is it after each epoch ({unit})?", x_title="step", y_title=unit, lines=quality, marks=alarms, stage=STAGE,
                               caption="test rows are shown, never used to choose"))
    norms = _lines(steps, ("gradient_norm", "weight_norm"))
    if norms:
        shown.append(Curve(title="How large are gradients and weights as a whole?", x_title="step", y_title="Euclidean norm", lines=norms, log_y=_positive(norms),
                           marks=alarms, stage=STAGE))
    return [*shown, *(heat for one in MAPS if (heat := _heat_map(steps, one, alarms)) is not None)]


def distributions(histograms: pa.Table, number: int | None) -> tuple[list[Evidence], list[int], int | None]:
    """What the distributions were at a step, each beside the first one of its place.

    Args:
        histograms: Columns step, series, place, edges, counts.
        number: Which of the steps of which there are histograms, from 0; None for the last, as for a number beyond it.

    Returns:
        The pictures, the steps of which there are histograms, and the one that is shown; None where there are none.
    """
    at = sorted(pc.unique(histograms["step"]).to_pylist())
    if not at:
        return [], [], None
    chosen = at[-1] if number is None else at[min(number, len(at) - 1)]
    first: dict[tuple[str, str], dict[str, list[float]]] = {}
    now: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in histograms.filter(pc.is_in(histograms["step"], pa.array([at[0], chosen], pa.int64()))).to_pylist():
        key = (row["series"], row["place"])
        if row["step"] == at[0]:
            first[key] = row
        if row["step"] == chosen:
            now[key] = row
    shown: list[Evidence] = []
    for (series, place), row in sorted(now.items()):
        if (series, place) in first and len(shown) < MOST_PLACES * 2:
            shown.append(_pair(series, place, row, first[series, place], chosen, at[0]))
    return shown, at, chosen


def compared(steps: Sequence[tuple[str, pa.Table]]) -> list[Evidence]:
    """Two trainings or more over the same axes, by name."""
    shown: list[Evidence] = []
    for series, title, unit in (("loss/validation", "Whose validation loss falls lower?", "loss"), ("auc/validation", "Whose validation AUC rises higher?", "AUC"),
                                ("rmse/validation", "Whose validation RMSE falls lower?", "RMSE"), ("loss/train", "Whose training loss falls lower?", "loss")):
        lines = []
        for k, (name, table) in enumerate(steps):
            lines += [Line(name=name, x=line.x, y=line.y, role="target" if k else "reference") for line in _lines(table, (series,))]
        if len(lines) > 1:
            shown.append(Curve(title=title, x_title="step", y_title=unit, lines=tuple(lines), stage=STAGE))
    return shown


# ---------------------------------------------------------------------- details


def _rows(steps: pa.Table, series: str) -> pa.Table:
    return steps.filter(pc.equal(steps["series"], series))


def _lines(steps: pa.Table, names: Iterable[str]) -> tuple[Line, ...]:
    lines = []
    for series in names:
        rows = _rows(steps, series)
        rows = rows.filter(pc.equal(rows["place"], ""))
        x, y = rows["step"].to_numpy(), rows["value"].to_numpy()
        if len(x):
            x, y = _thinned(x.astype(np.float64), y)
            lines.append(Line(name=series.replace("/", ", ").replace("_", " "), x=tuple(x.tolist()), y=tuple(y.tolist()),
                              role="reference" if series.endswith("/train") or series == "weight_norm" else "target"))
    return tuple(lines)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over stretches where there are too many points to draw; the first and the last point stay."""
    if len(x) <= MOST_POINTS:
        return x, y
    inner = np.array_split(np.arange(1, len(x) - 1), MOST_POINTS - 2)
    means = np.array([[x[part].mean(), y[part].mean()] for part in inner])
    return np.concatenate([x[:1], means[:, 0], x[-1:]]), np.concatenate([y[:1], means[:, 1], y[-1:]])


def _positive(lines: Sequence[Line]) -> bool:
    return all(value > 0 for line in lines for value in line.y if math.isfinite(value))


def _epoch_ends(steps: pa.Table) -> tuple[tuple[float, str], ...]:
    rows = _rows(steps, "loss/train")
    if not rows.num_rows:
        return ()
    ends = rows.group_by("epoch").aggregate([("step", "max")]).sort_by("epoch").to_pylist()
    return tuple((float(row["step_max"]), f"epoch {row['epoch']} ends") for row in ends[:-1])[-12:]


def _looked(steps: pa.Table) -> str:
    looks = len(pc.unique(steps["step"]))
    return f"{looks:,} of {pc.max(steps['step']).as_py():,} steps were looked at"


def _heat_map(steps: pa.Table, one: Map, alarms: Sequence[tuple[float, str]] = ()) -> HeatMap | None:
    rows = _rows(steps, one.series)
    rows = rows.filter(pc.not_equal(rows["place"], ""))
    if not rows.num_rows:
        return None
    step, place, value = rows["step"].to_numpy(), rows["place"].to_numpy(zero_copy_only=False), rows["value"].to_numpy()
    if one.logarithm:
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.where(value > 0, np.log10(value), np.nan)
    names, which = np.unique(place, return_inverse=True)
    at, column = np.unique(step, return_inverse=True)
    groups = np.array_split(np.arange(len(at)), min(MOST_COLUMNS, len(at)))
    group = np.repeat(np.arange(len(groups)), [len(part) for part in groups])[column]
    known = np.isfinite(value)
    cell = which[known] * len(groups) + group[known]
    count = np.bincount(cell, minlength=len(names) * len(groups))
    total = np.bincount(cell, value[known], minlength=len(names) * len(groups))
    means = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0).reshape(len(names), len(groups))
    measured = (count.reshape(len(names), -1) > 0).sum(axis=1)
    filled = np.where(np.isnan(means), 0.0, means)
    mean = filled.sum(axis=1) / np.maximum(1, measured)
    spread = np.where(np.isnan(means), 0.0, (means - mean[:, None]) ** 2).sum(axis=1)
    kept = np.sort(np.argsort(-spread, kind="stable")[:MOST_PLACES])
    notes = [f"the {len(kept)} of {len(names)} places that vary most"] if len(kept) < len(names) else []
    ends = [int(at[part[-1]]) for part in groups]
    marked = {k: (moment, what) for moment, what in alarms if (k := int(np.searchsorted(ends, moment))) < len(ends)}
    notes += [f"{ALARM}: {what} at step {moment:,.0f}" for moment, what in marked.values()]
    return HeatMap(title=one.title, unit=one.unit, rows=tuple(names[kept].tolist()), columns=tuple(f"{end:,}{f' {ALARM}' if k in marked else ''}" for k, end in enumerate(ends)),
                   values=tuple(tuple(row) for row in means[kept].tolist()), column_title="up to step", caption="; ".join(notes), stage=STAGE)


def _pair(series: str, place: str, now: dict[str, list[float]], first: dict[str, list[float]], step: int, first_step: int) -> DistributionPair:
    """Both over the same bins, those of the two that reach further on either side."""
    low, high = min(now["edges"][0], first["edges"][0]), max(now["edges"][-1], first["edges"][-1])
    edges = np.linspace(low, high if high > low else low + 1.0, 21)
    return DistributionPair(title=f"{series.capitalize()} of {place or 'the whole model'}: has its distribution moved?", x_title=series,
                            bins=tuple(f"{left:.3g}" for left in edges[:-1]), target=_rebinned(now, edges), reference=_rebinned(first, edges),
                            target_name=f"step {step:,}", reference_name=f"step {first_step:,}", stage=STAGE,
                            caption=f"{int(sum(now['counts'])):,} numbers")


def _rebinned(row: dict[str, list[float]], edges: np.ndarray) -> tuple[float, ...]:
    """Shares per bin, each old bin spread evenly over where it lies."""
    counts, old = np.asarray(row["counts"], dtype=np.float64), np.asarray(row["edges"], dtype=np.float64)
    total = counts.sum()
    if old[-1] <= old[0]:  # a constant
        shares = np.histogram([old[0]], edges)[0] * 1.0
    else:
        cumulative = np.concatenate([[0.0], np.cumsum(counts)])
        shares = np.diff(np.interp(edges, old, cumulative))
    total = shares.sum() or 1.0
    return tuple((shares / total).tolist())


__all__ = ["compared", "distributions", "pictures"]
