"""Which smaller models are made, and how each is made of the one at hand."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.compressing.fields import droppable, without_fields
from recspect.compressing.fitted import Fitted, mean_vectors, row_counts, tables
from recspect.compressing.measuring import scores_of
from recspect.compressing.rows import most_useful, prunable, usefulness, without_rows
from recspect.diagnosis.batch import Batch
from recspect.errors import UsageError
from recspect.features import encode_label
from recspect.models.packing import packed
from recspect.models.storage import PLAIN, Storage
from recspect.training.metrics import log_loss

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A smaller model, as what is done to the one at hand, in this order.

    Args:
        fields_dropped: How many fields are left out, those of least usefulness.
        rows_kept: Share of the ids that keep a row of their own, those of most usefulness.
        storage: How weights are kept after that.
    """

    fields_dropped: int = 0
    rows_kept: float = 1.0
    storage: Storage = PLAIN

    @property
    def name(self) -> str:
        """Such as "10 fields less, 50% of rows, rank 4, int8"."""
        tables, dense = self.storage.tables, self.storage.dense
        parts = [f"{self.fields_dropped} field{'s' if self.fields_dropped > 1 else ''} less" if self.fields_dropped else "", f"{self.rows_kept:.0%} of rows" if self.rows_kept < 1 else "",
                 f"rank {self.storage.rank}" if self.storage.rank else "",
                 "" if tables == dense == "float32" else tables if tables == dense else f"tables {tables}" if dense == "float32" else f"tables {tables}, layers {dense}"]
        return ", ".join(part for part in parts if part) or "as it is"

    def to_mapping(self) -> dict[str, Any]:
        """Plain data."""
        return {"fields_dropped": self.fields_dropped, "rows_kept": self.rows_kept, "storage": self.storage.to_mapping()}


@dataclass(frozen=True, eq=False)
class Workbench:
    """A model with what is known of the use of its fields and rows.

    Args:
        fitted: The model, with plain float32 weights.
        fields: Field to how much the loss of rows held out from training rises, in nats per row, when it is held at its mean; those that can be dropped, least first.
        rows: Per field, the usefulness of each id's row; see `recspect.compressing.rows`.
        means: Mean vectors of fields over training rows.
    """

    fitted: Fitted
    fields: Mapping[str, float]
    rows: Mapping[str, Floats]
    means: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, fitted: Fitted, train: Batch, validation: Batch) -> Workbench:
        """Measure the use of fields and rows.

        Args:
            fitted: The model.
            train: Rows that it was trained on.
            validation: Rows that it was not trained on, and that will not be used to judge.

        Raises:
            UsageError: The model is compressed already.
        """
        if not fitted.storage.plain:
            raise UsageError(f"the model is compressed already ({Recipe(storage=fitted.storage).name})", hint="compress the run that it was made of")
        means = mean_vectors(fitted, fitted.transform.transform(train)) if droppable(fitted) else {}
        found = usefulness(fitted, train) if prunable(fitted) else {}
        return cls(fitted, _use_of_fields(fitted, validation, means), found, means)

    def make(self, recipe: Recipe) -> Fitted:
        """The smaller model. The one at hand stays as it is."""
        made = self.fitted
        if recipe.fields_dropped:
            made = without_fields(made, list(self.fields)[: recipe.fields_dropped], self.means)
        if recipe.rows_kept < 1:
            there = prunable(made)
            made = without_rows(made, most_useful({name: values for name, values in self.rows.items() if name in there}, recipe.rows_kept))
        if not recipe.storage.plain:
            counts = {f"{name}.table": row_counts(vectors, made.transform) for name, vectors in tables(made.model).items()}
            made = Fitted(packed(copy.deepcopy(made.model), recipe.storage, counts), made.transform, recipe.storage)
        return made

    def singles(self) -> dict[str, list[Recipe]]:
        """Recipes of one kind each, by kind, from the mildest on."""
        width = self.fitted.config.embedding_width
        widest = max((vectors.table.weight.shape[1] for vectors in tables(self.fitted.model).values() if vectors.table is not None), default=0)
        found = {"storage": [Recipe(storage=Storage(tables="bf16", dense="bf16")), Recipe(storage=Storage(tables="int8")), Recipe(storage=Storage(tables="int8", dense="int8"))],
                 "rank": [Recipe(storage=Storage(rank=rank)) for rank in (width // 2, width // 4, width // 8) if 1 <= rank < widest],
                 "rows": [Recipe(rows_kept=share) for share in (0.75, 0.5, 0.25, 0.1)] if self.rows else []}
        fields = len(self.fields)
        found["fields"] = [Recipe(fields_dropped=count) for count in sorted({round(share * fields) for share in (0.125, 0.25, 0.5, 0.75)} - {0, len(self.fitted.transform.encoders)})]
        return found


def together(steps: Sequence[Recipe]) -> Recipe:
    """Several recipes as one; of two of a kind, the smaller model."""
    storage = PLAIN
    for step in steps:
        storage = replace(storage, **{name: value for name, value in step.storage.to_mapping().items() if value != getattr(PLAIN, name)})
    return Recipe(fields_dropped=max((step.fields_dropped for step in steps), default=0), rows_kept=min((step.rows_kept for step in steps), default=1.0), storage=storage)


def _use_of_fields(fitted: Fitted, rows: Batch, means: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    label = encode_label(fitted.transform.schema.label, rows)
    whole = log_loss(label, scores_of(fitted, rows))
    able = droppable(fitted)
    if len(fitted.transform.encoders) < 2:
        return {}
    found = {name: log_loss(label, scores_of(without_fields(fitted, [name], means), rows)) - whole for name in able}
    return dict(sorted(found.items(), key=lambda item: item[1]))
