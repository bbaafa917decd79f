"""The rows of a run's embedding tables as they lie in its saved states: where each field's rows are, what they stand for, how often training read them.

Nothing but files of the run directory is read, so how large the data was makes no difference; of a large table only some rows are read at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recspect.errors import RunError, UsageError, listing
from recspect.report.wording import clean

if TYPE_CHECKING:
    from torch import nn

    from recspect.features import FeatureTransform

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

MOST_ROWS = 50_000
"""Rows of one table that pictures are made of; of a larger one evenly spaced stretches."""
STRETCHES = 64
NEAREST_AMONG = 1_000_000
"""Rows among which neighbours are looked for: the first ones, which are the most frequent."""
AT_ONCE = 65_536
RESERVED = ("(missing)", "(unknown)", "(rare)")
"""What the first rows of every table stand for."""

_STATE = re.compile(r"step-(\d+)-epoch-(\d+)")
_EPOCH = re.compile(r"epoch-(\d+)")


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """The weights at one moment of the training: `name` such as `epoch 2` or `step 500`."""

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class FieldTable:
    """Where the rows of a field lie.

    Args:
        field: Whose ids they are.
        readers: All fields that read them, itself first.
        parameter: Name of the weight in a saved state.
        start: Its first row there.
        rows, width: How many, and numbers per row.
        counts: How often training read each row, shape (rows,); None where that was not counted.
        values: What the rows from `len(RESERVED)` on stand for; empty where they have no names.
        person: Whether its ids are people.
        item: Whether its ids are items.
    """

    field: str
    readers: tuple[str, ...]
    parameter: str
    start: int
    rows: int
    width: int
    counts: Ints | None
    values: Sequence[Any]
    person: bool = False
    item: bool = False

    def name(self, row: int, smallest: int) -> str:
        """What a row stands for; its number alone where the name would speak of few people: of a user, or of a value that training saw fewer than `smallest` times."""
        if row < len(RESERVED):
            return RESERVED[row]
        place = row - len(RESERVED)
        few = smallest > 1 and not self.item and (self.person or self.counts is None or self.counts[row] < smallest)
        return f"#{row}" if few or place >= len(self.values) else clean(self.values[place], limit=80)

    def row_of(self, asked: str) -> int:
        """The row of a value, or of a row's number behind `#`.

        Raises:
            UsageError: There is none.
        """
        if asked[:1] == "#" and asked[1:].isdecimal() and int(asked[1:]) < self.rows:
            return int(asked[1:])
        if asked in RESERVED:
            return RESERVED.index(asked)
        found = np.flatnonzero(np.asarray([str(value) for value in self.values]) == asked) if len(self.values) else np.zeros(0, dtype=np.int64)
        if not len(found) or int(found[0]) + len(RESERVED) >= self.rows:
            raise UsageError(f"{self.field} has no row for {asked[:80]!r}", hint=f"a value that training saw, or a row's number such as #{len(RESERVED)}")
        return int(found[0]) + len(RESERVED)


@dataclass(frozen=True, kw_only=True)
class RunTables:
    """All tables of a run, and the states in which they were saved, first to last."""

    tables: Mapping[str, FieldTable]
    states: tuple[SavedState, ...]
    best: int

    def table(self, field: str) -> FieldTable:
        """The table of a field; of the one with most rows where none is named.

        Raises:
            UsageError: There is none.
        """
        if not field:
            return max(self.tables.values(), key=lambda table: table.rows)
        for table in self.tables.values():
            if field in table.readers:
                return table
        raise UsageError(f"{field[:80]!r} has no table of ids in this model", hint=f"tables: {listing(self.tables)}")


def open_tables(folder: Path) -> RunTables:
    """The tables of a run, from its record, its features and a model without weights.

    Raises:
        RunError: A file is missing or damaged, or the model has no table of ids that can be told apart.
    """
    import torch

    from recspect.training.run import Run

    run = Run.open(folder)
    states = saved_states(folder)
    if not states:
        raise RunError(f"run {run.id} has saved no weights yet", hint="wait for the end of its first epoch")
    transform = run.transform
    with torch.device("meta"):  # shapes alone: no memory for tables of any size
        model = run.untrained_model()
    found = tables_of(model, transform)
    if not found:
        raise RunError(f"the model of run {run.id} has no table with a row for each id of a field")
    best = run.best_epoch
    at = next((k for k, state in enumerate(states) if state.name == f"epoch {best}"), len(states) - 1)
    return RunTables(tables=found, states=states, best=at)


def tables_of(model: nn.Module, transform: FeatureTransform) -> dict[str, FieldTable]:
    """Field to where its rows lie in the weights of a built-in model; the widest table where it has several, none where a row is made of two tables."""
    from recspect.models.vectors import FieldVectors

    schema = transform.schema
    found: dict[str, FieldTable] = {}
    for name, module in model.named_modules():
        if not isinstance(module, FieldVectors) or module.table is None:
            continue
        parameter, width = f"{name}.table.weight" if name else "table.weight", int(module.table.weight.shape[1])
        for place, field in enumerate((*module.single, *module.lists)):
            known = found.get(field)
            if module.owners[field] != field or field in module.divided or (known is not None and known.width >= width):
                continue
            encoder = transform.encoders[field]
            codes = getattr(encoder, "codes", None)
            counts = None if codes is None else codes.row_counts()
            values = getattr(codes, "values", ()) if codes is not None else _ranges(getattr(encoder, "edges", None))
            found[field] = FieldTable(
                field=field, readers=(field, *(other for other, owner in module.owners.items() if owner == field and other != field)), parameter=parameter,
                start=int(module.table.starts[place]), rows=encoder.size.rows, width=width, counts=counts, values=values,
                person=field == schema.user, item=field == schema.item)
    return found


def saved_states(folder: Path) -> tuple[SavedState, ...]:
    """Saved weights of a run, first to last: those of steps and those of the ends of epochs."""
    steps = [(at, path) for path in (folder / "states").glob("step-*.safetensors") if (at := _STATE.fullmatch(path.stem))]
    epochs = [(at, path) for path in (folder / "checkpoints").glob("epoch-*.safetensors") if (at := _EPOCH.fullmatch(path.stem))]
    found = [*(((int(at[2]), 0, int(at[1])), SavedState(name=f"step {int(at[1])}", path=path)) for at, path in steps),
             *(((int(at[1]), 1, 0), SavedState(name=f"epoch {int(at[1])}", path=path)) for at, path in epochs)]
    return tuple(state for _, state in sorted(found, key=lambda entry: entry[0]))


def some_rows(table: FieldTable, state: SavedState) -> tuple[Ints, Floats]:
    """Numbers of rows and their vectors: all of a table of up to `MOST_ROWS`, else stretches of it, evenly spaced."""
    if table.rows <= MOST_ROWS:
        stretches = [(0, table.rows)]
    else:
        length = MOST_ROWS // STRETCHES
        stretches = [(int(first), int(first) + length) for first in np.linspace(0, table.rows - length, STRETCHES)]
    parts = list(read_stretches(table, state, stretches))
    return np.concatenate([np.arange(first, last) for first, last in stretches]), np.concatenate(parts)


def read_stretches(table: FieldTable, state: SavedState, stretches: Sequence[tuple[int, int]]) -> Iterator[Floats]:
    """Vectors of stretches of rows, one after another.

    Raises:
        RunError: The state is missing, damaged or of another model.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(state.path, framework="numpy") as file:
            if table.parameter not in set(file.keys()):
                raise RunError(f"{state.path.name} has no {table.parameter}", hint="were files of two runs mixed?")
            whole = file.get_slice(table.parameter)
            if whole.get_shape()[0] < table.start + table.rows:
                raise RunError(f"{state.path.name} does not fit the model of its run", hint="were files of two runs mixed?")
            for first, last in stretches:
                yield whole[table.start + first:table.start + last].astype(np.float32)
    except FileNotFoundError:
        raise RunError(f"{state.path.name} is gone", hint="load the page again") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise RunError(f"{state.path.name} is damaged: {error}", hint="look at another state") from None


