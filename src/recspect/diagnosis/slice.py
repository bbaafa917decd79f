"""A predicate on rows, such as `country=DE, surface=home`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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

    `column=` with an empty value holds where the column is missing or an empty text.
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

    def expression(self, kinds: Mapping[str, Any] | None = None) -> nw.Expr | None:
        """The predicate as a query that keeps the same rows as `mask`; None for every row, or where it cannot be one.

        Args:
            kinds: Types of the columns, as `frame.collect_schema()` gives. Needed for = and !=, since engines write
                numbers and truth values as text each in its own way.
        """
        expressions = [_term_expression(term, None if kinds is None else kinds[term.column]) for term in self.terms]
        known = [expression for expression in expressions if expression is not None]
        return nw.all_horizontal(*known, ignore_nulls=True) if known and len(known) == len(expressions) else None


ALL = Slice()
"""Every row."""


def _number(term: Term) -> float:
    try:
        return float(term.value)
    except ValueError:
        raise UsageError(f"slice '{term}': {term.value!r} is not a number",
                         hint="<, <=, > and >= compare numbers; use = for text") from None


def _term_expression(term: Term, kind: Any) -> nw.Expr | None:
    column = nw.col(term.column)
    if term.operator in (">", "<", ">=", "<="):
        if not (kind is None or kind.is_numeric() or isinstance(kind, nw.Boolean)):
            return None  # times and text become numbers in each engine in its own way
        number, value = column.cast(nw.Float64), _number(term)
        held = {">": number > value, "<": number < value, ">=": number >= value, "<=": number <= value}[term.operator]
        return (held & ~number.is_nan()).fill_null(False)  # engines hold NaN to be the largest number
    same = None if kind is None else _same_expression(column, term.value, kind)
    return same if same is None or term.operator == "=" else ~same


def _same_expression(column: nw.Expr, value: str, kind: Any) -> nw.Expr | None:
    """Where the category, as text, is this one; None for types whose text form engines do not agree on."""
    missing = column.is_null()
    never = missing & ~missing
    if isinstance(kind, (nw.String, nw.Categorical, nw.Enum)):
        same = (column.cast(nw.String) == value).fill_null(False)
        return same | missing if value == "" else same
    if isinstance(kind, nw.Float64):
        if value == "":
            return (missing | column.is_nan()).fill_null(True)
        return (column == float(value)).fill_null(False) if _is_name_of(float, value) else never
    if isinstance(kind, nw.Boolean):
        if value == "":
            return missing
        return (column == (value == "True")).fill_null(False) if value in ("True", "False") else never
    if kind.is_integer():
        if value == "":
            return missing
        return (column == int(value)).fill_null(False) if _is_name_of(int, value) else never
    return None


def _is_name_of(kind: Callable[[str], Any], text: str) -> bool:
    try:
        return category_name(kind(text)) == text
    except ValueError:
        return False


def _term_mask(term: Term, batch: Batch) -> NDArray[np.bool_]:
    if term.operator in (">", "<", ">=", "<="):
        numbers, value = batch.numbers(term.column), _number(term)
        with np.errstate(invalid="ignore"):
            return {">": numbers > value, "<": numbers < value, ">=": numbers >= value,
                    "<=": numbers <= value}[term.operator]
    column: Categorical = batch.categories(term.column)
    hits = np.array([category_name(value) == term.value for value in column.values], dtype=bool)
    same = np.append(hits, [term.value == ""])[column.codes]
    return same if term.operator == "=" else ~same
