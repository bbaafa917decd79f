"""Scores with planted faults, and honest scores: ranking, entropy, calibration, slices, grades."""

import dataclasses

import numpy as np
import pytest

from judging import diagnose, is_quiet, verdicts
from recspect.diagnosis.diagnostics.predictions.calibration import Calibration
from recspect.diagnosis.diagnostics.predictions.normalised_entropy import NormalisedEntropy
from recspect.diagnosis.diagnostics.predictions.ranking_quality import RankingQuality
from recspect.diagnosis.diagnostics.predictions.rating_error import RatingError
from recspect.diagnosis.diagnostics.predictions.worst_slices import WorstSlices
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.slice import Slice
from recspect.schema import Field, Label, Schema

SCHEMA = Schema(user="user", item="item", labels=[Label(name="click")], fields=[Field(name="user"), Field(name="city"), Field(name="tab")])
GRADES = dataclasses.replace(SCHEMA, labels=(Label(name="click", kind="graded"),))
SEEDS = range(5)
BINARY = (RankingQuality, NormalisedEntropy, Calibration, WorstSlices)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def logit(p):
    return np.log(p / (1 - p))


def world(seed, rows=12_000):
    """Clicks drawn from the very probabilities that are the score, and a weaker baseline."""
    rng = np.random.default_rng(seed)
    user, city, tab = rng.integers(0, 400, rows), rng.integers(0, 12, rows), rng.integers(0, 4, rows)
    item = rng.normal(0, 0.6, rows)
    z = -1.5 + rng.normal(0, 0.6, 400)[user] + item + 0.4 * (city == 3) - 0.3 * (tab == 1) + rng.normal(0, 0.4, rows)
    p = sigmoid(z)
    return {"user": user, "city": np.array([f"c{c}" for c in city]), "tab": tab, "click": (rng.random(rows) < p).astype(float),
            "@score": p, "@baseline:popular": item * 3 + 1, "@baseline:ease": rng.normal(0, 1, rows)}


@pytest.mark.parametrize("diagnostic", BINARY)
@pytest.mark.parametrize("seed", SEEDS)
def test_true_probabilities_are_quiet(diagnostic, seed):
    assert is_quiet(diagnose(diagnostic(), SCHEMA, world(seed), world(seed + 100), slices=(Slice.parse("city=c3"), Slice.parse("tab=1"))))


@pytest.mark.parametrize("diagnostic", BINARY)
def test_one_class_few_rows_grades_and_no_score_are_unknown(diagnostic):
    table = world(0, rows=2000)
    unscored = {name: column for name, column in table.items() if name != "@score"}
    for schema, target in ((SCHEMA, {**table, "click": np.zeros(2000)}), (SCHEMA, {name: column[:50] for name, column in table.items()}),
                           (GRADES, table), (SCHEMA, unscored)):
        assert [finding.verdict for finding in diagnose(diagnostic(), schema, target)] == [Verdict.UNKNOWN]


# ---------------------------------------------------------------------- ranking


@pytest.mark.parametrize("seed", SEEDS)
def test_a_model_that_ranks_worse_than_the_best_baseline_fails(seed):
    table = world(seed)
    table["@score"] = sigmoid(logit(table["@score"]) * 0.1 + np.random.default_rng(seed).normal(0, 1, len(table["user"])))
    (finding,) = diagnose(RankingQuality(), SCHEMA, table)
    assert finding.verdict is Verdict.FAIL
    assert "popular" in finding.claim


@pytest.mark.parametrize("seed", SEEDS)
def test_a_model_equal_to_the_baseline_is_no_gain(seed):
    table = world(seed)
    table["@score"] = sigmoid(table["@baseline:popular"])
    (finding,) = diagnose(RankingQuality(), SCHEMA, table)
    assert finding.verdict is Verdict.WARN
    assert abs(finding.estimate.value) < 1e-3  # both are binned, each in its own way


