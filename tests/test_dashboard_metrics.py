"""The folder of an adaptive metric in the dashboard: weights with intervals, why they changed, and a proposal adopted or rejected by a person."""

from dataclasses import replace

import pytest

pytest.importorskip("fastapi", reason="the extra dashboard is not installed")

from fastapi.testclient import TestClient

from recspect.adapting import fitting, proposing
from recspect.adapting.history import FILE, History
from recspect.dashboard.app import create_app
from recspect.dashboard.guard import Guard
from recspect.dashboard.shelf import Shelf
from recspect.dashboard.views import Views
from recspect.worlds.experiments import PILOT
from test_adapting_pipeline import NOW, declared

OWN = {"origin": "http://127.0.0.1"}


@pytest.fixture
def folder(tmp_path):
    file = declared(folder=tmp_path)
    kept = fitting.to_fit_on(PILOT.draw(60, 3)[0], file)
    history = proposing.first_release(kept, file, History(), scene="", now=NOW)
    proposal, _ = proposing.propose(kept, file, history, draws=10, now=NOW)
    proposal = replace(proposal, explanation=(*proposal.explanation, "<img src=x>"))
    (tmp_path / "shown" / "metrics").mkdir(parents=True)
    history.with_proposal(proposal).write(tmp_path / "shown" / "metrics")
    return tmp_path / "shown" / "metrics"


def browser(folder, guard=None):
    return TestClient(create_app(Views(Shelf(folder.parent)), guard), base_url="http://127.0.0.1", headers={"accept": "text/html"}, follow_redirects=False)


def test_the_folder_of_a_metric_is_an_entry_with_its_own_pages(folder):
    web = browser(folder)
    entry = web.get("/index.json").json()["runs"][0]
    assert (entry["name"], entry["kind"], entry["verdict"]) == ("metrics", "metrics", "UNKNOWN")
    page = web.get("/runs/metrics/metrics").text
    for line in History.read(folder).open_proposal().reasons:
        assert line[:40].replace("'", "&#39;") in page
    assert "What does the metric weigh?" in page
    assert "recspect metrics decide --adopt 1" in page
    assert "<img" not in page
    assert web.get("/runs/metrics").status_code == 200
    assert web.get("/runs/metrics/training/now").status_code == 404
    assert web.get("/runs/metrics/metrics.json").json()["findings"][0]["code"] == "metrics.in_use"


@pytest.mark.parametrize(("decision", "status", "releases"), [("adopt", "adopted", 2), ("reject", "rejected", 1)])
def test_a_person_adopts_or_rejects_a_proposal_once(folder, decision, status, releases):
    form = {"number": "1", "decision": decision, "why": "we <b>trust</b> it"}
    before = (folder / FILE).read_bytes()
    assert browser(folder).post("/runs/metrics/proposal", data=form, headers=OWN).status_code == 403
    web = browser(folder, Guard(actions=True))
    assert web.post("/runs/metrics/proposal", data=form, headers={"origin": "http://evil.example"}).status_code == 403
    assert web.post("/runs/metrics/proposal", data=form | {"decision": "maybe"}, headers=OWN).status_code == 422
    assert web.post("/runs/metrics/proposal", data=form | {"number": "7"}, headers=OWN).status_code == 422
    assert (folder / FILE).read_bytes() == before
    assert web.post("/runs/metrics/proposal", data=form, headers=OWN).headers["location"] == "/runs/metrics/metrics"
    history = History.read(folder)
    assert (history.proposals[0].status, history.proposals[0].note, len(history.releases)) == (status, form["why"], releases)
    page = web.get("/runs/metrics/metrics").text
    assert "&lt;b&gt;trust&lt;/b&gt;" in page
    assert 'value="adopt"' not in page
    assert web.post("/runs/metrics/proposal", data=form, headers=OWN).status_code == 422


def test_a_folder_that_is_damaged_is_named(folder):
    (folder / FILE).write_text("{}")
    web = browser(folder)
    assert "damaged" in web.get("/").text
    assert web.get("/runs/metrics").status_code == 409
