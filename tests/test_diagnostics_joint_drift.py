"""data.joint_drift: fields dealt to other rows, where each field alone looks as before."""

import numpy as np
import pytest

from judging import diagnose, is_quiet, users_apart
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.data.drift import Drift
from recspect.diagnosis.diagnostics.data.joint_drift import JointDrift
from recspect.diagnosis.finding import Verdict
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
