"""Which rows train, which stop the training, which judge it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.errors import DataError, SchemaError
from recspect.schema import Schema


@dataclass(frozen=True)
class Split:
    """Positions of rows, int64, without overlap; together every row once.

    Args:
        train, validation, test: Row numbers; in order of time for a time split.
        description: Plain data for `run.json`: kind, shares, counts, and the times at the borders.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    description: dict[str, Any]


def split_rows(batch: Batch, schema: Schema, *, test_share: float, validation_share: float,
               by: Literal["auto", "time", "random"] = "auto", seed: int = 0) -> Split:
    """Split rows by time where the schema has a time column, else at random.

    By time: rows are sorted by it (rows of equal time keep their order); the first `1 - test_share` are for training, the
    rest for judging. Of the training part, the last `validation_share` decides when to stop and which epoch is best.

    Args:
        batch: The table.
        schema: Says which column is the time.
        test_share: Between 0 and 1.
        validation_share: Between 0 and 1, of what the test part leaves.
        by: `time`, `random`, or `auto`.
        seed: Of the random split.

    Raises:
        SchemaError: `time` is asked for and the schema has no time column.
        DataError: Rows without a time, or too few rows for three parts.
    """
    if by == "time" and schema.time is None:
        raise SchemaError("a split by time needs a column with role 'time'", hint="Schema(time='...'), or split = 'random'")
    kind = "time" if by == "time" or (by == "auto" and schema.time is not None) else "random"
    validation_from, test_from = part_ends(batch.rows, test_share=test_share, validation_share=validation_share)
    description: dict[str, Any] = {"kind": kind, "test_share": test_share, "validation_share": validation_share,
                                   "rows": {"train": validation_from, "validation": test_from - validation_from,
                                            "test": batch.rows - test_from}}
    if kind == "time":
        assert schema.time is not None
        time = batch.numbers(schema.time)
        if not np.isfinite(time).all():
            raise DataError(f"column {schema.time!r} has no time in {int((~np.isfinite(time)).sum()):,} rows",
                            hint="drop these rows, or split = 'random'")
        order = np.argsort(time, kind="stable")
        description["validation_from"] = float(time[order[validation_from]])
        description["test_from"] = float(time[order[test_from]])
    else:
        order = np.random.default_rng(seed).permutation(batch.rows)
        description["seed"] = seed
    return Split(order[:validation_from], order[validation_from:test_from], order[test_from:], description)


def evenly_spaced(rows: int, most: int) -> NDArray[np.int64]:
    """At most so many positions among rows, evenly spaced from the first to the last."""
    return np.linspace(0, rows - 1, min(most, rows)).astype(np.int64)


def part_ends(rows: int, *, test_share: float, validation_share: float) -> tuple[int, int]:
    """The first row of the validation and of the test part, of rows in their order.

    Raises:
        DataError: Too few rows for three parts.
    """
    test_from = int(rows * (1 - test_share) + 1e-9)
    validation_from = int(test_from * (1 - validation_share) + 1e-9)
    if not 0 < validation_from < test_from < rows:
        raise DataError(f"{rows} rows are too few for a training, a validation and a test part", hint="give more rows, or larger shares")
    return validation_from, test_from
