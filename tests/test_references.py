"""Healthy runs kept, and new ones held against them."""

import json

import numpy as np
import pytest

from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.finding import Finding, Report, Verdict
from recspect.errors import RunError, UsageError
from recspect.examining.references import CODE, References

FAIL, WARN, PASS, UNKNOWN = Verdict.FAIL, Verdict.WARN, Verdict.PASS, Verdict.UNKNOWN
CODES = [f"data.q{k}" for k in range(12)]


def report(run, values, verdict=PASS, limit=None):
    return Report(provenance={"run": run}, findings=tuple(
        Finding(code=code, verdict=verdict if k == 0 else PASS, claim=f"{code} is {value:.3f}.", limit=limit, estimate=Estimate(value=float(value), unit="share", n=100))
        for k, (code, value) in enumerate(zip(CODES, values, strict=False))))


def healthy(count, seed=0, first=None):
    rng = np.random.default_rng(seed)
    kept = References()
    for run in range(count):
        values = rng.normal(1, 0.1, len(CODES))
        if first is not None:
            values[0] = first[run]
        kept = kept.with_run(report(f"healthy-{run}", values))
    return kept, rng


def whole(held):
    (finding,) = held.find(CODE)
    return finding


def test_a_warning_that_healthy_runs_reach_too_is_usual():
    kept, _ = healthy(10, first=[0.3, 0.35, 0.2, 0.1, 0.5, 0.3, 0.2, 0.4, 0.1, 0.3])
    held = kept.hold(report("new", [0.3], WARN, limit=0.05))
    (finding,) = held.find("data.q0")
    assert finding.verdict is PASS
    assert "6 of 10 healthy runs" in finding.claim
    assert kept.hold(report("new", [0.9], WARN, limit=0.05)).find("data.q0")[0].verdict is WARN  # none is as far out
    assert kept.hold(report("new", [0.3], FAIL, limit=0.05)).find("data.q0")[0].verdict is FAIL
    fewer, _ = healthy(8, first=[0.3] * 8)
    assert fewer.hold(report("new", [0.3], WARN, limit=0.05)).find("data.q0")[0].verdict is WARN


def test_a_limit_from_below_is_passed_downwards():
    kept, _ = healthy(10, first=[0.1, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert kept.hold(report("new", [0.15], WARN, limit=0.5)).find("data.q0")[0].verdict is PASS
    assert kept.hold(report("new", [0.05], WARN, limit=0.5)).find("data.q0")[0].verdict is WARN


def test_one_healthy_run_in_twenty_is_called_unlike_and_one_that_is_far_out_always():
    alarms = missed = 0
    for seed in range(200):
        kept, rng = healthy(19, seed)
        values = rng.normal(1, 0.1, len(CODES))
        alarms += whole(kept.hold(report("new", values))).verdict is WARN
        values[5] += 2
        missed += whole(kept.hold(report("new", values))).verdict is not WARN
    assert alarms <= 20  # 10 expected of 200; P(more than 20) < 0.002
    assert missed <= 10


def test_what_is_far_out_is_named():
    kept, rng = healthy(30)
    values = rng.normal(1, 0.1, len(CODES))
    values[7] = 9
    finding = whole(kept.hold(report("new", values)))
    assert finding.verdict is WARN
    assert "data.q7 lies further out" in finding.claim
    assert finding.evidence[0].rows[0][0] == "data.q7"
    assert finding.estimate.value == pytest.approx(1 / 31)


def test_too_few_runs_say_so_and_a_run_is_not_held_against_itself():
    kept, _ = healthy(19)
    assert whole(kept.hold(report("new", [1] * 12))).verdict is not UNKNOWN
    assert whole(kept.hold(report("healthy-3", [1] * 12))).verdict is UNKNOWN
    assert "18 healthy runs are kept; 19 are needed" in whole(kept.hold(report("healthy-3", [1] * 12))).claim
    assert whole(kept.hold(Report(provenance={"run": "other"}))).verdict is UNKNOWN


def test_a_table_without_a_run_is_not_held_against_itself_either():
    kept, _ = healthy(18)
    table = Report(provenance={"data_fingerprint": "abc"}, findings=report("", [1.0] * 12).findings)
    assert "18 healthy runs are kept" in whole(kept.with_run(table).hold(table)).claim


def test_an_earlier_comparison_is_no_number_of_the_run():
    kept, rng = healthy(19)
    held = kept.hold(report("new", rng.normal(1, 0.1, 12)))
    assert CODE not in {code for code, _, _ in kept.with_run(held).runs[-1][1]}
    assert len(kept.hold(held).find(CODE)) == 1


def test_numbers_that_never_differ_do_not_divide_by_zero():
    kept = References()
    for run in range(19):
        kept = kept.with_run(report(f"run-{run}", [0.0, 1.0]))
    assert whole(kept.hold(report("new", [0.0, 1.0]))).verdict is PASS
    assert whole(kept.hold(report("new", [0.0, 2.0]))).verdict is WARN


def test_a_failing_run_is_no_reference_and_a_run_is_kept_once():
    kept, _ = healthy(2)
    with pytest.raises(UsageError, match=r"not healthy: data\.q0"):
        kept.with_run(report("bad", [1], FAIL))
    assert len(kept.with_run(report("healthy-1", [3])).runs) == 2


def test_files_survive_and_damaged_ones_are_told(tmp_path):
    path = tmp_path / "healthy.json"
    assert References.read(path).runs == ()
    kept, _ = healthy(3)
    kept.write(path)
    assert References.read(path) == kept
    for content in ("{", "[]", '{"format": "recspect-findings"}', json.dumps({"format": "recspect-reference", "version": 1, "runs": [{"run": "x"}]}),
                    json.dumps({"format": "recspect-reference", "version": 1, "runs": [{"run": "x", "numbers": [{"code": "a", "place": "", "unit": "", "value": np.nan}]}]})):
        path.write_text(content)
        with pytest.raises(RunError):
            References.read(path)
