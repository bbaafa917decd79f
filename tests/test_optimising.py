"""Remedies: what is proposed, how trainings with and without are held against each other, when one is accepted, and that uses of the rows are counted."""

import json
from dataclasses import replace

import numpy as np
import pytest

from recspect.diagnosis.batch import Batch, concatenate
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.finding import Finding, Place, Report, Verdict
from recspect.errors import DataError, RunError, UsageError
from recspect.optimising import calibrating
from recspect.optimising.arms import Trained, beats_constant, over_seeds, paired_figures
from recspect.optimising.catalogue import REMEDIES
from recspect.optimising.holdout import Ledger, Use, level_of
from recspect.optimising.judging import Outcome, against_placebo, judge
from recspect.optimising.pages import CODES
from recspect.optimising.parts import Parts
from recspect.optimising.proposing import instructions, propose
from recspect.optimising.proving import Terms
from recspect.optimising.recipe import Recipe
from recspect.optimising.remedy import Facts, Gate, Part, Prepared, Proposal, RemedyKind
from recspect.optimising.row_steps import apply
from recspect.schema import Field
from recspect.worlds import plant_duplicates
from recspect.worlds.world import TRUTH, World, logit_of, sigmoid

pytest.importorskip("torch", reason="recipes hold settings of trainings, which need torch")

from recspect.training.config import TrainingConfig

WORLD = World(users=300, items=60, rows=8000, base_rate=0.3, seed=3)


@pytest.fixture(scope="module")
def rows():
    return WORLD.exposures()


@pytest.fixture(scope="module")
def parts(rows):
    return Parts.cut((rows.take(slice(0, 4500)), rows.take(slice(4500, 5000)), rows.take(slice(5000, 8000))), WORLD.schema)


def finding(code, verdict="FAIL", *, kind="run", place="", value=1.0):
    return Finding(code=code, verdict=Verdict(verdict), claim="seen", place=Place(kind=kind, name=place), estimate=Estimate(value=value, unit="x", n=1000))


# ------------------------------------------------------------------ calibrations


@pytest.mark.parametrize(("name", "slope", "offset"), [("intercept", 1.0, 0.7), ("temperature", 0.5, 0.0), ("platt", 0.6, -0.8)])
def test_a_planted_calibration_is_found_again(name, slope, offset):
    rng = np.random.default_rng(0)
    logit = rng.normal(-1, 1.5, 60_000)
    label = (rng.random(60_000) < sigmoid(slope * logit + offset)).astype(float)
    found = calibrating.fitted({"map": name}, logit, label)
    assert found.slope == pytest.approx(slope, abs=0.03)
    assert found.offset == pytest.approx(offset, abs=0.04)


def test_platt_agrees_with_a_general_optimiser():
    optimize = pytest.importorskip("scipy.optimize", reason="the independent reference is scipy")
    rng = np.random.default_rng(1)
    logit = rng.normal(0, 2, 3000)
    label = (rng.random(3000) < sigmoid(0.4 * logit - 1)).astype(float)
    found = calibrating.fitted({"map": "platt"}, logit, label)

    def loss(beta):
        scores = beta[0] + beta[1] * logit
        return (np.logaddexp(0, scores) - label * scores).mean()

    reference = optimize.minimize(loss, np.array([0.0, 1.0]), method="BFGS", options={"gtol": 1e-9}).x
    assert (found.offset, found.slope) == pytest.approx(tuple(reference), abs=1e-4)


def test_sampled_negatives_are_undone_exactly():
    p, rate = np.array([0.01, 0.3, 0.9]), 0.1
    sampled = p / (p + rate * (1 - p))
    found = calibrating.fitted({"map": "sampling", "rate": rate}, logit_of(sampled), np.zeros(3))
    assert sigmoid(found.of(logit_of(sampled))) == pytest.approx(p)


