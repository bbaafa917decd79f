"""How each fault is planted in a case, by severity 0 (barely visible), 1 (typical), 2 (gross)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from recspect.diagnosis.batch import Batch, Categorical, concatenate
from recspect.exam.case import Case
from recspect.schema import Field, Kind
from recspect.worlds import (
    plant_default_value,
    plant_duplicates,
    plant_label_copy,
    plant_late_labels,
    plant_missing,
    plant_noise_field,
    plant_prior_shift,
    plant_random_labels,
    plant_rate_change,
    plant_row_copies,
    plant_shuffled_field,
)

LABEL = "click"


def label_copy(case: Case, severity: int) -> Case:
    """A field that says the label in 80, 95 or 99% of all rows."""
    agreement = (0.8, 0.95, 0.99)[severity]
    return case.everywhere(lambda rows, seed: plant_label_copy(rows, LABEL, agreement=agreement, seed=seed)).with_field(Field(name="leak"))


def future_window(case: Case, severity: int) -> Case:
    """The user's click rate over the next 8, 2 or 1 of their rows, the row itself among them."""
    width = (8, 2, 1)[severity]

    def add(rows: Batch, seed: int) -> Batch:
        del seed
        return rows.with_columns({"window_rate": _rate_ahead(rows, width)})

    return case.everywhere(add).with_field(Field(name="window_rate", kind=Kind.NUMERIC))


def random_split(case: Case, severity: int) -> Case:
    """Rows of the future in training: 2, 20 or 100% of the held-out rows change places with training rows."""
    share, rng = (0.02, 0.2, 1.0)[severity], case.generator()
    count = round(share * min(case.test.rows, case.train.rows))
    mine, theirs = rng.permutation(case.train.rows)[:count], rng.permutation(case.test.rows)[:count]
    return replace(case, train=_with_rows(case.train, mine, case.test.take(theirs)), test=_with_rows(case.test, theirs, case.train.take(mine)))


def copied_rows(case: Case, severity: int) -> Case:
    """Held-out rows in place of 1, 5 or 20% of the training rows."""
    share = (0.01, 0.05, 0.2)[severity]
    return replace(case, train=plant_row_copies(case.train, case.test, share=share, seed=case.seed))


def duplicates(case: Case, severity: int) -> Case:
    """3, 10 or 30% of the training rows twice more."""
    share = (0.03, 0.1, 0.3)[severity]
    return replace(case, train=plant_duplicates(case.train, share=share, seed=case.seed))


def shuffled_item(case: Case, severity: int) -> Case:
    """At serving the item of 20, 50 or 100% of the rows is another row's."""
    share = (0.2, 0.5, 1.0)[severity]
    return case.at_serving(lambda rows, seed: plant_shuffled_field(rows, "item", share=share, seed=seed))


def default_value(case: Case, severity: int) -> Case:
    """At serving the item of 10, 30 or 50% of the rows is one and the same."""
    share = (0.1, 0.3, 0.5)[severity]
    return case.at_serving(lambda rows, seed: plant_default_value(rows, "item", 3, share=share, seed=seed))


def missing_age(case: Case, severity: int) -> Case:
    """At serving 8, 30 or 60% of the ages are missing."""
    share = (0.08, 0.3, 0.6)[severity]
    return case.at_serving(lambda rows, seed: plant_missing(rows, "age", share=share, seed=seed))


def new_items(case: Case, severity: int) -> Case:
    """At serving 3, 15 or 40% of the rows show items that training never saw."""
    share = (0.03, 0.15, 0.4)[severity]

    def renew(rows: Batch, seed: int) -> Batch:
        rng = np.random.default_rng(seed)
        hit = rng.random(rows.rows) < share
        return rows.with_columns({"item": np.where(hit, 100_000 + rng.integers(0, 50, rows.rows), rows.numbers("item")).astype(np.int64)})

    return case.at_serving(renew)


def dead_layer(case: Case, severity: int) -> Case:
    """The biases of all units of a layer, of 95% of them, or of all layers so low that a rectifier never fires; smooth units are shut likewise."""
    share, layers = ((0.95, 1), (1.0, 1), (1.0, 9))[severity]

    def kill(model: Any) -> None:
        import torch

        hidden = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][:-1]
        with torch.no_grad():
            for linear in hidden[::-1][:layers]:
                linear.bias[: round(share * len(linear.bias))] = -1000.0

    return replace(case, spoil=kill)


def learning_rate(case: Case, severity: int) -> Case:
    """Every learning rate 30, 100 or 300 times as high."""
    factor = (30, 100, 300)[severity]
    return case.with_settings(learning_rate=case.config.learning_rate * factor, table_learning_rate=case.config.table_learning_rate * factor)


