"""A predicate on rows, such as `country=DE, surface=home`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical
from recspect.diagnosis.stat import category_name
from recspect.errors import UsageError

_OPERATORS = ("!=", ">=", "<=", "=", ">", "<")


@dataclass(frozen=True, order=True)
class Term:
    """One condition: `column operator value`. Numbers are compared as numbers with <, <=, >, >=; else as text.

    `column=` with an empty value holds where the column is missing.
    """

    column: str
    operator: str
    value: str

    def __str__(self) -> str:
        return f"{self.column}{self.operator}{self.value}"


@dataclass(frozen=True)
class Slice:
    """All of its terms hold. No term: every row.

    Example:
        >>> str(Slice.parse("surface=home, age>=30"))
        'age>=30, surface=home'
    """

    terms: tuple[Term, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", tuple(sorted(self.terms)))

    @classmethod
    def parse(cls, text: str) -> Slice:
        """Read `column=value, column>=number, ...`.

        Raises:
            UsageError: A part without an operator.
        """
        terms = []
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            match = re.match(r"(.+?)\s*(!=|>=|<=|=|>|<)\s*(.*)$", part)
            if not match:
                raise UsageError(f"cannot read the slice {part!r}", hint="write column=value, such as 'country=DE, age>=30'")
            term = Term(match[1], match[2], match[3])
            if term.operator in (">", "<", ">=", "<="):
                _number(term)
            terms.append(term)
        return cls(tuple(terms))

    @classmethod
    def of(cls, **values: Any) -> Slice:
        """A slice of equalities: `Slice.of(country="DE")`."""
        return cls(tuple(Term(column, "=", category_name(value)) for column, value in values.items()))

    def __str__(self) -> str:
        return ", ".join(map(str, self.terms)) if self.terms else "all rows"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads."""
        return tuple(dict.fromkeys(term.column for term in self.terms))

    def mask(self, batch: Batch) -> NDArray[np.bool_]:
        """Which rows belong, shape (rows,)."""
        keep = np.ones(batch.rows, dtype=bool)
        for term in self.terms:
            keep &= _term_mask(term, batch)
        return keep

    def expression(self) -> nw.Expr | None:
        """The predicate as a query, or None for every row or where text must be compared as text."""
        expressions = []
        for term in self.terms:
            column = nw.col(term.column)
            if term.operator in (">", "<", ">=", "<="):
                value = _number(term)
                expressions.append({">": column > value, "<": column < value, ">=": column >= value,
                                    "<=": column <= value}[term.operator])
            elif term.value == "":
                expressions.append(column.is_null() if term.operator == "=" else ~column.is_null())
            else:
                same = (column.cast(nw.String) == term.value).fill_null(False)
                expressions.append(same if term.operator == "=" else ~same)
        return nw.all_horizontal(*expressions, ignore_nulls=True) if expressions else None


ALL = Slice()
"""Every row."""


def _number(term: Term) -> float:
    try:
        return float(term.value)
    except ValueError:
        raise UsageError(f"slice '{term}': {term.value!r} is not a number",
                         hint="<, <=, > and >= compare numbers; use = for text") from None


def _term_mask(term: Term, batch: Batch) -> NDArray[np.bool_]:
    if term.operator in (">", "<", ">=", "<="):
        numbers, value = batch.numbers(term.column), _number(term)
        with np.errstate(invalid="ignore"):
            return {">": numbers > value, "<": numbers < value, ">=": numbers >= value,
                    "<=": numbers <= value}[term.operator]
    column: Categorical = batch.categories(term.column)
    if term.value == "":
        same = column.codes < 0
    else:
        hits = np.array([category_name(value) == term.value for value in column.values], dtype=bool)
        same = np.append(hits, [False])[column.codes]
    return same if term.operator == "=" else ~same
