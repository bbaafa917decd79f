"""Arms of unequal size, and logs that cannot speak for another policy."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from judging import diagnose, is_quiet
from recspect.diagnosis.diagnostics.data.sample_ratio import SampleRatio
from recspect.diagnosis.diagnostics.recommendations.policy_support import PolicySupport
from recspect.diagnosis.finding import Verdict
from recspect.schema import Label, Schema

ARMS = Schema(arm="arm", user="user")
LOG = Schema(item="item", propensity="p", labels=[Label(name="click")])


def experiment(seed, shares=(0.5, 0.5), users=20_000):
    """Each user in one arm, with one to five rows."""
    rng = np.random.default_rng(seed)
    arm = rng.choice(len(shares), users, p=shares)
    user = np.repeat(np.arange(users), rng.integers(1, 6, users))
    return {"user": user, "arm": arm[user]}


def log(seed, concentration=50.0, items=20, rows=10_000):
    """Items drawn by a policy of known probabilities in each of 50 kinds of request."""
    rng = np.random.default_rng(seed)
    policies = rng.dirichlet(np.full(items, concentration), 50)
    kind = rng.integers(0, 50, rows)
    item = (rng.random(rows)[:, None] > np.cumsum(policies[kind], axis=1)).sum(1).clip(max=items - 1)
    return {"item": item, "p": policies[kind, item], "click": rng.integers(0, 2, rows)}


def file_of(name, path):
    file = Path(os.environ.get("RECSPECT_DATA_HOME", "nowhere"), name, path)
    if not file.is_file():
        pytest.skip(f"{name} is not on this machine (set RECSPECT_DATA_HOME)")
    return pl.read_parquet(file)


# ---------------------------------------------------------------------- arms


def test_equal_arms_are_quiet():
    assert sum(not is_quiet(diagnose(SampleRatio(), ARMS, experiment(seed, shares))) for seed in range(30) for shares in ((0.5, 0.5), (0.25,) * 4)) <= 1


@pytest.mark.parametrize("seed", range(4))
def test_lost_users_are_found(seed):
    (finding,) = diagnose(SampleRatio(), ARMS, experiment(seed, (0.52, 0.48)))
    assert finding.verdict is Verdict.FAIL
    assert (finding.estimate.of, finding.estimate.n) == ("users", 20_000)


def test_users_are_counted_and_not_their_rows():
    table = experiment(0)
    more = np.repeat(np.arange(len(table["arm"])), np.where(table["arm"] == 1, 3, 1))  # one arm has three times the rows
    assert is_quiet(diagnose(SampleRatio(), ARMS, {name: column[more] for name, column in table.items()}))


def test_another_design_is_a_warning():
    (finding,) = diagnose(SampleRatio(), ARMS, experiment(1, (0.9, 0.1)))
    assert finding.verdict is Verdict.WARN
    assert "90% / 10%" in finding.claim


@pytest.mark.parametrize(("schema", "table", "words"), [
    (Schema(), {"arm": np.zeros(500)}, "role 'arm'"), (Schema(arm="arm"), {"arm": np.zeros(500)}, "only one arm"),
    (Schema(arm="arm"), {"arm": np.arange(500)}, "more than 100 arms"), (Schema(arm="arm"), {"arm": np.arange(40) % 2}, "40 rows")])
def test_what_is_no_experiment_is_unknown(schema, table, words):
    (finding,) = diagnose(SampleRatio(), schema, table)
    assert finding.verdict is Verdict.UNKNOWN
    assert words in finding.claim


@pytest.mark.data
def test_about_one_in_seven_headline_tests_is_not_of_equal_arms():
    found: Counter[Verdict] = Counter()
    for _, rows in list(file_of("upworthy", "packages.parquet").group_by("clickability_test_id", maintain_order=True))[::5]:  # over all years: the first tests fail less often
        if len(rows) > 1:
            table = {"arm": np.arange(len(rows)), "impressions": rows["impressions"].to_numpy().astype(float)}
            found[diagnose(SampleRatio(), Schema(arm="arm", weight="impressions"), table)[0].verdict] += 1
    assert 0.1 < found[Verdict.FAIL] / found.total() < 0.2


# ---------------------------------------------------------------------- propensities


@pytest.mark.parametrize("seed", range(8))
def test_a_log_near_uniform_can_speak(seed):
    assert is_quiet(diagnose(PolicySupport(), LOG, log(seed)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("fault", "words"), [
    (lambda t: {**t, "p": np.minimum(2 * t["p"], 1)}, "mean weight"), (lambda t: {**t, "p": np.where(t["item"] == 3, 0.0, t["p"])}, "no propensity"),
    (lambda t: {**t, "p": np.where(np.arange(len(t["p"])) == 5, 1e-5, t["p"])}, "one row has")])
def test_broken_propensities_are_told(seed, fault, words):
    (finding,) = diagnose(PolicySupport(), LOG, fault(log(seed)))
    assert finding.verdict is Verdict.FAIL
    assert words in finding.claim.split(" (")[0]


def test_the_effective_sample_size_is_that_of_kish_and_of_self_normalised_weights():
    """(sum w)^2 / sum w^2 of the weights of an off-policy estimate of uniform choice, w = (1 / items) / p: the variance of a self-normalised (SNIPS) mean of independent outcomes of
    deviation 1 is sum w^2 / (sum w)^2 = 1 / that size. Nine of ten rows at 2 / items and one at 2 / (11 items) have, by hand, (0.9 / 2 + 0.1 x 5.5)^2 / (0.9 / 4 + 0.1 x 30.25)."""
    items, rows = 10, 2000
    table = {"item": np.arange(rows) % items, "p": np.where(np.arange(rows) % 10 == 9, 2 / 11, 2.0) / items, "user": np.arange(rows)}
    (finding,) = diagnose(PolicySupport(), LOG, table)
    by_hand = (0.9 / 2 + 0.1 * 5.5) ** 2 / (0.9 / 4 + 0.1 * 30.25)
    assert finding.estimate.value == pytest.approx(by_hand, rel=1e-12)
    weights = (1 / items) / table["p"]
    assert finding.estimate.value * rows == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-12)
    outcomes = np.random.default_rng(0).normal(0, 1, (4000, rows))
    snips = outcomes @ weights / weights.sum()
    assert 1 / snips.var() == pytest.approx(finding.estimate.value * rows, rel=0.07)  # 3 standard errors of a variance of 4,000 draws


def test_what_the_log_lacks_is_said():
    for schema, words in ((Schema(item="item"), "'propensity'"), (Schema(propensity="p"), "'item'")):
        (finding,) = diagnose(PolicySupport(), schema, log(0))
        assert finding.verdict is Verdict.UNKNOWN
        assert words in finding.claim


@pytest.mark.data
@pytest.mark.parametrize(("name", "verdict"), [("random_all", Verdict.PASS), ("random_men", Verdict.PASS), ("bts_all", Verdict.FAIL)])
def test_a_bandit_log_of_all_items_is_refused_and_random_ones_are_not(name, verdict):
    frame = file_of("obd", f"{name}.parquet")
    table = {"item": frame["item_id"].to_numpy(), "p": frame["propensity_score"].to_numpy(), "click": frame["click"].to_numpy()}
    (finding,) = diagnose(PolicySupport(), LOG, table)
    assert finding.verdict is verdict
    if verdict is Verdict.FAIL:
        assert finding.estimate.value == pytest.approx(0.034, abs=0.001)
        assert finding.estimate.low < 0.034 < finding.estimate.high
