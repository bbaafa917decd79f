"""The search for the slices with the worst errors: score, an upper bound that never prunes the best, level by level.

score = alpha (mean error of the slice / mean error - 1) - (1 - alpha) (rows / rows of the slice - 1)

A slice of L terms (field=value) can only hold rows of each of the L slices that lack one of its terms, so its size and its error are at most
the least of theirs. From these the score of every slice below can be bounded, and what cannot come among the best is never counted.

Shapes: M slices, L terms, N rows, F fields.

Source: Sagadeeva and Boehm 2021, SliceLine: Fast, Linear-Algebra-based Slice Finding for ML Model Debugging. Their bound, with all three sizes at which it can be
reached looked at; ours counts with one pass of integer codes per crossing of fields, not with products of one-hot matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.crossings import each_crossing
from recspect.errors import UsageError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_NOTHING = 1e-12
"""A score that all rows together have by rounding."""


@dataclass(frozen=True)
class Slices:
    """Slices of L terms each, with what bounds them.

    Args:
        fields: Numbers of the fields, ascending in each row, shape [M, L].
        values: Codes of the values in these fields, shape [M, L].
        size, error, highest: Rows, their summed error, and their largest error, shape [M]; of slices not counted yet, bounds from above.
    """

    fields: Ints
    values: Ints
    size: Floats
    error: Floats
    highest: Floats

    def __len__(self) -> int:
        return len(self.size)

    def take(self, which: NDArray[np.bool_] | Ints) -> Slices:
        """Some of them."""
        return Slices(self.fields[which], self.values[which], self.size[which], self.error[which], self.highest[which])

    def keys(self) -> list[tuple[tuple[int, int], ...]]:
        """Of each slice its terms as (field, value)."""
        return [tuple(zip(f, v, strict=True)) for f, v in zip(self.fields.tolist(), self.values.tolist(), strict=True)]


def score(error: Floats, size: Floats, *, mean_error: float, rows: float, alpha: float = 0.95) -> Floats:
    """How bad a slice is, worse for larger error and for more rows; 0 for all rows, -inf for none.

    Args:
        error: Summed error of the slice's rows.
        size: Its rows.
        mean_error: Of all rows, above 0.
        rows: All rows.
        alpha: Weight of the error against the size, in (0, 1].
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = alpha * (error / size / mean_error - 1) - (1 - alpha) * (rows / size - 1)
    return np.asarray(np.where(size > 0, found, -np.inf))


