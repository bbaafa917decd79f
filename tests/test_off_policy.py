"""Off-policy estimates: known answers on public data, formulas row by row, intervals that cover, refusals."""

import json

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.finding import Report, Verdict
from recspect.diagnosis.stats.policy_value import PolicyValue
from recspect.errors import DataError, Unavailable, UsageError
from recspect.experimenting.commands import experiment_app
from recspect.experimenting.off_policy import CODES, evaluate, report
from recspect.experimenting.policies import LogColumns, LoggedChoices, PolicyTable, read_log

# What Thompson sampling knew of 80 items before the data were collected (obp 0.5.7, obp/policy/conf/prior_bts.yaml, Apache-2.0).
ALPHA = (
    47, 8, 62, 142, 3, 14, 7, 857, 12, 15, 6, 100, 48, 23, 71, 61, 13, 16, 518, 30, 7, 4, 23, 8, 10, 11, 11, 18, 121, 11, 11, 10, 14, 9, 204, 58, 3,
    19, 42, 1013, 2, 328, 15, 31, 14, 138, 45, 55, 23, 38, 10, 401, 52, 6, 3, 6, 5, 32, 35, 133, 52, 820, 43, 195, 8, 42, 40, 4, 32, 30, 9, 22, 6,
    23, 5, 54, 8, 22, 65, 246,
)
BETA = (
    12198, 3566, 15993, 35522, 2367, 4609, 3171, 181745, 4372, 4951, 3100, 24665, 13210, 7061, 18061, 17449, 5644, 6787, 111326, 8776, 3334, 2271,
    7389, 2659, 3665, 4724, 3561, 5085, 27407, 4601, 4756, 4120, 4736, 3788, 45292, 14719, 2189, 5589, 11995, 222255, 2308, 70034, 4801, 8274, 5421,
    31912, 12213, 13576, 6230, 10382, 4141, 85731, 12811, 2707, 2250, 2668, 2886, 9581, 9465, 28336, 12062, 162793, 12107, 41240, 3162, 11604, 10818,
    2923, 8897, 8654, 4000, 6580, 3174, 6766, 2602, 14506, 3968, 7523, 16532, 51964,
)
# Item features are hashed anew for each log, and the data folder has those of the log of Thompson sampling; this is where each of their codes, in order of the hash, stands among those of the log of random choice.
CODES_OF_RANDOM_LOG = (
    (11, 10, 5, 4, 0, 1, 8, 3, 2, 7, 6, 9),
    (0, 9, 8, 15, 11, 16, 17, 20, 19, 13, 10, 2, 6, 1, 3, 18, 5, 14, 7, 12, 4),
    (2, 6, 1, 4, 5, 0, 3),
)
COLUMNS = LogColumns(reward="click", propensity="propensity_score", item="item_id", position="position")


def thompson(draws, seed=12345, piece=20_000):
    """Chance of each item at each of three positions, shape (80, 3): drawn as obp's BernoulliTS draws."""
    generator, counts = np.random.RandomState(seed), np.zeros((80, 3))  # the legacy generator is what obp uses
    for start in range(0, draws, piece):
        best = generator.beta(ALPHA, BETA, size=(min(piece, draws - start), 80)).argsort(1)[:, ::-1][:, :3]
        for place in range(3):
            counts[:, place] += np.bincount(best[:, place], minlength=80)
    return counts / draws


def policy_of(chances):
    return PolicyTable(items=[str(item) for item in range(80)] * 3, positions=[str(place) for place in (1, 2, 3) for _ in range(80)], probability=chances.T.ravel(), name="Thompson sampling")


@pytest.fixture(scope="module")
def obd(data_home):
    def load(name):
        path = data_home / "obd" / f"{name}.parquet"
        if not path.is_file():
            pytest.skip(f"obd/{name}.parquet is not on this machine")
        return pl.read_parquet(path)

    return load


# ---------------------------------------------------------------------- known answers


