"""The honest baselines: against their formulas, brute force and planted worlds."""

import doctest
import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recspect import recommending
from recspect.diagnosis.batch import Batch, Categorical
from recspect.errors import DataError, Unavailable, UsageError
from recspect.recommending.compare import baseline_columns, fit_baselines
from recspect.recommending.ease import EASE, invert
from recspect.recommending.interactions import Interactions
from recspect.recommending.item_knn import ItemKNN
from recspect.recommending.popular import Popular
from recspect.recommending.ranking import top_k
from recspect.schema import Label, Schema

BASELINES = (Popular(), ItemKNN(neighbours=3), ItemKNN(neighbours=4, shrinkage=2.5), EASE(l2=3.0),
             EASE(l2=3.0, precision="float32"))


def random_pairs(seed, users=30, items=17, pairs=160):
    rng = np.random.default_rng(seed)
    return rng.integers(0, users, pairs), rng.integers(0, items, pairs), {"n_users": users, "n_items": items}


def matrix(users, items, *, n_users, n_items):
    dense = np.zeros((n_users, n_items))
    dense[users, items] = 1
    return dense


def block_world(seed=0, users=300, items=60, blocks=6, length=7):
    """Users want the items of one block only; items are also popular to very different degrees."""
    rng = np.random.default_rng(seed)
    block_of_item = np.arange(items) % blocks
    appeal = rng.lognormal(0, 1, items)
    rows = []
    for user in range(users):
        own = np.flatnonzero(block_of_item == user % blocks)
        rows.append(rng.choice(own, length, replace=False, p=appeal[own] / appeal[own].sum()))
    chosen = np.array(rows)
    train = np.repeat(np.arange(users), length - 1), chosen[:, :-1].reshape(-1)
    return train, chosen[:, -1], {"n_users": users, "n_items": items}


# ------------------------------------------------------------------ formulas


def test_ease_is_the_textbook_formula():
    users, items, sizes = random_pairs(1)
    X = matrix(users, items, **sizes)
    P = np.linalg.inv(X.T @ X + 3.0 * np.eye(17))
    B = np.eye(17) - P @ np.diag(1 / np.diag(P))  # equation 8 of Steck 2019
    np.fill_diagonal(B, 0)
    fitted = EASE(l2=3.0).fit(users, items, **sizes)
    np.testing.assert_allclose(fitted.scores(np.arange(30)), X @ B, rtol=1e-10, atol=1e-12)


def test_ease_weights_are_the_optimum_of_its_own_loss():
    """No other weights of one column do better, as ridge regression on the other items shows."""
    users, items, sizes = random_pairs(2)
    X = matrix(users, items, **sizes)
    fitted = EASE(l2=1.5).fit(users, items, **sizes)
    others = np.arange(17) != 4
    ridge = np.linalg.solve(X[:, others].T @ X[:, others] + 1.5 * np.eye(16), X[:, others].T @ X[:, 4])
    np.testing.assert_allclose(fitted.effects[others, 4], ridge, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 255, 257, 700])
def test_inverse_by_halves_is_the_inverse(size):
    rng = np.random.default_rng(size)
    X = (rng.random((300, size)) < 0.1).astype(float)
    gram = X.T @ X + 5 * np.eye(size)
    expected, condition = np.linalg.inv(gram), np.linalg.cond(gram)
    single = gram.astype(np.float32)
    invert(gram)
    invert(single)
    # what an inverse can be held to: the condition number times the precision
    for found in (gram, single):
        bound = condition * np.finfo(found.dtype).eps * abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("shrinkage", [0.0, 2.5])
