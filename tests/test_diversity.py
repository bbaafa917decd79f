"""How unlike lists are: closed forms, and brute force over all pairs of users. Facts M5 and M6 are in test_metric_facts.py."""

import itertools

import numpy as np
import pytest

from recspect.diagnosis.batch import Batch
from recspect.errors import DataError, UsageError
from recspect.recommending.diversity import intra_list_diversity, novelty, personalisation


def lists(*of_users):
    return Batch({"user": np.repeat(np.arange(len(of_users)), [len(items) for items in of_users]), "item": np.concatenate([np.asarray(i, dtype=np.int64) for i in of_users])})


def test_diversity_is_the_mean_over_pairs_of_items():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(8, 3))
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    ids = rng.permutation(100)[:8]
    chosen = [rng.choice(8, 4, replace=False) for _ in range(5)]
    found = intra_list_diversity(lists(*[ids[c] for c in chosen]), Batch({"item": ids}), distance)
    expected = [np.mean([distance[a, b] for a, b in itertools.combinations(c, 2)]) for c in chosen]
    assert found == pytest.approx(expected)
    assert np.isnan(intra_list_diversity(lists([ids[0]]), Batch({"item": ids}), distance)).all()


def test_personalisation_of_equal_lists_and_of_one():
    assert personalisation(lists([1, 2], [2, 1])) == pytest.approx(0)
    assert np.isnan(personalisation(lists([1, 2])))


def test_personalisation_is_the_mean_over_pairs_of_users():
    rng = np.random.default_rng(1)
    chosen = [rng.choice(20, rng.integers(1, 8), replace=False) for _ in range(12)]
    cosines = [len(set(a) & set(b)) / np.sqrt(len(a) * len(b)) for a, b in itertools.combinations(chosen, 2)]
    assert personalisation(lists(*chosen)) == pytest.approx(1 - np.mean(cosines))


def test_novelty_is_in_bits():
    assert novelty(lists([1, 2, 3]), np.array([1.0, 0.5, 0.25])).tolist() == [0, 1, 2]
    assert novelty(lists([1]), np.array([0.0])).tolist() == [np.inf]


def test_wrong_use_is_told():
    with pytest.raises(UsageError, match="shape"):
        intra_list_diversity(lists([1, 2]), Batch({"item": np.array([1, 2])}), np.ones((3, 3)))
    with pytest.raises(DataError, match="not among"):
        intra_list_diversity(lists([1, 9]), Batch({"item": np.array([1, 2])}), np.ones((2, 2)))
    with pytest.raises(UsageError, match="shares"):
        novelty(lists([1, 2]), np.array([0.5, 1.5]))
