"""Categories, crosstabs and quantiles against scipy, closed forms and simulated samples without drift."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from recspect.diagnosis.batch import Batch, Categorical, Ragged
from recspect.diagnosis.chi_square import chi_square_quantile
from recspect.diagnosis.stats.categories import (
    CategoryCounts,
    compare_categories,
    js,
    psi,
    total_variation,
    unseen_share,
)
from recspect.diagnosis.stats.crosstab import Crosstab
from recspect.diagnosis.stats.quantiles import Quantiles, compare_quantiles, kolmogorov_smirnov, wasserstein
from recspect.diagnosis.stats.shares import Shares
from recspect.errors import DataError, Unavailable, UsageError


def counts(values, **settings_):
    return CategoryCounts(column="c", **settings_).summarize(Batch({"c": np.asarray(values)}))


def quantiles(values, k=1024):
    return Quantiles(column="x", k=k).summarize(Batch({"x": np.asarray(values, dtype=float)}))


# ---------------------------------------------------------------------- categories


def test_counts_of_every_kind_of_column():
    assert counts(["b", "a", "b"]).as_dict() == {"a": 1, "b": 2}
    assert counts([3.0, np.nan, 3]).as_dict() == {"": 1, "3": 2}
    assert counts([True, False, True]).as_dict() == {"False": 1, "True": 2}
    assert counts([np.inf, 0.5]).as_dict() == {"0.5": 1, "inf": 1}
    tags = Ragged(Categorical(np.array([0, 1, 0]), np.array(["x", "y"], dtype=object)), np.array([0, 2, 2, 3]))
    found = CategoryCounts(column="c").summarize(Batch({"c": tags}))
    assert found.as_dict() == {"": 1, "x": 2, "y": 1}
    assert (found.distinct, found.missing, found.count) == (2, 1, 4)
    assert found.most_frequent(2) == [("x", 2), ("", 1)]
    assert counts(["a", "b"]).entropy() == pytest.approx(np.log(2))


def test_kept_categories_keep_their_whole_count_in_any_order_of_adding():
    values = np.random.default_rng(0).integers(0, 500, 4000).astype(str)
    whole = counts(values, capacity=50)
    parts = [counts(part, capacity=50) for part in np.array_split(values, 40)]
    forwards, backwards = parts[0], parts[-1]
    for part in parts[1:]:
        forwards = forwards + part
    for part in parts[-2::-1]:
        backwards = part + backwards
    assert whole.as_dict() == forwards.as_dict() == backwards.as_dict()
    assert whole.other == forwards.other == 4000 - whole.counts.sum()
    assert whole.truncated
    for name, count in whole.as_dict().items():
        assert count == (values == name).sum()


def test_distances_have_their_closed_form():
    shares = Shares(names=("a", "b"), target=np.array([30., 70]), reference=np.array([50., 50]))
    p, q = np.array([30.5, 70.5]) / 101, np.array([50.5, 50.5]) / 101
    assert shares.psi == pytest.approx(((p - q) * np.log(p / q)).sum())
    assert shares.js == pytest.approx(scipy_stats.entropy((p + q) / 2, base=2) - (scipy_stats.entropy(p, base=2) + 1) / 2)
    assert shares.total_variation == pytest.approx(.2)
    same = Shares(names=("a", "b"), target=np.array([50., 50]), reference=np.array([500., 500]))
    assert (same.psi, same.js, same.total_variation) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12), 0)
    with pytest.raises(Unavailable, match="the reference has no rows"):
        _ = Shares(names=("a",), target=np.ones(1), reference=np.zeros(1)).psi


def test_chi_square_quantiles():
    for freedom in (1, 2, 5, 9, 20, 200):
        for level in (.95, .999):
            assert chi_square_quantile(level, freedom) == pytest.approx(scipy_stats.chi2.ppf(level, freedom), rel=.015)
    assert chi_square_quantile(.95, 0) == 0


@pytest.mark.parametrize("cardinality", [2, 10, 20, 21, 1000, 100_000])
@pytest.mark.parametrize(("n", "m"), [(4000, 4000), (20_000, 2000)])
def test_two_samples_of_one_distribution_stay_inside_the_band(cardinality, n, m):
    """At any number of categories, also where most categories of one sample are new to the other."""
    rng = np.random.default_rng(cardinality + n)
    weights = 1 / (np.arange(cardinality) + 10.0)
    outside, repeats, ratios = 0, 60, []
    for _ in range(repeats):
        a, b = (rng.choice(cardinality, size, p=weights / weights.sum()) for size in (n, m))
        shares = compare_categories(counts(a), counts(b))
        outside += shares.psi > shares.psi_under_no_drift(.99)
        outside += shares.js > shares.js_under_no_drift(.99)
        ratios.append(shares.psi / shares.psi_under_no_drift(.5))
    assert outside <= 6  # 120 comparisons at 1%: more than 6 have probability 1e-3 or less
    assert 0.7 < np.median(ratios) < 1.4


def test_drift_of_many_kinds_is_seen():
    rng = np.random.default_rng(1)
    before = rng.zipf(1.3, 20_000) % 50_000
    for after in (before + 50_000,  # every category is new
                  np.where(rng.random(20_000) < .2, 3, before),  # one takes over
                  np.where(rng.random(20_000) < .3, 10**6, before),  # a default value appears
                  rng.integers(0, 50_000, 20_000)):  # popularity is gone
        shares = compare_categories(counts(after), counts(before))
        assert shares.psi > max(.1, 5 * shares.psi_under_no_drift())
    swapped = np.array(["m", "f"])[(rng.random(5000) < .4).astype(int)]
    assert psi(counts(np.where(swapped == "m", "f", "m")), counts(swapped)) > .1
    assert js(counts(["a"] * 50), counts(["b"] * 50)) > .9
    assert total_variation(counts(["a"] * 50), counts(["b"] * 50)) == 1


def test_unseen_categories_against_what_chance_gives():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 20_000, 10_000), rng.integers(0, 20_000, 10_000)
    share, expected = unseen_share(counts(a), counts(b))
    assert share == pytest.approx(np.isin(a, b, invert=True).mean())
    assert share == pytest.approx(expected, abs=.02)
    assert unseen_share(counts(["a", "b"]), counts(["a", "a"])) == (.5, 0)


def test_truncated_counts_are_compared_on_what_both_kept():
    rng = np.random.default_rng(3)
    a, b = (counts(rng.integers(0, 3000, 30_000), capacity=300) for _ in range(2))
    narrow = counts(rng.integers(0, 300, 30_000), capacity=300)
    shares = compare_categories(a, b)
    assert "(categories not kept)" in shares.names
    assert shares.psi < shares.psi_under_no_drift(.9999)
    assert compare_categories(narrow, b).psi > .1


# ---------------------------------------------------------------------- crosstab


def crosstab(row, column, **settings_):
    return Crosstab(row="r", column="c", **settings_).summarize(Batch({"r": np.asarray(row), "c": np.asarray(column)}))


def test_chi_square_and_cramers_v_equal_scipy():
    rng = np.random.default_rng(4)
    row, column = rng.integers(0, 5, 500), rng.integers(0, 3, 500)
    column = np.where(rng.random(500) < .3, row % 3, column)
    table = np.zeros((5, 3))
    np.add.at(table, (row, column), 1)
    want = scipy_stats.chi2_contingency(table, correction=False)
    found = crosstab(row, column)
    assert (found.chi_square, found.freedom) == (pytest.approx(want.statistic), want.dof)
    assert found.cramers_v(corrected=False) == pytest.approx(scipy_stats.contingency.association(table.astype(int)))
    assert found.cramers_v() < found.cramers_v(corrected=False)
    np.testing.assert_array_equal(found.counts[:-1, :-1], table)


def test_cramers_v_of_independent_high_cardinality_columns_is_near_0():
    rng = np.random.default_rng(5)
    found = crosstab(rng.integers(0, 400, 4000), rng.integers(0, 8, 4000))
    assert found.cramers_v(corrected=False) > .25
    assert found.cramers_v() < .06
    assert crosstab(np.arange(40) % 4, np.arange(40) % 4).cramers_v() == pytest.approx(1)
    assert np.isnan(crosstab([1, 1], [1, 2]).cramers_v())


def brute_target_auc(field, label):
    """Every pair scored by rates without the two rows."""
    wins = pairs = 0.0
    for i in np.flatnonzero(label == 1):
        for j in np.flatnonzero(label == 0):
            keep = np.ones(len(label), bool)
            keep[[i, j]] = False
            rates = []
            for row in (i, j):
                mine = keep & (field == field[row])
                rates.append(label[mine].mean() if mine.any() else label[keep].mean())
            wins += (rates[0] > rates[1]) + (rates[0] == rates[1]) / 2
            pairs += 1
    return wins / pairs


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), min_size=4, max_size=24))
def test_target_auc_equals_leaving_each_pair_out(rows):
    field, label = (np.array(column) for column in zip(*rows, strict=True))
    found = crosstab(field, label)
    if 0 < label.sum() < len(label):
        assert found.target_auc() == pytest.approx(brute_target_auc(field, label))
    else:
        with pytest.raises(Unavailable, match="one class only"):
            found.target_auc()


def test_target_auc_of_noise_is_one_half_at_any_cardinality_and_of_a_leak_near_one():
    rng = np.random.default_rng(6)
    for cardinality in (1, 2, 30, 1000, 10_000):
        values = [crosstab(rng.integers(0, cardinality, 4000), (rng.random(4000) < .2).astype(int)).target_auc() for _ in range(20)]
        assert np.mean(values) == pytest.approx(.5, abs=.012)
    label = (rng.random(4000) < .2).astype(int)
    assert crosstab(np.where(rng.random(4000) < .95, label, 1 - label), label).target_auc() > .9
    assert crosstab(label, label.astype(bool)).target_auc() == 1


def test_other_categories_are_complete_on_both_sides():
    rng = np.random.default_rng(7)
    row, column = rng.integers(0, 100, 2000).astype(str), rng.integers(0, 20, 2000).astype(str)
    found = crosstab(row, column, row_capacity=10, column_capacity=5)
    assert found.counts.shape == (11, 6)
    assert found.counts.sum() == found.count == 2000
    for i, name in enumerate(found.row_names):
        assert found.counts[i].sum() == (row == name).sum()
        for j, other in enumerate(found.column_names):
            assert found.counts[i, j] == ((row == name) & (column == other)).sum()


# ---------------------------------------------------------------------- quantiles


def test_small_columns_are_exact():
    x = np.random.default_rng(8).normal(size=500).round(1)
    found = quantiles(x)
    assert found.rank_error == 0
    for share in (0, .1, .5, .9, 1):
        assert found.quantile(share) == np.quantile(x, share, method="inverted_cdf")
    np.testing.assert_allclose(found.cdf([-1, 0, 1]), [(x <= v).mean() for v in (-1, 0, 1)])
    edges = np.linspace(x.min(), x.max(), 12)
    np.testing.assert_allclose(found.histogram(edges), np.histogram(x, edges)[0], atol=1e-9)
    assert (found.low, found.high) == (x.min(), x.max())


def test_large_columns_stay_within_the_stated_error():
    x = np.random.default_rng(9).lognormal(size=200_000)
    found = sum((quantiles(part, k=200) for part in np.array_split(x, 9)), start=quantiles([], k=200))
    ordered = np.sort(x)
    shares = np.linspace(.01, .99, 50)
    ranks = np.searchsorted(ordered, found.quantiles(shares)) / len(x)
    assert 0.005 < found.rank_error < .02
    assert np.abs(ranks - shares).max() < 2 * found.rank_error
    assert found.count == 200_000


def test_ks_and_wasserstein_equal_scipy():
    rng = np.random.default_rng(10)
    for a, b in ((rng.normal(size=300), rng.normal(.3, 1.2, 200)), (rng.integers(0, 4, 100), rng.integers(1, 6, 90)), ([1.0], [3.5])):
        assert kolmogorov_smirnov(quantiles(a), quantiles(b)) == pytest.approx(scipy_stats.ks_2samp(a, b).statistic)
        assert wasserstein(quantiles(a), quantiles(b)) == pytest.approx(scipy_stats.wasserstein_distance(a, b))


def test_the_distance_of_shifted_gaussians_is_the_shift():
    rng = np.random.default_rng(11)
    a, b = quantiles(rng.normal(0, 1, 100_000)), quantiles(rng.normal(.5, 1, 100_000))
    assert wasserstein(a, b) == pytest.approx(.5, abs=.02)
    assert kolmogorov_smirnov(a, b) == pytest.approx(2 * scipy_stats.norm.cdf(.25) - 1, abs=.01)


def test_psi_of_two_samples_without_drift_stays_inside_the_band():
    rng = np.random.default_rng(12)
    outside, ratios = 0, []
    for _ in range(200):
        shares = compare_quantiles(quantiles(rng.normal(size=900)), quantiles(rng.normal(size=700)))
        outside += shares.psi > shares.psi_under_no_drift(.99)
        ratios.append(shares.psi / shares.psi_under_no_drift(.5))
    assert outside <= 8
    assert .75 < np.median(ratios) < 1.3
    shifted = compare_quantiles(quantiles(rng.normal(1, 1, 900)), quantiles(rng.normal(size=700)))
    assert shifted.psi > 5 * shifted.psi_under_no_drift(.999)


def test_bins_of_columns_with_few_values_and_missing_ones():
    zeros = np.concatenate([np.zeros(80), np.arange(1, 21)])
    shares = compare_quantiles(quantiles(np.append(zeros, [np.nan] * 10)), quantiles(zeros))
    assert shares.reference.sum() == 100
    assert shares.names[-1] == "(missing)"
    assert shares.target[-1] == 10
    constant = compare_quantiles(quantiles([5, 5, 5]), quantiles([5, 5]))
    assert constant.names == ("5 and below",)
    assert constant.psi == 0
    np.testing.assert_array_equal(compare_quantiles(quantiles([4, 5, 6]), quantiles([5, 5])).target, [2, 1])


def test_the_smallest_value_has_a_bin_by_itself_where_it_fills_one():
    """Nine in ten are 0: every inner quantile is, and without that bin all values would be in one."""
    mostly = np.concatenate([np.zeros(950), np.linspace(1, 9, 50)])
    shares = compare_quantiles(quantiles(np.concatenate([np.zeros(500), np.linspace(1, 9, 500)])), quantiles(mostly))
    assert shares.names == ("0 and below", "above 0")
    np.testing.assert_allclose(shares.reference, [950, 50])
    np.testing.assert_allclose(shares.target, [500, 500])
    some = compare_quantiles(quantiles(np.arange(100.0)), quantiles(np.concatenate([np.zeros(300), np.arange(1.0, 701.0)])))
    assert some.names[:3] == ("0 and below", "above 0 to below 100", "100 to below 200")
    np.testing.assert_allclose(some.reference[:3], [300, 99, 100])
    np.testing.assert_allclose(some.target[:3], [1, 99, 0], atol=1e-9)


def test_nothing_and_fractions_are_refused():
    with pytest.raises(Unavailable, match="no finite value"):
        kolmogorov_smirnov(quantiles([]), quantiles([1]))
    with pytest.raises(Unavailable, match="no finite value"):
        compare_quantiles(quantiles([1]), quantiles([np.nan]))
    assert np.isnan(quantiles([]).quantile(.5))
    assert np.isnan(quantiles([]).cdf([1.0])).all()
    assert quantiles([]).histogram([0, 1, 2]).tolist() == [0, 0]
    stat = Quantiles(column="x")
    with pytest.raises(DataError, match=r"whole numbers up to 1000, found 0\.5"):
        stat.summarize(Batch({"x": np.ones(2)}), np.array([1, .5]))
    with pytest.raises(DataError, match="whole numbers up to 1000, found 5000"):
        stat.summarize(Batch({"x": np.ones(2)}), np.array([1, 5000.]))
    with pytest.raises(UsageError, match="k is 3"):
        Quantiles(column="x", k=3)