def test_item_knn_is_brute_force_cosine(shrinkage):
    users, items, sizes = random_pairs(3)
    X = matrix(users, items, **sizes)
    expected = np.zeros((30, 17))
    for i in range(17):
        alike = []
        for j in range(17):
            scale = np.linalg.norm(X[:, i]) * np.linalg.norm(X[:, j]) + shrinkage
            alike.append(0.0 if i == j or scale == 0 else X[:, i] @ X[:, j] / scale)
        nearest = sorted(range(17), key=lambda j: (-alike[j], j))[:4]
        expected[:, i] = sum(X[:, j] * alike[j] for j in nearest)
    fitted = ItemKNN(neighbours=4, shrinkage=shrinkage).fit(users, items, **sizes)
    np.testing.assert_allclose(fitted.scores(np.arange(30)), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("weighted", [False, True])
def test_item_knn_of_a_catalogue_where_most_items_share_no_user(weighted):
    rng = np.random.default_rng(5)
    users, items = rng.integers(0, 300, 900), (rng.random(900) ** 2 * 400).astype(int)
    weights = rng.integers(1, 4, 900) / 2 if weighted else None
    fitted = ItemKNN(neighbours=7, shrinkage=2.5).fit(users, items, n_users=300, n_items=400, weights=weights)
    assert fitted.interactions.shares_few
    X = fitted.interactions.dense(np.arange(300))
    norms = np.linalg.norm(X, axis=0)
    alike = X.T @ X / (norms[:, None] * norms + 2.5)
    np.fill_diagonal(alike, 0)
    order = np.argsort(-alike, axis=1, kind="stable")[:, :7]  # equal ones: the smaller code
    nearest = np.take_along_axis(alike, order, axis=1)
    np.testing.assert_allclose(fitted.similarities, nearest, rtol=1e-12)
    np.testing.assert_array_equal(fitted.neighbours[nearest > 0], order[nearest > 0])


def test_popular_counts_users_not_repeats():
    fitted = Popular().fit([0, 0, 1, 2], [1, 1, 1, 0], n_users=3, n_items=4)
    np.testing.assert_array_equal(fitted.popularity, [1, 2, 0, 0])
    weighted = Popular().fit([0, 0, 1, 2], [1, 1, 1, 0], n_users=3, n_items=4, weights=[2, 1, 0.5, 0])
    np.testing.assert_array_equal(weighted.popularity, [0, 3.5, 0, 0])


@pytest.mark.parametrize("baseline", BASELINES)
def test_weight_one_is_no_weight(baseline):
    users, items, sizes = random_pairs(4)
    users, items = np.divmod(np.unique(users * 17 + items), 17)
    plain = baseline.fit(users, items, **sizes)
    weighted = baseline.fit(users, items, weights=np.ones(len(users)), **sizes)
    np.testing.assert_array_equal(plain.scores(np.arange(30)), weighted.scores(np.arange(30)))


@given(seed=st.integers(0, 10_000), n_users=st.integers(1, 20), n_items=st.integers(1, 20), pairs=st.integers(0, 80),
       block=st.integers(1, 25))
def test_gram_is_the_dense_product(seed, n_users, n_items, pairs, block):
    rng = np.random.default_rng(seed)
    users, items, weights = rng.integers(0, n_users, pairs), rng.integers(0, n_items, pairs), rng.random(pairs)
    interactions = Interactions.from_pairs(users, items, n_users=n_users, n_items=n_items, weights=weights)
    X = np.zeros((n_users, n_items))
    np.add.at(X, (users, items), weights)
    np.testing.assert_allclose(interactions.dense(np.arange(n_users)), X, rtol=1e-12)
    found = np.concatenate([rows for _, rows in interactions.gram(block=block)])
    np.testing.assert_allclose(found, X.T @ X, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(interactions.transpose().dense(np.arange(n_items)),
                                  interactions.dense(np.arange(n_users)).T)


def test_gram_in_many_expansions(monkeypatch):
    users, items, sizes = random_pairs(5)
    interactions = Interactions.from_pairs(users, items, **sizes)
    whole = np.concatenate([rows for _, rows in interactions.gram(block=100)])
    monkeypatch.setattr("recspect.recommending.interactions._EXPANSION", 7)
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in interactions.gram(block=5)]), whole)


# ------------------------------------------------------------------ lists


@pytest.mark.parametrize("baseline", BASELINES)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 25))
@settings(max_examples=25)
def test_seen_items_are_never_recommended(baseline, seed, k):
    users, items, sizes = random_pairs(seed)
    fitted = baseline.fit(users, items, **sizes)
    wanted = np.random.default_rng(seed).permutation(30)[:12]
    found, scores = fitted.recommend(wanted, k)
    seen = matrix(users, items, **sizes)
    for row, user in enumerate(wanted):
        listed = found[row][found[row] >= 0]
        assert not seen[user, listed].any()
        assert len(set(listed)) == len(listed) == min(k, 17 - int(seen[user].sum()))
        assert np.isnan(scores[row][found[row] < 0]).all()
        kept = scores[row][: len(listed)]
        assert (np.diff(kept) <= 0).all()
        # nothing better was left out
        left = np.setdiff1d(np.flatnonzero(seen[user] == 0), listed)
        assert len(left) == 0 or fitted.scores([user])[0, left].max() <= kept[-1]


