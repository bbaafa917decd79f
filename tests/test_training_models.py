"""Every ranking model: trains, is looked into, is diagnosed, and goes on after a kill as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recspect.diagnosis.finding import Verdict
from recspect.examining.doctor import account
from recspect.examining.runs import examine_run, subject_of
from recspect.models import MODELS
from recspect.training.loop import resume, train
from recspect.training.run import Run
from test_training_runs import CONFIG, SCHEMA, assert_same_run, made_up


def settings(name: str):
    return replace(CONFIG, model=replace(CONFIG.model, name=name))


@pytest.fixture(scope="module", params=MODELS)
def run(request, tmp_path_factory) -> Run:
    return train(made_up(), SCHEMA, settings(request.param), tmp_path_factory.mktemp("runs") / request.param)


def test_it_learns_and_is_read_back(run):
    assert run.epochs[run.best_epoch - 1]["test_auc"] > 0.75  # the true probabilities reach about .86
    assert Run.open(run.folder).config == run.config


def test_its_lookups_are_all_seen_and_contributions_add_up(run):
    subject = subject_of(run)
    said = account(subject, made_up().take(slice(0, 256)), steps=64)  # raises where contributions would be silently wrong
    assert set(subject.sites().fields) == set(SCHEMA.field_names)
    assert not subject.sites().unread
    assert subject.sites().has_logit
    assert "read directly" not in said


@pytest.mark.slow
def test_it_is_diagnosed(run):
    report = examine_run(run.folder, data=made_up(), sample_rows=1000)
    judged = {finding.code for finding in report.findings if finding.verdict is not Verdict.UNKNOWN}
    assert {"predictions.ranking_quality", "predictions.calibration", "features.unused", "training.loss_anomaly"} <= judged
    assert ("training.dead_units" in judged) == (run.config.model.name not in ("linear", "fm"))


@pytest.mark.slow
def test_killed_it_goes_on_bit_for_bit(run, tmp_path):
    script = textwrap.dedent("""
        import sys, time
        sys.path.insert(0, sys.argv[1])
        import test_training_models as here
        from pathlib import Path
        def tell(progress):
            if (progress.epoch, progress.step) == (2, 5):
                Path(sys.argv[2] + ".ready").touch()
                time.sleep(60)
        here.train(here.made_up(), here.SCHEMA, here.settings(sys.argv[3]), sys.argv[2], progress=tell)
    """)
    folder, ready = tmp_path / "killed", tmp_path / "killed.ready"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", script, str(Path(__file__).parent), str(folder), run.config.model.name], env=environment)
    try:
        deadline = time.monotonic() + 120
        while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert ready.exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert Run.open(folder).record["epochs_done"] == 1
    assert_same_run(run, resume(folder, made_up()))


@pytest.mark.parametrize(("name", "losses"), [
    ("deepfm", [0.6335288829970778, 0.5093622056015751, 0.47870592746818275]),
    ("mlp", [0.6817068624914738, 0.6542336135579828, 0.5779784102188913]),
])
def test_models_of_before_learn_as_they_did(name, losses, tmp_path):
    """Losses recorded before there were other models: the same weights drawn, the same rows, the same steps (equal to the bit where they were recorded)."""
    found = train(made_up(), SCHEMA, settings(name), tmp_path / "run")
    assert [figures["train_loss"] for figures in found.epochs] == pytest.approx(losses, rel=1e-6)
    assert found.record["data_fingerprint"] == "b4db1a202591bdbe54de0eee529497f4"
