"""What a model may take, and where it takes more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from recspect.diagnosis.estimate import Estimate
from recspect.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that a model may take; None where anything will do.

    Args:
        mebibytes: Parameters and buffers, 2^20 bytes each.
        operations_per_row: Forward, two per multiply-add.
        lookup_bytes_per_row: Of table rows.
        milliseconds_per_1000_rows: Scored, their encoding included, on the machine at hand.

    Raises:
        UsageError: A limit is not above 0.
    """

    mebibytes: float | None = None
    operations_per_row: float | None = None
    lookup_bytes_per_row: float | None = None
    milliseconds_per_1000_rows: float | None = None

    def __post_init__(self) -> None:
        for spec in fields(self):
            limit = getattr(self, spec.name)
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise UsageError(f"a budget of {spec.name}={limit}", hint="give a number above 0, or leave it out")


@dataclass(frozen=True, kw_only=True)
class Exceeded:
    """One limit that a model is beyond.

    Args:
        name: Of the limit.
        what: In words.
        taken: What the model takes; for times the median of runs, from the fastest to the slowest.
        limit: The budget.
    """

    name: str
    what: str
    taken: Estimate
    limit: float


def exceeded(budget: Budget, *, size: float, operations: float, lookups: float, runs: Sequence[float], rows: int) -> list[Exceeded]:
    """The limits that the model is beyond, in the order of `Budget`. Times are beyond only where the fastest run is: a busy machine is no fault of the model.

    Args:
        budget: The limits.
        size: Bytes held.
        operations, lookups: Of a row.
        runs: Milliseconds of each timed run of 1,000 rows; none where it was not timed.
        rows: Looked at for operations and lookups.
    """
    counted = (("mebibytes", "MiB held", size / 2**20, 1, "model"), ("operations_per_row", "operations per row", operations, rows, "rows"),
               ("lookup_bytes_per_row", "bytes looked up per row", lookups, rows, "rows"))
    found = [Exceeded(name=name, what=what, taken=Estimate(value=value, unit=what, n=n, of=of), limit=limit)
             for name, what, value, n, of in counted if (limit := getattr(budget, name)) is not None and value > limit]
    most = budget.milliseconds_per_1000_rows
    if most is not None and runs and min(runs) > most:
        middle = sorted(runs)[len(runs) // 2]
        found.append(Exceeded(name="milliseconds_per_1000_rows", what="ms per 1,000 rows", limit=most,
                              taken=Estimate(value=middle, low=min(runs), high=max(runs), unit="ms per 1,000 rows", n=len(runs), of="runs")))
    return found
