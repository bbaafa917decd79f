"""Ranking measures against brute force, sklearn, ir-measures, ranx and published values; facts M1 to M4 and M12 are in test_metric_facts.py."""

from itertools import permutations
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recspect.diagnosis.batch import Batch, Categorical
from recspect.diagnosis.stat import Bucketed, Weighted, unit_of
from recspect.diagnosis.stats.lists import order
from recspect.diagnosis.stats.measures import (
    NDCG,
    AreaUnderCurve,
    AveragePrecision,
    HitRate,
    Precision,
    Recall,
    ReciprocalRank,
)
from recspect.diagnosis.stats.ranking import PerUnit, measure_lists
from recspect.errors import DataError, Unavailable, UsageError

KS = (1, 2, 3, 10)
MEASURES = (
    *(cls(k=k) for cls in (NDCG, Recall, Precision, HitRate, ReciprocalRank, AveragePrecision) for k in KS),
    AreaUnderCurve(), NDCG(k=None), NDCG(k=3, gain="exponential"), ReciprocalRank(k=None), AveragePrecision(k=None),
    AveragePrecision(k=2, over="achievable"))


# ---------------------------------------------------------------------- an independent reference, one list at a time


def reference(measure, labels):
    """The measure of one ranked list, straight from its definition; NaN where undefined."""
    labels = list(labels)
    hits = [label > 0 for label in labels]
    relevant = sum(hits)
    if not relevant:
        return np.nan
    k = getattr(measure, "k", None) or len(labels)
    match measure:
        case NDCG(gain=gain):
            worth = (lambda label: label) if gain == "linear" else (lambda label: 2**label - 1)
            dcg = sum(worth(label) / log2(i + 2) for i, label in enumerate(labels[:k]))
            return dcg / sum(worth(label) / log2(i + 2) for i, label in enumerate(sorted(labels, reverse=True)[:k]))
        case Recall():
            return sum(hits[:k]) / relevant
        case Precision():
            return sum(hits[:k]) / k
        case HitRate():
            return float(any(hits[:k]))
        case ReciprocalRank():
            return next((1 / (i + 1) for i, hit in enumerate(hits[:k]) if hit), 0.0)
        case AveragePrecision(over=over):
            total = sum(sum(hits[:i + 1]) / (i + 1) for i, hit in enumerate(hits[:k]) if hit)
            return total / (relevant if over == "relevant" else min(relevant, k))
        case AreaUnderCurve():
            if relevant == len(labels):
                return np.nan
            wins = sum(hits[i] and not hits[j] for i in range(len(hits)) for j in range(i + 1, len(hits)))
            return wins / (relevant * (len(labels) - relevant))
    raise AssertionError(measure)


def expected(measure, scores, labels):
    """The mean of `reference` over all orders of tied rows."""
    scores, labels = np.asarray(scores, dtype=float), np.asarray(labels, dtype=float)
    values = []
    for shuffle in permutations(range(len(scores))):
        by_score = sorted(shuffle, key=lambda i: -scores[i])
        values.append(reference(measure, labels[by_score]))
    return np.mean(values)


def values_of(measure, units, scores, labels):
    lists = order(np.asarray(units), np.asarray(scores, dtype=float), np.asarray(labels, dtype=float))
    return measure_lists([measure], lists)[0]


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
def test_equals_the_definition_on_random_lists_without_ties(measure):
    rng = np.random.default_rng(1)
    units, scores = rng.integers(0, 40, 500), rng.permutation(500) / 7.0
    labels = rng.integers(0, 4, 500) * (rng.random(500) < 0.4)
    want = [reference(measure, labels[units == u][np.argsort(-scores[units == u])]) for u in np.unique(units)]
    np.testing.assert_allclose(values_of(measure, units, scores, labels), want, rtol=1e-12)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
def test_ties_have_the_expected_value_over_all_orders(measure):
    rng = np.random.default_rng(2)
    units = np.repeat(np.arange(40), rng.integers(1, 7, 40))
    scores = rng.integers(0, 3, len(units)) / 2
    labels = rng.integers(0, 3, len(units)) * (rng.random(len(units)) < 0.6)
    want = [expected(measure, scores[units == u], labels[units == u]) for u in range(40)]
    np.testing.assert_allclose(values_of(measure, units, scores, labels), want, rtol=1e-12)
    lists = order(units, scores, labels.astype(float))  # the same without the split into lists with and without ties
    np.testing.assert_allclose(measure.values(lists), want, rtol=1e-12)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
