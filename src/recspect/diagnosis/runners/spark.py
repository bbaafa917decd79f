"""Spark: its own data frames where they are (what an engine can add up by expressions, the rest by `mapInArrow`), and any other table partition by partition.

Spark does again what a lost executor had, and brings rows of a unit together by its own shuffle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import pyarrow as pa

from recspect.diagnosis import memory, source_arrow
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.runners.local import Pass, Progress, fold, observe, passes, pushed_down
from recspect.diagnosis.runners.processes import packed
from recspect.diagnosis.runners.runner import Loss, Runner
from recspect.diagnosis.runners.spread import Spread
from recspect.diagnosis.runners.work import Done, Task, Work, do
from recspect.diagnosis.source import ROWS, Source
from recspect.diagnosis.source_frames import LazyEngine
from recspect.diagnosis.summary import add_up
from recspect.diagnosis.tally import Key, Tally
from recspect.errors import MissingExtraError, RecspectError, RunnerError

FORM = "number int, tally binary, rows long, lost string, mistake string"
"""What a task gives, as Spark names it."""

WAVE = 8
"""Tasks of a job per worker: so many totals are on their way to this process at once."""


@dataclass(frozen=True)
class Spark(Runner):
    """Spark executors. A Spark data frame is added up where it is; files are read by executors, so they must be where all of them can read them.

    Args:
        spread: How files are cut, and what is kept; its `workers` are the tasks at a time.
    """

    spread: SparkTasks
    name: str = "spark"

    def tally(self, source: Source, keys: Sequence[Key], *, probes: Sequence[Probe] = (), rows: int = ROWS, pushdown: bool = True,
              progress: Progress | None = None, loss: Loss | None = None) -> Tally:
        if not isinstance(source, LazyEngine) or source.lazy.implementation.value != "pyspark":
            return self.spread.tally(source, keys, probes=probes, rows=rows, pushdown=pushdown, progress=progress, loss=loss)
        pending = list(dict.fromkeys(keys))
        entries = pushed_down(source, pending, rows, probes) if pushdown else {}
        for one in passes([key for key in pending if key not in entries], source, probes):
            entries.update(self._pass(source, one, rows, progress))
        return Tally({key: entries[key] for key in keys})

    def _pass(self, source: LazyEngine, one: Pass, rows: int, progress: Progress | None) -> dict[Key, Any]:
        frame = source.lazy.to_native()
        columns = source.columns if one.reads is None else one.reads
        frame = frame.select(*(_quoted(name) for name in dict.fromkeys((*columns, *((one.unit,) if one.unit else ())))))
        most = WAVE * self.spread.workers
        if one.unit is not None:
            frame = frame.repartition(most, _quoted(one.unit))
        elif frame.rdd.getNumPartitions() > most:  # a total for each partition is more than this process should be sent
            frame = frame.coalesce(most)
        found = _collected(frame.mapInArrow(_partition(packed((one, tuple(columns), rows, source.name, self.spread.memory))), FORM))
        if progress:
            progress(sum(done.rows for done in found))
        totals = [Tally.from_bytes(done.tally, where="what Spark gave") for done in found if done.require_no_mistake().tally]
        return {key: add_up([total[key] for total in totals]) if totals else key[1].zero() for key in one.keys}


@dataclass(frozen=True)
class SparkTasks(Spread):
    """Tasks of Spark's, one per partition of the table; see `Spread`.

    Args:
        master: Such as `local[4]` or `spark://host:7077`; empty for the session that there is, or for what spark-submit says.
    """

    master: str = ""
    name: str = "spark"

    def results(self, work: Work, tasks: Sequence[Task]) -> Iterator[Done]:
        session = self.session()
        run = _tasks(packed((work, tuple(tasks))))
        most = WAVE * self.workers
        for first in range(0, len(tasks), most):
            last = min(first + most, len(tasks))
            yield from _collected(session.range(first, last, 1, numPartitions=last - first).mapInArrow(run, FORM))

    def session(self) -> Any:
        """The Spark session, begun where there is none."""
        try:
            from pyspark.sql import SparkSession
        except ImportError:
            raise MissingExtraError("pyspark", extra="spark", purpose="Adding up in Spark") from None
        try:
            builder = SparkSession.builder.master(self.master) if self.master else SparkSession.builder
            return builder.getOrCreate()
        except Exception as error:
            raise RunnerError(f"Spark does not begin: {str(error).strip().splitlines()[0]}", hint="is Java 17 or newer installed (java -version), and the master right?") from None


def spark_here(master: str = "", **settings: Any) -> Spark:
    """As many tasks at a time as the session runs. Begins a session where there is none.

    Args:
        master: As for `SparkTasks`.
        settings: As for `Spread`, but for `workers`.

    Raises:
        RunnerError: Spark does not begin.
        MissingExtraError: PySpark is missing.
    """
    tasks = SparkTasks(workers=1, master=master, **settings)
    return Spark(replace(tasks, workers=max(int(tasks.session().sparkContext.defaultParallelism), 1)))


def _collected(frame: Any) -> list[Done]:
    try:
        return [Done(row.number, bytes(row.tally), row.rows, tuple((piece, reason) for piece, reason in json.loads(row.lost)),
                     tuple(json.loads(row.mistake)) if row.mistake else None) for row in frame.collect()]
    except Exception as error:
        lines = [line for line in str(error).strip().splitlines() if line]
        raise RunnerError(f"Spark gave up: {lines[-1][:400] if lines else type(error).__name__}", hint="recspect must be installed for the executors' Python too") from error


def _tasks(content: bytes) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """What an executor does with numbers of tasks."""
    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pickle

        work, tasks = pickle.loads(content)  # noqa: S301 - from the driver, through Spark
        for batch in batches:
            yield from (_row(do(work, tasks[number])) for number in batch.column(0).to_pylist())

    return run


def _partition(content: bytes) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """What an executor does with the rows of one of Spark's partitions."""
    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pickle

        one, columns, rows, name, limit = pickle.loads(content)  # noqa: S301 - from the driver, through Spark
        tables = (pa.Table.from_batches([batch]) for batch in batches if batch.num_rows)
        first = next(tables, None)
        if first is None:
            return
        seen: list[int] = []
        try:
            with memory.budget(limit):
                found = source_arrow.to_batches(chain([first], tables), shown=columns, rows=rows, together=one.unit, count=None, name=name)
                total = fold((observe(batch, one.probes, one.sample) for batch in found), one.keys, seen.append)
            done = Done(0, Tally(total).to_bytes(compressed=False), sum(seen))
        except RecspectError as error:
            done = Done(0, b"", 0, (), (type(error).__name__, error.message, error.hint))
        yield _row(done)

    return run


def _row(done: Done) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({
        "number": pa.array([done.number], pa.int32()), "tally": pa.array([done.tally], pa.binary()), "rows": pa.array([done.rows], pa.int64()),
        "lost": pa.array([json.dumps(done.lost)], pa.string()), "mistake": pa.array([json.dumps(done.mistake) if done.mistake else None], pa.string())})


def _quoted(name: str) -> Any:
    from pyspark.sql import functions

    return functions.col("`" + name.replace("`", "``") + "`")


__all__ = ["Spark", "SparkTasks", "spark_here"]
