"""What a variant of a model costs, and how its AUC differs from that of the model it was made from, on the same rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.comparing.pairs import BUCKETS
from recspect.compressing.fitted import Fitted
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.jackknife import estimate_from
from recspect.diagnosis.ranks import auc_of_counts
from recspect.examining.costs import COUNTED_ROWS, TIMED_ROWS, counted, timed
from recspect.examining.tables import labelled, sample_of
from recspect.schema import Schema
from recspect.training.predict import raw_outputs

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a model takes.

    Args:
        bytes: Held by parameters and buffers.
        by_part: Part of the model to its bytes.
        operations: Floating-point operations of a row, forward; see `recspect.examining.costs`.
        read: Bytes that a row looks up in tables.
        milliseconds: Median time to encode and score 1,000 rows, on this machine as it was.
        feature_bytes: Of the vocabularies and settings that turn a row into ids, as they lie on disk without compression.
    """

    bytes: int
    by_part: dict[str, int]
    operations: float
    read: float
    milliseconds: float
    feature_bytes: int


def cost_of(fitted: Fitted, rows: Batch) -> Cost:
    """Count and time a model on a sample of these rows."""
    subject = fitted.subject()
    parts, _ = counted(subject, sample_of(rows, COUNTED_ROWS))
    seconds = timed(subject, sample_of(rows, TIMED_ROWS)).numbers("@cost:seconds")
    held = parts.numbers("@part:bytes")
    return Cost(bytes=fitted.held_bytes, by_part={str(name): int(size) for name, size in zip(parts["@part"], held, strict=True) if size},
                operations=float(parts.numbers("@part:operations").sum()), read=float(parts.numbers("@part:read").sum()),
                milliseconds=float(np.median(seconds)) * 1000, feature_bytes=sum(_size(encoder.state()[1]) for encoder in fitted.transform.encoders.values() if not encoder.field.shares))


def _size(arrays: dict[str, NDArray[np.generic]]) -> int:
    return sum(array.nbytes for array in arrays.values())


def scores_of(fitted: Fitted, rows: Batch) -> Floats:
    """Logits of these rows, shape (rows,)."""
    return raw_outputs(fitted.model, fitted.transform.transform(rows))


class Judged:
    """Held-out rows on which variants are compared with one model, pair by pair; rows of one user stay together.

    AUC is exact, ties counting half. The interval of a difference is a jackknife that leaves out the same users on both sides.

    Args:
        rows: Held-out rows with the label.
        schema: Names the label and the user.
        scores: Of the model that variants are compared with, shape (rows,).
    """

    def __init__(self, rows: Batch, schema: Schema, scores: Floats) -> None:
        self.rows = rows
        standard = labelled(rows, schema)
        self.label = standard.numbers("@label")
        self.bucket = standard.buckets("@cluster", BUCKETS)
        self.occupied = np.bincount(self.bucket, minlength=BUCKETS) > 0
        self.auc, self._without = self._auc(scores)

    def difference(self, scores: Floats, *, level: float = 0.95) -> Estimate:
        """AUC of these scores less that of the model, with its interval.

        Raises:
            Unavailable: The rows are all of one class.
        """
        value, without = self._auc(scores)
        return estimate_from(value - self.auc, (without - self._without)[self.occupied], unit="AUC", n=len(self.label), level=level)

    def _auc(self, scores: Floats) -> tuple[float, Floats]:
        """AUC of all rows, and of those without each bucket, (50,)."""
        values, place = np.unique(scores, return_inverse=True)
        positive, negative = (np.bincount(place, weights=weight, minlength=len(values)) for weight in (self.label, 1 - self.label))
        found = np.full(BUCKETS, np.nan)
        order = np.argsort(self.bucket, kind="stable")
        ends = np.cumsum(np.bincount(self.bucket, minlength=BUCKETS))
        for g, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            mine = order[start:end]
            gone = [np.bincount(place[mine], weights=weight[mine], minlength=len(values)) for weight in (self.label, 1 - self.label)]
            found[g] = auc_of_counts(positive - gone[0], negative - gone[1])
        return auc_of_counts(positive, negative), found