@pytest.mark.parametrize("baseline", BASELINES)
@given(seed=st.integers(0, 10_000), block_bytes=st.integers(1, 3000), data=st.data())
@settings(max_examples=25)
def test_block_size_does_not_change_a_bit(baseline, seed, block_bytes, data):
    users, items, sizes = random_pairs(seed)
    fitted = baseline.fit(users, items, **sizes)
    whole = fitted.recommend(np.arange(30), 6)
    parts = fitted.recommend(np.arange(30), 6, block_bytes=block_bytes)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1], parts[1])
    some = np.array(data.draw(st.lists(st.integers(0, 29), min_size=1, max_size=8)))
    np.testing.assert_array_equal(fitted.scores(some), fitted.scores(np.arange(30))[some])


@pytest.mark.parametrize("baseline", BASELINES)
def test_pairs_and_whole_rows_agree(baseline):
    users, items, sizes = random_pairs(6)
    fitted = baseline.fit(users, items, **sizes)
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 30, 200), rng.integers(0, 17, 200)
    tolerance = 1e-5 if getattr(baseline, "precision", "") == "float32" else 1e-12
    np.testing.assert_allclose(fitted.score_pairs(left, right), fitted.scores(np.arange(30))[left, right],
                               rtol=tolerance, atol=tolerance)
    assert fitted.score_pairs([], []).shape == (0,)
    assert fitted.scores([]).shape == (0, 17)
    assert fitted.recommend([], 3)[0].shape == (0, 3)


def test_item_knn_scores_pairs_of_short_profiles_as_lists_are_scored():
    rng = np.random.default_rng(8)
    fitted = ItemKNN(neighbours=50).fit(rng.integers(0, 200, 500), rng.integers(0, 60, 500), n_users=200, n_items=60, weights=rng.random(500))
    assert fitted.profiles_are_short
    left, right = np.repeat(np.arange(200), 60), np.tile(np.arange(60), 200)
    expected = fitted.scores(np.arange(200)).reshape(-1)
    assert (expected > 0).any()
    np.testing.assert_allclose(fitted.score_pairs(left, right), expected, rtol=1e-12, atol=1e-15)
    assert len(fitted.score_pairs([], [])) == 0


def test_item_knn_pairs_in_blocks():
    users, items, sizes = random_pairs(7)
    fitted = ItemKNN(neighbours=5).fit(users, items, **sizes)
    left, right = np.repeat(np.arange(30), 17), np.tile(np.arange(17), 30)
    np.testing.assert_array_equal(fitted.score_pairs(left, right), fitted.score_pairs(left, right, block_bytes=50))


@given(seed=st.integers(0, 10_000), rows=st.integers(0, 5), columns=st.integers(1, 12), k=st.integers(1, 15),
       levels=st.integers(1, 4))
def test_top_k_is_a_stable_sort(seed, rows, columns, k, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (rows, columns)).astype(float)  # few levels: many ties
    eligible = rng.random((rows, columns)) < 0.7
    found, values = top_k(scores, k, eligible)
    for row in range(rows):
        expected = sorted(np.flatnonzero(eligible[row]), key=lambda c: (-scores[row, c], c))[:k]
        assert found[row].tolist() == expected + [-1] * (k - len(expected))
        np.testing.assert_array_equal(values[row][: len(expected)], scores[row, expected])


def test_ties_go_to_the_smaller_code_whatever_the_order_of_the_rows():
    users, items = np.array([0, 1, 2, 3]), np.array([5, 2, 2, 5])
    order = [2, 0, 3, 1]
    for baseline in BASELINES:
        first = baseline.fit(users, items, n_users=5, n_items=8).recommend([4], 8)
        second = baseline.fit(users[order], items[order], n_users=5, n_items=8).recommend([4], 8)
        np.testing.assert_array_equal(first[0], second[0])
    assert Popular().fit(users, items, n_users=5, n_items=8).recommend([4], 4)[0].tolist() == [[2, 5, 0, 1]]


