"""What a worker is told, what it does, and what it gives back: the same in a process, on a rank, in Ray and in Spark.

A worker is given the `Work` once and then one `Task` after another. A task is either a piece of the table, or, for stats whose rows must come
together, a share of the units: the rows of all pieces whose unit has a hash of that share. So no row ever travels between workers, and only
totals come back; shares are read from the few columns that a list needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recspect import errors
from recspect.diagnosis import memory, source_arrow
from recspect.diagnosis.batch import Batch, column_from_arrow
from recspect.diagnosis.column import Categorical, Ragged, describe, factorize
from recspect.diagnosis.hashing import hash_values
from recspect.diagnosis.runners.local import Pass, fold, observe
from recspect.diagnosis.source_pieces import Divisible, Piece
from recspect.diagnosis.source_together import whole_units
from recspect.diagnosis.tally import Tally
from recspect.errors import DamagedError, DataError, RecspectError


@dataclass(frozen=True)
class Work:
    """What every worker knows.

    Args:
        source: Where the rows are.
        columns: The source's columns.
        pieces: Its pieces.
        passes: What is added up in each pass.
        rows: Rows of a batch.
        memory: Bytes that a worker may hold, or None.
    """

    source: Divisible
    columns: tuple[str, ...]
    pieces: tuple[Piece, ...]
    passes: tuple[Pass, ...]
    rows: int
    memory: int | None = None


@dataclass(frozen=True)
class Task:
    """What one worker does in one go.

    Args:
        number: Its place among the tasks.
        of: Number of the pass.
        piece: Number of the piece, or None where it is a share of all of them.
        share, shares: Which share of the units, and of how many.
        without: Numbers of the pieces that are left out.
    """

    number: int
    of: int
    piece: int | None = None
    share: int = 0
    shares: int = 1
    without: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Done:
    """What came of a task. Plain values, so that any engine can carry it.

    Args:
        number: Of the task.
        tally: `Tally.to_bytes`, or empty where nothing was added up.
        rows: How many rows it read.
        lost: Numbers of the pieces that could not be read, and why.
        mistake: An error that is not of one piece: its class in `recspect.errors`, message and hint; None where all is well.
    """

    number: int
    tally: bytes
    rows: int
    lost: tuple[tuple[int, str], ...] = ()
    mistake: tuple[str, str, str] | None = None

    def require_no_mistake(self) -> Done:
        """This, where all is well.

        Raises:
            RecspectError: The mistake that the worker met.
        """
        if self.mistake is not None:
            name, message, hint = self.mistake
            kind = getattr(errors, name, RecspectError)
            raise (kind if kind is not errors.MissingExtraError else RecspectError)(message, hint=hint)
        return self


def do(work: Work, task: Task) -> Done:
    """Add up what the task is about. What is wrong with all of the table (a column of another type, a label that is missing) is told in `Done.mistake`."""
    try:
        return _done(work, task)
    except RecspectError as error:
        return Done(task.number, b"", 0, (), (type(error).__name__, error.message, error.hint))


def _done(work: Work, task: Task) -> Done:
    one = work.passes[task.of]
    lost: dict[int, str] = {}
    seen: list[int] = []
    with memory.budget(work.memory):
        batches = _piece(work, one, task) if task.piece is not None else _share(work, one, task, lost)
        try:
            total = fold((observe(batch, one.probes, one.sample) for batch in batches), one.keys, seen.append)
        except DamagedError as error:
            if task.piece is None:
                raise
            return Done(task.number, b"", sum(seen), ((task.piece, error.message),))
    return Done(task.number, Tally(total).to_bytes(compressed=False), sum(seen), tuple(lost.items()))


def _piece(work: Work, one: Pass, task: Task) -> Iterator[Batch]:
    assert task.piece is not None
    columns = work.columns if one.reads is None else one.reads
    tables = work.source.tables(work.pieces[task.piece], columns, rows=work.rows)
    return source_arrow.to_batches(tables, shown=columns, rows=work.rows, together=None, count=None, name=work.source.name)


def _share(work: Work, one: Pass, task: Task, lost: dict[int, str]) -> Iterator[Batch]:
    assert one.unit is not None
    shown = work.columns if one.reads is None else one.reads
    columns = tuple(dict.fromkeys((*shown, one.unit)))
    for table in whole_units(_chosen(work, columns, one.unit, task, lost), one.unit, rows=work.rows):
        yield source_arrow.to_batch(table.select(list(shown)), name=work.source.name)


def _chosen(work: Work, columns: Sequence[str], unit: str, task: Task, lost: dict[int, str]) -> Iterator[pa.Table]:
    """The rows of the share, piece by piece: of a piece that turns out to be damaged none at all, as in the other passes."""
    for number, piece in enumerate(work.pieces):
        if number in task.without:
            continue
        try:
            kept = [table.filter(pa.array(_of_share(table, unit, task))) for table in work.source.tables(piece, columns, rows=work.rows)]
        except DamagedError as error:
            lost[number] = error.message
            continue
        yield from (table for table in kept if table.num_rows)


def _of_share(table: pa.Table, unit: str, task: Task) -> np.ndarray:
    """Which rows are of the share: by the upper half of the hash, as the lower one deals rows into files where they are many."""
    column = column_from_arrow(table.column(unit))
    if isinstance(column, Ragged) or (isinstance(column, np.ndarray) and column.ndim > 1):
        raise DataError(f"rows are to stay together by {unit!r}, which holds {describe(column)}", hint="name a column of single values, such as the user's id")
    found = column if isinstance(column, Categorical) else factorize(column)
    share = (hash_values(found.values) >> np.uint64(32)) % np.uint64(task.shares)
    return np.asarray(np.append(share, [0])[found.codes] == task.share)


__all__ = ["Done", "Task", "Work", "do"]