def upper_bound(slices: Slices, *, least: float, mean_error: float, rows: float, alpha: float = 0.95) -> Floats:
    """No slice of at least `least` rows within has a greater score, shape [M]; -inf where none can be so large.

    Of v rows, a slice within has at most min(v x highest, error) of error. The score of that rises up to v = error / highest and has one direction
    from there on, so that its greatest value lies there or at either end.
    """
    bound = np.full(len(slices), -np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = np.where(slices.highest > 0, slices.error / slices.highest, slices.size)
    for v in (np.full(len(slices), float(least)), np.clip(turn, least, np.maximum(slices.size, least)), slices.size):
        most = np.minimum(v * slices.highest, slices.error)
        bound = np.fmax(bound, score(most, v, mean_error=mean_error, rows=rows, alpha=alpha))
    return np.asarray(np.where(slices.size >= least, bound, -np.inf))


def children(parents: Slices) -> Slices:
    """Every slice of one term more all of whose parents are there, with the least size, error and largest error of these."""
    level = parents.fields.shape[1]
    base = int(parents.values.max(initial=0)) + 1
    terms = parents.fields * base + parents.values
    order = np.lexsort(terms.T[::-1])
    terms, parents = terms[order], parents.take(order)
    first, second = _pairs_with_equal_start(terms)
    apart = parents.fields[first, -1] != parents.fields[second, -1]
    first, second = first[apart], second[apart]
    joined = np.concatenate([terms[first], terms[second, -1:]], axis=1)
    bounds = [np.minimum(one[first], one[second]) for one in (parents.size, parents.error, parents.highest)]
    if level > 1:
        place = {row: k for k, row in enumerate(map(tuple, terms.tolist()))}
        keep = np.ones(len(joined), dtype=bool)
        for left_out in range(level - 1):  # the first two of the parents were joined
            others = np.delete(joined, left_out, axis=1)
            at = np.fromiter((place.get(row, -1) for row in map(tuple, others.tolist())), np.int64, len(others))
            keep &= at >= 0
            bounds = [np.where(at >= 0, np.minimum(bound, one[at]), bound) for bound, one in zip(bounds, (parents.size, parents.error, parents.highest), strict=True)]
        joined, bounds = joined[keep], [bound[keep] for bound in bounds]
    return Slices(joined // base, joined % base, *bounds)


def _pairs_with_equal_start(terms: Ints) -> tuple[Ints, Ints]:
    """Positions of all pairs of rows, in lexical order, that differ in the last term only."""
    if not len(terms):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    starts = np.flatnonzero(np.append(True, (terms[1:, :-1] != terms[:-1, :-1]).any(1))) if terms.shape[1] > 1 else np.zeros(1, dtype=np.int64)
    ends = np.append(starts[1:], len(terms))
    after = np.repeat(ends, ends - starts) - np.arange(len(terms)) - 1
    first = np.repeat(np.arange(len(terms)), after)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(after) - after, after)
    return first, second


# ---------------------------------------------------------------------- in memory


@dataclass(frozen=True)
class Found:
    """The worst slices.

    Args:
        terms: Of each slice (field, value) pairs, worst first.
        scores, errors, sizes: Score, summed error and rows, shape [M].
        counted: How many slices were counted.
        possible: How many there were whose parents are all large enough.
    """

    terms: tuple[tuple[tuple[int, int], ...], ...]
    scores: Floats
    errors: Floats
    sizes: Floats
    counted: int
    possible: int


def worst_slices(errors: Floats, codes: Ints, *, least: int, k: int = 5, levels: int = 3, alpha: float = 0.95) -> Found:
    """The k slices of greatest score above 0, exactly; of equal ones any.

    Memory beyond the rows is that of the slices still in question, never rows x values.

    Args:
        errors: Per row, at least 0, shape [N].
        codes: Values of the fields as numbers from 0, shape [N, F].
        least: Rows that a slice must have.
        k: How many to find.
        levels: Terms at most.
        alpha: See `score`.

    Raises:
        UsageError: Errors below 0 or missing, codes below 0, other shapes, or settings out of range.
    """
    errors, codes = np.asarray(errors, dtype=np.float64), np.asarray(codes)
    if codes.ndim != 2 or errors.shape != codes.shape[:1] or not np.isfinite(errors).all() or (errors < 0).any() or (codes < 0).any():
        raise UsageError(f"errors of shape {errors.shape} and codes of shape {codes.shape}", hint="errors [rows] of at least 0, codes [rows, fields] from 0")
    if least < 1 or k < 1 or levels < 1 or not 0 < alpha <= 1:
        raise UsageError(f"least {least}, k {k}, levels {levels}, alpha {alpha}", hint="counts of at least 1, alpha above 0 and at most 1")
    rows, mean_error = float(len(errors)), float(errors.mean()) if len(errors) else 0.0
    if mean_error <= 0:
        return Found((), np.zeros(0), np.zeros(0), np.zeros(0), 0, 0)
    columns = [np.ascontiguousarray(codes[:, f]) for f in range(codes.shape[1])]
    best: list[tuple[float, tuple[tuple[int, int], ...], float, float]] = []
    counted = possible = 0

    def note(level: Slices) -> float:
        found = score(level.error, level.size, mean_error=mean_error, rows=rows, alpha=alpha)
        take = np.flatnonzero((level.size >= least) & (found > _NOTHING))
        take = take[np.argsort(-found[take], kind="stable")[:k]]
        best.extend((float(found[i]), key, float(level.error[i]), float(level.size[i])) for i, key in zip(take, level.take(take).keys(), strict=True))
        best.sort(key=lambda one: -one[0])
        del best[k:]
        return best[-1][0] if len(best) == k else 0.0

    level = singles(errors, columns)
    counted, possible = len(level), len(level)
    reached = note(level)
    for _ in range(1, levels):
        level = level.take((level.size >= least) & (upper_bound(level, least=least, mean_error=mean_error, rows=rows, alpha=alpha) > reached))
        level = children(level)
        possible += len(level)
        level = level.take(upper_bound(level, least=least, mean_error=mean_error, rows=rows, alpha=alpha) > reached)
        if not len(level):
            break
        counted += len(level)
        level = counts(level, columns, errors)
        reached = note(level)
    return Found(tuple(one[1] for one in best), np.array([one[0] for one in best]), np.array([one[2] for one in best]), np.array([one[3] for one in best]), counted, possible)


def singles(errors: Floats, columns: list[Ints]) -> Slices:
    """Every value of every field, counted."""
    parts = []
    for f, column in enumerate(columns):
        size = np.bincount(column).astype(np.float64)
        highest = np.zeros(len(size))
        np.maximum.at(highest, column, errors)
        there = np.flatnonzero(size)
        parts.append((np.full(len(there), f), there, size[there], np.bincount(column, errors)[there], highest[there]))
    joined = [np.concatenate(side) for side in zip(*parts, strict=True)]
    return Slices(joined[0][:, None], joined[1][:, None], *joined[2:])


def counts(level: Slices, columns: list[Ints], errors: Floats) -> Slices:
    """Size and error of slices, each crossing of fields counted in one pass over the rows; their largest errors stay bounds."""
    size, error = np.zeros(len(level)), np.zeros(len(level))

    def count(where: Ints, of_row: Ints) -> None:
        size[where] = np.bincount(of_row, minlength=len(where) + 1)[:-1]
        error[where] = np.bincount(of_row, errors, len(where) + 1)[:-1]

    each_crossing(level.fields, level.values, columns, count)
    return Slices(level.fields, level.values, size, error, np.minimum(level.highest, error))


def every_slice(codes: Ints, levels: int) -> list[tuple[tuple[int, int], ...]]:
    """Every slice that has a row, of up to so many terms: what brute force looks at."""
    found: set[tuple[tuple[int, int], ...]] = set()
    for level in range(1, levels + 1):
        for crossed in combinations(range(codes.shape[1]), level):
            found.update(tuple(zip(crossed, row, strict=True)) for row in np.unique(codes[:, crossed], axis=0).tolist())
    return sorted(found)
