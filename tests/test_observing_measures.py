"""What is measured inside a training equals closed forms, independent references and planted truths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import nn

from recspect.diagnosis.observing import Drift, HeldOut, NormByFrequency, Observer, recompute, weight_norms
from recspect.diagnosis.observing.extra_gradients import NoiseScale, task_conflict
from recspect.diagnosis.observing.held_out import auc, probe_auc
from recspect.diagnosis.observing.layers import LayerSums, UnitWindow, routing_figures
from recspect.errors import RunError, UsageError


def rows(observer, series):
    return {(row["step"], row["place"]): row["value"] for row in observer.table().to_pylist() if row["series"] == series}


# ---------------------------------------------------------------------- gradients


@pytest.mark.parametrize("batch", [64, 512])
def test_the_noise_scale_of_gaussian_gradients_is_the_known_one(batch):
    """The gradient of w . x by w is x: with x ~ N(G, diag(s^2)) the noise scale is sum(s^2) / |G|^2, whatever the batch size.

    Tolerances are four standard errors of the mean of 600 measurements.
    """
    draw = torch.Generator().manual_seed(0)
    mean, deviation = torch.tensor([0.5, -1.0, 0.25, 0.0]), torch.tensor([3.0, 1.0, 2.0, 5.0])
    weight = nn.Parameter(torch.zeros(4))
    squares, variances = [], []
    for _ in range(600):
        x = mean + deviation * torch.randn(batch, 4, generator=draw)
        found = NoiseScale().add((x * weight).sum(1), [weight])
        squares.append(found["gradient_square"])
        variances.append(found["gradient_variance"])
    for found, truth in ((squares, float(mean.square().sum())), (variances, float(deviation.square().sum()))):
        assert np.mean(found) == pytest.approx(truth, abs=4 * np.std(found) / np.sqrt(600))
    assert np.std(variances) / np.sqrt(600) < 0.06 * float(deviation.square().sum())


def test_the_two_halves_are_the_two_batch_sizes_of_the_paper():
    """McCandlish 2018, A.1, with b = 32 (both halves averaged) and B = 64."""
    draw = torch.Generator().manual_seed(1)
    weight, x = nn.Parameter(torch.zeros(5)), torch.randn(64, 5, generator=draw) + 0.3
    found = NoiseScale().add((x * weight).sum(1), [weight])
    small = np.mean([float(x[k::2].mean(0).square().sum()) for k in (0, 1)])
    big = float(x.mean(0).square().sum())
    assert found["gradient_square"] == pytest.approx((64 * big - 32 * small) / (64 - 32), rel=1e-4)
    assert found["gradient_variance"] == pytest.approx((small - big) / (1 / 32 - 1 / 64), rel=1e-4)


def test_a_noise_scale_is_not_claimed_where_noise_hides_the_gradient_or_rows_are_few():
    noise = NoiseScale()
    assert "noise_scale" not in noise.fold(-1.0, 5.0)
    weight = nn.Parameter(torch.zeros(2))
    assert NoiseScale().add((torch.ones(15, 2) * weight).sum(1), [weight]) == {}


def test_conflict_of_tasks_is_the_cosine_of_their_gradients():
    shared, own = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.ones(2))
    losses = {"click": shared @ torch.tensor([1.0, 0.0]), "like": shared @ torch.tensor([-1.0, 1.0]) + own.sum()}
    assert task_conflict(losses, [shared, own]) == {"click and like": pytest.approx(-1 / math.sqrt(2))}


def test_touched_rows_of_a_table_with_dense_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(1000, 8), nn.Flatten(), nn.Linear(16, 1))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    observer = Observer(model, every=1)
    before = model[0].weight.detach().clone()
    with observer.step() as look:
        loss = model(torch.tensor([[3, 7], [3, 9]])).square().mean()
        loss.backward()
        look.before_update(loss)
        optimiser.step()
    touched = [3, 7, 9]
    change = (model[0].weight.detach() - before)[touched].norm() / before[touched].norm()
    assert rows(observer, "touched_rows") == {(1, "0.weight"): 3}
    assert rows(observer, "update_ratio")[1, "0.weight"] == pytest.approx(change.item(), rel=1e-5)


def test_effective_rank_of_touched_rows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(400, 8), nn.Flatten(), nn.Linear(8, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(400, 1) @ torch.randn(1, 8))  # rank 1
    observer = Observer(model, every=1, thorough_every=1)
    with observer.step() as look:
        loss = model(torch.arange(400)[:, None]).mean()
        loss.backward()
        look.before_update(loss)
    assert rows(observer, "effective_rank_share")[1, "0.weight"] == pytest.approx(1 / 8, abs=0.01)


# ---------------------------------------------------------------------- units


def test_dead_units_are_those_silent_in_all_rows_of_several_looks():
    window = UnitWindow()
    values = torch.zeros(3000, 4)
    values[0, 0] = 1.0
    window.add(values, None)
    assert window.figures() == {}
    values = torch.zeros(6000, 4)
    values[5999, 1] = 0.1
    window.add(values, None)
    assert window.figures() == {"support_rows": 9000.0, "dead_share": 0.5}
    assert window.figures() == {}


def test_saturated_units_are_seen_at_the_argument_of_a_tanh():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[100.0], [0.1]]))
        model[0].bias.zero_()
    observer = Observer(model, every=1)
    for _ in range(9):
        with observer.step() as look:
            look.before_update(model(torch.linspace(0.05, 1, 1000)[:, None]).mean())
    assert rows(observer, "saturated_share") == {(9, "1"): pytest.approx(0.5)}
    assert rows(observer, "support_rows") == {(9, "1"): 9000}


def test_quantiles_of_activations():
    sums = LayerSums()
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    sums.add(values)
    figures = sums.figures()
    for series, share in (("activation_low", 0.05), ("activation_median", 0.5), ("activation_high", 0.95)):
        assert figures[series] == pytest.approx(np.quantile(values.numpy(), share), rel=1e-5)


def test_a_single_bad_number_of_a_large_output_is_counted():
    values = torch.zeros(400_000)
    values[123_457] = float("nan")
    assert LayerSums().add(values) == 1


def test_attention_and_gates():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.zero_()  # all keys alike: attention is even
    x = torch.randn(3, 5, 8)
    assert routing_figures("attention", attention, attention(x, x, x))["attention_entropy"] == pytest.approx(1.0)
    gate = torch.tensor([[0.9, 0.1], [0.7, 0.3]])
    found = routing_figures("mmoe.gate_1", nn.Identity(), gate)
    assert found["gate_highest_load"] == pytest.approx(0.8)
    assert found["gate_balance"] == pytest.approx(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)) / math.log(2))
    assert routing_figures("gate", nn.Identity(), torch.randn(4, 3)) == {}


# ---------------------------------------------------------------------- held-out rows


def test_auc_equals_scikit_learns():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 20, 500).astype(float), (rng.random(500) < 0.3).astype(float)
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_a_probe_finds_what_a_layer_knows_and_nothing_where_nothing_is():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=4000)
    labels = (signal + 0.5 * rng.normal(size=4000) > 0).astype(float)
    noise = rng.normal(size=(4000, 30))
    assert probe_auc(noise, labels) == pytest.approx(0.5, abs=0.03)
    assert probe_auc(np.column_stack([noise, signal]), labels) == pytest.approx(roc_auc_score(labels, signal), abs=0.01)
    assert probe_auc(noise[:60], labels[:60]) is None
    assert probe_auc(noise, labels * 2) is None


class Tower(nn.Module):
    def __init__(self, ids=4000):
        super().__init__()
        self.table = nn.Embedding(ids, 8)
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, ids):
        return self.layers(self.table(ids)).squeeze(1)


@pytest.mark.parametrize("seed", range(3))
def test_memorised_rows_make_units_fluctuate_more_than_new_rows(seed):
    """Labels are coin flips and each row has an id of its own: whatever is learned is memory."""
    torch.manual_seed(seed)
    model, ids, labels = Tower(), torch.arange(4000), (torch.rand(4000) < 0.5).float()
    held_out = HeldOut(train=(ids[:2000], labels[:2000]), held_out=(ids[2000:], labels[2000:]),
                       losses=lambda scores, y: nn.functional.binary_cross_entropy_with_logits(scores, y, reduction="none"),
                       slices={"first": np.arange(2000) < 500})
    before = held_out.measure(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(ids[:2000]), labels[:2000]).backward()
        optimiser.step()
    after = held_out.measure(model)
    assert before["fluctuation_ratio", "layers.1"] == pytest.approx(1.0, abs=0.1)
    assert after["fluctuation_ratio", "layers.1"] > before["fluctuation_ratio", "layers.1"] + 0.2
    assert after["layer_auc/train", "layers.1"] > 0.9
    assert after["layer_auc/held_out", "layers.1"] == pytest.approx(0.5, abs=0.06)
    assert after["loss/train_sample", ""] < before["loss/train_sample", ""] < after["loss/held_out", ""]
    with torch.no_grad():
        loss = nn.functional.binary_cross_entropy_with_logits(model(ids[2000:2500]), labels[2000:2500])
    assert after["loss/slice", "first"] == pytest.approx(loss.item(), rel=1e-5)


def test_a_slice_of_another_length_is_refused():
    with pytest.raises(UsageError, match="mask of slice 'x'"):
        HeldOut(train=(None, [0, 1]), held_out=(None, [0, 1]), slices={"x": [True]})


# ---------------------------------------------------------------------- saved states


def trained(folder, **settings):
    torch.manual_seed(0)
    model = Tower(ids=50)
    observer = Observer(model, every=1, folder=folder, **settings)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    draw = torch.Generator().manual_seed(0)
    for _ in range(2):
        for _ in range(6):
            ids = torch.randint(0, 50, (64,), generator=draw)
            with observer.step() as look:
                loss = nn.functional.binary_cross_entropy_with_logits(model(ids), (ids > 20).float())
                optimiser.zero_grad()
                loss.backward()
                look.before_update(loss)
                optimiser.step()
        observer.end_epoch()
    return model, observer


def test_series_are_computed_again_from_saved_states(tmp_path):
    model, observer = trained(tmp_path, keep_every_steps=3)
    ends = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = recompute(tmp_path, model, weight_norms).to_pylist()
    assert sorted({row["step"] for row in table}) == [3, 6, 9, 12]
    assert {row["step"]: row["epoch"] for row in table} == {3: 1, 6: 1, 9: 2, 12: 2}
    seen = rows(observer, "weight_norm")  # of a look: before the step's update, so the state after step 3 is seen at step 4
    for row in table:
        if row["step"] < 12:
            assert row["value"] == pytest.approx(seen[row["step"] + 1, row["place"]], rel=1e-5)
    assert all(torch.equal(tensor, ends[name]) for name, tensor in model.state_dict().items())


def test_drift_and_norm_by_frequency_from_states_of_epochs(tmp_path):
    model, _ = trained(tmp_path, keep_every_epochs=1)
    drift = recompute(tmp_path, model, Drift()).to_pylist()
    assert {(row["step"], row["series"], row["place"]) for row in drift} == {(12, "drift", "table.weight"), (12, "turn", "table.weight")}
    assert all(0 < row["value"] < 2 for row in drift)
    counts = np.arange(50)
    (found,) = [row["value"] for row in recompute(tmp_path, model, NormByFrequency({"table.weight": counts})).to_pylist() if row["step"] == 12]
    truth = spearmanr(model.table.weight.detach().norm(dim=1).numpy()[1:], counts[1:]).statistic
    assert found == pytest.approx(truth, abs=1e-6)


def test_states_that_are_missing_or_of_another_model_are_told(tmp_path):
    with pytest.raises(RunError, match="no saved states"):
        recompute(tmp_path, Tower(), weight_norms)
    trained(tmp_path, keep_every_epochs=1)
    with pytest.raises(RunError, match="does not fit"):
        recompute(tmp_path, Tower(ids=7), weight_norms)
    with pytest.raises(UsageError, match="no folder"):
        Observer(Tower(), keep_every_steps=5)
