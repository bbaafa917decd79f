"""Visdom: what was sent is read back from a real server; and the server may die while a model trains."""

import html
import json

import pytest

pytest.importorskip("visdom", reason="visdom is not installed; the Makefile says how (the sink itself does not need it)")

from loopback import DIRECT, free_port, server
from recspect.diagnosis.finding import Report
from recspect.diagnosis.mirror import StepRow
from recspect.errors import UsageError
from recspect.sinks.live import Live
from recspect.sinks.sending import pictures_of, send
from recspect.sinks.sink import RunCard, slug, tag
from recspect.sinks.visdom import Visdom
from sink_samples import small_config, small_table

# `python -m visdom.server` fetches scripts for its page before it starts; this starts the same server without them.
START = "import sys; sys.argv = ['visdom', '-port', '{port}', '-bind_local', '-env_path', '{folder}']; from visdom.server.run_server import main; main()"


def start(folder):
    port = free_port()
    return port, server(["-W", "ignore", "-c", START.format(port=port, folder=folder / "environments")], f"http://127.0.0.1:{port}/env/main", cwd=folder)


def windows(url, environment):
    import urllib.request

    request = urllib.request.Request(f"{url}/win_data", data=json.dumps({"eid": environment, "win": None}).encode())
    with DIRECT.open(request, timeout=30) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    port, running = start(tmp_path_factory.mktemp("visdom"))
    with running:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def shown(url, diagnosed_run):
    for _ in range(2):  # twice: the second replaces the first
        assert send(diagnosed_run.folder, Visdom(url)) == f"{url}/env/{diagnosed_run.id}"
    return windows(url, diagnosed_run.id)


def lines(shown):
    return {f"{window}/{trace['name']}": list(zip(trace["x"], trace["y"], strict=True)) for window, pane in shown.items() if pane["type"] == "plot"
            for trace in pane["content"]["data"] if trace["type"] == "scatter"}


def test_a_window_per_group_of_series_and_a_trace_per_place(shown, diagnosed_run):
    expected = {}
    for row in diagnosed_run.steps().sort_by("step").to_pylist():
        expected.setdefault(tag(row["series"], row["place"]), []).append((row["step"], pytest.approx(row["value"])))
    got = lines(shown)
    assert got.keys() == expected.keys()
    for name, line in expected.items():
        assert got[name] == line, name
    assert {trace["name"] for trace in shown["loss"]["content"]["data"]} >= {"train", "validation"}


def test_histograms_are_bars_of_the_latest_step(shown, diagnosed_run):
    latest = {tag(row["series"], row["place"]): row for row in diagnosed_run.histograms().sort_by("step").to_pylist()}
    assert latest
    for name, row in latest.items():
        (bars,) = shown[f"histogram_{slug(name)}"]["content"]["data"]
        assert bars["y"] == row["counts"]
        assert bars["width"] == pytest.approx([b - a for a, b in zip(row["edges"], row["edges"][1:], strict=False)])
        assert f"step {row['step']:,}" in shown[f"histogram_{slug(name)}"]["title"]


def test_findings_tables_pictures_and_the_report_have_panes(shown, diagnosed_run):
    report = Report.read(diagnosed_run.folder / "findings.json")
    text = shown["findings"]["content"]
    for finding in report.findings:
        assert html.escape(finding.claim) in text
    assert all(f"<td style='text-align:left;padding:2px 8px'>{size['name']}</td>" in shown["table_importance"]["content"]
               for size in diagnosed_run.record["inputs"])
    for name, evidence in pictures_of(report):
        pane = shown[f"picture_{slug(name)}"]
        assert pane["type"] == "image"
        assert pane["content"]["src"].startswith("data:image/png;base64,")
        assert pane["content"]["caption"] == evidence.title
    frame = shown["report"]["content"]
    assert frame.startswith("<iframe sandbox=")
    page = (diagnosed_run.folder / "report.html").read_text(encoding="utf-8")
    assert html.unescape(frame.split('srcdoc="', 1)[1].removesuffix('"></iframe>')) == page
    assert "training.batch_rows" in shown["run"]["content"]


def test_lines_grow_by_appending_and_numbers_that_are_not_finite_are_gaps(url):
    sink = Visdom(url)
    sink.open(RunCard(id="growing", settings={"<b>": "<script>"}, values={}))
    sink.scalars([StepRow(1, 1, "loss/train", "", 0.7), StepRow(1, 1, "gradient_norm", "a", 1.0)])
    sink.scalars([StepRow(2, 1, "loss/train", "", float("nan"))])
    sink.scalars([StepRow(3, 1, "loss/train", "", 0.5), StepRow(3, 1, "loss/validation", "", 0.6)])
    sink.scalars([StepRow(4, 1, "loss/validation", "", 0.55)])
    sink.scalars([StepRow(5, 1, "gradient_norm", "a", 2.0)])
    sink.close("finished")
    shown = windows(url, "growing")
    assert lines(shown) == {"loss/train": [(1, 0.7), (2, None), (3, 0.5)], "loss/validation": [(3, 0.6), (4, 0.55)], "gradient_norm/a": [(1, 1.0), (5, 2.0)]}
    assert "<script>" not in shown["run"]["content"]


def test_a_server_killed_midway_does_not_stop_a_training(tmp_path, caplog):
    from recspect.training.loop import train

    table, schema = small_table()
    port, running = start(tmp_path)
    mirror = Live(Visdom(f"http://127.0.0.1:{port}"))
    seen = []
    with running as process:
        def kill(progress):
            if progress.epoch == 2 and progress.step == 1:
                mirror.flush()
                seen.append(lines(windows(f"http://127.0.0.1:{port}", "run"))["loss/train"])
                process.kill()
                process.wait(20)

        run = train(table, schema, small_config(), tmp_path / "run", progress=kill, sinks=[mirror])
    assert run.status == "finished"
    assert len(seen[0]) > 2  # lines appeared while the model trained
    assert "no Visdom server" in mirror.failure
    assert caplog.text.count("is left alone") == 1


def test_where_no_server_is_the_error_says_how_to_start_one(diagnosed_run):
    with pytest.raises(UsageError, match="no Visdom server") as caught:
        send(diagnosed_run.folder, Visdom(f"http://127.0.0.1:{free_port()}"))
    assert "visdom.server" in caught.value.hint
