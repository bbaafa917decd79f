"""Facts about metrics, M1 to M14: expected values that other projects' own tests or a closed form give, each held against what we compute.

M1 TensorFlow Model Analysis (TFMA), M2 microsoft/recommenders #1749, M7 and M8 TFMA, M10 SliceLine, M12 RecList; M4, M5, M6, M9 and M11 are cases in which a
widely used tool is wrong (docs/correctness.md).
"""

import re
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from recspect.diagnosis.batch import Batch, bucket
from recspect.diagnosis.diagnostics.predictions.sliceline import every_slice, score, worst_slices
from recspect.diagnosis.stat import Bucketed, Weighted
from recspect.diagnosis.stats.calibration_histogram import CalibrationHistogram
from recspect.diagnosis.stats.categories import CategoryCounts, compare_categories
from recspect.diagnosis.stats.errors import PredictionError
from recspect.diagnosis.stats.inverse_propensity import InversePropensity
from recspect.diagnosis.stats.measures import (
    NDCG,
    AreaUnderCurve,
    AveragePrecision,
    HitRate,
    Precision,
    Recall,
    ReciprocalRank,
)
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.stats.quantiles import Quantiles, compare_quantiles
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.diagnosis.stats.score_label import ScoreLabel, bins_for
from recspect.recommending.diversity import intra_list_diversity, personalisation
from recspect.recommending.interactions import Interactions
from recspect.recommending.protocols import area_under_curve, ranking_metrics
from recspect.testing.laws import find_difference


def of_one_list(measure, scores, labels):
    batch = Batch({"u": np.zeros(len(scores), dtype=np.int64), "@score": np.asarray(scores, dtype=float), "@label": np.asarray(labels, dtype=float)})
    return PerUnit(unit="u", measures=(measure,)).summarize(batch).mean(measure)


def lists(*of_users):
    return Batch({"user": np.repeat(np.arange(len(of_users)), [len(items) for items in of_users]), "item": np.concatenate([np.asarray(i, dtype=np.int64) for i in of_users])})


def test_m1_weighted_ndcg_of_tfma():
    """A query without gain is left out; the others count by the weight of their rows."""
    batch = Batch({"q": np.array([1, 1, 2, 2, 2, 3, 4]), "@score": np.array([.2, .8, .5, .9, .1, .9, .5]),
                   "@label": np.array([1, .5, .5, 1, .1, 1, 0]), "w": np.array([1., 1, 2, 2, 2, 3, 3])})
    summary = Weighted(stat=PerUnit(unit="q", measures=(NDCG(k=1), NDCG(k=2))), by="w").summarize(batch)
    assert summary.mean("NDCG@1") == pytest.approx(0.9166667, abs=1e-7)
    assert summary.mean("NDCG@2") == pytest.approx(0.9766198, abs=1e-7)
    assert (summary.of("NDCG@1").defined, summary.of("NDCG@1").undefined) == (6, 3)


def test_m2_ndcg_with_relevant_items_below_the_list():
    """Relevances 3 2 3 0 1 2, and 3 and 2 that were ranked below: 6.8611 / 8.7403, the ideal being of all eight."""
    labels = np.array([3, 2, 3, 0, 1, 2, 3, 2])
    found = of_one_list(NDCG(k=6), -np.arange(8.0), labels)
    assert found == pytest.approx(6.8611 / 8.7403, abs=1e-5)
    assert found == pytest.approx(.7850, abs=5e-5)
    gains = np.array([3, 2, 3, 0, 1, 2]) / np.log2(np.arange(2, 8))
    assert gains.sum() == pytest.approx(6.8611, abs=5e-5)
    assert found == pytest.approx(gains.sum() / (np.array([3, 3, 3, 2, 2, 2]) / np.log2(np.arange(2, 8))).sum())


