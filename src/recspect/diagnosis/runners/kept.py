"""Totals of partitions, kept in a folder so that a later run reads only what is missing: a run that was stopped, a week of which six days are known.

A total is found again by what it is the total of: the partition's content, the stats and slices, the probes with all that they hold (a model's
weights among it). Where that cannot be told, nothing is kept. Files are whole or not there, and hold arrays and JSON.
"""

from __future__ import annotations

import hashlib
import types
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recspect.diagnosis.runners.local import Pass
from recspect.diagnosis.tally import TALLY_FORMAT, Tally
from recspect.errors import RunError, UsageError
from recspect.files import require_writable, write_bytes

SUFFIX = ".tally"


@dataclass(frozen=True)
class Kept:
    """A folder of totals.

    Args:
        folder: Made where it is missing.

    Raises:
        UsageError: It cannot be written to.
    """

    folder: Path

    def __post_init__(self) -> None:
        require_writable(self.folder, folder=True)

    def get(self, name: str) -> Tally | None:
        """What was kept under the name; None where there is none, or none that can be read, so that its rows are read again."""
        try:
            return Tally.from_bytes(zlib.decompress((self.folder / f"{name}{SUFFIX}").read_bytes())) if name else None
        except (OSError, zlib.error, RunError):
            return None

    def put(self, name: str, content: bytes) -> None:
        """Keep a total; nothing where it has no name, or is kept already (several processes may give the same)."""
        if not name:
            return
        path, packed = self.folder / f"{name}{SUFFIX}", zlib.compress(content, 1)  # most bins of most totals are empty
        if not (path.is_file() and path.read_bytes() == packed):
            write_bytes(path, packed)


def name_of(one: Pass, rows: int, fingerprints: Sequence[str], share: tuple[int, int] | None = None) -> str:
    """32 hexadecimal digits by which a total is known, or nothing where the probes hold what cannot be told apart.

    Args:
        one: What is added up.
        rows: Rows of a batch.
        fingerprints: Of the partitions.
        share: Which share of the units of how many, or None for all rows.
    """
    digest = hashlib.blake2b(repr((TALLY_FORMAT, one.keys, one.unit, one.reads, one.sample, rows, tuple(fingerprints), share)).encode(), digest_size=16)
    try:
        for probe in one.probes:
            _feed(digest.update, probe, [])
    except UsageError:
        return ""
    return digest.hexdigest()


def _feed(update: Callable[[bytes], None], value: Any, inside: list[int]) -> None:
    """Feed all that a value holds to a digest.

    Raises:
        UsageError: It holds something of which that cannot be told: an open file, a lock, itself.
    """
    update(f"<{type(value).__module__}.{type(value).__qualname__}>".encode())
    if value is None or isinstance(value, (bool, int, float, complex, str, np.generic)):
        update(repr(value).encode())
    elif isinstance(value, (bytes, bytearray)):
        update(bytes(value))
    elif isinstance(value, np.ndarray) and value.dtype != object:
        update(f"{value.dtype}{value.shape}".encode())
        update(np.ascontiguousarray(value).tobytes())
    elif hasattr(value, "detach") and hasattr(value, "numpy"):  # a tensor
        _feed(update, value.detach().cpu().float().numpy() if str(value.dtype) == "torch.bfloat16" else value.detach().cpu().numpy(), inside)
    elif id(value) in inside:
        raise UsageError("a probe holds itself")
    else:
        _feed_parts(update, value, [*inside, id(value)])


def _feed_parts(update: Callable[[bytes], None], value: Any, inside: list[int]) -> None:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        parts: list[Any] = [part for pair in value.items() for part in pair]
    elif isinstance(value, AbstractSet):
        parts = sorted(value, key=repr)
    elif isinstance(value, Sequence):
        parts = list(value)
    elif isinstance(value, types.MethodType):
        parts = [value.__self__, value.__func__]
    elif isinstance(value, types.FunctionType):
        code = value.__code__
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        parts = [code.co_code, *(part for part in code.co_consts if not isinstance(part, types.CodeType)), code.co_names, value.__defaults__, cells]
        parts += [part.co_code for part in code.co_consts if isinstance(part, types.CodeType)]
    elif isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)):
        parts = [getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__)]
    else:
        try:  # what it would be made from again; what cannot be made again, such as an open file, says so
            made = value.__reduce_ex__(2)
        except Exception:
            raise UsageError(f"what a {type(value).__name__} holds cannot be told") from None
        parts = [list(part) if isinstance(part, Iterator) else part for part in made] if isinstance(made, tuple) else [made]
    for part in parts:
        _feed(update, part, inside)


__all__ = ["Kept", "name_of"]
