"""The rows of a training, ready for the loop: three encoded parts with their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspect.diagnosis.batch import Batch, concatenate, hash_rows
from recspect.diagnosis.source import Source, require_columns
from recspect.errors import DataError
from recspect.features import Encoded, FeatureTransform, encode_label
from recspect.features.derived import derive, derive_together
from recspect.features.labels import require_variation
from recspect.schema import Label, Schema
from recspect.training.config import TrainingConfig
from recspect.training.ranks import ALONE, Ranks
from recspect.training.split import evenly_spaced, split_rows

Table = Batch | Source


@dataclass(frozen=True)
class Step:
    """The rows of one step, or a process's share of them.

    Args:
        encoded: Inputs.
        target: float32, (rows,) or (rows, labels).
        rows: Of the step, over all processes.
    """

    encoded: Encoded
    target: Tensor
    rows: int


@dataclass(frozen=True)
class Part:
    """Encoded rows and their labels.

    Args:
        encoded: The inputs.
        label: The first label, float64, (rows,), for figures.
        target: The same as float32 for the loop; (rows, labels) where several are trained.
        others: The other labels by name, float64, (rows,) each.
    """

    encoded: Encoded
    label: NDArray[np.float64]
    target: Tensor
    others: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.encoded.rows

    def steps(self, batch_rows: int, *, seed: int) -> int:  # noqa: ARG002 - as of streamed rows
        """Steps of an epoch."""
        return -(-self.rows // batch_rows)

    def batches(self, batch_rows: int, *, seed: int, ranks: Ranks = ALONE) -> Iterator[Step]:  # noqa: ARG002 - torch was seeded by it
        """Every row once, in a new order; of several processes each gets its share of every step.

        Args:
            batch_rows: Rows per step, of all processes together.
            seed: By which torch's generator has just been seeded; the order is drawn from that.
            ranks: The processes.
        """
        order = torch.randperm(self.rows)  # the same as `order_of_rows` gives
        for start in range(0, self.rows, batch_rows):
            whole = order[start:start + batch_rows]
            index = whole[ranks.rank::ranks.world]
            yield Step(self.encoded.take(index), self.target[index], len(whole))

    def evenly(self, rows: int) -> Part:
        """At most so many rows, evenly spaced."""
        return self.take(evenly_spaced(self.rows, rows))

    def take(self, index: NDArray[np.int64]) -> Part:
        """The rows at these positions."""
        rows = torch.from_numpy(index)
        return Part(self.encoded.take(rows), self.label[index], self.target[rows], {name: label[index] for name, label in self.others.items()})


@dataclass(frozen=True)
class Tables:
    """The three parts as they came, and how they were cut.

    Args:
        train, validation, test: Rows.
        split: Plain data for `run.json`.
        fingerprint: 32 hexadecimal digits of the content that training reads.
    """

    train: Batch
    validation: Batch
    test: Batch
    split: Mapping[str, Any]
    fingerprint: str

    @classmethod
    def cut(cls, data: Table | tuple[Table, Table, Table], schema: Schema, config: TrainingConfig) -> Tables:
        """Read one table and split it, or three tables (training, validation, test) as they are; of a table that is streamed, evenly spaced rows.

        Raises:
            DataError: A column is missing, or a part has no rows.
        """
        if config.buffer_bytes:
            from recspect.training.streaming import EXAMINED_ROWS, Fingerprint, StreamedTable

            stream = StreamedTable.of(data, schema, config, schema_columns(data, schema, config.labels))
            marks = Fingerprint(stream, schema)
            return cls(*stream.sampled(EXAMINED_ROWS, tell=marks.add), stream.split, marks.finish())
        if isinstance(data, tuple):
            train, validation, test = (_read(part, schema, config.labels) for part in derive_together(data, schema))
            rows = {"train": train.rows, "validation": validation.rows, "test": test.rows}
            split: Mapping[str, Any] = {"kind": "given", "rows": rows}
            mark = "".join(fingerprint(part, schema) for part in (train, validation, test))
            return cls(train, validation, test, split, hashlib.blake2b(mark.encode(), digest_size=16).hexdigest())
        table = _read(derive(data, schema), schema, config.labels)
        parts = split_rows(table, schema, test_share=config.test_share, validation_share=config.validation_share,
                           by=config.split, seed=config.seed)
        return cls(table.take(parts.train), table.take(parts.validation), table.take(parts.test), parts.description,
                   fingerprint(table, schema))

    def encode(self, schema: Schema, transform: FeatureTransform, labels: Sequence[str] = ()) -> tuple[Part, Part, Part]:
        """Training, validation and test rows as tensors; with `labels`, of which the first is the schema's first, all of these are targets.

        Raises:
            DataError: A label has gaps, is the same in all training rows, or happened without the one that it is declared to come after.
        """
        chosen = chosen_labels(schema, labels)
        found = [{label.name: encode_label(label, batch) for label in chosen} for batch in (self.train, self.validation, self.test)]
        for label in chosen:
            require_variation(label, found[0][label.name], where="training")
            for part in found:
                require_order(label, part)
        train, validation, test = (
            Part(transform.transform(batch), part[schema.label.name], target_of(part, labels), {name: part[name] for name in labels[1:]})
            for batch, part in zip((self.train, self.validation, self.test), found, strict=True)
        )
        return train, validation, test


def chosen_labels(schema: Schema, labels: Sequence[str]) -> list[Label]:
    """The labels that are trained, the schema's first first."""
    return [schema.label, *(label for label in schema.labels if label.name in labels[1:])]


