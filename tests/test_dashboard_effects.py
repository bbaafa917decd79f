"""Effects in the dashboard: experiments and comparisons below the folder, their decisions on the overview and beside the runs that they are about."""

import json

import pytest

pytest.importorskip("fastapi", reason="the extra dashboard is not installed")

from fastapi.testclient import TestClient

from dashboard_samples import HOSTILE, healthy_report, make_run
from recspect.comparing.comparison import compare_scores
from recspect.dashboard.app import create_app
from recspect.dashboard.shelf import Shelf
from recspect.dashboard.views import Views
from recspect.diagnosis.finding import Finding, Place, Report, Verdict
from report_samples import kuairand_like_report
from test_comparing import SCHEMA, world
from test_experiments import analysed, people


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    make_run(folder / "monday", healthy_report())
    make_run(folder / "tuesday", kuairand_like_report(), days=1)
    rows, current, candidate = world(4, rows=8000, users=800, noise=(1.2, 0.1))
    found = compare_scores(rows, SCHEMA, current, candidate, names=("monday", "tuesday"), provenance={"runs": ["monday", "tuesday"]})
    (folder / "release.json").write_text(found.report.to_json())
    (folder / "trial.json").write_text(analysed(people(3, lift=0.3)).report.to_json())
    return folder


def browser(runs):
    return TestClient(create_app(Views(Shelf(runs))), base_url="http://127.0.0.1", headers={"accept": "text/html"}, raise_server_exceptions=False)


def test_every_effect_stands_on_one_page_with_the_decision_that_came_of_it(runs):
    web = browser(runs)
    found = web.get("/effects.json").json()["effects"]
    reports = {name: Report.read(runs / name) for name in ("release.json", "trial.json")}
    wanted = sorted((name, f.code, str(f.place) if f.place.name else "") for name, report in reports.items() for f in report.findings if f.stage == "effects")
    assert sorted((one["name"], one["code"], one["place"]) for one in found) == wanted
    decided = {one["name"]: one["action"] for one in found if one["action"]}
    (release,), (trial,) = reports["release.json"].find("effects.release"), reports["trial.json"].find("effects.decision")
    actions = {Verdict.PASS: "ship", Verdict.FAIL: "hold", Verdict.UNKNOWN: "needs data"}
    assert decided == {"release.json": actions[release.verdict], "trial.json": actions[trial.verdict]}
    assert release.claim.lower().startswith(decided["release.json"])
    text = web.get("/effects").text
    assert text.count('href="/runs/monday"') == text.count('href="/runs/tuesday"') > 0
    assert web.get("/runs/release.json/effects").status_code == 200


def test_the_decision_stands_on_the_overview_and_beside_the_runs_it_is_about(runs):
    web = browser(runs)
    overview = web.get("/").text
    assert "Decisions" in overview
    assert "/runs/release.json/effects" in overview
    assert overview.index("/runs/tuesday") < overview.index("Decisions")  # the newest run comes first, not the newest file
    assert "/runs/release.json/effects" in web.get("/runs/tuesday").text
    assert "/runs/release.json/effects" in web.get("/runs/monday").text
    assert "/runs/trial.json/effects" not in web.get("/runs/monday").text


def test_without_any_the_page_says_how_to_come_by_one(tmp_path):
    make_run(tmp_path / "runs" / "monday", healthy_report())
    web = browser(tmp_path / "runs")
    assert "recspect compare" in web.get("/effects").text
    assert "Decisions" not in web.get("/").text


def test_hostile_and_damaged_reports_take_nothing_down(runs):
    (runs / "bad.json").write_text(Report(findings=(Finding(code="effects.decision", verdict=Verdict.PASS, claim=HOSTILE, place=Place(kind="arm", name=HOSTILE)),),
                                          provenance={"runs": [HOSTILE, 3]}).to_json())
    (runs / "worse.json").write_text(json.dumps({"format": "recspect-findings", "version": 1, "findings": [{"code": "effects.release"}]}, indent=1))
    web = browser(runs)
    for path in ("/effects", "/"):
        answer = web.get(path)
        assert answer.status_code == 200
        assert "<img" not in answer.text
        assert "release.json" in answer.text
    assert {one["name"] for one in web.get("/effects.json").json()["effects"]} == {"bad.json", "release.json", "trial.json"}
