"""One training as it will be run and examined: rows, schema, settings, and what happens to the model afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.schema import Field, Schema
from recspect.training.config import TrainingConfig

Spoil = Callable[[Any], None]
"""Changes a model's weights in place, as a faulty export does."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What a table has that faults can be planted in; None where it has none.

    Args:
        label: The 0/1 outcome.
        category: A categorical field that says much: the item, where there is one.
        number: A numeric field, floating point.
        user, item, time: Columns of these roles.
        group: A categorical field of few values that describes users.
        member: A value of it whose rows can be spoilt.
        chance: The probability with which each row's item was shown.
    """

    label: str
    category: str
    number: str
    user: str | None = None
    item: str | None = None
    time: str | None = None
    group: str | None = None
    member: str | None = None
    chance: str | None = None

    def lacks(self, needed: Iterable[str]) -> list[str]:
        """Which of these the table does not have."""
        return [name for name in needed if getattr(self, name) is None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a fault may change.

    Args:
        train, validation, test: Rows, by time unless a fault mixes them.
        schema: What the columns mean.
        columns: What faults are planted in.
        config: How the model is trained.
        served: The held-out rows as they were logged at serving, to be held against `test`; None where nothing was logged.
        keep_last: Examine the model of the last epoch, not the best one.
        spoil: Done to the model before it is examined.
        seed: Of whatever a fault draws.
    """

    train: Batch
    validation: Batch
    test: Batch
    schema: Schema
    columns: Columns
    config: TrainingConfig
    served: Batch | None = None
    keep_last: bool = False
    spoil: Spoil | None = None
    seed: int = 0

    def everywhere(self, change: Callable[[Batch, int], Batch]) -> Case:
        """The case with the change made to each part, with another seed for each."""
        parts = [change(batch, 3 * self.seed + k) for k, batch in enumerate((self.train, self.validation, self.test))]
        return replace(self, train=parts[0], validation=parts[1], test=parts[2])

    def in_training(self, change: Callable[[Batch, int], Batch]) -> Case:
        """The case with the change made to training and validation rows."""
        return replace(self, train=change(self.train, 3 * self.seed), validation=change(self.validation, 3 * self.seed + 1))

    def at_serving(self, change: Callable[[Batch, int], Batch]) -> Case:
        """The case with the change made to the held-out rows only."""
        return replace(self, test=change(self.test, 3 * self.seed + 2))

    def with_field(self, field: Field) -> Case:
        """The case with one more field for the model, or another of the same name."""
        fields = {other.name: other for other in self.schema.fields} | {field.name: field}
        return replace(self, schema=replace(self.schema, fields=tuple(fields.values())))

    def with_roles(self, **roles: str) -> Case:
        """The case with columns in these roles."""
        return replace(self, schema=self.schema.with_roles(**roles))

    def with_settings(self, **settings: Any) -> Case:
        """The case with other settings of the training."""
        return replace(self, config=replace(self.config, **settings))

    def with_model(self, **settings: Any) -> Case:
        """The case with other settings of the model."""
        return self.with_settings(model=replace(self.config.model, **settings))

    def generator(self) -> np.random.Generator:
        """Draws of this case."""
        return np.random.default_rng(self.seed)
