"""The search for the worst slices against brute force, and against figures of the paper's formula."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recspect.diagnosis.diagnostics.predictions.sliceline import (
    children,
    every_slice,
    score,
    singles,
    upper_bound,
    worst_slices,
)
from recspect.errors import UsageError


def inside(codes, terms):
    mask = np.ones(len(codes), dtype=bool)
    for field, value in terms:
        mask &= codes[:, field] == value
    return mask


def by_brute_force(errors, codes, least, k, levels, alpha):
    """Scores of the k worst slices, from every slice there is."""
    masks = [mask for terms in every_slice(codes, levels) if (mask := inside(codes, terms)).sum() >= least]
    found = score(np.array([errors[mask].sum() for mask in masks]), np.array([float(mask.sum()) for mask in masks]), mean_error=errors.mean(), rows=len(errors), alpha=alpha)
    return np.sort(found[found > 1e-12])[::-1][:k]


def test_scores_of_fact_m10():
    """SliceLine's formula for (error, size) (3, 3), (3, 4), (4, 4) of 8 rows with a mean error of a half."""
    found = score(np.array([3.0, 3.0, 4.0]), np.array([3.0, 4.0, 4.0]), mean_error=0.5, rows=8, alpha=0.95)
    assert found == pytest.approx([0.866667, 0.425, 0.9], abs=1e-6)
    assert score(np.array([4.0, 0.0]), np.array([8.0, 0.0]), mean_error=0.5, rows=8).tolist() == [0.0, -np.inf]


TABLES = st.fixed_dictionaries({
    "seed": st.integers(0, 2**32 - 1), "rows": st.integers(1, 50), "columns": st.integers(1, 6), "values": st.integers(1, 25), "least": st.integers(1, 6),
    "k": st.integers(1, 6), "alpha": st.sampled_from([0.3, 0.6, 0.95, 1.0]), "levels": st.integers(1, 3)})


def table_of(seed, rows, columns, values):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, values, (rows, columns))
    return rng.exponential(size=rows).round(2) * (rng.random(rows) < rng.random()), codes


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(case=TABLES)
@example(case={"seed": 1, "rows": 8, "columns": 6, "values": 25, "least": 1, "k": 3, "alpha": 0.95, "levels": 3})  # more one-hot columns than rows
def test_the_worst_slices_are_those_of_brute_force(case):
    errors, codes = table_of(case["seed"], case["rows"], case["columns"], case["values"])
    rules = {name: case[name] for name in ("least", "k", "levels", "alpha")}
    found = worst_slices(errors, codes, **rules)
    expected = by_brute_force(errors, codes, **rules) if errors.sum() else np.zeros(0)
    assert found.scores == pytest.approx(expected)
    for terms, error, size in zip(found.terms, found.errors, found.sizes, strict=True):
        assert (errors[inside(codes, terms)].sum(), inside(codes, terms).sum()) == pytest.approx((error, size))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(case=TABLES)
def test_no_slice_within_scores_above_the_bound(case):
    errors, codes = table_of(case["seed"], case["rows"], case["columns"], case["values"])
    if not errors.sum():
        return
    rules = {"mean_error": float(errors.mean()), "rows": float(len(errors)), "alpha": case["alpha"]}
    level = singles(errors, list(codes.T))
    for _ in range(2):
        bounds = dict(zip(level.keys(), upper_bound(level, least=case["least"], **rules), strict=True))
        for terms in every_slice(codes, 3):
            mask = inside(codes, terms)
            if mask.sum() >= case["least"]:
                own = score(np.array([errors[mask].sum()]), np.array([float(mask.sum())]), **rules)[0]
                assert all(own <= bound + 1e-9 for above, bound in bounds.items() if set(above) <= set(terms))
        level = children(level)


def test_pruning_spares_counting():
    rng = np.random.default_rng(0)
    codes, errors = rng.integers(0, 6, (4000, 7)), rng.exponential(size=4000)
    errors[(codes[:, 1] == 2) & (codes[:, 3] == 0)] *= 20
    found = worst_slices(errors, codes, least=20, k=1)
    assert found.terms == (((1, 2), (3, 0)),)
    assert found.counted < 0.5 * len(every_slice(codes, 3))


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_slice_of_720_of_60000_rows_comes_first(seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 9, (60_000, 10))
    rows = rng.choice(60_000, 720, replace=False)
    codes[rows, 3], codes[rows, 7] = 9, 9
    errors = rng.exponential(size=60_000)
    errors[rows] *= 10
    assert set(worst_slices(errors, codes, least=120).terms[0]) <= {(3, 9), (7, 9)}


def test_nothing_wrong_has_no_slices_and_wrong_input_is_refused():
    codes = np.zeros((5, 2), dtype=int)
    assert worst_slices(np.zeros(5), codes, least=1).terms == ()
    assert worst_slices(np.ones(5), codes, least=1).terms == ()
    for errors, rules in ((-np.ones(5), {}), (np.full(5, np.nan), {}), (np.ones(4), {}), (np.ones(5), {"k": 0}), (np.ones(5), {"alpha": 0.0})):
        with pytest.raises(UsageError):
            worst_slices(errors, codes, least=1, **rules)
