"""Diagnostics of logs of lists find their planted fault and are silent on the healthy twin."""

import numpy as np
import pytest

from judging import ask, diagnose, is_quiet
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.recommendations.homogenisation import Homogenisation, _overlap
from recspect.diagnosis.diagnostics.recommendations.miscalibrated_lists import MiscalibratedLists
from recspect.diagnosis.diagnostics.recommendations.position_bias import PositionBias, _examination
from recspect.diagnosis.finding import Verdict
from recspect.recommending.lists import list_table
from recspect.schema import Field, Label, Schema
from recspect.worlds import World, feedback_lists, plant_narrow_lists, plant_position_bias


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


# ---------------------------------------------------------------------- miscalibrated_lists


def tasteful(seed, *, narrow=0.0, dealt=False, profile=30, k=10):
    """200 users with a taste over 8 kinds of 240 items; lists drawn from the taste that the profile was drawn from."""
    rng = np.random.default_rng(seed)
    kind = np.arange(240) % 8
    taste = rng.dirichlet(np.full(8, 0.5), 200)
    kinds = np.array([rng.choice(8, profile + k, p=t) for t in taste])
    item = kinds + 8 * rng.integers(0, 30, kinds.shape)
    schema = Schema(fields=(Field(name="genre", side="item"), Field(name="price", kind="numeric", side="item")), labels=(Label(name="click"),), user="user", item="item")
    user = np.repeat(np.arange(200), profile)
    bought = item[:, :profile].ravel()
    train = Batch({"user": user, "item": bought, "genre": kind[bought], "price": bought * 1.0, "click": np.ones(len(user), dtype=int)})
    lists = Batch({"user": np.repeat(np.arange(200), k), "item": item[:, profile:].ravel(), "rank": np.tile(np.arange(1, k + 1), 200), "score": np.zeros(200 * k)})
    lists = plant_narrow_lists(lists, Batch({"item": np.arange(240), "genre": kind}), "genre", share=narrow, seed=seed)
    if dealt:
        lists = lists.with_columns({"item": lists["item"].reshape(200, k)[rng.permutation(200)].ravel()})
    return list_columns(list_table(lists, train, schema)), schema


def list_columns(table):
    return Batch({f"@list:{name}": table[name] for name in table})


def test_narrow_lists_and_lists_of_others_are_found():
    for seed in range(4):
        for planted, worse in (({"narrow": 0.3}, False), ({"narrow": 1.0}, True), ({"dealt": True}, True)):
            lists, schema = tasteful(seed, **planted)
            (finding,) = ask(MiscalibratedLists(), lists, schema=schema)
            assert (finding.verdict, finding.place.name) == (Verdict.WARN, "genre")
            assert ("worse than one mixture" in finding.claim) == worse


@pytest.mark.parametrize("profile", [10, 30])
def test_lists_drawn_from_the_same_taste_are_quiet(profile):
    for seed in range(6):
        lists, schema = tasteful(seed, profile=profile)
        (finding,) = ask(MiscalibratedLists(), lists, schema=schema)
        assert finding.verdict is Verdict.PASS
        assert abs(finding.estimate.value) < 0.1


def test_stecks_example_in_closed_form():
    """70% romance and 30% action, and ten places of romance."""
    train = Batch({"user": np.zeros(10, dtype=int), "item": np.arange(10), "genre": np.array(["romance"] * 7 + ["action"] * 3, dtype=object)})
    lists = Batch({"user": np.zeros(7, dtype=int), "item": np.arange(7), "rank": np.arange(1, 8), "score": np.zeros(7)})
    table = list_table(lists, train, Schema(user="user", item="item", fields=(Field(name="genre", side="item"),)))
    expected = 0.7 * np.log(0.7 / 0.997) + 0.3 * np.log(0.3 / 0.003)
    np.testing.assert_allclose(table["calibration:genre"], expected)
    assert 0 < table["calibration_by_chance:genre"][0] < expected


def test_several_genres_of_an_item_share_it():
    train = Batch({"user": np.zeros(10, dtype=int), "item": np.arange(10) % 2, "genre": np.array(["a|b", "b"] * 5, dtype=object)})
    lists = Batch({"user": np.zeros(2, dtype=int), "item": np.arange(2), "rank": np.arange(1, 3), "score": np.zeros(2)})
    table = list_table(lists, train, Schema(user="user", item="item", fields=(Field(name="genre", kind="multi_valued", separator="|", side="item"),)))
    np.testing.assert_allclose(table["calibration:genre"], 0, atol=1e-12)


