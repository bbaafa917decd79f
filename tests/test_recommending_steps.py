"""Re-ranking steps against their definitions, and exploration against the truth it is said to estimate."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recspect.diagnosis.batch import Batch, Categorical
from recspect.errors import UsageError
from recspect.recommending.pipeline.catalogue import Catalogue
from recspect.recommending.pipeline.exploration import EpsilonGreedy, Thompson
from recspect.recommending.pipeline.settings import STEPS, RecommenderSettings, parse
from recspect.recommending.pipeline.slate import Situation, Slate
from recspect.recommending.pipeline.steps_diversity import DPP, MMR, Calibrated, Debiased, divergence, greedy_map
from recspect.recommending.pipeline.steps_rules import AlreadySeen, AtMost, Deduplicate, Exclude, MinimumScore, Pin
from recspect.schema import Field, Label, Schema

SCHEMA = Schema(user="user", item="item", labels=[Label(name="click")],
                fields=[Field(name="user", side="user"), Field(name="item", side="item"), Field(name="title", side="item"),
                        Field(name="genre", kind="multi_valued", separator="|", side="item")])
GENRES = ("Drama", "Comedy|Drama", "Comedy", "Horror", "Drama|Horror", "Horror", "Comedy", "Drama")
TITLES = ("A", "b", " B ", "C", "d", "D", "E", "F")


def column(values):
    known = sorted(set(values))
    return Categorical(np.array([known.index(value) for value in values]), np.array(known, dtype=object))


def items(counts=(8, 7, 6, 5, 4, 3, 2, 1), clicks=None):
    """Eight items; item i has so many rows, the first `clicks[i]` of them positive."""
    item = np.repeat(np.arange(8), counts)
    clicks = counts if clicks is None else clicks
    click = np.concatenate([np.arange(n) < c for n, c in zip(counts, clicks, strict=True)]).astype(int)
    rows = Batch({"user": np.arange(len(item)), "item": item, "title": column(TITLES)[item], "genre": column(GENRES)[item], "click": click})
    return Catalogue.from_rows(rows, SCHEMA)


ITEMS = items()


def situation(k=4, history=(), met=(), seed=(0,), vectors=None, catalogue=ITEMS, probabilities=False):
    return Situation(catalogue, k, np.array(history, dtype=np.int64), np.array(met, dtype=np.int64), seed, vectors, probabilities)


def slate(codes=range(8), scores=None):
    codes = np.array(list(codes), dtype=np.int64)
    scores = np.linspace(1, 0.1, len(codes)) if scores is None else np.asarray(scores, dtype=float)
    return Slate(codes, scores, scores)


# ---------------------------------------------------------------------- rules


def test_already_seen_takes_out_what_was_wanted_or_met():
    where = situation(history=[2, 5], met=[2, 5, 7])
    assert AlreadySeen().apply(slate(), where).items.tolist() == [0, 1, 3, 4, 6, 7]
    assert AlreadySeen(last=1).apply(slate(), where).items.tolist() == [0, 1, 2, 3, 4, 6, 7]
    found = AlreadySeen(what="met").apply(slate(), where)
    assert found.items.tolist() == [0, 1, 3, 4, 6]
    assert [(step, reason, gone.tolist()) for step, reason, gone in found.dropped] == [("already_seen", "the user had it", [2, 5, 7])]


def test_deduplicate_keeps_the_best_of_equal_titles():
    assert Deduplicate(by="title").apply(slate([2, 1, 0, 5, 4]), situation()).items.tolist() == [2, 0, 5]  # "b" is " B ", "d" is "D"


def test_exclude_by_id_and_by_category():
    found = Exclude(items=(0, "7", "none such"), column="genre", values=("Horror",)).apply(slate(), situation())
    assert found.items.tolist() == [1, 2, 6]
    assert [gone.tolist() for _, _, gone in found.dropped] == [[0, 7], [3, 4, 5]]


def test_pin_puts_items_at_their_place_also_where_they_were_no_candidates():
    found = Pin(items=(6, 3), place=2).apply(slate([0, 1, 2, 3]), situation())
    assert found.items.tolist() == [0, 6, 3, 1, 2]
    assert np.isnan(found.scores[1])
    assert Pin(items=(6, 3)).apply(slate([]), situation()).items.tolist() == [6, 3]


def test_at_most_moves_what_is_beyond_behind_or_takes_it_out():
    found = AtMost(column="genre", n=1).apply(slate(), situation(k=3))
    assert found.items.tolist()[:3] == [0, 2, 3]  # Drama, Comedy, Horror
    assert sorted(found.items.tolist()) == list(range(8))
    assert AtMost(column="genre", n=1, strict=True).apply(slate(), situation()).items.tolist() == [0, 2, 3]


def test_minimum_score():
    assert MinimumScore(least=0.5).apply(slate(scores=np.arange(8) / 8), situation()).items.tolist() == [4, 5, 6, 7]


# ---------------------------------------------------------------------- diversity


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_mmr_is_its_definition(seed, balance):
    rng = np.random.default_rng(seed)
    vectors, given_slate = unit(rng.normal(size=(8, 3))), slate(rng.permutation(8), np.sort(rng.normal(size=8))[::-1])
    found = MMR(balance=balance).apply(given_slate, situation(k=5, vectors=vectors))
    r = (given_slate.scores - given_slate.scores.min()) / np.ptp(given_slate.scores)
    chosen = []
    for _ in range(5):
        worth = {}
        for place in range(8):
            if place not in chosen:
                alike = max((float(vectors[given_slate.items[place]].astype(float) @ vectors[given_slate.items[c]].astype(float)) for c in chosen), default=0.0)
                worth[place] = balance * r[place] - (1 - balance) * alike
        best = max(worth.values())
        chosen.append(min(place for place, value in worth.items() if value >= best - 1e-12))
    assert found.items.tolist()[:5] == given_slate.items[chosen].tolist()
    assert found.items.tolist()[5:] == [item for place, item in enumerate(given_slate.items.tolist()) if place not in chosen]


def test_mmr_with_full_balance_changes_nothing_and_without_vectors_says_so():
    vectors = unit(np.random.default_rng(0).normal(size=(8, 3)))
    assert MMR(balance=1.0).apply(slate(), situation(vectors=vectors)).items.tolist() == list(range(8))
    with pytest.raises(UsageError, match="no source has any"):
        MMR().apply(slate(), situation())


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_greedy_map_adds_what_raises_the_determinant_most(seed):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(7, 9))
    kernel = factor @ factor.T
    order, gains = greedy_map(kernel, 5)
    chosen = []
    for place in range(5):
        value = {j: np.linalg.slogdet(kernel[np.ix_([*chosen, j], [*chosen, j])])[1] for j in range(7) if j not in chosen}
        best = max(value, key=value.get)
        assert value[order[place]] == pytest.approx(value[best], abs=1e-8)
        chosen.append(order[place])
        assert sum(gains[: place + 1]) == pytest.approx(value[order[place]], abs=1e-7)


def test_greedy_map_stops_where_nothing_new_is_left():
    vectors = np.eye(2)[[0, 0, 1, 1]]
    assert greedy_map(vectors @ vectors.T, 4)[0] == [0, 2]


def test_dpp_without_strength_avoids_twins():
    vectors = unit(np.array([[1, 0], [1, 0.01], [0, 1], [0, 1.01], [1, 0], [1, 0], [1, 0], [1, 0]], dtype=float))
    assert set(DPP(strength=0).apply(slate(), situation(k=2, vectors=vectors)).items[:2].tolist()) in ({0, 2}, {0, 3})
    assert DPP(strength=100).apply(slate(), situation(k=2, vectors=unit(np.random.default_rng(0).normal(size=(8, 5))))).items[0] == 0


def test_calibration_brings_the_list_to_the_profile():
    history = [0, 0, 0, 2, 2, 2]  # half Drama, half Comedy
    where = situation(k=4, history=history)
    shares = ITEMS.category_shares.astype(float)
    p = shares[history].mean(axis=0)
    before = slate([3, 5, 4, 0, 7, 2, 6, 1])
    after = Calibrated(weight=0.95).apply(before, where)
    every = np.array([divergence(p, shares[list(four)].mean(axis=0)) for four in combinations(range(8), 4)])
    assert np.mean(every < divergence(p, shares[after.items[:4]].mean(axis=0)) - 1e-9) < 0.05  # greedy: nearly the nearest of all 70 lists
    assert divergence(p, shares[before.items[:4]].mean(axis=0)) > np.median(every)
    assert Calibrated(weight=0.0).apply(before, where).items.tolist() == before.items.tolist()
    assert Calibrated().apply(before, situation(history=[0])).items.tolist() == before.items.tolist()  # too short a profile


def test_debiased_prefers_the_less_popular_of_equals():
    assert Debiased(strength=0.5).apply(slate(scores=np.ones(8)), situation()).items.tolist() == list(range(7, -1, -1))
    assert Debiased(strength=0.0).apply(slate(), situation()).items.tolist() == list(range(8))


# ---------------------------------------------------------------------- exploration


def shares(step, lists, **given_situation):
    """How often each item stood at each place over many seeds, and the propensities that were told, (items, places) each, and the rows."""
    k = given_situation.get("k", 3)
    shown, told, rows = np.zeros((8, k)), {}, []
    for seed in range(lists):
        found = step.apply(slate(), situation(**{"k": k, **given_situation}, seed=(seed,)))
        for place in range(k):
            item = int(found.items[place])
            shown[item, place] += 1
            told.setdefault((item, place), []).append(float(found.propensity[place]))
            rows.append((seed, item, place, float(found.propensity[place])))
        assert len(set(found.items.tolist())) == 8
    return shown / lists, told, rows


@pytest.mark.parametrize("step", [EpsilonGreedy(epsilon=0.4, reserve=4), EpsilonGreedy(epsilon=0.5, reserve=3, unit="list"),
                                  EpsilonGreedy(epsilon=0.6, reserve=2, first_place=2), EpsilonGreedy(epsilon=0.9, reserve=1)])
def test_propensities_of_epsilon_greedy_are_how_often_it_happens(step):
    lists = 8000
    shown, told, _ = shares(step, lists)
    for (item, place), values in told.items():
        assert len(set(values)) == 1
        p = values[0]
        assert abs(shown[item, place] - p) < 5 * np.sqrt(p * (1 - p) / lists) + 1e-9, (item, place, shown[item, place], p)
    for place in range(3):
        assert sum(values[0] for (_, at), values in told.items() if at == place) == pytest.approx(1)


def test_propensities_of_thompson_are_those_of_its_draws_and_agree_with_how_often_it_happens():
    catalogue = items(counts=(30, 30, 30, 30, 30, 30, 30, 30), clicks=(15, 12, 10, 8, 6, 4, 2, 1))
    step, lists = Thompson(among=6, prior_rows=2.0, draws=400, floor=0.1), 1500
    shown, told, _ = shares(step, lists, catalogue=catalogue)
    for (item, place), values in told.items():
        p = float(np.mean(values))
        assert abs(shown[item, place] - p) < 5 * np.sqrt(p * (1 - p) / lists) + 0.01, (item, place)
        assert min(values) >= 0.1 / 6 - 1e-12


def value_by_propensity(rows, reward, policy):
    """Mean over lists of the sum over places of reward / propensity where the policy's item stands at its place; its standard error."""
    total = {}
    for seed, item, place, propensity in rows:
        total[seed] = total.get(seed, 0.0) + (reward(seed, item, place) / propensity if policy[place] == item else 0.0)
    values = np.array(list(total.values()))
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