def test_m3_three_users_one_of_whom_has_no_positive():
    """By policy `skip` the mean is over the two others, by `zero` over all three; both say how many had none."""
    batch = Batch({"u": np.repeat([1, 2, 3], 3), "@score": np.tile([3., 2, 1], 3), "@label": np.array([1, 0, 0, 0, 0, 0, 0, 0, 1])})
    want = {"NDCG": (.5, .5, .75), "RR": (.5, .5, 2 / 3), "AP": (.5, .5, 2 / 3), "HitRate": (.5, .5, 1)}
    measures = tuple(cls(k=k) for cls in (NDCG, ReciprocalRank, AveragePrecision, HitRate) for k in (1, 2, 3))
    skipped = PerUnit(unit="u", measures=measures).summarize(batch)
    zero = PerUnit(unit="u", measures=measures, undefined="zero").summarize(batch)
    for name, by_k in want.items():
        for k, value in zip((1, 2, 3), by_k, strict=True):
            assert skipped.mean(f"{name}@{k}") == pytest.approx(value)
            assert zero.mean(f"{name}@{k}") == pytest.approx(value * 2 / 3)
            assert skipped.of(f"{name}@{k}").undefined == zero.of(f"{name}@{k}").undefined == 1
    of_protocol = ranking_metrics(np.tile([0, 1, 2], (3, 1)), np.arange(3), Interactions.from_pairs([0, 2], [0, 2], n_users=3, n_items=3))
    for name, theirs in (("ndcg", "NDCG"), ("mrr", "RR"), ("hit", "HitRate")):
        assert np.nanmean(of_protocol[name]) == pytest.approx(want[theirs][2])
        assert np.isnan(of_protocol[name][1])


def test_m4_ties():
    assert of_one_list(Precision(k=1), [1, 1, .5, .1], [1, 1, 0, 0]) == 1
    assert of_one_list(NDCG(k=1), [1, 1, .5, .1], [1, 1, 0, 0]) == 1
    for k in range(1, 11):
        assert of_one_list(Precision(k=k), np.ones(10), [1] * 8 + [0] * 2) == pytest.approx(0.8)
        assert of_one_list(Recall(k=k), np.ones(10), [1] * 8 + [0] * 2) == pytest.approx(k / 10)


@pytest.mark.parametrize("k", [2, 3, 4, 6])
def test_m5_items_all_one_apart_have_a_diversity_of_one_at_every_length(k):
    """Evidently gives 0.5, 1.5 and 2.5 for lists of 2, 4 and 6."""
    items = Batch({"item": np.arange(10) * 7})
    found = intra_list_diversity(lists(range(0, 7 * k, 7), range(7, 7 + 7 * k, 7)), items, np.ones((10, 10)))
    assert found == pytest.approx([1, 1])


def test_m6_personalisation():
    """Lists that share nothing are 1 apart whatever their lengths: Evidently gives 1.75."""
    assert personalisation(lists([1, 2, 3, 4], [1, 2, 3, 4], [1, 3, 2, 5])) == pytest.approx(.166667, abs=1e-6)
    assert personalisation(lists([1], [2, 3], [4, 5, 6])) == pytest.approx(1)


def test_m7_calibration_of_tfma():
    rows = Batch({"@score": np.array([0, .3, .9]), "@label": np.array([0, 1, 1])})
    found = ScoreLabel().summarize(rows)
    assert (found.predicted / 3, found.base_rate) == (pytest.approx(.4), pytest.approx(2 / 3))
    assert found.calibration_ratio == pytest.approx(.6)
    weighted = Weighted(stat=ScoreLabel(), by="w").summarize(Batch({"@score": np.array([1, .7, .5]), "@label": np.array([0, 1, 0]), "w": np.array([.5, .7, .9])}))
    assert weighted.calibration_ratio == pytest.approx(2.0571, abs=1e-4)


def test_m8_bins_of_the_calibration_histogram():
    """10,000 bins of [0, 1], one below and one above."""
    stat, scores = CalibrationHistogram(), np.array([-.1, .2, .5, .8, 1.1])
    assert stat.bin_of(scores).tolist() == [0, 2001, 5001, 8001, 10001]
    found = stat.summarize(Batch({"@score": scores, "@label": np.array([1, 0, 1, 0, 1])}))
    assert np.flatnonzero(found.weights).tolist() == [0, 2001, 5001, 8001, 10001]
    assert np.flatnonzero(found.positives).tolist() == [0, 5001, 10001]
    assert found.score_sums[[0, 2001, 5001, 8001, 10001]] == pytest.approx(scores)


def test_m9_auc_at_a_click_rate_of_85_in_100000():
    rng = np.random.default_rng(0)
    p = 1 / (1 + np.exp(-rng.normal(-7.5, 1, 2_000_000)))
    y = rng.random(2_000_000) < p
    batch = Batch({"@score": p, "@label": y, "all": np.zeros(2_000_000, dtype=np.int64)})
    assert y.mean() == pytest.approx(.00085, abs=5e-6)
    exact = PerUnit(unit="all", measures=(AreaUnderCurve(),)).summarize(batch).mean("AUC")
    assert exact == pytest.approx(.76119, abs=5e-6)
    assert exact == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert exact == pytest.approx(area_under_curve(y, p), abs=1e-12)
    for detail, most, bound in ((3, 512, 5e-4), (6, 10_000, 5e-5), (7, 10_000, 5e-5)):
        found = ScoreLabel(detail=detail).summarize(batch)
        assert bins_for(detail) <= most
        assert abs(found.auc - exact) <= min(bound, found.auc_error)


