"""Scores that are too sure, off by one factor, worse for a group of users, or worse for what training saw rarely."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from judging import diagnose, is_quiet, verdicts
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.predictions.calibration_slope import CalibrationSlope
from recspect.diagnosis.diagnostics.predictions.cold_start import ColdStart
from recspect.diagnosis.diagnostics.predictions.group_gap import GroupGap
from recspect.diagnosis.diagnostics.predictions.logistic import fit_line, fit_offset
from recspect.diagnosis.diagnostics.predictions.negative_sampling import NegativeSampling
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.schema import Field, Schema
from recspect.worlds import World, logit_of, sigmoid, split_by_time

ALL = (CalibrationSlope, NegativeSampling, GroupGap, ColdStart)
SEEDS = range(4)
USERS = 500


def sides(seed=0, a=0.0, c=1.0, rows=20_000, keep=1.0, **settings):
    """(schema, held-out, train) scored by the truth, whose log odds are bent to a + c logit p; a share of training negatives kept."""
    world = World(rows=rows, users=USERS, seed=seed, **settings)
    tables = []
    train, held_out = split_by_time(world.exposures())
    train = train.take(np.flatnonzero((train.numbers("click") == 1) | (np.random.default_rng(seed).random(train.rows) < keep)))
    for batch in (held_out, train):
        group = np.array(["f", "m", "x"], dtype=object)[np.random.default_rng(seed).integers(0, 3, USERS)]
        tables.append({**batch, "@score": sigmoid(a + c * logit_of(batch.numbers("truth"))), "group": group[batch["user"]]})
    schema = dataclasses.replace(world.schema, fields=(*world.schema.fields, Field(name="group", side="user")))
    return schema, *tables


@pytest.mark.parametrize("diagnostic", ALL)
@pytest.mark.parametrize("seed", range(8))
def test_true_probabilities_are_quiet(diagnostic, seed):
    assert is_quiet(diagnose(diagnostic(), *sides(seed, rows=8000)))


@pytest.mark.parametrize("diagnostic", ALL)
def test_few_rows_and_a_missing_score_give_no_verdict(diagnostic):
    schema, target, reference = sides(0, rows=2000)
    few = [{n: c[:60] for n, c in side.items()} for side in (target, reference)]
    assert set(verdicts(diagnose(diagnostic(), schema, *few)).values()) == {Verdict.UNKNOWN}
    del target["@score"]
    (finding,) = diagnose(diagnostic(), schema, target, reference)
    assert finding.verdict is Verdict.UNKNOWN
    assert "@score" in finding.claim


# ---------------------------------------------------------------------- one line, one factor


def test_the_line_is_that_of_logistic_regression():
    rng = np.random.default_rng(0)
    p = rng.beta(1, 5, 20_000)
    y = rng.random(20_000) < sigmoid(0.4 + 0.7 * logit_of(p))
    total = ScoreLabel().summarize(Batch({"@score": p, "@label": y.astype(int)}))
    peer = LogisticRegression(C=np.inf, tol=1e-10).fit(logit_of(p)[:, None], y)
    assert fit_line(total) == pytest.approx((peer.intercept_[0], peer.coef_[0, 0]), abs=2e-3)  # bins of 1% of the odds
    assert sigmoid(logit_of(p) + fit_offset(total)).sum() == pytest.approx(y.sum(), rel=1e-3)


@pytest.mark.parametrize("score", [np.full(1000, 0.3), np.repeat([0.1, 0.9], 500)])
def test_no_line_is_fitted_where_there_is_none(score):
    label = (score > 0.5).astype(int) if score[0] != score[-1] else np.arange(1000) % 2  # told apart without error; a constant
    assert np.isnan(fit_line(ScoreLabel().summarize(Batch({"@score": score, "@label": label})))).all()


@pytest.mark.parametrize(("c", "verdict"), [(1.3, Verdict.WARN), (2.0, Verdict.FAIL), (0.75, Verdict.WARN), (0.5, Verdict.FAIL)])
@pytest.mark.parametrize("seed", SEEDS)
def test_scores_too_sure_or_not_sure_enough_are_found(seed, c, verdict):
    (finding,) = diagnose(CalibrationSlope(), *sides(seed, c=c, rows=40_000))
    assert finding.verdict is verdict
    assert finding.estimate.value == pytest.approx(1 / c, rel=0.1)
    assert ("too sure" in finding.claim) == (c > 1)
    if c not in (1.3, 0.75):  # near 1 a factor and a slope look alike
        assert is_quiet(diagnose(NegativeSampling(), *sides(seed, c=c, rows=40_000)))  # no factor mends it


@pytest.mark.parametrize("keep", [0.5, 0.1])
@pytest.mark.parametrize("seed", SEEDS)
def test_sampled_negatives_are_told_with_the_rate(seed, keep):
    schema, target, reference = sides(seed, a=-np.log(keep), keep=keep)
    (finding,) = diagnose(NegativeSampling(), schema, target, reference)
    assert finding.verdict is (Verdict.FAIL if keep < 0.5 else Verdict.WARN)
    assert finding.estimate.value == pytest.approx(1 / keep, rel=0.2)
    assert finding.causes[0].startswith("negatives were sampled")
    assert "w = 0." in finding.remedies[0].text
    assert is_quiet(diagnose(CalibrationSlope(), schema, target, reference))


def test_a_model_of_other_rows_is_the_first_suspect_when_the_given_ones_are_not_sampled():
    (finding,) = diagnose(NegativeSampling(), *sides(1, a=np.log(5)))
    assert finding.verdict is Verdict.FAIL
    assert "other" in finding.causes[0]


# ---------------------------------------------------------------------- groups of users


@pytest.mark.parametrize("seed", SEEDS)
def test_a_group_whose_scores_are_noise_is_named(seed):
    schema, target, reference = sides(seed)
    hit = (target["group"] == "m") & (np.random.default_rng(seed).random(len(target["group"])) < 0.8)
    target["@score"] = np.where(hit, 0.2, target["@score"])
    found = verdicts(diagnose(GroupGap(), schema, target, reference))
    assert found == {"group=m": Verdict.FAIL}


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_dealt_to_other_users_are_alike(seed):
    schema, target, _ = sides(seed)
    hit = (target["group"] == "m") & (np.random.default_rng(seed).random(len(target["group"])) < 0.5)
    target["@score"] = np.where(hit, 0.2, target["@score"])
    target["group"] = np.array(["f", "m", "x"], dtype=object)[np.random.default_rng(seed + 77).integers(0, 3, USERS)][target["user"]]
    assert is_quiet(diagnose(GroupGap(), schema, target))


def test_fields_that_do_not_describe_users_and_fields_of_many_groups_are_left_out():
    schema, target, _ = sides(0)
    target["town"] = target["user"] % 40
    (finding,) = diagnose(GroupGap(), dataclasses.replace(schema, fields=(Field(name="town", side="user"), Field(name="group", side="user"))), target)
    assert "town (more than 12 groups)" in finding.claim
    (finding,) = diagnose(GroupGap(), dataclasses.replace(schema, fields=(Field(name="surface"),)), target)
    assert finding.verdict is Verdict.UNKNOWN
    assert "side = 'user'" in finding.threshold


# ---------------------------------------------------------------------- what training saw rarely


def unseen(side, ids, keep):
    return {n: c[np.isin(side["item"], ids) == keep] for n, c in side.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_new_items_with_scores_of_noise_fail(seed):
    schema, target, reference = sides(seed)
    reference = unseen(reference, np.arange(5, 20), keep=False)
    new = np.isin(target["item"], np.arange(5, 20))
    assert verdicts(diagnose(ColdStart(), schema, target, reference)) == {"user": Verdict.PASS, "item": Verdict.PASS}
    noise = np.random.default_rng(seed).beta(0.5, 2, len(new))
    found = {f.place.name: f for f in diagnose(ColdStart(), schema, {**target, "@score": np.where(new, noise, target["@score"])}, reference)}
    assert found["item"].verdict is Verdict.FAIL
    assert "never seen" in found["item"].claim
    assert found["item"].estimate.value > 1
    assert found["item"].concerns == pytest.approx(new.mean(), abs=0.02)


@pytest.mark.parametrize("seed", SEEDS)
def test_new_items_that_all_get_half_the_odds_are_named(seed):
    schema, target, reference = sides(seed)
    reference = unseen(reference, np.arange(3, 20), keep=False)
    low = np.where(np.isin(target["item"], np.arange(3, 20)), sigmoid(logit_of(target["@score"]) - 1.2), target["@score"])
    found = {f.place.name: f for f in diagnose(ColdStart(), schema, {**target, "@score": low}, reference)}
    assert found["item"].verdict in (Verdict.WARN, Verdict.FAIL)
    assert "too low" in found["item"].claim


def test_cold_start_needs_ids_and_training_rows():
    schema, target, reference = sides(0)
    for args, words in (((schema, target), "training rows"), ((Schema(labels=schema.labels), target, reference), "'user' or 'item'")):
        (finding,) = diagnose(ColdStart(), *args)
        assert finding.verdict is Verdict.UNKNOWN
        assert words in finding.claim
