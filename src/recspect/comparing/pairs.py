"""Two models' scores of the same rows: every figure as a gain of the candidate over the current model, with an interval that leaves out the same users on both sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.policy import (
    ENOUGH_OF_A_CLASS,
    ENOUGH_ROWS,
    require_classes,
    require_rows,
    two_sided_p,
)
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.jackknife import estimate_of_mean, jackknife, t_quantile
from recspect.diagnosis.multiplicity import adjusted
from recspect.diagnosis.stat import Bucketed, category_name
from recspect.diagnosis.stats.hashes import wilson
from recspect.diagnosis.stats.measures import NDCG, AreaUnderCurve
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.diagnosis.stats.score_label import ScoreLabel, ScoreLabelSummary
from recspect.errors import Unavailable
from recspect.experimenting.experiment import Floats

CANDIDATE, CURRENT = "@score", "@score:other"
BUCKETS = 50
MOST_VALUES = 100
"""Fields of more values are not looked at value by value."""
FEWEST_OF_USER = 5
"""Rows that a user needs to be said to gain or lose."""
_CLIP = 1e-15


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of both models.

    Args:
        name: Such as "log_loss".
        current, candidate: Its values.
        gain: How much better the candidate is, above 0 for better whatever the figure.
        p: Two-sided, of no difference.
    """

    name: str
    current: float
    candidate: float
    gain: Estimate
    p: float


@dataclass(frozen=True, kw_only=True)
class SliceGain:
    """What the candidate does to the loss of a slice.

    Args:
        field, value: The slice.
        gain: Mean loss of the current model less that of the candidate, per row.
        relative: The same over the current model's mean loss.
        p, rate: Two-sided, and adjusted for false discoveries over all slices.
        rows: How many.
        positives: Of these, with a positive label; 0 for grades.
    """

    field: str
    value: str
    gain: Estimate
    relative: float
    p: float
    rate: float
    rows: int
    positives: int

    @property
    def name(self) -> str:
        """field=value."""
        return f"{self.field}={self.value}"


@dataclass(frozen=True, kw_only=True)
class UserGains:
    """Who gains and who loses, of users with at least five rows.

    Args:
        better, worse: Share of users whose mean loss falls, and rises.
        quantiles: 5%, 25%, 50%, 75% and 95% quantile of a user's gain.
        users: How many.
    """

    better: Estimate
    worse: Estimate
    quantiles: tuple[float, ...]
    users: int


def row_gains(rows: Batch, *, binary: bool) -> tuple[Floats, Floats]:
    """Loss of the current model less that of the candidate, and loss of the current model, shape (rows,) each: log loss, or squared error for grades."""
    label = rows.numbers("@label")
    losses = []
    for column in (CURRENT, CANDIDATE):
        score = rows.numbers(column)
        if binary:
            score = np.clip(score, _CLIP, 1 - _CLIP)
            losses.append(-np.log(np.where(label == 1, score, 1 - score)))
        else:
            losses.append((score - label) ** 2)
    return losses[0] - losses[1], losses[0]


def figures(rows: Batch, *, binary: bool, users: bool) -> tuple[Figure, ...]:
    """All figures of both models.

    Args:
        rows: With @label, @cluster, @score (the candidate's) and @score:other (the current model's).
        binary: Whether the label is 0/1.
        users: Whether @cluster is a user, so that lists of users can be judged.

    Raises:
        Unavailable: Too few rows, or too few of one class.
    """
    if not binary:
        require_rows(rows.rows, "the compared rows")
        gain, loss = row_gains(rows, binary=False)
        found = estimate_of_mean(gain, rows.buckets("@cluster", BUCKETS), unit="squared error")
        return (Figure(name="squared_error", current=float(loss.mean()), candidate=float((loss - gain).mean()), gain=found, p=p_of_nothing(found)),)
    ours, theirs = (Bucketed(stat=ScoreLabel(score=column), by="@cluster", buckets=BUCKETS).summarize(rows) for column in (CANDIDATE, CURRENT))
    total: ScoreLabelSummary = ours.total
    require_classes(total.positive, total.count, "the compared rows")
    wanted: list[tuple[str, Callable[[ScoreLabelSummary], float], float]] = [("log_loss", lambda s: s.log_loss, -1.0), ("auc", lambda s: s.auc, 1.0), ("calibration", _miscalibration, -1.0)]
    found_ = []
    for name, value, sign in wanted:
        gain_ = jackknife([ours, theirs], lambda t, value=value, sign=sign: sign * (value(t[0]) - value(t[1])), unit=UNITS[name], n=int(total.count))  # type: ignore[misc]
        found_.append(Figure(name=name, current=value(theirs.total), candidate=value(total), gain=gain_, p=p_of_nothing(gain_)))
    return (*found_, *(_of_lists(rows) if users else ()))


UNITS = {"log_loss": "nats of log loss", "auc": "AUC", "calibration": "|ln(predicted / observed)|", "user_auc": "mean AUC per user", "ndcg@10": "mean NDCG@10 per user", "squared_error": "squared error"}
"""Names of the figures, and what their gains count."""