@pytest.mark.data
def test_the_readme_of_obp(obd):
    """IPW of Thompson sampling on the log of random choice, over what random choice earned: 1.198126; DM and DR of its quickstart notebook: 0.003545 and 0.004727 (0.004728 with newer scikit-learn)."""
    log, chances = obd("random_all"), thompson(100_000)
    found = evaluate(read_log(log, COLUMNS, policy=policy_of(chances)))
    assert found.refused == ()
    assert found.estimate("ips").ratio.value == pytest.approx(1.198126, abs=5e-7)
    predicted, expected = quickstart_model(log, obd("item_context_all"), chances)
    place, item = log["position"].to_numpy() - 1, log["item_id"].to_numpy()
    choices = LoggedChoices(reward=log["click"].to_numpy().astype(float), logged=log["propensity_score"].to_numpy(), target=chances[item, place], cluster=np.arange(log.height),
                            predicted=predicted, expected=expected)
    with_model = evaluate(choices)
    assert with_model.estimate("dm").value.value == pytest.approx(0.003545, abs=5e-7)
    assert with_model.estimate("dr").value.value == pytest.approx(0.004728, abs=1.5e-6)


def quickstart_model(log, items, chances):
    """The reward model of obp's quickstart: logistic regression per position, three folds, on user dummies and encoded item features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold

    users = log.select(pl.col("^user_feature_.*$")).to_pandas()
    import pandas as pd

    context = pd.get_dummies(users, drop_first=True).to_numpy()
    encoded = [np.array(codes)[items[f"item_feature_{place}"].rank("dense").to_numpy() - 1] for place, codes in enumerate(CODES_OF_RANDOM_LOG, start=1)]
    features = np.column_stack([*encoded, items["item_feature_0"].to_numpy()])
    item, place, click = log["item_id"].to_numpy(), log["position"].to_numpy() - 1, log["click"].to_numpy()
    predicted, expected = np.empty(log.height), np.empty(log.height)
    for train, test in KFold(n_splits=3, shuffle=True, random_state=12345).split(context):
        for position in range(3):
            fit, use = train[place[train] == position], test[place[test] == position]
            model = LogisticRegression(max_iter=1000, random_state=12345).fit(np.c_[context[fit], features[item[fit]]], click[fit])
            rewards = np.column_stack([model.predict_proba(np.c_[context[use], np.tile(features[one], (len(use), 1))])[:, 1] for one in range(80)])
            predicted[use], expected[use] = rewards[np.arange(len(use)), item[use]], rewards @ chances[:, position]
    return predicted, expected


@pytest.mark.data
@pytest.mark.slow
def test_the_published_errors_on_open_bandit_data(obd):
    """examples/obd of obp, random to Thompson sampling, all: mean relative error over 30 draws of the log, IPW 0.311082 and SNIPW 0.311795."""
    log, chances, truth = obd("random_all"), thompson(1_000_000), obd("bts_all")["click"].mean()
    columns = {"r": log["click"].to_numpy().astype(float), "p": log["propensity_score"].to_numpy(), "e": chances[log["item_id"].to_numpy(), log["position"].to_numpy() - 1]}
    rows, stat = Batch(columns), PolicyValue(reward="r", logged="p", target="e")
    drawn = [stat.summarize(rows.take(np.random.RandomState(draw).choice(np.arange(log.height), size=log.height, replace=True))) for draw in range(30)]
    assert np.mean([abs(one.ips - truth) / truth for one in drawn]) == pytest.approx(0.311082, abs=1e-6)
    assert np.mean([abs(one.snips - truth) / truth for one in drawn]) == pytest.approx(0.311795, abs=1e-6)


@pytest.mark.data
def test_the_other_direction_is_refused(obd):
    found = evaluate(read_log(obd("bts_all"), COLUMNS, policy="uniform"))
    assert any("effective sample size is 3.4%" in reason for reason in found.refused)
    findings = report(found).findings
    assert findings[0].verdict is Verdict.FAIL
    assert [finding.verdict for finding in findings[1:]] == [Verdict.UNKNOWN]
    assert all(finding.estimate is None for finding in findings[1:])


@pytest.mark.data
@pytest.mark.parametrize("campaign", ["all", "men"])
def test_what_thompson_sampling_hardly_showed_is_no_support_for_random_choice(obd, campaign):
    log = obd(f"bts_{campaign}")
    found = evaluate(read_log(log, COLUMNS, policy="uniform"))
    assert any("fewer than 20 rows of the log" in reason for reason in found.refused)
    items, shown = log["item_id"].n_unique(), log.group_by("item_id", "position").len()
    at = dict(log.group_by("position").len().iter_rows())
    enough = shown.filter(pl.col("len") >= 20).group_by("position").len()
    assert found.choices.rare == pytest.approx(1 - sum(at[position] / log.height * count / items for position, count in enough.iter_rows()))
    uniform = evaluate(read_log(obd(f"random_{campaign}"), COLUMNS, policy="uniform"))  # the log of random choice speaks for itself
    assert uniform.choices.rare < 0.01
    assert not uniform.refused


@pytest.mark.data
def test_how_little_a_log_knows_is_told(obd):
    (support,) = report(evaluate(read_log(obd("random_all"), COLUMNS, policy=policy_of(thompson(20_000))))).find("effects.policy_support")
    assert support.verdict is Verdict.WARN
    assert "rows of equal weight. That is few" in support.claim


# ---------------------------------------------------------------------- formulas


def draw(seed, rows=2000, users=400, items=6, kinds=4, sharpness=1.0):
    """A log of users of a few kinds, the truth of a target policy, and rewards of the model (a poor one)."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, kinds, users)
    taste = 0.1 + 0.4 * np.random.default_rng(1).random((kinds, items))
    logging = np.random.default_rng(2).dirichlet(np.full(items, 5.0), kinds)
    target = taste**sharpness / (taste**sharpness).sum(1, keepdims=True)
    user = rng.integers(0, users, rows)
    mood = rng.normal(0, 0.05, users)
    k = kind[user]
    item = (rng.random(rows)[:, None] > np.cumsum(logging[k], 1)).sum(1).clip(max=items - 1)
    reward = (rng.random(rows) < np.clip(taste[k, item] + mood[user], 0, 1)).astype(float)
    model = np.full((kinds, items), 0.25) + 0.5 * (taste - 0.25)
    choices = LoggedChoices(reward=reward, logged=logging[k, item], target=target[k, item], cluster=user, predicted=model[k, item], expected=(model * target).sum(1)[k], of="users")
    return choices, (taste * target).sum(1).mean()


