"""How faults of rows, splits and fields are planted in a case, by severity 0 (barely visible), 1 (typical), 2 (gross).

Faults of training and of models are in `planting_training`, those of labels, serving and logs in `planting_logs`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, concatenate
from recspect.exam.case import Case
from recspect.schema import Field, Kind
from recspect.worlds import (
    plant_default_value,
    plant_duplicates,
    plant_label_copy,
    plant_missing,
    plant_noise_field,
    plant_row_copies,
    plant_shuffled_field,
)


def label_copy(case: Case, severity: int) -> Case:
    """A field that says the label in 80, 95 or 99% of all rows."""
    agreement, label = (0.8, 0.95, 0.99)[severity], case.columns.label
    return case.everywhere(lambda rows, seed: plant_label_copy(rows, label, agreement=agreement, seed=seed)).with_field(Field(name="leak"))


def future_window(case: Case, severity: int) -> Case:
    """The user's rate of positives over the next 8, 2 or 1 of their rows, the row itself among them."""
    width = (8, 2, 1)[severity]

    def add(rows: Batch, seed: int) -> Batch:
        del seed
        return rows.with_columns({"window_rate": _rate_ahead(rows.categories(str(case.columns.user)).codes, rows.numbers(case.columns.label), width)})

    return case.everywhere(add).with_field(Field(name="window_rate", kind=Kind.NUMERIC))


def random_split(case: Case, severity: int) -> Case:
    """Rows of the future in training: 2, 20 or 100% of the held-out rows change places with training rows."""
    share, rng = (0.02, 0.2, 1.0)[severity], case.generator()
    count = round(share * min(case.test.rows, case.train.rows))
    mine, theirs = rng.permutation(case.train.rows)[:count], rng.permutation(case.test.rows)[:count]
    return replace(case, train=with_rows(case.train, mine, case.test.take(theirs)), test=with_rows(case.test, theirs, case.train.take(mine)))


def copied_rows(case: Case, severity: int) -> Case:
    """Held-out rows in place of 1, 5 or 20% of the training rows."""
    share = (0.01, 0.05, 0.2)[severity]
    return replace(case, train=plant_row_copies(case.train, case.test, share=share, seed=case.seed))


def duplicates(case: Case, severity: int) -> Case:
    """3, 10 or 30% of the training rows twice more."""
    share = (0.03, 0.1, 0.3)[severity]
    return replace(case, train=plant_duplicates(case.train, share=share, seed=case.seed))


def shuffled_field(case: Case, severity: int) -> Case:
    """At serving the item (or another category) of 20, 50 or 100% of the rows is another row's."""
    share = (0.2, 0.5, 1.0)[severity]
    return case.at_serving(lambda rows, seed: plant_shuffled_field(rows, case.columns.category, share=share, seed=seed))


def default_value(case: Case, severity: int) -> Case:
    """At serving the item (or another category) of 10, 30 or 50% of the rows is one and the same: the fourth most frequent."""
    share, column = (0.1, 0.3, 0.5)[severity], case.columns.category
    known = case.train.categories(column)
    fourth = known.values[np.argsort(-np.bincount(known.codes[known.codes >= 0]), kind="stable")[3]]
    return case.at_serving(lambda rows, seed: plant_default_value(rows, column, fourth, share=share, seed=seed))


def missing_number(case: Case, severity: int) -> Case:
    """At serving 8, 30 or 60% of the values of a numeric field are missing."""
    share = (0.08, 0.3, 0.6)[severity]
    return case.at_serving(lambda rows, seed: plant_missing(rows, case.columns.number, share=share, seed=seed))


def new_items(case: Case, severity: int) -> Case:
    """At serving 3, 15 or 40% of the rows show items that training never saw."""
    share, item = (0.03, 0.15, 0.4)[severity], str(case.columns.item)
    first = 1 + int(max(part.numbers(item).max() for part in (case.train, case.validation, case.test)))

    def renew(rows: Batch, seed: int) -> Batch:
        rng = np.random.default_rng(seed)
        hit = rng.random(rows.rows) < share
        return rows.with_columns({item: np.where(hit, first + rng.integers(0, 50, rows.rows), rows.numbers(item)).astype(np.int64)})

    return case.at_serving(renew)


def few_buckets(case: Case, severity: int) -> Case:
    """Items hashed into as many buckets as there are items, into an eighth, or into a fortieth of that."""
    field = case.schema.field(str(case.columns.item))
    items = len(np.unique(case.train.categories(field.name).codes))
    return case.with_field(replace(field, hash_buckets=max(2, round(items / (1, 8, 40)[severity]))))


def noise_field(case: Case, severity: int) -> Case:
    """A field of noise whose values occur 20, 5 or 2 times each in training, learned for two epochs at three times the rate of the tables."""
    categories = round(case.train.rows / (20, 5, 2)[severity])
    planted = case.everywhere(lambda rows, seed: plant_noise_field(rows, categories=categories, seed=seed)).with_field(Field(name="noise"))
    return replace(planted.with_settings(table_learning_rate=3 * case.config.table_learning_rate, patience_epochs=99), keep_last=True)


# ---------------------------------------------------------------------- benign


def few_missing(case: Case) -> Case:
    """2% more of a numeric field missing everywhere."""
    return case.everywhere(lambda rows, seed: plant_missing(rows, case.columns.number, share=0.02, seed=seed))


def harmless_field(case: Case) -> Case:
    """A field of five values that says nothing."""
    return case.everywhere(lambda rows, seed: plant_noise_field(rows, column="colour", categories=5, seed=seed)).with_field(Field(name="colour"))


def new_cohort(case: Case) -> Case:
    """A tenth of the held-out users gone: other traffic, same people."""
    user = str(case.columns.user)
    return case.at_serving(lambda rows, seed: rows.take(np.flatnonzero((rows.numbers(user).astype(np.int64) * 7 + seed) % 10 != 0)))


# ---------------------------------------------------------------------- details


def with_rows(rows: Batch, places: NDArray[np.int64], others: Batch, *, order: bool = False) -> Batch:
    """The rows with those at `places` replaced by others; in the old order where `order`, else the others last."""
    kept = np.setdiff1d(np.arange(rows.rows), places)
    mixed = concatenate([rows.take(kept), others])
    if not order:
        return mixed
    back = np.empty(rows.rows, dtype=np.int64)
    back[np.concatenate([kept, places])] = np.arange(rows.rows)
    return mixed.take(back)


def _rate_ahead(users: NDArray[Any], label: NDArray[Any], width: int) -> NDArray[np.float64]:
    """For each row, the mean label of this and the user's following rows, up to `width` of them. Rows are in order of time."""
    order = np.argsort(users, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(label[order])])
    ends = np.searchsorted(users[order], users[order], side="right")
    last = np.minimum(np.arange(len(users)) + width, ends)
    rate = np.empty(len(users))
    rate[order] = (total[last] - total[:-1]) / (last - np.arange(len(users)))
    return rate
