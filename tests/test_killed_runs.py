"""Trainings and diagnoses that are stopped: nothing half-written, a run says what it is, and goes on to the same weights."""

import json
import os
import signal
import subprocess
import sys

import pytest

from hostile import SCORED, UNSCORED, table

pytest.importorskip("torch", reason="training needs torch")

EPOCHS = 2

STOPPING = """
import os, signal, sys
from recspect import cli
from recspect.training import loop, state

number = getattr(signal, sys.argv[2])
def stop(): os.kill(os.getpid(), number)

if sys.argv[1] == "epoch":  # in the middle of the second one
    teller = loop._teller
    def told(progress, epoch, *rest):
        tell = teller(progress, epoch, *rest)
        def step(count, loss):
            tell(count, loss)
            if epoch == 2 and count == 2: stop()
        return step
    loop._teller = told
elif sys.argv[1] == "checkpoint":  # when the second state is written, and not yet moved into place
    replace, seen = os.replace, []
    def moved(source, target):
        if str(target).endswith("last.safetensors"):
            seen.append(target)
            if len(seen) == 2: stop()
        return replace(source, target)
    os.replace = moved
elif sys.argv[1] == "diagnose":
    from recspect.report import html
    html.render = lambda report: stop()
sys.argv = ["recspect", *sys.argv[3:]]
cli.main()
"""


def recspect(folder, *arguments, where="nowhere", by="SIGTERM"):
    return subprocess.run([sys.executable, "-c", STOPPING, where, by, *map(str, arguments)], cwd=folder, capture_output=True, text=True,
                          timeout=180, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a table, a schema and a run that was never stopped."""
    from recspect.diagnosis.source import read
    from recspect.schema import Schema
    from recspect.training.config import TrainingConfig
    from recspect.training.loop import train

    folder = tmp_path_factory.mktemp("whole")
    table(4000).write_parquet(folder / "t.parquet")
    (folder / "s.toml").write_text(UNSCORED)
    (folder / "scored.toml").write_text(SCORED)
    train(read(folder / "t.parquet"), Schema.read(folder / "s.toml"), TrainingConfig(maximum_epochs=EPOCHS), folder / "whole")
    return folder


def weights(run):
    from recspect.training.run import Run

    return {name: tensor.tolist() for name, tensor in Run.open(run).load_model("last").state_dict().items()}


def must_be_sound(run, *, leftovers=0):
    """Every file that has its name is whole; what a kill left is hidden."""
    from recspect.training.files import read_tensors
    from recspect.training.run import Run

    opened = Run.open(run)
    assert opened.record["epochs_done"] == 1
    for path in (run / "checkpoints").glob("[!.]*.safetensors"):
        read_tensors(path)
    opened.steps()
    hidden = [path for path in run.rglob(".*") if path.is_file()]
    assert len(hidden) <= leftovers, hidden


@pytest.mark.parametrize(("where", "by", "code", "status"), [
    ("epoch", "SIGKILL", -signal.SIGKILL, "running"), ("checkpoint", "SIGKILL", -signal.SIGKILL, "running"),
    ("epoch", "SIGTERM", 143, "interrupted"), ("epoch", "SIGINT", 130, "interrupted"),
])
def test_a_stopped_training_goes_on_to_the_same_weights(whole, where, by, code, status):
    from recspect.diagnosis.source import read
    from recspect.training.loop import resume

    run = whole / f"{where}-{by}"
    stopped = recspect(whole, "train", "t.parquet", "--schema", "s.toml", "--epochs", EPOCHS, "--run-dir", run.name, where=where, by=by)
    assert stopped.returncode == code, stopped.stderr
    assert "Traceback" not in stopped.stderr
    if code > 0:
        assert "recspect train --resume" in stopped.stderr
    must_be_sound(run, leftovers=int(where == "checkpoint"))
    assert json.loads((run / "run.json").read_text())["status"] == status
    assert resume(run, read(whole / "t.parquet")).status == "finished"
    assert weights(run) == weights(whole / "whole")


@pytest.mark.parametrize(("by", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_stopped_diagnosis_leaves_no_page(whole, by, code):
    page = whole / f"{by}.html"
    done = recspect(whole, "diagnose", "t.parquet", "--schema", "scored.toml", "--format", "html", "--out", page, where="diagnose", by=by)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert not page.exists()
    assert not list(whole.glob(f".{by}*"))


def test_a_reader_that_closes_the_pipe_is_no_error(whole):
    """As in `recspect report RUN --format json | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run([sys.executable, "-m", "recspect.cli", "diagnose", "t.parquet", "--schema", "scored.toml", "--format", "html"],
                              cwd=whole, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=180, check=False)
    assert done.returncode == 141, done.stderr
    assert "Traceback" not in done.stderr
