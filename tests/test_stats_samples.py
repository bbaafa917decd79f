"""Distinct values, duplicates and overlaps: exact when small, unbiased with honest intervals when sampled."""

import numpy as np
import pytest

from recspect.diagnosis.batch import Batch, Categorical, Ragged, concatenate
from recspect.diagnosis.stats.distinct import Distinct, overlap
from recspect.diagnosis.stats.hashes import smallest, wilson
from recspect.diagnosis.stats.sample import BottomK, multiset_overlap_share, overlap_share
from recspect.errors import DataError, UsageError


def distinct(values, k=4096):
    return Distinct(column="c", k=k).summarize(Batch({"c": np.asarray(values)}))


def rows(values, k=65536):
    return BottomK(over=("c",), k=k).summarize(Batch({"c": np.asarray(values)}))


def test_small_columns_are_counted_exactly():
    found = distinct([1.0, 1, 2, np.nan])
    assert (found.distinct, found.count, found.missing, found.exact) == (2, 3, 1, True)
    estimate = found.estimate()
    assert (estimate.value, estimate.low) == (2, None)
    text = Distinct(column="c").summarize(Batch({"c": Categorical(np.array([0, 2, -1, 0]), np.array(["a", "unused", "b"], dtype=object))}))
    assert (text.distinct, text.missing) == (2, 1)
    lists = Distinct(column="c").summarize(Batch({"c": Ragged(np.array([1, 2, 1]), np.array([0, 2, 2, 3]))}))
    assert (lists.distinct, lists.count, lists.missing) == (2, 3, 1)
    times = distinct(np.array(["2024-01-01", "NaT", "2024-01-01"], dtype="M8[us]"))
    assert (times.distinct, times.missing) == (1, 1)
    with pytest.raises(DataError, match="vectors of width 2"):
        distinct(np.zeros((3, 2)))


def test_values_count_once_whatever_their_type():
    assert (distinct([1, 2]) + distinct([1.0, 3.0])).distinct == 3
    assert (distinct(["a"]) + distinct(np.array(["a", "b"], dtype=object))).distinct == 2


@pytest.mark.parametrize("true", [3000, 50_000, 400_000])
def test_the_interval_of_distinct_values_covers_the_truth(true):
    covered = 0
    for seed in range(40):
        found = distinct(np.arange(true) + seed * 10**7, k=512)
        estimate = found.estimate()
        covered += estimate.low <= true <= estimate.high
        assert estimate.value == pytest.approx(true, rel=.25)
    assert covered >= 34  # 95% of 40 is 38; fewer than 34 has probability 1e-2 at 95%, 1e-9 at 60%


def test_overlap_of_values():
    found = overlap(distinct([1, 2, 3, 4]), distinct([3, 4, 5]))
    assert (found.value, found.low, found.n) == (.5, None, 4)
    assert overlap(distinct([]), distinct([1])) is None
    assert overlap(distinct([1]), distinct([])).value == 0
    covered = 0
    for seed in range(60):
        start = seed * 10**7
        sampled = overlap(distinct(start + np.arange(30_000), k=512), distinct(start + np.arange(24_000, 90_000), k=512))
        covered += sampled.low <= .2 <= sampled.high
    assert covered >= 52


def test_duplicates_within_a_table():
    assert rows([1, 1, 1, 2]).duplicate_share().value == .5
    assert rows([1, 2, 3]).duplicate_share().value == 0
    assert rows([]).duplicate_share() is None
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(60):
        values = np.concatenate([np.arange(20_000), rng.integers(0, 20_000, 4000)]) + seed * 10**7
        found = rows(values, k=1000).duplicate_share()
        covered.append(found.low <= 4000 / 24_000 <= found.high)
    assert np.mean(covered) >= .87


def test_rows_are_equal_over_all_columns():
    batch = Batch({"u": np.array([1, 1, 1]), "i": np.array([5, 5, 6]), "t": np.array(["a", "a", "a"])})
    assert BottomK(over=("u", "i", "t")).summarize(batch).duplicate_share().value == pytest.approx(1 / 3)
    assert BottomK(over=("u", "t")).summarize(batch).duplicate_share().value == pytest.approx(2 / 3)


def test_rows_duplicated_across_a_split_are_found_exactly():
    found = overlap_share(rows([1, 1, 2, 9]), rows([1, 2, 3, 3]))
    assert (found.value, found.low) == (.75, None)
    assert multiset_overlap_share(rows([1, 1, 2, 9]), rows([1, 2, 3, 3])).value == .5
    same = rows([1, 1, 2])
    assert multiset_overlap_share(same, same).value == 1
    assert overlap_share(rows([]), same) is None
    assert overlap_share(same, rows([])).value == 0


@pytest.mark.parametrize("share", [0.0, 0.002, 0.3])
def test_the_interval_of_an_overlap_covers_the_truth(share):
    rng = np.random.default_rng(1)
    covered, values = [], []
    for seed in range(80):
        train = seed * 10**8 + rng.integers(0, 60_000, 80_000)
        new = seed * 10**8 + 10**7 + rng.integers(0, 30_000, 40_000)
        test = np.where(rng.random(40_000) < share, rng.choice(train, 40_000), new)
        found = overlap_share(rows(test, k=2000), rows(train, k=2000))
        truth = np.isin(test, train).mean()
        covered.append(found.low - 1e-12 <= truth <= found.high)
        values.append(found.value - truth)
    assert np.mean(covered) >= .87
    assert abs(np.mean(values)) < .004
    if share == 0:
        assert found.low == 0
        assert 0 < found.high < .01


def test_smallest_is_the_same_by_the_short_way():
    rng = np.random.default_rng(2)
    for hashes in (rng.integers(0, 2**63, 5000).astype(np.uint64), rng.integers(0, 30, 5000).astype(np.uint64)):
        distinct_hashes, counts = np.unique(hashes, return_counts=True)
        for k in (3, 20, 200, 10_000):
            found, weight = smallest(hashes, np.ones(5000), k)
            np.testing.assert_array_equal(found, distinct_hashes[:k])
            np.testing.assert_array_equal(weight, counts[:k])


def test_wilson_intervals():
    from scipy.stats import binomtest

    for hits, size in ((0, 10), (3, 10), (10, 10), (499, 1000)):
        want = binomtest(hits, size).proportion_ci(method="wilson")
        assert wilson(hits / size, size, .95) == (pytest.approx(want.low, abs=1e-12), pytest.approx(want.high, abs=1e-12))


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="k = 2"):
        BottomK(over=("c",), k=2)
    with pytest.raises(UsageError, match="at least one column"):
        BottomK(over=())
    with pytest.raises(UsageError, match="k is 5"):
        Distinct(column="c", k=5)


def test_a_sample_does_not_depend_on_how_rows_were_cut():
    batch = Batch({"c": np.random.default_rng(3).integers(0, 5000, 20_000)})
    stat = BottomK(over=("c",), k=100)
    parts = [batch.take(np.arange(start, min(start + 777, 20_000))) for start in range(0, 20_000, 777)]
    total = stat.zero()
    for part in reversed(parts):
        total = total + stat.summarize(part)
    whole = stat.summarize(concatenate(parts))
    np.testing.assert_array_equal(total.hashes, whole.hashes)
    np.testing.assert_array_equal(total.counts, whole.counts)
