"""The dashboard over HTTP: every page and its JSON twin, what a stranger cannot do, and that it stays small whatever a run holds."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra dashboard is not installed")

from fastapi.testclient import TestClient

from dashboard_samples import HOSTILE, healthy_report, make_run
from recspect.dashboard import texts
from recspect.dashboard.app import create_app
from recspect.dashboard.feedback import read_feedback
from recspect.dashboard.guard import Guard
from recspect.dashboard.hiding import without_small_groups
from recspect.dashboard.shelf import Shelf
from recspect.dashboard.texts import LANGUAGES
from recspect.dashboard.views import TITLES, Views, stages
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, RankedTable
from recspect.diagnosis.finding import Finding, Place, Report, Verdict
from recspect.report import html as report_html
from recspect.report.chapters import INTRODUCTIONS
from report_samples import kuairand_like_report

TOKEN = "correct-horse-battery"


@pytest.fixture
def unused_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def runs(tmp_path):
    make_run(tmp_path / "runs" / "old-healthy", healthy_report())
    make_run(tmp_path / "runs" / "new-faulty", kuairand_like_report(), days=1)
    make_run(tmp_path / "runs" / "unexamined", days=2, status="running", epochs=0)
    return tmp_path / "runs"


def browser(runs, guard=None, smallest=20, **options):
    return TestClient(create_app(Views(Shelf(runs), smallest=smallest), guard, **options), base_url="http://127.0.0.1", headers={"accept": "text/html"},
                      raise_server_exceptions=False)


def test_every_page_answers_and_every_link_of_every_page_leads_somewhere(runs):
    web = browser(runs)
    seen, waiting = set(), ["/"]
    while waiting:
        at = waiting.pop()
        if at in seen or ("/about?" in at and ("lang=" in at or "/old-healthy/" in at)):  # of places there are many, all made alike
            continue
        seen.add(at)
        answer = web.get(at)
        assert answer.status_code == 200, (at, answer.text[:500])
        if "html" in answer.headers["content-type"]:
            waiting += [link.partition("#")[0].replace("&amp;", "&") for link in re.findall(r'(?:href|src|hx-get)="(/[^"]*)"', answer.text)]
    assert {"/runs/new-faulty", "/runs/new-faulty/features", "/runs/new-faulty.json", "/runs/unexamined/training/now", "/assets/vega.js", "/compare"} <= seen
    assert len(seen) > 40


def test_every_anchor_that_a_summary_links_to_stands_on_the_page_it_names(runs):
    web = browser(runs)
    links = re.findall(r'href="(/runs/new-faulty/[^"]*)#([^"]+)"', web.get("/runs/new-faulty").text)
    assert len(links) > 3
    for page, anchor in links:
        assert f'id="{anchor}"' in web.get(page).text, (page, anchor)


def test_the_json_twin_of_a_page_is_the_report_or_its_part(runs):
    web, report = browser(runs), kuairand_like_report()
    assert web.get("/runs/new-faulty/findings.json").json() == json.loads(report.to_json())
    parts = [web.get(f"/runs/new-faulty/{stage}.json").json() for stage in stages(report)]
    assert sorted(f["code"] + f["place"]["name"] for part in parts for f in part["findings"]) == sorted(f.code + f.place.name for f in report.findings)
    assert sum(len(part["overview"]) for part in parts) == len(report.overview)
    index = web.get("/index.json").json()["runs"]
    assert [run["name"] for run in index] == ["unexamined", "new-faulty", "old-healthy"]
    assert index[1]["counts"]["FAIL"] == len(report.with_verdict(Verdict.FAIL))
    assert (index[1]["best"], index[1]["measure"]) == (0.71, "validation auc")


def test_the_overview_says_what_changed_since_the_last_healthy_run_of_the_same_data(runs):
    text = browser(runs).get("/").text
    assert "Beside the last run of the same data without a FAIL" in text
    assert "/runs/old-healthy" in text
    failed = kuairand_like_report().with_verdict(Verdict.FAIL)[0]
    assert re.search(rf"new</span> <code>{re.escape(failed.code)}</code>", text)
    make_run(runs / "other", kuairand_like_report(), days=3, data={"kind": "dataset", "name": "another"})
    assert "Beside the last run" not in browser(runs).get("/").text


def test_the_twin_of_two_runs_beside_each_other_has_their_curves_and_what_only_one_finds(runs):
    web = browser(runs)
    page = web.get("/compare?run=old-healthy&run=new-faulty").text
    twin = re.search(r'href="(/compare.json[^"]*)"', page)[1].replace("&amp;", "&")
    found = web.get(twin).json()
    assert [run["name"] for run in found["runs"]] == ["old-healthy", "new-faulty"]
    bad = {(f.code, str(f.place) if f.place.name else "") for f in kuairand_like_report().with_verdict(Verdict.FAIL, Verdict.WARN)}
    assert {tuple(one) for one in found["change"]["worse"]} == bad
    assert {line["name"] for line in found["evidence"][0]["lines"]} == {"old-healthy", "new-faulty"}
    assert web.get("/compare.json?run=old-healthy").status_code == 422
    assert web.get("/compare.json?run=old-healthy&run=nobody").status_code == 404


def test_a_training_is_shown_before_anybody_examined_it(runs):
    web = browser(runs)
    assert "recspect diagnose" in web.get("/runs/unexamined").text
    now = web.get("/runs/unexamined/training/now").text
    assert "How does the loss fall?" in now
    assert "Step 80, epoch 2" in now
    drawn = json.loads(re.search(r'class="drawing">(.*?)</script>', now, re.DOTALL)[1])
    assert len(drawn["specs"]) == now.count("data-chart=")


def test_what_a_running_training_adds_is_told_and_the_page_then_has_it(runs):
    import threading

    web, folder = browser(runs, live_seconds=0.05), runs / "unexamined"
    line = json.dumps([81, 3, "loss/train", "", 0.123]) + "\n"

    def go_on():
        (folder / "live.jsonl").write_text(line)
        record = json.loads((folder / "run.json").read_text())
        threading.Timer(0.3, lambda: (folder / "run.json").write_text(json.dumps(record | {"status": "finished"}))).start()

    threading.Timer(0.3, go_on).start()
    with web.stream("GET", "/runs/unexamined/live") as stream:
        said = "".join(stream.iter_text())
    assert 'event: change\ndata: {"status": "running"}' in said
    assert said.rstrip().endswith('event: end\ndata: {"status": "finished"}')
    assert "Step 81, epoch 3" in web.get("/runs/unexamined/training/now").text


def test_distributions_can_be_scrubbed_through(runs):
    web = browser(runs)
    last, first = web.get("/runs/new-faulty/training/distributions").text, web.get("/runs/new-faulty/training/distributions?at=0").text
    assert 'value="2"' in last
    assert "step 80" in last
    assert 'value="0"' in first
    assert web.get("/runs/new-faulty/training/distributions?at=99").text == last
    assert web.get("/runs/new-faulty/training/distributions?at=-1").status_code == 422


def test_findings_can_be_searched_by_verdict_and_words(runs):
    web, report = browser(runs), kuairand_like_report()
    assert web.get("/runs/new-faulty/findings?verdict=FAIL").text.count('class="badge') == len(report.with_verdict(Verdict.FAIL))
    code = report.findings[0].code
    assert web.get("/runs/new-faulty/findings", params={"words": code.upper()}).text.count('class="badge') == len(report.find(code))
    assert "No finding is like that." in web.get("/runs/new-faulty/findings?words=zzzzzz").text


def test_text_of_the_data_is_text_wherever_it_stands(tmp_path):
    estimate = Estimate(value=0.5, low=0.4, high=0.6, unit=HOSTILE, n=100)
    finding = Finding(code="features.unused", verdict=Verdict.FAIL, claim=HOSTILE, place=Place(kind="field", name=HOSTILE), estimate=estimate, meaning=HOSTILE,
                      evidence=(Bars(title=HOSTILE, unit=HOSTILE, names=(HOSTILE,), values=(1.0,)), RankedTable(title="t", columns=(HOSTILE,), rows=((HOSTILE,),))))
    make_run(tmp_path / "runs" / "a'b\"<i>&", Report(findings=(finding,), title=HOSTILE), label=HOSTILE, model={"name": HOSTILE}, data={"kind": "table", "path": HOSTILE})
    make_run(tmp_path / "runs" / "plain", healthy_report())
    web = browser(tmp_path / "runs")
    name = web.get("/index.json").json()["runs"][0]["name"]
    from urllib.parse import quote

    at = "/runs/" + quote(name, safe="")
    for page in ("/", at, f"{at}/features", f"{at}/findings", f"{at}/training", f"{at}/training/now", f"/compare?run={quote(name)}&run=plain", f"{at}/provenance"):
        answer = web.get(page)
        assert answer.status_code == 200, (page, answer.text[:300])
        assert "<img" not in answer.text
        assert "<i>" not in answer.text
        assert len(answer.content) < 600_000, page


@pytest.mark.parametrize("path", ["/runs/..%2F..%2Fetc%2Fpasswd", "/runs/%2e%2e", "/runs/nobody", "/runs/old-healthy/..%2f..%2fx", "/runs/old-healthy/nothing", "/assets/..%2fapp.py",
                                  "/assets/page.html.j2", "/runs/old-healthy/nothing.json"])
def test_what_is_not_on_the_shelf_has_no_address(runs, path):
    (runs.parent / "secret.json").write_text('{"format": "recspect-findings"}')
    answer = browser(runs).get(path)
    assert answer.status_code == 404
    assert "Traceback" not in answer.text


def test_every_answer_forbids_scripts_of_others_and_frames(runs):
    web = browser(runs)
    for path in ("/", "/runs/new-faulty/features", "/runs/nobody", "/assets/vega.js", "/index.json"):
        policy = web.get(path).headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
    text = web.get("/runs/new-faulty/features").text
    assert not re.search(r"<script(?![^>]*(src=\"/assets/|type=\"application/json\"))", text)
    assert not re.search(r"\son[a-z]+=|<style|\sstyle=", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))


def test_beyond_loopback_nothing_is_shown_without_the_token(runs):
    web = TestClient(create_app(Views(Shelf(runs)), Guard(host="0.0.0.0", token=TOKEN)), base_url="http://dash.example", follow_redirects=False)
    assert web.get("/", headers={"accept": "text/html"}).headers["location"] == "/login"
    for path in ("/index.json", "/runs/new-faulty.json", "/runs/new-faulty/live"):
        assert web.get(path).status_code == 401
    assert web.get("/index.json", headers={"authorization": "Bearer wrong-wrong-wrong"}).status_code == 401
    assert web.get("/index.json", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert web.post("/login", data={"token": "wrong"}).status_code == 401
    entered = web.post("/login", data={"token": TOKEN})
    assert entered.headers["location"] == "/"
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in cookie
    assert web.get("/index.json").status_code == 200
    web.cookies.set("recspect", "0" * 64, domain="dash.example")
    assert web.get("/index.json").status_code == 401


def test_a_name_of_another_site_that_points_here_gets_nothing(runs):
    web = browser(runs)
    assert web.get("/index.json", headers={"host": "evil.example"}).status_code == 421
    assert web.get("/index.json", headers={"host": "127.0.0.1.evil.example:8090"}).status_code == 421
    for host in ("localhost:8090", "127.0.0.1:1", "[::1]:8090"):
        assert web.get("/index.json", headers={"host": host}).status_code == 200


def test_huge_questions_and_bodies_are_refused_with_the_bound(runs):
    web = browser(runs, Guard(actions=True))
    assert web.get("/runs/new-faulty/findings?words=" + "x" * 3000).status_code == 414
    refused = web.post("/runs/new-faulty/feedback", content=b"x" * 70_000, headers={"origin": "http://127.0.0.1", "accept": "application/json"})
    assert refused.status_code == 413
    assert "65,536" in refused.json()["error"]["message"]


def test_what_people_say_of_a_finding_is_kept_where_actions_are_allowed_and_only_from_the_page_itself(runs):
    report = kuairand_like_report()
    finding = report.ranked[0]
    form = {"code": finding.code, "place": str(finding.place) if finding.place.name else "", "said": "confirmed", "note": "<b>seen</b> it too"}
    at, own = "/runs/new-faulty/feedback", {"origin": "http://127.0.0.1"}
    assert browser(runs).post(at, data=form, headers=own).status_code == 403
    web = browser(runs, Guard(actions=True))
    assert web.post(at, data=form, headers={"origin": "http://evil.example"}).status_code == 403
    assert web.post(at, data=form).status_code == 403
    assert web.post(at, data=form | {"code": "no.such"}, headers=own).status_code == 404
    assert web.post(at, data=form | {"said": "maybe"}, headers=own).status_code == 422
    assert read_feedback(runs / "new-faulty") == ()
    shown = web.post(at, data=form, headers=own)
    assert shown.status_code == 200
    assert "&lt;b&gt;seen&lt;/b&gt; it too" in shown.text
    kept = read_feedback(runs / "new-faulty")
    assert [(one.code, one.said, one.note) for one in kept] == [(finding.code, "confirmed", form["note"])]
    assert "confirmed" in web.get("/runs/new-faulty/findings").text


def test_small_groups_are_not_shown_and_it_is_said_how_many():
    table = RankedTable(title="Where?", columns=("slice", "rows"), rows=(("big", 500), ("small", 7)))
    other = RankedTable(title="Tables", columns=("table", "rows"), rows=(("gender", 3),))
    estimate = Estimate(value=2.0, low=1.5, high=2.5, unit="ratio", n=7)
    finding = Finding(code="predictions.worst_slices", verdict=Verdict.WARN, claim="7 people", place=Place(kind="slice", name="small"), estimate=estimate)
    report = Report(findings=(finding, replace(finding, place=Place(kind="slice", name="big"), estimate=replace(estimate, n=500), evidence=(table,))), overview=(other,))
    hidden = without_small_groups(report, 20)
    assert [f.place.name for f in hidden.findings] == ["big"]
    assert hidden.findings[0].evidence[0].rows == (("big", 500),)
    assert "1 groups of fewer than 20 are not shown" in hidden.findings[0].evidence[0].caption
    assert hidden.overview == (other,)
    assert without_small_groups(report, 0) == report


def test_damaged_files_are_named_and_take_nothing_else_down(runs):
    (runs / "old-healthy" / "run.json").write_text("{not json")
    (runs / "new-faulty" / "findings.json").write_text('{"format": "recspect-findings", "version": 1, "findings": 3}')
    (runs / "unexamined" / "steps.parquet").write_bytes(b"PAR1")
    web = browser(runs)
    assert "damaged" in web.get("/").text
    assert web.get("/runs/old-healthy").status_code == 409
    assert web.get("/runs/new-faulty").status_code == 409
    faulty = web.get("/runs/unexamined/training/now")
    assert faulty.status_code == 409
    assert "damaged" in faulty.text


def test_a_report_alone_and_one_run_directory_can_be_shown(tmp_path, runs):
    (runs / "experiment.json").write_text(kuairand_like_report().to_json())
    (runs / "notes.json").write_text('{"a": 1}')
    web = browser(runs)
    assert "experiment.json" in [run["name"] for run in web.get("/index.json").json()["runs"]]
    assert web.get("/runs/experiment.json/features").status_code == 200
    assert web.get("/runs/experiment.json/training/now").status_code == 404
    alone = browser(runs / "new-faulty")
    assert [run["name"] for run in alone.get("/index.json").json()["runs"]] == ["new-faulty"]


def test_what_changed_on_disk_is_seen_and_what_did_not_is_not_read_again(runs, monkeypatch):
    from recspect.dashboard import shelf as rooms

    read = []
    original = rooms._read
    monkeypatch.setattr(rooms, "_read", lambda name, path, kind: (read.append(name), original(name, path, kind))[1])
    shelf = Shelf(runs)
    shelf.entries()
    assert sorted(read) == ["new-faulty", "old-healthy", "unexamined"]
    read.clear()
    shelf.entries()
    assert read == []
    (runs / "unexamined" / "findings.json").write_text(healthy_report().to_json())
    assert shelf.entry("unexamined").verdict == healthy_report().verdict.value
    assert read == ["unexamined"]


def test_the_verdict_in_the_head_of_a_file_is_the_one_of_the_whole_file(runs):
    shelf = Shelf(runs)
    for entry in shelf.entries():
        report = shelf.report(entry)
        if report is not None:
            assert (entry.verdict, dict(entry.counts)) == (report.verdict.value, report.to_mapping()["counts"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pages_speak_both_languages_and_remember_which(runs, language):
    web = browser(runs)
    first = web.get(f"/?lang={language}").text
    assert f'<html lang="{language}">' in first
    assert f'<html lang="{language}">' in web.get("/runs/new-faulty").text
    assert ("All runs" in first) == (language == "en")


def _catalogue():
    text = (Path(texts.__file__).parent / "texts" / "zh" / "LC_MESSAGES" / "dashboard.po").read_text(encoding="utf-8")
    pairs = re.findall(r'^msgid "((?:[^"\\]|\\.)+)"\nmsgstr "((?:[^"\\]|\\.)*)"', text, re.MULTILINE)
    return {original.replace('\\"', '"'): translated.replace('\\"', '"') for original, translated in pairs}


def test_every_text_of_the_templates_stands_in_the_catalogue_and_the_compiled_one_is_made_of_it():
    written = _catalogue()
    folders = (Path(texts.__file__).parent / "assets", Path(report_html.__file__).parent / "assets")
    used = {text for folder in folders for path in folder.glob("*.j2") for text in re.findall(r'_\("([^"]+)"\)', path.read_text(encoding="utf-8"))}
    used |= {*TITLES.values(), *INTRODUCTIONS.values(), "running", "finished", "interrupted", "confirmed", "rejected", "acted", "Summary"}
    assert used - set(written) == set()
    say = texts.translator("zh")
    for original, translated in written.items():
        assert translated
        assert say(original) == translated


@pytest.mark.parametrize(("arguments", "said"), [
    (("nowhere",), "no folder at nowhere"), ((".", "--host", "0.0.0.0"), "no token was given"), ((".", "--port", "70000"), "expected 0 to 65535"),
    ((".", "--smallest", "-1"), "expected 0 or more")])
def test_a_command_that_cannot_work_says_why(arguments, said, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from recspect.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECSPECT_TOKEN", raising=False)
    result = CliRunner().invoke(app, ["dashboard", *arguments])
    assert result.exit_code != 0
    assert said in str(result.exception)


def test_being_told_to_stop_ends_the_server_in_order(runs, unused_port):
    code = "from recspect.cli import main; main()"
    command = [sys.executable, "-c", code, "dashboard", str(runs), "--port", str(unused_port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert "3 runs of" in server.stderr.readline()
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{unused_port}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.05)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0
        assert server.stderr.read() == ""
