"""Weight of pairs of categories: association of two columns, and how well one column alone tells a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, hash_values
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.diagnosis.stats.counting import grouped_counts, kept_categories, kept_names, weight_sums
from recspect.errors import Unavailable

Floats = NDArray[np.float64]
Hashes = NDArray[np.uint64] | None


@dataclass(frozen=True)
class CrosstabSummary(Summary):
    """Weight per pair of a row category and a column category.

    On either side the categories of smallest hash are kept, each complete, the rest added up in a last "other" one.

    Args:
        row_names, column_names: Categories as text, ascending; missing is "".
        counts: Shape (rows + 1, columns + 1); the last row and the last column are the other categories.
        row_capacity, column_capacity: How many categories are kept.
    """

    row_names: tuple[str, ...]
    column_names: tuple[str, ...]
    counts: Floats
    row_capacity: int
    column_capacity: int

    def __add__(self, other: CrosstabSummary) -> CrosstabSummary:
        return CrosstabSummary.sum_of((self, other))

    @classmethod
    def sum_of(cls, parts: Sequence[CrosstabSummary]) -> CrosstabSummary:
        """All of them."""
        if len(parts) == 1:
            return parts[0]
        rows, columns = (_union([getattr(part, side) for part in parts]) for side in ("row_names", "column_names"))
        counts = np.zeros((len(rows) + 1, len(columns) + 1))
        for part in parts:
            counts[np.ix_(_positions(part.row_names, rows), _positions(part.column_names, columns))] += part.counts
        return _bounded(list(rows), list(columns), counts, parts[0].row_capacity, parts[0].column_capacity)

    @classmethod
    def sums_without_each(cls, parts: Sequence[CrosstabSummary]) -> list[CrosstabSummary]:
        """For every part, all of the others: laid out over the same names once, then added by prefix and suffix sums."""
        rows, columns = (_union([getattr(part, side) for part in parts]) for side in ("row_names", "column_names"))
        counts = np.zeros((len(parts), len(rows) + 1, len(columns) + 1))
        in_row, in_column = np.zeros((len(parts), len(rows)), dtype=bool), np.zeros((len(parts), len(columns)), dtype=bool)
        for i, part in enumerate(parts):
            at_row, at_column = _positions(part.row_names, rows), _positions(part.column_names, columns)
            counts[i][np.ix_(at_row, at_column)] = part.counts
            in_row[i, at_row[:-1]], in_column[i, at_column[:-1]] = True, True
        row_names, column_names = np.array(list(rows), dtype=object), np.array(list(columns), dtype=object)
        row_capacity, column_capacity = parts[0].row_capacity, parts[0].column_capacity
        row_order = hash_values(row_names) if len(rows) > row_capacity else None
        column_order = hash_values(column_names) if len(columns) > column_capacity else None
        found = []
        for i, others in enumerate(sums_of_others(counts)):
            some_rows, some_columns = _in_others(in_row, i), _in_others(in_column, i)
            left = others[np.append(some_rows, True)][:, np.append(some_columns, True)]
            found.append(_bounded(row_names[some_rows].tolist(), column_names[some_columns].tolist(), left, row_capacity, column_capacity,
                                  row_hashes=None if row_order is None else row_order[some_rows],
                                  column_hashes=None if column_order is None else column_order[some_columns]))
        return found

    @property
    def count(self) -> float:
        """Weight of all rows."""
        return float(self.counts.sum())

    @property
    def chi_square(self) -> float:
        """Pearson's chi-square of independence over categories that occur; 0 where a side has one category."""
        used = self._used()
        if used.size == 0:
            return 0.0
        expected = used.sum(1, keepdims=True) * used.sum(0, keepdims=True) / used.sum()
        return float(((used - expected) ** 2 / expected).sum())

    @property
    def freedom(self) -> int:
        """Degrees of freedom of `chi_square`."""
        rows, columns = self._used().shape
        return int(max(rows - 1, 0) * max(columns - 1, 0))

    def cramers_v(self, *, corrected: bool = True) -> float:
        """Strength of association, 0 (none) to 1; NaN where a side has fewer than two categories.

        Corrected for what independent columns would show by chance (Bergsma 2013), which is much with many categories.
        """
        used = self._used()
        rows, columns = used.shape
        n = used.sum()
        if min(rows, columns) < 2 or n <= 1:
            return np.nan
        share = self.chi_square / n
        if not corrected:
            return float(np.sqrt(share / (min(rows, columns) - 1)))
        share = max(0.0, share - (rows - 1) * (columns - 1) / (n - 1))
        r = rows - (rows - 1) ** 2 / (n - 1)
        c = columns - (columns - 1) ** 2 / (n - 1)
        return float(np.sqrt(share / (min(r, c) - 1))) if min(r, c) > 1 else np.nan

    def target_auc(self, *, positive: tuple[str, ...] = ("1", "True"), negative: tuple[str, ...] = ("0", "False")) -> float:
        """How well the row category alone tells a 0/1 label (the column): AUC of its label rate; 0.5 for no information.

        Each pair of a positive and a negative row is scored by label rates computed without these two rows (leave-pair-out,
        Airola et al. 2011), in closed form, since rates that include the row itself look informative for any rare category,
        and leaving out one row at a time looks worse than chance. A category that occurs once has the overall rate. Rows
        of other categories count as one category.

        Raises:
            Unavailable: The label has one class only.
        """
        return target_auc(self._columns_of(positive), self._columns_of(negative))

    def _used(self) -> Floats:
        used: Floats = self.counts[self.counts.sum(1) > 0][:, self.counts.sum(0) > 0]
        return used

    def _columns_of(self, names: tuple[str, ...]) -> Floats:
        chosen = [i for i, name in enumerate(self.column_names) if name in names]
        return np.asarray(self.counts[:, chosen].sum(1))


