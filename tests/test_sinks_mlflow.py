"""MLflow: what was sent to a SQLite store is read back through MLflow's own client."""

import json
import logging
from pathlib import Path

import pytest

pytest.importorskip("mlflow", reason="mlflow is not installed (extra: mlflow)")

from recspect.diagnosis.finding import Report
from recspect.diagnosis.mirror import StepRow
from recspect.sinks.live import Live
from recspect.sinks.mlflow import MLflow, _key
from recspect.sinks.sending import pictures_of, send
from recspect.sinks.sink import RunCard, tag, worst_by_code
from sink_samples import trained_run

# MLflow on SQLAlchemy 2.1 warns of its own future; that is theirs to mend.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


@pytest.fixture(scope="module")
def sent(diagnosed_run, tmp_path_factory):
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'runs.db'}"
    for _ in range(2):  # twice: the second must change nothing
        assert send(diagnosed_run.folder, MLflow(uri)) == f"mlflow server --backend-store-uri {uri}"
    return uri


def stored(uri):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    return client, client.search_runs([client.get_experiment_by_name("recspect").experiment_id])


def test_one_run_with_every_metric_once_at_its_step(sent, diagnosed_run):
    client, runs = stored(sent)
    (run,) = runs
    assert (run.info.run_name, run.info.status) == (diagnosed_run.id, "FINISHED")
    expected = {}
    for row in diagnosed_run.steps().to_pylist():
        expected.setdefault(_key(tag(row["series"], row["place"])), []).append((row["step"], row["value"]))
    assert set(run.data.metrics) == set(expected)
    for name, line in expected.items():
        got = sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        assert got == [(step, pytest.approx(value)) for step, value in sorted(line)], name


def test_parameters_tags_and_the_description(sent, diagnosed_run):
    client, (run,) = stored(sent)
    report = Report.read(diagnosed_run.folder / "findings.json")
    assert run.data.params["training.batch_rows"] == str(diagnosed_run.config.batch_rows)
    assert run.data.tags["recspect.verdict"] == report.verdict.value
    for code, finding in worst_by_code(report).items():
        assert run.data.tags[f"recspect.finding.{code}"] == finding.verdict.value
    assert run.data.tags["mlflow.note.content"].startswith(f"## {report.verdict.value}")
    failed = next(code for code, finding in worst_by_code(report).items() if finding.verdict.value == "FAIL")
    experiment = [run.info.experiment_id]
    assert len(client.search_runs(experiment, filter_string=f"tags.`recspect.finding.{failed}` = 'FAIL'")) == 1
    assert not client.search_runs(experiment, filter_string=f"tags.`recspect.finding.{failed}` = 'PASS'")


def test_artefacts_report_tables_histograms_and_pictures(sent, diagnosed_run, tmp_path):
    client, (run,) = stored(sent)
    report = Report.read(diagnosed_run.folder / "findings.json")
    run_id = run.info.run_id
    assert {"report.html", "findings.json", "run.json", "schema.toml", "pictures", "tables"} <= {entry.path for entry in client.list_artifacts(run_id)}
    page = client.download_artifacts(run_id, "report.html", str(tmp_path))
    assert Path(page).read_bytes() == (diagnosed_run.folder / "report.html").read_bytes()
    for name, _ in pictures_of(report):
        path = client.download_artifacts(run_id, f"pictures/{_key(name)}.png", str(tmp_path))
        assert Path(path).read_bytes().startswith(b"\x89PNG")

    def table(name):
        content = json.loads(Path(client.download_artifacts(run_id, f"tables/{name}.json", str(tmp_path))).read_text(encoding="utf-8"))
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]

    assert [row["finding"] for row in table("findings")] == [finding.code for finding in report.ranked]
    assert {row["field"] for row in table("importance")} == {size["name"] for size in diagnosed_run.record["inputs"]}
    expected = sorted((row["step"], row["series"], row["place"], row["counts"]) for row in diagnosed_run.histograms().to_pylist())
    assert sorted((row["step"], row["series"], row["place"], row["counts"]) for row in table("histograms")) == expected


def test_a_live_run_and_its_sending_afterwards_are_one_run(tmp_path):
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    mirror = Live(MLflow(uri), patience_seconds=120)
    run = trained_run(tmp_path / "run", sinks=[mirror])
    assert not mirror.failure
    send(run.folder, MLflow(uri))
    client, (found,) = stored(uri)
    losses = client.get_metric_history(found.info.run_id, "loss/train")
    assert len(losses) == len({point.step for point in losses}) == sum(row["series"] == "loss/train" for row in run.steps().to_pylist())


def test_numbers_that_are_not_finite_are_taken(tmp_path):
    sink = MLflow(f"sqlite:///{tmp_path / 'runs.db'}")
    sink.open(RunCard(id="broken", settings={}, values={}))
    sink.scalars([StepRow(1, 1, "loss/train", "", float("nan")), StepRow(2, 1, "loss/train", "", float("inf"))])
    sink.close("interrupted")
    client, (run,) = stored(sink.uri)
    assert run.info.status == "KILLED"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss/train")] == [1, 2]
