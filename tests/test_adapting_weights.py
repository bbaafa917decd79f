"""Covariance of true effects, weights and posterior against closed forms, SciPy and brute force."""

import itertools

import numpy as np
import pytest
from scipy.optimize import nnls
from scipy.stats import multivariate_normal, norm

from recspect.adapting.latent import Prior, fit_latent, log_likelihood, nearest_covariance, prior_weight, usual_noise
from recspect.adapting.posterior import Costs, posterior, slope_and_variance, weights_for
from recspect.adapting.weights import Rules, choose, cosine, free_weights, normalised, quality
from recspect.errors import DataError, UsageError
from recspect.experimenting.experiment import Corpus, Experiment
from recspect.worlds.experiments import BELIEFS, HARDER, PILOT


def covariance(width, seed, freedom=3):
    root = np.random.default_rng(seed).normal(size=(width, freedom * width))
    return root @ root.T / (freedom * width)


def off(found):
    """Largest error of a covariance of the pilot's world, in standard deviations of one observed product."""
    spread = np.sqrt(np.diag(PILOT.latent + PILOT.usual_noise))
    return np.abs((found - PILOT.latent) / np.outer(spread, spread)).max()


# ------------------------------------------------------------------ latent covariance


def test_many_experiments_give_the_true_covariance_where_the_naive_one_stays_wrong():
    corpus, _ = PILOT.draw(4000, 1)
    prior = Prior.of_beliefs(BELIEFS)
    for method in ("likelihood", "moments"):
        found = fit_latent(corpus, prior, method=method)
        assert off(found.covariance) < 0.08, method  # five standard errors of 4,000 products
        assert np.linalg.eigvalsh(found.covariance)[0] > -1e-9
    naive = corpus.effects.T @ corpus.effects / len(corpus)
    assert off(naive) > 0.7


def test_moments_are_the_weighted_mean_of_belief_and_data():
    corpus, _ = PILOT.draw(25, 3)
    prior = Prior(np.eye(9), 10.0, np.full(9, 2.0))
    data = np.mean([np.outer(e.effects, e.effects) - e.noise for e in corpus], axis=0)
    variance = (10 * 2.0 + 25 * np.maximum(np.diag(data), 0.02)) / 35
    expected = nearest_covariance((10 * np.diag(variance) + 25 * data) / 35)
    assert np.allclose(fit_latent(corpus, prior, method="moments").covariance, expected)


def test_the_likelihood_is_that_of_scipy_and_its_mode_is_one():
    corpus, _ = PILOT.draw(40, 4)
    found = fit_latent(corpus, Prior.of_beliefs(BELIEFS, experiments=1e-6)).covariance
    by_scipy = [multivariate_normal.logpdf(e.effects, cov=found + e.noise) for e in corpus]
    assert np.allclose(log_likelihood(corpus, found), by_scipy)
    best = log_likelihood(corpus, found).sum()
    generator = np.random.default_rng(0)
    for _ in range(20):  # no covariance nearby is clearly more likely
        step = generator.normal(size=(9, 9)) * 0.05
        assert log_likelihood(corpus, nearest_covariance(found + step + step.T)).sum() < best + 0.05


def test_halves_need_no_noise_covariance():
    generator = np.random.default_rng(5)
    truth = generator.multivariate_normal(np.zeros(9), PILOT.latent, 2500)
    halves = truth[:, None] + np.sqrt(2) * generator.multivariate_normal(np.zeros(9), PILOT.usual_noise, (2500, 2))
    wrong = np.eye(9) * 0.1
    corpus = Corpus(tuple(Experiment(name=str(k), metrics=PILOT.metrics, effects=h.mean(0), noise=wrong, halves=h) for k, h in enumerate(halves)))
    assert off(fit_latent(corpus, Prior.of_beliefs(BELIEFS), method="halves").covariance) < 0.12
    assert off(fit_latent(corpus, Prior.of_beliefs(BELIEFS), method="moments").covariance) > 0.6
    with pytest.raises(DataError, match="halves"):
        fit_latent(PILOT.draw(5, 0)[0], Prior.of_beliefs(BELIEFS), method="halves")


