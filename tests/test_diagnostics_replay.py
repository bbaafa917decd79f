"""What was logged at serving against what is computed again."""

import numpy as np
import pytest

from judging import diagnose, is_quiet
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.data.replay import Replay
from recspect.diagnosis.finding import Verdict
from recspect.schema import Field, Label, Schema
from recspect.worlds import plant_default_value, plant_shuffled_field

SCHEMA = Schema(fields=(Field(name="city"), Field(name="age", kind="numeric"), Field(name="visits", kind="numeric")), labels=(Label(name="click"),), request="request", score="score")


def served(seed, rows=8000):
    rng = np.random.default_rng(seed)
    logit = rng.normal(-2, 2, rows)
    return Batch({"request": np.arange(rows), "city": rng.integers(0, 50, rows), "age": rng.normal(40, 10, rows).astype(np.float32), "visits": rng.integers(0, 9, rows),
                  "score": (1 / (1 + np.exp(-logit))).astype(np.float32), "click": rng.integers(0, 2, rows)})


def computed_again(batch, seed):
    """The same events in another order, in double precision with the rounding of another order of sums."""
    rng = np.random.default_rng(seed + 1000)
    p = batch.numbers("score")
    logit = np.log(p) - np.log1p(-p) + rng.normal(0, 1e-7, batch.rows)
    again = batch.with_columns({"age": batch.numbers("age") * (1 + rng.normal(0, 1e-7, batch.rows)), "score": 1 / (1 + np.exp(-logit)), "visits": batch.numbers("visits")})
    return again.take(rng.permutation(batch.rows))


def test_rounding_and_order_are_no_mismatch():
    for seed in range(10):
        batch = served(seed)
        assert is_quiet(diagnose(Replay(), SCHEMA, batch, computed_again(batch, seed)))


@pytest.mark.parametrize("share", [0.004, 0.3])
def test_a_stale_table_and_a_default_are_found_and_measured(share):
    for seed in range(4):
        batch = served(seed)
        for broken, field in ((plant_shuffled_field(batch, "city", share=share, seed=seed), "city"), (plant_default_value(batch, "visits", 99, share=share, seed=seed), "visits")):
            fields, scores = diagnose(Replay(), SCHEMA, broken, computed_again(batch, seed))
            truth = float((broken.numbers(field) != batch.numbers(field)).mean())
            assert (fields.verdict, fields.place.name, scores.verdict) == (Verdict.FAIL, field, Verdict.PASS)
            assert fields.estimate.value == pytest.approx(truth)


def test_one_score_of_another_model_is_found():
    batch = served(0)
    p = batch["score"].copy()
    p[7] += 0.01 * p[7] * (1 - p[7])  # 0.01 on the logit
    fields, scores = diagnose(Replay(), SCHEMA, batch.with_columns({"score": p}), computed_again(batch, 0))
    assert (fields.verdict, scores.verdict) == (Verdict.PASS, Verdict.FAIL)
    assert scores.estimate.value == pytest.approx(0.01, rel=0.02)


def test_more_events_than_fit_are_sampled():
    batch = served(0, rows=40_000)
    fields, _ = diagnose(Replay(), SCHEMA, plant_shuffled_field(batch, "city", share=0.05), computed_again(batch, 0))
    assert 16_000 < fields.estimate.n <= 16_384
    assert fields.estimate.low < 0.049 < fields.estimate.high


def test_other_rows_are_no_recomputation():
    batch = served(0)
    other = served(1).with_columns({"request": 100_000 + np.arange(8000)})
    for reference, schema, words in ((other, SCHEMA, "no recomputation"), (None, SCHEMA, "no training rows"), (other, Schema(fields=SCHEMA.fields, labels=SCHEMA.labels), "name an event")):
        (finding,) = diagnose(Replay(), schema, batch, reference)
        assert finding.verdict is Verdict.UNKNOWN
        assert words in finding.claim


def test_events_with_several_rows_are_left_out():
    batch = served(0)
    twice = batch.with_columns({"request": np.where(np.arange(8000) < 4000, np.arange(8000) // 2, np.arange(8000))})
    (fields, _) = diagnose(Replay(), SCHEMA, twice, computed_again(twice, 0))
    assert "several different rows are left out" in fields.claim
    assert fields.verdict is Verdict.PASS
    assert fields.estimate.n < 8000
    (by_city, _) = diagnose(Replay(key=("request", "city", "visits")), SCHEMA, batch, computed_again(batch, 0))
    assert "request, city and visits" in by_city.claim
