"""Counts by name of a bounded number of names, and the query that adds them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, hash_values

Floats = NDArray[np.float64]


def weight_sums(codes: NDArray[np.int64], weight: Floats, size: int) -> Floats:
    """Sum of the weights of each code below size, shape (size,)."""
    sums: Floats = np.bincount(codes, weight, size).astype(np.float64, copy=False)
    return sums


def sum_by_name(names: Sequence[str], counts: Floats) -> tuple[list[str], Floats]:
    """Each name once, ascending, with the sum of its counts."""
    order = sorted(set(names))
    if len(order) == len(names) and list(names) == order:
        return order, counts
    position = {name: i for i, name in enumerate(order)}
    return order, weight_sums(np.array([position[name] for name in names], dtype=np.int64), counts, len(order))


def kept_names(names: Sequence[str], capacity: int, *, hashes: NDArray[np.uint64] | None = None) -> NDArray[np.bool_] | None:
    """Which names have the `capacity` smallest hashes, or None where all fit. Shape (names,).

    The rule depends on the set of names only, so adding in any order keeps the same ones, each with its whole count.
    `hashes` are those of the names, where they are known already.
    """
    if len(names) <= capacity:
        return None
    if hashes is None:
        hashes = hash_values(np.array(names, dtype=object))
    keep = np.zeros(len(names), dtype=bool)
    keep[np.argsort(hashes, kind="stable")[:capacity]] = True
    return keep


def grouped_counts(frame: nw.LazyFrame[Any], columns: Sequence[str], *, group: nw.Expr | None, weight: str | None,
                   ) -> dict[Any, tuple[Batch, Floats]]:
    """Distinct rows over these columns and their weight, by group, added up in the engine.

    The distinct values come back typed, so naming and hashing them is done in one place for every engine.

    Raises:
        NotImplementedError: A column of lists, which engines do not group alike.
    """
    kinds = frame.collect_schema()
    if any(isinstance(kinds[name], (nw.List, nw.Array, nw.Struct)) for name in columns):
        raise NotImplementedError
    named = {f"v{i}": nw.col(name) for i, name in enumerate(columns)}
    rows = frame.select(key=nw.lit(0) if group is None else group,
                        w=nw.lit(1.0) if weight is None else nw.col(weight).cast(nw.Float64), **named)
    table = rows.group_by("key", *named).agg(nw.col("w").sum()).collect(backend="pyarrow").to_arrow()
    batch = Batch.from_arrow(table)
    keys, weights = batch.numbers("key").astype(np.int64), batch.numbers("w")
    values = batch.select(list(named))
    values = Batch({name: values[f"v{i}"] for i, name in enumerate(columns)}, rows=batch.rows)
    if group is None:
        return {None: (values, weights)} if batch.rows else {}
    return {int(key): (values.take(keys == key), weights[keys == key]) for key in np.unique(keys)}
