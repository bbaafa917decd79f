"""Weights & Biases, offline: what was sent is read back from the transaction log that `wandb sync` uploads."""

import json
import struct

import numpy as np
import pytest

pytest.importorskip("wandb", reason="wandb is not installed (extra: wandb)")

from loopback import eventually
from recspect.diagnosis.finding import Report, Verdict
from recspect.sinks.live import Live
from recspect.sinks.sending import pictures_of, send
from recspect.sinks.sink import tag, worst_by_code
from recspect.sinks.wandb import WeightsAndBiases
from sink_samples import trained_run

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
              pytest.mark.slow]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path_factory):
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_API_KEY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):  # nothing of the tests in the home of who runs them
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp("wandb-home")))


def records(folder):
    """Records of an offline run once its last one is there: the process that writes them may be a moment behind `finish`."""
    return eventually(lambda: written(folder), lambda found: found and found[-1].WhichOneof("record_type") == "exit")


def written(folder):
    """Protobuf messages in the log format of LevelDB (32 KiB blocks; whole, first, middle, last pieces)."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content, at, pieces, found = path.read_bytes(), 7, b"", []
    assert content[:4] == b":W&B"
    while at < len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at:at + 7])
        pieces = (b"" if kind in (1, 2) else pieces) + content[at + 7:at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found.append(wandb_internal_pb2.Record.FromString(pieces))
    return found


def items(entries):
    """Name to value; of a histogram or a picture, name to {"_type": ..., ...}."""
    found = {}
    for entry in entries:
        *path, last = [entry.key] if entry.key else entry.nested_key
        inner = found
        for name in path:
            inner = inner.setdefault(name, {})
        inner[last] = json.loads(entry.value_json)
    return found


@pytest.fixture(scope="module")
def sent(diagnosed_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp("wandb-home")))
        where = send(diagnosed_run.folder, WeightsAndBiases(folder))
    assert where.startswith(f"wandb sync {folder}")
    return folder, records(folder)


def history(found):
    return [items(record.history.item) for record in found if record.WhichOneof("record_type") == "history"]


def test_every_scalar_is_in_the_history_at_its_step(sent, diagnosed_run):
    lines = {}
    for row in history(sent[1]):
        for name, value in row.items():
            if isinstance(value, (int, float)) and "step" in row:
                lines.setdefault(name, {})[row["step"]] = value
    rows = diagnosed_run.steps().to_pylist()
    assert rows
    for row in rows:
        assert lines[tag(row["series"], row["place"])][row["step"]] == pytest.approx(row["value"], nan_ok=True)


def test_lines_are_drawn_over_our_own_steps(sent):
    metrics = [record.metric for record in sent[1] if record.WhichOneof("record_type") == "metric"]
    assert {metric.step_metric for metric in metrics if metric.glob_name == "*"} == {"step"}
    assert {metric.glob_name: (metric.summary.min, metric.summary.max) for metric in metrics}["auc/*"] == (False, True)


def test_histograms_keep_their_own_bins(sent, diagnosed_run):
    got = {(name, row["step"]): value for row in history(sent[1]) for name, value in row.items() if name.startswith("histograms/")}
    rows = diagnosed_run.histograms().to_pylist()
    assert len(got) == len(rows) > 0
    for row in rows:
        value = got[f"histograms/{tag(row['series'], row['place'])}", row["step"]]
        assert value["values"] == row["counts"]
        np.testing.assert_allclose(value["bins"], row["edges"])


def test_settings_findings_tables_pictures_and_the_report_are_where_users_look(sent, diagnosed_run):
    folder, found = sent
    report = Report.read(diagnosed_run.folder / "findings.json")
    (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name) == ("recspect", diagnosed_run.id)
    assert items(run.config.update)["training.batch_rows"] == diagnosed_run.config.batch_rows
    summary = {}
    for record in found:
        if record.WhichOneof("record_type") == "summary":
            summary |= items(record.summary.update)
    assert summary["recspect/verdict"] == report.verdict.value
    for code, finding in worst_by_code(report).items():
        assert summary[f"recspect/finding/{code}"] == finding.verdict.value
    alerts = [record.alert for record in found if record.WhichOneof("record_type") == "alert"]
    failed = report.with_verdict(Verdict.FAIL)
    assert [alert.text for alert in alerts] == [finding.claim for finding in failed]
    assert len(failed) > 0
    assert {alert.level for alert in alerts} == {"ERROR"}
    logged = {name: value for row in history(found) for name, value in row.items() if isinstance(value, dict)}
    (files,) = folder.glob("wandb/offline-run-*/files")
    table = json.loads((files / logged["findings"]["path"]).read_text())
    assert [row[1] for row in table["data"]] == [finding.code for finding in report.ranked]
    importance = json.loads((files / logged["tables/importance"]["path"]).read_text())
    assert {row[0] for row in importance["data"]} == {size["name"] for size in diagnosed_run.record["inputs"]}
    for name, evidence in pictures_of(report):
        assert (files / logged[f"pictures/{name}"]["path"]).read_bytes().startswith(b"\x89PNG")
        assert logged[f"pictures/{name}"]["caption"] == evidence.title
    page = (files / logged["report"]["path"]).read_text(encoding="utf-8")
    assert page == (diagnosed_run.folder / "report.html").read_text(encoding="utf-8")
    artifacts = {record.artifact.name: record.artifact for record in found if record.WhichOneof("record_type") == "artifact"}
    assert artifacts[f"report-{diagnosed_run.id}"].type == "report"


def test_a_live_run_has_every_step_and_its_status(tmp_path):
    mirror = Live(WeightsAndBiases(tmp_path / "wandb-runs"), patience_seconds=120)
    run = trained_run(tmp_path / "run", sinks=[mirror])
    assert not mirror.failure
    found = records(tmp_path / "wandb-runs")
    got = {(row["step"], name) for row in history(found) for name in row if "step" in row}
    assert {(row["step"], tag(row["series"], row["place"])) for row in run.steps().to_pylist()} <= got
    (end,) = [record.exit for record in found if record.WhichOneof("record_type") == "exit"]
    assert end.exit_code == 0
