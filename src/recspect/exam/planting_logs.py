"""How faults of labels, of serving and of logs are planted, by severity 0 (barely visible), 1 (typical), 2 (gross)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recspect.diagnosis.batch import Batch, Categorical
from recspect.exam.case import Case
from recspect.exam.planting import with_rows
from recspect.worlds import (
    plant_late_labels,
    plant_position_bias,
    plant_prior_shift,
    plant_random_labels,
    plant_rate_change,
    plant_shuffled_field,
)

PLACES = 10
"""Length of the lists in which rows are placed."""


def sampled_negatives(case: Case, severity: int) -> Case:
    """70, 30 or 10% of the negatives kept in training, no correction."""
    share, label = (0.7, 0.3, 0.1)[severity], case.columns.label

    def sample(rows: Batch, seed: int) -> Batch:
        keep = (rows.numbers(label) == 1) | (np.random.default_rng(seed).random(rows.rows) < share)
        return rows.take(np.flatnonzero(keep))

    return case.in_training(sample)


def prior_shift(case: Case, severity: int) -> Case:
    """At serving 80, 50 or 25% of the positives are left."""
    share = (0.8, 0.5, 0.25)[severity]
    return case.at_serving(lambda rows, seed: plant_prior_shift(rows, case.columns.label, factor=share, seed=seed))


def rate_change(case: Case, severity: int) -> Case:
    """From the middle of the held-out rows on, the rate of positives is 0.75, 0.5 or 0.25 of what it was."""
    factor, time = (0.75, 0.5, 0.25)[severity], str(case.columns.time)
    return case.at_serving(lambda rows, seed: plant_rate_change(rows, case.columns.label, time=time, after=0.5, factor=factor, seed=seed))


def late_labels(case: Case, severity: int) -> Case:
    """Positives come 0.05, 0.15 or 0.4 of the held-out time late on average."""
    time = str(case.columns.time)
    times = case.test.numbers(time)
    delay = (0.05, 0.15, 0.4)[severity] * float(times.max() - times.min())
    return case.at_serving(lambda rows, seed: plant_late_labels(rows, case.columns.label, time=time, delay=delay, seed=seed))


def broken_segment(case: Case, severity: int) -> Case:
    """At serving, 30, 60 or 100% of the outcomes of one group of users are another row's of the group."""
    share, label = (0.3, 0.6, 1.0)[severity], case.columns.label

    def spoil(rows: Batch, seed: int) -> Batch:
        groups = rows.categories(str(case.columns.group))
        mine = np.flatnonzero(groups.codes == int(np.flatnonzero(groups.values == case.columns.member)[0]))
        return with_rows(rows, mine, plant_shuffled_field(rows.take(mine), label, share=share, seed=seed), order=True)

    return case.at_serving(spoil)


def random_labels(case: Case, severity: int) -> Case:
    """60, 90 or 100% of all labels dealt to other rows."""
    share, label = (0.6, 0.9, 1.0)[severity], case.columns.label
    if share == 1:
        return case.everywhere(lambda rows, seed: plant_random_labels(rows, label, seed=seed))
    return case.everywhere(lambda rows, seed: plant_shuffled_field(rows, label, share=share, seed=seed))


def unequal_arms(case: Case, severity: int) -> Case:
    """Users drawn into two arms of 47/53, 44/56 or 40/60 instead of halves."""
    share = (0.47, 0.44, 0.4)[severity]

    def draw(rows: Batch, seed: int) -> Batch:
        del seed  # a user's arm is the same in every part
        users = rows.numbers(str(case.columns.user)).astype(np.int64)
        arms = np.random.default_rng(case.seed).random(int(users.max()) + 1_000_000)[users] < share
        return rows.with_columns({"arm": Categorical(arms.astype(np.int64), np.array(["B", "A"], dtype=object))})

    return case.everywhere(draw).with_roles(arm="arm")


# ---------------------------------------------------------------------- serving and logs


def stale_values(case: Case, severity: int) -> Case:
    """Serving read another row's value of a numeric field in 0.5, 5 or 30% of the rows; recomputed from the events they are right."""
    share = (0.005, 0.05, 0.3)[severity]
    return replace(case, served=plant_shuffled_field(case.test, case.columns.number, share=share, seed=case.seed))


def position_effect(case: Case, severity: int) -> Case:
    """Rows at places 1 to 10 of lists, of whose positives 1 - place^-0.2, -0.6 or -1.2 were never seen; the place is no field."""
    return _placed(case, (0.2, 0.6, 1.2)[severity])


def broken_propensities(case: Case, severity: int) -> Case:
    """The logged probability of each item is 10% too high, clipped from below at the median of the items shown, or twice what it was."""

    def log(rows: Batch, seed: int) -> Batch:
        del seed
        true = rows.numbers(str(case.columns.chance)).astype(np.float64)
        return rows.with_columns({"propensity": (1.1 * true, np.maximum(true, np.median(true)), np.minimum(1.0, 2 * true))[severity]})

    return case.everywhere(log).with_roles(propensity="propensity")


def popularity_loop(case: Case, severity: int) -> Case:
    """Ever less is shown of items beyond the most popular tenth: up to 30, 60 or 90% of their rows are gone at the end."""
    lost, item, time = (0.3, 0.6, 0.9)[severity], str(case.columns.item), str(case.columns.time)
    known = case.train.categories(item)
    names, counts = known.values, np.bincount(known.codes[known.codes >= 0], minlength=len(known.values))
    popular = {names[k] for k in np.argsort(-counts, kind="stable")[: max(1, int((counts > 0).sum()) // 10)]}
    start, end = float(case.train.numbers(time).min()), float(case.test.numbers(time).max())

    def narrow(rows: Batch, seed: int) -> Batch:
        shown = rows.categories(item)
        rare = np.array([name not in popular for name in shown.values])[shown.codes]
        gone = np.random.default_rng(seed).random(rows.rows) < lost * (rows.numbers(time) - start) / (end - start)
        return rows.take(np.flatnonzero(~(rare & gone)))

    return case.everywhere(narrow)


# ---------------------------------------------------------------------- benign


def shown_places(case: Case) -> Case:
    """Rows at places of lists that nobody's eyes depend on."""
    return _placed(case, 0.0)


def true_propensities(case: Case) -> Case:
    """The probabilities with which items were shown, logged as they were."""
    def log(rows: Batch, seed: int) -> Batch:
        del seed
        return rows.with_columns({"propensity": rows.numbers(str(case.columns.chance)).astype(np.float64)})

    return case.everywhere(log).with_roles(propensity="propensity")


def logged_rows(case: Case) -> Case:
    """What was served, logged in half as many bits."""
    number = case.columns.number
    return replace(case, served=case.test.with_columns({number: case.test.numbers(number).astype(np.float32)}))


def _placed(case: Case, steepness: float) -> Case:
    label = case.columns.label
    return case.everywhere(lambda rows, seed: plant_position_bias(rows, label, column="place", places=PLACES, steepness=steepness, seed=seed)).with_roles(position="place")
