"""One limit for all null-calibrated checks of a run."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from judging import diagnose, is_quiet, with_roles
from recspect.diagnosis.diagnostic import Diagnostic, NullCalibrated, Scope, gathered, measurements, plan, with_p_limit
from recspect.diagnosis.diagnostics.policy import two_sided_p
from recspect.diagnosis.diagnostics.predictions.calibration import Calibration
from recspect.diagnosis.diagnostics.predictions.worst_slices import WorstSlices
from recspect.diagnosis.multiplicity import Check, p_limit
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import Slice
from recspect.diagnosis.source import read
from recspect.diagnosis.tally import Tally
from recspect.schema import Field, Label, Schema


def checks(p, effect=1.0):
    return [Check(p_value=float(value), effect=effect, minimum=0.5) for value in p]


@pytest.mark.parametrize("seed", range(20))
def test_the_limit_rejects_what_benjamini_and_hochberg_reject(seed):
    rng = np.random.default_rng(seed)
    p = np.concatenate([rng.random(80), rng.random(20) ** 6])
    limit = p_limit(checks(p))
    np.testing.assert_array_equal(p <= limit if limit else np.zeros(100, dtype=bool), scipy_stats.false_discovery_control(p) <= 0.05)


def test_no_check_and_no_discovery_give_no_limit():
    assert p_limit([]) == 0
    assert p_limit(checks([0.2, 0.06])) == 0


def test_small_effects_do_not_loosen_the_limit_but_are_counted():
    """100 fields that differ beyond doubt and do not matter, and 100 slices of nothing but chance."""
    chance = np.random.default_rng(1).random(100)
    harmless = checks(np.zeros(100), effect=0.1)
    assert p_limit([*harmless, *checks(chance)]) == 0
    assert p_limit([*checks(np.zeros(100)), *checks(chance)]) > 0.02  # what would happen if they counted
    assert p_limit(checks([0.0004])) == 0.0004
    assert p_limit([*harmless, *checks([0.0004])]) == 0.0004
    assert p_limit([*harmless, *checks([0.0006])]) == 0


def test_false_discoveries_stay_below_five_percent():
    rng = np.random.default_rng(2)
    share = []
    for _ in range(2000):
        p = np.concatenate([rng.random(90), 2 * scipy_stats.norm.sf(np.abs(rng.normal(3.5, 1, 10)))])
        found = p <= p_limit(checks(p))
        share.append(found[:90].sum() / max(found.sum(), 1))
    assert np.mean(share) <= 0.05


def test_the_limit_is_taken_over_all_diagnostics():
    rng = np.random.default_rng(3)
    schema = Schema(user="user", labels=[Label(name="click")], fields=[Field(name="city"), Field(name="tab")])
    p = rng.beta(2, 6, 4000)
    table = with_roles({"user": rng.integers(0, 300, 4000), "city": rng.integers(0, 5, 4000), "tab": rng.integers(0, 3, 4000), "@score": p,
                        "click": (rng.random(4000) < p).astype(float)}, schema)
    scope = Scope(schema=schema, target=frozenset(table), slices=(Slice.parse("city=1"), Slice.parse("tab=2")))

    def number_of_checks(*diagnostics: Diagnostic) -> int:
        planned = plan(diagnostics, scope)
        target, reference = gathered(planned, scope, lambda keys: tally(read(table), keys), lambda _: Tally({}))
        return with_p_limit(measurements(planned, target, reference, scope), scope).checks

    slices, declared = number_of_checks(WorstSlices()), number_of_checks(Calibration())
    assert declared == 2
    assert slices == 1  # the furthest of all slices is one comparison, held against the furthest by chance
    assert number_of_checks(WorstSlices(), Calibration()) == slices + declared
    assert isinstance(WorstSlices(), NullCalibrated)


def test_what_is_compared_is_measured_once_for_checks_and_findings(monkeypatch):
    times = []
    measure = WorstSlices.measure
    monkeypatch.setattr(WorstSlices, "measure", lambda *arguments: times.append(1) or measure(*arguments))
    rng = np.random.default_rng(4)
    schema = Schema(user="user", labels=[Label(name="click")], fields=[Field(name="city")])
    p = rng.beta(2, 6, 4000)
    table = {"user": rng.integers(0, 300, 4000), "city": rng.integers(0, 5, 4000), "@score": p, "click": (rng.random(4000) < p).astype(float)}
    assert is_quiet(diagnose(WorstSlices(), schema, table))
    assert len(times) == 1


@pytest.mark.parametrize("freedom", [9, 24, 49])
def test_student_p_values(freedom):
    for z in (0.5, 1.0, 2.0, 3.0, 4.0, 6.0):
        assert two_sided_p(-z, freedom) == pytest.approx(2 * scipy_stats.t.sf(z, freedom), rel=0.05)
    assert two_sided_p(1.96) == pytest.approx(0.05, abs=1e-4)
    assert two_sided_p(9.0, 0) == 1.0
