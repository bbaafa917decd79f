"""Rows put into lists: each unit's rows from the highest score to the lowest, with one sort for all ranking measures.

Unit, score and label are packed into one 64-bit integer per row where they fit (always for scores that are float32 values),
because sorting integers is four times as fast as finding the order of floats and gathering by it. Float64 scores are
ordered exactly as well: by their leading bits first, and by all bits where the leading ones agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Top:
    """The first places of every list.

    Args:
        rows: Their positions in the lists' order, shape (places,).
        rank: Place in the list, from 0, shape (places,).
        starts: Where each list begins in the two above, shape (lists,).
    """

    rows: Ints
    rank: Ints
    starts: Ints

    def sums(self, values: Floats) -> Floats:
        """Sum over the places of each list, shape (lists,)."""
        return np.add.reduceat(values, self.starts) if len(self.starts) else np.zeros(0)


@dataclass(frozen=True)
class Lists:
    """Rows by unit and, within a unit, by descending score.

    Args:
        labels: Relevance, at least 0, shape (rows,).
        ties: Whether a row has the score of the row before it in its list, shape (rows,).
        lengths: Rows of each list, at least 1, shape (lists,).
    """

    labels: Floats
    ties: NDArray[np.bool_]
    lengths: Ints

    @cached_property
    def starts(self) -> Ints:
        """Where each list begins, shape (lists,)."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def list_of_row(self) -> Ints:
        """Which list a row belongs to, shape (rows,)."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def relevant_rows(self) -> Ints:
        """Positions of the rows whose label is above 0."""
        return np.flatnonzero(self.labels > 0)

    @cached_property
    def list_of_relevant(self) -> Ints:
        """Which list each of `relevant_rows` belongs to."""
        return self.list_of_row[self.relevant_rows]

    @cached_property
    def relevant(self) -> Floats:
        """Number of relevant rows in each list, shape (lists,)."""
        return np.bincount(self.list_of_relevant, minlength=len(self.lengths)).astype(np.float64)

    @cached_property
    def mixed_ties(self) -> Ints:
        """Positions of rows that are tied with the row before but have another label. Other ties change no measure."""
        return np.flatnonzero(self.ties[1:] & (self.labels[1:] != self.labels[:-1])) + 1

    @cached_property
    def has_ties(self) -> bool:
        """Whether the order of tied rows could change a measure."""
        return bool(len(self.mixed_ties))

    def split(self) -> tuple[Lists, Lists, Ints]:
        """The lists as if nothing were tied, those where ties matter once more, and which these are.

        Usually few are, so that the costlier formulas for ties are spent on few lists.
        """
        which = np.unique(self.list_of_row[self.mixed_ties])
        untied = Lists(self.labels, np.zeros(len(self.ties), dtype=bool), self.lengths)
        lengths = self.lengths[which]
        starts = np.cumsum(lengths) - lengths
        rows = np.repeat(self.starts[which] - starts, lengths) + np.arange(int(lengths.sum()))
        return untied, Lists(self.labels[rows], self.ties[rows], lengths), which

    @cached_property
    def is_binary(self) -> bool:
        """Whether every label is 0 or 1."""
        return not len(self.labels) or bool(self.labels.max() <= 1 and (self.labels[self.relevant_rows] == 1).all())

    @cached_property
    def groups(self) -> TieGroups:
        """Runs of rows with equal score."""
        first = np.flatnonzero(~self.ties)
        sizes = np.diff(np.append(first, len(self.ties)))
        relevant = np.add.reduceat((self.labels > 0).astype(np.float64), first) if len(first) else np.zeros(0)
        of_list = self.list_of_row[first]
        return TieGroups(first, sizes, relevant, of_list, first - self.starts[of_list])

    def expected(self, values: Floats) -> Floats:
        """Mean of a row value over random orders of the tied rows, by place; shape (rows,)."""
        if not self.has_ties:
            return values
        return np.repeat(np.add.reduceat(values, self.groups.first) / self.groups.sizes, self.groups.sizes)

    def top(self, k: int | None) -> Top:
        """The first k places of each list (all of them for None)."""
        kept = self.lengths if k is None else np.minimum(self.lengths, k)
        starts = np.cumsum(kept) - kept
        rank = np.arange(int(kept.sum())) - np.repeat(starts, kept)
        return Top(np.repeat(self.starts, kept) + rank, rank, starts)

    @cached_property
    def ideal_labels(self) -> Floats:
        """Labels in the best possible order, shape (rows,)."""
        return order(self.list_of_row, self.labels, self.labels).labels


@dataclass(frozen=True)
class TieGroups:
    """Runs of rows with equal score within a list. All of shape (groups,).

    Args:
        first: Position of the first row.
        sizes: Number of rows.
        relevant: Number of relevant rows.
        of_list: The list.
        rank: Place of the first row in its list, from 0.
    """

    first: Ints
    sizes: Ints
    relevant: Floats
    of_list: Ints
    rank: Ints

    @cached_property
    def relevant_before(self) -> Floats:
        """Relevant rows of the same list above the group."""
        above = np.cumsum(self.relevant) - self.relevant
        start_of_list = np.flatnonzero(self.rank == 0)
        return above - np.repeat(above[start_of_list], np.diff(np.append(start_of_list, len(above))))


def order(units: Ints, scores: Floats, labels: Floats) -> Lists:
    """Put rows into lists, ascending unit. Equal scores are tied, whatever their labels.

    Args:
        units: Non-negative integers, not much larger than the number of rows; shape (rows,).
        scores: Any number but NaN, shape (rows,).
        labels: At least 0 and finite, shape (rows,).
    """
    rows = len(units)
    if not rows:
        return Lists(np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64))
    counts = np.bincount(units)
    lengths = counts[counts > 0]
    starts = np.cumsum(lengths) - lengths
    # Lists of one length that arrive one after the other are a rectangle, whose rows are sorted without the unit's bits.
    rectangle = lengths[0] == lengths[-1] and bool((lengths == lengths[0]).all() and (units[1:] >= units[:-1]).all())
    unit_bits = 0 if rectangle else (len(counts) - 1).bit_length()
    label_bits = _bits_of_small_integers(labels)
    keys, bits = _descending(scores)
    if label_bits is not None and _fits(bits, unit_bits + label_bits):
        return _order_by_value(keys, units, labels, lengths, starts, unit_bits=unit_bits, label_bits=label_bits,
                               rectangle=rectangle)
    if rectangle:
        by_row = np.argsort(keys.reshape(len(lengths), -1), axis=1)
        positions = (by_row + starts[:, None]).reshape(-1)
    else:
        packed = _pack(keys, units, unit_bits)
        positions = np.argsort(packed)
        if unit_bits and not _fits(bits, unit_bits):
            positions = _repair(positions, packed, keys)
    ordered = keys[positions]
    return Lists(labels[positions], _ties(ordered, starts), lengths)


def _order_by_value(keys: NDArray[np.uint64], units: Ints, labels: Floats, lengths: Ints, starts: Ints, *,
                    unit_bits: int, label_bits: int, rectangle: bool) -> Lists:
    """Sort whole rows as integers: unit, score, label from the highest bits to the lowest."""
    packed = _pack(keys, units, unit_bits)
    mask = np.uint64(2**label_bits - 1)
    packed &= ~mask
    packed |= labels.astype(np.int64).view(np.uint64)  # floats turn into signed integers four times as fast
    if rectangle:
        packed.reshape(len(lengths), -1).sort(axis=1)
    else:
        packed.sort()
    found = (packed & mask).view(np.int64).astype(np.float64)
    packed >>= np.uint64(label_bits)
    return Lists(found, _ties(packed, starts), lengths)


def _pack(keys: NDArray[np.uint64], units: Ints, unit_bits: int) -> NDArray[np.uint64]:
    """Units in the highest bits, as much of the key as fits in the others."""
    if not unit_bits:
        return keys.copy()
    packed = keys >> np.uint64(unit_bits)
    packed |= units.astype(np.uint64) << np.uint64(64 - unit_bits)
    return packed


def _descending(scores: Floats) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Integers that ascend where scores descend, and the scores' bits."""
    bits = (scores + 0.0).view(np.uint64)  # adding 0 makes -0 equal to 0
    negative = (bits >> np.uint64(63)).astype(bool)
    keys = np.where(negative, bits, bits ^ np.uint64(2**63 - 1))
    return keys, bits