def test_a_metric_that_few_experiments_measured_is_missing_and_not_zero():
    """A new metric: the belief counts for it, the experiments count for the others."""
    corpus, _ = PILOT.draw(600, 6)
    gone = Corpus.of(
        [e.of_metrics([m for m in e.metrics if m != "metric_2"]) if k % 3 else e for k, e in enumerate(corpus)], PILOT.metrics)
    for method in ("likelihood", "moments"):
        found = fit_latent(gone, Prior.of_beliefs(BELIEFS), method=method).covariance
        assert found[2, 2] == pytest.approx(PILOT.latent[2, 2], rel=0.35)
        assert found[0, 2] == pytest.approx(PILOT.latent[0, 2], rel=0.5)


def test_without_experiments_the_belief_is_all_there_is():
    prior = Prior.of_beliefs((0.5, -0.2), variance=np.array([1.0, 4.0, 9.0]))
    found = fit_latent(Corpus(()), prior)
    assert found.method == "prior"
    assert np.allclose(found.covariance, [[1, 1, -0.6], [1, 4, -0.6], [-0.6, -0.6, 9]])
    with pytest.raises(DataError, match="typical"):
        fit_latent(Corpus(()), Prior.of_beliefs((0.5, -0.2)))


def test_units_do_not_matter():
    """A metric in other units gets a weight in other units, and nothing else changes."""
    corpus, _ = PILOT.draw(50, 7)
    factor = np.array([1000.0, 1, 1e-3, 1, 60, 1, 1, 1, 1])
    scaled = Corpus(tuple(Experiment(name=e.name, metrics=e.metrics, effects=e.effects * factor, noise=e.noise * np.outer(factor, factor)) for e in corpus))
    plain, other = (fit_latent(c, Prior.of_beliefs(BELIEFS)).covariance for c in (corpus, scaled))
    assert np.allclose(other, plain * np.outer(factor, factor), rtol=1e-6)
    weights = [normalised(choose(latent, usual_noise(c), Rules.free(9, most=4)).values, usual_noise(c)) for latent, c in ((plain, corpus), (other, scaled))]
    assert np.allclose(*weights, atol=1e-6)


def test_the_weight_of_the_belief_follows_how_right_it_is():
    corpus, _ = PILOT.draw(120, 8)
    right = Prior(PILOT.latent / np.sqrt(np.outer(np.diag(PILOT.latent), np.diag(PILOT.latent))))
    wrong = Prior.of_beliefs((-0.8, -0.8, 0.8, -0.8, 0.8, 0.8, 0.8, -0.8))
    assert prior_weight(corpus, right) > prior_weight(corpus, wrong)
    assert prior_weight(Corpus(()), right) == right.experiments


@pytest.mark.parametrize("method", ["likelihood", "moments"])
def test_a_belief_is_worth_so_many_experiments_of_usual_noise(method):
    """Both methods mean the same by it: with a belief worth as many experiments as there are, the correlation comes out about half-way."""
    found = []
    for seed in range(20):
        latent = fit_latent(PILOT.draw(200, seed)[0], Prior.of_beliefs((0.0,) * 8, experiments=200), method=method).correlation
        found.append(latent[0, 1:5])
    assert (np.mean(found, 0) / np.array(PILOT.correlation[:4])).mean() == pytest.approx(0.5, abs=0.12)


