"""The recommender that answers: read from a folder, exchanged while requests are under way."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path

from recspect.errors import RecspectError
from recspect.recommending.pipeline.recommender import Recommender

_log = logging.getLogger(__name__)

Mark = tuple[int, int, int]


class Slot:
    """Holds one recommender.

    A request takes the recommender once and keeps it to its end; an exchange only changes which one the next request takes, so no request is lost or
    answered by two. The new one is read, and asked for one list, before the old one goes.

    Args:
        folder: Of the recommender; `watch` looks whether another one lies there.
        backend: Of the ranking: `torch`, or `onnx` where ONNX Runtime is installed.
    """

    def __init__(self, folder: Path, *, backend: str = "torch") -> None:
        self.folder, self.backend = folder, backend
        self.failure = ""
        self.exchanges = 0
        self._lock = threading.RLock()
        self._mark = mark(folder)
        self._current = self._read(folder)

    @property
    def current(self) -> Recommender:
        """The recommender that answers now."""
        return self._current

    def exchange(self, folder: Path) -> Recommender:
        """Put another folder's recommender in place.

        Raises:
            RunError: It is none, or is damaged; the one before it goes on.
        """
        with self._lock:
            seen = mark(folder)
            found = self._read(folder)
            self.folder, self._current, self._mark, self.failure = folder, found, seen, ""
            self.exchanges += 1
            return found

    def watch(self) -> bool:
        """Exchange when the folder holds another recommender than the one that was read; gives whether it did. A failure is told in `failure`, once."""
        with self._lock:  # an exchange over HTTP changes the folder and its mark together
            seen = mark(self.folder)
            if seen is None or seen == self._mark:
                return False
            try:
                self.exchange(self.folder)
            except RecspectError as error:
                self._mark = seen  # a damaged folder is read once, not every second
                self.failure = f"{self.folder.name} holds another recommender, which could not be read: {error.message}"
                _log.error("recommender not exchanged: %s", error.message)
                return False
            return True

    def _read(self, folder: Path) -> Recommender:
        found = Recommender.load(folder)
        if found.ranker is not None and self.backend != "torch":
            found = replace(found, ranker=found.ranker.with_backend(self.backend))
        if len(found.audience):
            found.recommend(found.audience.ids.values[:1].tolist(), 1)  # what is made on first use is made now, and what cannot answer is refused
        return found


def mark(folder: Path) -> Mark | None:
    """What changes when another recommender is put into the folder; None while there is none."""
    try:
        found = (folder / "recommender.json").stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