def test_without_baselines_chance_is_the_measure():
    table = {name: column for name, column in world(1).items() if not name.startswith("@baseline")}
    (good,) = diagnose(RankingQuality(), SCHEMA, table)
    assert good.verdict is Verdict.PASS
    (reversed_,) = diagnose(RankingQuality(), SCHEMA, {**table, "@score": 1 - table["@score"]})
    assert reversed_.verdict is Verdict.FAIL
    (constant,) = diagnose(RankingQuality(), SCHEMA, {**table, "@score": np.full(len(table["click"]), 0.2)})
    assert constant.verdict is Verdict.WARN


def test_auc_within_users_does_not_reward_knowing_the_user():
    rng = np.random.default_rng(0)
    user = rng.integers(0, 300, 20_000)
    p = sigmoid(rng.normal(-1, 1.5, 300))[user]
    (finding,) = diagnose(RankingQuality(), SCHEMA, {"user": user, "click": (rng.random(20_000) < p).astype(float), "@score": p})
    within = next(bars for bars in finding.evidence if "within each user" in bars.title)
    assert within.values == (0.5,)
    assert finding.estimate.value > 0.7


# ---------------------------------------------------------------------- entropy and calibration


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_that_are_far_too_sure_are_worse_than_a_constant(seed):
    table = world(seed)
    (finding,) = diagnose(NormalisedEntropy(), SCHEMA, {**table, "@score": sigmoid(logit(table["@score"]) * 4)})
    assert finding.verdict is Verdict.FAIL
    assert finding.estimate.value > 1


@pytest.mark.parametrize("seed", SEEDS)
def test_negatives_sampled_without_correction_fail(seed):
    table = world(seed)
    findings = diagnose(Calibration(), SCHEMA, {**table, "@score": sigmoid(logit(table["@score"]) + np.log(5))}, world(seed + 100))
    assert verdicts(findings) == {"": Verdict.FAIL}
    assert findings[0].estimate.value > 1.5


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_right_on_average_but_too_sure_warn(seed):
    table = world(seed)
    sure = sigmoid((logit(table["@score"]) + 1.5) * 2 - 1.5)
    odds = sure / (1 - sure)
    low, high = 0.01, 10.0  # scale the odds so that the average is right
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (middle * odds / (1 + middle * odds)).mean() < table["click"].mean() else (low, middle)
    (finding,) = diagnose(Calibration(), SCHEMA, {**table, "@score": low * odds / (1 + low * odds)})
    assert finding.verdict is Verdict.WARN
    assert "not along the scores" in finding.claim


@pytest.mark.parametrize("seed", SEEDS)
def test_a_declared_slice_that_is_off_is_named(seed):
    table = world(seed)
    wrong = table["city"] == "c5"
    table["@score"] = np.where(wrong, table["@score"] * 0.5, table["@score"])
    found = verdicts(diagnose(Calibration(), SCHEMA, table, slices=(Slice.parse("city=c5"), Slice.parse("city=c6"), Slice.parse("tab=2"))))
    assert {name for name, verdict in found.items() if name and verdict is not Verdict.PASS} == {"city=c5"}


# ---------------------------------------------------------------------- slices


@pytest.mark.parametrize("seed", SEEDS)
def test_the_slice_whose_scores_are_wrong_is_found(seed):
    table = world(seed)
    table["@score"] = np.where(table["city"] == "c5", table["@score"] * 0.4, table["@score"])
    found = verdicts(diagnose(WorstSlices(), SCHEMA, table))
    assert {name for name in found if found[name] is not Verdict.PASS} == {"city=c5"}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_slice_whose_scores_belong_to_other_rows_is_found(seed):
    table = world(seed)
    inside = np.flatnonzero(table["city"] == "c7")
    score = table["@score"].copy()
    score[inside] = score[np.random.default_rng(seed).permutation(inside)] ** 0.9
    sure = sigmoid(logit(score[inside]) * 2.5)
    score[inside] = sure * table["click"][inside].mean() / sure.mean()
    found = verdicts(diagnose(WorstSlices(), SCHEMA, {**table, "@score": np.clip(score, 1e-6, 1 - 1e-6)}))
    assert {name for name in found if found[name] is not Verdict.PASS} == {"city=c7"}


