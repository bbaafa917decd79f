"""The exam: faults are planted as they say, cells are sat once, marks are counted right, and a small exam is passed."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from recspect.diagnosis.diagnostic import Diagnostic, all_diagnostics
from recspect.errors import DataError, UsageError
from recspect.exam import BENIGN, FAULTS, PROGRAMS, SEVERITIES, Outcome, Sheet, cells, mark, read_outcomes, sit, sit_all
from recspect.exam.command import run
from recspect.exam.marking import clopper_pearson
from recspect.exam.programs import JUDGED

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
    assert not same_rows or case.config != healthy.config or case.spoil is not None
    for part in (case.train, case.validation, case.test):
        assert set(case.schema.field_names) <= set(part)
        assert 0 < part.numbers("click").mean() < 1


def _plain(batch, column):
    held = batch[column]
    return held if isinstance(held, np.ndarray) else batch.categories(column).codes.astype(np.float64)


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
    assert (gross["new_items"].test.numbers("item") >= 100_000).mean() == pytest.approx(0.4, abs=0.02)
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


def test_cells_are_a_twin_variations_and_faults_for_each_program_and_seed():
    sheets = list(cells(["video/mlp", "feed/silu"], [1, 2], ["typical"], ["label_copy"]))
    assert len(sheets) == len(set(sheets)) == 4 * (1 + len(BENIGN) + 1)


# ---------------------------------------------------------------------- marks


def outcome(fault, findings=(), causes=(), severity="typical", seed=1):
    return Outcome(sheet=Sheet(program=PROGRAM, seed=seed, fault=fault, severity=severity if fault in FAULTS else ""), findings=tuple(findings), causes=tuple(causes))


def test_marks_are_counted_by_hand():
    usual = ("recommendations.coverage", "", "WARN")
    leak, drift = ("data.target_leak", "leak", "FAIL"), ("data.drift", "item", "WARN")
    result = mark([
        outcome("healthy", [usual, drift]),
        outcome("deeper", [usual, ("data.drift", "age", "FAIL")]),
        outcome("label_copy", [usual, leak], [("target_leak", "leak", "FAIL", False)]),
        outcome("label_copy", [usual, leak], [("memorisation", "", "FAIL", False), ("target_leak", "leak", "FAIL", False)], seed=2),  # no twin with this seed
        outcome("default_value", [usual, drift], [("default_value", "item", "WARN", False)]),  # the twin has that very finding
        outcome("shuffled_field", [("data.joint_drift", "age", "WARN"), ("training.loss_anomaly", "", "WARN")], [("broken_join", "age", "WARN", True)]),
    ])
    assert result.by_fault["label_copy", "typical"].detected == 1
    assert (result.by_fault["label_copy", "typical"].cause_first, result.by_fault["label_copy", "typical"].cause_top3) == (0.5, 1)
    assert result.by_fault["default_value", "typical"].detected == 0
    shuffled = result.by_fault["shuffled_field", "typical"]
    assert (shuffled.detected, shuffled.placed, shuffled.kept_silent, shuffled.cause_top3) == (1, 0, 0, 0)  # a cause that is only possible does not count
    assert result.missed == (("default_value", "typical", PROGRAM, 1),)
    assert (result.healthy, result.false_alarm_runs, result.warned_runs) == (2, 0.5, 1)
    assert result.cries == {("recommendations.coverage", "WARN"): 2, ("data.drift", "WARN"): 1, ("data.drift", "FAIL"): 1}
    assert result.to_mapping() == {"detected": 0.75, "cause_first": 0.5, "cause_top3": 0.75, "detected_barely": None, "false_alarm_runs": 0.5, "cells": 6}
    assert "| label_copy | typical | 2 | 100% | 50% | 100% | 100% | 100% |" in result.to_text()


@pytest.mark.parametrize(("count", "of"), [(0, 1), (1, 1), (0, 40), (3, 40), (40, 40), (7, 300)])
def test_the_interval_of_a_share_is_that_of_scipy(count, of):
    expected = stats.binomtest(count, of).proportion_ci(0.95, method="exact")
    assert clopper_pearson(count, of) == pytest.approx((expected.low, expected.high), abs=1e-9)


# ---------------------------------------------------------------------- sitting


def test_outcomes_survive_a_file_and_a_cut_line(tmp_path):
    path = tmp_path / "exam.jsonl"
    told = [outcome("label_copy", [("data.target_leak", "leak", "FAIL")], [("target_leak", "leak", "FAIL", False)]), outcome("healthy")]
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
def test_a_cell_is_the_same_when_sat_again():
    sheet = Sheet(program="feed/silu", seed=3, fault="label_copy", severity="barely")
    first, second = sit(sheet), sit(sheet)
    assert (first.findings, first.causes, first.refused) == (second.findings, second.causes, "")
    assert math.isfinite(first.seconds)
