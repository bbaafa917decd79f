"""Counts by name of a bounded number of names, and the query that adds them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical, hash_values
from recspect.diagnosis.grouping import Names, names_of

Floats = NDArray[np.float64]


def weight_sums(codes: NDArray[np.int64], weight: Floats, size: int) -> Floats:
    """Sum of the weights of each code below size, shape (size,)."""
    sums: Floats = np.bincount(codes, weight, size).astype(np.float64, copy=False)
    return sums


def union_of_names(sides: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """Every name once, ascending, and where the names of each side are among them."""
    first = sides[0]
    if all(side == first for side in sides):
        return first, [np.arange(len(first))] * len(sides)
    names = tuple(sorted(set().union(*sides)))
    place = {name: i for i, name in enumerate(names)}
    return names, [np.fromiter(map(place.__getitem__, side), np.int64, len(side)) for side in sides]


def kept_categories(column: Categorical, capacity: int, used: NDArray[np.bool_] | None = None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Where each row's category is among the kept names, the number of names for others; and the names, ascending.

    Args:
        column: The rows.
        capacity: How many are kept of the categories that occur; see `kept_names`.
        used: Which rows count, shape (rows,); default all. The places of the others mean nothing.
    """
    names = names_of(column)
    place = names.place[column.codes]
    keep = np.bincount(place if used is None else place[used], minlength=len(names.texts)) > 0
    keep[keep] = among_kept(names, np.flatnonzero(keep), capacity)
    position = np.where(keep, np.cumsum(keep) - 1, keep.sum())
    return position[place], tuple(names.texts[keep].tolist())


def among_kept(names: Names, which: NDArray[np.int64], capacity: int) -> NDArray[np.bool_]:
    """Which of some of a column's names are kept, shape (which,); see `kept_names`."""
    if len(which) <= capacity:
        return np.ones(len(which), dtype=bool)
    keep = np.zeros(len(which), dtype=bool)
    keep[np.argsort(names.hashes[which], kind="stable")[:capacity]] = True
    return keep


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
