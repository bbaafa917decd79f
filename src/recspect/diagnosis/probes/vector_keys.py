"""What each vector of a table is to 8 significant bits, how long it is, and how often its row was read: what copies and lengths are told by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Column
from recspect.diagnosis.hashing import hash_values
from recspect.diagnosis.probe import Probe


class VectorKeysProbe(Probe):
    """Adds `@key:f`, `@log_norm:f` and `@octave:f` to rows with `@embedding:f` and `@uses:f`.

    Two vectors have one key where all their entries are equal to 8 significant bits (bfloat16), so where none differs by more than about 0.4%.

    Args:
        field: f.
    """

    light = True

    def __init__(self, field: str) -> None:
        self.field = field
        self.reads = (f"@embedding:{field}", f"@uses:{field}")

    @property
    def adds(self) -> tuple[str, ...]:
        return tuple(f"@{name}:{self.field}" for name in ("key", "log_norm", "octave"))

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        vectors, uses = batch.matrix(f"@embedding:{self.field}"), batch.numbers(f"@uses:{self.field}")
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            length = np.log(np.sqrt((vectors**2).sum(1)))
        return {f"@key:{self.field}": vector_keys(vectors), f"@log_norm:{self.field}": np.where(np.isfinite(length), length, np.nan),
                f"@octave:{self.field}": np.floor(np.log2(np.maximum(uses, 1))).astype(np.int64)}


def vector_keys(vectors: NDArray[np.floating]) -> NDArray[np.int64]:
    """A number per vector, the same for vectors that are equal to 8 significant bits in every entry; shape (rows,) of shape (rows, width)."""
    with np.errstate(over="ignore"):
        bits = (vectors.astype(np.float32) + np.float32(0)).view(np.uint32).astype(np.uint64)  # + 0: there is one zero
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)  # to even, as bfloat16 is
    key = np.zeros(len(vectors), dtype=np.uint64)
    for entries in rounded.T:
        key = hash_values((key ^ entries).view(np.int64))
    return (key >> np.uint64(1)).view(np.int64)
