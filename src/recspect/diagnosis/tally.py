"""Totals by slice and stat: the only thing that travels between workers or lies in storage."""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recspect.diagnosis.slice import ALL, Slice, Term
from recspect.diagnosis.stat import Setting, Stat, Summary
from recspect.errors import RecspectError, RunError, Unavailable

TALLY_FORMAT = 1
Key = tuple[Slice, Stat[Any]]


@dataclass(frozen=True)
class Tally(Mapping[Key, Any]):
    """(slice, stat) to summary. Adds: `tally_of_monday + tally_of_tuesday`.

    A key that only one side has is kept as it is, so tallies of different questions can be laid together too.
    """

    entries: Mapping[Key, Any]

    def __getitem__(self, key: Key) -> Any:
        return self.entries[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __hash__(self) -> int:
        return id(self)

    def __add__(self, other: Tally) -> Tally:
        merged = dict(self.entries)
        for key, summary in other.entries.items():
            merged[key] = merged[key] + summary if key in merged else summary
        return Tally(merged)

    def get_summary(self, stat: Stat[Any], slice_: Slice = ALL) -> Any:
        """The summary of a stat over a slice.

        Raises:
            Unavailable: It was not tallied.
        """
        try:
            return self.entries[slice_, stat]
        except KeyError:
            raise Unavailable(f"{type(stat).__name__} of {', '.join(stat.columns)} was not measured on {slice_}") from None

    def has(self, stat: Stat[Any], slice_: Slice = ALL) -> bool:
        """Whether the stat was tallied over the slice."""
        return (slice_, stat) in self.entries

    # ------------------------------------------------------------------ storage

    def to_bytes(self, *, compressed: bool = True) -> bytes:
        """A NumPy archive, compressed for storage: arrays, and an index in JSON. No pickle."""
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        index = {
            "format": "recspect-tally",
            "version": TALLY_FORMAT,
            "entries": [[_encode(slice_, arrays), _encode(stat, arrays), _encode(summary, arrays)]
                        for (slice_, stat), summary in self.entries.items()],
        }
        arrays["index"] = np.frombuffer(json.dumps(index).encode(), dtype=np.uint8)
        out = io.BytesIO()
        (np.savez_compressed if compressed else np.savez)(out, allow_pickle=False, **arrays)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, *, where: str = "tally") -> Tally:
        """Read `to_bytes` back.

        Raises:
            RunError: Damaged, of another version, or of stats that are not installed here.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            index = json.loads(arrays["index"].tobytes())
        except (ValueError, KeyError, OSError, zipfile.BadZipFile, EOFError) as error:
            raise RunError(f"{where} is not a readable tally: {error}", hint="run the diagnosis again") from None
        version = index.get("version") if isinstance(index, dict) else None
        if version != TALLY_FORMAT:
            raise RunError(f"{where} has tally format {version!r}, this recspect reads {TALLY_FORMAT}",
                           hint="run the diagnosis again with this version")
        _load_all_stats()
        try:
            return cls({(_decode(slice_, arrays), _decode(stat, arrays)): _decode(summary, arrays)
                        for slice_, stat, summary in index["entries"]})
        except (KeyError, TypeError, ValueError, AttributeError, RecspectError) as error:
            if isinstance(error, RunError):
                raise
            raise RunError(f"{where} is damaged: {error}", hint="run the diagnosis again") from None

    def write(self, path: str | Path) -> None:
        """Write to a file, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self.to_bytes())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def read(cls, path: str | Path) -> Tally:
        """Read a file that `write` wrote.

        Raises:
            RunError: Missing or damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise RunError(f"no tally at {path}", hint="recspect diagnose RUN writes them")
        return cls.from_bytes(path.read_bytes(), where=str(path))


def _encode(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, (Summary, Stat, Setting, Slice, Term)):
        assert is_dataclass(value)
        return {"$type": type(value).__name__,
                **{spec.name: _encode(getattr(value, spec.name), arrays) for spec in fields(value)}}
    if isinstance(value, np.ndarray) and value.dtype != object:
        name = f"a{len(arrays)}"
        arrays[name] = value
        return {"$array": name}
    if isinstance(value, np.ndarray):
        return {"$objects": [_encode(entry, arrays) for entry in value.tolist()]}
    if isinstance(value, bytes):
        name = f"a{len(arrays)}"
        arrays[name] = np.frombuffer(value, dtype=np.uint8)
        return {"$bytes": name}
    if isinstance(value, tuple):
        return {"$tuple": [_encode(entry, arrays) for entry in value]}
    if isinstance(value, Mapping):
        return {"$mapping": [[_encode(key, arrays), _encode(entry, arrays)] for key, entry in value.items()]}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be stored in a tally; use numbers, text, arrays or summaries")


def _decode(value: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    if not isinstance(value, dict):
        return value
    if "$type" in value:
        known: dict[str, Any] = {**Summary.registry, **Stat.registry, **Setting.registry, "Slice": Slice, "Term": Term}
        name = value["$type"]
        if name not in known:
            raise RunError(f"the tally holds a {name}, which is not known here", hint="import the plug-in that defines it")
        return known[name](**{key: _decode(entry, arrays) for key, entry in value.items() if key != "$type"})
    ((tag, content),) = value.items()
    if tag == "$array":
        return arrays[content]
    if tag == "$bytes":
        return arrays[content].tobytes()
    if tag == "$tuple":
        return tuple(_decode(entry, arrays) for entry in content)
    if tag == "$objects":
        out = np.empty(len(content), dtype=object)
        out[:] = [_decode(entry, arrays) for entry in content]
        return out
    if tag == "$mapping":
        return {_decode(key, arrays): _decode(entry, arrays) for key, entry in content}
    return float(content)


def _load_all_stats() -> None:
    """Stats register themselves when imported; a stored tally may name any of ours."""
    import importlib
    import pkgutil

    from recspect.diagnosis import stats

    for module in pkgutil.iter_modules(stats.__path__):
        importlib.import_module(f"{stats.__name__}.{module.name}")