def test_every_estimate_is_its_formula_row_by_row():
    choices, _ = draw(0)
    found = evaluate(choices)
    n = len(choices.reward)
    w = [float(e) / float(p) for e, p in zip(choices.target, choices.logged, strict=True)]
    r, q, m = choices.reward.tolist(), choices.predicted.tolist(), choices.expected.tolist()
    formulas = {
        "ips": sum(w[i] * r[i] for i in range(n)) / n, "snips": sum(w[i] * r[i] for i in range(n)) / sum(w), "dm": sum(m) / n,
        "dr": sum(m[i] + w[i] * (r[i] - q[i]) for i in range(n)) / n, "sndr": sum(m) / n + sum(w[i] * (r[i] - q[i]) for i in range(n)) / sum(w),
        "switch": sum(m[i] + w[i] * (r[i] - q[i]) * (w[i] <= found.limit) for i in range(n)) / n}
    for name, value in formulas.items():
        assert found.estimate(name).value.value == pytest.approx(value, rel=1e-10)
        assert found.estimate(name).ratio.value == pytest.approx(value / np.mean(r), rel=1e-10)


def test_every_estimate_as_obp_has_it():
    estimators = pytest.importorskip("obp.ope.estimators")
    choices, _ = draw(1)
    rows, w = np.arange(len(choices.reward)), choices.target / choices.logged
    total = evaluate(choices).total
    # obp takes whole distributions over actions; two actions give the same sums: what was shown, and the rest
    action, q = np.zeros(len(rows), int), np.zeros((len(rows), 2, 1))
    chances = np.stack([choices.target, 1 - choices.target], 1)[:, :, None]
    q[:, 0, 0] = choices.predicted
    q[:, 1, 0] = (choices.expected - choices.target * choices.predicted) / (1 - choices.target)
    common = {"reward": choices.reward, "action": action, "pscore": choices.logged, "action_dist": chances, "position": np.zeros(len(rows), int)}
    ours = {"InverseProbabilityWeighting": total.ips, "SelfNormalizedInverseProbabilityWeighting": total.snips, "DirectMethod": total.dm, "DoublyRobust": total.dr,
            "SelfNormalizedDoublyRobust": total.sndr}
    for name, value in ours.items():
        theirs = getattr(estimators, name)().estimate_policy_value(**common, estimated_rewards_by_reg_model=q)
        assert value == pytest.approx(theirs, abs=1e-10), name
    limit = float(np.quantile(w, 0.7))
    stat = PolicyValue(reward="reward", logged="logged", target="target", predicted="predicted", expected="expected", limits=(limit,))
    theirs = estimators.SwitchDoublyRobust(lambda_=limit).estimate_policy_value(**common, estimated_rewards_by_reg_model=q)
    assert stat.summarize(choices.batch).switch(0) == pytest.approx(theirs, abs=1e-10)