def test_isotonic_rises_and_is_the_same_in_torch():
    import torch

    rng = np.random.default_rng(2)
    logit = rng.normal(0, 1, 5000)
    label = (rng.random(5000) < sigmoid(np.where(logit > 0, 3 * logit, 0.2 * logit))).astype(float)
    found = calibrating.fitted({"map": "isotonic"}, logit, label)
    line = np.linspace(-6, 6, 501)
    assert (np.diff(found.of(line)) >= 0).all()
    assert found.of_tensor(torch.tensor(line)).numpy() == pytest.approx(found.of(line), abs=1e-9)
    assert calibrating.loss(found, logit, label).mean() < calibrating.loss(calibrating.Calibration(), logit, label).mean() - 0.01


def test_where_nothing_is_wrong_the_simplest_map_is_chosen():
    rng = np.random.default_rng(3)
    logit = rng.normal(-1, 1, 20_000)
    assert calibrating.best_map(logit, (rng.random(20_000) < sigmoid(logit)).astype(float)) == "intercept"
    assert calibrating.best_map(logit, (rng.random(20_000) < sigmoid(0.3 * logit + 1)).astype(float)) == "platt"


# ------------------------------------------------------------------ rows


def test_the_block_for_proofs_is_the_last_in_time_and_nothing_is_lost(parts, rows):
    assert parts.proof.numbers("time").min() >= parts.diagnosis.numbers("time").max()
    assert parts.diagnosis.rows + parts.proof.rows == 3000
    with pytest.raises(DataError, match="are left for"):
        Parts.cut((rows, rows, rows.take(slice(0, 1500))), WORLD.schema)


def test_deduplicating_undoes_duplicates(parts):
    repeated = plant_duplicates(parts.train, share=0.2, seed=0)
    assert repeated.rows > parts.train.rows
    mended = apply(parts.replaced(train=repeated), ({"step": "deduplicate"},), WORLD.schema)
    assert mended.train.rows == parts.train.rows


def test_nothing_of_the_time_that_is_judged_trains(parts):
    mixed = parts.replaced(train=concatenate([parts.train, parts.proof.take(slice(0, 100)), parts.diagnosis.take(slice(0, 50))]))
    mended = apply(mixed, ({"step": "before_proof"},), WORLD.schema)
    assert mended.train.rows == parts.train.rows
    assert mended.train.numbers("time").max() < parts.proof.numbers("time").min()


def test_training_through_the_diagnosis_reads_no_row_twice_and_none_that_judges(parts):
    newer = apply(parts, ({"step": "through_diagnosis"},), WORLD.schema)
    assert newer.train.rows + newer.validation.rows == parts.train.rows + parts.validation.rows + parts.diagnosis.rows
    assert newer.proof is parts.proof
    mine = np.concatenate([table.hashes("user", "time") for table in (newer.train, newer.validation)])
    assert len(np.unique(mine)) == len(mine)


def test_a_slice_that_weighs_twice(parts):
    home = (parts.train.categories("surface").values[parts.train.categories("surface").codes] == "home").sum()
    assert apply(parts, ({"step": "repeat", "slice": "surface=home", "times": 2},), WORLD.schema).train.rows == parts.train.rows + home
    with pytest.raises(UsageError, match="no step"):
        apply(parts, ({"step": "pray"},), WORLD.schema)


# ------------------------------------------------------------------ recipes


def test_a_recipe_says_what_it_is_made_of():
    recipe = Recipe(schema=WORLD.schema, config=TrainingConfig())
    changed = recipe.changed({"training": {"learning_rate": 0.01}, "model": {"hidden": (8,)}, "fields": {"surface": None, "item": {"minimum_count": 3}}, "epoch": "last"})
    assert changed.schema.field_names == ("user", "item", "age")
    assert changed.schema.field("item").minimum_count == 3
    assert changed.config.learning_rate == 0.01
    assert changed.config.model.hidden == (8,)
    keys = {one.key(seed, data) for one in (recipe, changed) for seed in (0, 1) for data in ("a", "b")}
    assert len(keys) == 8
    assert recipe.key(0, "a") == Recipe(schema=WORLD.schema, config=TrainingConfig(seed=5)).key(0, "a")  # the seed is each training's own
    assert recipe.changed({"scores": ({"map": "platt"},)}).without_scores() == recipe
    with pytest.raises(UsageError, match="can name"):
        recipe.changed({"learning_rate": 1})


