"""Held-out value, the gate, surprises, Goodhart watch, scenes and other ways: against known truth, closed forms and SciPy."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy.stats import norm

from recspect.adapting import alternatives
from recspect.adapting.adoption import Gate, may_adopt, must_retire, step_towards
from recspect.adapting.bootstrap import stability
from recspect.adapting.goodhart import KINDS, stories, watch
from recspect.adapting.held_out import SPLIT, Comparison, Policy, clustered_mean, compare, values, wrong_signs
from recspect.adapting.latent import Prior, fit_latent, usual_noise
from recspect.adapting.posterior import Costs
from recspect.adapting.scenes import fit_scenes, heterogeneity, left_out_quality
from recspect.adapting.surprise import cusum, forgetting, surprises
from recspect.adapting.weights import Rules, choose, free_weights
from recspect.errors import DataError, UsageError
from recspect.experimenting.experiment import Corpus, Experiment
from recspect.worlds.experiments import BELIEFS, CLICKBAIT, HARDER, PILOT

NOISE = PILOT.usual_noise
PRIOR = Prior.of_beliefs(BELIEFS)
ORACLE = Policy(weights=free_weights(PILOT.latent, NOISE), latent=PILOT.latent)
NORTH = Policy(weights=np.eye(9)[0], latent=PILOT.latent)


def fit(corpus):
    latent = fit_latent(corpus, PRIOR).covariance
    return Policy(weights=choose(latent, usual_noise(corpus), Rules.free(9)).values, latent=latent)


# ------------------------------------------------------------------ held-out value


@pytest.mark.parametrize("policy", [ORACLE, NORTH, replace(NORTH, costs=Costs(false_ship=3.0, smallest_effect=0.1))])
def test_held_out_value_is_unbiased_where_the_naive_one_flatters(policy):
    corpus, truth = PILOT.draw(6_000, 5)
    found = values(corpus, policy)
    noisy = corpus.effects + SPLIT * np.random.default_rng(1).multivariate_normal(np.zeros(9), NOISE, len(corpus))
    ship = noisy @ policy.weights >= policy.bar(NOISE)
    worth = truth[:, 0] - policy.costs.smallest_effect
    assert found.mean() == pytest.approx((ship * worth).mean(), abs=4 * found.std() / np.sqrt(len(found)))
    exactly = corpus.effects @ policy.weights >= policy.bar(NOISE)
    naive = (exactly * (corpus.effects[:, 0] - policy.costs.smallest_effect)).mean()
    assert naive > (exactly * worth).mean() + 4 * found.std() / np.sqrt(len(found))


def test_the_closed_form_is_the_mean_over_splits_of_the_noise():
    corpus, _ = PILOT.draw(3, 7)
    generator = np.random.default_rng(0)
    for experiment, found in zip(corpus, values(corpus, ORACLE), strict=True):
        h = generator.multivariate_normal(np.zeros(9), NOISE, 400_000)
        ship = (experiment.effects + SPLIT * h) @ ORACLE.weights >= ORACLE.bar(NOISE)
        assert found == pytest.approx((ship * (experiment.effects[0] - h[:, 0] / SPLIT)).mean(), abs=0.02)


def test_a_metric_that_points_the_wrong_way_is_seen():
    corpus, _ = PILOT.draw(800, 3)
    right, wrong = (wrong_signs(corpus, replace(ORACLE, weights=ORACLE.weights * sign)) for sign in (1, -1))
    assert right[0].sum() == pytest.approx(wrong[0].sum(), rel=0.05)
    assert right[1].sum() / right[0].sum() < 0.49 < 0.51 < wrong[1].sum() / wrong[0].sum()


def test_what_was_not_measured_is_not_judged():
    corpus = Corpus.of([e.of_metrics(PILOT.metrics[1:]) if k % 2 else e for k, e in enumerate(PILOT.draw(6, 0)[0])], PILOT.metrics)
    assert np.isnan(values(corpus, ORACLE)).tolist() == [False, True] * 3
    assert np.isnan(wrong_signs(corpus, ORACLE)[0]).tolist() == [False, True] * 3


def test_members_of_a_family_count_together():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 10)
    x = generator.normal(size=50)[groups]
    _, error = clustered_mean(x, np.ones(500), groups)
    assert error == pytest.approx(x[::10].std(ddof=1) / np.sqrt(50), rel=1e-9)
    assert clustered_mean(x, np.ones(500), np.arange(500))[1] < error / 2.5


def test_the_gate_adopts_a_better_metric_and_keeps_a_good_one():
    better, no_better, seeds = 0, 0, 8
    for seed in range(seeds):
        corpus, _ = PILOT.draw(200, 500 + seed)
        poor = Policy(weights=np.array([0, 0, 0, 0, 0, 1.0, 1.0, 1.0, 0]), latent=PILOT.latent)
        better += may_adopt(compare(corpus, fit, poor), Gate()).passed
        no_better += may_adopt(compare(corpus, fit, ORACLE), Gate()).passed
    assert better >= 6
    assert no_better <= 3  # at most 10% are expected


def test_few_experiments_change_nothing():
    corpus, _ = PILOT.draw(40, 1)
    found = may_adopt(compare(corpus, fit, replace(NORTH, weights=-ORACLE.weights)), Gate())
    assert not found.passed
    assert found.reasons[0].startswith("no: 40 past experiments")
    with pytest.raises(UsageError, match="two families"):
        compare(corpus.take([0]), fit, NORTH)


COMPARISON = Comparison(gain=0.05, low=0.02, high=0.08, level=0.9, value_new=0.15, value_current=0.1, wrong_new=0.1, wrong_current=0.12, wrong_low=-0.05, experiments=100, families=100)


@pytest.mark.parametrize(("change", "passed"), [({}, True), ({"low": 0.001}, False), ({"experiments": 49}, False), ({"wrong_low": 0.01}, False)])
def test_every_condition_of_the_gate_counts(change, passed):
    found = may_adopt(replace(COMPARISON, **change), Gate())
    assert found.passed is passed
    assert sum(reason.startswith("no: ") for reason in found.reasons) == (not passed)


def test_dwell_time_and_retirement():
    now = datetime(2026, 6, 1, tzinfo=UTC)
    assert not may_adopt(COMPARISON, Gate(), changed=now - timedelta(days=27), now=now).passed
    assert may_adopt(COMPARISON, Gate(), changed=now - timedelta(days=29), now=now).passed
    assert not must_retire(replace(COMPARISON, high=-0.0005), Gate()).passed
    assert must_retire(replace(COMPARISON, high=-0.0015), Gate()).passed


@pytest.mark.parametrize("wanted", [[0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
def test_no_release_moves_the_weights_farther_than_a_step(wanted):
    seen, moves, share = np.array([0.0, 1.0, 0.0]), 0, 0.0
    while share < 1:
        new, share = step_towards(seen, np.array(wanted), 0.25)
        assert np.abs(new - seen).sum() <= 0.25 + 1e-9
        moves += 1
        seen = new
    assert moves == 8  # a distance of 2 in steps of 0.25, also for a metric that turns round
    assert np.allclose(seen, wanted)


# ------------------------------------------------------------------ stability


def test_intervals_hold_the_true_weights_and_narrow_with_experiments():
    rules, true = Rules.free(9), free_weights(PILOT.latent, NOISE)
    true = true / np.abs(true).sum()
    few, many = (stability(PILOT.draw(n, 3)[0], PRIOR, rules, NOISE, draws=30) for n in (60, 400))
    assert (many.high - many.low).mean() < 0.7 * (few.high - few.low).mean()
    assert ((many.low - 0.03 <= true) & (true <= many.high + 0.03)).mean() >= 0.75
    assert many.cosine > few.cosine - 0.02
    assert many.cosine >= 0.8


def test_without_experiments_the_weights_do_not_vary():
    found = stability(Corpus(()), Prior.of_beliefs((0.5, 0.1), variance=np.ones(3)), Rules.free(3), np.eye(3), draws=10)
    assert np.allclose(found.low, found.high)
    assert found.draws == 0


# ------------------------------------------------------------------ surprises and Goodhart


def test_surprises_are_standard_normal_while_the_model_holds():
    world = replace(PILOT, null_share=0.0, users_spread=30.0)
    found = surprises(world.draw(2000, 0)[0], world.latent)
    assert found.surprise.mean() == pytest.approx(0, abs=0.07)
    assert found.surprise.std() == pytest.approx(1, abs=0.05)
    assert np.abs(norm.cdf(np.sort(found.surprise)) - (np.arange(2000) + 0.5) / 2000).max() < 1.63 / np.sqrt(2000)  # Kolmogorov, 1%
    assert found.widening == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("planted", "about"), [(2.0, "above"), (-2.0, "below")])
def test_a_north_star_that_moves_alone_is_an_alarm(planted, about):
    corpus, _ = PILOT.draw(60, 1)
    moved = Corpus(tuple(replace(e, effects=e.effects + planted * (np.arange(9) == 0) * (k >= 30)) for k, e in enumerate(corpus)))
    found = surprises(moved, PILOT.latent)
    assert found.about == about
    assert 30 <= found.alarm <= 45
    assert surprises(corpus, PILOT.latent).alarm is None


def test_a_metric_that_has_come_loose_widens_the_predictions():
    corpus, _ = PILOT.draw(80, 2)
    generator = np.random.default_rng(0)
    loose = Corpus(tuple(replace(e, effects=e.effects + 3 * generator.normal() * (np.arange(9) == 0)) for e in corpus))
    found = surprises(loose, PILOT.latent)
    assert found.alarm is not None
    assert found.widening > 3


def test_a_missing_north_star_is_no_surprise():
    corpus = Corpus.of([e.of_metrics(PILOT.metrics[1:]) for e in PILOT.draw(5, 0)[0]], PILOT.metrics)
    found = surprises(corpus, PILOT.latent)
    assert found.n == 0
    assert found.alarm is None


def test_cumulative_sum_and_forgetting():
    assert cusum(np.array([1.0, -3.0, 2.0, 2.0])).tolist() == [1.0, 0.0, 2.0, 4.0]
    weights = forgetting(2000, 50)
    assert weights[-1] == 1
    assert weights.sum() == pytest.approx(50, rel=1e-3)


def test_stories_are_covariances():
    for story in stories(PILOT.latent, 2):
        assert np.linalg.eigvalsh(story)[0] > -1e-9
    loose, turned, *_ = stories(PILOT.latent, 2)
    assert loose[0, 2] == 0
    assert turned[0, 2] == -PILOT.latent[0, 2]
    assert len(stories(PILOT.latent, 2)) == len(KINDS)


def caught(world, runs):
    """In how many runs the planted metric leads and is alarmed within 20 experiments, and in how many any other is."""
    right = wrong = 0
    for seed in range(runs):
        corpus, _ = world.draw(120, seed)
        past = corpus.take(range(100))
        found = watch(corpus.take(range(100, 120)), fit_latent(past, PRIOR).covariance, past=140, draws=100)
        alarmed = [suspect for suspect in found if suspect.alarm is not None]
        right += bool(alarmed) and alarmed[0].metric == CLICKBAIT.clickbait
        wrong += bool(alarmed) and alarmed[0].metric != CLICKBAIT.clickbait
    return right, wrong


def test_a_metric_that_teams_play_is_caught_and_healthy_worlds_are_quiet():
    right, _ = caught(CLICKBAIT, 15)
    assert right >= 10
    healthy = replace(CLICKBAIT, clickbait="", change_at=None)
    assert sum(caught(healthy, 15)) <= 4


@pytest.mark.slow
def test_clickbait_is_caught_within_twenty_experiments_in_four_runs_of_five():
    right, _ = caught(CLICKBAIT, 60)
    assert right >= 48 - 6  # two standard errors of 60 runs; the bench has 300


def test_nothing_to_watch_is_no_alarm():
    assert watch(Corpus(()), PILOT.latent, past=100) == ()
    assert watch(PILOT.draw(3, 0)[0], np.eye(9), past=100) == ()


# ------------------------------------------------------------------ scenes


def scenes(worlds, each):
    found = [replace(e, name=f"{scene} {e.name}", scene=scene) for seed, (scene, world) in enumerate(worlds.items()) for e in world.draw(each, seed)[0]]
    return Corpus(tuple(found))


def test_scenes_that_are_alike_are_pooled_and_others_are_told_apart():
    alike = scenes({"home": PILOT, "search": PILOT, "mail": PILOT}, 150)
    weights = ORACLE.weights
    turned = replace(PILOT, correlation=tuple(-r for r in PILOT.correlation))
    different = scenes({"home": PILOT, "search": PILOT, "mail": turned}, 150)
    assert heterogeneity(different, weights).i_squared > 0.75
    assert heterogeneity(alike, weights).i_squared < 0.6
    assert heterogeneity(different, weights).slopes["mail"][0] < 0 < heterogeneity(different, weights).slopes["home"][0]
    left = left_out_quality(different, Prior.of_beliefs(BELIEFS, experiments=10), Rules.free(9, joint=False), NOISE)
    assert left["mail"] < 0 < left_out_quality(alike, PRIOR, Rules.free(9, joint=False), NOISE)["mail"]


def test_a_scene_with_few_experiments_borrows():
    corpus = Corpus((*scenes({"home": PILOT}, 400), *(replace(e, name=f"mail {e.name}", scene="mail") for e in PILOT.draw(5, 99)[0])))
    pooled, by_scene = fit_scenes(corpus, PRIOR)
    alone = fit_latent(corpus.of_scene("mail"), Prior.of_beliefs(BELIEFS, experiments=1.0))
    off = [np.abs(found.correlation - fit_latent(PILOT.draw(4000, 5)[0], PRIOR).correlation).mean() for found in (by_scene["mail"], alone)]
    assert off[0] < 0.6 * off[1]
    assert pooled.experiments == 405


# ------------------------------------------------------------------ other ways


def test_largest_z_and_log_p_are_optima():
    corpus, truth = PILOT.draw(120, 0)
    signs = np.sign(truth[:, 0])
    z = alternatives.largest_z(corpus, signs)

    def mean_z(w):
        return (signs * (corpus.effects @ w)).sum() / np.sqrt(w @ NOISE @ w)

    def log_p(w):
        return norm.logsf((signs * (corpus.effects @ w) / np.sqrt(w @ NOISE @ w))[signs != 0]).mean()

    learnt = alternatives.learnt_log_p(corpus, signs, quiet=0.0)
    generator = np.random.default_rng(0)
    for _ in range(300):
        other = generator.normal(size=9) * 0.05
        assert mean_z(z / np.linalg.norm(z) + other) <= mean_z(z) + 1e-9
        assert log_p(learnt / np.linalg.norm(learnt) + other) >= log_p(learnt) - 1e-6
    assert log_p(learnt) < log_p(z)
    with pytest.raises(UsageError, match="known sign"):
        alternatives.largest_z(corpus, np.zeros(120))


def test_no_point_of_the_front_is_beaten():
    found = alternatives.front(PILOT.latent, NOISE)
    assert len(found) >= 5
    assert [p.alignment for p in found] == sorted((p.alignment for p in found), reverse=True)
    assert [p.sensitivity for p in found] == sorted(p.sensitivity for p in found)
    for place in range(1, 9):  # no metric alone lies beyond the front
        sensitivity = np.sqrt(PILOT.latent[place, place] / NOISE[place, place])
        alignment = PILOT.latent[0, place] / np.sqrt(PILOT.latent[0, 0] * PILOT.latent[place, place])
        assert any(p.sensitivity >= sensitivity and p.alignment >= alignment for p in found) or sensitivity > found[-1].sensitivity


def test_the_surrogate_index_is_a_regression_and_its_bound_holds():
    generator = np.random.default_rng(0)
    users = generator.normal(size=(20_000, 3))
    north = users @ [1.0, -0.5, 0.0] + generator.normal(size=20_000)
    index = alternatives.surrogate_index(users, north)
    assert index.weights == pytest.approx([1.0, -0.5, 0.0], abs=0.03)
    assert index.r_squared == pytest.approx(1.25 / 2.25, abs=0.02)
    # a treatment that acts past the index, on 4% of what it leaves open: an effect of 2 * sqrt(0.04) residual deviations
    assert index.bias_bound(0.04) == pytest.approx(2 * np.sqrt(0.04) * 1.0, rel=0.03)
    with pytest.raises(DataError, match="too few"):
        alternatives.surrogate_index(users[:20], north[:20])
    with pytest.raises(DataError, match="the same"):
        alternatives.surrogate_index(users, np.ones(20_000))


def test_harder_worlds_are_drawn_as_described():
    for name, world in HARDER.items():
        _, truth = world.draw(6000, 0)
        spread = np.sqrt(np.diag(world.latent))
        off = (truth.T @ truth / len(truth) - world.latent) / np.outer(spread, spread)
        assert np.abs(off).max() < (0.9 if world.tail else 0.15), name
    assert len(np.unique(HARDER["families"].draw(100, 0)[0].groups)) == 20
    users = np.array([e.users[0] for e in HARDER["unequal_users"].draw(500, 0)[0]])
    assert users.max() / users.min() > 80
    assert HARDER["delayed"].draw(40, 0)[0].experiments[-1].maturity == 0.5
    assert isinstance(CLICKBAIT.draw(2, 0)[0].experiments[0], Experiment)
