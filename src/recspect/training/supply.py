"""What a training needs of its table: rows in steps, rows to judge by, and what the labels are like. From memory, or from files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.source_files import Files
from recspect.errors import UsageError
from recspect.features import Encoded, FeatureTransform, encode_label
from recspect.features.counting import Moments
from recspect.features.derived import beneath
from recspect.features.fitting import Fitting
from recspect.features.labels import require_variation
from recspect.schema import Label, Schema
from recspect.training.config import TrainingConfig
from recspect.training.figures import TRAIN_ROWS_JUDGED
from recspect.training.rows import Part, Table, Tables, chosen_labels, require_order, schema_columns, target_of
from recspect.training.shuffling import Piece, StreamedPart, bytes_per_row
from recspect.training.split import evenly_spaced
from recspect.training.streaming import Fingerprint, PlacedGroup, StreamedTable, evenly_in

LAYER_ROWS = 4096
"""Training rows, and validation rows, on which layers are measured after each epoch."""


@dataclass(frozen=True)
class LabelFigures:
    """A label in the training rows.

    Args:
        mean, deviation: In the label's unit.
        given: Mean in the rows in which the label that it comes after is 1; the mean where it comes after none.
    """

    mean: float
    deviation: float
    given: float

    @property
    def entropy(self) -> float:
        """Of a binary label with this mean, in nats: the loss of guessing its rate, which lies between 0 and 1."""
        return -self.mean * math.log(self.mean) - (1 - self.mean) * math.log(1 - self.mean)


@dataclass(frozen=True)
class Supply:
    """The rows of a training.

    Args:
        train: In steps.
        judged: Training (a sample), validation and test rows on which figures are measured.
        layers: Training and validation rows on which layers are measured.
        labels: By name, the first label first.
        transform: As fitted on the training rows.
        fingerprint: 32 hexadecimal digits of the table.
        split: Plain data for `run.json`.
    """

    train: Part | StreamedPart
    judged: tuple[Part, Part, Part]
    layers: tuple[Part, Part]
    labels: Mapping[str, LabelFigures]
    transform: FeatureTransform
    fingerprint: str
    split: Mapping[str, Any]

    @classmethod
    def of(cls, data: Table | tuple[Table, Table, Table], schema: Schema, config: TrainingConfig, transform: FeatureTransform | None = None) -> Supply:
        """Read, split, fit and encode a table, or three.

        Args:
            data: As for `train`.
            schema: Its first label is the first of `config.labels`.
            config: `buffer_bytes` says whether the table stays in its files.
            transform: As fitted before, of a training that goes on.

        Raises:
            DataError, SchemaError, UsageError: The table or a label cannot be trained on.
        """
        if config.buffer_bytes:
            return _from_files(data, schema, config, transform)
        tables = Tables.cut(data, schema, config)
        transform = transform or FeatureTransform.fit(schema, tables.train, folder=folder_of(data))
        parts = tables.encode(schema, transform, config.labels)
        values = {schema.label.name: parts[0].label, **parts[0].others}
        found = {label.name: _figures(label, values) for label in chosen_labels(schema, config.labels)}
        return cls(parts[0], (parts[0].evenly(TRAIN_ROWS_JUDGED), *parts[1:]), (parts[0].evenly(LAYER_ROWS), parts[1].evenly(LAYER_ROWS)),
                   {name: found[name] for name in values}, transform, tables.fingerprint, tables.split)


def folder_of(data: Any) -> str:
    """The folder in which the files of a table lie; empty for one in memory."""
    base = beneath(data[0] if isinstance(data, tuple) else data)
    return str(base.paths[0].resolve().parent) if isinstance(base, Files) else ""


def _figures(label: Label, values: Mapping[str, NDArray[np.float64]]) -> LabelFigures:
    own = values[label.name]
    given = own[values[label.after] == 1] if label.after in values else own
    return LabelFigures(float(own.mean()), float(own.std()), float(given.mean()))


# ---------------------------------------------------------------------- from files


def _from_files(data: Table | tuple[Table, Table, Table], schema: Schema, config: TrainingConfig, transform: FeatureTransform | None) -> Supply:
    table = StreamedTable.of(data, schema, config, schema_columns(data, schema, config.labels))
    fitting, marks, labels = Fitting(schema, folder_of(data)), Fingerprint(table, schema), _LabelsInPieces(schema, config.labels)
    for batch, part in table.all_pieces(tell=marks.add):
        labels.add(batch, part)
        if transform is None:
            fitting.add(batch.take(part == 0))
    figures = labels.finish()
    transform = transform or FeatureTransform(schema, fitting.finish())
    row_bytes = bytes_per_row(transform.sizes, len(figures), timed=bool(table.time))
    capacity = config.buffer_bytes // row_bytes
    if not capacity:
        raise UsageError(f"a buffer of {config.buffer_bytes:,} bytes holds no row: one takes {row_bytes:,}", hint="give a larger buffer")
    groups = [group for group in table.groups if group.rows[0]]
    encode = _Encoding(table, schema, config.labels, transform)
    train = StreamedPart([group.rows[0] for group in groups], lambda place, rows: encode.train(groups[place], rows), capacity, config.readers)
    most = (TRAIN_ROWS_JUDGED, max(1, capacity // 4), max(1, capacity // 4))
    judged, layers = encode.held(((0, most[0]), (1, most[1]), (2, most[2])), ((0, LAYER_ROWS), (1, LAYER_ROWS)))
    return Supply(train, judged, layers, figures, transform, marks.finish(),
                  {**table.split, "judged": {"validation": judged[1].rows, "test": judged[2].rows}})


class _LabelsInPieces:
    """What the labels of the training rows are like, added up over pieces; and whether they can be trained on."""

    def __init__(self, schema: Schema, labels: Sequence[str]) -> None:
        self._chosen = {label.name: label for label in chosen_labels(schema, labels)}
        self._order = [schema.label.name, *labels[1:]]
        self._moments = {name: Moments() for name in self._order}
        self._given = {name: Moments() for name in self._order}
        self._ends = dict.fromkeys(self._order, (np.inf, -np.inf))

    def add(self, batch: Batch, part: NDArray[np.int64]) -> None:
        values = {name: encode_label(label, batch, piece=True) for name, label in self._chosen.items()}
        for label in self._chosen.values():
            require_order(label, values)
        mine = part == 0
        for name, label in self._chosen.items():
            own = values[name][mine]
            if len(own):
                low, high = self._ends[name]
                self._ends[name] = min(low, float(own.min())), max(high, float(own.max()))
            self._moments[name].add(own)
            self._given[name].add(own[values[label.after][mine] == 1] if label.after in values else own)

    def finish(self) -> dict[str, LabelFigures]:
        for name, label in self._chosen.items():
            low, high = self._ends[name]
            if low >= high:
                require_variation(label, np.broadcast_to(np.float64(low), self._moments[name].count), where="training")
        return {name: LabelFigures(self._moments[name].mean, self._moments[name].deviation, self._given[name].mean) for name in self._order}


@dataclass(frozen=True)
class _Encoding:
    """Rows of a streamed table, as tensors."""

    table: StreamedTable
    schema: Schema
    labels: Sequence[str]
    transform: FeatureTransform

    def train(self, group: PlacedGroup, rows: int) -> Any:
        """The training rows of a group, in pieces."""
        for batch, part in self.table.pieces(group, rows):
            mine = batch.take(part == 0) if group.rows[0] < group.group.rows else batch
            if mine.rows:
                found = self._labels(mine)
                yield Piece(self.transform.transform(mine), target_of(found, self.labels), mine.numbers(self.table.time) if self.table.time else None)

    def held(self, *asked: Sequence[tuple[int, int]]) -> list[tuple[Any, ...]]:
        """Evenly spaced rows of parts: for each (part, most rows) asked for, a `Part`; all in one pass."""
        flat = [pair for group in asked for pair in group]
        wanted = [evenly_spaced(self.table.count(part), most) for part, most in flat]
        kept: list[list[tuple[Part, NDArray[np.float64]]]] = [[] for _ in flat]
        seen = [0, 0, 0]
        for batch, part in self.table.all_pieces():
            of_part = [np.flatnonzero(part == which) for which in range(3)]
            for place, (which, _) in enumerate(flat):
                chosen = of_part[which][evenly_in(wanted[place], seen[which], len(of_part[which]))]
                if len(chosen):
                    rows = batch.take(chosen)
                    times = rows.numbers(self.table.time) if self.table.time else np.zeros(rows.rows)
                    kept[place].append((self._part(rows), times))
            seen = [before + len(mine) for before, mine in zip(seen, of_part, strict=True)]
        parts = iter([_joined(pieces) for pieces in kept])
        return [tuple(next(parts) for _ in group) for group in asked]

    def _part(self, batch: Batch) -> Part:
        found = self._labels(batch)
        first = self.schema.label.name
        return Part(self.transform.transform(batch), found[first], target_of(found, self.labels), {name: found[name] for name in self.labels[1:]})

    def _labels(self, batch: Batch) -> dict[str, NDArray[np.float64]]:
        return {label.name: encode_label(label, batch, piece=True) for label in chosen_labels(self.schema, self.labels)}


def _joined(pieces: list[tuple[Part, NDArray[np.float64]]]) -> Part:
    """Pieces as one part, in order of time."""
    parts = [part for part, _ in pieces]
    whole = Part(Encoded.joined([part.encoded for part in parts]), np.concatenate([part.label for part in parts]), torch.cat([part.target for part in parts]),
                 {name: np.concatenate([part.others[name] for part in parts]) for name in parts[0].others})
    return whole.take(np.argsort(np.concatenate([times for _, times in pieces]), kind="stable"))
