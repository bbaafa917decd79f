"""Options by which a command says who adds up, where totals are kept and how much memory may be held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from recspect.diagnosis.runners.runner import Runner

RunnerOption = Annotated[str, typer.Option("--runner", help="who adds up: local, processes:4, torchrun, ray, ray:auto, spark, spark:local[2]")]
KeepOption = Annotated[Path | None, typer.Option("--keep", help="folder for totals of partitions: a later run reads only what is missing")]
MemoryOption = Annotated[float | None, typer.Option("--memory-gib", help="most memory that a process may hold; more is an error")]


@contextmanager
def chosen_runner(runner: str, keep: Path | None, memory_gib: float | None) -> Iterator[Runner]:
    """The runner of these options, within the budget of memory.

    Raises:
        UsageError: An option makes no sense.
        MissingExtraError: The runner's library is missing.
        MemoryBudgetError: This process holds more than it may.
    """
    from recspect.diagnosis import memory
    from recspect.diagnosis.runners.choosing import runner_of

    limit = None if memory_gib is None else int(memory_gib * 2**30)
    with memory.budget(limit):
        yield runner_of(runner, keep=keep, memory=limit)


def tells_people(runner: Runner) -> bool:
    """Whether this process shows the report: of those that torchrun started, the first alone."""
    return bool(getattr(runner, "first", True))


__all__ = ["KeepOption", "MemoryOption", "RunnerOption", "chosen_runner", "tells_people"]
