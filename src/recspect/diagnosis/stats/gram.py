"""Shape of a cloud of vectors: spread, collapse, effective rank, from sums that add."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.errors import DataError

Floats = NDArray[np.float64]
_PIECE = 2**17
"""Entries that are summed up at a time: 1 MiB."""
_LARGEST = 1e100
"""Squares of larger entries are infinite."""
_CANCELS = 16.0
"""A mean whose square is so many times the variance costs the variance more than four bits when one is taken from the other."""


@dataclass(frozen=True)
class GramSummary(Summary):
    """Mean, scatter and mean direction of vectors. Size: width x width.

    Args:
        count: Weight of the vectors.
        mean: Shape (width,); width 0 before any valid vector was seen.
        scatter: Sum of (x - mean)(x - mean)^T, shape (width, width).
        directions: Sum of x / |x|, shape (width,).
        norms: Sum of |x|.
        zeros: Weight of vectors of norm 0.
        invalid: Weight of vectors with a missing entry or one beyond 1e100, left out.
    """

    count: float
    mean: Floats
    scatter: Floats
    directions: Floats
    norms: float
    zeros: float
    invalid: float

    def __add__(self, other: GramSummary) -> GramSummary:
        count = self.count + other.count
        norms, zeros, invalid = self.norms + other.norms, self.zeros + other.zeros, self.invalid + other.invalid
        if not self.width or not other.width:
            full = self if self.width else other
            return GramSummary(full.count, full.mean, full.scatter, full.directions, norms, zeros, invalid)
        if self.width != other.width:
            raise DataError(f"vectors of width {self.width} and of width {other.width} cannot be added up")
        shift = other.mean - self.mean
        return GramSummary(
            count, self.mean + shift * (other.count / count),
            self.scatter + other.scatter + np.outer(shift, shift) * (self.count * other.count / count),
            self.directions + other.directions, norms, zeros, invalid)

    @property
    def width(self) -> int:
        """Entries per vector."""
        return len(self.mean)

    @property
    def outer(self) -> Floats:
        """Sum of x x^T, shape (width, width)."""
        return self.scatter + self.count * np.outer(self.mean, self.mean)

    @property
    def covariance(self) -> Floats:
        """With the n - 1 correction, shape (width, width); NaN for fewer than two vectors."""
        return self.scatter / (self.count - 1) if self.count > 1 else np.full_like(self.scatter, np.nan)

    def singular_values(self, *, centred: bool = True) -> Floats:
        """Of the matrix of all vectors, less their mean when centred; descending, shape (width,).

        From the eigenvalues of the Gram matrix, which squares them: one that is r of the largest has a relative error of about 1e-16 / r^2 (1e-10 at r = 1e-3,
        1e-4 at 1e-6), and those below 1e-8 of the largest are rounding. A singular value decomposition in float32 errs by about 1e-7 / r.
        """
        if not self.width:
            return np.zeros(0)
        values = np.linalg.eigvalsh(self.scatter if centred else self.outer)[::-1]
        largest = max(float(values[0]), 0.0)
        return np.sqrt(np.where(values > largest * 1e-15 * self.width, np.maximum(values, 0.0), 0.0))

    def information_abundance(self, *, centred: bool = False) -> float:
        """Sum of singular values over the largest, 1 to width; NaN where all are 0. Source: Guo et al. 2024."""
        values = self.singular_values(centred=centred)
        return float(values.sum() / values[0]) if len(values) and values[0] > 0 else np.nan

    def effective_rank(self, *, centred: bool = True) -> float:
        """Exponential of the entropy of the singular values' shares, 1 to width; NaN where all are 0.

        Source: Roy and Vetterli 2007, "The Effective Rank".
        """
        values = self.singular_values(centred=centred)
        if not len(values) or not values[0] > 0:
            return np.nan
        p = values[values > 0] / values.sum()
        return float(np.exp(-(p * np.log(p)).sum()))

    @property
    def mean_cosine(self) -> float:
        """Mean cosine of two different vectors, those of norm 0 aside, -1 to 1; NaN for fewer than two."""
        n = self.count - self.zeros
        return float((self.directions @ self.directions - n) / (n * (n - 1))) if n > 1 else np.nan

    @property
    def mean_norm(self) -> float:
        """Mean length; NaN for no vectors."""
        return self.norms / self.count if self.count else np.nan


@dataclass(frozen=True, kw_only=True)
class Gram(Stat[GramSummary]):
    """Mean and scatter of a column of vectors, such as embeddings of the rows or of a table.

    Example:
        >>> summary = Gram(column="e").summarize(Batch({"e": np.array([[1., 0.], [-1., 0.], [2., 0.]])}))
        >>> round(summary.effective_rank(), 6)
        1.0
    """

    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def zero(self) -> GramSummary:
        return GramSummary(0.0, np.zeros(0), np.zeros((0, 0)), np.zeros(0), 0.0, 0.0, 0.0)

    def summarize(self, batch: Batch, weight: Weights = None) -> GramSummary:
        vectors = _Vectors(batch, self.column, weight)
        width = vectors.width
        count = norms = zeros = invalid = 0.0
        total, directions, outer = np.zeros(width), np.zeros(width), np.zeros((width, width))
        for x, squares, w, left_out in vectors.pieces():
            invalid += left_out
            lengths = np.sqrt(squares)
            short = lengths.min(initial=np.inf) == 0
            zeros += float(w[lengths == 0].sum()) if short else 0.0
            inverse = np.divide(w, lengths, out=np.zeros(len(x)), where=lengths > 0) if short else w / lengths
            count += float(w.sum())
            norms += float(w @ lengths)
            total += w @ x
            directions += inverse @ x
            outer += _outer(x, None if weight is None else w)
        if not count:
            return GramSummary(0.0, np.zeros(0), np.zeros((0, 0)), np.zeros(0), 0.0, 0.0, invalid)
        mean = total / count
        of_mean = count * np.outer(mean, mean)
        scatter = outer - of_mean
        if (np.diag(of_mean) > _CANCELS * np.diag(scatter)).any():  # the difference has lost digits: a second pass, less the mean
            scatter = np.zeros((width, width))
            for x, _, w, _ in vectors.pieces():
                scatter += _outer(np.subtract(x, mean, out=vectors.spare[:len(x)]), None if weight is None else w)
        return GramSummary(count, mean, scatter, directions, norms, zeros, invalid)


class _Vectors:
    """A column of vectors in pieces as float64, in the same memory each time, so that a large float32 table costs neither a copy nor fresh pages."""

    def __init__(self, batch: Batch, column: str, weight: Weights) -> None:
        first = batch.select((column,)).take(slice(0, 0)).matrix(column)  # an error where these are no vectors
        self.column, self.weight, self.width = np.asarray(batch[column]), weight, first.shape[1]
        step = min(batch.rows, max(256, _PIECE // max(1, self.width)))
        self.steps = range(0, batch.rows, max(1, step))
        self.copy, self.spare = np.empty((step, self.width)), np.empty((step, self.width))
        self.ones = np.ones(max(step, self.width))

    def pieces(self) -> Iterator[tuple[Floats, Floats, Floats, float]]:
        """Valid vectors, their squared lengths and weights, and the weight of the invalid ones that were left out."""
        for start in self.steps:
            rows = slice(start, start + self.steps.step)
            x = self.column[rows]
            if x.dtype != np.float64 or not x.flags.c_contiguous:
                x, piece = self.copy[:len(x)], x
                np.copyto(x, piece, casting="unsafe")
            w = self.ones[:len(x)] if self.weight is None else self.weight[rows]
            squares = self._squares(x)
            if squares.max() < _LARGEST**2 / 10:  # false also where one is NaN
                yield x, squares, w, 0.0
                continue
            valid = (np.abs(x) < _LARGEST).all(1)
            yield x[valid], self._squares(x[valid]), w[valid], float(w[~valid].sum())

    def _squares(self, x: Floats) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):
            np.square(x, out=self.spare[:len(x)])
            return self.spare[:len(x)] @ self.ones[:self.width]  # faster than a sum over short rows


def _outer(x: Floats, weight: Weights) -> Floats:
    """Sum of x x^T; the product of a matrix with its own transpose computes half of it."""
    return x.T @ x if weight is None else (x * weight[:, None]).T @ x