def target_auc(positives: Floats, negatives: Floats) -> float:
    """AUC of the label rate per category from its positives and negatives, shape (categories,); see `CrosstabSummary.target_auc`.

    Raises:
        Unavailable: The label has one class only.
    """
    p, q = positives, negatives
    all_p, all_q = p.sum(), q.sum()
    if not all_p or not all_q:
        raise Unavailable("the label has one class only", hint="give rows of both classes")
    n = p + q
    prior = (all_p - 1) / (all_p + all_q - 2) if all_p + all_q > 2 else 0.5
    several = n > 1
    one_less = np.where(several, n - 1, 1.0)
    rate_of_positive = np.where(several, np.maximum(p - 1, 0.0) / one_less, prior)
    rate_of_negative = np.where(several, p / one_less, prior)
    has_p, has_q = p > 0, q > 0
    levels, codes = np.unique(np.append(rate_of_positive[has_p], rate_of_negative[has_q]), return_inverse=True)
    up = weight_sums(codes[:has_p.sum()], p[has_p], len(levels))
    down = weight_sums(codes[has_p.sum():], q[has_q], len(levels))
    wins = float((up * (np.cumsum(down) - down / 2)).sum())
    # A pair within one category leaves the same rate to both rows: a tie. In `wins` the negative had the higher rate.
    wins += float((p * q).sum()) / 2
    return wins / float(all_p * all_q)


def sums_of_others(values: Floats) -> Floats:
    """For each entry along the first axis (at least two), the sum of all others, by prefix and suffix sums: exact where sums are."""
    others = np.empty_like(values)
    others[0] = 0
    for i in range(1, len(values)):  # entry by entry: NumPy's sum along the first axis strides through memory, which takes ten times as long
        np.add(others[i - 1], values[i - 1], out=others[i])
    after = np.zeros_like(values[0])
    for i in range(len(values) - 2, -1, -1):
        after += values[i + 1]
        others[i] += after
    return others


