"""List diagnostics find popularity-driven lists and are silent on personal ones."""

import numpy as np
import pytest

from judging import ask
from recspect.diagnosis.batch import Batch, Categorical
from recspect.diagnosis.diagnostics.recommendations.coverage import Coverage
from recspect.diagnosis.diagnostics.recommendations.exposure import effective_items, gini
from recspect.diagnosis.diagnostics.recommendations.popularity_bias import PopularityBias
from recspect.diagnosis.finding import Verdict
from recspect.recommending.lists import list_table, make_lists
from recspect.worlds import World

SEEDS = range(3)
GROUPS = np.array(["head", "mid", "tail"], dtype=object)


def listed(seed, ranker, *, k=10):
    """Lists over a world of 300 items by one of three rankers, with the columns that the engine adds."""
    world = World(users=200, items=300, rows=12_000, popularity=0.7, seed=seed)
    train = world.exposures()
    rng = np.random.default_rng(seed)
    count = np.bincount(train["item"], minlength=300)
    noise = rng.gumbel(size=(200, 300))
    # popular: the same for all. alike: items drawn as often as users interact with them. even: any item.
    # favourites: what a click model makes of a whole catalogue, a pool of 22 items for everyone in an order of one's own.
    pool = np.where(np.arange(300) < 22, 10.0 - np.arange(300) / 3, 0.0)
    scores = {"popular": np.tile(count, (200, 1)), "favourites": pool + noise, "alike": np.log(count + 1e-9) + noise, "even": noise}[ranker]
    users, items = Batch({"user": np.arange(200)}), Batch({"item": np.arange(300)})
    schema = world.schema.without_fields(["surface", "age"])
    lists = make_lists(lambda batch: scores[batch["user"], batch["item"]], users, items, schema, k=k)
    wide = list_table(lists, train, schema)
    names = {"popularity_group": "group", "popularity_decile": "decile"}
    return Batch({f"@list:{names.get(name, name)}": wide[name] for name in wide}), train, schema


@pytest.mark.parametrize("seed", SEEDS)
def test_lists_of_the_most_popular_are_found(seed):
    target, train, schema = listed(seed, "popular")
    (finding,) = ask(PopularityBias(), target, train, schema=schema)
    assert finding.verdict in (Verdict.WARN, Verdict.FAIL)
    assert finding.estimate.low > 0.1
    assert "Lists push what is popular" in finding.claim
    (finding,) = ask(Coverage(), target, train, schema=schema)
    assert finding.verdict is Verdict.FAIL
    assert finding.estimate.value == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_few_favourites_for_everyone_are_told_and_no_alarm(seed):
    """Healthy click models that are asked for the best of a whole catalogue have lists as alike as these."""
    target, train, schema = listed(seed, "favourites")
    (coverage,) = ask(Coverage(), target, train, schema=schema)
    assert coverage.verdict is Verdict.PASS
    assert 1.3 < coverage.estimate.value < 2.2
    assert f"({coverage.estimate.value:.2f} (" in coverage.claim
    assert "where places drawn from training rows give" in coverage.claim


@pytest.mark.parametrize("seed", SEEDS)
def test_one_list_for_all_but_a_few_is_an_alarm(seed):
    """One user in a hundred gets other items: the least personal of healthy models do more."""
    target, train, schema = listed(seed, "popular")
    items, users = (np.asarray(target.numbers(f"@list:{name}")).astype(int) for name in ("item", "user"))
    other = np.random.default_rng(seed).permutation(300)[:10]
    target = target.with_columns({"@list:item": np.where(users % 100 == 0, other[np.arange(len(items)) % 10], items)})
    (coverage,) = ask(Coverage(), target, train, schema=schema)
    assert coverage.verdict is not Verdict.PASS
    assert 1.0 < coverage.estimate.value < 1.1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ranker", ["alike", "even"])
def test_lists_that_follow_users_or_chance_pass(seed, ranker):
    target, train, schema = listed(seed, ranker)
    (bias,) = ask(PopularityBias(), target, train, schema=schema)
    assert bias.verdict is Verdict.PASS
    (coverage,) = ask(Coverage(), target, train, schema=schema)
    assert coverage.verdict is Verdict.PASS


@pytest.mark.parametrize(("factor", "verdict"), [(0.8, "PASS"), (1.05, "PASS"), (1.5, "WARN"), (3.0, "FAIL")])
def test_the_lift_is_measured(factor, verdict):
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(300), 10)
    profile = rng.gamma(5, 20, 300)[user]
    batch = Batch({"@list:user": user, "@list:popularity": factor * profile * rng.uniform(0.8, 1.2, 3000), "@list:profile_popularity": profile,
                   "@list:group": Categorical(rng.integers(0, 3, 3000), GROUPS)})
    (finding,) = ask(PopularityBias(), batch)
    assert finding.verdict == verdict
    assert finding.estimate.value == pytest.approx(factor - 1, abs=0.02)
    (bars,) = finding.evidence
    assert sum(bars.values) == pytest.approx(1)


def test_users_without_a_profile_are_left_out():
    user = np.repeat(np.arange(40), 10)
    profile = np.where(user < 20, 10.0, np.nan)
    batch = Batch({"@list:user": user, "@list:popularity": np.where(user < 20, 10.0, 1000.0), "@list:profile_popularity": profile,
                   "@list:group": Categorical(np.zeros(400, dtype=int), GROUPS)})
    (finding,) = ask(PopularityBias(), batch)
    assert (finding.verdict, finding.estimate.value, finding.estimate.n) == (Verdict.PASS, 0.0, 200)


def test_lists_are_unknown_when_none_were_made_or_few():
    for diagnostic in (PopularityBias(), Coverage()):
        (finding,) = ask(diagnostic, Batch({"x": np.zeros(3)}), schema=World().schema)
        assert (finding.verdict, finding.claim) == (Verdict.UNKNOWN, "No recommended lists were made.")
    target, train, schema = listed(0, "even")
    for diagnostic in (PopularityBias(), Coverage()):
        (finding,) = ask(diagnostic, target.take(slice(0, 50)), train, schema=schema)
        assert finding.verdict is Verdict.UNKNOWN


def test_lists_as_long_as_the_catalogue_cannot_be_told_apart():
    target, train, schema = listed(0, "even", k=100)
    (finding,) = ask(Coverage(), target, train, schema=schema)
    assert finding.verdict is Verdict.UNKNOWN
    assert "overlap whatever the model" in finding.claim


def test_gini_and_effective_items_in_closed_form():
    assert gini(np.array([1.0, 1.0, 1.0, 1.0])) == pytest.approx(0)
    assert gini(np.array([0.0, 0.0, 0.0, 8.0])) == pytest.approx(0.75)
    assert effective_items(np.array([5.0, 5.0, 0.0])) == pytest.approx(2)
    assert np.isnan(gini(np.zeros(3)))
    assert np.isnan(effective_items(np.zeros(3)))
