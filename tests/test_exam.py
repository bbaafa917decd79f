"""The exam: faults are planted as they say, cells are sat once, marks are counted right, and a small exam is passed."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from recspect.diagnosis.diagnostic import Diagnostic, all_diagnostics
from recspect.errors import DataError, UsageError
from recspect.exam import (
    BENIGN,
    FAULTS,
    PROGRAMS,
    REAL,
    SEVERITIES,
    Outcome,
    Seen,
    Sheet,
    cells,
    mark,
    read_outcomes,
    sit,
    sit_all,
)
from recspect.exam.command import report, run
from recspect.exam.fitting import fit, leave_one_out
from recspect.exam.marking import clopper_pearson
from recspect.exam.programs import JUDGED
from recspect.exam.sitting import Bench

PROGRAM = "video/deepfm"


@pytest.fixture(scope="module")
def healthy():
    return PROGRAMS[PROGRAM].case(5)


def faulty(name, severity):
    return Sheet(program=PROGRAM, seed=5, fault=name, severity=severity).case()


def test_faults_name_known_codes_and_causes():
    from recspect.diagnosis.cause_rules import RULES

    all_diagnostics()
    for fault in FAULTS.values():
        assert {*fault.expected, *fault.silent} <= set(Diagnostic.registry), fault.name
        assert not set(fault.expected) & set(fault.silent)
        assert fault.cause in {rule.code for rule in RULES}
    assert set(JUDGED) < set(PROGRAMS)


def test_a_case_is_the_same_for_the_same_seed(healthy):
    again = PROGRAMS[PROGRAM].case(5)
    assert np.array_equal(again.test.numbers("click"), healthy.test.numbers("click"))
    other = PROGRAMS[PROGRAM].case(6)
    assert not np.array_equal(other.test.numbers("click"), healthy.test.numbers("click"))
    assert healthy.train.numbers("time").max() <= healthy.validation.numbers("time").min() <= healthy.test.numbers("time").min()


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_changes_something_and_leaves_a_case_that_can_be_trained(name, severity, healthy):
    case = faulty(name, severity)
    same_rows = all(getattr(case, part).rows == getattr(healthy, part).rows and list(getattr(case, part)) == list(getattr(healthy, part)) and all(
        np.array_equal(np.asarray(_plain(getattr(case, part), column)), np.asarray(_plain(getattr(healthy, part), column)), equal_nan=True)
        for column in getattr(healthy, part)) for part in ("train", "validation", "test"))
    assert not same_rows or case.config != healthy.config or case.schema != healthy.schema or case.spoil is not None or case.served is not None
    for part in (case.train, case.validation, case.test):
        assert set(case.schema.field_names) <= set(part)
        assert 0 < part.numbers("click").mean() < 1


def _plain(batch, column):
    held = batch[column]
    return held if isinstance(held, np.ndarray) and held.dtype.kind in "fiu" else batch.categories(column).codes.astype(np.float64)


def test_what_is_planted_is_what_is_said(healthy):
    gross = {name: faulty(name, "gross") for name in ("label_copy", "future_window", "sampled_negatives", "prior_shift", "new_items", "test_rows_in_training")}
    leak = gross["label_copy"].train
    assert (leak.numbers("leak") == leak.numbers("click")).mean() == pytest.approx(0.99, abs=0.005)
    window = gross["future_window"].train
    assert np.array_equal(window.numbers("window_rate"), window.numbers("click"))  # a window of one row is the row
    negatives = (1 - healthy.train.numbers("click")).sum()
    assert (1 - gross["sampled_negatives"].train.numbers("click")).sum() / negatives == pytest.approx(0.1, abs=0.01)
    assert gross["sampled_negatives"].train.numbers("click").sum() == healthy.train.numbers("click").sum()
    assert gross["prior_shift"].test.numbers("click").sum() / healthy.test.numbers("click").sum() == pytest.approx(0.25, abs=0.03)
    assert (gross["new_items"].test.numbers("item") > healthy.train.numbers("item").max()).mean() == pytest.approx(0.4, abs=0.02)
    times = set(healthy.test.numbers("time").tolist())
    shared = np.mean([time in times for time in gross["test_rows_in_training"].train.numbers("time").tolist()])
    assert shared == pytest.approx(0.2, abs=0.001)


def test_a_window_counts_a_users_own_next_rows():
    case = faulty("future_window", "typical")
    users, clicks, rates = (case.train.numbers(name) for name in ("user", "click", "window_rate"))
    for user in np.unique(users)[:20]:
        own = clicks[users == user]
        expected = [own[k:k + 2].mean() for k in range(len(own))]
        assert rates[users == user] == pytest.approx(expected)


def test_what_is_planted_in_logs_is_what_is_said(healthy):
    typical = {name: faulty(name, "typical") for name in ("stale_values", "position_effect", "broken_propensities", "popularity_loop", "few_buckets", "broken_batch")}
    served = typical["stale_values"].served
    assert np.mean(served.numbers("age") != healthy.test.numbers("age")) == pytest.approx(0.05, abs=0.01)
    assert np.array_equal(served.numbers("item"), healthy.test.numbers("item"))
    placed = typical["position_effect"]
    rate = [placed.train.numbers("click")[placed.train.numbers("place") == place].mean() for place in (1, 10)]
    assert rate[1] / rate[0] == pytest.approx(10**-0.6, abs=0.04)
    assert "place" not in placed.schema.field_names
    true, logged = healthy.train.numbers("chance"), typical["broken_propensities"].train.numbers("propensity")
    assert np.array_equal(logged, np.maximum(true, np.median(true)))
    shown = np.bincount(healthy.train.numbers("item").astype(int), minlength=300) / healthy.train.rows
    assert shown == pytest.approx(np.unique(true)[::-1][np.argsort(np.argsort(-shown, kind="stable"))], abs=0.02)  # what is logged is how items were shown
    narrowed = typical["popularity_loop"].train
    head = [np.isin(part.numbers("item"), np.arange(30))[-3000:].mean() for part in (healthy.train, narrowed)]
    assert head[1] > head[0] + 0.05
    items = len(np.unique(healthy.train.numbers("item")))
    assert typical["few_buckets"].schema.field("item").hash_buckets == round(items / 8)
    assert typical["broken_batch"].schema == healthy.schema
    flipped = (typical["broken_batch"].train.numbers("click") != healthy.train.numbers("click")).sum()
    assert flipped == 3 * healthy.config.batch_rows


def test_a_broken_batch_is_one_that_training_reads_together(healthy, tmp_path):
    from recspect.training.epoch import order_of_rows

    case = faulty("broken_batch", "typical")
    order = order_of_rows(case.train.rows, case.config.seed, 2)
    flipped = np.flatnonzero((case.train.numbers("click") != healthy.train.numbers("click"))[order])
    assert flipped.max() - flipped.min() + 1 == len(flipped) == 3 * case.config.batch_rows


def test_cells_are_a_twin_variations_and_faults_for_each_program_and_seed():
    sheets = list(cells(["video/mlp", "feed/silu"], [1, 2], ["typical"], ["label_copy"]))
    assert len(sheets) == len(set(sheets)) == 4 * (1 + len(BENIGN) + 1)


# ---------------------------------------------------------------------- marks


def alarm(code, place="", verdict="WARN", *, value=None, limit=None, kind="field", neutral=0.0):
    return Seen(code=code, place=place, verdict=verdict, value=value, limit=limit, kind=kind, neutral=neutral, unit="share", n=100 if value is not None else 0)


def outcome(fault, *findings, severity="typical", seed=1, program=PROGRAM):
    return Outcome(sheet=Sheet(program=program, seed=seed, fault=fault, severity=severity if fault in FAULTS else ""), findings=findings)


def test_marks_are_counted_by_hand():
    usual, passed = alarm("recommendations.coverage"), alarm("data.time_leak", verdict="PASS")
    leak, drift = alarm("data.target_leak", "leak", "FAIL"), alarm("data.drift", "item")
    result = mark([
        outcome("healthy", usual, drift, passed),
        outcome("deeper", usual, alarm("data.drift", "age", "FAIL")),
        outcome("label_copy", usual, leak, passed),
        outcome("label_copy", usual, leak, alarm("data.time_leak", "", "FAIL", kind="run"), seed=2),  # no twin with this seed; a cause further upstream comes first
        outcome("default_value", usual, drift),  # the twin has that very finding
        outcome("shuffled_field", alarm("data.joint_drift", "age"), alarm("training.loss_anomaly", kind="step")),
    ])
    assert result.by_fault["label_copy", "typical"].detected == 1
    assert (result.by_fault["label_copy", "typical"].cause_first, result.by_fault["label_copy", "typical"].cause_top3) == (0.5, 1)
    assert result.by_fault["default_value", "typical"].detected == 0
    shuffled = result.by_fault["shuffled_field", "typical"]
    assert (shuffled.detected, shuffled.placed, shuffled.kept_silent, shuffled.cause_first) == (1, 0, 0, 1)
    assert result.missed == (("default_value", "typical", PROGRAM, 1),)
    assert (result.healthy, result.false_alarm_runs, result.warned_runs) == (2, 0.5, 1)
    assert result.cries == {("recommendations.coverage", "WARN"): 2, ("data.drift", "WARN"): 1, ("data.drift", "FAIL"): 1}
    assert result.to_mapping() == {"detected": 0.75, "cause_first": 0.75, "cause_top3": 1.0, "detected_barely": None, "false_alarm_runs": 0.5, "cells": 6}
    assert "| label_copy | typical | 2 | 100% | 50% | 100% | 100% | 50% |" in result.to_text()


# ---------------------------------------------------------------------- thresholds fitted on others


@pytest.mark.parametrize(("seen", "strength"), [
    (alarm("predictions.calibration", value=1.3, limit=1.1, neutral=1.0), 3.0),
    (alarm("predictions.calibration", value=0.8, limit=0.9, neutral=1.0), 2.0),  # as far on the other side
    (alarm("embeddings.collapse", value=0.2, limit=0.6), 3.0),  # a limit from below
    (alarm("data.split_overlap", value=0.1, limit=0.0), None),  # one shared row is a leak: no factor
    (alarm("data.drift", verdict="PASS", value=0.3, limit=0.1), None),
    (alarm("predictions.group_gap"), None),
])
def test_how_far_an_alarm_is_beyond_its_limit(seen, strength):
    assert seen.strength == (None if strength is None else pytest.approx(strength))


def test_a_stretch_is_what_healthy_runs_of_others_reach():
    off = [outcome("healthy", alarm("predictions.calibration", verdict="FAIL", value=1 + 0.1 * k, limit=1.1, neutral=1.0), seed=k) for k in range(1, 4)]
    few = fit(off)
    assert few.stretches == {("predictions.calibration", "FAIL"): pytest.approx(3.0)}  # of few runs the furthest of all
    at, beyond = (alarm("predictions.calibration", verdict="FAIL", value=v, limit=1.1, neutral=1.0) for v in (1.29, 1.31))
    assert (few.judge(at).verdict, few.judge(beyond).verdict) == ("WARN", "FAIL")
    warned = alarm("data.drift", value=0.3, limit=0.1)
    assert few.judge(warned) == warned  # no healthy run said it
    many = fit([*off, *(outcome("healthy", seed=k) for k in range(10, 160))])
    assert many.stretches == {("predictions.calibration", "FAIL"): pytest.approx(1.0)}  # 3 of 153: 2% may be as far out, and 3 are the share that is allowed
    assert fit([*off, *(outcome("healthy", seed=k) for k in range(10, 300))]).stretches == {}  # rare enough as they are


def test_no_program_has_a_part_in_its_own_thresholds():
    off = alarm("predictions.calibration", verdict="FAIL", value=1.5, limit=1.1, neutral=1.0)
    worlds = [outcome("healthy", off, program="video/mlp"), outcome("healthy", program="video/deepfm"), outcome("healthy", program="feed/mlp"),
              outcome("healthy", program="shop/deepfm")]
    judged, fitted = leave_one_out(worlds)
    verdicts = {o.sheet.program: [seen.verdict for seen in o.findings] for o in judged}
    assert verdicts["video/mlp"] == ["FAIL"]  # shop/deepfm alone shares neither world nor architecture with it
    assert (fitted["video/mlp"].runs, fitted["shop/deepfm"].runs) == (1, 2)
    assert fitted["shop/deepfm"].stretches  # video/mlp is one of those two
    assert not fitted["feed/mlp"].stretches  # shares its architecture with video/mlp
    assert not leave_one_out([outcome("healthy", program="video/mlp"), outcome("healthy", program="video/deepfm")])[1]


def test_fitted_thresholds_add_no_alarm():
    rng = np.random.default_rng(0)
    codes = ("predictions.calibration", "training.overfitting", "data.drift")
    many = [outcome(fault, *(alarm(code, verdict=str(rng.choice(["FAIL", "WARN", "PASS"])), value=float(rng.uniform(0.1, 1)), limit=0.1) for code in codes), program=program, seed=seed)
            for program in PROGRAMS for seed in range(3) for fault in ("healthy", "deeper", "label_copy")]
    before = {o.sheet: sum(s.verdict == "FAIL" for s in o.findings) for o in many}
    judged, _ = leave_one_out(many)
    assert len(judged) == len(many)
    assert all(sum(s.verdict == "FAIL" for s in o.findings) <= before[o.sheet] for o in judged)
    assert all(len(o.alarms) <= len(next(b for b in many if b.sheet == o.sheet).alarms) for o in judged)


def test_the_last_line_is_of_thresholds_fitted_on_others():
    off = alarm("predictions.calibration", verdict="FAIL", value=1.5, limit=1.1, neutral=1.0)
    told = report([outcome("healthy", off, program="video/mlp"), outcome("healthy", off, program="feed/silu")])
    assert json.loads(told.splitlines()[-1])["false_alarm_runs"] == 0  # each is as far out as the other
    assert "With a FAIL: 100.0%" in told
    alone = report([outcome("healthy", off, program="video/mlp")])
    assert json.loads(alone.splitlines()[-1])["false_alarm_runs"] == 1
    assert "no thresholds can be fitted" in alone


@pytest.mark.parametrize(("count", "of"), [(0, 1), (1, 1), (0, 40), (3, 40), (40, 40), (7, 300)])
def test_the_interval_of_a_share_is_that_of_scipy(count, of):
    expected = stats.binomtest(count, of).proportion_ci(0.95, method="exact")
    assert clopper_pearson(count, of) == pytest.approx((expected.low, expected.high), abs=1e-9)


# ---------------------------------------------------------------------- sitting


def test_outcomes_survive_a_file_and_a_cut_line(tmp_path):
    path = tmp_path / "exam.jsonl"
    told = [outcome("label_copy", alarm("data.target_leak", "leak", "FAIL", value=0.9, limit=0.8, neutral=0.5)), outcome("healthy")]
    path.write_text("\n".join(one.to_line() for one in told) + "\n" + told[0].to_line()[:40])
    assert read_outcomes(path) == told
    assert path.read_text().count("\n") == 2  # the cut line is gone, so that the next is not glued to it
    path.write_text("{}\n")
    with pytest.raises(DataError, match="damaged"):
        read_outcomes(path)


def test_what_was_sat_is_not_sat_again(tmp_path):
    path = tmp_path / "exam.jsonl"
    sheet = Sheet(program=PROGRAM, seed=1, fault="label_copy", severity="typical")
    path.write_text(outcome("label_copy").to_line() + "\n")
    assert list(sit_all([sheet], path)) == [outcome("label_copy")]


@pytest.mark.parametrize("arguments", [("nowhere/mlp", 1, "", "", 1), ("", 1, "huge", "", 1), ("", 1, "", "no_fault", 1), ("", 0, "", "", 1), ("", 1, "", "", 0)])
def test_names_and_numbers_that_are_wrong_are_told(arguments, tmp_path):
    programs, seeds, severity, faults, workers = arguments
    with pytest.raises(UsageError):
        run(programs, seeds, severity, faults, tmp_path / "exam.jsonl", workers, say=print)


def test_real_tables_that_are_absent_are_told(monkeypatch, tmp_path):
    monkeypatch.setenv("RECSPECT_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("RECSPECT_CACHE", str(tmp_path))
    told = []
    with pytest.raises(DataError, match="no program can be sat"):
        run("real", 1, "", "", tmp_path / "exam.jsonl", 1, say=told.append)
    assert [line.split(":")[0] for line in told] == ["skipped"] * 3


@pytest.mark.parametrize("table", ["kuairand", "movielens", "bank"])
def test_faults_are_planted_in_real_tables_where_they_have_a_place(table):
    from recspect.datasets import locate

    program = REAL[f"{table}/mlp"]
    if locate(program.table.dataset) is None:
        pytest.skip(f"the data set {program.table.dataset} is not here")
    healthy = program.case(5)
    leaks = {"show_cnt", "play_cnt", "like_cnt", "duration"}  # what is known only later
    assert not leaks & set(healthy.schema.field_names)
    if program.columns.time is not None:
        assert healthy.train.numbers(program.columns.time).max() <= healthy.test.numbers(program.columns.time).min()
    planted = {sheet.fault for sheet in cells([program.name], [5], ["gross"])} & set(FAULTS)
    assert {"label_copy", "shuffled_field", "dead_layer", "sampled_negatives", "random_labels"} <= planted
    assert ("unequal_arms" in planted) == (program.columns.user is not None)
    assert "broken_propensities" not in planted
    for fault in sorted(planted):
        case = FAULTS[fault].change(healthy, 2)
        for part in (case.train, case.validation, case.test):
            assert set(case.schema.field_names) <= set(part), fault
            assert 0 < part.numbers(program.columns.label).mean() < 1, fault
        changed = [part for part in ("train", "validation", "test") if not _same(getattr(case, part), getattr(healthy, part))]
        assert changed or case.config != healthy.config or case.schema != healthy.schema or case.spoil is not None or case.served is not None, fault


def _same(one, other):
    return one.rows == other.rows and list(one) == list(other) and all(
        np.array_equal(np.asarray(_plain(one, column)), np.asarray(_plain(other, column)), equal_nan=True) for column in other if column != "genres")


@pytest.mark.slow
def test_a_small_exam(tmp_path, capsys):
    """One program that no rule was written on, seven gross or typical faults."""
    faults = "label_copy,shuffled_field,dead_layer,sampled_negatives,concept_drift,missing_field,collapsed_table"
    run("feed/silu", 1, "typical", faults, tmp_path / "exam.jsonl", 1, say=lambda _: None)
    line = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert line["cells"] == 1 + len(BENIGN) + 7
    assert line["detected"] >= 6 / 7
    assert line["cause_top3"] >= 5 / 7
    assert line["false_alarm_runs"] <= 1 / 9


@pytest.mark.slow
def test_a_cell_is_the_same_when_sat_again_and_on_the_training_of_its_twin(tmp_path):
    bench = Bench(tmp_path)
    for fault, severity in (("healthy", ""), ("dead_layer", "typical"), ("label_copy", "barely"), ("prior_shift", "typical"), ("healthy", "")):
        sheet = Sheet(program="feed/silu", seed=3, fault=fault, severity=severity)
        first, second = sit(sheet), sit(sheet, bench)
        assert (first.findings, first.refused) == (second.findings, "")
        assert math.isfinite(first.seconds)
    assert len(list((tmp_path / "run" / "checkpoints").glob("*.safetensors"))) >= 2  # the twin's training is kept
