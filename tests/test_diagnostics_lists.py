"""Diagnostics of logs of lists find their planted fault and are silent on the healthy twin."""

import numpy as np
import pytest

from judging import diagnose, is_quiet
from recspect.diagnosis.diagnostics.recommendations.position_bias import PositionBias, _examination
from recspect.diagnosis.finding import Verdict
from recspect.schema import Field
from recspect.worlds import World, plant_position_bias


def shown(seed, steepness, *, by_quality=False):
    """A log of 100 items at 10 places; with `by_quality` a ranker puts good items first, as well as it can."""
    world = World(users=400, items=100, rows=10_000, seed=seed)
    log = world.exposures()
    item = log["item"]
    quality = np.bincount(item, log["truth"], 100) / np.maximum(np.bincount(item, minlength=100), 1)
    batch = plant_position_bias(log.with_columns({"quality": quality[item]}), "click", steepness=steepness, by="quality" if by_quality else None, seed=seed)
    return batch, world.schema.with_roles(position="position")


# ---------------------------------------------------------------------- position_bias


@pytest.mark.parametrize("by_quality", [False, True])
def test_a_steep_curve_is_found_and_measured(by_quality):
    inside = 0
    for seed in range(6):
        batch, schema = shown(seed, 1.0, by_quality=by_quality)
        (finding,) = diagnose(PositionBias(), schema, batch)
        assert finding.verdict is Verdict.FAIL
        inside += finding.estimate.low < np.mean(1 / np.arange(2, 11)) < finding.estimate.high
    assert inside >= 4


@pytest.mark.parametrize("by_quality", [False, True])
def test_labels_that_do_not_depend_on_the_place_are_quiet(by_quality):
    for seed in range(8):
        batch, schema = shown(seed, 0.0, by_quality=by_quality)
        assert is_quiet(diagnose(PositionBias(), schema, batch))


def test_items_are_matched_in_closed_form():
    """Item 0 has appeal 0.4 and is mostly first, item 1 has 0.1 and is mostly second; the second place is seen half as often."""
    rows = np.array([[900.0, 100.0], [100.0, 900.0]])
    clicks = rows * np.array([[0.4], [0.1]]) * np.array([1.0, 0.5])
    theta = _examination(np.stack([rows, clicks], axis=2))
    np.testing.assert_allclose(theta, [1, 0.5], rtol=1e-5)
    assert clicks.sum(0)[1] / clicks.sum(0)[0] < 0.2  # what comparing all rows would say


def test_propensities_take_personal_places_away():
    """Users who like an item get it first: matched by item the curve is too steep, weighed by propensity it is right."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 500, 40_000), rng.integers(0, 20, 40_000)
    likes = (user + item) % 2 == 0
    p_first = np.where(likes, 0.8, 0.2)
    first = rng.random(40_000) < p_first
    table = {"user": user, "item": item, "place": np.where(first, 1, 2), "p": np.where(first, p_first, 1 - p_first),
             "click": (rng.random(40_000) < np.where(likes, 0.3, 0.1) * np.where(first, 1, 0.8)).astype(int)}
    schema = World().schema.without_fields(["surface", "age"]).with_roles(position="place", time=None)
    (naive,) = diagnose(PositionBias(), schema, table)
    (weighed,) = diagnose(PositionBias(), schema.with_roles(propensity="p"), table)
    assert naive.estimate.high < 0.65
    assert weighed.estimate.low < 0.8 < weighed.estimate.high


@pytest.mark.parametrize(("reliance", "fixed", "verdict"), [(0.5, False, Verdict.WARN), (0.0, False, Verdict.PASS), (0.5, True, Verdict.PASS)])
def test_scores_that_rest_on_the_logged_place_are_told(reliance, fixed, verdict):
    batch, schema = shown(0, 1.0)
    schema = type(schema)(fields=(Field(name="item"), Field(name="position")), labels=schema.labels, user="user", item="item", position="position")
    rng = np.random.default_rng(0)
    held_out = {**dict(batch), "@reliance:position": reliance * rng.random(batch.rows), "@reliance:item": rng.random(batch.rows)}
    if fixed:
        held_out["position"] = np.ones(batch.rows)
    log, model = diagnose(PositionBias(), schema, held_out, dict(batch))
    assert (log.verdict, model.verdict) == (Verdict.PASS, verdict)  # the model was told the place, so the log is no fault
    assert "and the model knows the place" in log.claim
    _, unknown = diagnose(PositionBias(), schema, dict(batch))
    assert unknown.verdict is Verdict.UNKNOWN
    assert "was not measured" in unknown.claim


def test_places_that_cannot_be_compared_are_unknown():
    batch, schema = shown(0, 1.0)
    (finding,) = diagnose(PositionBias(), World().schema, batch)
    assert (finding.verdict, "'position'" in finding.claim) == (Verdict.UNKNOWN, True)
    apart = batch.with_columns({"item": 1000 * batch["position"] + batch["item"]})  # every item has one place
    (finding,) = diagnose(PositionBias(), schema, apart)
    assert "no items were shown" in finding.claim.lower()