@pytest.mark.parametrize("baseline", [ItemKNN(), EASE(l2=20.0)])
def test_planted_blocks_are_found_where_popularity_is_blind(baseline):
    (users, items), held_out, sizes = block_world()
    everyone = np.arange(sizes["n_users"])

    def hits(model):
        listed, _ = model.fit(users, items, **sizes).recommend(everyone, 4)
        return (listed == held_out[:, None]).any(axis=1).mean()

    # four items of the right block are left to each user, so a reader of the blocks finds all of them
    assert hits(baseline) > 0.95
    assert hits(Popular()) < 0.45


# ------------------------------------------------------------------ mistakes


def test_too_many_items_for_ease_says_what_it_would_take():
    with pytest.raises(UsageError, match=r"30 items would take .* GiB, the limit is 20 items"):
        EASE(max_items=20).fit(np.arange(30), np.arange(30), n_users=30, n_items=1000)
    assert EASE().memory_bytes(20_000) == 1.75 * 8 * 20_000**2
    EASE(max_items=20).fit(np.arange(20), np.arange(20), n_users=30, n_items=1000)  # items without a row cost nothing


@pytest.mark.parametrize(("users", "items", "more", "error"), [
    ([0, 1], [0], {}, "2 users, 1 items"),
    ([0, 5], [0, 0], {}, "users: expected codes from 0 to 2"),
    ([0, 1], [0, -1], {}, "items: expected codes from 0 to 3"),
    ([0.5, 1], [0, 1], {}, "integer codes"),
    (["a", "b"], [0, 1], {}, "integer codes"),
    ([0, 1], [0, 1], {"weights": [1, -1]}, "not negative"),
    ([0, 1], [0, 1], {"weights": [1, np.nan]}, "finite"),
    ([0, 1], [0, 1], {"weights": [1]}, "one weight"),
])
def test_wrong_pairs_are_refused_with_what_was_found(users, items, more, error):
    for baseline in BASELINES:
        with pytest.raises(DataError, match=error):
            baseline.fit(users, items, n_users=3, n_items=4, **more)


def test_wrong_settings_are_refused():
    for make in (lambda: EASE(l2=0), lambda: EASE(l2=float("nan")), lambda: EASE(precision="half"),
                 lambda: EASE(max_items=0), lambda: ItemKNN(neighbours=0), lambda: ItemKNN(shrinkage=-1),
                 lambda: Popular().fit([], [], n_users=0, n_items=1)):
        with pytest.raises(UsageError):
            make()
    fitted = Popular().fit([0], [0], n_users=1, n_items=1)
    with pytest.raises(UsageError, match="k is 0"):
        fitted.recommend([], 0)
    with pytest.raises(DataError, match="users"):
        fitted.recommend([3], 1)


@pytest.mark.parametrize("baseline", BASELINES)
def test_no_interactions_give_no_preference(baseline):
    fitted = baseline.fit([], [], n_users=2, n_items=3)
    np.testing.assert_array_equal(fitted.scores([0, 1]), np.zeros((2, 3)))
    assert fitted.recommend([1], 5)[0].tolist() == [[0, 1, 2, -1, -1]]


# ------------------------------------------------------------------ beside a model's score


def rows_of_world(*, ids=str, seed=0):
    """Block world as a table: one row per wanted item and one per item of another block, not wanted."""
    (users, items), held_out, sizes = block_world(seed)
    rng = np.random.default_rng(seed)

    def table(user, item):
        other = (item + rng.integers(1, 6, len(item))) % sizes["n_items"]
        both, which = np.concatenate([user, user]), np.concatenate([item, other])
        column = (lambda codes: Categorical(codes, np.array([f"id{c}" for c in range(codes.max() + 1)], dtype=object))
                  ) if ids is str else (lambda codes: codes * 3 + 7)
        return Batch({"user": column(both), "item": column(which),
                      "click": np.concatenate([np.ones(len(user)), np.zeros(len(user))])})

    return table(users, items), table(np.arange(sizes["n_users"]), held_out)


SCHEMA = Schema(user="user", item="item", labels=[Label(name="click")])


