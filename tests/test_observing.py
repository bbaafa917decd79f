"""Watching a training: right numbers, no influence, no trace left behind."""

from __future__ import annotations

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.nn import functional

from recspect.diagnosis.observing import HISTOGRAMS, OUTPUT, STEPS, Observer, histogram, name_nonfinite
from recspect.errors import UsageError


class Tiny(nn.Module):
    """A sparse table, two layers with dropout, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 4, sparse=True)
        self.layers = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 1))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.bias + self.layers(self.table(ids).flatten(1)).squeeze(1)


def loop(model, *, observer=None, steps=12, learning_rate=0.1, fault=None):
    """A hand-written loop, as in the module's docstring."""
    observer = observer or Observer(model, every=0)
    draw = torch.Generator().manual_seed(5)
    tables = torch.optim.SGD([model.table.weight], lr=learning_rate)
    rest = torch.optim.Adam([p for n, p in model.named_parameters() if n != "table.weight"], lr=learning_rate)
    for step in range(1, steps + 1):
        ids = torch.randint(0, 50, (32, 2), generator=draw)
        label = torch.rand(32, generator=draw).round()
        with observer.step() as look:
            losses = functional.binary_cross_entropy_with_logits(model(ids), label, reduction="none")
            loss = losses.mean()
            tables.zero_grad()
            rest.zero_grad()
            loss.backward()
            if fault == step:
                raise KeyboardInterrupt
            look.before_update(loss, losses)
            tables.step()
            rest.step()
    return model


def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
               for module in model.modules())


def rows(observer: Observer, series: str) -> dict[tuple[int, str], float]:
    table = observer.table().to_pylist()
    return {(row["step"], row["place"]): row["value"] for row in table if row["series"] == series}


