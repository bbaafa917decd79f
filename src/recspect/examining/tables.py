"""What the rows of any table get before they are judged: the label as a number, the cluster, the score, baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recspect.diagnosis.batch import Batch, Column, hash_rows
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.probes.frequency import fitted_frequency
from recspect.diagnosis.source import Source
from recspect.errors import DataError, Unavailable, listing
from recspect.recommending.compare import Baselines
from recspect.schema import Kind, Schema


class StandardProbe(Probe):
    """Adds `@label` (0/1 or the grade), `@cluster` (the user, else a hash of the row) and, from the schema's score column, `@score`.

    Scores of another model beside them become `@score:other`.

    Args:
        schema: Names the columns.
        has_score: Whether the table carries the scores to be judged.
        other_score: Column of the scores of another model; empty for none.
    """

    light = True

    def __init__(self, schema: Schema, *, has_score: bool, other_score: str = "") -> None:
        self.schema, self.has_score, self.other_score = schema, has_score, other_score
        self.backing = {} if schema.user is None else {"@cluster": schema.user}
        read = (*(label.name for label in schema.labels[:1]), schema.user, schema.score if has_score else None, other_score)
        self.reads = None if schema.user is None else tuple(column for column in read if column)

    @property
    def adds(self) -> tuple[str, ...]:
        label = ("@label",) if self.schema.labels else ()
        return (*label, "@cluster", *(("@score",) if self.has_score else ()), *(("@score:other",) if self.other_score else ()))

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        from recspect.features.labels import encode_label

        columns: dict[str, Column] = {}
        if self.schema.labels:
            columns["@label"] = encode_label(self.schema.label, batch, piece=True)
        if self.schema.user is not None:
            columns["@cluster"] = batch[self.schema.user]
        else:
            columns["@cluster"] = (hash_rows(batch, list(batch)) >> np.uint64(1)).astype(np.int64)
        if self.has_score:
            columns["@score"] = batch.numbers(self.schema.require("score"))
        if self.other_score:
            columns["@score:other"] = batch.numbers(self.other_score)
        return columns


class BaselineProbe(Probe):
    """Adds `@baseline:...`, the scores of fitted baselines."""

    light = True

    def __init__(self, baselines: Baselines) -> None:
        self.baselines = baselines
        schema = baselines.schema
        self.reads = tuple(column for column in (schema.item, schema.user if baselines.item_knn is not None or baselines.ease is not None else None) if column)
        names = ["popular", *(name for name in ("item_knn", "ease") if getattr(baselines, name) is not None)]
        self._adds = tuple(f"@baseline:{name}" for name in names)

    @property
    def adds(self) -> tuple[str, ...]:
        return self._adds

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        return {f"@{name}": column for name, column in self.baselines.columns(batch).items()}


def labelled(rows: Batch, schema: Schema) -> Batch:
    """The rows with `@label` and `@cluster`, whether or not they have scores."""
    return rows.with_columns(dict(StandardProbe(schema.with_roles(score=None), has_score=False).observe(rows)))


def standard_probes(schema: Schema, columns: Sequence[str], *, score_from_table: bool, other_score: str = "") -> list[Probe]:
    """The probes that every table gets.

    Raises:
        DataError: The schema's score column, or the one of the other model, is not in the table.
    """
    from recspect.diagnosis.probes.mismatch import Mismatch, mismatch_fields

    if score_from_table and schema.score is not None and schema.score not in columns:
        raise DataError(f"the schema's score column {schema.score!r} is not in the table",
                        hint="add the model's scores to the table, or examine the model itself")
    if other_score and other_score not in columns:
        raise DataError(f"the column {other_score!r} with the scores of another model is not in the table; columns: {listing(columns)}",
                        hint="add its scores to the table, one per row")
    probes: list[Probe] = [StandardProbe(schema, has_score=score_from_table and schema.score is not None, other_score=other_score)]
    logged = mismatch_fields(columns)
    if logged:
        probes.append(Mismatch(logged))
    return probes


def fitted_baselines(train: Batch, schema: Schema) -> BaselineProbe | None:
    """Honest baselines fitted on the training rows, or None where there is no item or no training row."""
    from recspect.recommending.compare import fit_baselines

    if not schema.labels:
        return None
    try:
        return BaselineProbe(fit_baselines(train, schema))
    except Unavailable:
        return None


def frequency_probe(schema: Schema, train: Source, columns: Sequence[str]) -> list[Probe]:
    """The probe that says how often training saw ids, or nothing where no field of many ids is on both sides."""
    wanted = [schema.user, schema.item, *(field.name for field in schema.fields if field.kind is Kind.CATEGORICAL)]
    there = set(columns) & set(train.columns)
    fields = [name for name in dict.fromkeys(wanted) if name is not None and name in there]
    probe = fitted_frequency(train.batches(fields), fields) if fields else None
    return [probe] if probe is not None and probe.adds else []


def sample_of(batch: Batch, rows: int, *, seed: int = 0) -> Batch:
    """A random sample of whole rows in their order, the same for the same seed."""
    if batch.rows <= rows:
        return batch
    chosen = np.sort(np.random.default_rng(seed).choice(batch.rows, rows, replace=False))
    return batch.take(chosen)


def users_in(batch: Batch, schema: Schema) -> int | None:
    """How many distinct users the rows have, or None without a user column."""
    if schema.user is None or schema.user not in batch:
        return None
    return len(np.unique(batch.categories(schema.user).codes))


__all__ = ["BaselineProbe", "StandardProbe", "fitted_baselines", "frequency_probe", "sample_of", "standard_probes", "users_in"]
