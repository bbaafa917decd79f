"""A log of choices with the probabilities of the policy that made them, and what another policy would have done in each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Column, concatenate
from recspect.diagnosis.hashing import bucket
from recspect.diagnosis.source import read, require_columns
from recspect.diagnosis.stat import category_name
from recspect.errors import DataError, UsageError, listing
from recspect.experimenting.experiment import Floats

UNIFORM = "uniform"
PRIOR_ROWS = 20.0
"""Rows of the overall rate that are added to every item, so that one lucky row does not make a favourite."""
FOLDS = 5
RARE_ROWS = 20
"""What the log shows in fewer rows it hardly shows: with clicks of a few percent, hardly any of them earned anything."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoggedChoices:
    """Rows of a log, each with the target policy's probability of what was shown, and with or without a model of rewards.

    Args:
        reward: What came of what was shown, shape (rows,).
        logged: Probability with which it was shown.
        target: Probability with which the target policy would show it.
        cluster: The user, or the row's number where there is none.
        predicted: The model's reward for what was shown; None without a model.
        expected: The model's mean reward under the target policy; None without a model.
        of: What a cluster is called: "users" or "rows".
        name: Of the target policy.
        model: How the model was had, in words; empty without one.
        rare: Share of the target policy's choices that the log shows in fewer than 20 rows (at their position); None where its choices are not told.
    """

    reward: Floats
    logged: Floats
    target: Floats
    cluster: Column
    predicted: Floats | None = None
    expected: Floats | None = None
    of: str = "rows"
    name: str = "the target policy"
    model: str = ""
    rare: float | None = None

    @property
    def batch(self) -> Batch:
        """The rows as columns: reward, logged, target, cluster and, with a model, predicted and expected."""
        columns: dict[str, Any] = {"reward": self.reward, "logged": self.logged, "target": self.target, "cluster": self.cluster}
        if self.predicted is not None and self.expected is not None:
            columns |= {"predicted": self.predicted, "expected": self.expected}
        return Batch(columns)


@dataclass(frozen=True, kw_only=True)
class LogColumns:
    """Names of columns of a log.

    Args:
        reward: What came of what was shown.
        propensity: Probability with which it was shown.
        item: What was shown; needed where the target policy is a table or uniform.
        position: Place at which it was shown; empty where there is one.
        user: Whose rows are dependent; empty where rows are not.
        target: The target policy's probability of what was shown; empty where the policy is a table or uniform.
        predicted, expected: A model's reward for what was shown, and its mean reward under the target policy; empty without a model of the user's.
    """

    reward: str
    propensity: str
    item: str = ""
    position: str = ""
    user: str = ""
    target: str = ""
    predicted: str = ""
    expected: str = ""

    def __post_init__(self) -> None:
        if bool(self.predicted) != bool(self.expected):
            raise UsageError("a model of rewards is two columns: its reward for what was shown, and its mean reward under the target policy", hint="--predicted COLUMN --expected COLUMN")

    @property
    def named(self) -> tuple[str, ...]:
        """Those that are not empty."""
        return tuple(filter(None, (self.reward, self.propensity, self.item, self.position, self.user, self.target, self.predicted, self.expected)))