def _union(sides: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """Every name once, ascending, with its position."""
    first = sides[0]
    names = first if all(side == first for side in sides) else sorted(set().union(*sides))
    return {name: i for i, name in enumerate(names)}


def _positions(names: tuple[str, ...], among: dict[str, int]) -> NDArray[np.int64]:
    """Where each name is, and at the end where the other names are."""
    if len(names) == len(among):
        return np.arange(len(among) + 1)
    return np.array([*map(among.__getitem__, names), len(among)], dtype=np.int64)


def _in_others(there: NDArray[np.bool_], which: int) -> NDArray[np.bool_]:
    some: NDArray[np.bool_] = there.sum(0) > there[which]
    return some


def _bounded(rows: Sequence[str], columns: Sequence[str], counts: Floats, row_capacity: int, column_capacity: int, *,
             row_hashes: Hashes = None, column_hashes: Hashes = None) -> CrosstabSummary:
    row_names, counts = _fold(rows, counts, row_capacity, row_hashes)
    column_names, turned = _fold(columns, counts.T, column_capacity, column_hashes)
    return CrosstabSummary(row_names, column_names, np.ascontiguousarray(turned.T), row_capacity, column_capacity)


def _fold(names: Sequence[str], counts: Floats, capacity: int, hashes: Hashes) -> tuple[tuple[str, ...], Floats]:
    keep = kept_names(names, capacity, hashes=hashes)
    if keep is None:
        return tuple(names), counts
    inner, rest = counts[:-1], counts[-1]
    return tuple(name for name, stays in zip(names, keep.tolist(), strict=True) if stays), np.vstack([inner[keep], rest + inner[~keep].sum(0)])


@dataclass(frozen=True, kw_only=True)
class Crosstab(Stat[CrosstabSummary]):
    """Weight of pairs of categories of two columns.

    Args:
        row, column: The two columns of single values.
        row_capacity, column_capacity: Categories kept on either side; memory is their product x 8 bytes.

    Example:
        >>> batch = Batch({"c": np.array(["a", "a", "b"]), "y": np.array([1, 1, 0])})
        >>> Crosstab(row="c", column="y").summarize(batch).counts.tolist()
        [[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """

    row: str
    column: str
    row_capacity: int = 16384
    column_capacity: int = 64

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.row, self.column)))

    def zero(self) -> CrosstabSummary:
        return CrosstabSummary((), (), np.zeros((1, 1)), self.row_capacity, self.column_capacity)

    def summarize(self, batch: Batch, weight: Weights = None) -> CrosstabSummary:
        w = np.ones(batch.rows) if weight is None else weight
        rows, row_names = kept_categories(batch.categories(self.row), self.row_capacity, w > 0)
        columns, column_names = kept_categories(batch.categories(self.column), self.column_capacity, w > 0)
        width = len(column_names) + 1
        counts = weight_sums(rows * width + columns, w, (len(row_names) + 1) * width).reshape(-1, width)
        return CrosstabSummary(row_names, column_names, counts, self.row_capacity, self.column_capacity)

    def summarize_buckets(self, batch: Batch, which: NDArray[np.int64], buckets: int, weight: Weights = None) -> list[CrosstabSummary]:
        """For every bucket the summary of its rows: categories are named and hashed once for all of them."""
        w = np.ones(batch.rows) if weight is None else weight
        rows, row_names = kept_categories(batch.categories(self.row), batch.rows + 1, w > 0)
        columns, column_names = kept_categories(batch.categories(self.column), batch.rows + 1, w > 0)
        height, width = len(row_names), len(column_names)
        counts = weight_sums((which * (height + 1) + rows) * (width + 1) + columns, w, buckets * (height + 1) * (width + 1))
        counts = counts.reshape(buckets, height + 1, width + 1)
        row_array, column_array = np.array(row_names, dtype=object), np.array(column_names, dtype=object)
        row_hashes = hash_values(row_array) if height > self.row_capacity else None
        column_hashes = hash_values(column_array) if width > self.column_capacity else None
        found = []
        for grid in counts:
            some_rows, some_columns = grid[:-1].sum(1) > 0, grid[:, :-1].sum(0) > 0
            part = grid[np.append(some_rows, True)][:, np.append(some_columns, True)]
            found.append(_bounded(row_array[some_rows].tolist(), column_array[some_columns].tolist(), part, self.row_capacity, self.column_capacity,
                                  row_hashes=None if row_hashes is None else row_hashes[some_rows],
                                  column_hashes=None if column_hashes is None else column_hashes[some_columns]))
        return found

    def pushdown(self, frame: nw.LazyFrame[Any], *, group: nw.Expr | None = None, weight: str | None = None,
                 ) -> Mapping[Any, CrosstabSummary]:
        found = grouped_counts(frame, self.columns, group=group, weight=weight)
        out = {key: self.summarize(batch, w) for key, (batch, w) in found.items()}
        return out if out or group is not None else {None: self.zero()}
