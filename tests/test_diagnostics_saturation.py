"""Sigmoids, tanhs and scores at their flat ends."""

import numpy as np
import pytest
import torch
from torch import nn

from judging import ask, verdicts
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.training.saturation import Saturation
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.probes.internals import InternalsProbe, ScoreProbe
from recspect.diagnosis.subject import TorchSubject
from recspect.worlds import World, sigmoid

BINARY = World().schema


class Tower(nn.Module):
    """Two embeddings, and an age in years, under a stack of layers of one activation function."""

    def __init__(self, activation, *, depth=3, width=32, scale=1 / 40, normalised=False):
        super().__init__()
        self.user, self.item, self.scale = nn.Embedding(500, 8), nn.Embedding(200, 8), scale
        layers = []
        for k in range(depth):
            layers += [nn.Linear(17 if k == 0 else width, width), *([nn.LayerNorm(width)] if normalised else []), activation()]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(width, 1)

    def forward(self, x):
        age = (x["age"].float() - 45).reshape(-1, 1) * self.scale
        return self.head(self.layers(torch.cat([self.user(x["user"]), self.item(x["item"]), age], -1)))


def world(seed, rows=4000):
    batch = World(rows=rows, seed=seed).exposures()
    return batch.with_columns({"@label": batch["click"], "@cluster": batch["user"]})


def fit(model, batch, rate, seed=0):
    """One epoch of Adam."""
    inputs = {name: torch.as_tensor(np.asarray(batch[name])) for name in ("user", "item", "age")}
    label = torch.as_tensor(batch.numbers("click"), dtype=torch.float32)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    for rows in torch.randperm(batch.rows, generator=torch.Generator().manual_seed(seed)).split(128):
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model({name: column[rows] for name, column in inputs.items()}).squeeze(1), label[rows]).backward()
        optimiser.step()
    return model


def inside(model, seed=0, rows=2000):
    """(layers, findings) on rows that the model was not trained on."""
    batch = world(seed + 1000, rows)
    subject = TorchSubject(model, fields=["user", "item", "age"], forward=lambda m, x: torch.sigmoid(m(x)))
    probe = InternalsProbe(subject)
    layers = probe.find_layers(batch.take(slice(0, 64)))
    return layers, ask(Saturation(), batch, batch.take(slice(0, 500)), schema=BINARY, layers=layers, probes=[probe, ScoreProbe(subject)])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh])
@pytest.mark.parametrize("rate", [0.0, 3e-3])
def test_usual_networks_pass(seed, activation, rate):
    torch.manual_seed(seed)
    _, (finding,) = inside(fit(Tower(activation), world(seed), rate, seed), seed)
    assert finding.verdict is Verdict.PASS
    assert finding.estimate.value < 0.1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh])
def test_a_numeric_field_that_is_not_scaled_saturates_the_first_layer(seed, activation):
    torch.manual_seed(seed)
    layers, (finding,) = inside(fit(Tower(activation, scale=10.0), world(seed), 3e-3, seed), seed)
    assert (finding.verdict, finding.place.name) == (Verdict.WARN if finding.estimate.value <= 0.9 else Verdict.FAIL, layers[0])
    assert finding.estimate.value > 0.5
    assert finding.remedies[0].code == "scale_numeric_fields"


def test_layer_normalisation_mends_it():
    torch.manual_seed(0)
    _, (finding,) = inside(Tower(nn.Tanh, scale=10.0, normalised=True))
    assert finding.verdict is Verdict.PASS


def test_the_share_is_that_of_the_arguments():
    """The share of the finding is counted again by hooks before each tanh."""
    torch.manual_seed(0)
    model = Tower(nn.Tanh, scale=2.0)
    arguments = {}
    hooks = [module.register_forward_pre_hook(lambda _m, given, name=name: arguments.setdefault(name, given[0].detach())) for name, module in model.named_modules()
             if isinstance(module, nn.Tanh)]
    batch = world(1000, 2000)
    with torch.no_grad():
        model({name: torch.as_tensor(np.asarray(batch[name])) for name in ("user", "item", "age")})
    for hook in hooks:
        hook.remove()
    layers, findings = inside(model)
    shares = dict(zip(findings[0].evidence[0].names, findings[0].evidence[0].values, strict=True))
    seen = {name: torch.cat([values, values[:500]]) for name, values in arguments.items()}  # the reference side repeats the first rows
    assert {name: shares[name] for name in layers} == pytest.approx({name: float((values.abs() > 4).float().mean()) for name, values in seen.items()}, abs=1e-6)


def test_layers_that_do_not_squash_are_left_out():
    torch.manual_seed(0)
    _, (finding,) = inside(Tower(nn.ReLU, scale=100.0))
    assert finding.evidence[0].names == ("(score)",)


@pytest.mark.parametrize(("far", "verdict"), [(0.0, "PASS"), (0.45, "PASS"), (0.55, "WARN"), (0.95, "FAIL")])
def test_scores_of_certainty(far, verdict):
    rng = np.random.default_rng(0)
    size = np.where(np.arange(2000) < far * 2000, 16.0, 14.0)
    batch = Batch({"@score": sigmoid(size * rng.choice([-1, 1], 2000)), "@label": rng.integers(0, 2, 2000)})
    (finding,) = ask(Saturation(), batch, schema=BINARY)
    assert finding.verdict == verdict
    assert finding.estimate.value == pytest.approx(far, abs=1e-3)
    assert "have a logit beyond 15" in finding.claim


def test_layers_and_scores_are_told_apart():
    rng = np.random.default_rng(0)
    batch = Batch({"@squashed:a": 20 * np.ones((1000, 4)), "@squashed:b": rng.normal(size=(1000, 4)), "@score": rng.random(1000), "@label": rng.integers(0, 2, 1000)})
    found = ask(Saturation(), batch, schema=BINARY, layers=("a", "b"))
    assert verdicts(found) == {"a": Verdict.FAIL}
    assert found[0].evidence[0].names == ("a", "b", "(score)")


def test_nothing_is_said_without_layers_scores_or_rows():
    for batch, words in ((Batch({"x": np.zeros(3)}), "No sigmoid or tanh layer"), (Batch({"@squashed:a": np.ones((50, 4))}), "only 50 rows"),
                         (Batch({"@score": np.full(60, 0.5), "@label": np.ones(60)}), "Fewer than 100 rows")):
        (finding,) = ask(Saturation(), batch, schema=BINARY, layers=("a",))
        assert finding.verdict is Verdict.UNKNOWN
        assert words in finding.claim
