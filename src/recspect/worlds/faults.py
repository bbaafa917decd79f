"""Faults planted into any batch: each function returns a new batch with one thing wrong, the same for the same seed."""

from __future__ import annotations

import numpy as np

from recspect.diagnosis.batch import Batch, Categorical, concatenate
from recspect.errors import UsageError


def plant_label_copy(batch: Batch, label: str, *, column: str = "leak", agreement: float = 0.95, seed: int = 0) -> Batch:
    """A new 0/1 column that equals the label in a share of rows and its opposite in the others: a target leak."""
    y = batch.numbers(label)
    same = np.random.default_rng(seed).random(batch.rows) < _share(agreement, "agreement")
    return batch.with_columns({column: np.where(same, y, 1 - y).astype(np.int64)})


def plant_noise_field(batch: Batch, *, column: str = "noise", categories: int = 1000, seed: int = 0) -> Batch:
    """A new categorical column that has nothing to do with anything."""
    return batch.with_columns({column: np.random.default_rng(seed).integers(0, categories, batch.rows)})


def plant_row_copies(batch: Batch, source: Batch, *, share: float = 0.05, seed: int = 0) -> Batch:
    """Rows of another batch (test rows in training, say) in place of a share of the rows."""
    rng = np.random.default_rng(seed)
    copies = round(_share(share, "share") * batch.rows)
    kept = np.sort(rng.choice(batch.rows, batch.rows - copies, replace=False))
    return concatenate([batch.take(kept), source.select(list(batch)).take(rng.integers(0, source.rows, copies))])


def plant_duplicates(batch: Batch, *, share: float = 0.1, copies: int = 2, seed: int = 0) -> Batch:
    """A share of the rows appended so many more times."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(batch.rows, round(_share(share, "share") * batch.rows), replace=False)
    return concatenate([batch, *[batch.take(chosen)] * copies])


def plant_default_value(batch: Batch, column: str, value: object, *, share: float = 0.3, seed: int = 0) -> Batch:
    """A share of a column's values replaced by one: a broken join at serving time."""
    hit = np.random.default_rng(seed).random(batch.rows) < _share(share, "share")
    old = batch[column]
    if isinstance(old, np.ndarray) and old.ndim == 1:
        return batch.with_columns({column: np.where(hit, np.asarray(value), old)})
    categories = batch.categories(column)
    values = np.append(categories.values.astype(object), [value])
    return batch.with_columns({column: Categorical(np.where(hit, len(values) - 1, categories.codes), values)})


def plant_shuffled_field(batch: Batch, column: str, *, share: float = 1.0, seed: int = 0) -> Batch:
    """A column's values dealt to other rows, in a share of the rows: marginals stay, the joint breaks."""
    rng = np.random.default_rng(seed)
    hit = np.flatnonzero(rng.random(batch.rows) < _share(share, "share"))
    order = np.arange(batch.rows)
    order[hit] = rng.permutation(hit)
    return batch.with_columns({column: batch[column][order]})


def plant_missing(batch: Batch, column: str, *, share: float = 0.3, seed: int = 0) -> Batch:
    """A share of a column's values missing."""
    hit = np.random.default_rng(seed).random(batch.rows) < _share(share, "share")
    old = batch[column]
    if isinstance(old, np.ndarray) and old.ndim == 1 and old.dtype.kind == "f":
        return batch.with_columns({column: np.where(hit, np.nan, old)})
    categories = batch.categories(column)
    return batch.with_columns({column: Categorical(np.where(hit, -1, categories.codes), categories.values)})


def plant_prior_shift(batch: Batch, label: str, *, factor: float = 0.5, seed: int = 0) -> Batch:
    """Only a share of the positive rows kept: fewer clicks, all else equal."""
    keep = (batch.numbers(label) != 1) | (np.random.default_rng(seed).random(batch.rows) < _share(factor, "factor"))
    return batch.take(np.flatnonzero(keep))


def plant_late_labels(batch: Batch, label: str, *, time: str = "time", delay: float = 43_200.0, seed: int = 0) -> Batch:
    """Positives that come after an exponential delay of this mean, read when the last row came: the newest are still 0."""
    t = batch.numbers(time)
    late = np.random.default_rng(seed).exponential(delay, batch.rows) > np.nanmax(t, initial=0.0) - t
    return batch.with_columns({label: np.where(late, 0, batch.numbers(label)).astype(np.int64)})


def plant_rate_change(batch: Batch, label: str, *, time: str = "time", after: float = 0.6, factor: float = 0.7, seed: int = 0) -> Batch:
    """From a share of the rows on, in order of time, the rate of positives is multiplied: positives are dropped or negatives turned at random."""
    if factor < 0:
        raise UsageError(f"factor is {factor}, expected 0 or more")
    rng, y, t = np.random.default_rng(seed), batch.numbers(label), batch.numbers(time)
    late = t > np.quantile(t, _share(after, "after"))
    rate = float(y[late].mean()) if late.any() else 0.0
    turned = min(1.0, (factor - 1) * rate / max(1 - rate, 1e-12)) if factor > 1 else 1 - factor
    hit = late & (y == (0 if factor > 1 else 1)) & (rng.random(batch.rows) < turned)
    return batch.with_columns({label: np.where(hit, 1 - y, y).astype(np.int64)})


def plant_random_labels(batch: Batch, label: str, *, seed: int = 0) -> Batch:
    """Labels dealt to other rows: nothing is left to learn, the base rate stays."""
    return plant_shuffled_field(batch, label, seed=seed)


def _share(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise UsageError(f"{name} is {value}, expected 0 to 1")
    return value
