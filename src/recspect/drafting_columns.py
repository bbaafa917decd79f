"""What a sample shows of each column: form, distinct values, range, whether it follows the user or the item."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical, Column, Ragged, concatenate, factorize
from recspect.diagnosis.source import Source

SAMPLE_ROWS = 100_000
"""A draft looks at the first so many rows."""

SEPARATORS = ("|", ";", ",", " ")

Form = Literal["nothing", "integers", "fractions", "booleans", "times", "texts", "lists", "vectors"]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a sample shows of one column.

    Args:
        name: As in the table.
        plain: In lower case with underscores: `movieId` becomes `movie_id`.
        form: What its values are; whole numbers stored as floats count as integers.
        rows: Rows looked at.
        known: Rows that have a value.
        values: The distinct values, sorted where they are numbers; entries of lists for lists.
        codes: Shape (rows,), which value each row has; -1 where missing; None for lists and vectors.
        low, high: Range of numbers.
    """

    name: str
    plain: str
    form: Form
    rows: int
    known: int
    values: NDArray[Any]
    codes: NDArray[np.int64] | None
    low: float = np.nan
    high: float = np.nan

    @property
    def distinct(self) -> int:
        """Number of distinct values."""
        return len(self.values)

    @property
    def is_number(self) -> bool:
        """Whether it holds single numbers."""
        return self.form in ("integers", "fractions", "booleans")

    @property
    def is_binary(self) -> bool:
        """Whether it holds 0 and 1, both."""
        return self.is_number and self.distinct == 2 and {float(v) for v in self.values} == {0.0, 1.0}

    def texts(self, most: int = 2_000) -> list[str]:
        """Some of its distinct texts."""
        step = max(len(self.values) // most, 1)
        return [str(value) for value in self.values[::step][:most]]


def look_at(source: Source) -> dict[str, Look]:
    """What the first 100,000 rows show of each column.

    Raises:
        DataError: The source holds no rows or cannot be read.
    """
    held: list[Batch] = []
    for batch in source.batches(rows=SAMPLE_ROWS):
        held.append(batch)
        if sum(part.rows for part in held) >= SAMPLE_ROWS:
            break
    sample = concatenate(held)
    return {name: _look(name, sample[name]) for name in sample}


def _look(name: str, column: Column) -> Look:
    plain = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")
    rows = len(column)
    if isinstance(column, Ragged):
        inner = column.values if isinstance(column.values, Categorical) else factorize(column.values)
        form: Form = "lists"
        return Look(name=name, plain=plain, form=form, rows=rows, known=int((column.lengths > 0).sum()), values=inner.values,
                    codes=None)
    if isinstance(column, np.ndarray) and column.ndim == 2:
        return Look(name=name, plain=plain, form="vectors", rows=rows, known=rows, values=np.empty(0), codes=None)
    found = column if isinstance(column, Categorical) else factorize(column)
    used, position = np.unique(found.codes[found.codes >= 0], return_inverse=True)
    codes = np.full(rows, -1, dtype=np.int64)
    codes[found.codes >= 0] = position
    values = found.values[used]
    known = int((codes >= 0).sum())
    look = Look(name=name, plain=plain, form="nothing", rows=rows, known=known, values=values, codes=codes)
    if not len(values):
        return look
    if isinstance(column, np.ndarray) and column.dtype.kind in "Mb":
        form = "times" if column.dtype.kind == "M" else "booleans"
    else:
        form = {"i": "integers", "u": "integers", "f": "fractions", "b": "booleans", "M": "times"}.get(  # type: ignore[assignment]
            values.dtype.kind, "texts")
    if form in ("integers", "fractions", "booleans"):
        numbers = values.astype(np.float64)
        finite = numbers[np.isfinite(numbers)]
        bounds = (float(finite.min()), float(finite.max())) if len(finite) else (np.nan, np.nan)
        return Look(name=name, plain=plain, form=form, rows=rows, known=known, values=values, codes=codes, low=bounds[0],
                    high=bounds[1])
    return Look(name=name, plain=plain, form=form, rows=rows, known=known, values=values, codes=codes)


def follows(looks: Mapping[str, Look], unit: str | None) -> set[str]:
    """Columns whose value depends on the unit (user, item) only, as far as the sample shows.

    A column follows the unit when nearly all units with several rows have one value, and shuffled rows would not:
    a column that is nearly always 0 says nothing.
    """
    if unit is None or (unit_codes := looks[unit].codes) is None:
        return set()
    order = np.argsort(unit_codes, kind="stable")
    units = unit_codes[order]
    inner = (units[1:] == units[:-1]) & (units[1:] >= 0)  # steps between two rows of one unit
    owners = units[1:][inner]
    owners = np.cumsum(np.append(False, owners[1:] != owners[:-1])) if len(owners) else owners
    if len(owners) < 30 or owners[-1] < 9:
        return set()
    shuffle = np.random.default_rng(0).permutation(len(order))
    found = set()
    for name, look in looks.items():
        if look.codes is None or look.distinct < 2 or name == unit:
            continue
        broken = _broken(look.codes[order], inner, owners)
        by_chance = _broken(look.codes[order][shuffle], inner, owners)
        if broken <= 0.02 and broken < 0.2 * by_chance:
            found.add(name)
    return found


def _broken(codes: NDArray[np.int64], inner: NDArray[np.bool_], owners: NDArray[np.int64]) -> float:
    """Share of units (with several rows) whose value changes; `owners` numbers the unit of each inner step from 0."""
    changes = (codes[1:] != codes[:-1])[inner]
    return float((np.bincount(owners[changes], minlength=owners[-1] + 1) > 0).mean())


def determines(look: Look, label: Look) -> bool:
    """Whether each value of a column of few values comes with one value of the label."""
    if look.codes is None or label.codes is None or not 2 <= look.distinct <= 50 or label.distinct < 2:
        return False
    both = (look.codes >= 0) & (label.codes >= 0)
    pairs = np.bincount(look.codes[both] * label.distinct + label.codes[both], minlength=look.distinct * label.distinct) > 0
    table = pairs.reshape(look.distinct, label.distinct)
    return bool(both.sum() >= 100 and (table.sum(axis=1) <= 1).all() and table.any(axis=0).sum() >= 2)


def separator_of(look: Look) -> str | None:
    """The sign that parts several values in one text, such as the bar in "Comedy|Drama".

    There is one where splitting leaves clearly fewer distinct parts than there were texts.
    """
    texts = look.texts()
    if len(texts) < 8:
        return None
    for sign in SEPARATORS:
        split = [[part.strip() for part in text.split(sign)] for text in texts]
        several = sum(len(parts) > 1 for parts in split) / len(split)
        parts = {part for entry in split for part in entry if part}
        limit = 0.25 if sign == " " else 0.6
        if several >= 0.2 and len(parts) < limit * len(texts) and all(len(part) < 40 for part in parts):
            return sign
    return None
