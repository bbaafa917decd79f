"""A training mirrored into a sink while it goes on, without ever waiting for it.

Each sink has a thread of its own and a bounded queue. What goes wrong there is said once, in the log, and the training
goes on: the run directory has everything, and `recspect send` fills the sink later.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recspect.diagnosis.mirror import HistogramRow, Mirror, StepRow
from recspect.sinks.sink import RunCard, Sink
from recspect.sinks.targets import sink_for

_log = logging.getLogger("recspect.sinks")

Task = Callable[[], None]


def live(targets: Sequence[str]) -> tuple[Live, ...]:
    """Mirrors for targets such as "tensorboard:logs", to be given to `train(..., sinks=...)` or an `Observer`.

    Raises:
        UsageError, MissingExtraError: No such target, or its library is not there: before the training begins.
    """
    return tuple(Live(sink_for(target)) for target in targets)


class Live(Mirror):
    """Mirrors one training into one sink.

    Args:
        sink: Not opened yet.
        waiting: Calls that may wait for a slow sink; what comes beyond is left out, which is said once.
        patience_seconds: How long `close` waits for the sink to take what is left.

    Attributes:
        failure: What went wrong, in words; empty while all is well.
    """

    def __init__(self, sink: Sink, *, waiting: int = 1000, patience_seconds: float = 30.0) -> None:
        self.sink = sink
        self.patience_seconds = patience_seconds
        self.failure = ""
        self._left_out = 0
        self._queue: queue.Queue[Task | None] = queue.Queue(maxsize=waiting)
        self._thread: threading.Thread | None = None

    def open(self, run: Mapping[str, Any]) -> None:
        card = RunCard.of(run)
        self._thread = threading.Thread(target=self._work, name=f"recspect sink {self.sink.name}", daemon=True)
        self._thread.start()
        self._put(lambda: self.sink.open(card))

    def rows(self, steps: Sequence[StepRow], histograms: Sequence[HistogramRow]) -> None:
        if steps:
            self._put(lambda: self.sink.scalars(steps))
        if histograms:
            self._put(lambda: self.sink.histograms(histograms))

    def flush(self) -> None:
        """Wait until everything told so far was handed to the sink, and make it visible there; for notebooks and tests."""
        done = threading.Event()
        self._put(self.sink.flush)
        self._put(done.set)
        done.wait(0.0 if self.failure or self._thread is None else self.patience_seconds)

    def close(self, status: str) -> None:
        if self._thread is None:
            return
        self._put(lambda: self.sink.close(status))
        try:
            self._queue.put(None, timeout=self.patience_seconds)
            self._thread.join(self.patience_seconds)
        except queue.Full:
            pass
        if self._thread.is_alive():
            self._fail(f"did not take everything within {self.patience_seconds:g} s after the end")
        self._thread = None

    def _put(self, task: Task) -> None:
        if self.failure or self._thread is None:
            return
        try:
            self._queue.put_nowait(task)
        except queue.Full:
            self._left_out += 1
            if self._left_out == 1:
                _log.warning("%s is slower than the training; some of its steps are left out there. `recspect send` fills them in later.",
                             self.sink.name)

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            if self.failure:
                continue  # empty the queue, so that nobody waits for it
            try:
                task()
            except BaseException as error:  # also SystemExit: some libraries give up that way
                self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        if not self.failure:
            self.failure = reason
            _log.warning("%s failed and is left alone from here on; the training is not affected. `recspect send` can fill it later. (%s)",
                         self.sink.name, reason[:500])