def neighbours(table: FieldTable, state: SavedState, row: int, most: int = 12) -> tuple[list[tuple[int, float]], int]:
    """Rows whose vectors point most nearly the same way, as (row, cosine), among rows that training read; and among how many."""
    vector = next(read_stretches(table, state, [(row, row + 1)]))[0]
    among = min(table.rows, NEAREST_AMONG)
    stretches = [(first, min(among, first + AT_ONCE)) for first in range(0, among, AT_ONCE)]
    length = float(np.linalg.norm(vector)) or 1.0
    best: list[tuple[float, int]] = []
    looked = 0
    for (first, _), part in zip(stretches, read_stretches(table, state, stretches), strict=True):
        lengths = np.linalg.norm(part, axis=1)
        cosine = part @ vector / np.maximum(lengths, 1e-12) / length
        out = ~np.isfinite(cosine) | (lengths == 0)
        if table.counts is not None:
            out |= table.counts[first:first + len(part)] == 0
        if first <= row < first + len(part):
            out[row - first] = True
        cosine[out] = -np.inf
        looked += int((~out).sum())
        top = np.argsort(-cosine, kind="stable")[:most]
        best = sorted([*best, *((float(cosine[k]), first + int(k)) for k in top if np.isfinite(cosine[k]))], key=lambda one: (-one[0], one[1]))[:most]
    return [(at, cosine) for cosine, at in best], looked


def _ranges(edges: Any) -> list[str]:
    """Names of the buckets of numbers."""
    if edges is None:
        return []
    ends = [f"{edge:.4g}" for edge in edges]
    return [f"below {ends[0]}", *(f"{low} to {high}" for low, high in pairwise(ends)), f"from {ends[-1]}"] if ends else ["all"]


__all__ = ["MOST_ROWS", "NEAREST_AMONG", "RESERVED", "FieldTable", "RunTables", "SavedState", "neighbours", "open_tables", "read_stretches", "saved_states", "some_rows", "tables_of"]
