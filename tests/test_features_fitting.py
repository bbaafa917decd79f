"""Encoders fitted piece by piece: as from all rows at once, with memory that grows with what is distinct."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recspect.diagnosis.batch import Batch
from recspect.errors import DataError
from recspect.features import FeatureTransform, counting
from recspect.features.counting import Moments
from recspect.features.fitting import Fitting
from recspect.schema import Field, Schema
from test_features import SCHEMA, batch_of, rows_strategy, table


@settings(deadline=None, max_examples=60)
@given(rows_strategy, st.lists(st.integers(0, 30), max_size=3), rows_strategy)
def test_pieces_teach_what_the_whole_teaches(rows, cuts, later):
    whole = table(rows)
    fitting, edges = Fitting(SCHEMA), [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    for start, stop in pairwise(edges):
        fitting.add(whole.take(slice(start, stop)))
    pieces, at_once = FeatureTransform(SCHEMA, fitting.finish()), FeatureTransform.fit(SCHEMA, whole)
    assert pieces.sizes == at_once.sizes
    one, other = (transform.transform(table(later)) for transform in (pieces, at_once))
    for name, ids in other.ids.items():
        assert one.ids[name].tolist() == ids.tolist(), name
    for name, numbers in other.numbers.items():
        np.testing.assert_allclose(one.numbers[name].numpy(), numbers.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)  # moments are added up in another order


@given(st.lists(st.floats(-50, 50).map(lambda x: round(x, 1)), min_size=1, max_size=200), st.integers(2, 12))
@settings(deadline=None)
def test_edges_of_quantiles_are_numpys(values, buckets):
    field = Field(name="x", kind="numeric", scaling="quantile", quantile_buckets=buckets)
    found = FeatureTransform.fit(Schema(fields=[field]), Batch({"x": np.array(values)})).encoders["x"].edges
    quantiles = np.quantile(values, np.arange(1, buckets) / buckets, method="higher")
    assert set(quantiles[quantiles > min(values)]) <= set(found)


def test_moments_are_those_of_all_numbers():
    values = np.random.default_rng(0).normal(1e6, 1, 10_000)
    moments = Moments()
    for part in np.array_split(values, 7):
        moments.add(part)
    assert moments.mean == pytest.approx(values.mean(), rel=1e-14)
    assert moments.deviation == pytest.approx(values.std(), rel=1e-9)
    for huge in (1e300, -1e300):
        moments.add(np.array([huge]))
    assert np.isfinite([moments.mean, moments.deviation]).all()


def test_a_text_and_a_number_are_no_column():
    fitting = Fitting(Schema(fields=[Field(name="x")]))
    fitting.add(batch_of(x=["a"]))
    with pytest.raises(DataError, match="texts in some rows and numbers in others"):
        fitting.add(batch_of(x=[1]))


def test_many_numbers_are_thinned_within_what_is_said(monkeypatch):
    monkeypatch.setattr(counting, "DISTINCT_NUMBERS", 500)
    values = np.random.default_rng(1).normal(size=40_000)
    field = Field(name="x", kind="numeric", scaling="quantile", quantile_buckets=8)
    fitting = Fitting(Schema(fields=[field]))
    for part in np.array_split(values, 40):
        fitting.add(Batch({"x": part}))
    assert fitting._fields["x"]._counts._held <= 2 * 500 + 1000
    edges = fitting.finish()["x"].edges
    shares = np.searchsorted(np.sort(values), edges, side="left") / len(values)
    np.testing.assert_allclose(shares, np.arange(1, 8) / 8, atol=40 / 500)  # each of 40 merges moves a rank by at most one part in 500


def test_collisions_of_many_values_are_estimated(monkeypatch):
    monkeypatch.setattr(counting, "DISTINCT_HASHES", 5_000)
    field = Field(name="x", hash_buckets=20_000)
    fitting = Fitting(Schema(fields=[field]))
    for start in range(0, 60_000, 5_000):
        fitting.add(Batch({"x": np.arange(start, start + 10_000)}))
    found = fitting.finish()["x"].codes
    exact = FeatureTransform.fit(Schema(fields=[field]), Batch({"x": np.arange(3_000)})).encoders["x"].codes
    assert exact.distinct == 3_000
    assert found.counts.sum() == 120_000
    assert len(fitting._fields["x"]._counts._known) <= 5_000
    assert found.distinct == pytest.approx(65_000, rel=0.08)  # four deviations of 5,000 minimum values, halved
    assert found.collided == pytest.approx(65_000 * (1 - np.exp(-65_000 / 20_000)), rel=0.1)