def collapsed_table(case: Case, severity: int) -> Case:
    """All embedding tables of rank half the width, 2 or 1."""

    def flatten(model: Any) -> None:
        import torch

        with torch.no_grad():
            for table in _tables(model):
                width = table.shape[1]
                rank = (width // 2, 2, 1)[severity]
                left, sizes, right = torch.linalg.svd(table, full_matrices=False)
                sizes[rank:] = 0
                table.copy_(left @ torch.diag(sizes) @ right)

    return replace(case, spoil=flatten)


def many_epochs(case: Case, severity: int) -> Case:
    """4, 8 or 16 epochs at three times the rate of the tables, and the last one is kept."""
    epochs = (4, 8, 16)[severity]
    return replace(case.with_settings(maximum_epochs=epochs, patience_epochs=99, table_learning_rate=3 * case.config.table_learning_rate), keep_last=True)


def noise_field(case: Case, severity: int) -> Case:
    """A field of noise whose values occur 20, 5 or 2 times each in training, learned for two epochs at three times the rate of the tables."""
    categories = round(case.train.rows / (20, 5, 2)[severity])
    planted = case.everywhere(lambda rows, seed: plant_noise_field(rows, categories=categories, seed=seed)).with_field(Field(name="noise"))
    return replace(planted.with_settings(table_learning_rate=3 * case.config.table_learning_rate, patience_epochs=99), keep_last=True)


def sampled_negatives(case: Case, severity: int) -> Case:
    """70, 30 or 10% of the negatives kept in training, no correction."""
    share = (0.7, 0.3, 0.1)[severity]

    def sample(rows: Batch, seed: int) -> Batch:
        keep = (rows.numbers(LABEL) == 1) | (np.random.default_rng(seed).random(rows.rows) < share)
        return rows.take(np.flatnonzero(keep))

    return case.in_training(sample)


def prior_shift(case: Case, severity: int) -> Case:
    """At serving 80, 50 or 25% of the positives are left."""
    share = (0.8, 0.5, 0.25)[severity]
    return case.at_serving(lambda rows, seed: plant_prior_shift(rows, LABEL, factor=share, seed=seed))


def rate_change(case: Case, severity: int) -> Case:
    """From the middle of the held-out rows on, the rate of positives is 0.75, 0.5 or 0.25 of what it was."""
    factor = (0.75, 0.5, 0.25)[severity]
    return case.at_serving(lambda rows, seed: plant_rate_change(rows, LABEL, after=0.5, factor=factor, seed=seed))


def late_labels(case: Case, severity: int) -> Case:
    """Positives come 0.05, 0.15 or 0.4 of the held-out time late on average."""
    times = case.test.numbers("time")
    delay = (0.05, 0.15, 0.4)[severity] * float(times.max() - times.min())
    return case.at_serving(lambda rows, seed: plant_late_labels(rows, LABEL, delay=delay, seed=seed))


def broken_segment(case: Case, severity: int) -> Case:
    """At serving, 30, 60 or 100% of the outcomes of one segment's users are another row's."""
    share = (0.3, 0.6, 1.0)[severity]

    def spoil(rows: Batch, seed: int) -> Batch:
        segment = rows.categories("segment")
        mine = np.flatnonzero(segment.codes == int(np.flatnonzero(segment.values == "trial")[0]))
        broken = plant_shuffled_field(rows.take(mine), LABEL, share=share, seed=seed)
        return _with_rows(rows, mine, broken, order=True)

    return case.at_serving(spoil)


def random_labels(case: Case, severity: int) -> Case:
    """60, 90 or 100% of all labels dealt to other rows."""
    share = (0.6, 0.9, 1.0)[severity]
    if share == 1:
        return case.everywhere(lambda rows, seed: plant_random_labels(rows, LABEL, seed=seed))
    return case.everywhere(lambda rows, seed: plant_shuffled_field(rows, LABEL, share=share, seed=seed))


def unequal_arms(case: Case, severity: int) -> Case:
    """Users drawn into two arms of 47/53, 44/56 or 40/60 instead of halves."""
    share = (0.47, 0.44, 0.4)[severity]

    def draw(rows: Batch, seed: int) -> Batch:
        del seed  # a user's arm is the same in every part
        users = rows.numbers("user").astype(np.int64)
        arms = np.random.default_rng(case.seed).random(int(users.max()) + 1_000_000)[users] < share
        return rows.with_columns({"arm": Categorical(arms.astype(np.int64), np.array(["B", "A"], dtype=object))})

    planted = case.everywhere(draw)
    return replace(planted, schema=planted.schema.with_roles(arm="arm"))


# ---------------------------------------------------------------------- benign


def few_missing(case: Case) -> Case:
    """2% of the ages missing everywhere."""
    return case.everywhere(lambda rows, seed: plant_missing(rows, "age", share=0.02, seed=seed))


def harmless_field(case: Case) -> Case:
    """A field of five values that says nothing."""
    return case.everywhere(lambda rows, seed: plant_noise_field(rows, column="colour", categories=5, seed=seed)).with_field(Field(name="colour"))


def new_cohort(case: Case) -> Case:
    """A tenth of the held-out users gone: other traffic, same people."""
    return case.at_serving(lambda rows, seed: rows.take(np.flatnonzero((rows.numbers("user").astype(np.int64) * 7 + seed) % 10 != 0)))


# ---------------------------------------------------------------------- details


def _rate_ahead(rows: Batch, width: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """For each row, the mean label of this and the user's following rows, up to `width` of them. Rows are in order of time."""
    users, label = rows.numbers("user"), rows.numbers(LABEL)
    order = np.argsort(users, kind="stable")
    total = np.concatenate([[0.0], np.cumsum(label[order])])
    ends = np.searchsorted(users[order], users[order], side="right")
    last = np.minimum(np.arange(rows.rows) + width, ends)
    rate = np.empty(rows.rows)
    rate[order] = (total[last] - total[:-1]) / (last - np.arange(rows.rows))
    return rate


def _with_rows(rows: Batch, places: np.ndarray[Any, Any], others: Batch, *, order: bool = False) -> Batch:
    """The rows with those at `places` replaced by others; in the old order where `order`, else the others last."""
    kept = np.setdiff1d(np.arange(rows.rows), places)
    mixed = concatenate([rows.take(kept), others])
    if not order:
        return mixed
    back = np.empty(rows.rows, dtype=np.int64)
    back[np.concatenate([kept, places])] = np.arange(rows.rows)
    return mixed.take(back)


def _tables(model: Any) -> list[Any]:
    """Weights of embedding tables wider than one."""
    return [parameter.data for name, parameter in model.named_parameters() if "table" in name and parameter.ndim == 2 and parameter.shape[1] > 3]
