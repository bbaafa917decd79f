"""The report in a terminal."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.finding import Finding, Place, Remedy, Report, Verdict
from recspect.report import wording
from recspect.report.text import print_report, render
from report_samples import kuairand_like_report


@pytest.fixture(scope="module")
def report():
    return kuairand_like_report()


def test_the_first_line_is_the_verdict_with_counts_and_the_worst_in_words(report):
    first = render(report).splitlines()[0]
    assert first == "3 FAIL, 2 WARN, 3 UNKNOWN, 4 PASS: 'video_click_rate' tells the answer."


def test_findings_stand_worst_first_and_unknown_and_pass_follow(report):
    text = render(report)
    text = text[text.index(" ───"):]  # below the causes, which name findings too
    places = [text.index(word) for word in ("data.target_leak", "training.overfitting", "data.drift", "embeddings.collapse",
                                            "UNKNOWN  3 questions", "PASS  4 findings")]
    assert places == sorted(places)


def test_claim_number_interval_n_threshold_and_remedy_are_told(report):
    text = " ".join(render(report).split())
    assert "held-out AUC falls from 0.736 to 0.727" in text
    assert "−0.0090 held-out AUC, last pass against the first (95% interval −0.0110 to −0.0070, n = 25,156 users)" in text
    assert "held against: the whole interval below 0" in text
    assert "try Train one pass." in text


def _slice(name, threshold):
    return Finding(code="predictions.worst_slices", verdict=Verdict.WARN, claim=f"Where {name}, too much is predicted.", place=Place(kind="slice", name=name),
                   estimate=Estimate(value=1.11, low=1.05, high=1.17, unit="predicted / observed", n=45_666, clusters=5_990), threshold=threshold,
                   meaning="The average hides it.", remedies=(Remedy(code="inspect", text="Compare the fields."),))


def test_a_long_threshold_is_told_whole_and_once_for_all_places():
    threshold = "WARN when " + "a slice is unlikely by chance among all that were looked at, or " * 5 + "never"
    text = " ".join(render(Report(findings=(_slice("tab=1", threshold), _slice("tab=2", threshold)))).split())
    assert text.count(f"held against: {threshold}") == text.count("held against") == 1
    assert "more characters" not in text
    text = " ".join(render(Report(findings=(_slice("tab=1", "above 1"), _slice("tab=2", "above 2")))).split())
    assert "held against: above 1 slice tab=2" in text
    assert text.count("held against: above 2") == 1


def test_the_whole_text_of_a_small_report():
    """Golden: what was seen, the number with interval, n and users, what it was held against, what it means, what to try."""
    missing = [Finding(code=code, verdict=Verdict.UNKNOWN, claim="No recommended lists were made.", threshold="give a schema with user and item")
               for code in ("recommendations.coverage", "recommendations.popularity_bias")]
    passed = Finding(code="data.drift", verdict=Verdict.PASS, claim="12 fields look the same.")
    assert render(Report(title="clicks", findings=(_slice("tab=1", "above 1.05"), *missing, passed)), width=100) == """\
1 WARN, 2 UNKNOWN, 1 PASS: Nothing fails, but look at this: where tab=1, too much is predicted.
2 questions could not be answered.
clicks

What likely lies behind it
 1. Predictions are worse in tab=1 than elsewhere.
    try   Compare the slice's rows field by field with the others: a defect of its data, or too few
          of its rows in training.
    check The slice's loss comes down, and no other slice's goes up.
    signs predictions.worst_slices (tab=1)

 ──────────────────────────────────────────────────────────────────────────────────────────────────
 WARN   predictions.worst_slices
        slice tab=1  Where tab=1, too much is predicted.
          1.110 predicted / observed (95% interval 1.050 to 1.170, n = 45,666 rows of 5,990 users)
          held against: above 1.05
        means The average hides it.
        try   Compare the fields.
 ──────────────────────────────────────────────────────────────────────────────────────────────────

UNKNOWN  2 questions could not be answered
  recommendations.coverage         No recommended lists were made. To answer it: give a schema with
  recommendations.popularity_bias  user and item.

PASS  1 finding by stage
  data  1  drift
