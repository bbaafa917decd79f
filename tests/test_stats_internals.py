"""Embedding shape, unit activity and training series against linear algebra and planted faults."""

import tracemalloc

import numpy as np
import pytest

from recspect.diagnosis.batch import Batch, Categorical
from recspect.diagnosis.stats.gram import Gram
from recspect.diagnosis.stats.series import Series
from recspect.diagnosis.stats.units import UnitActivity
from recspect.errors import DataError, UsageError


def gram(matrix):
    return Gram(column="e").summarize(Batch({"e": np.asarray(matrix)}))


def added(matrix, parts=7):
    total = Gram(column="e").zero()
    for part in np.array_split(np.asarray(matrix), parts):
        total = total + gram(part)
    return total


# ---------------------------------------------------------------------- Gram


@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_gram_equals_linear_algebra(shift):
    x = np.random.default_rng(0).normal(shift, [1, 2, .5, 1e-3], (400, 4))
    found = added(x)
    np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.outer, x.T @ x, rtol=1e-10)
    np.testing.assert_allclose(found.singular_values(), np.linalg.svd(x - x.mean(0), compute_uv=False), rtol=1e-6)
    raw = np.linalg.svd(x, compute_uv=False)
    np.testing.assert_allclose(found.singular_values(centred=False), raw, rtol=1e-4)
    assert found.information_abundance() == pytest.approx(raw.sum() / raw[0], rel=1e-5)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit @ unit.T
    assert found.mean_cosine == pytest.approx(cosines[~np.eye(400, dtype=bool)].mean())
    assert found.mean_norm == pytest.approx(np.linalg.norm(x, axis=1).mean())


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_table_of_rank_r_has_rank_and_abundance_of_at_most_r(rank):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3000, rank)) @ np.linalg.qr(rng.normal(size=(8, 8)))[0][:rank]
    found = added(x)
    assert found.effective_rank() <= rank + 1e-6
    assert found.information_abundance() <= rank + 1e-6
    assert found.effective_rank() > .97 * rank


def test_collapse_onto_a_mean_is_seen_only_by_the_raw_figure():
    x = np.random.default_rng(2).normal(size=(5000, 16)) + 10
    found = gram(x)
    assert found.effective_rank() > 15.9
    assert found.information_abundance() < 2.5
    assert found.mean_cosine > .98


def test_vectors_that_cannot_be_judged():
    found = gram(np.array([[1., np.nan], [np.inf, 0], [1e200, 0], [0, 0], [3, 4]]))
    assert (found.count, found.invalid, found.zeros, found.mean_norm) == (2, 3, 1, 2.5)
    empty = Gram(column="e").zero()
    assert np.isnan([empty.mean_norm, empty.mean_cosine, empty.effective_rank(), empty.information_abundance()]).all()
    assert np.isnan(gram(np.zeros((5, 3))).effective_rank())
    assert np.isnan(gram([[1., 2]]).covariance).all()
    with pytest.raises(DataError, match="width 2 and of width 3"):
        _ = gram(np.ones((2, 2))) + gram(np.ones((2, 3)))


