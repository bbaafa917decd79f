"""Moments, prediction errors and score-label figures against scipy, sklearn and published values; facts M7 to M9 are in test_metric_facts.py."""

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn import metrics

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Weighted
from recspect.diagnosis.stats.errors import PredictionError
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.stats.score_label import ScoreLabel, bin_of, bins_for


def moments(values):
    return Moments(column="x").summarize(Batch({"x": np.asarray(values, dtype=float)}))


def scored(p, y, **more):
    return Batch({"@score": np.asarray(p, dtype=float), "@label": np.asarray(y, dtype=float),
                  **{name: np.asarray(column, dtype=float) for name, column in more.items()}})


def test_moments_equal_scipy():
    x = np.random.default_rng(0).gamma(2, 3, 5000)
    found = moments(x[:1000]) + moments(x[1000:1001]) + moments(x[1001:])
    assert found.mean == pytest.approx(x.mean(), rel=1e-12)
    assert found.variance == pytest.approx(x.var(ddof=1), rel=1e-12)
    assert found.skewness == pytest.approx(scipy_stats.skew(x), rel=1e-10)
    assert found.kurtosis == pytest.approx(scipy_stats.kurtosis(x), rel=1e-10)
    assert (found.low, found.high) == (x.min(), x.max())


def test_a_small_spread_around_a_large_mean_does_not_cancel():
    x = 1e9 + np.random.default_rng(1).normal(size=4000)
    total = sum((moments(part) for part in np.array_split(x, 7)), start=moments([]))
    assert total.variance == pytest.approx(x.var(ddof=1), rel=1e-9)


def test_what_is_no_number_is_counted_apart():
    found = moments([1, np.nan, np.inf, -np.inf, 1e80, 3])
    assert (found.count, found.missing, found.infinite, found.mean) == (2, 1, 3, 2)
    assert found.missing_share == pytest.approx(4 / 6)
    empty = moments([])
    for value in (empty.variance, empty.skewness, empty.kurtosis, empty.missing_share, moments([1]).variance, moments([2, 2]).skewness):
        assert np.isnan(value)


def test_prediction_errors_equal_sklearn():
    rng = np.random.default_rng(2)
    y = rng.integers(1, 6, 500).astype(float)
    p = y + rng.normal(0.3, 1, 500)
    found = PredictionError().summarize(scored(p, y))
    assert found.bias == pytest.approx((p - y).mean())
    assert found.mean_squared_error == pytest.approx(metrics.mean_squared_error(y, p))
    assert found.root_mean_squared_error == pytest.approx(metrics.root_mean_squared_error(y, p))
    assert found.mean_absolute_error == pytest.approx(metrics.mean_absolute_error(y, p))
    assert found.r_squared == pytest.approx(metrics.r2_score(y, p))


def test_prediction_errors_of_the_mean_of_a_constant_and_of_nothing():
    assert PredictionError().summarize(scored([2, 2, 2], [1, 2, 3])).r_squared == 0
    constant = PredictionError().summarize(scored([2, 4], [3, 3]))
    assert np.isnan(constant.r_squared)
    assert (constant.bias, constant.mean_absolute_error) == (0, 1)
    nothing = PredictionError().summarize(scored([np.nan, 1], [1, np.inf]))
    assert nothing.invalid == 2
    assert np.isnan([nothing.bias, nothing.mean_squared_error, nothing.mean_absolute_error, nothing.r_squared]).all()


# ---------------------------------------------------------------------- scores and labels


@pytest.fixture(scope="module")
def clicks():
    rng = np.random.default_rng(3)
    p = 1 / (1 + np.exp(-rng.normal(-2, 1.5, 20_000)))
    return np.round(p, 3).clip(1e-4, 1 - 1e-4), (rng.random(20_000) < p).astype(float), rng.integers(1, 4, 20_000).astype(float)


@pytest.mark.parametrize("weighted", [False, True])
def test_score_label_equals_sklearn(clicks, weighted):
    p, y, w = clicks
    stat = Weighted(stat=ScoreLabel(), by="w") if weighted else ScoreLabel()
    weight = w if weighted else None
    found = stat.summarize(scored(p, y, w=w))
    assert abs(found.auc - metrics.roc_auc_score(y, p, sample_weight=weight)) <= found.auc_error + 1e-12
    assert found.auc_error < 2e-3  # mostly true ties: the scores come in steps of 0.001
    assert found.log_loss == pytest.approx(metrics.log_loss(y, p, sample_weight=weight), rel=1e-10)
    assert found.brier == pytest.approx(metrics.brier_score_loss(y, p, sample_weight=weight), rel=1e-10)
    base = np.average(y, weights=weight)
    entropy = -(base * np.log(base) + (1 - base) * np.log(1 - base))
    assert found.normalised_entropy == pytest.approx(found.log_loss / entropy)
    assert found.calibration_ratio == pytest.approx(np.average(p, weights=weight) / base)


def test_confusion_equals_sklearn_at_bin_edges(clicks):
    # above one half a bin holds its upper edge, not its lower one: hence just above 0.75
    p, y, _ = clicks
    found = ScoreLabel().summarize(scored(p, y))
    for threshold in (0.0, 0.125, 0.25, 0.5, np.nextafter(0.75, 1), 1.0):
        called = p >= threshold
        tn, fp, fn, tp = metrics.confusion_matrix(y, called, labels=[0, 1]).ravel()
        assert found.confusion(threshold) == (tp, fp, tn, fn)
        assert found.accuracy(threshold) == pytest.approx(metrics.accuracy_score(y, called))
        assert found.recall(threshold) == pytest.approx(metrics.recall_score(y, called))
        assert found.f1(threshold) == pytest.approx(metrics.f1_score(y, called, zero_division=0))
        if called.any():
            assert found.precision(threshold) == pytest.approx(metrics.precision_score(y, called))
    assert np.isnan(found.precision(1.0))


def test_reliability_groups_hold_all_rows_in_order(clicks):
    p, y, _ = clicks
    groups = ScoreLabel().summarize(scored(p, y)).reliability(10)
    weights, means, rates = map(np.array, zip(*groups, strict=True))
    assert weights.sum() == len(p)
    assert (np.diff(means) > 0).all()
    assert weights @ means == pytest.approx(p.sum())
    assert weights @ rates == pytest.approx(y.sum())


@pytest.mark.parametrize(("p", "y"), [([], []), ([.5], [1]), ([.2, .3], [0, 0]), ([.2, .3], [1, 1]), ([np.nan, 2, -1, .5], [1, 1, 1, 2])])
def test_one_class_or_nothing_is_nan_not_a_number(p, y):
    found = ScoreLabel().summarize(scored(p, y))
    assert np.isnan([found.auc, found.auc_error, found.normalised_entropy]).all()
    if not found.count:
        assert np.isnan([found.log_loss, found.brier, found.base_rate, found.calibration_ratio, found.accuracy(), found.f1()]).all()
        assert found.reliability() == []
        assert found.invalid == len(p)


def test_bins_ascend_with_the_score_and_cover_the_ends():
    for detail in (0, 3, 6):
        grid = np.unique(np.concatenate([[0, 1e-300, .5, 1], np.linspace(0, 1, 4001), 2.0 ** -np.arange(1, 40), 1 - 2.0 ** -np.arange(1, 40)]))
        bins = bin_of(grid, detail)
        assert (np.diff(bins) >= 0).all()
        assert (bins[0], bins[-1]) == (0, bins_for(detail) - 1)