def test_a_field_goes_with_those_that_share_its_vectors():
    schema = replace(WORLD.schema, fields=(*WORLD.schema.fields, Field(name="last_items", kind="sequence", shares="item")))
    assert Recipe(schema=schema, config=TrainingConfig()).changed({"fields": {"item": None}}).schema.field_names == ("user", "surface", "age")


# ------------------------------------------------------------------ proposals


def test_codes_of_remedies_are_unique_and_documented():
    from pathlib import Path

    codes = [kind.code for kind in REMEDIES]
    assert len(codes) == len(set(codes))
    text = (Path(__file__).resolve().parents[1] / "docs" / "optimising.md").read_text(encoding="utf-8")
    assert all(f"`{code}`" in text for code in (*codes, *CODES))


@pytest.mark.parametrize(("findings", "first"), [
    ([finding("data.target_leak", kind="field", place="leak")], "drop_leaking_field leak"),
    ([finding("features.spurious", kind="field", place="noise")], "drop_field noise"),
    ([finding("data.split_overlap", "WARN", kind="slice", place="training rows", value=0.2)], "deduplicate"),
    ([finding("training.gradient_flow", kind="layer", place="mlp.0")], "fewer_layers"),
    ([finding("features.hash_collisions", kind="field", place="item")], "more_buckets item"),
    ([finding("training.one_epoch", kind="epoch", place="1")], "stop_earlier"),
    ([finding("training.learning_rate", "WARN"), finding("predictions.normalised_entropy")], "lower_learning_rate"),
    ([finding("data.negative_volume", value=10.0), finding("predictions.calibration")], "correct_sampling"),
    ([finding("training.membership_inference")], "stop_earlier"),
    ([finding("data.joint_drift", kind="field", place="item")], "mend_join"),
])
def test_the_first_remedy_for_a_pattern(findings, first):
    proposal = instructions(Report(findings=tuple(findings)))[0]
    assert f"{proposal.code} {proposal.place}".strip() == first
    assert proposal.prepared.text


def test_causes_take_turns_and_what_was_tried_is_left_out():
    report = Report(findings=(finding("data.target_leak", kind="field", place="leak"), finding("features.hash_collisions", kind="field", place="item")))
    codes = [proposal.code for proposal in propose(report)]
    assert codes[:2] == ["drop_leaking_field", "more_buckets"]
    assert next(propose(report, skip=frozenset({("drop_leaking_field", "leak")}))).code == "more_buckets"
    assert [proposal.code for proposal in propose(report, finding="features.hash_collisions")] == ["more_buckets"]
    with pytest.raises(UsageError, match=r"there are 'data.target_leak'"):
        list(propose(report, finding="data.drift"))


def test_scores_that_are_too_sure_speak_of_memory_before_a_shift():
    off = finding("predictions.calibration", value=1.5)
    slope = Finding(code="predictions.calibration_slope", verdict=Verdict.FAIL, claim="too sure", neutral=1.0, estimate=Estimate(value=0.5, low=0.45, high=0.55, unit="slope", n=1000))
    heart = finding("training.one_epoch", kind="epoch", place="1")
    assert next(propose(Report(findings=(off, slope, heart)))).code == "stop_earlier"
    assert next(propose(Report(findings=(off,)))).code == "recalibrate"


def test_a_field_without_use_is_a_remedy_of_what_was_learned_by_heart():
    report = Report(findings=(finding("training.one_epoch", kind="epoch", place="1"), finding("features.spurious", "WARN", kind="field", place="noise")))
    assert [(one.code, one.place) for one in propose(report)][:2] == [("stop_earlier", ""), ("drop_field", "noise")]


