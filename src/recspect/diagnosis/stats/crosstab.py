"""Weight of pairs of categories: association of two columns, and how well one column alone tells a label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical
from recspect.diagnosis.stat import Stat, Summary, Weights, category_name
from recspect.diagnosis.stats.counting import grouped_counts, kept_names, weight_sums
from recspect.errors import Unavailable

Floats = NDArray[np.float64]


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
        rows = sorted({*self.row_names, *other.row_names})
        columns = sorted({*self.column_names, *other.column_names})
        counts = np.zeros((len(rows) + 1, len(columns) + 1))
        for part in (self, other):
            counts[np.ix_(_positions(part.row_names, rows), _positions(part.column_names, columns))] += part.counts
        return _bounded(rows, columns, counts, self.row_capacity, self.column_capacity)

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
        p = self._columns_of(positive)
        q = self._columns_of(negative)
        positives, negatives = p.sum(), q.sum()
        if not positives or not negatives:
            raise Unavailable("the label has one class only", hint="give rows of both classes")
        n = p + q
        prior = (positives - 1) / (positives + negatives - 2) if positives + negatives > 2 else 0.5
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
        return wins / float(positives * negatives)

    def _used(self) -> Floats:
        used: Floats = self.counts[self.counts.sum(1) > 0][:, self.counts.sum(0) > 0]
        return used

    def _columns_of(self, names: tuple[str, ...]) -> Floats:
        chosen = [i for i, name in enumerate(self.column_names) if name in names]
        return np.asarray(self.counts[:, chosen].sum(1))


def _positions(names: tuple[str, ...], among: list[str]) -> NDArray[np.int64]:
    place = {name: i for i, name in enumerate(among)}
    return np.array([*(place[name] for name in names), len(among)], dtype=np.int64)


def _bounded(rows: list[str], columns: list[str], counts: Floats, row_capacity: int, column_capacity: int,
             ) -> CrosstabSummary:
    row_names, counts = _fold(rows, counts, row_capacity)
    column_names, turned = _fold(columns, counts.T, column_capacity)
    return CrosstabSummary(row_names, column_names, np.ascontiguousarray(turned.T), row_capacity, column_capacity)


def _fold(names: list[str], counts: Floats, capacity: int) -> tuple[tuple[str, ...], Floats]:
    keep = kept_names(names, capacity)
    if keep is None:
        return tuple(names), counts
    inner, rest = counts[:-1], counts[-1]
    return tuple(np.array(names, dtype=object)[keep]), np.vstack([inner[keep], rest + inner[~keep].sum(0)])


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
        rows, row_names = _limited(batch.categories(self.row), w, self.row_capacity)
        columns, column_names = _limited(batch.categories(self.column), w, self.column_capacity)
        width = len(column_names) + 1
        counts = weight_sums(rows * width + columns, w, (len(row_names) + 1) * width).reshape(-1, width)
        return CrosstabSummary(row_names, column_names, counts, self.row_capacity, self.column_capacity)

    def pushdown(self, frame: nw.LazyFrame[Any], *, group: nw.Expr | None = None, weight: str | None = None,
                 ) -> Mapping[Any, CrosstabSummary]:
        found = grouped_counts(frame, self.columns, group=group, weight=weight)
        out = {key: self.summarize(batch, w) for key, (batch, w) in found.items()}
        return out if out or group is not None else {None: self.zero()}


def _limited(column: Categorical, weight: Floats, capacity: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Position of each row's category among the kept names, the number of names for others; and the names, ascending."""
    present = np.flatnonzero(weight_sums(column.codes + 1, weight, len(column.values) + 1) > 0)
    names = ["" if code == 0 else category_name(column.values[code - 1]) for code in present]
    distinct = sorted(set(names))
    keep = kept_names(distinct, capacity)
    kept = distinct if keep is None else [name for name, stays in zip(distinct, keep, strict=True) if stays]
    place = {name: i for i, name in enumerate(kept)}
    position = np.full(len(column.values) + 1, len(kept), dtype=np.int64)
    position[present] = [place.get(name, len(kept)) for name in names]
    return position[column.codes + 1], tuple(kept)
