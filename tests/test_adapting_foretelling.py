"""How well metrics foretold launches: against SciPy, brute force and a world whose truth is known."""

import itertools

import numpy as np
import pytest
from scipy.stats import kendalltau

from recspect.adapting.foretelling import foretold, kendall, selection_regret
from recspect.adapting.latent import Prior
from recspect.errors import DataError, UsageError
from recspect.experimenting.experiment import Corpus
from recspect.worlds.experiments import PILOT


@pytest.mark.parametrize("digits", [0, 1, 9])
def test_kendall_is_scipys(digits):
    generator = np.random.default_rng(digits)
    x = generator.normal(size=60).round(digits)
    y = (x + generator.normal(size=60)).round(digits)
    assert kendall(x, y) == pytest.approx(kendalltau(x, y).statistic)
    assert kendall(x, np.ones(60)) == 0


def test_regret_is_the_mean_over_all_choices():
    generator = np.random.default_rng(0)
    scores, values = generator.normal(size=7), generator.normal(size=7)
    every = [max(values[list(chosen)]) - values[max(chosen, key=lambda k: scores[k])] for chosen in itertools.combinations(range(7), 3)]
    assert selection_regret(scores, values, choices=3, draws=40_000) == pytest.approx(np.mean(every), abs=0.02)
    assert selection_regret(values, values, choices=3) == 0
    with pytest.raises(UsageError, match="choice among 8 of 7"):
        selection_regret(scores, values, choices=8)


def test_noise_is_taken_out_of_correlations():
    corpus, _ = PILOT.draw(800, 0)
    found = {one.metric: one for one in foretold(corpus, Prior.of_beliefs((0.0,) * 8, experiments=5), draws=30)}
    assert len(found) == 8
    for place, true in enumerate(PILOT.correlation[:5], start=1):
        one = found[f"metric_{place}"]
        assert one.low - 0.05 <= true <= one.high + 0.05
        assert abs(one.observed) < max(abs(true), 0.25)
    best = next(iter(found.values()))
    assert best.metric in ("metric_1", "metric_8")
    assert found["metric_1"].same_sign > found["metric_7"].same_sign
    assert found["metric_1"].regret < found["metric_7"].regret
    assert found["metric_1"].tau > 0 > found["metric_7"].tau - 0.2


def test_few_launches_and_metrics_that_were_hardly_measured_say_nothing():
    with pytest.raises(DataError, match="9 launches"):
        foretold(PILOT.draw(9, 0)[0], Prior.of_beliefs((0.0,) * 8))
    corpus = Corpus.of([e.of_metrics(e.metrics[:-1]) if k >= 5 else e for k, e in enumerate(PILOT.draw(30, 0)[0])], PILOT.metrics)
    assert {one.metric for one in foretold(corpus, Prior.of_beliefs((0.0,) * 8), draws=0)} == set(PILOT.metrics[1:-1])