def missed_users(seed, rows=6000, users=150):
    """A model that is right on average but knows no user: the rows of a city are those of a dozen users."""
    rng = np.random.default_rng(seed)
    user, taste = rng.integers(0, users, rows), rng.normal(0, 1, users)
    item = rng.normal(0, 0.6, rows)
    among = sigmoid(-1.5 + np.linspace(-4, 4, 200)[:, None] + rng.normal(0, 1, 4000)).mean(1)
    return {"user": user, "city": np.array([f"c{c}" for c in rng.integers(0, 12, users)])[user], "tab": rng.integers(0, 4, rows),
            "click": (rng.random(rows) < sigmoid(-1.5 + taste[user] + item)).astype(float), "@score": np.interp(item, np.linspace(-4, 4, 200), among)}


def test_users_that_the_model_does_not_know_are_no_bad_slices():
    """With rows taken as independent 52 of 60 such tables alarmed."""
    alarms = sum(not is_quiet(diagnose(WorstSlices(), SCHEMA, missed_users(seed))) for seed in range(30))
    assert alarms <= 4  # q < 0.05 allows 1.5 of 30; above 4 has a probability of 2%


@pytest.mark.parametrize("seed", SEEDS)
def test_one_slice_under_two_names_is_one_finding(seed):
    table = world(seed)
    table["@score"] = np.where(table["city"] == "c5", table["@score"] * 0.4, table["@score"])
    schema = dataclasses.replace(SCHEMA, fields=(*SCHEMA.fields, Field(name="region")))
    table["region"] = np.array([f"r{name[1:]}" for name in table["city"]])
    (finding,) = [f for f in diagnose(WorstSlices(), schema, table) if f.verdict is not Verdict.PASS]
    assert finding.place.name == "city=c5"
    assert "(the same rows as region=r5)" in finding.claim


def test_a_crossing_that_is_off_is_named_though_its_fields_are_not():
    found = []
    for seed in range(10):
        table = world(seed)
        inside = (table["city"] == "c5") & (table["tab"] == 2)
        table["@score"] = np.where(inside, table["@score"] * 0.4, table["@score"])
        found.append({name for name, verdict in verdicts(diagnose(WorstSlices(), SCHEMA, table)).items() if verdict is not Verdict.PASS})
    assert sum("city=c5,tab=2" in names for names in found) >= 8
    assert sum(len(names - {"city=c5,tab=2", "city=c5"}) > 0 for names in found) <= 2


def test_healthy_slices_seldom_alarm():
    alarms = sum(not is_quiet(diagnose(WorstSlices(), SCHEMA, world(seed, rows=6000))) for seed in range(40))
    assert alarms <= 5  # q < 0.05 allows 2 of 40; above 5 has a probability of 1%


# ---------------------------------------------------------------------- grades


@pytest.mark.parametrize("seed", SEEDS)
def test_grades_better_than_the_mean_pass_and_worse_fail(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(1, 6, 4000).astype(float)
    table = {"user": rng.integers(0, 200, 4000), "click": truth, "@score": truth + rng.normal(0, 1, 4000)}
    (good,) = diagnose(RatingError(), GRADES, table)
    assert good.verdict is Verdict.PASS
    assert good.estimate.value == pytest.approx(0.5, abs=0.06)
    (bad,) = diagnose(RatingError(), GRADES, {**table, "@score": truth + rng.normal(0, 2, 4000)})
    assert bad.verdict is Verdict.FAIL


def test_grades_that_cannot_be_judged_are_unknown():
    same = {"user": np.arange(500), "click": np.full(500, 3.0), "@score": np.full(500, 3.0)}
    (constant,) = diagnose(RatingError(), GRADES, same)
    (binary,) = diagnose(RatingError(), SCHEMA, same)
    assert (constant.verdict, binary.verdict) == (Verdict.UNKNOWN, Verdict.UNKNOWN)


def test_scores_wrong_everywhere_alike_do_not_blame_slices():
    flags = 0
    for seed in range(20):
        table = world(seed, rows=6000)
        table["@score"] = table["@score"] * 0.4
        flags += not is_quiet(diagnose(WorstSlices(), SCHEMA, table))
    assert flags <= 3  # q < 0.05 allows 1 of 20; above 3 has a probability of 2%
