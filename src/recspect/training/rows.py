"""The rows of a training, ready for the loop: three encoded parts with their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
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
from recspect.training.split import split_rows

Table = Batch | Source


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
        """Read one table and split it, or three tables (training, validation, test) as they are.

        Raises:
            DataError: A column is missing, or a part has no rows.
        """
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
        chosen = [schema.label, *(label for label in schema.labels if label.name in labels[1:])]
        found = [{label.name: encode_label(label, batch) for label in chosen} for batch in (self.train, self.validation, self.test)]
        for label in chosen:
            require_variation(label, found[0][label.name], where="training")
            for part in found:
                _require_order(label, part)
        train, validation, test = (
            Part(transform.transform(batch), part[schema.label.name], _target(part, labels), {name: part[name] for name in labels[1:]})
            for batch, part in zip((self.train, self.validation, self.test), found, strict=True)
        )
        return train, validation, test


def _target(labels: Mapping[str, NDArray[np.float64]], order: Sequence[str]) -> Tensor:
    if len(order) < 2:
        return torch.from_numpy(next(iter(labels.values())).astype(np.float32))
    return torch.from_numpy(np.stack([labels[name] for name in order], axis=1).astype(np.float32))


def _require_order(label: Label, values: Mapping[str, NDArray[np.float64]]) -> None:
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


def _read(table: Table, schema: Schema, labels: Sequence[str] = ()) -> Batch:
    """The columns that training reads, and those by which a run is examined, where they are there: roles need not be fields."""
    needed = [*schema.field_names, schema.label.name, *labels[1:], *([schema.time] if schema.time else [])]
    roles = (schema.user, schema.item, schema.request, schema.position, schema.propensity, schema.arm)
    units = [name for name in roles if name is not None]
    if isinstance(table, Batch):
        batch = table.select(list(dict.fromkeys([*needed, *(name for name in units if name in table)])))
    else:
        require_columns(table, needed)
        columns = [name for name in schema.columns if name in needed or (name in units and name in table.columns)]
        batch = concatenate(list(table.batches(columns)))
    if batch.rows == 0:
        raise DataError("the table has no rows", hint="check the file, the query and the filters")
    return batch
