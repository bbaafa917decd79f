"""Who is told of a training while it goes on, beside the files of its run directory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class StepRow(NamedTuple):
    """One row of steps.parquet."""

    step: int
    epoch: int
    series: str
    place: str
    value: float


class HistogramRow(NamedTuple):
    """One row of histograms.parquet: `edges` has one number more than `counts`."""

    step: int
    epoch: int
    series: str
    place: str
    edges: Sequence[float]
    counts: Sequence[int]


class Mirror(ABC):
    """Sees the rows of an observer as they are made.

    The training calls these methods and waits for them: they must return at once and must not raise, whatever happens to
    what stands behind them (`recspect.sinks.live.Live` does so for every sink).
    """

    @abstractmethod
    def open(self, run: Mapping[str, Any]) -> None:
        """A training begins or goes on. `run` is the content of `run.json`, or {"id": name} where there is none."""

    @abstractmethod
    def rows(self, steps: Sequence[StepRow], histograms: Sequence[HistogramRow]) -> None:
        """Rows that were made since the last call, in order. A resumed training gives those of before first."""

    @abstractmethod
    def close(self, status: str) -> None:
        """The training ended: "finished" or "interrupted"."""
