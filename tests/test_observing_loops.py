"""Watching never changes a result, in any loop, and never stops it; what it leaves behind can be diagnosed."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

from recspect.cli import app
from recspect.diagnosis.finding import Report
from recspect.diagnosis.observing import HeldOut, Observer


class Network(nn.Module):
    def __init__(self, *, sparse: bool = True) -> None:
        super().__init__()
        self.table = nn.Embedding(60, 4, sparse=sparse)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))

    def forward(self, ids):
        return self.layers(self.table(ids).flatten(1)).squeeze(1)


def batch(draw):
    ids = torch.randint(0, 60, (32, 2), generator=draw)
    return ids, (torch.rand(32, generator=draw) < ids[:, 0] / 60).float()


def train(observe, *, steps=12, sparse=True, autocast=False, micro_batches=1, model=None, forward=None):
    """A hand-written loop; `observe` makes an observer of the model, or None."""
    torch.manual_seed(0)
    model = Network(sparse=sparse) if model is None else model
    forward = model if forward is None else forward
    torch.manual_seed(1)
    observer = observe(model) if observe else Observer(model, every=0)
    draw = torch.Generator().manual_seed(1)
    table = torch.optim.SparseAdam([model.table.weight]) if sparse else torch.optim.Adam([model.table.weight])
    rest = torch.optim.AdamW([parameter for name, parameter in model.named_parameters() if name != "table.weight"], lr=0.01)
    for _ in range(steps):
        with observer.step() as look:
            for _ in range(micro_batches):
                ids, label = batch(draw)
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                    losses = functional.binary_cross_entropy_with_logits(forward(ids).float(), label, reduction="none")
                look.before_backward(losses, {"first": losses[:16].mean(), "second": losses[16:].mean()})
                (losses.mean() / micro_batches).backward()
            look.before_update(losses.mean(), losses if look.sampled else None)
            for optimiser in (table, rest):
                optimiser.step()
                optimiser.zero_grad()
    return model, observer


def dense(model, **settings):
    return Observer(model, every=1, thorough_every=1, histograms_every=1, **settings)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("loop", [{}, {"sparse": False}, {"autocast": True}, {"micro_batches": 3}])
def test_weights_are_the_same_to_the_bit(loop, tmp_path):
    plain, _ = train(None, **loop)
    after_plain = torch.rand(3)
    watched, observer = train(lambda model: dense(model, folder=tmp_path, keep_every_steps=5), **loop)
    assert observer.failure == ""
    assert same(plain, watched)
    assert torch.equal(after_plain, torch.rand(3))


def test_measuring_held_out_rows_changes_nothing():
    draw = torch.Generator().manual_seed(3)
    rows = [batch(draw) for _ in range(10)]
    ids, label = (torch.cat(parts) for parts in zip(*rows, strict=True))
    held_out = HeldOut(train=(ids, label), held_out=(ids, label))

    def run(observe):
        torch.manual_seed(0)
        model = Network()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        observer = observe(model)
        for _ in range(3):
            for ids, label in rows:
                with observer.step():
                    functional.binary_cross_entropy_with_logits(model(ids), label).backward()
                    optimiser.step()
                    optimiser.zero_grad()
            observer.end_epoch()
        return model, observer

    plain, _ = run(lambda model: Observer(model, every=0))
    watched, observer = run(lambda model: Observer(model, every=10, held_out=held_out))
    assert same(plain, watched)
    assert all(module.training for module in watched.modules())
    assert {row["epoch"] for row in observer.table().to_pylist() if row["series"] == "layer_auc/held_out"} == {1, 2, 3}


def test_an_optimiser_that_steps_is_noticed_without_before_update():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    observer = Observer(model, every=1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    before = model.weight.detach().clone()
    with observer.step():
        model(torch.ones(8, 4)).square().mean().backward()
        gradient = model.weight.grad.norm().item()
        optimiser.step()
        optimiser.zero_grad()
    found = {(row["series"], row["place"]): row["value"] for row in observer.table().to_pylist()}
    assert found["gradient_norm", "weight"] == pytest.approx(gradient)
    assert found["update_ratio", "weight"] == pytest.approx(0.5 * gradient / before.norm().item(), rel=1e-5)
    assert ("loss/train", "") not in found


def test_a_compiled_model_is_watched_without_its_activations():
    torch.manual_seed(0)
    model = Network()
    compiled = torch.compile(model, backend="eager")
    observer = Observer(compiled, every=1)
    assert any("compiled" in reason for reason in observer.left_out)
    plain, _ = train(None)
    _, observer = train(lambda _: Observer(compiled, every=1), model=model, forward=compiled)
    assert observer.failure == ""
    assert same(plain, model)
    series = {row["series"] for row in observer.table().to_pylist()}
    assert {"gradient_norm", "update_ratio", "weight_norm"} <= series
    assert not any(name.startswith("activation") for name in series)


def test_what_fails_in_watching_is_said_once_and_the_training_goes_on(caplog):
    plain, _ = train(None)

    def broken(model):
        observer = dense(model)
        observer.bins = "many"  # no number: histograms fail
        return observer

    with caplog.at_level(logging.WARNING, "recspect.observing"):
        watched, observer = train(broken)
    assert same(plain, watched)
    assert observer.failure
    assert len([record for record in caplog.records if "watching failed" in record.message]) == 1
    assert not any(module._forward_hooks for module in watched.modules())


def test_a_folder_that_cannot_be_written_does_not_stop_the_training(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, "recspect.observing"):
        _, observer = train(lambda model: Observer(model, every=5, folder=tmp_path / "file" / "run"))
        observer.finish()
    assert "cannot write" in observer.failure


WORKER = """
import json, os, sys, torch
sys.path.insert(0, sys.argv[1])
from test_observing_loops import Network, batch, dense
from recspect.diagnosis.observing import Observer
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=int(sys.argv[3]), world_size=2)
found = []
for watch in (False, True):
    torch.manual_seed(0)
    model = Network(sparse=False)
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    observer = dense(wrapped) if watch else Observer(wrapped, every=0)
    optimiser = torch.optim.Adam(model.parameters())
    draw = torch.Generator().manual_seed(int(sys.argv[3]))
    for _ in range(4):
        ids, label = batch(draw)
        with observer.step() as look:
            losses = torch.nn.functional.binary_cross_entropy_with_logits(wrapped(ids), label, reduction="none")
            look.before_backward(losses)
            losses.mean().backward()
            look.before_update(losses.mean())
            optimiser.step()
            optimiser.zero_grad()
    assert observer.failure == "", observer.failure
    found.append([tensor.double().sum().item().hex() for tensor in model.state_dict().values()])