def test_lists_of_items_of_several_genres_are_quiet():
    """Whole items are drawn for what chance gives: single genres would scatter more, and no list could be found narrow."""
    rng = np.random.default_rng(0)
    genres = np.array([f"{g}|{(g + 1) % 8}|{(g + 2) % 8}" for g in range(8)], dtype=object)
    taste = rng.dirichlet(np.full(8, 0.5), 200)
    item = np.array([rng.choice(8, 40, p=t) for t in taste]) + 8 * rng.integers(0, 30, (200, 40))
    train = Batch({"user": np.repeat(np.arange(200), 30), "item": item[:, :30].ravel(), "genre": genres[item[:, :30].ravel() % 8]})
    lists = Batch({"user": np.repeat(np.arange(200), 10), "item": item[:, 30:].ravel(), "rank": np.tile(np.arange(1, 11), 200), "score": np.zeros(2000)})
    schema = Schema(fields=(Field(name="genre", kind="multi_valued", separator="|", side="item"),), user="user", item="item")
    (finding,) = ask(MiscalibratedLists(), list_columns(list_table(lists, train, schema)), schema=schema)
    assert finding.verdict is Verdict.PASS
    assert abs(finding.estimate.value) < 0.1
    dealt = lists.with_columns({"item": item[rng.permutation(200), 30:].ravel()})
    (finding,) = ask(MiscalibratedLists(), list_columns(list_table(dealt, train, schema)), schema=schema)
    assert finding.verdict is Verdict.WARN
    assert "worse than one mixture" in finding.claim


def test_lists_without_a_category_are_unknown():
    lists, schema = tasteful(0)
    without = Batch({name: lists[name] for name in lists if "calibration" not in name})
    for table, diagnostic, words in ((without, MiscalibratedLists(), "2 to 64 categories"), (lists, MiscalibratedLists("colour"), "'colour'"), (Batch({"x": np.zeros(3)}), MiscalibratedLists(), "no recommended lists")):
        (finding,) = ask(diagnostic, table, schema=schema)
        assert finding.verdict is Verdict.UNKNOWN
        assert words in finding.claim.replace("No rec", "no rec")


# ---------------------------------------------------------------------- homogenisation


def generations_of(**settings):
    batch = feedback_lists(**settings)
    return Batch({f"@list:{name}": batch[name] for name in batch})


@pytest.mark.parametrize(("loop", "verdict"), [(1.0, Verdict.WARN), (2.0, Verdict.FAIL)])
def test_a_loop_that_narrows_lists_is_found(loop, verdict):
    for seed in range(4):
        (finding,) = ask(Homogenisation(), generations_of(loop=loop, seed=seed))
        assert finding.verdict is verdict


def test_lists_that_learn_nothing_from_themselves_or_explore_are_quiet():
    for seed in range(6):
        assert is_quiet(ask(Homogenisation(), generations_of(loop=0.0, seed=seed)))
        assert is_quiet(ask(Homogenisation(), generations_of(loop=2.0, exploration=0.2, seed=seed)))


def test_overlap_is_that_of_all_pairs_of_users():
    """Each user in a bucket of their own: the mean share of items of two lists, counted pair by pair."""
    rng = np.random.default_rng(0)
    lists = np.array([rng.choice(40, 10, replace=False) for _ in range(12)])
    cells = np.zeros((1, 12, 40))
    cells[0, np.repeat(np.arange(12), 10), lists.ravel()] = 1
    shared = np.mean([len(set(lists[u]) & set(lists[v])) for u in range(12) for v in range(u)])
    assert _overlap(cells)[0] == pytest.approx(shared / (20 - shared))
    assert _overlap(7 * cells)[0] == pytest.approx(_overlap(cells)[0])  # showing more of the same is no overlap


def test_steady_logs_are_quiet_whatever_the_traffic():
    for seed in range(4):
        world = World(users=300, items=150, rows=20_000, seed=seed)
        log = world.exposures()
        busier = log.take(np.flatnonzero(np.random.default_rng(seed).random(log.rows) < np.linspace(0.2, 1, log.rows)))
        for table in (log, busier):
            assert is_quiet(diagnose(Homogenisation(), world.schema, table))


def test_a_log_that_narrows_in_time_is_found():
    world = World(users=300, items=150, rows=20_000, popularity=0.3, seed=0)
    log = world.exposures()
    narrowed = np.random.default_rng(0).random(log.rows) < np.linspace(0, 0.5, log.rows)
    (finding,) = diagnose(Homogenisation(), world.schema, log.with_columns({"item": np.where(narrowed, log["item"] % 15, log["item"])}))
    assert finding.verdict is Verdict.FAIL
    assert "stretches of time" in finding.claim
    (by_column,) = diagnose(Homogenisation(along="week"), world.schema, log.with_columns({"week": np.arange(log.rows) // 5000}))
    assert by_column.verdict is Verdict.PASS
    assert "4 generations" in by_column.claim


def test_one_generation_tells_nothing():
    for schema, table, words in ((Schema(), {"x": np.zeros(3)}, "'time'"), (World().schema, World(days=0.04).exposures(), "generation or stretch")):
        (finding,) = diagnose(Homogenisation(), schema, table) if "x" not in table else ask(Homogenisation(), table, schema=schema)
        assert finding.verdict is Verdict.UNKNOWN
        assert words in finding.claim
