"""Several processes that train one model, started by a real torchrun: what one process learns, and files of one process alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from recspect.diagnosis.source import read  # noqa: E402
from recspect.errors import UsageError  # noqa: E402
from recspect.training.loop import train  # noqa: E402
from recspect.training.ranks import ALONE, Ranks  # noqa: E402
from recspect.training.run import Run  # noqa: E402
from recspect.training.supply import Supply  # noqa: E402
from test_training_streamed import CONFIG, SCHEMA, SMALL, buffer_of, frame  # noqa: E402

STEADY = replace(CONFIG, model=replace(SMALL, dropout=0.0), clip_norm=0.5, maximum_epochs=1)

BOTH = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from recspect.diagnosis.source import read
from recspect.training.loop import train
from test_training_ranks import SCHEMA, STEADY
folder, table, room = Path(sys.argv[2]), Path(sys.argv[2]) / "log.parquet", int(sys.argv[3])
rank = os.environ["RANK"]
for name, config in (("memory", STEADY), ("streamed", replace(STEADY, buffer_bytes=room))):
    run = train(read(table), SCHEMA, config, folder / f"{name}-{rank}")
    (folder / f"told-{name}-{rank}.json").write_text(json.dumps([str(run.folder), run.status, run.config.readers, run.epochs]))
"""


def torchrun(*arguments):
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--rdzv-backend", "c10d",
                           "--rdzv-endpoint", "127.0.0.1:0", *map(str, arguments)],
                          capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def close(one, other):
    """Gradients are added up in another order: after 18 steps, and Adam's division by small roots, the last digits differ."""
    there = other.load_model("last").state_dict()
    for name, tensor in one.load_model("last").state_dict().items():
        np.testing.assert_allclose(tensor.numpy(), there[name].numpy(), rtol=1e-3, atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    frame().write_parquet(tmp_path / "log.parquet", row_group_size=500)
    (tmp_path / "both.py").write_text(BOTH)
    room = buffer_of(700, tmp_path / "log.parquet")
    torchrun(tmp_path / "both.py", os.path.dirname(__file__), tmp_path, room)  # noqa: PTH120
    for name, config in (("memory", STEADY), ("streamed", replace(STEADY, buffer_bytes=room, readers=2))):
        alone = train(read(tmp_path / "log.parquet"), SCHEMA, config, tmp_path / f"{name}-alone")
        both = Run.open(tmp_path / f"{name}-0")
        assert not (tmp_path / f"{name}-1").exists()  # the second process wrote nothing
        close(alone, both)
        told = [json.loads((tmp_path / f"told-{name}-{rank}.json").read_text()) for rank in (0, 1)]
        assert told[0] == told[1] == [str(both.folder), "finished", config.readers, both.epochs]
        assert both.epochs[0]["validation_auc"] == pytest.approx(alone.epochs[0]["validation_auc"], abs=1e-3)
        assert both.epochs[0]["train_loss"] == pytest.approx(alone.epochs[0]["train_loss"], rel=1e-5)
        norms = [run.steps().to_pandas().query("series == 'gradient_norm' and place == ''")["value"] for run in (alone, both)]
        np.testing.assert_allclose(*norms, rtol=1e-3)  # what is looked at are the gradients of the whole step


@pytest.mark.slow
def test_the_command_line_under_torchrun_answers_once(tmp_path):
    frame(2_000).write_parquet(tmp_path / "log.parquet", row_group_size=300)
    (tmp_path / "s.toml").write_text(SCHEMA.to_toml())
    done = torchrun("-m", "recspect.cli", "train", tmp_path / "log.parquet", "--schema", tmp_path / "s.toml", "--epochs", 1, "--buffer-mebibytes", 1, "--runs", tmp_path / "runs")
    (run,) = (tmp_path / "runs").iterdir()
    assert done.stdout.split() == [str(run)]
    assert Run.open(run).config.readers == 2


# ------------------------------------------------------------------ shares, without processes


def test_shares_make_up_the_step(tmp_path):
    frame(1_000).write_parquet(tmp_path / "log.parquet", row_group_size=100)
    for config in (STEADY, replace(STEADY, buffer_bytes=2**20, readers=2)):
        part = Supply.of(read(tmp_path / "log.parquet"), SCHEMA, config).train
        runs = []
        for ranks in (ALONE, Ranks(0, 2), Ranks(1, 2)):
            torch.manual_seed(1)
            runs.append(list(part.batches(90, seed=1, ranks=ranks)))
        for whole, first, second in zip(*runs, strict=True):
            assert whole.rows == first.rows == second.rows == first.encoded.rows + second.encoded.rows == whole.encoded.rows
            shared = torch.cat([first.encoded.ids["user"], second.encoded.ids["user"]])
            assert sorted(shared.tolist()) == sorted(whole.encoded.ids["user"].tolist())


def test_readers_that_processes_cannot_share(tmp_path):
    frame(1_000).write_parquet(tmp_path / "log.parquet", row_group_size=100)
    part = Supply.of(read(tmp_path / "log.parquet"), SCHEMA, replace(STEADY, buffer_bytes=2**20, readers=3)).train
    with pytest.raises(UsageError, match="3 readers cannot be shared by 2 processes"):
        next(part.batches(90, seed=1, ranks=Ranks(0, 2)))
    with pytest.raises(UsageError, match="cannot share a step of 2 rows"):
        part.steps(2, seed=1)
