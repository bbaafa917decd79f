"""Whether the loss of a training fell, and since when it stands still: by slopes, against scipy and on series whose course is known."""

import numpy as np
import pytest
from scipy.stats import theilslopes

from judging import ask
from recspect.diagnosis.diagnostics.training.plateau import MOST, Plateau, standstill, theil_sen
from recspect.diagnosis.finding import Verdict

COURSES = {"level": lambda t: 0 * t, "rising": lambda t: 0.1 * t, "falling": lambda t: -0.1 * t, "at first": lambda t: 0.3 * np.exp(-100 * t)}


def losses(course, noise, seed, steps=400):
    rng = np.random.default_rng(seed)
    return 0.5 * (1 + COURSES[course](np.linspace(0, 1, steps))) * np.exp(noise * rng.normal(size=steps))


def table(values):
    steps = np.arange(len(values))
    return {"@step": steps * 5, "@epoch": np.zeros(len(values)), "@series": np.full(len(values), "loss/train"), "@place": np.full(len(values), ""), "@value": values}


def judged(values):
    (finding,) = ask(Plateau(), table(values))
    return finding


@pytest.mark.parametrize("seed", range(5))
def test_slope_and_interval_are_those_of_scipy(seed):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.choice(10_000, 120, replace=False)).astype(np.float64)
    y = rng.normal(size=120) + 1e-4 * seed * x
    expected = theilslopes(y, x)
    np.testing.assert_allclose(theil_sen(x, y), (expected.slope, expected.low_slope, expected.high_slope), rtol=1e-12)


def test_a_line_without_noise_has_its_slope_however_many_points():
    x = np.arange(10 * MOST, dtype=np.float64)
    np.testing.assert_allclose(theil_sen(x, 3.0 - 0.25 * x), -0.25, rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_a_loss_that_rose_is_found(seed, noise):
    finding = judged(losses("rising", noise, seed))
    assert finding.verdict is Verdict.WARN
    assert finding.estimate.low < -0.1 < finding.estimate.high or finding.estimate.value == pytest.approx(-0.1, abs=0.03)


def test_a_loss_that_stood_still_is_found_where_noise_lets_it_be():
    found = [judged(losses("level", 0.02, seed)).verdict for seed in range(20)]
    assert found.count(Verdict.WARN) >= 14
    assert found.count(Verdict.PASS) <= 1
    assert judged(losses("level", 0.3, 1)).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("course", ["falling", "at first"])
@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_fell_is_quiet(course, seed):
    assert judged(losses(course, 0.02, seed)).verdict is Verdict.PASS
    assert judged(losses(course, 0.3, seed)).verdict is not Verdict.WARN


def test_it_says_since_when_the_loss_stands_still():
    steps = np.arange(1000.0)
    rng = np.random.default_rng(0)
    values = np.where(steps < 500, 1.0 - 0.001 * steps, 0.5) + 0.01 * rng.normal(size=1000)
    since = standstill(steps, values)
    assert 400 <= since <= 600
    assert f"from step {since * 5:,.0f} on" in judged(values).claim
    assert standstill(steps, 1.0 - 0.0005 * steps + 0.01 * rng.normal(size=1000)) is None


def test_what_cannot_be_told_is_unknown():
    assert judged(np.linspace(1, 0.5, 20)).verdict is Verdict.UNKNOWN
    broken = losses("falling", 0.02, 0)
    broken[7] = np.nan
    assert judged(broken).verdict is Verdict.UNKNOWN
