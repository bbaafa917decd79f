"""Which fields changed their role from one model to the other: the share of each in what moves the score, on the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recspect.comparing.pairs import p_of_nothing
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.multiplicity import FALSE_DISCOVERIES, adjusted
from recspect.errors import SubjectError, Unavailable
from recspect.schema import Schema

if TYPE_CHECKING:
    from recspect.diagnosis.subject import TorchSubject

LEAST_CHANGE = 0.02
"""A field whose reliance changes by less, of all that moves the score, has not changed its role."""


@dataclass(frozen=True, kw_only=True)
class Role:
    """The reliance of both models on a field, each between 0 and 1, all fields summing to 1.

    Args:
        field: Its name.
        current, candidate: The reliance score of each model; 0 without an interval where a model has not the field.
        change: Candidate less current.
        rate: P-value of no change, adjusted for false discoveries over the fields.
    """

    field: str
    current: Estimate
    candidate: Estimate
    change: Estimate
    rate: float

    @property
    def changed(self) -> bool:
        """Surely, and by as much as matters."""
        return self.rate < FALSE_DISCOVERIES and abs(self.change.value) >= LEAST_CHANGE


def roles(current: TorchSubject, candidate: TorchSubject, rows: Any, schema: Schema, *, baseline_rows: Any = None, sample_rows: int = 4096, say: Callable[[str], None] = lambda _: None) -> tuple[Role, ...]:
    """The role of every field in both models, largest change first; nothing where a model cannot be looked into.

    Intervals of both are taken as independent; on the same rows they go together, so that differences are surer than told.

    Args:
        current, candidate: The models.
        rows: Rows held out from both.
        schema: What the columns mean.
        baseline_rows: Rows whose mean embedding is where every path begins, usually training rows.
        sample_rows: Rows on which contributions are measured.
        say: Told why fields are left out.
    """
    from recspect.examining.importance import importance

    found: list[dict[str, Estimate]] = []
    for subject in (current, candidate):
        try:
            scores = importance(subject, rows, schema, baseline_rows=baseline_rows, rows=sample_rows, layers=()).scores
        except (SubjectError, Unavailable) as reason:
            say(f"roles of fields are left out: {reason}")
            return ()
        found.append({score.field: score.reliance for score in scores})
    pairs = []
    for field in dict.fromkeys([*found[0], *found[1]]):
        none = Estimate(value=0.0, unit="reliance score", n=max(one.n for side in found for one in side.values()))
        one, other = (side.get(field, none) for side in found)
        error = math.hypot(one.error or 0.0, other.error or 0.0)
        value = other.value - one.value
        change = Estimate(value=value, low=value - error, high=value + error, unit="change of the reliance score", n=one.n)
        pairs.append((field, one, other, change, p_of_nothing(change)))
    rates = adjusted([p for *_, p in pairs])
    made = [Role(field=field, current=one, candidate=other, change=change, rate=rate) for (field, one, other, change, _), rate in zip(pairs, rates, strict=True)]
    return tuple(sorted(made, key=lambda role: (-abs(role.change.value), role.field)))


__all__ = ["LEAST_CHANGE", "Role", "roles"]