def test_degenerate_lists(measure):
    assert np.isnan(values_of(measure, [0, 0, 0], [.1, .2, .3], [0, 0, 0])[0])
    single = values_of(measure, [0], [.5], [1])[0]
    assert np.isnan(single) if isinstance(measure, AreaUnderCurve) else single == pytest.approx(reference(measure, [1]))
    assert values_of(measure, [], [], []).shape == (0,)
    with_infinite = values_of(measure, [0, 0, 0], [-np.inf, np.inf, 0.0], [1, 0, 1])[0]
    assert with_infinite == pytest.approx(reference(measure, [0, 1, 1]))


# ---------------------------------------------------------------------- the order itself


def test_scores_that_differ_in_the_last_bit_are_not_tied():
    base = np.repeat([0.1, -3.0, 1e-300, 2e10], 50)
    scores = base.copy()
    for _ in range(7):
        scores = np.where(np.arange(200) % 2 == 0, np.nextafter(scores, np.inf), scores)
    units = np.random.default_rng(0).integers(0, 20, 200)
    labels = (np.arange(200) % 2 == 0).astype(float)  # of equal bases, exactly the larger ones are relevant
    for mixed in (labels, labels * 0.5):  # labels that pack into the key, and labels that do not
        lists = order(units, scores, mixed)
        want = np.concatenate([mixed[units == u][np.lexsort((-scores[units == u],))] for u in np.unique(units)])
        np.testing.assert_array_equal(lists.labels, want)
        ordered = np.concatenate([np.sort(scores[units == u])[::-1] for u in np.unique(units)])
        np.testing.assert_array_equal(lists.ties[1:], (np.diff(ordered) == 0) & (np.diff(lists.list_of_row) == 0))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(allow_nan=False), st.integers(0, 300)), min_size=1, max_size=40))
def test_order_is_that_of_lexsort(rows):
    units, scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    lists = order(units, scores, labels.astype(float))
    by = np.lexsort((-scores, units))
    # within ties any order will do: compare the labels of each group as sets
    group = np.cumsum(~lists.ties)
    want_tied = np.append([False], (np.diff(units[by]) == 0) & (scores[by][1:] == scores[by][:-1]))
    np.testing.assert_array_equal(lists.ties, want_tied)
    np.testing.assert_array_equal(lists.labels[np.lexsort((lists.labels, group))], labels[by][np.lexsort((labels[by], group))])
    np.testing.assert_array_equal(lists.lengths, np.unique(units, return_counts=True)[1])


def test_every_path_gives_the_same_numbers():
    rng = np.random.default_rng(3)
    units = np.repeat(np.arange(50), 20)
    scores = rng.integers(0, 200, 1000).astype(np.float32).astype(float)
    labels = rng.integers(0, 2, 1000).astype(float)
    shuffled = rng.permutation(1000)
    jitter = np.round(scores) + scores * 2.0**-40  # does not fit beside the unit; same order, same ties
    for measure in MEASURES:
        rectangle = values_of(measure, units, scores, labels)
        for s, y in ((scores, labels), (jitter, labels)):
            np.testing.assert_allclose(values_of(measure, units[shuffled], s[shuffled], y[shuffled]), rectangle, rtol=1e-12)
        np.testing.assert_allclose(values_of(measure, units, jitter, labels), rectangle, rtol=1e-12)


# ---------------------------------------------------------------------- other libraries


def test_auc_and_ndcg_equal_sklearn_with_ties():
    from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

    rng = np.random.default_rng(4)
    scores, labels = rng.integers(0, 12, (60, 30)) / 4, rng.integers(0, 4, (60, 30)) * (rng.random((60, 30)) < 0.3)
    units = np.repeat(np.arange(60), 30)
    for k in (1, 5, 30, 100):
        want = [ndcg_score(labels[i:i + 1], scores[i:i + 1], k=k) for i in range(60)]
        np.testing.assert_allclose(values_of(NDCG(k=k), units, scores.ravel(), labels.ravel()), want, rtol=1e-10)
    want = [roc_auc_score(labels[i] > 0, scores[i]) for i in range(60)]
    np.testing.assert_allclose(values_of(AreaUnderCurve(), units, scores.ravel(), labels.ravel()), want, rtol=1e-12)
    untied = rng.permutation(1800).reshape(60, 30)  # sklearn's average precision groups ties by threshold instead
    want = [average_precision_score(labels[i] > 0, untied[i]) for i in range(60)]
    np.testing.assert_allclose(values_of(AveragePrecision(k=None), units, untied.ravel(), labels.ravel()), want, rtol=1e-12)


