"""Vectors of texts and images, by models that are not trained here: computed once per distinct content, kept in files beside the data.

A vector is found again by the hash of its content (of an image: of its file's bytes) and the version of the model, which is a hash of its
weights: another model never reads the vectors of this one.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recspect.errors import DataError, RunError, SchemaError, UsageError, listing
from recspect.features.content_models import efficientnet_lite, minilm, sentence_transformers, timm_model
from recspect.files import write_bytes
from recspect.schema import Kind

Vectors = NDArray[np.float32]

AT_ONCE = 64
"""Contents that a model encodes at once."""

CACHE = ".recspect"
"""Folder beside the data; its name keeps readers of the data's folder out of it."""

_log = logging.getLogger("recspect.features")


class ContentModel(Protocol):
    """What turns texts, or files of images, into vectors."""

    version: str
    """Changes when the vectors would."""
    width: int
    """Numbers per vector."""

    def encode(self, contents: Sequence[str]) -> Vectors:
        """One vector per text, or per path of an image, shape (contents, width)."""


LOADERS: dict[str, tuple[Kind, Callable[[str], ContentModel]]] = {
    "minilm": (Kind.TEXT, minilm), "sentence-transformers": (Kind.TEXT, sentence_transformers),
    "efficientnet-lite0": (Kind.IMAGE, efficientnet_lite), "timm": (Kind.IMAGE, timm_model),
}
"""Name of an encoder to the kind that it reads and what loads it, from what follows the name's colon."""

DEFAULTS = {Kind.TEXT: "minilm", Kind.IMAGE: "efficientnet-lite0"}


def register(name: str, kind: Kind, load: Callable[[str], ContentModel]) -> None:
    """Let a schema's field say `encoder = "name"`, or `"name:argument"`.

    Args:
        name: Without a colon; one that is there is replaced.
        kind: `text` or `image`.
        load: From the argument (empty without one) to the model.
    """
    LOADERS[name] = (kind, load)
    load_model.cache_clear()


@lru_cache(maxsize=8)
def load_model(encoder: str, kind: Kind) -> ContentModel:
    """The model of that name, loaded once.

    Raises:
        SchemaError: No such encoder, or one of the other kind.
        MissingExtraError: Its library is not installed.
    """
    name, _, argument = encoder.partition(":")
    known = [known for known, (reads, _) in LOADERS.items() if reads is kind]
    if name not in known:
        raise SchemaError(f"no encoder {encoder!r} for kind '{kind.value}'", hint=f"encoders: {listing(known)}")
    return LOADERS[name][1](argument)


@dataclass(frozen=True, kw_only=True)
class ContentVectors:
    """Where the vectors of one field come from.

    Args:
        encoder: Name of the model.
        kind: Text or image.
        version: Of the model.
        width: Numbers per vector.
        folder: Of the data: paths of images begin there and must stay within, and the cache lies there. Empty: the working directory, and no cache.
    """

    encoder: str
    kind: Kind
    version: str
    width: int
    folder: str = ""

    @classmethod
    def of(cls, encoder: str | None, kind: Kind, folder: str) -> ContentVectors:
        """With the model that is installed now."""
        name = encoder or DEFAULTS[kind]
        model = load_model(name, kind)
        return cls(encoder=name, kind=kind, version=model.version, width=model.width, folder=folder)

    def vectors(self, contents: Sequence[str]) -> Vectors:
        """One vector per content, shape (contents, width); only new ones are computed.

        Raises:
            DataError: A file that is not there, lies outside the data's folder, or is no image.
            RunError: The model that is installed is another one than in training.
        """
        if self.kind is Kind.IMAGE:
            contents = [self._place(content) for content in contents]
        keys = [_key(content, self.kind) for content in contents]
        kept = _kept(str(Path(self.folder) / CACHE / "vectors" / self.version) if self.folder else f"memory:{self.version}", self.width)
        new = {key: content for key, content in zip(keys, contents, strict=True) if key not in kept.places}
        if new:
            model = load_model(self.encoder, self.kind)
            if model.version != self.version:
                raise RunError(f"vectors were made by {self.encoder!r} of version {self.version}, here is version {model.version}",
                               hint="install the version of training, or train anew")
            names = list(new)
            for start in range(0, len(names), AT_ONCE):
                part = names[start:start + AT_ONCE]
                kept.add(part, np.asarray(model.encode([new[key] for key in part]), dtype=np.float32))
            kept.write()
        return kept.take(keys)

    def _place(self, path: str) -> str:
        root = Path(self.folder or ".").resolve()
        whole = (root / path).resolve()
        if not whole.is_relative_to(root):
            raise DataError(f"image {path!r:.200} lies outside {root}", hint="give paths below the folder of the data")
        if not whole.is_file():
            raise DataError(f"no image at {path!r:.200} in {root}", hint="give paths relative to the folder of the data")
        return str(whole)


def _key(content: str, kind: Kind) -> bytes:
    if kind is Kind.TEXT:
        return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    status = Path(content).stat()
    return _file_key(content, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2**18)
def _file_key(path: str, size: int, changed: int) -> bytes:  # noqa: ARG001 - a file of another size or time is looked at again
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()


@dataclass
class _Kept:
    """Vectors by content, of one model: those in files are mapped into memory, new ones are written when a call ends."""

    folder: Path | None
    width: int
    places: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    shards: list[NDArray[np.void]] = field(default_factory=list)
    unwritten: list[int] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        for path in sorted(self.folder.glob("*.npy")) if self.folder is not None else ():
            with suppress(OSError, ValueError, EOFError):  # what is damaged is computed anew
                found = np.load(path, mmap_mode="r", allow_pickle=False)
                if found.dtype == self.form:
                    self._put(found)

    @property
    def form(self) -> np.dtype[np.void]:
        """Of a record."""
        return np.dtype([("key", "V16"), ("vector", "<f4", (self.width,))])

    def _put(self, records: NDArray[np.void]) -> None:
        for row, key in enumerate(records["key"].tolist()):
            self.places.setdefault(key, (len(self.shards), row))
        self.shards.append(records)

    def add(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        records = np.zeros(len(keys), dtype=self.form)
        records["key"] = np.array([np.void(key) for key in keys])
        records["vector"] = vectors
        with self.lock:
            self.unwritten.append(len(self.shards))
            self._put(records)

    def write(self) -> None:
        with self.lock:
            if self.folder is None or not self.unwritten:
                return
            records = np.concatenate([self.shards[place] for place in self.unwritten])
            self.unwritten.clear()
            file = io.BytesIO()
            np.save(file, records, allow_pickle=False)
            try:
                write_bytes(self.folder / f"{records['key'][0].tobytes().hex()}-{len(records)}.npy", file.getvalue())
            except UsageError as error:
                _log.warning("vectors are not kept, and will be computed again: %s", error.message)

    def take(self, keys: Sequence[bytes]) -> Vectors:
        found = np.empty((len(keys), self.width), dtype=np.float32)
        for row, key in enumerate(keys):
            shard, place = self.places[key]
            found[row] = self.shards[shard]["vector"][place]
        return found


@lru_cache(maxsize=16)
def _kept(place: str, width: int) -> _Kept:
    return _Kept(None if place.startswith("memory:") else Path(place), width)


__all__ = ["DEFAULTS", "ContentModel", "ContentVectors", "load_model", "register"]
