"""Trainings with and without a remedy, held against each other: figures over several seeds and over users at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.comparing.pairs import BUCKETS, CANDIDATE, CURRENT, figures, row_gains
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.finding import Finding
from recspect.diagnosis.jackknife import estimate_of_mean, t_quantile
from recspect.errors import DataError, Unavailable
from recspect.examining.tables import labelled
from recspect.schema import Schema

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One training, as the rows of the proof see it.

    Args:
        scores: Probabilities, or values of a graded label, shape (rows,).
        findings: What the diagnostics say of it on these rows; empty where none were asked.
    """

    scores: Floats
    findings: tuple[Finding, ...] = field(default=())


Arm = Sequence[Trained]
"""Trainings of one recipe, in the order of their seeds."""


@dataclass(frozen=True, kw_only=True)
class PairedFigure:
    """One figure with and without a remedy.

    Args:
        name: `quality` (normalised entropy; for grades squared error over the variance of the label), `auc`, `calibration`, `user_auc`, ...
        before, after: Means over seeds.
        gain: How much better it is with the remedy; above 0 is better whatever the figure. Its interval covers seeds and users.
    """

    name: str
    before: float
    after: float
    gain: Estimate


def paired_figures(rows: Batch, schema: Schema, before: Arm, after: Arm, *, level: float) -> tuple[PairedFigure, ...]:
    """Every figure of two arms whose trainings are pairs: same seed, same batches.

    The variance of a gain is that over users (jackknife of each pair, the mean over pairs) plus that of the mean over seeds; degrees of freedom by Welch and
    Satterthwaite. The first is not divided by the number of seeds, as all seeds are judged on the same users.

    Raises:
        Unavailable: Too few rows, or too few of one class.
        DataError: Scores that are missing or no probabilities.
    """
    table = labelled(rows, schema)
    binary, users = schema.label.kind == "binary", schema.user is not None
    pairs = [figures(table.with_columns({CURRENT: _sound(one.scores, rows.rows, binary=binary), CANDIDATE: _sound(other.scores, rows.rows, binary=binary)}), binary=binary, users=users)
             for one, other in zip(before, after, strict=True)]
    scale = unit_of_quality(table, binary=binary)
    found = []
    for place, first in enumerate(pairs[0]):
        mine = [pair[place] for pair in pairs if len(pair) > place]
        is_quality = first.name in ("log_loss", "squared_error")
        by = scale if is_quality else 1.0
        gains = [_scaled(one.gain, by, "normalised entropy" if binary and is_quality else "share of the label's variance" if is_quality else one.gain.unit) for one in mine]
        found.append(PairedFigure(name="quality" if is_quality else first.name, before=float(np.mean([one.current for one in mine])) / by,
                                  after=float(np.mean([one.candidate for one in mine])) / by, gain=over_seeds(gains, level=level)))
    return tuple(found)


def over_seeds(gains: Sequence[Estimate], *, level: float) -> Estimate:
    """The mean of paired gains with an interval over seeds and users; see `paired_figures`."""
    values = np.array([gain.value for gain in gains])
    errors = np.array([(gain.error or 0.0) / t_quantile(gain.level, BUCKETS - 1) for gain in gains])
    of_users, of_seeds = float((errors**2).mean()), float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
    total = of_users + of_seeds
    terms = of_users**2 / (BUCKETS - 1) + (of_seeds**2 / (len(values) - 1) if len(values) > 1 else 0.0)
    freedom = int(total**2 / terms) if terms > 0 else BUCKETS - 1
    reach = t_quantile(level, max(freedom, 3)) * math.sqrt(total)
    mean = float(values.mean())
    return Estimate(value=mean, low=mean - reach, high=mean + reach, unit=gains[0].unit, n=gains[0].n, of=gains[0].of, level=level)


def beats_constant(rows: Batch, schema: Schema, arm: Arm, *, level: float) -> Estimate:
    """How much better the arm is than guessing the rate of these rows (or the mean): 1 less normalised entropy, with an interval over users."""
    table = labelled(rows, schema)
    binary = schema.label.kind == "binary"
    label = table.numbers("@label")
    constant = np.full(rows.rows, label.mean())
    gains = np.mean([row_gains(table.with_columns({CURRENT: constant, CANDIDATE: one.scores}), binary=binary)[0] for one in arm], axis=0)
    return estimate_of_mean(gains / unit_of_quality(table, binary=binary), table.buckets("@cluster", BUCKETS), unit="better than a constant, share of its loss", level=level)


def unit_of_quality(table: Batch, *, binary: bool) -> float:
    """The loss of a constant: the entropy of the rate, or the variance of grades.

    Raises:
        Unavailable: All labels are the same.
    """
    label = table.numbers("@label")
    mean = float(label.mean())
    unit = (-mean * math.log(mean) - (1 - mean) * math.log(1 - mean) if 0 < mean < 1 else 0.0) if binary else float(label.var())
    if not unit > 0:
        raise Unavailable("all labels of the rows that judge remedies are the same", hint="more rows, or another label")
    return unit


def _scaled(gain: Estimate, by: float, unit: str) -> Estimate:
    ends: dict[str, Any] = {name: None if end is None else end / by for name, end in (("low", gain.low), ("high", gain.high))}
    return Estimate(value=gain.value / by, **ends, unit=unit, n=gain.n, of=gain.of, level=gain.level)


def _sound(scores: Any, rows: int, *, binary: bool) -> Floats:
    found = np.asarray(scores, np.float64)
    if found.shape != (rows,) or not np.isfinite(found).all() or (binary and ((found < 0) | (found > 1)).any()):
        raise DataError(f"scores of shape {found.shape} for {rows:,} rows, or some that are missing{' or no probabilities' if binary else ''}",
                        hint="one finite score per row, in [0, 1] for a 0/1 label")
    return found


__all__ = ["Arm", "PairedFigure", "Trained", "beats_constant", "over_seeds", "paired_figures", "unit_of_quality"]
