"""Who adds up: one machine or many, behind the same call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recspect.diagnosis import memory
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.runners.local import Progress, tally
from recspect.diagnosis.source import ROWS, Source
from recspect.diagnosis.tally import Key, Tally


@dataclass(frozen=True)
class Lost:
    """A partition that could not be read, and is in no total.

    Args:
        name: The file, and which part of it.
        reason: What was wrong, one sentence.
        rows: How many rows it holds, where that is known.
    """

    name: str
    reason: str
    rows: int | None = None


Loss = Callable[[Lost], None]
"""Told of every partition that could not be read."""


class Runner(ABC):
    """Adds up stats over slices of a source: `recspect.diagnosis.runners.local.tally`, wherever the rows and the workers are.

    The totals are the same whoever adds up, to rounding (1e-9 of their size), and sketches within their bounds.
    """

    name: str

    @abstractmethod
    def tally(self, source: Source, keys: Sequence[Key], *, probes: Sequence[Probe] = (), rows: int = ROWS, pushdown: bool = True,
              progress: Progress | None = None, loss: Loss | None = None) -> Tally:
        """Add up.

        Args:
            source: The rows.
            keys: (slice, stat) pairs.
            probes: Applied to every batch in order; each sees the columns of those before.
            rows: Rows of a batch.
            pushdown: Let the source's engine add up what it can.
            progress: Told of rows read.
            loss: Told of partitions that could not be read; a runner that cannot leave them out, or is not given this, raises.

        Raises:
            DataError: A column is missing or of the wrong type, or nothing can be read.
            MemoryBudgetError: A process holds more memory than it may.
        """


@dataclass(frozen=True)
class Local(Runner):
    """This process alone, which reads ahead by a thread. A damaged file is an error.

    Args:
        memory: Bytes that it may hold, or None.
    """

    memory: int | None = None
    name: str = "local"

    def tally(self, source: Source, keys: Sequence[Key], *, probes: Sequence[Probe] = (), rows: int = ROWS, pushdown: bool = True,
              progress: Progress | None = None, loss: Loss | None = None) -> Tally:
        del loss
        with memory.budget(self.memory):
            return tally(source, keys, probes=probes, rows=rows, pushdown=pushdown, progress=progress)


__all__ = ["Local", "Loss", "Lost", "Runner"]
