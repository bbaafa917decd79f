"""The findings format: its page in the documentation is complete and its example is real."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest

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


def test_another_version_is_refused_with_a_hint():
    with pytest.raises(RunError, match="reads 1"):
        Report.from_mapping(EXAMPLE | {"version": 99})
