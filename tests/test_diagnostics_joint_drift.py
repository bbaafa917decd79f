"""data.joint_drift: fields dealt to other rows, where each field alone looks as before."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from judging import diagnose, is_quiet, users_apart
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.data.drift import Drift
from recspect.diagnosis.diagnostics.data.joint_drift import JointDrift, _clustered_auc
from recspect.diagnosis.finding import Verdict
from recspect.schema import Field, Schema
from recspect.worlds import plant_default_value, plant_prior_shift, plant_shuffled_field
from test_diagnostics_data import SCHEMA, split, world


def shuffled(table, column, share=1.0, seed=0):
    batch = plant_shuffled_field(Batch(table), column, share=share, seed=seed)
    return dict(batch)


@pytest.mark.parametrize("rows", [16_000, 2000])
@pytest.mark.parametrize("seed", range(5))
def test_healthy_tables_are_quiet(seed, rows):
    assert is_quiet(diagnose(JointDrift(), SCHEMA, *split(world(seed, rows=rows))))


@pytest.mark.parametrize(("column", "partner"), [("item", "price"), ("price", "item"), ("age", "user")])
@pytest.mark.parametrize("seed", range(3))
def test_a_field_dealt_to_other_rows_is_found_where_psi_is_silent(seed, column, partner):
    target, reference = split(world(seed))
    target = shuffled(target, column, seed=seed)
    (finding,) = diagnose(JointDrift(), SCHEMA, target, reference)
    assert finding.verdict is Verdict.FAIL
    assert column in finding.claim.split(" go together")[0]
    assert partner in finding.claim.split(" go together")[0]
    assert finding.estimate.value > 0.85
    assert is_quiet(diagnose(Drift(), SCHEMA, target, reference))


@pytest.mark.parametrize("seed", range(3))
def test_a_fifth_of_the_rows_is_a_warning(seed):
    target, reference = split(world(seed))
    (finding,) = diagnose(JointDrift(), SCHEMA, shuffled(target, "item", 0.2, seed), reference)
    assert finding.verdict is Verdict.WARN


def test_the_field_that_all_pairs_share_is_named():
    target, reference = split(world(0))
    for side in (target, reference):
        side["brand"] = np.array([f"brand {i % 37}" for i in side["item"]])
    schema = SCHEMA.from_mapping({**SCHEMA.to_mapping(), "fields": [*SCHEMA.to_mapping()["fields"], {"name": "brand", "side": "item"}]})
    (finding,) = diagnose(JointDrift(), schema, shuffled(target, "item"), reference)
    assert finding.place.name == "item"  # price and brand still go together


@pytest.mark.parametrize("seed", range(5))
def test_what_is_a_question_of_one_field_is_left_to_drift(seed):
    """New items, a default value and half of the clicks change a field, not how fields go together."""
    target, reference = split(world(seed))
    fresh = {**target, "item": target["item"] + 10_000, "price": target["price"] * 1.0}
    assert is_quiet(diagnose(JointDrift(), SCHEMA, fresh, reference))
    assert is_quiet(diagnose(JointDrift(), SCHEMA, dict(plant_default_value(Batch(target), "seconds", 0.0, share=0.5)), reference))
    assert is_quiet(diagnose(JointDrift(), SCHEMA, dict(plant_prior_shift(Batch(target), "click", factor=0.5)), reference))


def test_other_users_are_no_joint_drift():
    alarms = 0
    for seed in range(20):
        (finding,) = diagnose(JointDrift(), SCHEMA, *users_apart(seed))
        alarms += finding.verdict is not Verdict.PASS
    assert alarms <= 3  # 1 expected


def test_what_cannot_be_known_is_said():
    target, reference = split(world(0, rows=2000))
    lonely = [{"user": side["user"], "item": side["item"]} for side in (target, reference)]
    for args, words in (((target,), "training rows"), (lonely, "fewer than two"),
                        ([{**side, "user": np.zeros(len(side["user"]), dtype=int)} for side in (target, reference)], "too few users")):
        (finding,) = diagnose(JointDrift(), SCHEMA, *args)
        assert finding.verdict is Verdict.UNKNOWN
        assert words in finding.claim.lower() or words in finding.claim


# ---------------------------------------------------------------------- against scikit-learn and closed forms


def coupled(seed, equal, rows=12_000, values=2, users=1500):
    """Two fields, each uniform alone; they are equal in so many rows (chance alone: 1 / values)."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, values, rows)
    other = (first + rng.integers(1, values, rows)) % values
    second = np.where(rng.random(rows) < equal, first, other)
    names = np.array([f"v{k}" for k in range(values)], dtype=object)
    return {"user": rng.integers(0, users, rows) + seed * users, "first": names[first], "second": names[second]}


PAIR = Schema(user="user", fields=(Field(name="first"), Field(name="second")))


@pytest.mark.parametrize("equal", [0.7, 0.8, 1.0])
def test_the_auc_of_a_pair_is_that_of_the_ratio_of_densities(equal):
    """Equal pairs in half of the training rows and in a share q of the held-out rows: AUC = q / 2 + 1 / 4, which no test can surpass (Neyman and Pearson)."""
    (finding,) = diagnose(JointDrift(), PAIR, coupled(1, equal), coupled(2, 0.5))
    assert finding.estimate.value == pytest.approx(equal / 2 + 0.25, abs=0.012)
    assert finding.estimate.low < equal / 2 + 0.25 < finding.estimate.high


def test_a_classifier_of_scikit_learn_tells_the_sides_apart_as_well():
    """A logistic regression on the crossing of both fields, learned on one half of the users and judged on the other: five values, other strength."""
    sides = coupled(1, 0.45, values=5, rows=16_000), coupled(2, 0.2, values=5, rows=16_000)
    (finding,) = diagnose(JointDrift(), PAIR, *sides)
    crossed = np.concatenate([side["first"] + side["second"] for side in sides]).reshape(-1, 1)
    now, half = np.repeat([1, 0], 16_000), np.concatenate([side["user"] for side in sides]) % 2 == 0
    features = OneHotEncoder().fit_transform(crossed)
    aucs = [roc_auc_score(now[~learn], LogisticRegression().fit(features[learn], now[learn]).decision_function(features[~learn])) for learn in (half, ~half)]
    assert finding.estimate.value == pytest.approx(np.mean(aucs), abs=0.012)
    assert finding.verdict is Verdict.WARN


def test_the_clustered_auc_is_that_of_scikit_learn_and_its_error_that_of_delong():
    rng = np.random.default_rng(0)
    now, before = rng.integers(0, 8, 700), rng.integers(1, 9, 900)
    cell, side = np.concatenate([now, before]), np.repeat([True, False], [700, 900])
    score = rng.permutation(9) / 10.0
    counts = tuple(np.bincount(rows, minlength=9).astype(float) for rows in (now, before))
    auc, error, groups = _clustered_auc(score, counts, cell, side, np.ones(1600), np.arange(1600))
    assert auc == pytest.approx(roc_auc_score(side, score[cell]), abs=1e-12)
    pairs = (score[now][:, None] > score[before]) + 0.5 * (score[now][:, None] == score[before])
    delong = np.sqrt(pairs.mean(1).var() / 700 + pairs.mean(0).var() / 900)  # of rows that are all clusters of their own
    assert error == pytest.approx(delong, rel=2e-3)
    assert groups == 1600
