"""What all sinks share: targets, tags, texts, and that a training never suffers from a sink."""

import ast
import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Report, Verdict
from recspect.diagnosis.mirror import HistogramRow, StepRow
from recspect.errors import MissingExtraError, UsageError
from recspect.sinks.live import Live, live
from recspect.sinks.sending import pictures_of, send, tables_of
from recspect.sinks.sink import RunCard, Sink, finding_markdown, findings_markdown, slug, table_markdown, tag
from recspect.sinks.targets import sink_for
from sink_samples import small_config, small_table, trained_run

SOURCE = Path(__file__).resolve().parents[1] / "src" / "recspect"


class Recording(Sink):
    """A sink of our own that keeps what it is given in a list, and may fail or hang on purpose: the contract, in memory."""

    name = "recording"

    def __init__(self, *, fail_at=None, hang_at=None):
        self.seen, self.fail_at, self.hang_at = [], fail_at, hang_at
        self.release = threading.Event()

    def _see(self, kind, content):
        if len(self.seen) == self.fail_at:
            raise ConnectionError("the server is gone")
        if len(self.seen) == self.hang_at:
            self.release.wait(20)
        self.seen.append((kind, content))

    def open(self, run):
        self._see("open", run)

    def scalars(self, rows):
        self._see("scalars", list(rows))

    def histograms(self, rows):
        self._see("histograms", list(rows))

    def table(self, name, table):
        self._see("table", (name, table))

    def picture(self, name, png, caption):
        self._see("picture", (name, png))

    def findings(self, report):
        self._see("findings", report)

    def artefact(self, path):
        self._see("artefact", path.name)

    def flush(self):
        pass

    def close(self, status):
        self._see("close", status)

    @property
    def where(self):
        return "nowhere"

    def of(self, kind):
        return [content for name, content in self.seen if name == kind]


# ---------------------------------------------------------------------- words


@pytest.mark.parametrize(("series", "place", "expected"), [
    ("loss/train", "", "loss/train"), ("gradient_norm", "mlp.0.weight", "gradient_norm/mlp.0.weight"), ("gradient_norm", "", "gradient_norm/whole_model"),
])
def test_tags(series, place, expected):
    assert tag(series, place) == expected


def test_names_of_columns_are_never_markup():
    finding = Finding(code="data.drift", verdict=Verdict.FAIL, claim="<script>alert(1)</script> | changed", place=Place(kind="field", name="a|<b>"),
                      estimate=Estimate(value=0.5, unit="PSI", n=100), remedies=(Remedy(code="retrain", text="Train <again>."),))
    report = Report(findings=(finding,), title="<img>")
    table = RankedTable(title="<i>", columns=("a|b",), rows=(("<x>",), (0.123456,), (None,)))
    for text in (finding_markdown(finding), findings_markdown(report), table_markdown(table)):
        assert "<script" not in text
        assert "<x>" not in text
        assert "<i" not in text
    assert "a\\|b" in table_markdown(table)
    assert "0.1235" in table_markdown(table)


def test_slug():
    assert slug("Which fields does the model use, and which help?") == "which_fields_does_the_model_use_and_which_help"
    assert slug("???") == "untitled"


@pytest.mark.parametrize("target", ["tensorboard", "tensorboard:", "comet:x", "", "visdom:127.0.0.1:8097", "visdom:ftp://host"])
def test_a_wrong_target_is_told_how_it_should_look(target):
    with pytest.raises(UsageError) as caught:
        sink_for(target)
    assert ":" in caught.value.hint


@pytest.mark.parametrize(("target", "library"), [("tensorboard:x", "tensorboard"), ("wandb:x", "wandb"), ("mlflow:sqlite:///x.db", "mlflow")])
def test_a_missing_library_names_its_extra(target, library, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(MissingExtraError) as caught:
        sink_for(target)
    assert caught.value.hint == f"pip install 'recspect[{library}]'"


def test_sink_libraries_are_imported_in_their_own_file_only():
    for path in SOURCE.rglob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.split(".")[0] for name in names}
        for library in {"tensorboard", "wandb", "mlflow", "visdom"} & imported:
            assert path == SOURCE / "sinks" / f"{library}.py", f"{path.name} imports {library}"


# ---------------------------------------------------------------------- sending a run


