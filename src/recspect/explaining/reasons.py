"""What carried a score: contributions of fields and of entries of lists, with their error bound; and why one item is above another."""

from __future__ import annotations

from typing import Any

import numpy as np

from recspect.diagnosis.batch import Batch, Ragged
from recspect.diagnosis.probes.alike import alike_baseline
from recspect.diagnosis.probes.attribution import Attribution, Baseline, integrated_gradients
from recspect.diagnosis.subject import TorchSubject
from recspect.explaining.explanation import Part, Reasons
from recspect.explaining.pairs import entries_at, value_at

VARIOUS = "..."
"""Value of a field that differs from item to item."""


def attributed(subject: TorchSubject, rows: Batch, baseline: Baseline, *, tolerance: float) -> Attribution:
    """Integrated gradients from the baseline, with as many points as the tolerance needs."""
    return integrated_gradients(subject, rows, baseline=baseline, tolerance=tolerance)


def attributed_alike(subject: TorchSubject, rows: Batch, pool: Batch, *, tolerance: float) -> Attribution:
    """Integrated gradients from the mean of other values of like frequency: what a row has that others as popular do not."""
    return integrated_gradients(subject, rows, baseline=alike_baseline(subject, rows, pool), tolerance=tolerance)


def reasons_of(found: Attribution, row: int, rows: Batch, *, is_logit: bool, last_entries: frozenset[str] = frozenset(), against: str = "mean") -> Reasons:
    """The contributions to one row.

    Args:
        found: Of the rows.
        row: Which.
        rows: Their values, for names.
        is_logit: Whether contributions are logits.
        against: See `Reasons`.
        last_entries: Lists of which the model keeps the last entries where they are too long; of others it keeps the first.
    """
    parts = [Part(field=name, value=value_at(rows[name], row) if name in rows else None, contribution=float(of[row])) for name, of in found.reliance.items()]
    entries: list[Part] = []
    for name, of in found.entries.items():
        column = rows.get(name)
        if not isinstance(column, Ragged):
            continue
        held = entries_at(column, row)
        width = int(of.shape[1])
        first = max(0, len(held) - width) if name in last_entries else 0
        entries += [Part(field=name, value=value, contribution=float(of[row, place]), entry=first + place) for place, value in enumerate(held[first:first + width])]
    return Reasons(score=float(found.score[row]), baseline=float(found.baseline[row]), bound=_bound(found, row), parts=_ordered(parts), entries=_ordered(entries), is_logit=is_logit, against=against)


def contrast_of(found: Attribution, row: int, other: int, rows: Batch, *, is_logit: bool) -> Reasons:
    """Why one row scores above another of the same user: contributions less contributions."""
    parts = []
    for name, of in found.reliance.items():
        mine, theirs = (value_at(rows[name], place) if name in rows else None for place in (row, other))
        value: Any = mine if mine == theirs else (mine, theirs)
        parts.append(Part(field=name, value=value, contribution=float(of[row] - of[other])))
    return Reasons(score=float(found.score[row] - found.score[other]), baseline=float(found.baseline[row] - found.baseline[other]), bound=_bound(found, row) + _bound(found, other),
                   parts=_ordered(parts), entries=(), is_logit=is_logit)


def whole_of(found: Attribution, rows: Batch, *, is_logit: bool, against: str) -> Reasons:
    """What a whole list rests on: mean contributions over its rows; values of fields that are the same in all of them are told."""
    parts = []
    for name, of in found.reliance.items():
        values = [value_at(rows[name], row) for row in range(rows.rows)] if name in rows else [None]
        same = all(value == values[0] for value in values)
        parts.append(Part(field=name, value=values[0] if same else VARIOUS, contribution=float(of.mean())))
    bounds = [_bound(found, row) for row in range(len(found.score))]
    return Reasons(score=float(found.score.mean()), baseline=float(found.baseline.mean()), bound=float(np.mean(bounds)), parts=_ordered(parts), entries=(), is_logit=is_logit, against=against)


def _bound(found: Attribution, row: int) -> float:
    """The estimated error of all contributions together; where it is unknown, what they fail to add up to."""
    bound = float(found.bound[row])
    return bound if np.isfinite(bound) else float(found.error[row])


def _ordered(parts: list[Part]) -> tuple[Part, ...]:
    return tuple(sorted(parts, key=lambda part: (-part.contribution, part.field)))