def _fits(bits: NDArray[np.uint64], cut: int) -> bool:
    """Whether scores keep their order when the last `cut` bits are cut off, since these are 0 in all of them."""
    return cut < 64 and (cut == 0 or not (np.bitwise_or.reduce(bits) & np.uint64(2**cut - 1)))


def _repair(positions: Ints, packed: NDArray[np.uint64], keys: NDArray[np.uint64]) -> Ints:
    """Order by all bits the rows whose packed bits agree."""
    same = np.diff(packed[positions]) == 0
    tied = np.flatnonzero(np.append(same, [False]) | np.append([False], same))
    inside = positions[tied]
    positions[tied] = inside[np.lexsort((keys[inside], packed[inside]))]
    return positions


def _ties(ordered: NDArray[np.uint64], starts: Ints) -> NDArray[np.bool_]:
    ties = np.empty(len(ordered), dtype=bool)
    np.equal(ordered[1:], ordered[:-1], out=ties[1:])
    ties[starts] = False
    return ties


def _bits_of_small_integers(labels: Floats) -> int | None:
    """Bits that hold every label, or None where they are not integers below 256."""
    top = labels.max()
    if top >= 256:
        return None
    if not (labels == labels.astype(np.int64)).all():
        return None
    return max(1, int(top).bit_length())