def test_forgetting_gives_the_recent_covariance():
    old, _ = PILOT.draw(300, 9)
    new, _ = HARDER["second_factor"].draw(300, 10)
    both = Corpus((*old.experiments, *(Experiment(name=f"new {e.name}", metrics=e.metrics, effects=e.effects, noise=e.noise) for e in new)))
    prior = Prior.of_beliefs(BELIEFS)
    alone = fit_latent(new, prior).covariance
    assert np.allclose(fit_latent(both, prior, weights=np.repeat([0.0, 1.0], 300)).covariance, alone, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("beliefs", [(1.0, 0.0), (-1.2,), (np.nan,)])
def test_a_belief_beyond_certainty_is_refused(beliefs):
    with pytest.raises(UsageError, match="between -1 and 1"):
        Prior.of_beliefs(beliefs)


# ------------------------------------------------------------------ weights


@pytest.mark.parametrize("joint", [True, False])
def test_no_weights_are_of_better_quality(joint):
    latent, noise = covariance(6, 0), covariance(6, 1)
    best = free_weights(latent, noise, joint=joint)
    assert joint or best[0] == 0
    top = quality(best, latent, noise)
    generator = np.random.default_rng(2)
    others = generator.normal(size=(2000, 6))
    if not joint:
        others[:, 0] = 0
    assert max(quality(w, latent, noise) for w in others) <= top + 1e-12
    assert choose(latent, noise, Rules.free(6, joint=joint)).values == pytest.approx(best)
    # the quality is a correlation: of true effects with the observed metric
    truth = generator.multivariate_normal(np.zeros(6), latent, 200_000)
    seen = truth + generator.multivariate_normal(np.zeros(6), noise, 200_000)
    assert np.corrcoef(truth[:, 0], seen @ best)[0, 1] == pytest.approx(top, abs=0.01)


@pytest.mark.parametrize("seed", range(12))
def test_signs_are_solved_as_by_nonnegative_least_squares(seed):
    latent, noise = covariance(7, seed), covariance(7, 100 + seed)
    signs = np.where(np.random.default_rng(seed).random(7) < 0.5, 1, -1)
    found = choose(latent, noise, Rules(signs=tuple(signs.tolist()), prices=(0.0,) * 7, most=7)).values
    root = np.linalg.cholesky(latent + noise)  # |root' w - root^-1 L_N|^2 is the loss
    other, _ = nnls(root.T * signs, np.linalg.solve(root, latent[:, 0]))
    assert found == pytest.approx(other * signs, abs=1e-8)


@pytest.mark.parametrize("seed", range(6))
def test_prices_and_the_largest_number_are_solved_as_by_brute_force(seed):
    generator = np.random.default_rng(seed)
    latent, noise = covariance(6, seed, 1), covariance(6, 50 + seed)
    prices = (0.0, *generator.uniform(0, 0.15, 5).tolist())
    found = choose(latent, noise, Rules(signs=(0,) * 6, prices=prices, most=3))
    best = 0.0
    for size in range(4):
        for subset in itertools.combinations(range(1, 6), size):
            for columns in ([0, *subset], list(subset)):
                if columns:
                    weights = np.zeros(6)
                    weights[columns] = np.linalg.solve((latent + noise)[np.ix_(columns, columns)], latent[columns, 0])
                    best = max(best, quality(weights, latent, noise) - sum(prices[k] for k in subset))
    assert found.objective == pytest.approx(best)
    assert (found.values[1:] != 0).sum() <= 3
    assert found.exact


def test_more_users_lean_on_the_aligned_metric_and_fewer_on_the_precise_one():
    """The reason why the weights depend on the size of the experiment (Tripuraneni et al. 2024)."""
    latent = np.array([[1.0, 0.9, 0.5], [0.9, 1.0, 0.45], [0.5, 0.45, 1.0]])
    many, few = (free_weights(latent, np.diag([9.0, 4.0, 0.1]) / users, joint=False) for users in (100.0, 1.0))
    assert many[1] / many[2] > 10 * few[1] / few[2]


def test_too_many_metrics_are_searched_among_the_best_and_it_is_said():
    latent = covariance(46, 0)
    found = choose(latent, np.eye(46), Rules.free(46, most=5, joint=False))
    assert not found.exact
    assert (found.values != 0).sum() == 5
    alone = max(quality(np.eye(46)[k], latent, np.eye(46)) for k in range(1, 46))
    assert found.quality > alone


def test_nothing_worth_its_price_gives_no_weights():
    found = choose(covariance(4, 0), np.eye(4), Rules(signs=(0,) * 4, prices=(0.0, 2.0, 2.0, 2.0), joint=False))
    assert not found.values.any()
    assert found.quality == 0
    assert cosine(found.values, np.ones(4)) == 0


# ------------------------------------------------------------------ posterior and threshold


def experiment(effects, noise):
    return Experiment(name="e", metrics=tuple(f"m{k}" for k in range(len(effects))), effects=np.array(effects), noise=np.array(noise))


def test_the_posterior_is_that_of_a_normal_model():
    latent, noise = covariance(4, 3), covariance(4, 4)
    one = experiment([0.4, 1.0, -0.5, 0.2], noise)
    weights = free_weights(latent, noise)
    found = posterior(one, weights, latent, Costs())
    gain = latent[0] @ np.linalg.inv(latent + noise)
    assert found.mean == pytest.approx(gain @ one.effects)
    assert found.variance == pytest.approx(latent[0, 0] - gain @ latent[:, 0])
    assert found.z == pytest.approx(weights @ one.effects / np.sqrt(weights @ noise @ weights))
    assert weights_for(one, latent, (0, 1, 2, 3)) == pytest.approx(weights)


def test_posterior_probabilities_are_true_frequencies():
    latent, noise, weights = covariance(5, 5), covariance(5, 6), np.array([0.0, 1.0, 0.5, 0.0, -0.2])
    generator = np.random.default_rng(0)
    truth = generator.multivariate_normal(np.zeros(5), latent, 4000)
    seen = truth + generator.multivariate_normal(np.zeros(5), noise, 4000)
    found = [posterior(experiment(x, noise), weights, latent, Costs(smallest_effect=0.1)) for x in seen]
    probability, worth = np.array([f.probability for f in found]), truth[:, 0] > 0.1
    for inside in np.array_split(np.argsort(probability), 5):
        assert worth[inside].mean() == pytest.approx(probability[inside].mean(), abs=4 * 0.5 / np.sqrt(800))


@pytest.mark.parametrize(("false_ship", "missed"), [(1.0, 1.0), (3.0, 1.0), (1.0, 4.0)])
def test_the_threshold_costs_least(false_ship, missed):
    latent, noise, weights = covariance(3, 7), covariance(3, 8), np.array([0.0, 1.0, 0.7])
    generator = np.random.default_rng(1)
    truth = generator.multivariate_normal(np.zeros(3), latent, 60_000)
    y = (truth + generator.multivariate_normal(np.zeros(3), noise, 60_000)) @ weights
    costs = Costs(false_ship=false_ship, missed=missed, smallest_effect=0.05)
    slope, variance = slope_and_variance(weights, latent, noise)
    bar = 0.05 + norm.ppf(false_ship / (false_ship + missed)) * np.sqrt(variance)
    assert posterior(experiment([0, 1, 1], noise), weights, latent, costs).bar == pytest.approx(bar)
    worth = truth[:, 0] > 0.05

    def cost(at):
        ship = slope * y >= at
        return (false_ship * (ship & ~worth) + missed * (~ship & worth)).mean()

    ours = cost(bar)
    assert all(ours <= cost(bar + shift) for shift in (-0.4, -0.2, 0.2, 0.4))


def test_a_metric_with_weight_that_was_not_measured_is_an_error():
    one = Experiment(name="e", metrics=("n", "a", "b"), effects=np.array([0.0, np.nan, 1.0]), noise=np.array([[1, np.nan, 0], [np.nan] * 3, [0, np.nan, 1.0]]))
    with pytest.raises(DataError, match="'a'"):
        posterior(one, np.array([0.0, 1.0, 1.0]), np.eye(3), Costs())
    assert weights_for(one, np.eye(3) + 0.5, (0, 1, 2))[1] == 0


# ------------------------------------------------------------------ experiments


@pytest.mark.parametrize(("change", "said"), [
    ({"effects": np.zeros(3)}, "shape"), ({"noise": np.diag([1.0, 0.0])}, "above 0"), ({"noise": np.array([[1.0, 2.0], [2.0, 1.0]])}, "covariance"),
    ({"maturity": 1.5}, "maturity"), ({"metrics": ("a", "a")}, "twice"), ({"effects": np.array([np.nan, np.nan]), "noise": np.full((2, 2), np.nan)}, "nothing"),
    ({"halves": np.zeros((3, 2))}, "halves")])
def test_what_is_no_experiment_is_refused(change, said):
    good = {"name": "e", "metrics": ("a", "b"), "effects": np.zeros(2), "noise": np.eye(2)}
    with pytest.raises(DataError, match=said):
        Experiment(**{**good, **change})


def test_a_corpus_has_one_order_of_metrics_and_each_experiment_once():
    one, two = (Experiment(name=n, metrics=m, effects=np.zeros(2), noise=np.eye(2)) for n, m in (("x", ("a", "b")), ("y", ("b", "c"))))
    with pytest.raises(DataError, match="different metrics"):
        Corpus((one, two))
    both = Corpus.of((one, two), ("b", "a", "c"))
    assert both.experiments[1].measured.tolist() == [True, False, True]
    with pytest.raises(DataError, match="twice"):
        Corpus((one, one))
