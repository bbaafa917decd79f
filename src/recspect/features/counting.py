"""What is learned from training rows that come in pieces: counts of values, moments, quantiles. One piece or many give the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Array, Categorical
from recspect.diagnosis.hashing import hash_values
from recspect.errors import DataError
from recspect.features.vocabulary import Hashing, Vocabulary, missing_values, plain
from recspect.schema import Field

DISTINCT_HASHES = 4_194_304
"""Distinct values of a hashed field that are counted one by one; of more the number is estimated from how many keep coming."""

DISTINCT_NUMBERS = 1_048_576
"""Distinct numbers that quantiles are taken from exactly; of more, neighbours are merged."""


class ValueCounts:
    """How often each distinct value came. Memory grows with the distinct values: 16 bytes for a number, about 150 for a text."""

    def __init__(self, field: Field) -> None:
        self._field = field
        self._texts: dict[str, int] = {}
        self._pieces: list[tuple[Array, NDArray[np.int64]]] = []
        self._held = self._merged = 0

    def add(self, column: Categorical) -> None:
        """Count the rows of a piece; codes for "not known" are left out."""
        values, counts = _used(column, self._field)
        if not len(values):
            return
        if values.dtype.kind == "O":
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                self._texts[value] = self._texts.get(value, 0) + count
        else:
            self._pieces.append((values, counts))
            self._held += len(values)
            if self._held > 2 * self._merged + 65_536:
                self._merge()
        if self._texts and self._pieces:
            raise DataError(f"field {self._field.name!r} holds texts in some rows and numbers in others", hint="give the column one type in every file")

    def finish(self) -> Vocabulary:
        """The vocabulary of all pieces."""
        if self._texts:
            values: Array = np.empty(len(self._texts), dtype=object)
            values[:] = list(self._texts)
            counts = np.fromiter(self._texts.values(), np.int64, len(values))
        else:
            values, counts = self._merge()
        return Vocabulary.of_counts(values, counts, minimum_count=self._field.minimum_count, field=self._field.name)

    def _merge(self) -> tuple[Array, NDArray[np.int64]]:
        values, counts = merged_counts(self._pieces)
        self._pieces = [(values, counts)] if len(values) else []
        self._held = self._merged = len(values)
        return plain(values), counts


class BucketCounts:
    """How often each bucket of a hashed field was hit, and how many distinct values hit it."""

    def __init__(self, field: Field) -> None:
        assert field.hash_buckets is not None
        self._field = field
        self._hit = np.zeros(field.hash_buckets, dtype=np.int64)
        self._known: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._threshold = np.uint64(2**64 - 1)

    def add(self, column: Categorical) -> None:
        """Count the rows of a piece; codes for "not known" are left out."""
        values, counts = _used(column, self._field)
        hashes = hash_values(values)
        np.add.at(self._hit, (hashes % np.uint64(len(self._hit))).astype(np.int64), counts)
        self._known = np.union1d(self._known, hashes[hashes <= self._threshold])
        while len(self._known) > DISTINCT_HASHES:  # of too many, those of small hashes stand for all (k minimum values)
            self._threshold = np.uint64(int(self._threshold) // 2)
            self._known = self._known[self._known <= self._threshold]

    def finish(self) -> Hashing:
        """The counts of all pieces; beyond 4 million distinct values, how many there were and how many collided are estimates (0.1%)."""
        buckets = len(self._hit)
        if self._threshold == np.uint64(2**64 - 1):
            distinct_in = np.bincount((self._known % np.uint64(buckets)).astype(np.int64), minlength=buckets)
            return Hashing(self._hit, len(self._known), int(distinct_in[distinct_in > 1].sum()))
        distinct = round(len(self._known) * 2.0**64 / int(self._threshold))
        return Hashing(self._hit, distinct, round(distinct * -np.expm1((distinct - 1) * np.log1p(-1 / buckets))))


class Moments:
    """Mean and standard deviation of the numbers so far (Chan, Golub and LeVeque 1979); of one piece exactly NumPy's.

    Also of values whose squares or sum no float holds, such as 1e300 where a code for "missing" was meant.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.deviation = 0, 0.0, 0.0

    def add(self, values: Array) -> None:
        """Take finite numbers in."""
        if not len(values):
            return
        largest = float(np.abs(values).max())
        unit = largest if largest > 1e100 else 1.0
        mean, deviation = float((values / unit).mean() * unit), float((values / unit).std() * unit)
        if not self.count:
            self.count, self.mean, self.deviation = len(values), mean, deviation
            return
        largest = max(abs(mean), abs(self.mean), deviation, self.deviation)
        unit = largest if largest > 1e100 else 1.0
        count = self.count + len(values)
        own, other = self.count / count, len(values) / count
        apart = mean / unit - self.mean / unit
        spread = own * (self.deviation / unit) ** 2 + other * (deviation / unit) ** 2 + own * other * apart**2
        self.count, self.mean, self.deviation = count, (self.mean / unit + apart * other) * unit, float(np.sqrt(spread)) * unit


class NumberCounts:
    """Distinct numbers and how often each came, for quantiles.

    Exact up to a million distinct numbers. Of more, neighbours that together are a millionth of the rows are merged into the higher one:
    a quantile is then off by at most a thousandth of the rows, for as many rows as a table has.
    """

    def __init__(self) -> None:
        self._pieces: list[tuple[Array, NDArray[np.int64]]] = []
        self._held = 0

    def add(self, values: Array) -> None:
        """Take finite numbers in."""
        found = np.unique(values, return_counts=True)
        self._pieces.append((found[0], found[1].astype(np.int64)))
        self._held += len(found[0])
        if self._held > 2 * DISTINCT_NUMBERS:
            values, counts = merged_counts(self._pieces)
            self._pieces = [_thinned(values, counts)]
            self._held = len(self._pieces[0][0])

    def finish(self) -> tuple[Array, NDArray[np.int64]]:
        """The numbers, ascending, and their counts."""
        return merged_counts(self._pieces)


def merged_counts(pieces: list[tuple[Array, NDArray[np.int64]]]) -> tuple[Array, NDArray[np.int64]]:
    """Distinct numbers of several pieces, ascending, with their counts."""
    if not pieces:
        return np.empty(0), np.empty(0, dtype=np.int64)
    if len(pieces) == 1:
        order = np.argsort(pieces[0][0], kind="stable")
        return pieces[0][0][order], pieces[0][1][order]
    values, place = np.unique(np.concatenate([values for values, _ in pieces]), return_inverse=True)
    counts = np.zeros(len(values), dtype=np.int64)
    np.add.at(counts, place.reshape(-1), np.concatenate([counts for _, counts in pieces]))
    return values, counts


def _thinned(values: Array, counts: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
    """Neighbours whose rows share a millionth of all, as one: the highest of them."""
    if len(values) <= DISTINCT_NUMBERS:
        return values, counts
    ends = np.cumsum(counts)
    part = (ends - 1) * DISTINCT_NUMBERS // int(ends[-1])
    last = np.flatnonzero(np.append(part[1:] != part[:-1], [True]))
    return values[last], np.diff(ends[last], prepend=0)


def _used(column: Categorical, field: Field) -> tuple[Array, NDArray[np.int64]]:
    """The distinct values that rows hold, other than codes for "not known", and how many rows hold each."""
    counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.values)).astype(np.int64)
    used = (counts > 0) & ~missing_values(column.values, field.missing)
    return plain(column.values[used]), counts[used]