def test_watching_changes_nothing_bit_for_bit(tmp_path):
    plain = loop(tiny())
    after_plain = torch.rand(3)
    watched = tiny()
    loop(watched, observer=Observer(watched, every=1, histograms_every=1, folder=tmp_path))
    assert torch.equal(after_plain, torch.rand(3))  # no random numbers drawn
    for (name, one), (_, other) in zip(plain.state_dict().items(), watched.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


def test_no_hook_is_left(tmp_path):
    model = tiny()
    observer = Observer(model, every=1, folder=tmp_path)
    loop(model, observer=observer)
    assert hooks(model) == 0
    with pytest.raises(KeyboardInterrupt):
        loop(model, observer=observer, fault=3)
    assert hooks(model) == 0


def test_steps_that_are_not_sampled_have_no_hooks():
    model = tiny()
    observer = Observer(model, every=3)
    sampled = []
    for _ in range(7):
        with observer.step() as look:
            sampled.append((look.sampled, hooks(model) > 0))
    assert sampled == [(step in (1, 3, 6),) * 2 for step in range(1, 8)]


def test_the_loss_is_recorded_ten_times_as_often():
    model = tiny()
    observer = Observer(model, every=20)
    loop(model, observer=observer, steps=30)
    assert [step for step, _ in rows(observer, "loss/train")] == [1, *range(2, 31, 2)]
    assert [step for step, place in rows(observer, "gradient_norm") if not place] == [1, 20]


def test_activations_equal_a_direct_computation():
    model = tiny().eval()
    observer = Observer(model, every=1)
    ids = torch.arange(20).reshape(10, 2)
    with observer.step() as look:
        loss = model(ids).sum()
        loss.backward()
        look.before_update(loss)
    hidden = model.layers[0](model.table(ids).flatten(1)).relu().detach()
    for series, value in (("mean", hidden.mean()), ("deviation", hidden.std(correction=0)), ("absolute_mean", hidden.abs().mean()),
                          ("zero_share", (hidden == 0).float().mean())):
        assert rows(observer, f"activation_{series}")[1, "layers.1"] == pytest.approx(value.item(), rel=1e-5), series
    assert rows(observer, "activation_mean")[1, OUTPUT] == pytest.approx(model(ids).mean().item(), rel=1e-5)
    assert rows(observer, "loss/train")[1, ""] == pytest.approx(loss.item())


def test_deviation_is_right_far_from_zero_and_over_several_calls():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Identity()

        def forward(self, one, other):
            return self.same(one).sum() + self.same(other).sum()

    model = Twice()
    draw = torch.Generator().manual_seed(0)
    one, other = 1000 + torch.randn(5000, generator=draw), 1003 + torch.randn(800, generator=draw)
    observer = Observer(model, every=1)
    with observer.step() as look:
        look.before_update(model(one, other))
    both = torch.cat([one, other]).double()
    assert rows(observer, "activation_mean")[1, "same"] == pytest.approx(both.mean().item(), rel=1e-6)
    assert rows(observer, "activation_deviation")[1, "same"] == pytest.approx(both.std(correction=0).item(), rel=1e-4)


def test_gradients_updates_and_touched_rows_equal_a_direct_computation():
    model = tiny().eval()
    observer = Observer(model, every=1)
    ids = torch.tensor([[1, 1], [2, 1], [7, 2]])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with observer.step() as look:
        loss = model(ids).square().sum()
        loss.backward()
        gradients = {name: parameter.grad.to_dense().clone() for name, parameter in model.named_parameters()}
        look.before_update(loss)
        optimiser.step()
    assert rows(observer, "touched_rows") == {(1, "table.weight"): 3}
    for name, gradient in gradients.items():
        assert rows(observer, "gradient_norm")[1, name] == pytest.approx(gradient.norm().item(), rel=1e-6), name
        assert rows(observer, "weight_norm")[1, name] == pytest.approx(before[name].norm().item(), rel=1e-6), name
    whole = math.sqrt(sum(gradient.norm().item() ** 2 for gradient in gradients.values()))
    assert rows(observer, "gradient_norm")[1, ""] == pytest.approx(whole, rel=1e-6)
    touched = before["table.weight"][[1, 2, 7]]
    assert rows(observer, "update_ratio")[1, "table.weight"] == pytest.approx(
        (0.5 * gradients["table.weight"].norm() / touched.norm()).item(), rel=1e-5)
    assert rows(observer, "update_ratio")[1, "layers.0.weight"] == pytest.approx(
        (0.5 * gradients["layers.0.weight"].norm() / before["layers.0.weight"].norm()).item(), rel=1e-5)
    assert (1, "bias") not in rows(observer, "update_ratio")  # its weights were 0: no ratio


def test_the_update_of_a_large_parameter_is_measured_on_some_rows(monkeypatch):
    monkeypatch.setattr("recspect.diagnosis.observing.updates.SNAPSHOT_VALUES", 100)
    model = nn.Linear(10, 80)
    observer = Observer(model, every=1)
    with observer.step() as look:
        loss = model(torch.ones(2, 10)).sum()
        loss.backward()
        look.before_update(loss)
        with torch.no_grad():
            model.weight.mul_(0.9)
    assert rows(observer, "update_ratio")[1, "weight"] == pytest.approx(0.1, rel=1e-5)


def test_the_first_bad_module_is_named():
    model = tiny().eval()
    observer = Observer(model, every=1)
    with torch.no_grad():
        model.table.weight[7, 0] = float("inf")
    with observer.step() as look:
        loss = model(torch.tensor([[1, 2], [7, 3]])).sum()
        loss.backward()
        look.before_update(loss)
    assert observer.first_nonfinite == (1, "table")
    assert rows(observer, "nonfinite")[1, "table"] == 1
    assert rows(observer, "nonfinite")[1, ""] > 1
    assert math.isfinite(rows(observer, "activation_mean")[1, "table"])
    assert "weights of 'table.weight'" in name_nonfinite(model, lambda: None)
    healthy = tiny().eval()
    bad = nn.Sequential(nn.Identity(), nn.Tanh())
    assert "'0'" in name_nonfinite(bad, lambda: bad(torch.tensor([float("nan")])))
    assert "the loss itself" in name_nonfinite(healthy, lambda: healthy(torch.tensor([[1, 2]])))
    assert hooks(bad) == hooks(healthy) == 0


def looked_at(table):
    """Steps at which more than the loss was recorded."""
    return sorted({row["step"] for row in table.to_pylist() if row["series"] == "weight_norm"})


def test_files_have_the_documented_columns_and_are_whole(tmp_path):
    model = tiny()
    observer = Observer(model, every=5, histograms_every=10, folder=tmp_path / "run")
    observer.epoch = 2
    loop(model, observer=observer, steps=20)
    observer.record("loss/validation", 0.5)
    observer.flush()
    steps, histograms = (pq.read_table(tmp_path / "run" / name) for name in ("steps.parquet", "histograms.parquet"))
    assert steps.schema.equals(STEPS)
    assert histograms.schema.equals(HISTOGRAMS)
    assert steps.equals(observer.table())
    assert looked_at(steps) == [1, 5, 10, 15, 20]
    assert set(steps["epoch"].to_pylist()) == {2}
    assert sorted(set(histograms["step"].to_pylist())) == [1, 15]
    assert set(histograms["series"].to_pylist()) == {"activation", "gradient", "weight", "loss"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"steps.parquet", "histograms.parquet", "observed.json"}
    observer.flush()
    assert pq.read_table(tmp_path / "run" / "steps.parquet").equals(steps)


def test_going_on_drops_rows_after_the_restart(tmp_path):
    model = tiny()
    loop(model, observer=(first := Observer(model, every=2, folder=tmp_path)), steps=8)
    first.flush()
    second = Observer(model, every=2, folder=tmp_path, steps_done=4)
    loop(model, observer=second, steps=2)
    second.flush()
    kept = pq.read_table(tmp_path / "steps.parquet")
    assert looked_at(kept) == [1, 2, 4, 6]
    assert sorted(set(kept["step"].to_pylist())) == [1, 2, 3, 4, 5, 6]  # the loss


def test_histograms_hold_all_finite_values():
    values = torch.cat([torch.randn(1000, generator=torch.Generator().manual_seed(0)), torch.tensor([float("nan"), float("inf")])])
    edges, counts = histogram(values, 16)
    finite = values[:1000].double().numpy()
    assert (len(edges), sum(counts)) == (17, 1000)
    np.testing.assert_array_equal(np.histogram(finite, bins=edges)[0], counts)
    assert edges[0] == finite.min()
    assert edges[-1] == finite.max()


def test_histograms_of_large_tensors_see_every_column():
    wide = torch.zeros(100_000, 16)
    wide[:, 3] = 1.0
    _, counts = histogram(wide, 2)
    assert sum(counts) <= 65_536
    assert counts[1] / sum(counts) == pytest.approx(1 / 16, rel=0.01)


@pytest.mark.parametrize("values", [[2.0, 2.0], [0.0], [1e-320, 2e-320], [3e38, -3e38], [1.0, 1.0 + 1e-7]])
def test_histograms_of_odd_values(values):
    edges, counts = histogram(torch.tensor(values), 4)
    assert sum(counts) == len(values)
    assert sorted(edges) == edges


def test_histogram_of_nothing():
    assert histogram(torch.tensor([float("nan")]), 4) == ([], [])
    assert histogram(torch.empty(0), 4) == ([], [])


@pytest.mark.parametrize("settings", [{"every": -1}, {"histograms_every": -1}, {"bins": 0}])
def test_settings_that_make_no_sense(settings):
    with pytest.raises(UsageError):
        Observer(nn.Identity(), **settings)
