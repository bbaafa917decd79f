"""The rows of a training, ready for the loop: three encoded parts with their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
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
from recspect.schema import Schema
from recspect.training.config import TrainingConfig
from recspect.training.split import split_rows

Table = Batch | Source


@dataclass(frozen=True)
class Part:
    """Encoded rows and their label: float64 for figures (`label`), float32 for the loop (`target`), both (rows,)."""

    encoded: Encoded
    label: NDArray[np.float64]
    target: Tensor

    def take(self, index: NDArray[np.int64]) -> Part:
        """The rows at these positions."""
        rows = torch.from_numpy(index)
        return Part(self.encoded.take(rows), self.label[index], self.target[rows])


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
            train, validation, test = (_read(part, schema) for part in derive_together(data, schema))
            rows = {"train": train.rows, "validation": validation.rows, "test": test.rows}
            split: Mapping[str, Any] = {"kind": "given", "rows": rows}
            mark = "".join(fingerprint(part, schema) for part in (train, validation, test))
            return cls(train, validation, test, split, hashlib.blake2b(mark.encode(), digest_size=16).hexdigest())
        table = _read(derive(data, schema), schema)
        parts = split_rows(table, schema, test_share=config.test_share, validation_share=config.validation_share,
                           by=config.split, seed=config.seed)
        return cls(table.take(parts.train), table.take(parts.validation), table.take(parts.test), parts.description,
                   fingerprint(table, schema))

    def encode(self, schema: Schema, transform: FeatureTransform) -> tuple[Part, Part, Part]:
        """Training, validation and test rows as tensors.

        Raises:
            DataError: The label has gaps, or is the same in all training rows.
        """
        labels = [encode_label(schema.label, batch) for batch in (self.train, self.validation, self.test)]
        require_variation(schema.label, labels[0], where="training")
        train, validation, test = (
            Part(transform.transform(batch), label, torch.from_numpy(label.astype(np.float32)))
            for batch, label in zip((self.train, self.validation, self.test), labels, strict=True)
        )
        return train, validation, test


def fingerprint(batch: Batch, schema: Schema) -> str:
    """32 hexadecimal digits of the columns that the schema names: same rows in the same order, same digits."""
    columns = [name for name in schema.columns if name in batch]
    digest = hashlib.blake2b(repr((columns, batch.rows)).encode(), digest_size=16)
    digest.update(hash_rows(batch, columns).tobytes())
    return digest.hexdigest()


def _read(table: Table, schema: Schema) -> Batch:
    """The columns that training reads, and those by which a run is examined, where they are there: roles need not be fields."""
    needed = [*schema.field_names, schema.label.name, *([schema.time] if schema.time else [])]
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
