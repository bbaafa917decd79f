"""The engine on one machine: read batches, let probes add columns, add up.

Stats whose rows must come together (per user, per request) set the order of reading. Where a model runs, one such pass serves all other stats too, so
that it runs once; without one, the others are read in a pass of their own, so that only the few columns of a list are brought together.
Without probes, stats that a query engine can add up are pushed down to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import polars.exceptions

from recspect.diagnosis import memory
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.runners.ahead import ahead
from recspect.diagnosis.slice import ALL, Slice
from recspect.diagnosis.source import ROWS, Source
from recspect.diagnosis.source_files import Files
from recspect.diagnosis.source_frames import InMemory, LazyEngine
from recspect.diagnosis.stat import OfSample, Pushable, in_sample, unit_of
from recspect.diagnosis.summary import add_up
from recspect.diagnosis.tally import Key, Tally
from recspect.errors import DataError

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
    entries = pushed_down(source, pending, rows, probes) if pushdown else {}
    for one in passes([key for key in pending if key not in entries], source, probes):
        batches = source.batches(one.reads, rows=rows, together=one.unit)
        observed = (observe(batch, one.probes, one.sample) for batch in batches)
        entries.update(fold(ahead(observed) if isinstance(source, Files) else observed, one.keys, progress))
    return Tally({key: entries[key] for key in keys})


@dataclass(frozen=True)
class Pass:
    """What is added up while the rows are read once.

    Args:
        keys: (slice, stat) pairs.
        probes: Those that add what the keys read, or what a later one reads.
        unit: The source's column whose rows come together, or None.
        reads: Columns of the source that the stats and probes read; None for all.
        sample: The cluster and the share of it that all of these stats look at, where they look at the same.
    """

    keys: tuple[Key, ...]
    probes: tuple[Probe, ...]
    unit: str | None
    reads: tuple[str, ...] | None
    sample: tuple[str, float] | None


def passes(keys: Sequence[Key], source: Source, probes: Sequence[Probe]) -> list[Pass]:
    """In which passes to add up the keys: one per unit, and one for the others, or the first of a unit for them too where probes are not light."""
    units = list(dict.fromkeys(unit for _, stat in keys if (unit := unit_of(stat)) is not None))
    found: list[tuple[str | None, list[Key]]] = [(unit, [key for key in keys if unit_of(key[1]) == unit]) for unit in units]
    free = [key for key in keys if unit_of(key[1]) is None]
    if found and not all(probe.light for probe in probes):
        found[0][1].extend(free)
    elif free:
        found.append((None, free))
    return [_pass(mine, unit, source, probes) for unit, mine in found]


def _pass(keys: Sequence[Key], unit: str | None, source: Source, probes: Sequence[Probe]) -> Pass:
    wanted = dict.fromkeys(_columns(keys))
    sample = _sample_of(keys)
    if sample is not None and sample[1] < 1:
        wanted[sample[0]] = None
    needed: list[Probe] = []
    everything = False
    for probe in reversed(probes):
        if everything or not wanted.keys().isdisjoint(probe.adds):
            needed.insert(0, probe)
            everything = everything or probe.reads is None
            wanted |= dict.fromkeys(probe.reads or ())
    added = {column for probe in needed for column in probe.adds}
    reads = None if everything else tuple(column for column in wanted if column not in added)
    return Pass(tuple(keys), tuple(needed), _real_column(unit, source, probes), reads, sample)


def fold(batches: Iterable[Batch], keys: Sequence[Key], progress: Progress | None = None) -> dict[Key, Any]:
    """The total of every key over batches that probes have seen.

    Raises:
        MemoryBudgetError: The process holds more than it may.
    """
    held: dict[Key, list[Any]] = {key: [] for key in keys}
    for batch in batches:
        for key, summary in _summaries(batch, keys):
            held[key].append(summary)
            if len(held[key]) == HELD:
                held[key] = [add_up(held[key])]
        memory.require_within_budget()
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


def pushed_down(source: Source, keys: Sequence[Key], rows: int, probes: Sequence[Probe] = ()) -> dict[Key, Any]:
    """What the source's engine can add up, added up by it; nothing of a table in memory that is one batch, nor within a budget of memory, which an engine does not know.

    Where probes are to see the rows, these are read anyway: then only an engine that holds them elsewhere (a warehouse, Spark) adds up what reads no probe's column.
    """
    elsewhere = isinstance(source, LazyEngine)
    if probes and not elsewhere:
        return {}
    there = set(source.columns)
    keys = [key for key in keys if there.issuperset((*key[1].columns, *key[0].columns))] if probes else keys
    frame = None if _is_one_batch(source, rows) or (memory.is_limited() and not elsewhere) or not keys else source.frame()
    done: dict[Key, Any] = {}
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
        except DataError:
            raise
        except Exception:
            if not elsewhere:
                raise
            # a warehouse that lacks a function: its rows are read, as for what no engine can add up
    return done