def random_lists(seed, users=50, longest=40, positives=0.2, grades=1):
    """Without ties; every user has a relevant row."""
    rng = np.random.default_rng(seed)
    units = np.repeat(np.arange(users), rng.integers(1, longest + 1, users))
    scores = rng.permutation(len(units)).astype(float)
    labels = rng.integers(1, grades + 1, len(units)) * (rng.random(len(units)) < positives)
    first = np.flatnonzero(np.append([True], np.diff(units) > 0))
    labels[first] = np.maximum(labels[first], 1)
    return units, scores, labels


@pytest.mark.parametrize(("seed", "longest", "positives"), [(0, 40, 0.2), (1, 4, 0.5), (2, 30, 1.0), (3, 1, 1.0)])
def test_equals_ir_measures(seed, longest, positives):
    ir = pytest.importorskip("ir_measures")
    units, scores, labels = random_lists(seed, longest=longest, positives=positives)
    qrels = [ir.Qrel(str(u), str(i), int(y)) for i, (u, y) in enumerate(zip(units, labels, strict=True))]
    run = [ir.ScoredDoc(str(u), str(i), float(s)) for i, (u, s) in enumerate(zip(units, scores, strict=True))]
    pairs = [(ir.nDCG @ 10, NDCG(k=10)), (ir.nDCG, NDCG(k=None)), (ir.P @ 5, Precision(k=5)), (ir.R @ 10, Recall(k=10)),
             (ir.RR @ 10, ReciprocalRank(k=10)), (ir.RR, ReciprocalRank(k=None)), (ir.AP @ 10, AveragePrecision(k=10)),
             (ir.AP, AveragePrecision(k=None)), (ir.Success @ 3, HitRate(k=3))]
    found = {(str(m.measure), m.query_id): m.value for m in ir.iter_calc([theirs for theirs, _ in pairs], qrels, run)}
    for theirs, ours in pairs:
        want = [found[str(theirs), str(u)] for u in np.unique(units)]
        np.testing.assert_allclose(values_of(ours, units, scores, labels), want, atol=1e-4 if "nDCG" in str(theirs) else 1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # numba and its dependants warn about their own internals
def test_equals_ranx():
    ranx = pytest.importorskip("ranx")
    units, scores, labels = random_lists(7, grades=3)
    qrels, run = {}, {}
    for i, (u, s, y) in enumerate(zip(units, scores, labels, strict=True)):
        run.setdefault(f"u{u}", {})[f"d{i}"] = float(s)
        if y:
            qrels.setdefault(f"u{u}", {})[f"d{i}"] = int(y)
    names = {"ndcg@10": NDCG(k=10), "ndcg_burges@5": NDCG(k=5, gain="exponential"), "recall@10": Recall(k=10),
             "precision@5": Precision(k=5), "mrr@10": ReciprocalRank(k=10), "map@10": AveragePrecision(k=10),
             "hit_rate@3": HitRate(k=3)}
    theirs = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), list(names), return_mean=True)
    for name, measure in names.items():
        assert values_of(measure, units, scores, labels).mean() == pytest.approx(theirs[name], abs=1e-9), name


# ---------------------------------------------------------------------- published values


def test_one_relevant_row_at_place_3_is_worth_half():
    """RecBole, torch-rechub, RePlay, Cornac and keras-rs agree; LensKit (0.631) and RecTools' default (0.110) do not."""
    assert values_of(NDCG(k=10), np.zeros(10, int), -np.arange(10.0), np.arange(10) == 2)[0] == pytest.approx(0.5)


def test_large_ties_and_a_rare_label_stay_exact():
    """A constant score over 200,000 rows: AUC 1/2, and precision the base rate."""
    labels = np.zeros(200_000)
    labels[::1000] = 1
    units, scores = np.zeros(200_000, int), np.full(200_000, 0.3)
    assert values_of(AreaUnderCurve(), units, scores, labels)[0] == 0.5
    assert values_of(Precision(k=10), units, scores, labels)[0] == pytest.approx(0.001)
    miss = np.prod((199_800 - np.arange(10)) / (200_000 - np.arange(10)))
    assert values_of(HitRate(k=10), units, scores, labels)[0] == pytest.approx(1 - miss, rel=1e-5)


# ---------------------------------------------------------------------- PerUnit


def make_log(rows=3000, users=80, seed=5):
    rng = np.random.default_rng(seed)
    user = np.minimum(rng.geometric(0.04, rows), users)
    return Batch({"user": user, "@score": rng.integers(0, 50, rows) / 50, "@label": (rng.random(rows) < 0.2).astype(int)})


