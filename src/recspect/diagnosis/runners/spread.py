"""What all runners of several workers share: which tasks there are, what of them is kept from an earlier run, and the sum of what comes back.

Who does the tasks, and what happens when a worker is lost, is the engine's: a pool of processes, Ray, Spark, torchrun.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from recspect.diagnosis import memory
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.runners.kept import Kept, name_of
from recspect.diagnosis.runners.local import HELD, Progress, passes, pushed_down, tally
from recspect.diagnosis.runners.runner import Loss, Lost, Runner
from recspect.diagnosis.runners.work import Done, Task, Work
from recspect.diagnosis.source import ROWS, Source
from recspect.diagnosis.source_frames import InMemory
from recspect.diagnosis.source_pieces import PIECE_ROWS, Divisible
from recspect.diagnosis.summary import add_up
from recspect.diagnosis.tally import Key, Tally
from recspect.errors import DamagedError


@dataclass(frozen=True)
class Spread(Runner):
    """A runner of several workers.

    Args:
        workers: How many.
        keep: Where the totals of partitions are kept, so that a later run reads only what is missing; None keeps nothing.
        memory: Bytes that each process may hold, or None.
        piece_rows: Rows of a partition, where files can be cut.
    """

    workers: int = 2
    keep: Kept | None = None
    memory: int | None = None
    piece_rows: int = PIECE_ROWS
    name: str = "spread"

    @abstractmethod
    def results(self, work: Work, tasks: Sequence[Task]) -> Iterator[Done]:
        """What came of every task, each once, in any order; a task whose worker was lost is done anew.

        Raises:
            RunnerError: The engine gave up.
        """

    def tally(self, source: Source, keys: Sequence[Key], *, probes: Sequence[Probe] = (), rows: int = ROWS, pushdown: bool = True,
              progress: Progress | None = None, loss: Loss | None = None) -> Tally:
        pending = list(dict.fromkeys(keys))
        with memory.budget(self.memory):
            if not isinstance(source, Divisible):  # it can only be read from its beginning
                return tally(source, pending, probes=probes, rows=rows, pushdown=pushdown, progress=progress)
            # Batches of a table in memory are those of one process, so that a model's scores are the same to the last bit.
            most = -(-self._rows_each(source.table.num_rows) // rows) * rows if isinstance(source, InMemory) else self.piece_rows
            pieces = source.pieces(most)
            if len(pieces) < 2 and (self.keep is None or isinstance(source, InMemory)):
                return tally(source, pending, probes=probes, rows=rows, pushdown=pushdown, progress=progress)
            entries = pushed_down(source, pending, rows, probes) if pushdown else {}
            asked = tuple(passes([key for key in pending if key not in entries], source, probes))
            work = Work(source, source.columns, pieces, asked, rows, self.memory)
            total = _Total(self, work, progress)
            total.add_all()
            for number, reason in sorted(total.lost.items()):
                piece = pieces[number]
                if loss is None or len(total.lost) == len(pieces):
                    raise DamagedError(reason, hint="copy or export the file again; a file that is still being written cannot be read")
                loss(Lost(piece.name, reason, piece.rows))
            entries.update(total.entries)
            return Tally({key: entries[key] for key in keys})

    def remember(self, work: Work, task: Task, done: Done) -> None:
        """Keep a total, where totals are kept. A table in memory is there but once, and a total without some pieces is not the one that was asked for."""
        if self.keep is not None and done.tally and not done.lost and not isinstance(work.source, InMemory):
            self.keep.put(_name(work, task), done.tally)

    def remembered(self, work: Work, task: Task) -> Tally | None:
        """What an earlier run kept of a task."""
        return None if self.keep is None or isinstance(work.source, InMemory) else self.keep.get(_name(work, task))

    def _rows_each(self, rows: int) -> int:
        return max(-(-rows // (4 * self.workers)), 1)


@dataclass
class _Total:
    """The sum of what comes back, pass by pass.

    A piece that is damaged must be in no total. Which pieces are, is known when all passes are done: a pass that counted one is then done again.
    """

    runner: Spread
    work: Work
    progress: Progress | None
    lost: dict[int, str] = field(default_factory=dict)
    entries: dict[Key, Any] = field(default_factory=dict)

    def add_all(self) -> None:
        counted: dict[int, frozenset[int]] = {}
        numbers = range(len(self.work.passes))
        while len(self.lost) < len(self.work.pieces) and (todo := [n for n in numbers if counted.get(n) != frozenset(self.lost)]):
            counted.update(self._add(todo))

    def _add(self, todo: Sequence[int]) -> dict[int, frozenset[int]]:
        """Do these passes; gives for each the pieces that surely are in none of its totals."""
        before = frozenset(self.lost)
        tasks: list[Task] = []
        for number in todo:
            tasks += self._tasks(number, before, len(tasks))
        there, missing = self._from_store(tasks)
        sums = {number: _InOrder(self.work.passes[number].keys, [task.number for task in tasks if task.of == number]) for number in todo}
        for task, total in there:
            sums[task.of].take(task.number, total)
        told: dict[int, set[frozenset[int]]] = {task.of: {frozenset()} for task, _ in there}
        by_number = {task.number: task for task in missing}
        for done in self.runner.results(self.work, missing) if missing else ():
            task = by_number[done.require_no_mistake().number]
            self.lost.update(done.lost)
            told.setdefault(task.of, set()).add(frozenset(piece for piece, _ in done.lost))
            sums[task.of].take(done.number, Tally.from_bytes(done.tally, where="what a worker gave") if done.tally else None)
            self.runner.remember(self.work, task, done)
            memory.require_within_budget()
            if self.progress:
                self.progress(done.rows)
        counted = {}
        for number in todo:
            self.entries.update(sums[number].total())
            shares = told.get(number, {frozenset()})
            # A damaged piece is left out by its own task; of shares, all must have left out the same.
            alike = self.work.passes[number].unit is None or len(shares) == 1
            counted[number] = before | frozenset().union(*shares) if alike else before
        return counted

    def _tasks(self, of: int, without: frozenset[int], first: int) -> list[Task]:
        if self.work.passes[of].unit is not None:
            return [Task(first + share, of, share=share, shares=self.runner.workers, without=without) for share in range(self.runner.workers)]
        pieces = [piece for piece in range(len(self.work.pieces)) if piece not in without]
        return [Task(first + number, of, piece) for number, piece in enumerate(pieces)]

    def _from_store(self, tasks: Sequence[Task]) -> tuple[list[tuple[Task, Tally]], list[Task]]:
        """What an earlier run kept, and the tasks that are left."""
        there, missing = [], []
        for task in tasks:
            total = self.runner.remembered(self.work, task)
            if total is None:
                missing.append(task)
            else:
                there.append((task, total))
        return there, missing


def _name(work: Work, task: Task) -> str:
    """By which the total of a task is kept."""
    one = work.passes[task.of]
    if task.piece is not None:
        return name_of(one, work.rows, [work.pieces[task.piece].fingerprint])
    read = [piece.fingerprint for number, piece in enumerate(work.pieces) if number not in task.without]
    return name_of(one, work.rows, read, (task.share, task.shares))


class _InOrder:
    """Adds totals up in the order of their tasks, whichever comes first, so that the last digits do not depend on who was quicker."""

    def __init__(self, keys: Sequence[Key], numbers: Sequence[int]) -> None:
        self.keys = keys
        self.waiting = list(numbers)
        self.early: dict[int, Tally | None] = {}
        self.held: dict[Key, list[Any]] = {key: [] for key in keys}

    def take(self, number: int, total: Tally | None) -> None:
        self.early[number] = total
        while self.waiting and self.waiting[0] in self.early:
            for key, summary in (self.early.pop(self.waiting.pop(0)) or {}).items():
                self.held[key].append(summary)
                if len(self.held[key]) == HELD:
                    self.held[key] = [add_up(self.held[key])]

    def total(self) -> dict[Key, Any]:
        return {key: add_up(parts) if parts else key[1].zero() for key, parts in self.held.items()}


__all__ = ["Spread"]
