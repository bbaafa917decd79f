"""TensorBoard: what was sent is read back by TensorBoard's own reader and from its real server."""

import struct
import urllib.parse

import numpy as np
import pytest

pytest.importorskip("tensorboard", reason="tensorboard is not installed (extra: tensorboard)")

from loopback import DIRECT, eventually, free_port, get_json, post_json, server
from recspect.diagnosis.finding import Report
from recspect.sinks.live import Live
from recspect.sinks.sending import pictures_of, send
from recspect.sinks.sink import tag, worst_by_code
from recspect.sinks.tensorboard import TensorBoard
from recspect.sinks.tensorboard_reading import read_events
from sink_samples import trained_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:pkg_resources:UserWarning")


@pytest.fixture(scope="module")
def sent(diagnosed_run, tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    assert send(diagnosed_run.folder, TensorBoard(logs)) == f"tensorboard --logdir {logs}"
    return logs


def accumulated(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    return events.Reload()


def points(run):
    """Tag to [(step, value)] of everything in steps.parquet."""
    lines = {}
    for row in run.steps().sort_by("step").to_pylist():
        lines.setdefault(tag(row["series"], row["place"]), []).append((row["step"], row["value"]))
    return lines


def test_every_scalar_is_read_back(sent, diagnosed_run):
    from tensorboard.util.tensor_util import make_ndarray

    events = accumulated(sent / diagnosed_run.id)
    expected = points(diagnosed_run)
    for name, line in expected.items():
        if name in events.Tags()["scalars"]:
            got = [(event.step, event.value) for event in events.Scalars(name)]
        else:
            got = [(event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors(name)]
        assert [step for step, _ in got] == [step for step, _ in line], name
        np.testing.assert_allclose([value for _, value in got], [value for _, value in line], rtol=1e-6, err_msg=name)  # scalars are float32
    assert "loss/train" in expected
    assert "gradient_norm/whole_model" in expected


def test_histograms_keep_their_own_bins(sent, diagnosed_run):
    from tensorboard.util.tensor_util import make_ndarray

    events = accumulated(sent / diagnosed_run.id)
    rows = diagnosed_run.histograms().to_pylist()
    assert rows
    for row in rows:
        (event,) = [event for event in events.Tensors(tag(row["series"], row["place"])) if event.step == row["step"]]
        bins = make_ndarray(event.tensor_proto)
        np.testing.assert_array_equal(bins[:, 0], row["edges"][:-1])
        np.testing.assert_array_equal(bins[:, 1], row["edges"][1:])
        np.testing.assert_array_equal(bins[:, 2], row["counts"])


def test_the_real_server_shows_each_thing_in_its_place(sent, diagnosed_run, tmp_path):
    run, port = diagnosed_run.id, free_port()
    report = Report.read(diagnosed_run.folder / "findings.json")
    url = f"http://127.0.0.1:{port}/data/plugin"
    arguments = ["-m", "tensorboard.main", "--logdir", str(sent), "--port", str(port), "--host", "127.0.0.1", "--load_fast", "false"]
    with server(arguments, f"{url}/scalars/tags", cwd=tmp_path):
        def line(name):
            return get_json(f"{url}/scalars/scalars?" + urllib.parse.urlencode({"run": run, "tag": name}))

        groups = eventually(lambda: post_json(f"{url}/hparams/session_groups", {
            "experimentName": "", "colParams": [], "allowedStatuses": ["STATUS_SUCCESS"], "sliceSize": 5, "startIndex": 0}),
            lambda found: found.get("sessionGroups"))  # the end of the session is the last thing in the file
        scalars = get_json(f"{url}/scalars/tags")[run]
        assert set(points(diagnosed_run)) <= set(scalars)
        assert [step for _, step, _ in line("loss/train")] == [step for step, _ in points(diagnosed_run)["loss/train"]]
        histograms = get_json(f"{url}/histograms/tags")[run]
        assert {tag(row["series"], row["place"]) for row in diagnosed_run.histograms().to_pylist()} == set(histograms)
        texts = get_json(f"{url}/text/tags")[run]
        assert {"findings", "report", "run", "tables/importance", *(f"findings/{code}" for code in worst_by_code(report))} <= set(texts)
        (text,) = get_json(f"{url}/text/text?" + urllib.parse.urlencode({"run": run, "tag": "findings"}))
        assert report.verdict.value in text["text"]
        assert "<table>" in text["text"]  # Markdown became a table
        images = get_json(f"{url}/images/tags")[run]
        assert set(images) == {name for name, _ in pictures_of(report)}
        name = next(iter(images))
        (image,) = get_json(f"{url}/images/images?" + urllib.parse.urlencode({"run": run, "tag": name, "sample": 0}))
        with DIRECT.open(f"{url}/images/individualImage?{image['query']}", timeout=30) as answer:
            png = answer.read()
        assert png.startswith(b"\x89PNG")
        assert struct.unpack(">I", png[16:20])[0] > 600  # pixels wide
        layout = get_json(f"{url}/custom_scalars/layout")
        assert layout["category"][0]["chart"][0]["title"] == "loss by part"
        experiment = post_json(f"{url}/hparams/experiment", {"experimentName": ""})
        assert "training.batch_rows" in {info["name"] for info in experiment["hparamInfos"]}
        (group,) = groups["sessionGroups"]
        assert group["hparams"]["training.batch_rows"] == diagnosed_run.config.batch_rows
        measures = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        assert measures["auc/validation"] == pytest.approx(diagnosed_run.epochs[-1]["validation_auc"])


def test_a_run_sent_again_replaces_its_own_files_only(diagnosed_run, tmp_path):
    for _ in range(2):
        send(diagnosed_run.folder, TensorBoard(tmp_path))
    folder = tmp_path / diagnosed_run.id
    foreign = folder / "events.out.tfevents.1.host.1.0"
    foreign.write_bytes(b"")
    send(diagnosed_run.folder, TensorBoard(tmp_path))
    assert len(list(folder.glob("*.recspect"))) == 1
    assert foreign.exists()
    assert (folder / "report.html").read_bytes() == (diagnosed_run.folder / "report.html").read_bytes()


def test_lines_grow_while_a_model_trains(tmp_path):
    from recspect.training.loop import train
    from sink_samples import small_config, small_table

    table, schema = small_table()
    seen = []

    def look(progress):
        if progress.epoch == 2 and progress.step == 1:
            mirror.flush()
            seen.append(len(read_events(tmp_path / "logs").steps))

    mirror = Live(TensorBoard(tmp_path / "logs"))
    run = train(table, schema, small_config(), tmp_path / "run", progress=look, sinks=[mirror])
    assert not mirror.failure
    assert 0 < seen[0] < len(read_events(tmp_path / "logs").steps)
    events = accumulated(tmp_path / "logs" / run.id)
    assert len(events.Scalars("loss/train")) == len(points(run)["loss/train"])


def test_a_log_folder_that_vanishes_does_not_stop_a_training(tmp_path, caplog):
    logs = tmp_path / "logs"
    logs.write_text("a file where the folder should be")
    mirror = Live(TensorBoard(logs))
    run = trained_run(tmp_path / "run", sinks=[mirror])
    assert run.status == "finished"
    assert mirror.failure
    assert caplog.text.count("is left alone") == 1


def test_what_was_sent_can_be_read_in_again(sent, diagnosed_run):
    log = read_events(sent / diagnosed_run.id)
    expected = {(row["series"], row["place"], row["step"]): row["value"] for row in diagnosed_run.steps().to_pylist()}
    got = {(row["series"], row["place"], row["step"]): row["value"] for row in log.steps.to_pylist() if (row["series"], row["place"], row["step"]) in expected}
    assert got.keys() == expected.keys()
    np.testing.assert_allclose(list(got.values()), [expected[key] for key in got], rtol=1e-6)
    assert not log.notes


def test_the_command_line_sends_a_run_to_several_places_and_trains_into_one(diagnosed_run, tmp_path):
    import polars as pl
    from typer.testing import CliRunner

    from recspect.cli import app
    from recspect.schema import Field, Label, Schema
    from sink_samples import small_table

    done = CliRunner().invoke(app, ["send", str(diagnosed_run.folder), "--to", f"tensorboard:{tmp_path / 'a'}", "--to", f"tensorboard:{tmp_path / 'b'}"])
    assert done.exit_code == 0, done.output
    assert done.stdout.split("\n")[:2] == [f"tensorboard --logdir {tmp_path / name}" for name in "ab"]
    assert (tmp_path / "b" / diagnosed_run.id / "report.html").is_file()
    table, schema = small_table()
    rng = np.random.default_rng(0)
    names = {name: rng.integers(0, 20, table.rows) for name in schema.field_names}
    pl.DataFrame({**names, schema.label.name: rng.integers(0, 2, table.rows)}).write_parquet(tmp_path / "table.parquet")
    (tmp_path / "schema.toml").write_text(Schema(fields=tuple(Field(name=name) for name in names), labels=(Label(name=schema.label.name),)).to_toml(), encoding="utf-8")
    arguments = ["train", str(tmp_path / "table.parquet"), "--schema", str(tmp_path / "schema.toml"), "--epochs", "1", "--run-dir", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*arguments, "--to", f"tensorboard:{tmp_path / 'logs'}"])
    assert done.exit_code == 0, done.output
    assert "loss/train" in read_events(tmp_path / "logs" / "run").understood


@pytest.mark.parametrize("arguments", [["send", "{run}"], ["send", "{run}", "--to", "nowhere:x"], ["send", "{run}/none", "--to", "tensorboard:x"]])
def test_wrong_use_of_send_is_a_mistake_of_the_user(diagnosed_run, arguments):
    from typer.testing import CliRunner

    from recspect.cli import app
    from recspect.errors import RecspectError

    done = CliRunner().invoke(app, [argument.format(run=diagnosed_run.folder) for argument in arguments])
    assert isinstance(done.exception, RecspectError)