def test_float32_tables_larger_than_a_piece():
    x = np.random.default_rng(3).normal(size=(150_000, 3)).astype(np.float32)
    np.testing.assert_allclose(gram(x).covariance, np.cov(x.T.astype(float)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shift", [0.0, 3.0, 1000.0])  # without a second pass, and with one
def test_pieces_with_a_far_mean_and_invalid_vectors_equal_linear_algebra(shift, weighted):
    rng = np.random.default_rng(5)
    x = rng.normal(shift, 1, (30_000, 8)).astype(np.float32)  # two pieces
    x[[0, 17_000, 29_999], [1, 2, 3]] = [np.nan, np.inf, -np.inf]
    x[20_000] = 0
    w = rng.integers(1, 4, len(x)).astype(float) if weighted else None
    found = Gram(column="e").summarize(Batch({"e": x}), w)
    full = np.ones(len(x)) if w is None else w
    good = np.isfinite(x).all(1)
    y, v = x[good].astype(float), full[good]
    assert (found.count, found.invalid, found.zeros) == (v.sum(), full[~good].sum(), full[20_000])
    np.testing.assert_allclose(found.mean, np.average(y, axis=0, weights=v), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(y.T, fweights=v.astype(int)), rtol=1e-11, atol=1e-11)
    length = np.linalg.norm(y, axis=1)
    assert found.norms == pytest.approx((v * length).sum(), rel=1e-12)
    np.testing.assert_allclose(found.directions, (y / np.where(length > 0, length, 1)[:, None] * v[:, None]).sum(0), rtol=1e-11, atol=1e-8)


def test_small_singular_values_are_as_exact_as_the_docstring_says():
    rng = np.random.default_rng(6)
    size = np.array([1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
    x = np.linalg.qr(rng.normal(size=(20_000, 6)))[0] * size @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    error = np.abs(gram(x).singular_values(centred=False) / np.linalg.svd(x, compute_uv=False) - 1)
    assert (error <= 1e-15 / size**2 + 1e-14).all(), error


def test_a_table_is_summed_up_without_a_copy_of_it():
    x = np.random.default_rng(7).normal(1, 1, (400_000, 16)).astype(np.float32)  # 26 MB
    tracemalloc.start()
    gram(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


# ---------------------------------------------------------------------- UnitActivity


def test_dead_dormant_and_saturated_units_are_found():
    rng = np.random.default_rng(4)
    h = np.maximum(rng.normal(0, 1, (8000, 6)), 0)
    h[:, 1] = 0
    h[:, 2] *= .01
    h[:, 3] = rng.normal(0, 1, 8000) + 6
    found = UnitActivity(column="h").summarize(Batch({"h": h}))
    assert found.dead.tolist() == [False, True, False, False, False, False]
    assert found.dormant().tolist() == [False, True, True, False, False, False]
    assert found.saturated_share[3] > .95
    assert found.saturated_share[[0, 1, 2, 4, 5]].max() < .001
    np.testing.assert_allclose(found.mean, h.mean(0))
    np.testing.assert_allclose(found.deviation, h.std(0), rtol=1e-9)
    np.testing.assert_allclose(found.active_share, (h > 0).mean(0))
    np.testing.assert_allclose(found.activity, np.abs(h).mean(0) / np.abs(h).mean())


def test_activity_of_nothing_and_of_what_is_not_finite():
    empty = UnitActivity(column="h").zero()
    assert (empty.units, empty.dead.tolist(), empty.dormant().tolist()) == (0, [], [])
    found = UnitActivity(column="h").summarize(Batch({"h": np.array([[np.nan, np.inf, -1.], [np.nan, 2, -3]])}))
    assert found.finite.tolist() == [0, 1, 2]
    assert found.dead.tolist() == [False, False, True]
    assert found.saturated_share.tolist() == [0, .5, 0]
    np.testing.assert_array_equal(found.mean, [np.nan, 2, -2])
    with pytest.raises(DataError, match="3 and of 2 units"):
        _ = found + UnitActivity(column="h").summarize(Batch({"h": np.ones((1, 2))}))


# ---------------------------------------------------------------------- Series


def internals(steps, values, series="loss/train", place="", epoch=0):
    n = len(steps)
    return Batch({"@step": np.asarray(steps), "@epoch": np.full(n, epoch), "@series": Categorical(np.zeros(n, int), np.array([series], dtype=object)),
                  "@place": Categorical(np.zeros(n, int), np.array([place], dtype=object)), "@value": np.asarray(values, dtype=float)})


def test_a_series_is_read_by_place_and_in_order_of_steps():
    stat = Series(name="loss/train")
    found = (stat.summarize(internals([20, 10], [.5, .7], epoch=2)) + stat.summarize(internals([30], [np.nan], epoch=3))
             + stat.summarize(internals([10], [1], place="mlp.0")) + stat.summarize(internals([5], [9], series="other")))
    line = found.line()
    assert line.steps.tolist() == [10, 20, 30]
    np.testing.assert_array_equal(line.values, [.7, .5, np.nan])
    assert line.epochs.tolist() == [2, 2, 3]
    assert np.isnan(line.last)
    assert sorted(found.lines) == ["", "mlp.0"]
    assert found.line("fm") is None
    assert stat.zero().line() is None


def test_a_step_recorded_twice_has_the_mean():
    stat = Series(name="loss/train")
    found = stat.summarize(internals([10, 10], [1, 2])) + stat.summarize(internals([10], [6]))
    assert found.line().values.tolist() == [3]


@pytest.mark.parametrize("first", [0, 3])
def test_long_runs_are_thinned_evenly_and_the_same_in_any_order(first):
    steps = np.arange(first, 10_000)
    stat = Series(name="loss/train", capacity=256)
    whole = stat.summarize(internals(steps, steps)).line()
    assert 128 <= len(whole.steps) <= 256
    assert (whole.steps % whole.stride == 0).all()
    assert set(np.diff(whole.steps)) == {whole.stride}
    np.testing.assert_array_equal(whole.values, whole.steps)
    total = stat.zero()
    for start in np.random.default_rng(5).permutation(np.arange(0, len(steps), 100)):
        total = total + stat.summarize(internals(steps[start:start + 100], steps[start:start + 100]))
    np.testing.assert_array_equal(total.line().steps, whole.steps)
    np.testing.assert_array_equal(total.line().values, whole.values)


def test_too_many_places_are_said():
    stat = Series(name="loss/train", places=2)
    found = stat.zero()
    for place in "abc":
        found = found + stat.summarize(internals([1], [1], place=place))
    assert len(found.lines) == 2
    assert found.truncated
    with pytest.raises(UsageError, match="capacity 1"):
        Series(name="x", capacity=1)