def test_numbers_come_from_the_findings(parts):
    report = Report(findings=(finding("data.negative_volume", value=5.0), finding("predictions.calibration")))
    assert next(propose(report)).prepared.changes == {"scores": [{"map": "sampling", "rate": 0.2}]}
    recipe = Recipe(schema=WORLD.schema, config=TrainingConfig(maximum_epochs=6))
    facts = Facts(report=report, recipe=recipe, parts=parts, epochs=({"epoch": 1, "validation_loss": 0.6}, {"epoch": 2, "validation_loss": 0.5}, {"epoch": 3, "validation_loss": 0.7}),
                  try_out=lambda changes: abs(np.log(changes["training"].get("learning_rate", 1) / 1e-5)))
    rate = next(propose(Report(findings=(finding("training.learning_rate", "WARN"),)), facts))
    assert rate.prepared.changes["training"]["learning_rate"] == pytest.approx(1e-5)
    stop = next(propose(Report(findings=(finding("training.one_epoch", kind="epoch", place="2"),)), facts))
    assert stop.prepared.changes == {"training": {"maximum_epochs": 2}, "epoch": "best"}
    assert stop.target == (("training.one_epoch", ""),)


# ------------------------------------------------------------------ judging


KIND = RemedyKind(code="test", part=Part.DATA, prepare=lambda _: Prepared("do it"), codes=("data.drift",))
PROPOSAL = Proposal(kind=KIND, place="", why="", prepared=Prepared("do it"), target=(("data.drift", ""),))
USE = Use(1, level_of(1))


def arm(rows, noise, findings, seeds=5):
    """Trainings whose logits are the truth with noise."""
    scores = [sigmoid(logit_of(rows.numbers(TRUTH)) + noise * np.random.default_rng(seed).normal(size=rows.rows)) for seed in range(seeds)]
    return tuple(Trained(scores=one, findings=tuple(findings)) for one in scores)


ILL, WELL = [finding("data.drift")], [finding("data.drift", "PASS")]


def test_a_remedy_that_helps_is_accepted(rows):
    judged = judge(PROPOSAL, arm(rows, 1.0, ILL), arm(rows, 0.1, WELL), rows, WORLD.schema, USE)
    assert judged.outcome is Outcome.ACCEPTED
    assert judged.gain.surely_above(0)
    assert judged.gain.level == level_of(1)


@pytest.mark.parametrize(("before", "after", "outcome", "why"), [
    ((1.0, ILL), (0.1, ILL), Outcome.REJECTED, "healthy in 0 of 5 trainings without, in 0 with"),
    ((0.1, ILL), (1.0, WELL), Outcome.REJECTED, "surely above -0.002"),
    ((1.0, WELL), (0.1, WELL), Outcome.UNDECIDED, "nothing to mend"),
    ((1.0, ILL), (0.1, [*WELL, finding("predictions.group_gap")]), Outcome.REJECTED, "predictions.group_gap fails with it and not without"),
    ((1.0, ILL), (0.1, []), Outcome.REJECTED, "data.drift"),  # the question could not be asked: that is no health
])
def test_nothing_is_accepted_on_one_number(rows, before, after, outcome, why):
    judged = judge(PROPOSAL, arm(rows, *before), arm(rows, *after), rows, WORLD.schema, USE)
    assert judged.outcome is outcome
    assert why in judged.reasons[0]


def test_a_question_that_goes_away_with_the_remedy_is_answered(rows):
    gone = replace(PROPOSAL, kind=replace(KIND, vanishes=True))
    assert judge(gone, arm(rows, 1.0, ILL), arm(rows, 0.1, []), rows, WORLD.schema, USE).accepted


def test_an_honest_fall_is_success_but_a_constant_is_not(rows):
    honest = replace(PROPOSAL, kind=replace(KIND, gate=Gate.HONEST))
    leaking = tuple(Trained(scores=np.clip(rows.numbers("click").astype(float), 0.01, 0.99), findings=tuple(ILL)) for _ in range(5))
    assert judge(honest, leaking, arm(rows, 0.1, WELL), rows, WORLD.schema, USE).accepted
    assert not judge(PROPOSAL, leaking, arm(rows, 0.1, WELL), rows, WORLD.schema, USE).accepted
    constant = tuple(Trained(scores=np.full(rows.rows, 0.3), findings=tuple(WELL)) for _ in range(5))
    assert not judge(honest, leaking, constant, rows, WORLD.schema, USE).accepted


