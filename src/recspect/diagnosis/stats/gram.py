"""Shape of a cloud of vectors: spread, collapse, effective rank, from sums that add."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.errors import DataError

Floats = NDArray[np.float64]
_CHUNK = 65536
_LARGEST = 1e100
"""Squares of larger entries are infinite."""


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

        From the eigenvalues of the Gram matrix, so those below 1e-8 of the largest one are rounding.
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
        total = self.zero()
        for start in range(0, batch.rows, _CHUNK):  # in pieces, so that float32 tables are not copied whole to float64
            rows = slice(start, start + _CHUNK)
            total = total + _of_matrix(batch.select((self.column,)).take(rows).matrix(self.column),
                                       None if weight is None else weight[rows])
        return total


def _of_matrix(x: Floats, weight: Weights) -> GramSummary:
    w = np.ones(len(x)) if weight is None else weight
    valid = (np.abs(x) < _LARGEST).all(1)
    invalid = float(w[~valid].sum())
    if not valid.all():
        x, w = x[valid], w[valid]
    count = float(w.sum())
    if not count:
        return GramSummary(0.0, np.zeros(0), np.zeros((0, 0)), np.zeros(0), 0.0, 0.0, invalid)
    mean = w @ x / count
    d = x - mean
    norms = np.sqrt(np.einsum("ij,ij->i", x, x))
    inverse = np.divide(w, norms, out=np.zeros(len(x)), where=norms > 0)
    return GramSummary(count, mean, (d * w[:, None]).T @ d, inverse @ x, float(w @ norms), float(w[norms == 0].sum()), invalid)
