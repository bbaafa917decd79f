"""Ids that share a row of a hashed table."""

import numpy as np
import pytest

from judging import ask, diagnose, is_quiet
from recspect.diagnosis.diagnostics.features.hash_collisions import HashCollisions, _chance
from recspect.diagnosis.finding import Verdict
from recspect.features.transform import FeatureTransform
from recspect.features.vocabulary import FIRST_KNOWN
from recspect.schema import Field, Label, Schema
from recspect.worlds import World


def hashed(seed, buckets, *, signal=1.0):
    """300 items of different click rates, their ids hashed into so many rows; without a signal all rates are alike."""
    world = World(users=400, items=300, rows=30_000, signal=signal, popularity=0.5, seed=seed)
    schema = Schema(fields=(Field(name="item", hash_buckets=buckets),), labels=(Label(name="click"),), user="user", item="item")
    return world.exposures(), schema


@pytest.mark.parametrize(("buckets", "verdict"), [(32, Verdict.FAIL), (150, Verdict.WARN)])
def test_a_table_that_is_too_small_is_found(buckets, verdict):
    for seed in range(4):
        batch, schema = hashed(seed, buckets)
        (finding,) = diagnose(HashCollisions(), schema, batch, batch)
        assert (finding.verdict, finding.place.name) == (verdict, "item")


@pytest.mark.parametrize(("buckets", "signal"), [(30_000, 1.0), (32, 0.0), (300, 0.0)])
def test_large_tables_and_ids_that_behave_alike_are_quiet(buckets, signal):
    for seed in range(4):
        batch, schema = hashed(seed, buckets, signal=signal)
        assert is_quiet(diagnose(HashCollisions(), schema, batch, batch))


def test_ids_are_put_where_the_transform_puts_them():
    """The same finding from the hash and from the table rows of a fitted transform; and the closed forms of a good hash."""
    batch, schema = hashed(0, 64)
    rows = FeatureTransform.fit(schema, batch).transform(batch).inputs["item"].numpy()
    assert rows.min() >= FIRST_KNOWN
    (by_hash,) = diagnose(HashCollisions(), schema, batch, batch)
    (by_row,) = diagnose(HashCollisions(), schema, {"x": np.zeros(1)}, {**dict(batch), "@row:item": rows})
    assert by_row.estimate.value == pytest.approx(by_hash.estimate.value, abs=0.03)  # other groups, the same rows and ids
    found = {row[0]: row[1:] for row in by_hash.evidence[0].rows}
    assert found == {row[0]: row[1:] for row in by_row.evidence[0].rows}
    assert found["table rows read"][1] == pytest.approx(64 * (1 - (1 - 1 / 64) ** 300), abs=0.1)
    assert found["table rows read"][0] == len(np.unique(rows))


def test_the_row_for_rare_ids_is_shared_on_purpose():
    rng = np.random.default_rng(0)
    item = np.concatenate([np.arange(200).repeat(50), rng.integers(200, 1200, 10_000)])
    click = (rng.random(20_000) < np.where(item % 2, 0.6, 0.1)).astype(int)
    schema = Schema(fields=(Field(name="item", minimum_count=40),), labels=(Label(name="click"),))
    table = {"item": item, "click": click, "@row:item": np.where(item < 200, item + 3, 2)}
    (finding,) = diagnose(HashCollisions(), schema, table)
    assert finding.verdict is Verdict.PASS
    assert finding.evidence[0].rows[-1][1] == 1


def test_chance_is_that_of_dealing_positives():
    """Two ids of 4 rows, all 4 positives with one: 2 of the 70 ways to deal them are as far apart."""
    assert _chance(np.array([[4.0, 4.0], [4.0, 0.0]])) == pytest.approx(2 / 70, abs=0.03)
    assert _chance(np.array([[4.0, 2.0], [4.0, 2.0]])) == 1
    assert _chance(np.array([[400.0, 40.0], [400.0, 200.0]])) == 1 / 200


def test_nothing_hashed_is_unknown():
    batch, schema = hashed(0, 32)
    (finding,) = ask(HashCollisions(), dict(batch) | {"@label": batch.numbers("click")}, schema=Schema(fields=(Field(name="item"),), labels=schema.labels))
    assert finding.verdict is Verdict.UNKNOWN
    assert "no field is hashed" in finding.claim.lower()