def _miscalibration(summary: ScoreLabelSummary) -> float:
    ratio = summary.calibration_ratio
    return abs(float(np.log(ratio))) if ratio > 0 else np.nan


def _of_lists(rows: Batch) -> list[Figure]:
    """AUC and NDCG@10 of users' lists; nothing where hardly any user has both classes."""
    measures = (AreaUnderCurve(), NDCG(k=10))
    ours, theirs = (Bucketed(stat=PerUnit(unit="@cluster", measures=measures, score=column), by="@cluster", buckets=BUCKETS).summarize(rows) for column in (CANDIDATE, CURRENT))
    found = []
    for name, measure in (("user_auc", "AUC"), ("ndcg@10", "NDCG@10")):
        users = ours.total.of(measure).defined
        if users < ENOUGH_ROWS:
            continue
        gain = jackknife([ours, theirs], lambda t, measure=measure: t[0].mean(measure) - t[1].mean(measure), unit=UNITS[name], n=int(users), of="users")  # type: ignore[misc]
        found.append(Figure(name=name, current=theirs.total.mean(measure), candidate=ours.total.mean(measure), gain=gain, p=p_of_nothing(gain)))
    return found


def slice_gains(rows: Batch, fields: Sequence[str], *, binary: bool) -> tuple[SliceGain, ...]:
    """The gain in every value of every field with at most 100 values; those with fewer than 100 rows (or 30 positives) are left out. Largest loss first."""
    gain, loss = row_gains(rows, binary=binary)
    label, which = rows.numbers("@label"), rows.buckets("@cluster", BUCKETS)
    found: list[dict[str, Any]] = []
    for field in fields:
        column = rows.categories(field)
        if len(column.values) > MOST_VALUES:
            continue
        for code in range(-1, len(column.values)):
            mine = column.codes == code
            count, positives = int(mine.sum()), int((label[mine] == 1).sum()) if binary else 0
            if count < ENOUGH_ROWS or count == rows.rows or (binary and positives < ENOUGH_OF_A_CLASS):
                continue
            estimate = estimate_of_mean(gain[mine], which[mine], unit=UNITS["log_loss" if binary else "squared_error"])
            found.append({"field": field, "value": "" if code < 0 else category_name(column.values[code]), "gain": estimate, "p": p_of_nothing(estimate), "rows": count, "positives": positives,
                          "relative": estimate.value / float(loss[mine].mean()) if loss[mine].mean() > 0 else 0.0})
    rates = adjusted([one["p"] for one in found])
    return tuple(sorted((SliceGain(**one, rate=rate) for one, rate in zip(found, rates, strict=True)), key=lambda one: (one.relative, one.name)))


def user_gains(rows: Batch, *, binary: bool) -> UserGains:
    """Who gains and who loses.

    Raises:
        Unavailable: Fewer than 100 users have five rows.
    """
    gain, _ = row_gains(rows, binary=binary)
    codes = np.unique(rows.hashes("@cluster"), return_inverse=True)[1]
    count = np.bincount(codes)
    enough = count >= FEWEST_OF_USER
    if enough.sum() < ENOUGH_ROWS:
        raise Unavailable(f"only {enough.sum():,} users have {FEWEST_OF_USER} rows; {ENOUGH_ROWS} are needed to say who gains", hint="give more rows of the same users")
    mean = (np.bincount(codes, weights=gain) / count)[enough]
    users = int(enough.sum())
    shares = {name: float(hit.mean()) for name, hit in (("better", mean > 0), ("worse", mean < 0))}
    estimates = {name: _share(share, users, f"share of users who {'gain' if name == 'better' else 'lose'}") for name, share in shares.items()}
    return UserGains(better=estimates["better"], worse=estimates["worse"], quantiles=tuple(np.quantile(mean, (0.05, 0.25, 0.5, 0.75, 0.95)).tolist()), users=users)


def _share(share: float, n: int, unit: str) -> Estimate:
    low, high = wilson(share, n, 0.95)
    return Estimate(value=share, low=low, high=high, unit=unit, n=n, of="users")


def p_of_nothing(gain: Estimate) -> float:
    """Two-sided, of a gain of 0, from the width of its 95% interval (Student t of 49 degrees of freedom)."""
    if not gain.error:
        return 1.0 if gain.value == 0 or gain.error is None else 0.0
    return two_sided_p(gain.value / (gain.error / t_quantile(0.95, BUCKETS - 1)), BUCKETS - 1)


def in_words(figure: Figure) -> str:
    """The figure of both, such as "AUC 0.7312 against 0.7301"."""
    digits = 4 if abs(figure.candidate) < 10 else 2
    return f"{figure.name} {figure.candidate:.{digits}f} against {figure.current:.{digits}f}"


__all__ = ["CANDIDATE", "CURRENT", "UNITS", "Figure", "SliceGain", "UserGains", "figures", "in_words", "p_of_nothing", "row_gains", "slice_gains", "user_gains"]