def test_intervals_cover_the_truth_though_rows_of_a_user_are_dependent():
    covered = {}
    for seed in range(300):
        choices, truth = draw(seed)
        for one in evaluate(choices).estimates:
            covered.setdefault(one.name, []).append(one.value.low <= truth <= one.value.high)
    shares = {name: np.mean(hits) for name, hits in covered.items()}
    assert shares.pop("dm") < 0.5  # a poor model: its interval knows nothing of that
    assert min(shares.values()) > 0.92, shares  # 95% with a standard error of 1.3%
    assert max(shares.values()) < 0.99, shares


def test_what_the_log_hardly_shows_is_refused():
    """Target: the item that the log shows in one row of a thousand, in each kind of request."""
    rng = np.random.default_rng(3)
    for rare, refuses in ((0.25, False), (0.001, True)):
        logging = np.array([rare, *[(1 - rare) / 3] * 3])
        item = rng.choice(4, 10_000, p=logging)
        choices = LoggedChoices(reward=(rng.random(10_000) < 0.2).astype(float), logged=logging[item], target=(item == 0).astype(float), cluster=np.arange(10_000))
        refused = evaluate(choices).refused
        assert bool(refused) == refuses, refused


def test_wrong_propensities_are_refused():
    choices, _ = draw(4, rows=5000)
    wrong = LoggedChoices(reward=choices.reward, logged=np.clip(choices.logged * 1.3, 0, 1), target=choices.target, cluster=choices.cluster)
    assert any("mean weight" in reason for reason in evaluate(wrong).refused)
    absent = LoggedChoices(reward=choices.reward, logged=np.where(np.arange(5000) == 3, np.nan, choices.logged), target=choices.target, cluster=choices.cluster)
    assert any("1 rows lack" in reason for reason in evaluate(absent).refused)


def test_switch_trusts_the_model_where_weights_are_huge():
    rng = np.random.default_rng(5)
    rows = 20_000
    logged = np.where(rng.random(rows) < 0.002, 0.001, 0.5)
    choices = LoggedChoices(reward=(rng.random(rows) < 0.2).astype(float), logged=logged, target=np.full(rows, 0.25), cluster=np.arange(rows), predicted=np.full(rows, 0.2), expected=np.full(rows, 0.2))
    found = evaluate(choices, limit=100.0)
    assert found.estimate("switch").value.error < found.estimate("dr").value.error / 3
    assert evaluate(choices, limit=np.inf).estimate("switch").value.value == pytest.approx(found.estimate("dr").value.value, rel=1e-12)