def test_everything_in_a_run_directory_is_sent(diagnosed_run):
    sink = Recording()
    assert send(diagnosed_run.folder, sink) == "nowhere"
    kinds = [kind for kind, _ in sink.seen]
    assert kinds[0] == "open"
    assert kinds[-1] == "close"
    rows = [row for rows in sink.of("scalars") for row in rows]
    assert sorted(rows) == sorted(StepRow(**row) for row in diagnosed_run.steps().to_pylist())
    assert [row.step for row in rows] == sorted(row.step for row in rows)
    assert sum(map(len, sink.of("histograms"))) == diagnosed_run.histograms().num_rows > 0
    report = Report.read(diagnosed_run.folder / "findings.json")
    assert sink.of("findings") == [report]
    tables = dict(sink.of("table"))
    assert "importance" in tables
    assert len(tables) == len(list(tables_of(report)))
    pictures = dict(sink.of("picture"))
    assert set(pictures) == {name for name, _ in pictures_of(report)}
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())
    assert {"training", "features"} <= {name.split("/")[0] for name in pictures}
    assert set(sink.of("artefact")) == {"report.html", "findings.json", "run.json", "schema.toml"}


def test_the_card_of_a_run_holds_its_settings_and_measures(diagnosed_run):
    card = RunCard.of(diagnosed_run.record)
    assert card.settings["training.batch_rows"] == diagnosed_run.config.batch_rows
    assert card.settings["model.hidden"] == " ".join(map(str, diagnosed_run.config.model.hidden))
    assert card.measures[0] == "auc/validation"
    assert card.values["auc/validation"] == diagnosed_run.epochs[-1]["validation_auc"]


def test_a_run_that_was_not_diagnosed_is_sent_too(tmp_path):
    sink = Recording()
    send(trained_run(tmp_path / "run").folder, sink)
    assert sink.of("scalars")
    assert not sink.of("findings")


# ---------------------------------------------------------------------- while training


def weights_of(run):
    return {name: tensor.numpy().copy() for name, tensor in run.load_model("last").state_dict().items()}


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    return weights_of(trained_run(tmp_path_factory.mktemp("without") / "run"))


def same(run, weights):
    return all(np.array_equal(value, weights[name]) for name, value in weights_of(run).items())


def test_a_live_sink_sees_every_row_and_changes_no_weight(tmp_path, without):
    sink = Recording()
    run = trained_run(tmp_path / "run", sinks=[Live(sink)])
    assert same(run, without)
    rows = [row for rows in sink.of("scalars") for row in rows]
    assert rows == [StepRow(**row) for row in run.steps().to_pylist()]
    histograms = [row for rows in sink.of("histograms") for row in rows]
    assert [HistogramRow(*row) for row in histograms] == [HistogramRow(**row) for row in run.histograms().to_pylist()]
    assert len(sink.of("scalars")) > 3  # in many calls while training, not in one at the end
    assert sink.of("open")[0].id == run.id
    assert sink.of("close") == ["finished"]


@pytest.mark.parametrize("fail_at", [0, 1, 3])
def test_a_sink_that_fails_is_said_once_and_stops_nothing(tmp_path, without, caplog, fail_at):
    broken, sound = Recording(fail_at=fail_at), Recording()
    mirrors = [Live(broken), Live(sound)]
    with caplog.at_level(logging.WARNING, logger="recspect.sinks"):
        run = trained_run(tmp_path / "run", sinks=mirrors)
    assert run.status == "finished"
    assert same(run, without)
    assert len(broken.seen) == fail_at
    assert [record.name for record in caplog.records].count("recspect.sinks") == 1  # others may speak of the training
    assert "the server is gone" in caplog.text
    assert mirrors[0].failure
    assert not mirrors[1].failure
    assert sound.of("close") == ["finished"]


def test_a_sink_that_hangs_is_left_behind(tmp_path, without, caplog):
    sink = Recording(hang_at=1)
    mirror = Live(sink, waiting=4, patience_seconds=0.2)
    with caplog.at_level(logging.WARNING, logger="recspect.sinks"):
        run = trained_run(tmp_path / "run", sinks=[mirror])
    sink.release.set()
    assert run.status == "finished"
    assert same(run, without)
    assert "slower than the training" in caplog.text
    assert "did not take everything" in mirror.failure


def test_an_interrupted_training_closes_its_sinks_and_a_resumed_one_tells_all_again(tmp_path):
    from recspect.training.loop import resume, train

    first, second = Recording(), Recording()
    table, schema = small_table()

    def stop(progress):
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(table, schema, small_config(), tmp_path / "run", progress=stop, sinks=[Live(first)])
    assert first.of("close") == ["interrupted"]
    run = resume(tmp_path / "run", table, sinks=[Live(second)])
    rows = [row for rows in second.of("scalars") for row in rows]
    assert rows == [StepRow(**row) for row in run.steps().to_pylist()]
    assert second.of("close") == ["finished"]


def test_targets_are_checked_before_the_training_begins():
    with pytest.raises(UsageError):
        live(["tensorboard:logs", "nowhere"])