@pytest.mark.parametrize(("step", "policy"), [
    (EpsilonGreedy(epsilon=0.5, reserve=4), (4, 1, 6)), (EpsilonGreedy(epsilon=0.5, reserve=4), (0, 1, 2)),
    (EpsilonGreedy(epsilon=0.7, reserve=3, unit="list"), (2, 0, 1)), (EpsilonGreedy(epsilon=0.7, reserve=3, unit="list"), (5, 3, 0)),
    (Thompson(among=6, prior_rows=2.0, draws=200, floor=0.3), (0, 1, 2)), (Thompson(among=6, prior_rows=2.0, draws=200, floor=0.3), (3, 0, 5))])
def test_a_log_with_these_propensities_tells_the_value_of_another_policy(step, policy):
    """Clicks are drawn with a known chance per item and place; the inverse-propensity estimate covers the policy's true value."""
    chance = np.random.default_rng(3).uniform(0.1, 0.9, size=(8, 3)) * np.array([1.0, 0.7, 0.5])
    catalogue = items(counts=(30,) * 8, clicks=(15, 12, 10, 8, 6, 4, 2, 1))
    _, _, rows = shares(step, 4000, catalogue=catalogue)
    draws = np.random.default_rng(4).random((4000, 8, 3))
    truth = sum(chance[item, place] for place, item in enumerate(policy))
    estimate, error = value_by_propensity(rows, lambda seed, item, place: float(draws[seed, item, place] < chance[item, place]), policy)
    assert abs(estimate - truth) < 4 * error
    assert error < 0.12