def test_gauc_and_its_coverage_by_brute_force():
    from sklearn.metrics import roc_auc_score

    batch = make_log()
    user, score, label = (np.asarray(batch[name]) for name in ("user", "@score", "@label"))
    total = rows = 0.0
    for u in np.unique(user):
        mine = user == u
        if 0 < label[mine].sum() < mine.sum():
            total += mine.sum() * roc_auc_score(label[mine], score[mine])
            rows += mine.sum()
    summary = PerUnit(unit="user", measures=(AreaUnderCurve(),), weighting="rows").summarize(batch)
    assert summary.mean("AUC") == pytest.approx(total / rows, abs=1e-12)
    assert summary.coverage("AUC") == pytest.approx(rows / 3000)
    assert summary.of("AUC").defined + summary.of("AUC").undefined == summary.units == len(np.unique(user))


def test_a_score_of_user_bias_alone_has_a_high_auc_and_gauc_one_half():
    rng = np.random.default_rng(6)
    user = np.repeat(np.arange(300), 30)
    rate = rng.beta(0.5, 2, 300)[user]
    batch = Batch({"user": user, "all": np.zeros(9000, int), "@score": rate, "@label": (rng.random(9000) < rate).astype(int)})
    overall = PerUnit(unit="all", measures=(AreaUnderCurve(),)).summarize(batch).mean("AUC")
    grouped = PerUnit(unit="user", measures=(AreaUnderCurve(),), weighting="rows").summarize(batch).mean("AUC")
    assert overall > 0.75
    assert grouped == 0.5


def test_rows_that_cannot_be_ranked_are_counted():
    batch = Batch({"user": Categorical(np.array([0, 0, 0, 0, 0, -1]), np.array(["a"], dtype=object)),
                   "@score": np.array([.9, .1, np.nan, .5, .5, .5]), "@label": np.array([1, 0, 1, np.nan, -1, 1])})
    summary = PerUnit(unit="user", measures=(AreaUnderCurve(),)).summarize(batch)
    assert (summary.invalid, summary.rows, summary.units, summary.mean("AUC")) == (4, 2, 1, 1)


def test_a_units_weight_is_the_mean_of_its_rows_weights():
    batch = Batch({"user": np.array([1, 1, 2, 2]), "@score": np.array([.9, .1, .1, .9]), "@label": np.array([1, 0, 1, 0]),
                   "w": np.array([1., 5, 1, 1])})
    for weighting in ("unit", "rows"):
        stat = Weighted(stat=PerUnit(unit="user", measures=(AreaUnderCurve(),), weighting=weighting), by="w")
        summary = stat.summarize(batch)
        assert summary.mean("AUC") == 0.75
        assert (summary.units, summary.rows) == (4, 8)


def test_bucketed_by_user_gives_an_interval():
    stat = Bucketed(stat=PerUnit(unit="user", measures=(AreaUnderCurve(),), weighting="rows"), by="user", buckets=20)
    summary = stat.summarize(make_log())
    estimate = summary.estimate(lambda total: total.mean("AUC"), unit="GAUC", n=lambda total: total.units, of="users")
    assert estimate.low < 0.5 < estimate.high
    assert estimate.value == pytest.approx(PerUnit(unit="user", measures=(AreaUnderCurve(),), weighting="rows")
                                           .summarize(make_log()).mean("AUC"), abs=1e-12)


def test_the_unit_is_told_through_compositions():
    stat = PerUnit(unit="request", measures=(NDCG(),))
    assert unit_of(Bucketed(stat=Weighted(stat=stat, by="w"), by="user")) == "request"


def test_mistakes_are_told():
    with pytest.raises(UsageError, match="at least 1 place"):
        Recall(k=0)
    with pytest.raises(UsageError, match="gain is 'log'"):
        NDCG(gain="log")
    with pytest.raises(UsageError, match="no measures"):
        PerUnit(unit="u", measures=())
    with pytest.raises(UsageError, match="weighting is 'clicks'"):
        PerUnit(unit="u", measures=(NDCG(),), weighting="clicks")
    summary = PerUnit(unit="user", measures=(NDCG(),)).summarize(make_log())
    with pytest.raises(Unavailable, match="Recall@10 was not measured"):
        summary.mean(Recall())
    with pytest.raises(DataError, match="no column 'session'"):
        PerUnit(unit="session", measures=(NDCG(),)).summarize(make_log())
