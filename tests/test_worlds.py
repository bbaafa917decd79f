"""Worlds have the truth that they promise, and each planted fault changes one thing."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from recspect.errors import UsageError
from recspect.worlds import (
    World,
    logit_of,
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
    sigmoid,
    split_by_time,
)


@pytest.fixture(scope="module")
def batch():
    return World(rows=10_000, seed=3).exposures()


@pytest.mark.parametrize("base_rate", [0.02, 0.2, 0.6])
def test_the_truth_is_the_probability_of_a_click(base_rate):
    batch = World(rows=50_000, base_rate=base_rate, seed=1).exposures()
    truth, click = batch.numbers("truth"), batch.numbers("click")
    assert truth.mean() == pytest.approx(base_rate, abs=1e-9)
    edges = np.quantile(truth, np.linspace(0, 1, 11))
    group = np.clip(np.searchsorted(edges, truth, side="right") - 1, 0, 9)
    for g in range(10):
        mine = group == g
        error = np.sqrt((truth[mine] * (1 - truth[mine])).sum()) / mine.sum()
        assert abs(click[mine].mean() - truth[mine].mean()) < 4 * error


def test_settings_decide_everything():
    assert np.array_equal(World(seed=5).exposures().numbers("click"), World(seed=5).exposures().numbers("click"))
    assert not np.array_equal(World(seed=5).exposures().numbers("click"), World(seed=6).exposures().numbers("click"))


def test_no_signal_leaves_only_the_surface():
    batch = World(signal=0.0, rows=2000).exposures()
    assert len(np.unique(np.round(batch.numbers("truth"), 12))) == 3


def test_popularity_is_zipfs_law():
    counts = np.bincount(World(rows=100_000, items=50, popularity=1.0).exposures()["item"], minlength=50)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.1)


def test_the_schema_names_all_columns(batch):
    schema = World().schema
    assert set(batch) == {*schema.columns, "truth"}


def test_a_split_by_time_has_no_overlap(batch):
    train, held_out = split_by_time(batch)
    assert train.rows == 7000
    assert train.rows + held_out.rows == batch.rows
    assert train.numbers("time").max() <= held_out.numbers("time").min()


@pytest.mark.parametrize("agreement", [0.6, 0.95, 1.0])
def test_a_label_copy_agrees_as_often_as_asked(batch, agreement):
    leaky = plant_label_copy(batch, "click", agreement=agreement)
    assert (leaky.numbers("leak") == batch.numbers("click")).mean() == pytest.approx(agreement, abs=0.02)


def test_noise_says_nothing_about_the_label(batch):
    noisy = plant_noise_field(batch, categories=7)
    assert roc_auc_score(batch.numbers("click"), noisy.numbers("noise")) == pytest.approx(0.5, abs=0.03)
    assert len(np.unique(noisy["noise"])) == 7


def test_copies_come_from_the_other_batch(batch):
    train, held_out = split_by_time(batch)
    spoiled = plant_row_copies(train, held_out, share=0.2)
    assert spoiled.rows == train.rows
    assert np.isin(spoiled.numbers("time"), held_out.numbers("time")).sum() == round(0.2 * train.rows)


def test_duplicates_are_added(batch):
    doubled = plant_duplicates(batch, share=0.1, copies=2)
    assert doubled.rows == batch.rows + 2 * round(0.1 * batch.rows)
    assert len(np.unique(doubled.numbers("time"))) == batch.rows


@pytest.mark.parametrize(("column", "value"), [("surface", "unknown"), ("age", 0.0), ("item", 0)])
def test_a_default_value_replaces_its_share(batch, column, value):
    spoiled = plant_default_value(batch, column, value, share=0.3)
    before = (batch.categories(column).decode() == value).mean()
    after = (spoiled.categories(column).decode() == value).mean()
    assert after == pytest.approx(before + 0.3 * (1 - before), abs=0.02)
    assert np.array_equal(spoiled.numbers("click"), batch.numbers("click"))


def test_shuffling_keeps_marginals_and_breaks_the_joint(batch):
    spoiled = plant_shuffled_field(batch, "item")
    assert np.array_equal(np.sort(spoiled["item"]), np.sort(batch["item"]))
    assert (spoiled["item"] == batch["item"]).mean() < 0.2


@pytest.mark.parametrize("column", ["age", "surface", "item"])
def test_missing_values_are_missing(batch, column):
    spoiled = plant_missing(batch, column, share=0.4)
    assert (spoiled.categories(column).codes < 0).mean() == pytest.approx(0.4, abs=0.02)


def test_prior_shift_keeps_the_conditional(batch):
    shifted = plant_prior_shift(batch, "click", factor=0.5)
    rate = batch.numbers("click").mean()
    assert shifted.numbers("click").mean() == pytest.approx(0.5 * rate / (0.5 * rate + 1 - rate), abs=0.01)


def test_random_labels_leave_nothing_to_learn(batch):
    spoiled = plant_random_labels(batch, "click")
    assert spoiled.numbers("click").sum() == batch.numbers("click").sum()
    assert roc_auc_score(spoiled.numbers("click"), batch.numbers("truth")) == pytest.approx(0.5, abs=0.03)


def test_logit_undoes_sigmoid():
    p = np.array([1e-6, 0.2, 0.5, 0.999])
    assert sigmoid(logit_of(p)) == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize("wrong", [{"users": 0}, {"base_rate": 0.0}, {"base_rate": 1.0}])
def test_impossible_worlds_are_refused(wrong):
    with pytest.raises(UsageError):
        World(**wrong)


def test_impossible_shares_are_refused(batch):
    with pytest.raises(UsageError, match="agreement"):
        plant_label_copy(batch, "click", agreement=1.2)


def test_late_labels_are_missing_from_the_newest_rows_only(batch):
    late = plant_late_labels(batch, "click", delay=86_400.0, seed=1)
    gone = batch.numbers("click") - late.numbers("click")
    assert set(np.unique(gone)) == {0, 1}
    age = batch.numbers("time").max() - batch.numbers("time")
    for days in (0.5, 1, 2):
        near = (np.abs(age / 86_400 - days) < 0.4) & (batch.numbers("click") == 1)
        assert gone[near].mean() == pytest.approx(np.exp(-age[near] / 86_400).mean(), abs=0.12)
    assert gone[age > 8 * 86_400].sum() == 0


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_a_rate_changes_after_a_moment(batch, factor):
    changed = plant_rate_change(batch, "click", after=0.6, factor=factor, seed=2)
    late = batch.numbers("time") > np.quantile(batch.numbers("time"), 0.6)
    assert np.array_equal(changed.numbers("click")[~late], batch.numbers("click")[~late])
    assert changed.numbers("click")[late].mean() == pytest.approx(factor * batch.numbers("click")[late].mean(), rel=0.08)
    with pytest.raises(UsageError):
        plant_rate_change(batch, "click", factor=-1)
