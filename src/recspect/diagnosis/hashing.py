"""Hashes and buckets of ids: the same in every process, batch and engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.column import Array, Categorical, Column, Ragged, describe, factorize
from recspect.errors import DataError

MERSENNE = 2**31 - 1
"""The prime that integer ids are reduced by: products of two such numbers stay below 2**63."""

_MISSING_HASH = np.uint64(0xDEAD)


def bucket(column: Column, buckets: int) -> NDArray[np.int64]:
    """Which of `buckets` buckets each row's id falls into: the same in every process, batch and engine.

    Integer ids use arithmetic that stays below 2**63, so that a query engine can do the same (see `bucket_expression`
    of `recspect.diagnosis.stat`); strings use BLAKE2. Missing ids share bucket 0.
    """
    if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "iub":
        return _bucket_integers(column.astype(np.int64), buckets)
    if isinstance(column, Ragged) or (isinstance(column, np.ndarray) and column.ndim == 2):
        raise DataError(f"ids are single values, this column holds {describe(column)}")
    found = column if isinstance(column, Categorical) else factorize(column)
    if found.values.dtype.kind in "iu":
        by_value = _bucket_integers(found.values.astype(np.int64), buckets)
    else:
        by_value = (hash_values(found.values) % np.uint64(buckets)).astype(np.int64)
        if found.values.dtype.kind == "f":  # 2.0 stays where 2 is, though another id of the batch is no whole number
            whole = np.isfinite(found.values) & (found.values == np.floor(found.values)) & (np.abs(found.values) < 2**53)
            by_value[whole] = _bucket_integers(found.values[whole].astype(np.int64), buckets)
    return np.append(by_value, [0])[found.codes]


def _bucket_integers(ids: NDArray[np.int64], buckets: int) -> NDArray[np.int64]:
    folded = np.abs(ids % MERSENNE)
    mixed = (folded * 48271 + 11) % MERSENNE
    mixed = (mixed * (mixed % 32749 + 1)) % MERSENNE
    which: NDArray[np.int64] = mixed * buckets // MERSENNE
    return which


def hash_values(values: Array) -> NDArray[np.uint64]:
    """A 64-bit hash of each value, the same in every process.

    Whole numbers hash alike whatever their type, and missing ones (NaN, NaT) as a missing category does in `hash_columns`.
    """
    if values.dtype.kind == "M":
        times = values.astype("datetime64[us]").astype(np.int64)
        return np.where(np.isnat(values), _MISSING_HASH, _mix(times.view(np.uint64)))
    if values.dtype.kind == "f":
        whole = (values == np.floor(values)) & (np.abs(values) < 2**53)
        as_integer = np.where(whole, values, 0).astype(np.int64).view(np.uint64)
        as_bits = (values.astype(np.float64) + 0.0).view(np.uint64) ^ np.uint64(0x5851F42D4C957F2D)
        return np.where(np.isnan(values), _MISSING_HASH, _mix(np.where(whole, as_integer, as_bits)))
    if values.dtype.kind in "iub":
        return _mix(values.astype(np.int64).view(np.uint64))
    return np.fromiter(map(_hash_text, map(str, values)), np.uint64, len(values))


@lru_cache(maxsize=2**17)
def _hash_text(text: str) -> int:
    """Kept, as the same ids come in batch after batch."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def hash_columns(columns: Iterable[Column], rows: int) -> NDArray[np.uint64]:
    """One 64-bit hash per row over these columns; equal rows hash equal in every process."""
    return combine_hashes((part for column in columns for part in hash_parts(column)), rows)


def combine_hashes(parts: Iterable[NDArray[np.uint64]], rows: int) -> NDArray[np.uint64]:
    """One hash per row of the hashes of its values, each of shape (rows,), in their order."""
    combined = np.full(rows, 0x9E3779B97F4A7C15, dtype=np.uint64)
    for part in parts:
        combined = _mix(combined ^ part)
    return combined


def hash_parts(column: Column) -> list[NDArray[np.uint64]]:
    """The hash of every row's value, shape (rows,); of vectors one for each place."""
    if isinstance(column, np.ndarray) and column.ndim == 2:
        return [hash_values(column[:, i]) for i in range(column.shape[1])]
    if isinstance(column, Categorical):
        return [np.append(hash_values(column.values), [_MISSING_HASH])[column.codes]]
    if not isinstance(column, Ragged):
        return [hash_values(column)]
    first, last = column.offsets[0], column.offsets[-1]
    offsets = column.offsets - first
    entry = hash_columns([column.values[first:last]], int(last - first))
    place = np.arange(len(entry)) - np.repeat(offsets[:-1], column.lengths)
    with np.errstate(over="ignore"):
        entry = entry * (2 * place.astype(np.uint64) + np.uint64(1))
        total = np.concatenate([[np.uint64(0)], np.cumsum(entry, dtype=np.uint64)])
        return [total[offsets[1:]] - total[offsets[:-1]]]


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))