def test_what_goes_away_by_itself_is_no_credit_to_a_remedy(rows):
    judged = judge(PROPOSAL, arm(rows, 1.0, ILL), arm(rows, 0.1, WELL), rows, WORLD.schema, USE)
    placebo = judge(PROPOSAL, arm(rows, 1.0, ILL), arm(rows, 1.0, WELL), rows, WORLD.schema, USE)
    assert against_placebo(judged, placebo).outcome is Outcome.REJECTED
    assert against_placebo(judged, judge(PROPOSAL, arm(rows, 1.0, ILL), arm(rows, 1.0, ILL), rows, WORLD.schema, USE)).accepted


def test_calibration_is_guarded(rows):
    too_high = tuple(Trained(scores=sigmoid(logit_of(one.scores) + 0.3), findings=tuple(WELL)) for one in arm(rows, 0.0, WELL))
    judged = judge(PROPOSAL, arm(rows, 2.5, ILL), too_high, rows, WORLD.schema, USE)
    before = next(figure for figure in judged.figures if figure.name == "calibration")
    assert before.gain.surely_below(-0.02) == any(reason.startswith("calibration gets worse") for reason in judged.reasons)
    assert not judge(PROPOSAL, arm(rows, 0.0, ILL), too_high, rows, WORLD.schema, USE).accepted


def test_the_interval_covers_seeds_and_users():
    stats = pytest.importorskip("scipy.stats", reason="the independent reference is scipy")
    values = np.array([0.01, 0.03, 0.02, 0.05, 0.015, 0.02, 0.01, 0.03])
    exact = [Estimate(value=float(value), low=float(value), high=float(value), unit="x", n=10) for value in values]
    found = over_seeds(exact, level=0.95)
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=2e-3)
    wide = over_seeds([replace(one, low=one.value - 0.1, high=one.value + 0.1) for one in exact], level=0.95)
    assert wide.error > 0.095  # users do not become more by training more often


def test_equal_trainings_gain_nothing(rows):
    same = arm(rows, 0.5, ILL)
    assert all(figure.gain.value == 0 for figure in paired_figures(rows, WORLD.schema, same, same, level=0.95))
    assert beats_constant(rows, WORLD.schema, arm(rows, 0.1, ILL), level=0.95).surely_above(0)


def test_scores_that_are_none_are_told(rows):
    wrong = tuple(Trained(scores=np.full(rows.rows, 2.0)) for _ in range(5))
    with pytest.raises(DataError, match="no probabilities"):
        paired_figures(rows, WORLD.schema, wrong, wrong, level=0.95)


def test_five_seeds_are_the_least():
    with pytest.raises(UsageError, match="5 or more"):
        Terms(seeds=(0, 1, 2, 3, 3))


# ------------------------------------------------------------------ uses of the rows


def test_uses_are_counted_once_each_and_spend_less_than_there_is(tmp_path):
    ledger = Ledger(tmp_path, "rows")
    assert [ledger.use(key, "x").number for key in ("a", "b", "a", "c")] == [1, 2, 1, 3]
    assert Ledger(tmp_path, "rows").use("d", "x").number == 4  # another process
    assert Ledger(tmp_path, "other rows").use("a", "x").number == 1
    assert sum(1 - level_of(k) for k in range(1, 10_000)) < 0.05
    assert level_of(2) > level_of(1)


def test_a_damaged_count_is_no_fresh_start(tmp_path):
    (tmp_path / "holdout.json").write_text(json.dumps({"format": "recspect-holdout", "version": 1, "uses": [{}]}))
    with pytest.raises(RunError, match="how often"):
        Ledger(tmp_path, "rows").use("a", "x")


def test_batches_without_time_are_cut_at_random(rows):
    schema = replace(WORLD.schema, time=None, time_unit=None)
    cut = Parts.cut((rows, rows, rows), schema)
    assert isinstance(cut.proof, Batch)
    assert cut.fingerprint(schema) != Parts.cut((rows, rows, rows), schema, share=0.4).fingerprint(schema)
