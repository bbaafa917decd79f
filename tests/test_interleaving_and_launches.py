"""Interleaved rankings and past launches: no preference where there is none, a planted one found, noise taken off."""

import json
from math import sqrt

import numpy as np
import polars as pl
import pytest
from scipy import stats

from commanding import command
from recspect.adapting.likelihood_interval import correlation_interval
from recspect.comparing.launches import foresight, read_launches
from recspect.comparing.launches import report as launch_report
from recspect.diagnosis.finding import Report, Verdict
from recspect.errors import DataError, Unavailable, UsageError
from recspect.experimenting.commands import experiment_app
from recspect.experimenting.interleaving import preference, report, team_draft

# ---------------------------------------------------------------------- team draft


def test_a_draft_holds_every_item_once_and_both_teams_alike():
    rng = np.random.default_rng(0)
    firsts = np.zeros(2)
    for _ in range(500):
        one, other = rng.permutation(30)[:12].tolist(), rng.permutation(30)[:12].tolist()
        shown, teams = team_draft(one, other, 10, rng)
        assert len(set(shown)) == len(shown) == 10
        assert abs(sum(teams) - 5) <= 0
        for team, ranking in ((0, one), (1, other)):
            own = [item for item, by in zip(shown, teams, strict=True) if by == team]
            assert own == sorted(own, key=ranking.index)  # a team's picks are in its order
        firsts[teams[0]] += 1
    assert abs(firsts[0] - 250) < 4 * sqrt(125)
    assert team_draft([1, 2], [1, 2], 5, rng)[0] == [1, 2]
    assert team_draft([], [3], 2, rng) == ([3], [1])
    with pytest.raises(UsageError):
        team_draft([1], [2], 0, rng)


def sessions(seed, count, better, users=None):
    """Sessions over 40 items of known appeal; ranking B orders by a view of it that is clearer by `better`. Users differ in how they click."""
    rng = np.random.default_rng(seed)
    rows = []
    taste = rng.normal(0, 1.0, users or count)
    for number in range(count):
        user = number % (users or count)
        appeal = rng.normal(0, 1, 40)
        rankings = [np.argsort(-(appeal + rng.normal(0, noise, 40))).tolist() for noise in (1.5, 1.5 - better)]
        shown, teams = team_draft(rankings[0], rankings[1], 6, rng)
        click = rng.random(len(shown)) < 1 / (1 + np.exp(2.5 - appeal[shown] - 0.5 * taste[user]))
        rows += [(number, user, team, float(hit)) for team, hit in zip(teams, click, strict=True)]
    return [np.array(column) for column in zip(*rows, strict=True)]


def test_rankings_alike_are_told_apart_as_rarely_as_promised():
    wrong = 0
    for seed in range(150):
        session, user, team, click = sessions(seed, 300, 0.0, users=60)
        wrong += preference(session, team, click, user=user).p < 0.05
    assert wrong / 150 <= 0.05 + 3 * sqrt(0.05 * 0.95 / 150)


def test_a_better_ranking_is_preferred_and_far_fewer_sessions_tell_than_an_experiment_needs():
    interleaved = split = 0
    for seed in range(30):
        session, _, team, click = sessions(seed, 500, 1.0)
        interleaved += preference(session, team, click).share.surely_above(0.0)
        rng = np.random.default_rng(1000 + seed)
        clicks = []
        for noise in (1.5, 0.5):  # the same number of sessions, half by each ranking alone
            appeal = rng.normal(0, 1, (250, 40))
            top = np.argsort(-(appeal + rng.normal(0, noise, (250, 40))), 1)[:, :6]
            chosen = np.take_along_axis(appeal, top, 1)
            clicks.append((rng.random(chosen.shape) < 1 / (1 + np.exp(2.5 - chosen))).sum(1))
        split += stats.ttest_ind(clicks[1], clicks[0]).pvalue < 0.05
    assert interleaved >= 27
    assert interleaved > split


def test_the_numbers_are_those_of_the_sessions():
    session, team = np.repeat(np.arange(200), 2), np.tile([0, 1], 200)
    click = np.zeros(400)
    click[1:200:2] = 1  # team 1 wins the first 100 sessions
    click[200:260:2] = 1  # team 0 wins 30
    click[260:280] = 1  # 10 ties; 60 sessions without a click
    found = preference(session, team, click)
    assert (found.wins, found.losses, found.ties) == (100, 30, 10)
    assert found.share.value == pytest.approx((100 + 5) / 140 - 0.5)
    assert found.share.n == 140
    looking = preference(session, team, click, sequential=True)
    assert looking.share.low < found.share.low
    assert report(found).findings[0].verdict is Verdict.PASS
    with pytest.raises(Unavailable, match="sessions"):
        preference(session[:100], team[:100], click[:100])


def test_the_command_of_interleaving(tmp_path):
    session, user, team, click = sessions(3, 500, 1.2)
    pl.DataFrame({"session": session, "user": user, "team": np.array(["old", "new"])[team], "click": click}).write_parquet(tmp_path / "log.parquet")
    words = ("interleaving", tmp_path / "log.parquet", "--session", "session", "--team", "team", "--credit", "click", "--user", "user", "--format", "json")
    assert command(experiment_app, *words, "--candidate", "new").exit_code == 0
    done = command(experiment_app, *words)  # by name the second is "old"
    assert done.exit_code == 1
    assert "People prefer new" in Report.from_mapping(json.loads(done.output)).findings[0].claim
    with pytest.raises(DataError, match="expected two"):
        command(experiment_app, "interleaving", tmp_path / "log.parquet", "--session", "session", "--team", "user", "--credit", "click")


# ---------------------------------------------------------------------- launches


