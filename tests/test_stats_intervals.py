"""Intervals cover what they promise: simulated users whose rows are alike."""

from dataclasses import fields, is_dataclass
from functools import reduce
from operator import add

import numpy as np
import pytest
from scipy import stats as scipy_stats

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.jackknife import t_quantile
from recspect.diagnosis.stat import Bucketed, BucketedSummary, Splittable, jackknife
from recspect.diagnosis.stats.categories import CategoryCounts
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.diagnosis.summary import Joined
from recspect.errors import Unavailable, UsageError
from recspect.testing.examples import LAW_EXAMPLES
from recspect.testing.laws import find_difference, unit_codes

SIMULATIONS = 600


def simulate(rng, users=400):
    """Users with 1 to 60 rows each and a click rate and a score bias of their own."""
    rows = np.minimum(rng.geometric(0.06, users), 60)
    user = np.repeat(np.arange(users), rows)
    taste = rng.normal(0, 1, users)[user]
    item = rng.normal(0, 1, len(user))
    p = 1 / (1 + np.exp(-(taste + item - 1.5)))
    guess = 1 / (1 + np.exp(-(0.7 * taste + 0.6 * item + rng.normal(0, 0.5, users)[user] - 1.5)))
    return user, guess, (rng.random(len(user)) < p).astype(float)


@pytest.fixture(scope="module")
def truth():
    _, score, label = simulate(np.random.default_rng(99), users=200_000)
    return ScoreLabel().summarize(Batch({"@score": score, "@label": label})).auc, label.mean()


@pytest.fixture(scope="module")
def intervals():
    """Per simulation: AUC by users, mean label by users, mean label by rows."""
    rng = np.random.default_rng(1)
    auc, mean = Bucketed(stat=ScoreLabel(detail=3), by="u"), Bucketed(stat=Moments(column="@label"), by="u")
    found = []
    for _ in range(SIMULATIONS):
        user, score, label = simulate(rng)
        batch = Batch({"@score": score, "@label": label, "u": user + int(rng.integers(0, 2**40))})
        by_user = (auc.summarize(batch).estimate(lambda s: s.auc, unit="AUC", n=lambda s: s.count),
                   mean.summarize(batch).estimate(lambda s: s.mean, unit="share", n=lambda s: s.count))
        by_row = Bucketed(stat=Moments(column="@label"), by="row").summarize(
            batch.with_columns({"row": rng.integers(0, 2**40, len(user))}))
        found.append((*by_user, by_row.estimate(lambda s: s.mean, unit="share", n=lambda s: s.count)))
    return found


def coverage(estimates, value):
    return np.mean([e.low <= value <= e.high for e in estimates])


def test_intervals_by_user_cover_93_to_97_percent(truth, intervals):
    auc, mean, _ = zip(*intervals, strict=True)
    assert 0.93 <= coverage(auc, truth[0]) <= 0.97
    assert 0.93 <= coverage(mean, truth[1]) <= 0.97


def test_intervals_by_row_cover_too_little(truth, intervals):
    assert coverage([by_row for _, _, by_row in intervals], truth[1]) < 0.75


def test_the_jackknife_of_a_mean_has_its_closed_form():
    values = np.random.default_rng(2).normal(size=50)
    stat = Moments(column="x")
    summary = BucketedSummary(tuple(stat.summarize(Batch({"x": np.array([v])})) for v in values))
    found = summary.estimate(lambda s: s.mean, unit="", n=lambda s: s.count)
    low, high = scipy_stats.t.interval(0.95, 49, values.mean(), scipy_stats.sem(values))
    assert (found.value, found.n) == (pytest.approx(values.mean()), 50)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


def test_differences_leave_the_same_users_out_of_both_sides():
    """Two equal sides: the difference is known to be 0 exactly, however noisy the sides are."""
    stat = Bucketed(stat=Moments(column="x"), by="u", buckets=10)
    rng = np.random.default_rng(3)
    side = stat.summarize(Batch({"x": rng.normal(size=200), "u": np.arange(200)}))
    found = jackknife([side, side], lambda totals: totals[0].mean - totals[1].mean, unit="", n=200)
    assert (found.value, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize("buckets", [2, 3, 5, 50])
def test_leaving_out_by_prefix_and_suffix_is_leaving_out(buckets):
    stat = Moments(column="x")
    parts = tuple(stat.summarize(Batch({"x": np.arange(i + 1.0)})) for i in range(buckets))
    for g, found in enumerate(BucketedSummary(parts).leave_one_out()):
        rest = [i for i in range(buckets) if i != g]
        assert found.count == pytest.approx(sum(parts[i].count for i in rest))
        assert found.total == pytest.approx(sum(parts[i].total for i in rest))


TOGETHER = [example for example in LAW_EXAMPLES if isinstance(example.stat, Splittable)]


@pytest.mark.parametrize("example", TOGETHER, ids=lambda example: str(example.stat))
@pytest.mark.parametrize("weighted", [False, True])
def test_buckets_summarized_and_added_together_are_those_of_one_by_one(example, weighted):
    rng = np.random.default_rng(7)
    batch = example.make(rng, 900)
    units = unit_codes(example.stat, batch)  # rows of one list are in one bucket
    which, weight = (rng.integers(0, high, units.max() + 1)[units] for high in (6, 3))
    weight = weight.astype(float) if weighted else None
    which[which == 4] = 3  # an empty bucket
    together = example.stat.summarize_buckets(batch, which, 6, weight)
    for g, found in enumerate(together):
        rows = np.flatnonzero(which == g)
        assert_same_summary(found, example.stat.summarize(batch.take(rows), None if weight is None else weight[rows]))
    for g, found in enumerate(BucketedSummary(tuple(together)).leave_one_out()):
        others = [part for i, part in enumerate(together) if i != g]
        assert_same_summary(found, reduce(add, others))
        rows = np.flatnonzero(which != g)
        assert_same_summary(found, example.stat.summarize(batch.take(rows), None if weight is None else weight[rows]))
    assert_same_summary(BucketedSummary(tuple(together)).total, reduce(add, together))


def assert_same_summary(found, expected):
    """Weights here are whole numbers, so their sums in any order are equal to the bit; sums of scores are equal to rounding."""
    for spec in fields(expected):
        one, other = getattr(found, spec.name), getattr(expected, spec.name)
        if isinstance(one, tuple) and is_dataclass(one[:1] and one[0]):  # values per measure, whose sums are of figures
            assert not find_difference(found, expected)
            continue
        one, other = np.asarray(one), np.asarray(other)
        if other.dtype.kind == "f" and (other % 1).any():
            np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-13, err_msg=spec.name)
        else:
            np.testing.assert_array_equal(one, other, err_msg=spec.name)