@dataclass(frozen=True, kw_only=True, eq=False)
class PolicyTable:
    """Probabilities that do not depend on who asks: one per item, or per item and position, summing to 1 at each position.

    Args:
        items: Item of every entry, as text.
        positions: Position of every entry, as text; empty texts where there is one.
        probability: Shape (entries,).
        name: Of the policy.
    """

    items: Sequence[str]
    positions: Sequence[str]
    probability: Floats
    name: str = "the policy"
    lookup: dict[tuple[str, str], int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        keys = list(zip(self.positions, self.items, strict=True))
        object.__setattr__(self, "lookup", {key: place for place, key in enumerate(keys)})
        if len(self.lookup) != len(keys):
            raise DataError(f"{self.name} has two probabilities for one item (and position)", hint="one row per item and position")
        p = np.asarray(self.probability, np.float64)
        if not len(p) or not np.isfinite(p).all() or p.min() < 0:
            raise DataError(f"{self.name} holds probabilities that are missing or negative", hint="a number of 0 or more per item")
        for place in dict.fromkeys(self.positions):
            total = float(p[[entry == place for entry in self.positions]].sum())
            if abs(total - 1) > 1e-3:
                raise DataError(f"the probabilities of {self.name}{f' at position {place}' if place else ''} sum to {total:.4g}, expected 1",
                                hint="give every item that the policy may show, and --position where there is one probability per place")

    @classmethod
    def read(cls, data: Any, columns: LogColumns, *, probability: str = "probability") -> PolicyTable:
        """From a table with the columns of item, `probability` and, where the log has one, position.

        Raises:
            DataError: A column is missing, or the probabilities are none.
        """
        source = read(data)
        require_columns(source, [columns.item, probability, *([columns.position] if columns.position else [])])
        items, positions, p = [], [], []
        for batch in source.batches():
            items += texts(batch, columns.item)
            positions += texts(batch, columns.position) if columns.position else [""] * batch.rows
            p.append(batch.numbers(probability))
        return cls(items=items, positions=positions, probability=np.concatenate(p), name=source.name)


def texts(batch: Batch, column: str) -> list[str]:
    """A column of categories as text, missing as ""."""
    found = batch.categories(column)
    names = [*(category_name(value) for value in found.values), ""]
    return [names[code] for code in found.codes]


def read_log(data: Any, columns: LogColumns, *, policy: PolicyTable | str = "") -> LoggedChoices:
    """A log with the target policy's probabilities.

    Args:
        data: Anything that `read` takes.
        columns: What its columns are.
        policy: A table, or "uniform" over the items of the log; empty where the log has a column of target probabilities. With it comes a model of rewards, where the log has none:
            the rate of each item (at its position), smoothed by 20 rows of the overall rate, fitted on other users' rows (five folds).

    Raises:
        DataError: Columns that are missing or hold no numbers.
        UsageError: Neither a column of target probabilities nor a policy, or both.
    """
    if bool(columns.target) == bool(policy):
        raise UsageError("what would the other policy have done?", hint="either --target COLUMN (its probability of what was shown), or --policy FILE or --policy uniform")
    if policy and not columns.item:
        raise UsageError("a policy over items needs the column of the item", hint="--item COLUMN")
    source = read(data)
    require_columns(source, columns.named)
    batches = list(source.batches(tuple(dict.fromkeys(columns.named))))
    if not batches:
        raise DataError(f"{source.name} has no rows", hint="a row per choice")
    batch = concatenate(batches)
    cluster: Column = batch[columns.user] if columns.user else np.arange(batch.rows)
    given = {name: batch.numbers(column) for name, column in (("predicted", columns.predicted), ("expected", columns.expected)) if column}
    common: dict[str, Any] = {"reward": batch.numbers(columns.reward), "logged": batch.numbers(columns.propensity), "cluster": cluster, "of": "users" if columns.user else "rows"}
    if given:
        common |= {**given, "model": "the model's columns of the log"}
    if columns.target:
        return LoggedChoices(**common, target=batch.numbers(columns.target), name=columns.target)
    items = texts(batch, columns.item)
    positions = texts(batch, columns.position) if columns.position else [""] * batch.rows
    table = uniform(items, positions) if isinstance(policy, str) else policy
    if isinstance(policy, str) and policy != UNIFORM:
        raise UsageError(f"there is no policy {policy!r}", hint=f"a PolicyTable, or {UNIFORM!r}")
    place = np.array([table.lookup.get(key, -1) for key in zip(positions, items, strict=True)], np.int64)
    target = np.append(table.probability, [0.0])[place]
    if not given:
        predicted, expected = item_rates(common["reward"], place, np.array(positions, object), table, np.asarray(bucket(cluster, FOLDS)))
        common |= {"predicted": predicted, "expected": expected, "model": f"smoothed rates of items{' at positions' if columns.position else ''}, fitted on other {common['of']}"}
    return LoggedChoices(**common, target=target, name=table.name, rare=rarely_shown(place, np.array(positions, object), table))


def rarely_shown(place: NDArray[np.int64], positions: NDArray[Any], table: PolicyTable) -> float:
    """Share of a policy's choices that the log shows in fewer than 20 rows, positions as often as the log has them.

    Args:
        place: Entry of the policy of each row, -1 for none.
        positions: Position of each row, as text.
        table: The policy.
    """
    rows = np.bincount(place[place >= 0], minlength=len(table.probability))
    names, counts = np.unique(positions.astype(str), return_counts=True)
    share = dict(zip(names.tolist(), (counts / max(1, len(positions))).tolist(), strict=True))
    weight = np.array([share.get(name, 0.0) for name in table.positions]) * table.probability
    return float(weight[rows < RARE_ROWS].sum())


def uniform(items: Sequence[str], positions: Sequence[str]) -> PolicyTable:
    """Every item of the log, with the same probability, at every position of the log."""
    known, places = sorted(set(items)), sorted(set(positions))
    return PolicyTable(items=known * len(places), positions=[place for place in places for _ in known], probability=np.full(len(known) * len(places), 1 / len(known)), name="uniform choice")


def item_rates(reward: Floats, place: NDArray[np.int64], positions: NDArray[Any], table: PolicyTable, fold: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Smoothed rates of entries of the policy, each row's from rows of other folds: for what was shown, and their mean under the policy at the row's position."""
    entries, valid = len(table.probability), np.isfinite(reward)
    code = {name: number for number, name in enumerate(dict.fromkeys(table.positions))}
    entry_position = np.array([code[name] for name in table.positions])
    row_position = np.array([code.get(name, -1) for name in positions], np.int64)
    if (row_position < 0).any():
        raise DataError(f"the policy says nothing of position {listing(sorted(set(positions[row_position < 0])), limit=3)}", hint="give its probabilities at every position of the log")
    predicted, expected = np.empty(len(reward)), np.empty(len(reward))
    for number in np.unique(fold):
        own = fold == number
        other = ~own & valid
        if not other.any():
            raise DataError("the log has too few users for a model of rewards", hint="give --predicted and --expected, or more rows")
        rate = float(reward[other].mean())
        known = other & (place >= 0)
        rows, sums = np.bincount(place[known], minlength=entries), np.bincount(place[known], weights=reward[known], minlength=entries)
        rates = np.append((sums + PRIOR_ROWS * rate) / (rows + PRIOR_ROWS), [rate])
        by_position = np.bincount(entry_position, weights=table.probability * rates[:-1], minlength=len(code))
        predicted[own], expected[own] = rates[place[own]], by_position[row_position[own]]
    return predicted, expected


__all__ = ["UNIFORM", "LogColumns", "LoggedChoices", "PolicyTable", "item_rates", "read_log", "texts", "uniform"]