def past(seed, launches=80, correlation=(0.9, 0.0, -0.7), noise=1.0):
    """Launches whose true offline differences are correlated with the true online effect, all measured with noise."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=launches)
    table = {"online": truth + noise * rng.normal(size=launches), "online_variance": np.full(launches, max(noise, 1e-3) ** 2)}
    for place, r in enumerate(correlation):
        true = r * truth + sqrt(1 - r * r) * rng.normal(size=launches)
        table |= {f"m{place}": true + noise * rng.normal(size=launches), f"m{place}_variance": np.full(launches, max(noise, 1e-3) ** 2)}
    return table


def test_noise_is_taken_off_correlations():
    found = {name: [] for name in ("m0", "m1", "m2")}
    for seed in range(12):
        for one in foresight(read_launches(past(seed), online="online", offline=["m0", "m1", "m2"]), draws=4):
            found[one.metric].append((one.told.observed, one.correlation.value))
    means = {name: np.mean(values, axis=0) for name, values in found.items()}
    assert means["m0"][0] == pytest.approx(0.45, abs=0.08)  # half the variance of both is noise
    assert 0.7 < means["m0"][1] < 1.0
    assert abs(means["m1"][1]) < 0.2
    assert means["m2"][1] < -0.4


def test_what_foretells_passes_and_what_misleads_fails():
    launches = read_launches(past(4, launches=150), online="online", offline=["m0", "m1", "m2"])
    found = foresight(launches, draws=60)
    assert [one.metric for one in found] == ["m0", "m1", "m2"]
    verdicts = {finding.place.name: finding.verdict for finding in launch_report(found, launches).findings}
    assert verdicts == {"m0": Verdict.PASS, "m1": Verdict.UNKNOWN, "m2": Verdict.FAIL}
    assert found[0].told.regret < found[1].told.regret < found[2].told.regret
    assert found[0].gain.surely_above(0.0)
    assert found[2].gain.surely_below(0.0)


def test_what_foretells_nothing_is_hardly_ever_said_to():
    """With intervals of 90%, ten launches in each of 30 companies."""
    wrong = 0
    for seed in range(30):
        one = foresight(read_launches(past(200 + seed, launches=10, correlation=(0.0,)), online="online", offline=["m0"]), draws=40)[0]
        wrong += one.correlation.surely_above(0.0) or one.correlation.surely_below(0.0)
    assert wrong <= 7  # 3 are expected; more than 7 have a chance of 1%


@pytest.mark.parametrize(("launches", "correlation"), [(60, 0.9), (30, 0.5), (12, 0.0)])
def test_intervals_of_correlations_hold_the_truth_as_often_as_they_say(launches, correlation):
    """Of 90%, in 100 sets of launches half of whose variance is noise."""
    held = 0
    for seed in range(100):
        corpus = read_launches(past(1000 + seed, launches=launches, correlation=(correlation,)), online="online", offline=["m0"])
        low, high = correlation_interval(corpus.effects, corpus.noise)
        assert -1 <= low < high <= 1
        held += low <= correlation <= high
    assert held >= 83  # at 90% fewer than 83 have a chance of 1%


def test_the_interval_is_that_of_the_likelihood():
    """Against a maximiser of another library, over both deviations at each correlation."""
    optimise = pytest.importorskip("scipy.optimize")
    corpus = read_launches(past(9, launches=40, correlation=(0.3,)), online="online", offline=["m0"])
    x, y = corpus.effects.T

    def loss(parameters, z):
        a, b, r = *np.exp(parameters), np.tanh(z)
        one, other, both = a * a + 1, b * b + 1, a * b * r
        determinant = one * other - both**2
        return 0.5 * np.sum(np.log(determinant) + (other * x**2 - 2 * both * x * y + one * y**2) / determinant)

    def least(z):
        return optimise.minimize(loss, [0.0, 0.0], args=(z,), method="BFGS").fun

    best = optimise.minimize_scalar(least, bounds=(-3, 3), method="bounded")
    for end in np.arctanh(correlation_interval(corpus.effects, corpus.noise)):
        assert 2 * (least(end) - best.fun) == pytest.approx(2.7055, abs=0.03)


def test_gain_as_by_hand():
    table = past(2, launches=30, noise=0.0)
    (one,) = foresight(read_launches(table, online="online", offline=["m0"]), draws=4)
    pairs = [(i, j) for i in range(30) for j in range(i)]
    chosen = [table["online"][i if table["m0"][i] > table["m0"][j] else j] - (table["online"][i] + table["online"][j]) / 2 for i, j in pairs]
    assert one.gain.value == pytest.approx(np.mean(chosen), abs=1e-12)
    turned = foresight(read_launches(table, online="online", offline=["m0"], lower=["m0"]), draws=4)[0]
    assert turned.gain.value == pytest.approx(-one.gain.value)


def test_the_command_of_launches(tmp_path):
    pl.DataFrame(past(3, launches=60)).write_csv(tmp_path / "launches.csv")
    done = command(experiment_app, "launches", tmp_path / "launches.csv", "--online", "online", "--offline", "m0", "--offline", "m1", "--format", "json")
    assert done.exit_code == 0
    assert {finding.code for finding in Report.from_mapping(json.loads(done.output)).findings} == {"effects.offline_metric"}
    pl.DataFrame(past(3, launches=5)).write_csv(tmp_path / "few.csv")
    with pytest.raises(DataError, match="5 launches say nothing"):
        command(experiment_app, "launches", tmp_path / "few.csv", "--online", "online", "--offline", "m0")
    with pytest.raises(DataError, match="lacks the column"):
        command(experiment_app, "launches", tmp_path / "few.csv", "--online", "m0", "--offline", "speed")
