"""Protocols of others: their splits, their definitions, and the figures that they lead to on real data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recspect.datasets import load
from recspect.errors import DataError, UsageError
from recspect.recommending.ease import EASE
from recspect.recommending.interactions import Interactions
from recspect.recommending.item_knn import ItemKNN
from recspect.recommending.popular import Popular
from recspect.recommending.protocols import (
    CONTEXT,
    GENERAL,
    area_under_curve,
    context,
    general,
    log_loss,
    means,
    random_order,
    ranking_metrics,
    recbole_order,
    split_rows,
    split_within_users,
)

# ------------------------------------------------------------------ splits


def recbole_split(users, order, ratios=(0.8, 0.1, 0.1)):
    """RecBole 1.2.1, Dataset.split_by_ratio and _calcu_split_ids, written out."""
    rows = {}
    for row in order:
        rows.setdefault(users[row], []).append(row)
    parts = [[], [], []]
    for mine in rows.values():
        counts = [int(ratio * len(mine)) for ratio in ratios]
        counts[0] = len(mine) - sum(counts[1:])
        for i in (1, 2):
            if counts[0] <= 1:
                break
            if 0 < ratios[-i] * len(mine) < 1:
                counts[-i] += 1
                counts[0] -= 1
        ends = np.cumsum(counts)
        for part, first, last in zip(parts, [0, *ends[:-1]], ends, strict=True):
            part.extend(mine[first:last])
    return [sorted(part) for part in parts]


@given(sizes=st.lists(st.integers(0, 45), min_size=1, max_size=12), seed=st.integers(0, 1000))
def test_split_within_users_is_recboles(sizes, seed):
    users = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    order = random_order(len(users), seed=seed)
    split = split_within_users(users, order)
    expected = recbole_split(users, order)
    assert [split.train.tolist(), split.validation.tolist(), split.test.tolist()] == expected


def test_split_of_all_rows():
    split = split_rows(random_order(1000, seed=1))
    assert [len(split.train), len(split.validation), len(split.test)] == [800, 100, 100]
    assert sorted([*split.train, *split.validation, *split.test]) == list(range(1000))
    again, other = split_rows(random_order(1000, seed=1)), split_rows(random_order(1000, seed=2))
    np.testing.assert_array_equal(split.test, again.test)
    assert set(split.test) != set(other.test)
    # every row is as likely to be held out as any other
    held_out = np.bincount(np.concatenate([split_rows(random_order(200, seed=s)).test for s in range(300)]), minlength=200)
    assert abs(((held_out - 30) ** 2).mean() / 27 - 1) < 0.4  # a binomial of 300 draws at 0.1 has variance 27


def test_recbole_order_leaves_the_global_generator_alone():
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    order = recbole_order(50, seed=2020)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(2020)
    np.testing.assert_array_equal(order, torch.randperm(50).numpy())


def test_wrong_splits_are_refused():
    for ratios in ((0.8, 0.2), (1, -1, 0.5), (0, 0, 0), (np.nan, 1, 1)):
        with pytest.raises(UsageError, match="three numbers"):
            split_rows(np.arange(5), ratios=ratios)
    with pytest.raises(UsageError, match="each of the 3 row positions once"):
        split_rows([0, 1, 1])
    with pytest.raises(UsageError, match="row positions"):
        split_within_users([0, 0, 1], [0, 1])
    assert len(split_within_users([], []).train) == 0


# ------------------------------------------------------------------ metrics


@given(seed=st.integers(0, 10_000), k=st.integers(1, 15))
@settings(max_examples=30, deadline=None)
def test_ranking_metrics_agree_with_ir_measures(seed, k):
    import ir_measures
    from ir_measures import RR, P, R, Success, nDCG

    rng = np.random.default_rng(seed)
    recommended = np.array([rng.permutation(20)[:k] for _ in range(6)])
    pairs = rng.integers(0, 6, 25), rng.integers(0, 20, 25)
    positives = Interactions.from_pairs(*pairs, n_users=6, n_items=20)
    found = ranking_metrics(recommended, np.arange(6), positives)
    relevant = [ir_measures.Qrel(str(u), str(i), 1) for u, i in zip(*pairs, strict=True)]
    run = [ir_measures.ScoredDoc(str(u), str(i), -rank) for u in range(6) for rank, i in enumerate(recommended[u])]
    names = {R @ k: "recall", P @ k: "precision", Success @ k: "hit", RR @ k: "mrr", nDCG @ k: "ndcg"}
    judged = set()
    for value in ir_measures.iter_calc(list(names), relevant, run):
        judged.add(int(value.query_id))
        np.testing.assert_allclose(found[names[value.measure]][int(value.query_id)], value.value, rtol=1e-9)
    assert judged == set(np.flatnonzero(positives.lengths))
    assert np.isnan(found["ndcg"][positives.lengths == 0]).all()


def test_the_definitions_on_which_libraries_differ():
    """One positive, third of ten: RecBole, RePlay, Cornac and others say 0.5, LensKit 0.631, RecTools 0.110."""
    positives = Interactions.from_pairs([0], [2], n_users=1, n_items=50)
    found = ranking_metrics(np.arange(10)[None], np.array([0]), positives)
    assert {name: value[0] for name, value in found.items()} == \
        {"recall": 1, "precision": 0.1, "hit": 1, "mrr": pytest.approx(1 / 3), "ndcg": pytest.approx(0.5)}
    # more positives than places: the ideal has k hits, so a full list is perfect
    many = Interactions.from_pairs(np.zeros(30, dtype=int), np.arange(30), n_users=1, n_items=50)
    full = ranking_metrics(np.arange(10)[None], np.array([0]), many)
    assert full["ndcg"][0] == pytest.approx(1)
    assert full["recall"][0] == pytest.approx(1 / 3)
    # places without an item are misses
    short = ranking_metrics(np.array([[2, -1, -1]]), np.array([0]), positives)
    assert short["precision"][0] == pytest.approx(1 / 3)


def test_an_oracle_is_perfect_and_seen_items_are_left_out():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(30), 20)
    items = np.concatenate([rng.permutation(200)[:20] for _ in range(30)])
    order = random_order(600, seed=4)
    wanted = np.zeros((30, 200))
    wanted[users, items] = 1
    figures = general(lambda u, i: lambda who: wanted[who, : items.max() + 1], users, items, order=order)
    # all seen items score as high as the wanted one, so only leaving them out makes this perfect
    for name in ("recall", "hit", "mrr", "ndcg"):
        assert figures[name].value == pytest.approx(1)
    assert figures["recall"].n == 30
    assert str(figures["precision"]).startswith("0.2")
    constant = general(lambda u, i: lambda who: np.zeros((len(who), items.max() + 1)), users, items, order=order)
    assert constant["recall"].value < 0.3


def test_means_have_an_interval_that_covers():
    """95 % intervals of the mean of 60 users cover the truth in about 95 % of 2,000 worlds."""
    rng = np.random.default_rng(0)
    covered = [estimate.low <= 0.5 <= estimate.high
               for estimate in (means({"x": rng.random(60)}, k=10)["x"] for _ in range(2000))]
    assert 0.93 < np.mean(covered) < 0.965
    single = means({"x": np.array([0.5, np.nan])}, k=10)["x"]
    assert (single.value, single.low, single.n) == (0.5, None, 1)
    with pytest.raises(DataError, match="no user"):
        means({"x": np.array([np.nan])}, k=10)
    with pytest.raises(DataError, match="no interactions"):
        general(lambda u, i: lambda who: np.zeros((0, 0)), [], [], order=[])


@given(seed=st.integers(0, 10_000), rows=st.integers(2, 60), levels=st.integers(1, 30))
@settings(deadline=None)
def test_auc_and_log_loss_agree_with_sklearn(seed, rows, levels):
    import sklearn.metrics

    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, 2, rows), [0, 1])
    scores = rng.integers(0, levels, rows + 2) / levels
    assert area_under_curve(labels, scores) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores), abs=1e-12)
    probabilities = np.clip(scores, 1e-6, 1 - 1e-6)
    assert log_loss(labels, probabilities) == pytest.approx(sklearn.metrics.log_loss(labels, probabilities), rel=1e-9)


def test_context_intervals_leave_out_users_not_rows():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    probabilities = np.clip(0.4 * labels + 0.6 * rng.random(400), 0, 1)
    alone = context(labels, probabilities, np.arange(400))
    assert alone["auc"].low < alone["auc"].value < alone["auc"].high
    # the same rows nine times over, as nine rows of the same user: no more is known than before
    repeated = context(np.tile(labels, 9), np.tile(probabilities, 9), np.tile(np.arange(400), 9))
    for name in ("auc", "log_loss"):
        assert repeated[name].value == pytest.approx(alone[name].value)
        assert repeated[name].error == pytest.approx(alone[name].error, rel=1e-3)
    for wrong in (([0, 1], [0.5, 1.5], [1, 2]), ([0, 2], [0.5, 0.5], [1, 2]), ([1, 1], [0.5, 0.5], [1, 2]),
                  ([0, 1], [np.nan, 0.5], [1, 2]), ([0, 1], [0.5, 0.5], [1]), ([0, 1], [0.5], [1, 2])):
        with pytest.raises(DataError):
            context(*wrong)


def test_cards_say_everything_in_which_libraries_differ():
    for card in (GENERAL, CONTEXT):
        text = str(card)
        assert text.count("\n") == 10
        assert "RecBole" in text
    assert "log2" in GENERAL.discount


# ------------------------------------------------------------------ real data


@pytest.fixture(scope="module")
def ratings():
    try:
        dataset = load("movielens-100k")
    except DataError as error:
        pytest.skip(f"MovieLens-100K: {error.message}")
    # the file's own order, because RecBole's split depends on it
    table = np.loadtxt(dataset.location / "ml-100k.inter", skiprows=1)
    users, items = (np.unique(table[:, column], return_inverse=True)[1] for column in (0, 1))
    return users, items


@pytest.mark.data
@pytest.mark.parametrize(("baseline", "expected"), [
    # what RecBole 1.2.1 gave on the very same split; ties in float32 leave ItemKNN's fourth digit open
    (EASE(), {"recall": 0.2805, "mrr": 0.5277, "ndcg": 0.3295, "hit": 0.8197, "precision": 0.2206}),
    (ItemKNN(), {"recall": 0.2470, "mrr": 0.4623, "ndcg": 0.2834, "hit": 0.7847, "precision": 0.1931}),
])
def test_recboles_figures_are_reproduced(ratings, baseline, expected):
    users, items = ratings
    sizes = {"n_users": users.max() + 1, "n_items": items.max() + 1}
    found = general(lambda u, i: baseline.fit(u, i, **sizes).scores, users, items, order=recbole_order(len(users)))
    tolerance = 0.00005 if isinstance(baseline, EASE) else 0.0011  # one hit more or less among 943 users
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=tolerance)


@pytest.mark.data
def test_recboles_popular_counts_batches(ratings):
    """RecBole's Pop adds 1 to an item once per batch however often it occurs there, so its .084 is not popularity."""
    users, items = ratings
    sizes = {"n_users": users.max() + 1, "n_items": items.max() + 1}
    order = recbole_order(len(users))
    honest = general(lambda u, i: Popular().fit(u, i, **sizes).scores, users, items, order=order)
    assert honest["recall"].value == pytest.approx(0.1278, abs=0.00005)

    def per_batch(u, i):
        shuffled = np.random.default_rng(0).permutation(i)
        counts = np.zeros(sizes["n_items"])
        for first in range(0, len(shuffled), 2048):
            counts[np.unique(shuffled[first:first + 2048])] += 1
        return lambda who: np.broadcast_to(counts, (len(who), len(counts)))

    # ties among the items of every batch are broken by chance, so only the direction can be held
    assert general(per_batch, users, items, order=order)["recall"].value < honest["recall"].value
