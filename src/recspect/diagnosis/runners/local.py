"""The engine on one machine: read batches, let probes add columns, add up.

Stats whose rows must come together (per user, per request) set the order of reading; one pass serves all others too.
Without probes, stats that a query engine can add up are pushed down to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import duckdb
import polars.exceptions

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.runners.ahead import ahead
from recspect.diagnosis.slice import ALL, Slice
from recspect.diagnosis.source import ROWS, Source
from recspect.diagnosis.source_files import Files
from recspect.diagnosis.source_frames import InMemory
from recspect.diagnosis.stat import OfSample, Pushable, in_sample, unit_of
from recspect.diagnosis.summary import add_up
from recspect.diagnosis.tally import Key, Tally

HELD = 8
"""Summaries of a total that are added at once: names of categories are then merged once for all of them."""

Progress = Callable[[int], None]
"""Called with the number of rows just read."""


def tally(source: Source, keys: Sequence[Key], *, probes: Sequence[Probe] = (), rows: int = ROWS, pushdown: bool = True,
          progress: Progress | None = None) -> Tally:
    """Add up stats over slices of a source.

    Args:
        source: The rows.
        keys: (slice, stat) pairs.
        probes: Applied to every batch in order; each sees the columns of those before.
        rows: Rows of a batch.
        pushdown: Let the source's engine add up what it can (only without probes, and not a table in memory of one batch).
        progress: Told of rows read.

    Raises:
        DataError: A column is missing or of the wrong type.
    """
    pending = list(dict.fromkeys(keys))
    entries = {}
    if pushdown and not probes and not _is_one_batch(source, rows):
        pushed = _pushed_down(source, pending)
        entries.update(pushed)
        pending = [key for key in pending if key not in pushed]
    units = list(dict.fromkeys(unit for _, stat in pending if (unit := unit_of(stat)) is not None))
    passes: list[tuple[str | None, list[Key]]] = [
        (unit, [key for key in pending if unit_of(key[1]) == unit]) for unit in units]
    free = [key for key in pending if unit_of(key[1]) is None]
    if passes:
        passes[0][1].extend(free)
    elif free:
        passes.append((None, free))
    for unit, mine in passes:
        entries.update(_one_pass(source, mine, probes, rows, unit, progress))
    return Tally({key: entries[key] for key in keys})


def _one_pass(source: Source, keys: Sequence[Key], probes: Sequence[Probe], rows: int, unit: str | None,
              progress: Progress | None) -> dict[Key, object]:
    held: dict[Key, list[Any]] = {key: [] for key in keys}
    wanted = None if probes else _columns(keys)
    sample = _sample_of(keys)
    observed = (observe(batch, probes, sample) for batch in source.batches(wanted, rows=rows, together=_real_column(unit, source, probes)))
    for batch in ahead(observed) if isinstance(source, Files) else observed:
        for key, summary in _summaries(batch, keys):
            held[key].append(summary)
            if len(held[key]) == HELD:
                held[key] = [add_up(held[key])]
        if progress:
            progress(batch.rows)
    return {key: add_up(parts) if parts else key[1].zero() for key, parts in held.items()}


def _summaries(batch: Batch, keys: Sequence[Key]) -> Iterator[tuple[Key, Any]]:
    """Of every key the summary of these rows; a slice's rows are taken once, and only the columns that its stats read."""
    by_slice: dict[Slice, list[Key]] = {}
    for key in keys:
        by_slice.setdefault(key[0], []).append(key)
    for slice_, mine in by_slice.items():
        part = batch if slice_ == ALL else batch.select(_columns(mine)).take(slice_.mask(batch))
        for key in mine:
            yield key, key[1].summarize(part)


def _real_column(unit: str | None, source: Source, probes: Sequence[Probe]) -> str | None:
    """The source's own column behind a unit that a probe adds."""
    if unit is None or unit in source.columns:
        return unit
    for probe in probes:
        if unit in probe.backing:
            return probe.backing[unit]
    return unit


def _sample_of(keys: Sequence[Key]) -> tuple[str, float] | None:
    """The cluster and the share of it that all of these stats look at, where they look at the same."""
    found = {(stat.cluster, stat.share) if isinstance(stat, OfSample) else ("", 1.0) for _, stat in keys}
    return found.pop() if len(found) == 1 else None


def observe(batch: Batch, probes: Sequence[Probe], sample: tuple[str, float] | None = None) -> Batch:
    """The batch with every probe's columns; of a sample (cluster, share) only its rows, so that later probes have less to do."""
    sampled = sample is None or sample[1] >= 1
    for probe in (None, *probes):
        if probe is not None:
            batch = batch.with_columns(probe.observe(batch))
        if sample is not None and not sampled and sample[0] in batch:
            batch, sampled = batch.take(in_sample(batch, *sample)), True
    return batch


def _columns(keys: Sequence[Key]) -> list[str]:
    return list(dict.fromkeys(column for slice_, stat in keys for column in (*stat.columns, *slice_.columns)))


def _is_one_batch(source: Source, rows: int) -> bool:
    """Whether NumPy adds these rows up in one go.

    That is no slower than planning queries, and the same to the last bit every time; the threads of an engine add in any order.
    """
    return isinstance(source, InMemory) and source.engine == "auto" and source.table.num_rows <= rows


def _pushed_down(source: Source, keys: Sequence[Key]) -> dict[Key, object]:
    frame = source.frame()
    done: dict[Key, object] = {}
    if frame is None:
        return done
    kinds = frame.collect_schema()
    for slice_, stat in keys:
        if not isinstance(stat, Pushable) or unit_of(stat) is not None:
            continue
        predicate = slice_.expression(kinds)
        if predicate is None and slice_ != ALL:
            continue
        try:
            done[slice_, stat] = stat.pushdown(frame if predicate is None else frame.filter(predicate))[None]
        except NotImplementedError:
            continue
        except (duckdb.Error, polars.exceptions.PolarsError):  # a file it cannot read on: reading batches will say where and why
            break
    return done
