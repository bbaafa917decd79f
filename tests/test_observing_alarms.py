"""What goes wrong is named while the training goes on: each fault is planted in a small training; healthy ones are quiet."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional

from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.observing import Observer


class Network(nn.Module):
    def __init__(self, *, activation=nn.ReLU, depth=2, width=32) -> None:
        super().__init__()
        self.table = nn.Embedding(300, 8)
        layers = []
        for k in range(depth):
            layers += [nn.Linear(16 if k == 0 else width, width), activation()]
        self.mlp = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, ids):
        return self.mlp(self.table(ids).flatten(1)).squeeze(1)


def train(*, seed=0, steps=300, every=5, rate=3e-3, optimiser=torch.optim.Adam, disturb=None, model=None, **settings):
    """(what was told, observer); `disturb(step, model, ids, label)` may change anything before the step."""
    torch.manual_seed(seed)
    model = model or Network(**settings)
    truth = torch.randn(300)
    told = []
    observer = Observer(model, every=every, thorough_every=1, on_finding=told.append)
    stepper = optimiser(model.parameters(), lr=rate)
    for step in range(1, steps + 1):
        ids = torch.randint(0, 300, (256, 2))
        label = (torch.rand(256) < torch.sigmoid(truth[ids].sum(1))).float()
        if disturb is not None:
            label = disturb(step, model, ids, label)
        with observer.step() as look:
            output = model(ids)
            losses = functional.binary_cross_entropy_with_logits(output, label, reduction="none")
            loss = losses.mean()
            look.before_backward(losses)
            stepper.zero_grad()
            loss.backward()
            look.before_update(loss)
            stepper.step()
    assert observer.failure == ""
    assert observer.findings == told
    return told, observer


def only(told, code):
    (finding,) = [finding for finding in told if finding.code == code]
    assert finding.remedies
    return finding


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rate", [1e-3, 5e-3])
def test_a_healthy_training_is_quiet(seed, rate):
    told, _ = train(seed=seed, rate=rate)
    assert [finding.claim for finding in told] == []


def test_the_first_module_whose_output_is_bad_is_named_in_forward_order():
    class Logarithm(nn.Module):
        def forward(self, x):
            return torch.log(x - x.min()) if self.training and self.broken else x

    logarithm = Logarithm()
    logarithm.broken = False
    model = Network()
    model.mlp.insert(2, logarithm)  # log 0 from step 23 on

    def disturb(step, model, ids, label):
        logarithm.broken = step >= 20
        return label

    told, observer = train(model=model, disturb=disturb, steps=40)
    finding = only(told, "training.gradient_flow")
    assert (finding.verdict, finding.place.name) == (Verdict.FAIL, "mlp.2")
    assert "step 20" in finding.claim
    assert "mlp.2 is the first module whose output is not finite" in finding.claim
    assert observer.first_nonfinite == (20, "mlp.2")


def test_bad_weights_are_told_from_bad_outputs():
    def disturb(step, model, ids, label):
        if step == 17:
            with torch.no_grad():
                model.mlp[2].weight[0, 0] = float("inf")
        return label

    told, _ = train(disturb=disturb, steps=40)
    assert "the weights of mlp.2 are no longer finite" in only(told, "training.gradient_flow").claim


def test_bad_inputs_are_told_from_bad_modules():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    told = []
    observer = Observer(model, every=1, on_finding=told.append)
    x = torch.ones(16, 3)
    x[4, 1] = float("nan")
    with observer.step() as look:
        look.before_update(model(x).mean())
    assert "the input of 0 holds them already" in told[0].claim
    assert told[0].remedies[0].code == "clean_numeric_fields"


def test_weights_that_break_between_two_looks_are_told_at_once():
    def disturb(step, model, ids, label):
        if step == 30:
            with torch.no_grad():
                model.mlp[2].weight.fill_(float("nan"))
        return label

    told, observer = train(disturb=disturb, steps=31, every=100)  # looks at step 1 and 100; the loss is seen every 10 steps
    assert observer.first_nonfinite == (30, "mlp.2")
    assert "step 30: the weights of mlp.2 are no longer finite" in only(told, "training.gradient_flow").claim


def test_an_output_that_breaks_between_two_looks_is_not_ascribed_to_a_module():
    def disturb(step, model, ids, label):
        return label * float("nan") if step == 30 else label

    told, observer = train(disturb=disturb, steps=40, every=100)
    finding = only(told, "training.gradient_flow")
    assert observer.first_nonfinite == (30, "")
    assert "not looked at" in finding.claim


def test_a_loss_function_that_breaks_alone_is_told():
    def disturb(step, model, ids, label):
        return label * float("nan") if step == 20 else label

    told, _ = train(disturb=disturb, steps=22)
    assert "the loss function made it" in only(told, "training.loss_anomaly").claim


def test_an_explosion_is_told_with_its_place():
    def disturb(step, model, ids, label):
        return label * (1000 if step == 200 else 1)

    told, _ = train(disturb=disturb)
    finding = next(finding for finding in told if finding.code == "training.gradient_flow")
    assert finding.place.name == "200"
    assert "explodes" in finding.claim
    assert any(finding.code == "training.loss_anomaly" for finding in told), [finding.claim for finding in told]


def test_a_vanishing_gradient_is_told_with_its_layer():
    told, _ = train(activation=nn.Sigmoid, depth=8, steps=120)
    finding = only(told, "training.gradient_flow")
    assert "vanishes" in finding.claim
    assert finding.place.name == "mlp.0.weight"


def test_a_dead_layer_is_told_with_the_rows_behind_it():
    model = Network()
    with torch.no_grad():
        model.mlp[0].bias.fill_(-50.0)
    told, _ = train(model=model, steps=200)
    finding = next(finding for finding in told if finding.code == "training.dead_units")
    assert (finding.verdict, finding.place.name) == (Verdict.FAIL, "mlp.1")
    assert finding.estimate.n >= 8192
    assert any(finding.claim.startswith("No gradient reaches mlp.0.weight") for finding in told)


def test_a_learning_rate_far_too_low_is_told():
    told, _ = train(rate=1e-7)
    finding = only(told, "training.learning_rate")
    assert "too low" in finding.claim
    assert finding.remedies[0].code == "raise_learning_rate"


def test_a_learning_rate_far_too_high_is_told():
    told, _ = train(rate=1.0, optimiser=torch.optim.Adam, activation=nn.Tanh)
    finding = only(told, "training.learning_rate")
    assert "too high" in finding.claim
    assert finding.remedies[0].code == "lower_learning_rate"


def test_a_collapsing_table_is_told():
    model = Network()
    with torch.no_grad():
        model.table.weight.copy_(torch.randn(300, 1) @ torch.randn(1, 8) + 0.01 * torch.randn(300, 8))
    told, _ = train(model=model, steps=10)
    finding = only(told, "embeddings.collapse")
    assert (finding.verdict, finding.place.name) == (Verdict.FAIL, "table.weight")


@pytest.mark.parametrize(("series", "values", "told"), [
    ("auc/validation", (0.74, 0.735, 0.73), True), ("auc/validation", (0.74, 0.7395, 0.741), False), ("auc/validation", (0.70, 0.72, 0.71), False),
    ("loss/validation", (0.50, 0.52), True), ("loss/validation", (0.50, 0.48, 0.502), False)])
def test_the_one_epoch_cliff_is_told_once(series, values, told):
    found = []
    observer = Observer(nn.Linear(1, 1), on_finding=found.append)
    for value in values:
        observer.end_epoch({series: value})
    assert [finding.code for finding in found] == ["training.one_epoch"] * told
    if told:
        assert found[0].place.name == "2"


def test_without_a_callback_it_is_logged_and_kept_in_the_record(tmp_path, caplog):
    observer = Observer(nn.Linear(1, 1), folder=tmp_path)
    with caplog.at_level(logging.WARNING, "recspect.observing"):
        observer.end_epoch({"auc/validation": 0.8})
        observer.end_epoch({"auc/validation": 0.7})
    assert "memorises" in caplog.text
    assert "memorises" in (tmp_path / "observed.json").read_text() or observer.findings
    observer.finish()
    assert "memorises" in (tmp_path / "observed.json").read_text()


def test_a_callback_that_raises_stops_the_training():
    def stop(finding):
        raise KeyError(finding.code)

    observer = Observer(nn.Linear(1, 1), on_finding=stop)
    observer.end_epoch({"auc/validation": 0.8})
    with pytest.raises(KeyError, match=r"training\.one_epoch"):
        observer.end_epoch({"auc/validation": 0.7})


def test_training_of_ours_passes_findings_on(tmp_path):
    from recspect.models import ModelConfig
    from recspect.training.config import TrainingConfig
    from recspect.training.loop import train as run_training
    from recspect.worlds import World

    world = World(rows=6000, seed=0)
    told = []
    config = TrainingConfig(model=ModelConfig(hidden=(16,)), maximum_epochs=1, batch_rows=128, learning_rate=1e-9, table_learning_rate=1e-9,
                            observe_every=2, histograms_every=0)
    run_training(world.exposures(), world.schema, config, tmp_path / "run", on_finding=told.append)
    assert "training.learning_rate" in {finding.code for finding in told}