@pytest.mark.parametrize("ids", [str, int])
def test_columns_beside_the_model(ids):
    from sklearn.metrics import roc_auc_score

    train, test = rows_of_world(ids=ids)
    columns = baseline_columns(train, test, SCHEMA)
    assert list(columns) == ["baseline:popular", "baseline:item_knn", "baseline:ease"]
    auc = {name: roc_auc_score(test.numbers("click"), scores) for name, scores in columns.items()}
    assert auc["baseline:ease"] > 0.95
    assert auc["baseline:item_knn"] > 0.95
    assert auc["baseline:popular"] < 0.8
    # the same rows in another order, stored otherwise, give the same scores
    order = np.random.default_rng(0).permutation(train.rows)
    again = fit_baselines(train.take(order), SCHEMA).columns(test)
    for name, scores in columns.items():
        np.testing.assert_allclose(again[name], scores, rtol=1e-5, atol=1e-6)


def test_popular_column_is_the_smoothed_rate():
    train = Batch({"item": np.array([1, 1, 1, 2]), "click": np.array([1, 1, 0, 0])})
    schema = Schema(item="item", labels=[Label(name="click")])
    fitted = fit_baselines(train, schema)
    np.testing.assert_allclose(fitted.columns(Batch({"item": np.array([2, 1, 9])}))["baseline:popular"],
                               [(0 + 20 * 0.5) / 21, (2 + 20 * 0.5) / 23, 0.5])
    assert set(fitted.absent) == {"item_knn", "ease"}
    assert "user" in fitted.absent["ease"]


def test_unknown_users_get_the_average_user_and_unknown_items_nothing():
    train, _ = rows_of_world(ids=int)
    fitted = fit_baselines(train, SCHEMA)
    item = train["item"][0]
    everyone = np.unique(train["user"])
    asked = Batch({"user": np.append(everyone, [-1, -1]), "item": np.append(np.full(len(everyone), item), [item, -1])})
    for name in ("baseline:item_knn", "baseline:ease"):
        scores = fitted.columns(asked)[name]
        np.testing.assert_allclose(scores[-2], scores[:-2].mean(), rtol=1e-5)
        assert scores[-1] == 0
    missing = Batch({"user": np.array([np.nan]), "item": np.array([np.nan])})
    assert fitted.columns(missing)["baseline:ease"].tolist() == [0.0]


def test_what_cannot_be_had_is_said():
    train, test = rows_of_world()
    with pytest.raises(Unavailable, match="'item'"):
        baseline_columns(train, test, Schema(user="user", labels=[Label(name="click")]))
    with pytest.raises(Unavailable, match="no training rows"):
        baseline_columns(train.take(np.zeros(train.rows, dtype=bool)), test, SCHEMA)
    with pytest.raises(DataError, match="item"):
        baseline_columns(train, test.select(["user"]), SCHEMA)
    fitted = fit_baselines(train, SCHEMA, ease=EASE(max_items=10))
    assert "GiB" in fitted.absent["ease"]
    assert set(fitted.columns(test)) == {"baseline:popular", "baseline:item_knn"}
    nobody = train.with_columns({"click": np.zeros(train.rows)})
    assert fit_baselines(nobody, SCHEMA).absent["ease"] == "no training row is positive"


def test_graded_labels_count_from_their_mean():
    train = Batch({"user": np.array([0, 0, 1, 1]), "item": np.array([0, 1, 0, 1]), "rating": np.array([5.0, 2, 4, 1])})
    schema = Schema(user="user", item="item", labels=[Label(name="rating", kind="graded")])
    fitted = fit_baselines(train, schema)
    assert fitted.ease.interactions.item_weights.tolist() == [2, 0]
    assert fitted.rate == 0.5


# ------------------------------------------------------------------ what is shown runs


def test_the_code_of_the_page_runs(capsys):
    page = Path(__file__).parents[1] / "docs" / "baselines.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(blocks) == 5
    names = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    assert "recall@10, 50 users" in capsys.readouterr().out


@pytest.mark.parametrize("module", [module.name for module in iter_modules(recommending.__path__)])
def test_examples_in_docstrings(module):
    found = doctest.testmod(import_module(f"recspect.recommending.{module}"), extraglobs={"np": np})
    assert found.failed == 0
