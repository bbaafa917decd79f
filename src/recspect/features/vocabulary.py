"""From distinct values to ids: a vocabulary learned in training, or hashing into a fixed number of rows.

Ids 0, 1 and 2 are reserved in every table (nothing there, unknown, rare); known values follow by falling frequency, so
that the row number of a table tells how often it was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Categorical, hash_values
from recspect.errors import DataError, RunError
from recspect.features.encoded import FIRST_KNOWN, MISSING, RARE, UNKNOWN

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The values that training saw.

    Args:
        values: Distinct values by falling count (ties by value), shape (V,): strings as objects, int64 or float64.
        counts: How often training saw each, shape (V,).
        known: The first so many have an id of their own; the rest share the id "rare".
        field: Name of the field, for error messages.
    """

    values: Array
    counts: NDArray[np.int64]
    known: int
    field: str = ""

    @classmethod
    def of_counts(cls, values: Array, counts: NDArray[np.int64], *, minimum_count: int, field: str) -> Vocabulary:
        """From distinct values and how often training saw each."""
        by_value = np.argsort(values, kind="stable")
        order = by_value[np.argsort(-counts[by_value], kind="stable")]
        values, counts = values[order], counts[order]
        return cls(values, counts, int((counts >= minimum_count).sum()), field)

    @property
    def rows(self) -> int:
        """Rows that a table needs."""
        return FIRST_KNOWN + self.known

    def ids(self, values: Array) -> NDArray[np.int64]:
        """The id of each distinct value.

        Raises:
            DataError: Training saw strings and these are numbers, or the reverse.
        """
        position = self._positions(plain(values))
        ids = np.where(position < self.known, position + FIRST_KNOWN, RARE)
        return np.where(position < 0, UNKNOWN, ids)

    def rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The table row of each id.

        A value that training never saw reads the row of rare ones where training read that: a row of its own would be as
        random as it began, and a new value is most likely a rare one.
        """
        return np.where(ids == UNKNOWN, RARE, ids) if self.known < len(self.values) else ids

    def trained(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether training saw a value with this id."""
        return ids != UNKNOWN

    def row_counts(self) -> NDArray[np.int64]:
        """Training occurrences per table row, shape (rows,); 0 for missing and unknown, which are not counted here."""
        head = np.zeros(FIRST_KNOWN, dtype=np.int64)
        head[RARE] = self.counts[self.known:].sum()
        return np.concatenate([head, self.counts[: self.known]])

    def _positions(self, values: Array) -> NDArray[np.int64]:
        if len(values) == 0 or len(self.values) == 0:
            return np.full(len(values), -1, dtype=np.int64)
        if (values.dtype.kind == "O") != (self.values.dtype.kind == "O"):
            then, now = ("strings", "numbers") if self.values.dtype.kind == "O" else ("numbers", "strings")
            raise DataError(f"field {self.field!r} held {then} in training and holds {now} here, such as {values[0]!r}",
                            hint="read the column with the type it had in training")
        if values.dtype.kind == "O":
            lookup = self._by_string
            return np.fromiter((lookup.get(value, -1) for value in values), dtype=np.int64, count=len(values))
        ordered, positions = self._by_number
        wanted = values.astype(np.float64) if ordered.dtype.kind == "f" else values
        if wanted.dtype.kind == "f" and ordered.dtype.kind == "i":
            whole = (wanted == np.floor(wanted)) & (np.abs(wanted) < 2**53)
            found = self._positions(np.where(whole, wanted, 0).astype(np.int64))
            return np.where(whole, found, -1)
        place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        return np.where(ordered[place] == wanted, positions[place], -1)

    @cached_property
    def _by_string(self) -> dict[Any, int]:
        return {value: position for position, value in enumerate(self.values)}

    @cached_property
    def _by_number(self) -> tuple[Array, NDArray[np.int64]]:
        order = np.argsort(self.values, kind="stable")
        return self.values[order], order

    def state(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Settings for JSON and arrays for safetensors."""
        arrays: dict[str, Array] = {"counts": self.counts}
        if self.values.dtype.kind == "O":
            encoded = [str(value).encode("utf-8", "surrogatepass") for value in self.values]
            arrays["bytes"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
            arrays["ends"] = np.cumsum([len(value) for value in encoded], dtype=np.int64)
        else:
            arrays["values"] = self.values
        return {"codes": "vocabulary", "known": self.known}, arrays

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Array], *, field: str) -> Vocabulary:
        """The inverse of `state`."""
        if "values" in arrays:
            values = arrays["values"]
        else:
            whole, ends = arrays["bytes"].tobytes(), arrays["ends"]
            starts = np.concatenate([[0], ends])[:-1].astype(np.int64)
            values = np.empty(len(ends), dtype=object)
            for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
                values[i] = whole[start:end].decode("utf-8", "surrogatepass")
        return cls(values, arrays["counts"].astype(np.int64), int(settings["known"]), field)


@dataclass(frozen=True, eq=False)
class Hashing:
    """Values hashed into a fixed number of rows; nothing is remembered but how often each row was hit.

    Args:
        counts: Training occurrences per bucket, shape (buckets,).
        distinct: Distinct values that training saw.
        collided: How many of them share their bucket with another.
    """

    counts: NDArray[np.int64]
    distinct: int
    collided: int

    @property
    def rows(self) -> int:
        """Rows that a table needs."""
        return FIRST_KNOWN + len(self.counts)

    def ids(self, values: Array) -> NDArray[np.int64]:
        """The id of each distinct value."""
        return _buckets(plain(values), len(self.counts)) + FIRST_KNOWN

    def rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The table row of each id: the id itself."""
        return ids

    def trained(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether training hit the row with this id."""
        return self.row_counts()[ids] > 0

    def row_counts(self) -> NDArray[np.int64]:
        """Training occurrences per table row, shape (rows,)."""
        return np.concatenate([np.zeros(FIRST_KNOWN, dtype=np.int64), self.counts])

    def state(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Settings for JSON and arrays for safetensors."""
        return {"codes": "hashing", "distinct": self.distinct, "collided": self.collided}, {"counts": self.counts}

    @classmethod
    def from_state(cls, settings: Mapping[str, Any], arrays: Mapping[str, Array], *, field: str) -> Hashing:  # noqa: ARG003 - same call as Vocabulary's
        """The inverse of `state`."""
        return cls(arrays["counts"].astype(np.int64), int(settings["distinct"]), int(settings["collided"]))


Codes = Vocabulary | Hashing


def codes_from_state(settings: Mapping[str, Any], arrays: Mapping[str, Array], *, field: str) -> Codes:
    """Read back whichever of the two was saved."""
    kinds: dict[str, type[Vocabulary | Hashing]] = {"vocabulary": Vocabulary, "hashing": Hashing}
    kind = settings.get("codes")
    if kind not in kinds:
        raise RunError(f"field {field!r}: ids were made by {kind!r}, this recspect knows 'vocabulary' and 'hashing'")
    return kinds[kind].from_state(settings, arrays, field=field)


def encode_categories(column: Categorical, codes: Codes, missing: Array) -> NDArray[np.int64]:
    """The id of every row, shape (rows,). `missing` marks distinct values that stand for "not known"."""
    by_value = codes.ids(column.values)
    by_value[missing] = MISSING
    return np.append(by_value, [MISSING])[column.codes]


def missing_values(values: Array, missing: tuple[str | int | float, ...]) -> NDArray[np.bool_]:
    """Which of these distinct values are codes for "not known"; 5, 5.0 and "5" are the same code."""
    if not missing:
        return np.zeros(len(values), dtype=bool)
    values = plain(values)
    if values.dtype.kind == "O":
        return np.isin(values.astype(str), [str(code) for code in missing])
    return np.isin(values, numeric_codes(missing))


def numeric_codes(missing: tuple[str | int | float, ...]) -> list[float]:
    """Those codes that are numbers or look like one."""
    found = []
    for code in missing:
        try:
            found.append(float(code))
        except ValueError:
            continue
    return found


def plain(values: Array) -> Array:
    """Distinct values as int64, float64 or strings in an object array, so that types compare across files."""
    if values.dtype.kind in "iub":
        return values.astype(np.int64)
    if values.dtype.kind == "M":
        return values.astype("datetime64[us]").astype(np.int64)
    if values.dtype.kind == "f":
        whole = bool(len(values)) and bool((values == np.floor(values)).all() and (np.abs(values) < 2**53).all())
        return values.astype(np.int64) if whole else values.astype(np.float64)
    if len(values) and not all(isinstance(value, str) for value in values):
        out = np.empty(len(values), dtype=object)
        out[:] = [str(value) for value in values]
        return out
    return values


def _buckets(values: Array, buckets: int) -> NDArray[np.int64]:
    return (hash_values(values) % np.uint64(buckets)).astype(np.int64)
