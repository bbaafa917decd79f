"""Tensors that move too fast or not at all, as an observer recorded them."""

import numpy as np
import pytest
import torch
from torch import nn

from judging import ask, verdicts
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.training.update_ratio import UpdateRatio
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.observing import Observer
from recspect.examining.watched_steps import as_columns
from recspect.worlds import World


class Network(nn.Module):
    """Embeddings under layers with one activation function."""

    def __init__(self, *, width=16, hidden=(64, 32), activation=nn.ReLU, start=0.03):
        super().__init__()
        self.user, self.item, self.surface = nn.Embedding(500, width), nn.Embedding(200, width), nn.Embedding(3, width)
        for table in (self.user, self.item, self.surface):
            nn.init.normal_(table.weight, std=start)
        layers = []
        for below, above in zip((3 * width, *hidden), hidden, strict=False):
            layers += [nn.Linear(below, above), activation()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden[-1], 1))

    def forward(self, ids):
        return self.mlp(torch.cat([self.user(ids[:, 0]), self.item(ids[:, 1]), self.surface(ids[:, 2])], -1)).squeeze(1)


def everything(**settings):
    return lambda model: torch.optim.Adam(model.parameters(), **settings)


def all_but(name, **other):
    """Adam at 0.003, with one parameter at another rate, or left out."""
    def make(model):
        chosen = [parameter for key, parameter in model.named_parameters() if key == name]
        rest = [parameter for key, parameter in model.named_parameters() if key != name]
        return torch.optim.Adam([{"params": rest, "lr": 3e-3}, *([{"params": chosen, **other}] if other else [])])
    return make


def watched(optimiser, *, seed=0, rows=30_000, every=4, **settings):
    """The steps of one epoch over batches of 256."""
    batch = World(rows=rows, seed=seed).exposures()
    ids = torch.as_tensor(np.stack([batch["user"], batch["item"], batch.categories("surface").codes], 1))
    label = torch.as_tensor(batch.numbers("click"), dtype=torch.float32)
    torch.manual_seed(seed)
    model = Network(**settings)
    stepper = optimiser(model)
    observer = Observer(model, every=every, on_finding=lambda _: None)
    for chosen in torch.randperm(rows).split(256):
        with observer.step() as look:
            loss = nn.functional.binary_cross_entropy_with_logits(model(ids[chosen]), label[chosen])
            stepper.zero_grad()
            loss.backward()
            look.before_update(loss)
            stepper.step()
    return Batch.from_arrow(as_columns(observer.table()))


HEALTHY = {
    "Adam": (everything(lr=3e-3), {}),
    "Adagrad": (lambda m: torch.optim.Adagrad(m.parameters(), lr=0.05), {}),
    "RMSprop": (lambda m: torch.optim.RMSprop(m.parameters(), lr=1e-3), {"width": 8, "hidden": (16,)}),
    "AdamW": (lambda m: torch.optim.AdamW(m.parameters(), lr=2e-3, weight_decay=0.01), {"width": 48, "hidden": (64, 64, 32), "activation": nn.GELU}),
    "tanh": (everything(lr=2e-3), {"activation": nn.Tanh}),
}


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("seed", range(2))
def test_usual_trainings_pass(name, seed):
    optimiser, settings = HEALTHY[name]
    (finding,) = ask(UpdateRatio(), watched(optimiser, seed=seed, **settings))
    assert finding.verdict is Verdict.PASS
    assert "change at a usual pace" in finding.claim


@pytest.mark.parametrize(("other", "words"), [({"lr": 3e-7}, "hardly moves"), ({}, "did not change at all")])
@pytest.mark.parametrize("name", ["item.weight", "mlp.2.weight"])
def test_a_tensor_that_stands_still_is_named_alone(name, other, words):
    (finding,) = ask(UpdateRatio(), watched(all_but(name, **other)))
    assert (finding.verdict, finding.place.name) == (Verdict.WARN, name)
    assert words in finding.claim
    assert finding.claim.startswith("1 tensor hardly moves")
    assert finding.estimate.value < 0.02


@pytest.mark.parametrize("seed", range(2))
def test_weights_that_decay_to_the_size_of_an_update_are_found(seed):
    found = ask(UpdateRatio(), watched(everything(lr=3e-3, weight_decay=0.3), seed=seed))
    assert verdicts(found)[found[0].place.name] is Verdict.WARN
    assert "of their size in a usual step" in found[0].claim
    assert "user.weight" in found[0].claim
    assert found[0].remedies[0].code == "lower_weight_decay"


@pytest.mark.parametrize("rate", [1e-6, 3e-6])
def test_a_rate_that_is_far_too_low_leaves_all_standing(rate):
    (finding,) = ask(UpdateRatio(), watched(everything(lr=rate)))
    assert finding.verdict is Verdict.WARN
    assert "tensors hardly move" in finding.claim


# ---------------------------------------------------------------------- the rule


def recorded(ratios, last):
    """Steps of a tensor per name; `ratios` holds one value per tensor, or one per look."""
    columns = {"@step": [], "@epoch": [], "@series": [], "@place": [], "@value": []}
    for place, values in ratios.items():
        for step, value in zip(np.linspace(1, last, 20).astype(int), np.broadcast_to(values, 20), strict=True):
            for column, entry in zip(columns.values(), (step, 1, "update_ratio", place, value), strict=True):
                column.append(entry)
    return Batch({name: np.array(column) for name, column in columns.items()})


@pytest.mark.parametrize(("ratio", "last", "side"), [(0.16, 1000, "fast"), (0.14, 1000, ""), (1.9e-5, 1000, "still"), (2.1e-5, 1000, ""), (1.9e-5, 100_000, ""), (1e-4, 150, "still")])
def test_the_limits(ratio, last, side):
    (finding,) = ask(UpdateRatio(), recorded({"a.weight": ratio, "b.weight": 3e-3 if last > 200 else 3e-2}, last))
    assert finding.place.name == ("a.weight" if side else "")
    assert ("in a usual step" in finding.claim) == (side == "fast")
    assert ("hardly moves" in finding.claim) == (side == "still")
    assert finding.estimate.value == pytest.approx(ratio * last if side == "still" else max(ratio, 3e-3))


def test_biases_and_the_whole_model_are_left_out_and_a_few_wild_steps_do_not_count():
    values = np.full(20, 3e-3)
    values[:3] = 0.9
    (finding,) = ask(UpdateRatio(), recorded({"": 0.5, "a.bias": 0.5, "b.weight": values}, 1000))
    assert finding.verdict is Verdict.PASS
    assert len(finding.evidence[1].rows) == 1


def test_both_sides_are_told_apart():
    found = ask(UpdateRatio(), recorded({"a.weight": 0.3, "b.weight": 1e-9, "c.weight": 1e-3}, 1000))
    assert [finding.place.name for finding in found] == ["a.weight", "b.weight"]


def test_nothing_is_said_of_few_looks_or_broken_updates():
    for table, words in ((recorded({"a.weight": 1e-3}, 50), "50 steps"), (recorded({"a.bias": 1e-3}, 1000), "0 looks"),
                         (recorded({"a.weight": np.nan}, 1000), "NaN"), (Batch({"x": np.zeros(3)}), "No training steps")):
        (finding,) = ask(UpdateRatio(), table)
        assert finding.verdict is Verdict.UNKNOWN
        assert words in finding.claim