def test_the_stats_that_are_summarized_together_are_tried():
    assert {type(example.stat).__name__ for example in TOGETHER} >= {"Crosstab", "BinnedLabel", "ScoreLabel"}


def test_too_few_users_give_no_interval_and_nothing_gives_no_estimate():
    stat = Bucketed(stat=Moments(column="x"), by="u")
    few = stat.summarize(Batch({"x": np.array([1., 2, 3]), "u": np.array([1, 2, 3])}))
    estimate = few.estimate(lambda s: s.mean, unit="", n=lambda s: s.count)
    assert (estimate.value, estimate.low, estimate.high) == (2, None, None)
    with pytest.raises(Unavailable, match="mean is undefined on these rows"):
        stat.zero().estimate(lambda s: s.mean / s.count if s.count else np.nan, unit="mean", n=lambda s: s.count)
    with pytest.raises(UsageError, match="1 buckets"):
        Bucketed(stat=Moments(column="x"), by="u", buckets=1)


def test_t_quantiles():
    for level in (0.9, 0.95, 0.99):
        for freedom in (5, 10, 49, 1000):
            assert t_quantile(level, freedom) == pytest.approx(scipy_stats.t.ppf((1 + level) / 2, freedom), rel=3e-3)


def test_estimates_are_printed_to_what_the_interval_supports():
    assert str(Estimate(value=.73612, low=.73111, high=.74111, unit="AUC", n=25_156, of="users")) == (
        "0.7361 (0.7311 to 0.7411) AUC, 25,156 users")
    assert str(Estimate(value=3, unit="dead units", n=256, of="units")) == "3 dead units, 256 units"
    assert str(Estimate(value=12_345, unit="distinct values", n=99_999)) == "12,345 distinct values, 99,999 rows"
    assert str(Estimate(value=.5, unit="share", n=4)) == "0.500 share, 4 rows"
    assert str(Estimate(value=1500.0, low=1400, high=1600, unit="ms", n=4)) == "1,500 (1,400 to 1,600) ms, 4 rows"
    with pytest.raises(ValueError, match="must be finite"):
        Estimate(value=np.nan, unit="AUC", n=0)
    assert Estimate(value=1.0, low=.9, high=1.1, unit="", n=1).surely_above(.8)
    assert not Estimate(value=1.0, low=.9, high=1.1, unit="", n=1).surely_below(1.05)


@pytest.mark.parametrize("capacity", [3, 100])
def test_buckets_of_categories_held_together_are_those_of_one_by_one(capacity):
    rng = np.random.default_rng(3)
    stat = CategoryCounts(column="c", capacity=capacity)
    which, batches = rng.integers(0, 6, (4, 200)), [Batch({"c": rng.integers(0, 12, 200) * (i + 1)}) for i in range(4)]
    which[which == 4] = 3  # an empty bucket
    whole = BucketedSummary.sum_of([BucketedSummary(stat.summarize_buckets(batch, rows, 6)) for batch, rows in zip(batches, which, strict=True)])
    by_hand = [reduce(add, [stat.summarize(batch.take(np.flatnonzero(rows == g))) for batch, rows in zip(batches, which, strict=True)]) for g in range(6)]
    assert isinstance(whole.parts, Joined)
    for found, expected in zip(whole.parts, by_hand, strict=True):
        assert_same_summary(found, expected)
    assert_same_summary(whole.total, reduce(add, by_hand))
    assert not find_difference(stat.join_buckets(by_hand), whole.parts)
    assert [part.count for part in whole.parts[1:-1]] == [part.count for part in by_hand[1:-1]]
    assert whole.parts[-1].as_dict() == by_hand[-1].as_dict()


def test_a_unit_with_rows_in_several_buckets_is_a_list_in_each():
    example = next(one for one in TOGETHER if isinstance(one.stat, PerUnit))
    rng = np.random.default_rng(9)
    batch, which = example.make(rng, 300), rng.integers(0, 3, 300)
    for g, found in enumerate(example.stat.summarize_buckets(batch, which, 3)):
        assert not find_difference(found, example.stat.summarize(batch.take(np.flatnonzero(which == g))))
