"""The findings format: its page in the documentation is complete and its example is real."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import EVIDENCE_KINDS, Line
from recspect.diagnosis.finding import Finding, Place, Remedy, Report, Verdict
from recspect.errors import RunError
from report_samples import evidence_of_every_kind, kuairand_like_report

PAGE = (Path(__file__).parent.parent / "docs" / "findings-format.md").read_text(encoding="utf-8")
EXAMPLE = json.loads(re.search(r"```json\n(.*?)```", PAGE, re.DOTALL).group(1))


def test_the_example_is_read_and_written_back_unchanged():
    report = Report.from_mapping(EXAMPLE)
    assert report.verdict is Verdict.FAIL
    assert report.findings[0].estimate.n == 25156
    assert math.isnan(report.findings[0].evidence[0].lines[0].y[1])
    assert report.to_mapping() == EXAMPLE


@pytest.mark.parametrize("kind", [Report, Finding, Place, Estimate, Remedy, Line, *EVIDENCE_KINDS.values()])
def test_every_key_is_documented(kind):
    for field in dataclasses.fields(kind):
        assert f"`{field.name}`" in PAGE, f"{kind.__name__}.{field.name}"


def test_every_kind_of_evidence_and_every_key_of_a_report_is_documented():
    for name in [*EVIDENCE_KINDS, *EXAMPLE, *Verdict]:
        assert f"`{name}`" in PAGE


def test_a_report_with_evidence_of_all_kinds_survives_the_round_trip():
    report = kuairand_like_report()
    assert {type(e) for e in report.overview + sum((f.evidence for f in report.findings), ())} == set(EVIDENCE_KINDS.values())
    again = Report.from_mapping(json.loads(report.to_json()))
    assert again.to_json() == report.to_json()


def test_what_is_not_finite_is_null_and_comes_back_as_not_measured():
    heat = evidence_of_every_kind()["heat_map"]
    content = json.loads(Report(overview=(heat,)).to_json())
    assert content["overview"][0]["values"][2][3] is None
    assert math.isnan(Report.from_mapping(content).overview[0].values[2][3])


def _without(value, *keys):
    if isinstance(value, dict):
        return {key: _without(entry, *keys) for key, entry in value.items() if key not in keys}
    return [_without(entry, *keys) for entry in value] if isinstance(value, list) else value


def test_files_written_before_stages_and_severities_are_read_and_mean_the_same():
    old = _without(json.loads(kuairand_like_report().to_json()), "stage", "limit", "neutral", "concerns", "severity", "clusters", "cluster_of")
    report = Report.from_mapping(old)
    assert [f.claim for f in sorted(report.findings, key=lambda f: f.claim)] == sorted(f.claim for f in kuairand_like_report().findings)
    assert {f.severity for f in report.findings if f.verdict is Verdict.FAIL} == {0.5}
    assert {e.stage for e in report.overview} == {""}


def test_keys_of_a_newer_version_of_the_same_format_are_ignored():
    def with_more(value):
        if isinstance(value, dict):
            return {key: with_more(entry) for key, entry in value.items()} | {"added_later": 1}
        return [with_more(entry) for entry in value] if isinstance(value, list) else value

    findings = [with_more(finding) for finding in EXAMPLE["findings"]]
    assert Report.from_mapping(EXAMPLE | {"findings": findings}).to_mapping() == EXAMPLE


def _finding(verdict=Verdict.WARN, value=0.0, low=None, high=None, **settings):
    return Finding(code="a.b", verdict=verdict, claim="x", estimate=Estimate(value=value, low=low, high=high, unit="u", n=9), **settings)


@pytest.mark.parametrize(("finding", "severity"), [
    (_finding(value=0.2, limit=0.1), 0.5),  # twice the limit, exact
    (_finding(value=0.2, low=0.16, high=0.24, limit=0.1), 0.375),  # the near end counts, not the value
    (_finding(value=0.2, low=0.05, high=0.35, limit=0.1), 0.0),  # the interval reaches the limit
    (_finding(value=-0.02, low=-0.03, high=-0.01, limit=-0.002), 0.8),  # a fall
    (_finding(value=1.0, low=0.9, high=1.2, limit=1.5), 0.2),  # too little
    (_finding(value=1.0, low=0.9, high=1.6, limit=1.5), 0.0),
    (_finding(value=0.9, limit=1.05, neutral=1.0), 0.5),  # a ratio, off to either side
    (_finding(value=1.01, limit=1.01, neutral=1.0), 0.0),  # the number did not decide
    (_finding(value=0.1, limit=0.0), 1.0),  # nothing is allowed
    (_finding(value=0.1, low=-0.1, high=0.3, limit=0.0), 0.0),
    (_finding(value=0.2, limit=0.1, concerns=0.01), 0.005),
    (_finding(value=0.2), 0.5),  # no limit named
    (Finding(code="a.b", verdict=Verdict.FAIL, claim="x", concerns=0.5), 0.25),
    (_finding(Verdict.PASS, value=0.2, limit=0.1), 0.0),
    (Finding(code="a.b", verdict=Verdict.UNKNOWN, claim="x"), 0.0),
])
def test_severity_is_the_distance_beyond_the_limit_on_the_share_of_the_data(finding, severity):
    assert finding.severity == pytest.approx(severity)


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.floats(-1e6, 1e6), st.floats(-10, 10), st.floats(0, 1), st.sampled_from(Verdict))
def test_severity_is_a_number_between_0_and_1(value, reach, limit, neutral, concerns, verdict):
    finding = _finding(verdict, value=value, low=value - reach, high=value + reach, limit=limit, neutral=neutral, concerns=concerns)
    assert 0.0 <= finding.severity <= 1.0


def test_the_worst_of_a_verdict_comes_first_and_a_fail_before_any_warn():
    mild, bad = (_finding(Verdict.FAIL, value=v, limit=0.1) for v in (0.11, 0.9))
    warn = _finding(value=100.0, limit=0.1)
    tie = dataclasses.replace(bad, code="a.a")
    assert Report(findings=(warn, mild, bad, tie)).ranked == (tie, bad, mild, warn)


def test_what_a_number_rests_on():
    known = Estimate(value=0.5, unit="AUC", n=45_666, clusters=5_990)
    assert known.basis == "45,666 rows of 5,990 users"
    assert str(known).endswith("AUC, 45,666 rows of 5,990 users")
    assert dataclasses.replace(known, clusters=None).basis == "45,666 rows"


def test_another_version_is_refused_with_a_hint():
    with pytest.raises(RunError, match="reads 1"):
        Report.from_mapping(EXAMPLE | {"version": 99})