def target_of(labels: Mapping[str, NDArray[np.float64]], order: Sequence[str]) -> Tensor:
    if len(order) < 2:
        return torch.from_numpy(next(iter(labels.values())).astype(np.float32))
    return torch.from_numpy(np.stack([labels[name] for name in order], axis=1).astype(np.float32))


def require_order(label: Label, values: Mapping[str, NDArray[np.float64]]) -> None:
    if label.after is None or label.after not in values:
        return
    alone = np.flatnonzero((values[label.name] == 1) & (values[label.after] == 0))
    if len(alone):
        raise DataError(f"label {label.name!r} happened without {label.after!r} in {len(alone):,} rows, first in row {int(alone[0]):,} of its part",
                        hint=f"take `after = {label.after!r}` away from the label, or correct the rows")


def fingerprint(batch: Batch, schema: Schema) -> str:
    """32 hexadecimal digits of the columns that the schema names: same rows in the same order, same digits."""
    columns = [name for name in schema.columns if name in batch]
    digest = hashlib.blake2b(repr((columns, batch.rows)).encode(), digest_size=16)
    digest.update(hash_rows(batch, columns).tobytes())
    return digest.hexdigest()


def schema_columns(data: Table | tuple[Table, ...], schema: Schema, labels: Sequence[str] = ()) -> list[str]:
    """The columns that training reads, and those by which a run is examined, where they are there: roles need not be fields.

    Raises:
        DataError: A table lacks one that is needed.
    """
    needed = [*schema.field_names, schema.label.name, *labels[1:], *([schema.time] if schema.time else [])]
    roles = [name for name in (schema.user, schema.item, schema.request, schema.position, schema.propensity, schema.arm) if name is not None]
    tables = data if isinstance(data, tuple) else (data,)
    made = {column.name for column in schema.derived}
    for table in tables:
        if isinstance(table, Source):
            require_columns(table, [name for name in needed if name not in made])
    there = [set(table) if isinstance(table, Batch) else set(table.columns) for table in tables]
    found = [*needed, *(name for name in roles if all(name in names for names in there))]
    return list(dict.fromkeys([*(name for name in schema.columns if name in found), *found]))


def _read(table: Table, schema: Schema, labels: Sequence[str] = ()) -> Batch:
    columns = schema_columns(table, schema, labels)
    batch = table.select(columns) if isinstance(table, Batch) else concatenate(list(table.batches(columns)))
    if batch.rows == 0:
        raise DataError("the table has no rows", hint="check the file, the query and the filters")
    return batch