def test_the_chance_given_what_stands_above_would_be_biased():
    """Why the marginal chance is logged: with the conditional one the same estimate misses the truth by far."""
    lists, policy = 6000, (2, 0, 1)
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(lists):
        order = rng.permutation(4)[:3]
        rows += [(seed, int(item), place, 1 / (4 - place)) for place, item in enumerate(order)]
    estimate, error = value_by_propensity(rows, lambda *_: 1.0, policy)
    assert abs(estimate - 3.0) > 20 * error
    marginal, error = value_by_propensity([(seed, item, place, 1 / 4) for seed, item, place, _ in rows], lambda *_: 1.0, policy)
    assert abs(marginal - 3.0) < 4 * error


def test_the_same_seed_draws_the_same_list():
    for step in (EpsilonGreedy(epsilon=0.9), Thompson()):
        one, other = (step.apply(slate(), situation(seed=(1, 5))) for _ in range(2))
        assert one.items.tolist() == other.items.tolist()


def test_short_lists_explore_what_there_is():
    for step in (EpsilonGreedy(epsilon=1.0), EpsilonGreedy(epsilon=1.0, unit="list"), Thompson()):
        for n in (0, 1, 2):
            found = step.apply(slate(range(n)), situation(k=4))
            assert sorted(found.items.tolist()) == list(range(n))
            assert len(found.propensity) == n
            assert (found.propensity[~np.isnan(found.propensity)] > 0).all()


# ---------------------------------------------------------------------- settings


def test_steps_are_read_from_a_text():
    found = parse('already_seen, at_most(column="genre", n=2), mmr(balance=0.5)', STEPS, "step")
    assert found == (AlreadySeen(), AtMost(column="genre", n=2), MMR(balance=0.5))
    assert parse("  ", STEPS, "step") == ()


@pytest.mark.parametrize(("text", "message"), [
    ("nothing_such", "no step 'nothing_such'"), ("mmr(0.5)", "cannot be read"), ("mmr(balanced=1)", "no setting 'balanced'"), ("mmr(", "cannot be read"),
    ("at_most", "column"), ("mmr(balance=2)", "expected 0 to 1"), ("__import__('os')", "cannot be read"), ("mmr(balance=open('x'))", "no plain value"),
    ("a" * 5000 + "(", "cannot be read"), ("\0", "cannot be read")])
def test_a_text_that_is_no_step_is_told(text, message):
    with pytest.raises(UsageError, match=message):
        parse(text, STEPS, "step")


def test_a_step_that_draws_comes_last():
    with pytest.raises(UsageError, match="propensities would be wrong"):
        RecommenderSettings(steps=(EpsilonGreedy(), Pin(items=(1,))))
