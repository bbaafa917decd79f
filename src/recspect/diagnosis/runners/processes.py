"""Several processes of this machine, by `concurrent.futures`. A process that dies takes nothing with it: what it had not given back is done anew."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from recspect.diagnosis.runners.spread import Spread
from recspect.diagnosis.runners.work import Done, Task, Work, do
from recspect.errors import MissingExtraError, RunnerError

ATTEMPTS = 3
"""How often a task may have been at work while a process died; it may be what kills them."""

@dataclass
class _Pool:
    """The processes, which are kept for the next table: each takes a second or two to begin."""

    workers: int
    executor: ProcessPoolExecutor | None = None

    def submit(self, path: Path, task: Task) -> Future[Done]:
        if self.executor is None:  # spawned, as the threads of Polars and DuckDB do not survive a fork
            self.executor = ProcessPoolExecutor(self.workers, mp_context=multiprocessing.get_context("spawn"))
        return self.executor.submit(_do, path, task)

    def end(self) -> None:
        if self.executor is not None:
            self.executor.shutdown(wait=True, cancel_futures=True)
            self.executor = None


@dataclass(frozen=True)
class Processes(Spread):
    """Processes of this machine; see `Spread`. As they are spawned, a script that uses them needs `if __name__ == "__main__":`."""

    name: str = "processes"
    _pool: list[_Pool] = field(default_factory=list, compare=False, repr=False)

    def results(self, work: Work, tasks: Sequence[Task]) -> Iterator[Done]:
        if not self._pool:
            self._pool.append(_Pool(self.workers))
        left = {task.number: task for task in tasks}
        deaths = 0
        with tempfile.TemporaryDirectory(prefix="recspect-") as folder:
            path = Path(folder) / "work"
            path.write_bytes(packed(work))
            while left:
                try:
                    for done in self._some(path, list(left.values())):
                        del left[done.number]
                        deaths = 0
                        yield done
                except BrokenProcessPool:
                    self._pool[0].end()
                    deaths += 1
                    if deaths == ATTEMPTS:
                        raise RunnerError(f"{ATTEMPTS} times in a row a process died before it had finished anything; {len(left)} of {len(tasks)} tasks are left",
                                          hint="the system ends processes that take too much memory: fewer workers, or --memory-gib to be told where") from None

    def close(self) -> None:
        """End the processes; otherwise they end with this one, or with the runner."""
        for pool in self._pool:
            pool.end()

    def _some(self, path: Path, tasks: Sequence[Task]) -> Iterator[Done]:
        running: set[Future[Done]] = set()
        try:
            running.update(self._pool[0].submit(path, task) for task in tasks)
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                # what was finished before a process died is not done again
                for one in sorted(finished, key=lambda future: future.exception() is not None):
                    yield one.result()
        except BaseException:  # the others would go on with what nobody asks for any more
            self._pool[0].end()
            raise


def packed(value: Any) -> bytes:
    """A value as bytes for a process of ours, functions of the user's among it.

    Raises:
        MissingExtraError: It holds such functions, and cloudpickle is missing.
        RunnerError: It cannot be sent at all.
    """
    try:
        import cloudpickle
    except ImportError:
        try:
            return pickle.dumps(value)
        except (pickle.PicklingError, AttributeError, TypeError):
            raise MissingExtraError("cloudpickle", extra="processes", purpose="Sending a model to other processes") from None
    try:
        return bytes(cloudpickle.dumps(value))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise RunnerError(f"the model or the table cannot be sent to other processes: {error}", hint="--runner local examines it here") from None


@lru_cache(maxsize=1)
def _work(path: Path) -> Work:
    work = pickle.loads(path.read_bytes())  # noqa: S301 - from the process that started this one, a moment ago
    assert isinstance(work, Work)
    return work


def _do(path: Path, task: Task) -> Done:
    return do(_work(path), task)


__all__ = ["Processes", "packed"]
