"""The diagnostic of fields that rankings judge differently: planted copies and noise, and quiet without them."""

import functools
import runpy
from pathlib import Path

import numpy as np
import pytest

from judging import diagnose, is_quiet, verdicts
from recspect.diagnosis.diagnostics.features.disagreement import Disagreement
from recspect.diagnosis.diagnostics.features.unused import Unused
from recspect.diagnosis.evidence import Bars, RankedTable
from recspect.diagnosis.finding import Verdict
from recspect.examining.examination import examine
from recspect.schema import Field, Label, Schema
from recspect.worlds import FieldWorld

BENCH = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "importance_truth.py"), run_name="bench")
SCHEMA = Schema(user="user", labels=[Label(name="click")], fields=[Field(name=name) for name in ("a", "b", "noise")])


def judged(seed, *, copy=False, noise=0.0, rows=6000, scale=1.0, given=1.0):
    """A linear model of known effects: `b` repeats `a` or stands alone; `noise` moves the logit and means nothing. The model gives a part of each effect.

    Contributions are exact for it: path integrals of a logit that is linear along the path.
    """
    r = np.random.default_rng(seed)
    effects = {"a": scale * r.normal(size=rows), "noise": noise * r.normal(size=rows)}
    effects["b"] = effects["a"] if copy else 0.8 * scale * r.normal(size=rows)
    truth = effects["a"] * (2 if copy else 1) + (0 if copy else effects["b"])
    click = (r.random(rows) < 1 / (1 + np.exp(-truth))).astype(float)
    effects = {name: given * effect for name, effect in effects.items()}
    logit = sum(effects.values())
    nodes, weights = np.polynomial.legendre.leggauss(16)
    share = sum(w / 2 * (1 / (1 + np.exp(-logit * (t + 1) / 2)) - click) for t, w in zip(nodes, weights, strict=True))
    table = {"user": r.integers(0, 600, rows), "click": click, "@score:permuted": 1 / (1 + np.exp(-logit))}
    for name, effect in effects.items():
        table |= {f"@attribution:{name}": effect, f"@usefulness:{name}": -effect * share}
        for k in range(5):
            table[f"@score:permuted:{name}:{k}"] = 1 / (1 + np.exp(-(logit - effect + effect[r.permutation(rows)])))
    return diagnose(Disagreement(), SCHEMA, table, fields=("a", "b", "noise"))


@pytest.mark.parametrize("seed", range(20))
def test_fields_that_stand_alone_are_quiet(seed):
    assert is_quiet(judged(seed))
    assert is_quiet(judged(seed, noise=0.05))  # too small to matter


@pytest.mark.parametrize("seed", range(10))
def test_copies_are_named(seed):
    assert verdicts(judged(seed, copy=True)) == {"a": Verdict.WARN, "b": Verdict.WARN}


@pytest.mark.parametrize("seed", range(10))
def test_noise_that_moves_the_score_is_named(seed):
    assert verdicts(judged(seed, noise=2.0))["noise"] is Verdict.WARN


def test_the_ratio_is_once_for_copies_and_twice_for_fields_alone():
    """Where effects are small, so that the loss is nearly quadratic."""
    (finding, *_) = judged(0, copy=True, rows=60_000, scale=0.4)
    assert finding.estimate.value == pytest.approx(1, abs=0.15)
    (alone,) = judged(0, rows=60_000, scale=0.4)
    bars, table = alone.evidence
    assert isinstance(bars, Bars)
    assert isinstance(table, RankedTable)
    ratio = {row[0]: row[-1] for row in table.rows}
    assert float(ratio["a"].split()[0]) == pytest.approx(2, abs=0.2)
    assert [row[1] for row in table.rows] == [1, 2, 3]
    assert [row[0] for row in table.rows][:2] == ["a", "b"]


def test_without_a_model_the_answer_is_unknown():
    (finding,) = diagnose(Disagreement(), SCHEMA, {"user": np.arange(500), "click": np.arange(500) % 2})
    assert finding.verdict is Verdict.UNKNOWN
    assert "permuted" in finding.claim


# ------------------------------------------------------------------ trained networks


@functools.cache
def report(seed, epochs=3, **settings):
    world = FieldWorld(rows=20_000, seed=seed, **settings)
    subject, train, held_out = BENCH["trained"](world, epochs=epochs, seed=seed)
    said = []
    found = examine(subject, held_out, world.schema, reference=train, diagnostics=[Disagreement(), Unused()], say=said.append)
    assert not any("left out" in line for line in said)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_healthy_models_are_quiet(seed):
    assert is_quiet(report(seed, noise=12, duplicate=False).find(Disagreement.code))


@pytest.mark.slow
def test_a_field_and_its_copy_are_named_and_drawn():
    named = [{finding.place.name for finding in report(seed, noise=12).find(Disagreement.code) if finding.verdict is Verdict.WARN} for seed in range(5)]
    assert all(names <= {"field0", "copy"} for names in named)
    assert sum(bool(names) for names in named) >= 4
    titles = [piece.title for piece in report(0, noise=12).overview]
    assert "How much does the loss rise when a field is permuted?" in titles


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_an_oversized_noise_field_is_named(seed):
    found = report(seed, epochs=4, duplicate=False).find(Disagreement.code)
    assert "noise" in {finding.place.name for finding in found if finding.verdict is Verdict.WARN}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("given", [0.25, 0.5])
def test_a_model_that_gives_too_little_of_an_effect_has_no_copies(seed, given):
    """Few rows or decay shrink what a model makes of a field: permuting it then costs 2 / (2 - c) times its usefulness, below 1.5, with no other field beside it."""
    (alone,) = judged(seed, rows=60_000, scale=0.6, given=given)  # small effects: the loss is nearly quadratic
    assert alone.verdict is Verdict.PASS
    ratio = {row[0]: row[-1] for row in alone.evidence[1].rows}
    assert float(ratio["a"].split()[0]) == pytest.approx(2 / (2 - given), abs=0.12)


@pytest.mark.parametrize("seed", range(4))
def test_copies_of_which_a_model_gives_most_are_named(seed):
    assert verdicts(judged(seed, copy=True, rows=30_000, given=0.8)) == {"a": Verdict.WARN, "b": Verdict.WARN}