assert found[0] == found[1]
print(observer.table().num_rows, any("places" in reason or "distributed" in reason for reason in observer.left_out))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_of_two_distributed_processes_one_watches(tmp_path):
    import subprocess

    here = str(Path(__file__).parent)
    processes = [subprocess.Popen([sys.executable, "-c", WORKER, here, str(tmp_path / "meet"), str(rank)], stdout=subprocess.PIPE, text=True,
                                  env={**os.environ, "OMP_NUM_THREADS": "1"}) for rank in range(2)]
    out = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert int(out[0][0]) > 50
    assert out[0][1] == "True"
    assert int(out[1][0]) == 0


# ---------------------------------------------------------------------- what is left behind


def test_the_folder_of_any_loop_can_be_diagnosed(tmp_path):
    folder = tmp_path / "mine"
    _, observer = train(lambda model: Observer(model, every=2, folder=folder), steps=120)
    observer.finish()
    record = json.loads((folder / "observed.json").read_text())
    assert (record["status"], record["steps_done"], record["model"]) == ("finished", 120, "Network")
    done = CliRunner().invoke(app, ["diagnose", str(folder), "--format", "json"])
    assert done.exit_code in (0, 1), done.output
    report = Report.read(folder / "findings.json")
    assert {finding.code for finding in report.findings} == {"training.batch_size", "training.gradient_flow", "training.learning_rate", "training.loss_anomaly",
                                                             "training.update_ratio"}
    # the loop does not give the losses of rows, from which gradient noise is measured
    assert [finding.code for finding in report.findings if finding.verdict.value == "UNKNOWN"] == ["training.batch_size"]
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize("content", ["{", '{"format": "other"}', '{"format": "recspect-observation", "version": 99}'])
def test_a_damaged_record_is_an_error_that_says_so(tmp_path, content):
    from recspect.errors import RunError
    from recspect.examining.observed_runs import examine_observed

    (tmp_path / "observed.json").write_text(content)
    with pytest.raises(RunError, match=r"observed\.json"):
        examine_observed(tmp_path)


def test_steps_that_were_never_written_are_an_error_that_says_so(tmp_path):
    from recspect.errors import RunError
    from recspect.examining.observed_runs import examine_observed

    (tmp_path / "observed.json").write_text('{"format": "recspect-observation", "version": 1, "id": "x"}')
    with pytest.raises(RunError, match=r"steps\.parquet"):
        examine_observed(tmp_path)