def test_m10_scores_of_sliceline_and_the_worst_slice_among_more_columns_than_rows():
    """The public package prunes the true worst slice where one-hot columns outnumber rows."""
    found = score(np.array([3.0, 3.0, 4.0]), np.array([3.0, 4.0, 4.0]), mean_error=0.5, rows=8, alpha=0.95)
    assert found == pytest.approx([.866667, .425, .9], abs=1e-6)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        codes, errors = rng.integers(0, 6, (12, 5)), rng.exponential(size=12)
        assert sum(len(np.unique(column)) for column in codes.T) > 12
        masks = [mask for terms in every_slice(codes, 3) if (mask := np.all([codes[:, f] == v for f, v in terms], axis=0)).sum() >= 2]
        brute = score(np.array([errors[m].sum() for m in masks]), np.array([float(m.sum()) for m in masks]), mean_error=errors.mean(), rows=12)
        assert worst_slices(errors, codes, least=2, k=1).scores == pytest.approx(np.sort(brute[brute > 1e-12])[::-1][:1])


@pytest.mark.parametrize("cardinality", [2, 20, 1000, 100_000])
def test_m11_two_samples_of_one_distribution_stay_inside_the_band(cardinality):
    """PSI and JS; Evidently's PSI fires on identical distributions of many ids."""
    rng, ids, stat = np.random.default_rng(cardinality), [], CategoryCounts(column="id")
    for _ in range(20):
        shares = compare_categories(*(stat.summarize(Batch({"id": rng.integers(0, cardinality, 20_000)})) for _ in range(2)))
        ids.append((shares.psi > shares.psi_under_no_drift(.99)) + (shares.js > shares.js_under_no_drift(.99)))
    assert sum(ids) <= 4  # 40 comparisons at 1%, two by two of the same rows
    numbers = [compare_quantiles(*(Quantiles(column="x").summarize(Batch({"x": rng.integers(0, cardinality, 5000).astype(float)})) for _ in range(2))) for _ in range(20)]
    assert sum(shares.psi > shares.psi_under_no_drift(.99) for shares in numbers) <= 3


def test_m12_hit_rate_of_reclist():
    ranked, truth = [(9, 0, 32, 12), (1, 0, 7, 12), (0, 1, 5, 12), (12, 32, 66, 99)], (0, 1, 5, 99)
    labels = np.array([item == wanted for row, wanted in zip(ranked, truth, strict=True) for item in row], dtype=float)
    rows = Batch({"u": np.repeat(np.arange(4), 4), "@score": np.tile([4., 3, 2, 1], 4), "@label": labels})
    positives = Interactions.from_pairs(np.arange(4), truth, n_users=4, n_items=100)
    for k, want in enumerate((.25, .5, .75, 1), start=1):
        assert PerUnit(unit="u", measures=(HitRate(k=k),)).summarize(rows).mean(f"HitRate@{k}") == want
        assert ranking_metrics(np.array(ranked)[:, :k], np.arange(4), positives)["hit"].mean() == want


MERGED = {
    "scores": (ScoreLabel(), lambda s: (s.positives, s.negatives), lambda s: (s.log_loss, s.auc, s.brier, s.calibration_ratio, s.normalised_entropy)),
    "histogram": (CalibrationHistogram(bins=100), lambda s: (s.weights, s.positives), lambda s: (s.score_sums,)),
    "errors": (PredictionError(), lambda s: (s.count,), lambda s: (s.mean_squared_error, s.mean_absolute_error, s.bias)),
    "moments": (Moments(column="@score"), lambda s: (s.count,), lambda s: (s.mean, s.variance)),
    "categories": (CategoryCounts(column="item"), lambda s: (s.counts,), lambda s: (s.entropy(),)),
    "lists": (PerUnit(unit="user", measures=(NDCG(), Recall(), AveragePrecision(), ReciprocalRank(), AreaUnderCurve())), lambda s: (s.units, s.rows),
              lambda s: tuple(s.mean(name) for name in s.names)),
    "propensities": (InversePropensity(column="@score"), lambda s: (s.count, s.largest), lambda s: (s.total, s.squares, s.effective_share)),
}