def test_the_model_of_item_rates_is_fitted_on_other_users():
    rng = np.random.default_rng(6)
    item = rng.integers(0, 3, 6000)
    table = pl.DataFrame({"user": rng.integers(0, 500, 6000), "item": item, "p": np.full(6000, 1 / 3), "click": (rng.random(6000) < np.array([0.1, 0.3, 0.5])[item]).astype(int)})
    policy = PolicyTable(items=["0", "1", "2"], positions=[""] * 3, probability=np.array([0.0, 0.1, 0.9]))
    choices = read_log(table, LogColumns(reward="click", propensity="p", item="item", user="user"), policy=policy)
    assert choices.expected == pytest.approx(np.full(6000, 0.48), abs=0.03)
    assert np.unique(choices.expected).size == 5  # a value per fold
    found = evaluate(choices)
    assert found.estimate("dr").value.low < 0.48 < found.estimate("dr").value.high
    assert found.estimate("dr").value.error < found.estimate("ips").value.error
    assert found.estimate("dr").ratio.surely_above(1.0)


# ---------------------------------------------------------------------- mistakes and the command


def test_mistakes_are_told():
    table = {"item": [1, 2] * 100, "p": [0.5] * 200, "r": [0, 1] * 100}
    columns = LogColumns(reward="r", propensity="p", item="item")
    with pytest.raises(UsageError, match="what would the other policy"):
        read_log(table, columns)
    with pytest.raises(UsageError, match="needs the column of the item"):
        read_log(table, LogColumns(reward="r", propensity="p"), policy="uniform")
    with pytest.raises(DataError, match=r"sum to 0\.9"):
        PolicyTable(items=["1", "2"], positions=["", ""], probability=np.array([0.5, 0.4]))
    with pytest.raises(DataError, match="two probabilities"):
        PolicyTable(items=["1", "1"], positions=["", ""], probability=np.array([0.5, 0.5]))
    with pytest.raises(UsageError, match="two columns"):
        LogColumns(reward="r", propensity="p", predicted="q")
    with pytest.raises(Unavailable, match="earned a reward"):
        evaluate(read_log({**table, "r": [0] * 200}, columns, policy="uniform"))
    with pytest.raises(Unavailable, match="only 10 rows"):
        evaluate(read_log({name: values[:10] for name, values in table.items()}, columns, policy="uniform"))
    shown_nowhere = PolicyTable(items=["1", "9"], positions=["", ""], probability=np.array([0.5, 0.5]))
    assert any("mean weight" in reason for reason in evaluate(read_log(table, columns, policy=shown_nowhere)).refused)


def test_the_command(tmp_path):
    rng = np.random.default_rng(7)
    item = rng.integers(0, 4, 8000)
    pl.DataFrame({"item": item, "user": rng.integers(0, 900, 8000), "p": 0.25, "click": rng.random(8000) < np.array([0.1, 0.1, 0.1, 0.4])[item]}).write_parquet(tmp_path / "log.parquet")
    words = [str(tmp_path / "log.parquet"), "--reward", "click", "--propensity", "p", "--item", "item", "--user", "user", "--format", "json"]
    for name, chances, code in (("better", [0.1, 0.1, 0.1, 0.7], 0), ("worse", [0.4, 0.3, 0.3, 0.0], 1), ("alike", [0.35, 0.15, 0.25, 0.25], 3)):
        pl.DataFrame({"item": range(4), "probability": chances}).write_csv(tmp_path / f"{name}.csv")
        done = CliRunner().invoke(experiment_app, ["off-policy", *words, "--policy", str(tmp_path / f"{name}.csv")])
        assert done.exit_code == code, done.output
        found = Report.from_mapping(json.loads(done.output))
        assert {finding.code for finding in found.findings} == set(CODES)
        assert len(found.find("effects.policy_value")) == 6
