"""Skew by replay, and fields that are unused or relied on without helping."""

import numpy as np
import pytest

from judging import diagnose, is_quiet, verdicts
from recspect.diagnosis.batch import Batch, Categorical, Ragged
from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.diagnostics.features.skew import Skew
from recspect.diagnosis.diagnostics.features.unused import Unused, importance_evidence
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.probes.mismatch import Mismatch, mismatch_fields
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.source import read
from recspect.schema import Field, Label, Schema

SCHEMA = Schema(user="user", labels=[Label(name="click")], fields=[Field(name="city"), Field(name="age", kind="numeric"), Field(name="noise")])
SEEDS = range(4)


def served(seed, rows=6000, share=0.0):
    """A table and what was logged while serving: a share of the ages is a default."""
    rng = np.random.default_rng(seed)
    age, city = rng.normal(40, 10, rows), rng.integers(0, 9, rows)
    late = rng.random(rows) < share
    table = {"user": rng.integers(0, 300, rows), "click": rng.integers(0, 2, rows), "age": age, "city": city,
             "served:age": np.where(late, 0.0, age.astype(np.float32)), "served:city": city.astype(float)}
    return {**table, **Mismatch(mismatch_fields(tuple(table))).observe(Batch(table))}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_default_value_while_serving_is_named(seed):
    assert verdicts(diagnose(Skew(), SCHEMA, served(seed, share=0.05))) == {"age": Verdict.FAIL, "": Verdict.PASS}


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_values_are_quiet_also_in_other_precision(seed):
    assert is_quiet(diagnose(Skew(), SCHEMA, served(seed)))


def test_without_served_values_the_answer_is_unknown_and_says_what_to_log():
    (finding,) = diagnose(Skew(), SCHEMA, {"user": np.arange(9), "click": np.arange(9) % 2})
    assert finding.verdict is Verdict.UNKNOWN
    assert "served:<field>" in finding.threshold


def test_mismatch_compares_numbers_text_lists_vectors_and_missing_values():
    text = Categorical(np.array([0, 1, -1]), np.array(["a", "b"], dtype=object))
    tags = Ragged(np.array([1, 2, 3]), np.array([0, 2, 2, 3]))
    batch = Batch({
        "x": np.array([1.0, np.nan, 3.0]), "served:x": np.array([1.0 + 1e-9, np.nan, np.nan]),
        "c": text, "served:c": Categorical(np.array([0, 0, -1]), np.array(["a", "b"], dtype=object)),
        "t": tags, "served:t": Ragged(np.array([1, 2, 7]), np.array([0, 2, 2, 3])),
        "v": np.array([[1.0, 2.0]] * 3), "served:v": np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0]]), "served:other": np.zeros(3)})
    probe = Mismatch(mismatch_fields(tuple(batch)))
    found = probe.observe(batch)
    assert tuple(found) == probe.adds
    assert {name: column.tolist() for name, column in found.items()} == {
        "@mismatch:x": [0, 0, 1], "@mismatch:c": [0, 1, 0], "@mismatch:t": [0, 0, 1], "@mismatch:v": [0, 0, 1]}


def contributions(seed, *, rows=4000, noise=0.3, useless=0.0):
    """Reliance and usefulness of three fields: `noise` moves the score by so much and takes `useless` off the loss."""
    rng = np.random.default_rng(seed)
    table = {"user": rng.integers(0, 300, rows)}
    for field, size, use in (("city", 0.5, 0.02), ("age", 0.4, 0.015), ("noise", noise, useless)):
        table[f"@reliance:{field}"] = np.abs(rng.normal(0, size, rows)) if size else np.zeros(rows)
        table[f"@usefulness:{field}"] = rng.normal(use, 0.05, rows)
    return table


@pytest.mark.parametrize("seed", SEEDS)
def test_a_field_that_does_not_move_the_score_is_unused(seed):
    assert verdicts(diagnose(Unused(), SCHEMA, contributions(seed, noise=0.0001, useless=0.0))) == {"noise": Verdict.WARN}


@pytest.mark.parametrize("seed", SEEDS)
def test_fields_that_help_are_quiet(seed):
    assert is_quiet(diagnose(Unused(), SCHEMA, contributions(seed, useless=0.01)))


def test_without_a_model_the_answer_is_unknown():
    (finding,) = diagnose(Unused(), SCHEMA, {"user": np.arange(500), "click": np.arange(500) % 2})
    assert finding.verdict is Verdict.UNKNOWN


def test_importance_for_the_overview_is_the_mean_with_deviation_and_interval():
    table = {**contributions(1), "@cluster": contributions(1)["user"]}
    scope = Scope(schema=SCHEMA, target=frozenset(table))
    bars, ranked = importance_evidence(tally(read(table), Unused().needs(scope).target), scope)
    means = {field: table[f"@reliance:{field}"].mean() for field in ("city", "age", "noise")}
    expected = {field: mean / sum(means.values()) for field, mean in means.items()}
    assert dict(zip(bars.names, bars.values, strict=True)) == pytest.approx(expected)
    assert all(low < value < high for low, value, high in zip(bars.low, bars.values, bars.high, strict=True))
    assert [row[0] for row in ranked.rows] == ["city", "age", "noise"]
    assert ranked.rows[0][4] == f"{table['@reliance:city'].std(ddof=1):.3f}"
