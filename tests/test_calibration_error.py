"""Expected calibration error, what chance gives, debiasing and the consistency band: against scikit-learn and torchmetrics, closed forms and simulations."""

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.calibration import calibration_curve

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.chi_square import chi_square_tail
from recspect.diagnosis.diagnostics.predictions.hosmer_lemeshow import hosmer_lemeshow
from recspect.diagnosis.stats.calibration_error import (
    calibration_error_by_chance,
    consistency_band,
    expected_calibration_error,
    squared_calibration_error,
)
from recspect.diagnosis.stats.calibration_histogram import CalibrationHistogram
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.errors import UsageError


def drawn(seed, rows=20_000, off=0.0):
    """Scores, and outcomes that have these probabilities, shifted in log odds."""
    rng = np.random.default_rng(seed)
    p = rng.beta(1.2, 4, rows)
    return Batch({"@score": p, "@label": (rng.random(rows) < 1 / (1 + np.exp(-(np.log(p / (1 - p)) + off)))).astype(float)})


@pytest.mark.parametrize("count", [1, 5, 10, 20])
def test_groups_of_equal_width_are_those_of_scikit_learn(count):
    rows = drawn(0, off=0.3)
    groups = CalibrationHistogram().summarize(rows).groups(count)
    rate, score = calibration_curve(rows["@label"], rows["@score"], n_bins=count, strategy="uniform")
    np.testing.assert_allclose([g[1] for g in groups], score)
    np.testing.assert_allclose([g[2] for g in groups], rate)
    weights = np.histogram(rows["@score"], np.linspace(0, 1, count + 1))[0]
    assert [g[0] for g in groups] == weights[weights > 0].tolist()
    assert expected_calibration_error(groups) == pytest.approx(np.average(np.abs(rate - score), weights=weights[weights > 0]))


def test_ece_is_that_of_torchmetrics():
    pytest.importorskip("torchmetrics")
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    rows = drawn(1, off=-0.4)
    groups = CalibrationHistogram().summarize(rows).groups(10)
    p, y = torch.from_numpy(rows["@score"].astype(np.float64)), torch.from_numpy(rows["@label"]).long()
    assert expected_calibration_error(groups) == pytest.approx(float(binary_calibration_error(p, y, n_bins=10, norm="l1")), rel=1e-5)
    assert np.sqrt(squared_calibration_error(groups, debiased=False)) == pytest.approx(float(binary_calibration_error(p, y, n_bins=10, norm="l2")), rel=1e-5)


def test_groups_of_equal_weight_are_those_of_scikit_learn():
    rows = drawn(2)
    groups = ScoreLabel(detail=10).summarize(rows).reliability(10)
    rate, score = calibration_curve(rows["@label"], rows["@score"], n_bins=10, strategy="quantile")
    np.testing.assert_allclose([g[1] for g in groups], score, atol=1e-3)  # ours are cut between bins of the score, theirs between rows
    np.testing.assert_allclose([g[2] for g in groups], rate, atol=3e-3)


def test_scores_outside_the_range_belong_to_the_first_and_the_last_group():
    rows = Batch({"@score": np.array([-3.0, 0.05, 0.95, 1.0, 7.0, np.nan, np.inf, 0.5]), "@label": np.array([0, 1, 1, 0, 1, 1, 1, 2])})
    found = CalibrationHistogram(bins=10).summarize(rows)
    assert (found.count, found.invalid) == (5, 3)
    assert found.groups(10) == [(2, pytest.approx(-2.95 / 2), 0.5), (3, pytest.approx(8.95 / 3), pytest.approx(2 / 3))]
    with pytest.raises(UsageError, match="3 groups"):
        found.groups(3)
    with pytest.raises(UsageError, match="low below high"):
        CalibrationHistogram(low=1.0, high=0.0)


def simulated(repeats, off=0.0, rows=2000):
    return [CalibrationHistogram(bins=10).summarize(drawn(100 + k, rows, off)).groups(10) for k in range(repeats)]


def test_scores_that_are_right_have_no_debiased_error_and_the_plain_one_is_what_chance_gives():
    """The plain mean square is sum of share x r (1 - r) / n on average: 10 groups of 2,000 rows."""
    groups = simulated(400)
    debiased = np.array([squared_calibration_error(g) for g in groups])
    plain = np.array([squared_calibration_error(g, debiased=False) for g in groups])
    assert abs(debiased.mean()) < 3 * debiased.std() / 20
    assert (debiased < 0).any()
    by_chance = np.mean([sum(w / 2000 * p * (1 - p) / w for w, p, _ in g) for g in groups])
    assert plain.mean() == pytest.approx(by_chance, rel=0.1)
    above = np.mean([expected_calibration_error(g) > calibration_error_by_chance(g, 0.95) for g in groups])
    assert 0.02 < above < 0.08