@pytest.mark.parametrize("name", MERGED)
def test_m13_totals_of_parts_are_the_total_of_all(name):
    """Counts to the bit, sums to 1e-12, in any order of adding."""
    stat, counts, sums = MERGED[name]
    rng = np.random.default_rng(13)
    user = np.sort(rng.integers(0, 200, 5000))
    rows = Batch({"user": user, "item": rng.zipf(1.5, 5000) % 300, "@score": rng.beta(.5, 4, 5000).clip(1e-9, 1), "@label": rng.integers(0, 2, 5000)})
    part = bucket(user, 7)  # rows of a user stay together: a list cut in two is two lists
    parts = [stat.summarize(rows.take(np.flatnonzero(part == k))) for k in range(7)]
    whole = stat.summarize(rows)
    for order in ([0, 1, 2, 3, 4, 5, 6], [6, 2, 0, 5, 1, 4, 3]):
        total = reduce(add, [parts[k] for k in order])
        assert all(np.array_equal(a, b) for a, b in zip(counts(total), counts(whole), strict=True))
        for a, b in zip(sums(total), sums(whole), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
    halves = (reduce(add, parts[:3]), reduce(add, parts[3:]))
    assert not find_difference(halves[0] + halves[1], halves[1] + halves[0], tolerance=1e-12)
    assert not find_difference(whole + stat.zero(), whole, tolerance=1e-12)


# ---------------------------------------------------------------------- M14

SETS, USERS, DRAWS = 1000, 200, 100


def log(rng, users=USERS):
    """Rows of users with 1 to 60 rows, and a click rate and a score bias of their own."""
    user = np.repeat(np.arange(users), np.minimum(rng.geometric(0.06, users), 60))
    taste, item = rng.normal(0, 1, users)[user], rng.normal(0, 1, len(user))
    score = 1 / (1 + np.exp(-(0.7 * taste + 0.6 * item + rng.normal(0, 0.5, users)[user] - 1.5)))
    return user, score, (rng.random(len(user)) < 1 / (1 + np.exp(-(taste + item - 1.5)))).astype(float)


FIGURES = {"click rate": lambda s: s.base_rate, "log loss": lambda s: s.log_loss, "AUC": lambda s: s.auc}


@pytest.mark.slow
def test_m14_intervals_from_users_cover_and_a_bootstrap_of_impressions_does_not():
    """1,000 simulated sets. By users, 93% to 97% of 95% intervals hold the truth; the percentile bootstrap over rows holds it far too seldom."""
    rng = np.random.default_rng(14)
    _, p, y = log(rng, users=300_000)
    whole = ScoreLabel(detail=3).summarize(Batch({"@score": p, "@label": y}))
    truth = {name: figure(whole) for name, figure in FIGURES.items()}
    stat = Bucketed(stat=ScoreLabel(detail=3), by="user")
    by_user, by_row = dict.fromkeys(FIGURES, 0), dict.fromkeys(("click rate", "log loss"), 0)
    for _ in range(SETS):
        user, p, y = log(rng)
        summary = stat.summarize(Batch({"user": user + int(rng.integers(0, 2**40)), "@score": p, "@label": y}))
        for name, figure in FIGURES.items():
            found = summary.estimate(figure, unit=name, n=lambda s: s.count)
            by_user[name] += found.low <= truth[name] <= found.high
        times = rng.poisson(1.0, (DRAWS, len(y)))  # each row so often in each bootstrap sample
        loss = -np.log(np.where(y == 1, p, 1 - p))
        for name, values in (("click rate", y), ("log loss", loss)):
            low, high = np.quantile(times @ values / times.sum(1), (0.025, 0.975))
            by_row[name] += low <= truth[name] <= high
    for name, held in by_user.items():
        assert 0.93 <= held / SETS <= 0.97, name
    for name, held in by_row.items():
        assert held / SETS < 0.80, name


def test_every_test_that_the_page_on_correctness_names_is_there():
    here = Path(__file__).parent
    page = (here.parent / "docs" / "correctness.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    written = set(re.findall(r"^def (test_\w+)", "\n".join(path.read_text(encoding="utf-8") for path in here.glob("test_*.py")), re.MULTILINE))
    assert len(named) > 30
    assert named <= written, sorted(named - written)