"""


def test_the_headline_is_the_most_severe_of_the_worst_verdict():
    mild = replace(_slice("tab=1", ""), verdict=Verdict.FAIL, limit=1.04, neutral=1.0, code="a.a")
    bad = replace(mild, claim="Everything is wrong.", limit=1.01, code="z.z")
    assert render(Report(findings=(mild, bad))).startswith("2 FAIL: everything is wrong.")


def test_every_unknown_is_listed_with_its_reason(report):
    text = " ".join(render(report).split())
    for reason in ("no column has the role 'propensity'", "No table of features as they were served was given.",
                   "Only 37 users have lists in this slice; 100 are needed."):
        assert reason in text


def test_passed_findings_are_one_line_per_stage_with_a_count(report):
    lines = render(report).splitlines()
    assert [line.split() for line in lines if line.startswith("  predictions")] == [["predictions", "2", "calibration,", "normalised_entropy"]]


def test_the_next_command_ends_the_report(report):
    assert render(report).rstrip().endswith("Next:\n  recspect train data/kuairand --without video_click_rate")


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("evidence", [False, True])
def test_no_line_is_wider_than_asked(report, width, evidence):
    assert max(len(line) for line in render(report, width=width, evidence=evidence).splitlines()) <= width


def test_evidence_prints_the_numbers_behind_a_finding(report):
    text = render(report, evidence=True)
    assert "Which users does the model memorise?" in text
    assert re.search(r"under 5 exposures\s+0\.214\s+0\.201\s+0\.227", text)


def test_colours_only_when_asked(report):
    assert "\x1b" not in render(report)
    coloured = render(report, color=True)
    assert "\x1b[1;31mFAIL" in coloured
    bare = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in bare.splitlines()] == render(report).splitlines()


def test_a_console_that_is_no_terminal_gets_plain_text_of_at_least_100_columns(report):
    out = io.StringIO()
    print_report(report, Console(file=out, width=40))
    assert out.getvalue() == render(report, width=100)


def test_a_terminal_gets_colours_and_its_own_width(report):
    out = io.StringIO()
    print_report(report, Console(file=out, width=72, force_terminal=True, color_system="standard"))
    assert "\x1b[" in out.getvalue()
    assert max(len(line) for line in re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()) <= 72


def test_a_console_without_these_letters_gets_others_instead_of_an_exception():
    raw = io.BytesIO()
    ascii_file = io.TextIOWrapper(raw, encoding="ascii")
    report = Report(findings=(Finding(code="data.title", verdict=Verdict.FAIL, claim="Überraschung 你好 fails – often."),))
    print_report(report, Console(file=ascii_file, width=100))
    ascii_file.flush()
    assert b"?berraschung ?? fails - often" in raw.getvalue()


def test_markup_and_control_characters_of_data_are_shown_literally():
    title = "[red]x[/red]\x1b[31m\x07\u202egnp\x00 [link=file:///etc/passwd]y[/link] :smile: \ud800"
    finding = Finding(code="data.title", verdict=Verdict.FAIL, claim=f"Item {title} fails.", place=Place(kind="field", name=title),
                      estimate=Estimate(value=1.0, unit=title, n=3, of=title), threshold=title,
                      remedies=(Remedy(code="x", text=title, command=title),))
    unknown = replace(finding, verdict=Verdict.UNKNOWN)
    passed = replace(finding, verdict=Verdict.PASS, code=f"data.{title}")
    report = Report(findings=(finding, unknown, passed), title=title, provenance={"run": title})
    text = render(report, width=400)
    assert "[red]x[/red][31mgnp [link=file:///etc/passwd]y[/link] :smile: \ufffd" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    assert text.encode("utf-8")


def test_many_places_of_one_diagnostic_are_counted_not_hidden():
    findings = tuple(Finding(code="data.leak", verdict=Verdict.FAIL, claim=f"Field f{i:02} leaks.", place=Place(kind="field", name=f"f{i:02}"))
                     for i in range(20))
    text = render(Report(findings=findings))
    assert "data.leak  20 places" in text
    assert "… 14 more places" in text


@pytest.mark.parametrize(("findings", "line"), [
    ((), "no findings: Nothing was examined."),
    ((Finding(code="a.b", verdict=Verdict.PASS, claim="Fine."),), "1 PASS: Healthy: everything that could be judged passes."),
    ((Finding(code="a.b", verdict=Verdict.UNKNOWN, claim="No rows."),), "1 UNKNOWN: Nothing could be judged."),
    ((Finding(code="a.b", verdict=Verdict.WARN, claim="AUC is low: 0.6."),), "1 WARN: Nothing fails, but look at this: AUC is low."),
])
def test_the_headline_of_reports_without_a_fail(findings, line):
    assert render(Report(findings=findings)).splitlines()[0] == line


@pytest.mark.parametrize(("claim", "expected"), [
    ("The model memorises: AUC falls.", ("The model memorises", "AUC falls.")),
    ("Ratio 1.004 (0.991 to 1.017) holds. Good.", ("Ratio 1.004 (0.991 to 1.017) holds", "Good.")),
    ("Held-out is older: held-out 0.14.", ("Held-out is older", "Held-out 0.14.")),
    ("A field leaks: user_id does.", ("A field leaks", "user_id does.")),
    ("Short.", ("Short", "")),
    ("", ("", "")),
])
def test_a_claim_splits_into_heading_and_rest(claim, expected):
    assert wording.split_claim(claim) == expected


def test_a_claim_of_ten_thousand_characters_is_cut_and_says_so():
    text = render(Report(findings=(Finding(code="a.b", verdict=Verdict.FAIL, claim="x" * 10_000),)))
    assert "(8,800 more characters)" in " ".join(text.split())
    assert len(text) < 3000


@pytest.mark.parametrize(("values", "expected"), [
    ([0.061, 0.41, -0.0001], ["0.061", "0.410", "0.000"]),
    ([1, 25_156, None], ["1", "25,156", "–"]),
    ([float("nan"), float("inf"), 0.5], ["–", "–", "0.500"]),
    ([1234.5, -0.25], ["1,234.5", "−0.2"]),
    ([], []),
])
def test_numbers_read_together_have_common_decimals(values, expected):
    assert wording.figures(values) == expected