def test_a_known_error_is_found_without_bias():
    groups = simulated(300, off=0.5)
    exact = squared_calibration_error(CalibrationHistogram(bins=10).summarize(drawn(7, 2_000_000, 0.5)).groups(10), debiased=False)
    debiased = np.array([squared_calibration_error(g) for g in groups])
    assert abs(debiased.mean() - exact) < 3 * debiased.std() / np.sqrt(300)
    assert np.mean([squared_calibration_error(g, debiased=False) for g in groups]) > exact * 1.05
    assert all(expected_calibration_error(g) > calibration_error_by_chance(g, 0.99) for g in groups)


def test_rates_lie_in_the_consistency_band_as_often_as_it_says():
    inside = [low <= g[2] <= high for groups in simulated(300) for g, (low, high) in zip(groups, consistency_band(groups), strict=True) if g[0] >= 50]
    assert 0.94 < np.mean(inside) < 0.96
    off = [low <= g[2] <= high for groups in simulated(50, off=0.5) for g, (low, high) in zip(groups, consistency_band(groups), strict=True) if g[0] >= 200]
    assert np.mean(off) < 0.1
    ((low, high),) = consistency_band([(40.0, 0.3, 0.5)], level=0.95)
    exact = scipy_stats.binomtest(12, 40).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((exact.low, exact.high))


def test_no_groups_have_no_error_and_groups_of_one_row_no_variance():
    assert np.isnan([expected_calibration_error([]), calibration_error_by_chance([]), squared_calibration_error([])]).all()
    assert consistency_band([]) == []
    assert squared_calibration_error([(1.0, 0.3, 1.0)]) == 0
    assert CalibrationHistogram().zero().groups() == []


@pytest.mark.parametrize("freedom", [1, 2, 5, 7.3, 10, 250])
def test_the_tail_of_chi_square_is_that_of_scipy(freedom):
    for value in (0.0, 0.3, 4.0, 21.5, 180.0, 1000.0):
        assert chi_square_tail(value, freedom) == pytest.approx(scipy_stats.chi2.sf(value, freedom), rel=1e-11)


def test_hosmer_and_lemeshow_in_closed_form():
    """30 rows at .1 with 6 positives, 20 at .5 with 8: (6 - 3)^2 / 2.7 + (8 - 10)^2 / 5."""
    found = hosmer_lemeshow([(30, 0.1, 0.2), (20, 0.5, 0.4)], np.zeros((0, 2)))
    assert found.statistic == pytest.approx(9 / 2.7 + 4 / 5)
    assert (found.groups, found.p_value) == (2, None)
    assert found.p_independent == pytest.approx(scipy_stats.chi2.sf(found.statistic, 2))
    assert hosmer_lemeshow([(5, 0.0, 0.0)], np.zeros((0, 1))) is None


@pytest.mark.parametrize(("alike", "independent_alarms"), [(False, (0, 20)), (True, (60, 200))])
def test_right_scores_are_as_likely_as_they_say_also_where_rows_of_a_user_are_alike(alike, independent_alarms):
    """Of 200 tables of right scores about 10 have a p-value below 5%; taken as independent, alike rows have it far more often."""
    rng = np.random.default_rng(4)
    groups, buckets, size, found = 10, 50, 40, []
    score = (np.arange(groups) + 0.5) / groups
    for _ in range(200):
        p = score[None, :] + (np.where(alike, 1.0, 0.0) * rng.choice([-1, 1], (buckets, 1)) * np.minimum(score, 1 - score) * 0.5)
        positives = rng.binomial(size, p)
        residuals = positives - size * score
        rows = [(float(size * buckets), float(s), float(n / (size * buckets))) for s, n in zip(score, positives.sum(0), strict=True)]
        found.append(hosmer_lemeshow(rows, residuals - residuals.mean(0)))
    assert 2 <= sum(one.p_value < 0.05 for one in found) <= 24
    low, high = independent_alarms
    assert low <= sum(one.p_independent < 0.05 for one in found) <= high


def test_scores_that_are_off_have_no_chance():
    residuals = np.random.default_rng(0).normal(0, 3, (50, 1))
    found = hosmer_lemeshow([(2000, 0.1, 0.2)], residuals - residuals.mean(0))
    assert found.p_value < 0.001
    assert found.p_independent < 1e-40
