"""Exact Shapley values of fields: every coalition of fields is scored, absent fields being at their baseline.

Shapes: B rows, F fields (or groups of fields, the players), 2^F coalitions.

The value of a player is its mean contribution over all orders in which players can enter: phi_f = sum over S without f of |S|! (F - |S| - 1)! / F! (v(S + f) - v(S)).
Nothing is sampled and nothing integrated, so this is what other methods can be held against. It costs 2^F forward passes per row: 256 for 8 fields, 4,096 for 12.

Sources: Shapley 1953; Lundberg and Lee 2017, "A Unified Approach to Interpreting Model Predictions" (values of a score); Covert, Lundberg and Lee 2020 (SAGE: values of the loss).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np
import torch
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Column
from recspect.diagnosis.lookups import undisturbed
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.probes.attribution import Baseline, zero_baseline
from recspect.diagnosis.probes.field_points import FieldPoints
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import UsageError, listing

Floats = NDArray[np.float64]

MOST_PLAYERS = 12
"""4,096 coalitions per row."""

_CHUNK_ROWS = 64


def coalitions(players: int) -> NDArray[np.bool_]:
    """Who is in each coalition, shape (2^F, F): coalition m holds player f where bit f of m is 1."""
    return (np.arange(2**players)[:, None] >> np.arange(players)) % 2 == 1


def shapley_values(worth: Floats) -> Floats:
    """Shapley values from the worth of every coalition.

    Args:
        worth: Of each coalition in the order of `coalitions`, shape (2^F, ...).

    Returns:
        Shape (F, ...); their sum is the worth of all less that of none.

    Raises:
        UsageError: The number of coalitions is no power of 2.

    Example:
        >>> shapley_values(np.array([0.0, 1.0, 1.0, 4.0])).tolist()
        [2.0, 2.0]
    """
    players = int(worth.shape[0]).bit_length() - 1
    if worth.shape[0] != 2**players:
        raise UsageError(f"{worth.shape[0]} coalitions, expected a power of 2", hint="give the worth of every coalition, the empty one first")
    inside = coalitions(players)
    size = inside.sum(1)
    found = np.empty((players, *worth.shape[1:]))
    for f in range(players):
        without = np.flatnonzero(~inside[:, f])
        weight = np.array([factorial(s) * factorial(players - s - 1) / factorial(players) for s in size[without]])
        found[f] = np.tensordot(weight, worth[without + 2**f] - worth[without], axes=1)
    return found


@dataclass(frozen=True)
class FieldShapley:
    """Exact Shapley values per row.

    Args:
        players: Names of fields or groups.
        value: Of the logit (or the predicted value), shape [F, B].
        usefulness: Of the loss with the other sign, nats (or squared units), shape [F, B]; None without labels.
        score, baseline: The logit with all fields and with none, shape [B].
    """

    players: tuple[str, ...]
    value: Floats
    usefulness: Floats | None
    score: Floats
    baseline: Floats


def field_shapley(subject: TorchSubject, batch: Batch, *, baseline: Baseline | None = None, groups: Mapping[str, Sequence[str]] | None = None,
                  label: Floats | None = None) -> FieldShapley:
    """Exact Shapley values of all fields for every row.

    Args:
        subject: The model.
        batch: The rows.
        baseline: What an absent field is; default zero.
        groups: Name to fields that enter together as one player; fields in none are players of their own.
        label: 0/1 for a model with a logit, else the target value, shape [B].

    Raises:
        UsageError: More than 12 players, or a group of fields that the model does not have.
        SubjectError: Lookups cannot be told.
    """
    sites = subject.sites(batch)
    baseline = baseline or zero_baseline(sites)
    players = players_of(sites.fields, groups)
    inside = coalitions(len(players))
    membership = np.array([[field in own for field in sites.fields] for own in players.values()], dtype=np.float64).reshape(len(players), len(sites.fields))
    points = torch.from_numpy(inside.astype(np.float64) @ membership)
    values, losses = [], []
    with undisturbed(subject.model, naming=False) as stack:
        for rows, chunk in FieldPoints.chunks(subject, stack, batch, baseline, rows=_CHUNK_ROWS):
            worth = chunk.values(points).double().cpu().numpy()
            values.append(worth)
            if label is not None:
                losses.append(row_loss(worth, label[rows], has_logit=chunk.has_logit))
    worth = np.concatenate(values, 1) if values else np.zeros((2 ** len(players), 0))
    usefulness = None if label is None else -shapley_values(np.concatenate(losses, 1) if losses else worth)
    return FieldShapley(tuple(players), shapley_values(worth), usefulness, worth[-1], worth[0])


def row_loss(out: Floats, label: Floats, *, has_logit: bool) -> Floats:
    """Log loss of logits in nats, or squared error of values; shapes broadcast."""
    return np.logaddexp(0.0, out) - label * out if has_logit else np.square(out - label)


def players_of(fields: Sequence[str], groups: Mapping[str, Sequence[str]] | None = None, *, most: int = MOST_PLAYERS) -> dict[str, tuple[str, ...]]:
    """Name of each player to its fields, groups first.

    Raises:
        UsageError: Too many, an unknown field, or a field in two groups.
    """
    grouped = {name: tuple(own) for name, own in (groups or {}).items()}
    taken = [name for own in grouped.values() for name in own]
    wrong = [name for name in taken if name not in fields]
    if wrong:
        raise UsageError(f"no field {listing(wrong)} to group; fields: {listing(fields)}")
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise UsageError(f"{listing(twice)} stands in more than one group")
    players = {**grouped, **{name: (name,) for name in fields if name not in taken}}
    if len(players) > most:
        raise UsageError(f"{len(players)} fields have {2 ** len(players):,} coalitions per row; at most {most} fields are taken",
                         hint="put fields together: groups={'user': ['age', 'city'], ...}, or use importance(...), which needs no coalitions")
    return players


class ShapleyProbe(Probe):
    """Adds `@shapley:f` (signed, logits), `@shapley_size:f` and, with labels, `@shapley_usefulness:f` (nats) for every player f.

    Args:
        subject: The model.
        baseline, groups: See `field_shapley`.
        label: Column of labels, or None.
    """

    def __init__(self, subject: TorchSubject, *, baseline: Baseline, groups: Mapping[str, Sequence[str]] | None = None, label: str | None = "@label") -> None:
        self.subject, self.baseline, self.groups, self.label = subject, baseline, groups, label
        self.players = tuple(players_of(subject.sites().fields, groups))

    @property
    def adds(self) -> tuple[str, ...]:
        kinds = ("shapley", "shapley_size", *(("shapley_usefulness",) if self.label else ()))
        return tuple(f"@{kind}:{name}" for kind in kinds for name in self.players)

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        found = field_shapley(self.subject, batch, baseline=self.baseline, groups=self.groups, label=batch.numbers(self.label) if self.label else None)
        columns: dict[str, Column] = {}
        for f, name in enumerate(found.players):
            columns[f"@shapley:{name}"], columns[f"@shapley_size:{name}"] = found.value[f], np.abs(found.value[f])
            if found.usefulness is not None:
                columns[f"@shapley_usefulness:{name}"] = found.usefulness[f]
        return columns
