"""Training diagnostics find planted faults at the right place and are silent on healthy models."""

import numpy as np
import pytest
import torch
from torch import nn

from judging import ask
from recspect.diagnosis.batch import Batch, Categorical
from recspect.diagnosis.diagnostics.training.dead_units import DeadUnits
from recspect.diagnosis.diagnostics.training.gradient_flow import GradientFlow
from recspect.diagnosis.diagnostics.training.loss_anomaly import LossAnomaly, find_anomalies
from recspect.diagnosis.diagnostics.training.one_epoch import OneEpoch
from recspect.diagnosis.diagnostics.training.overfitting import Overfitting
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.probes.internals import InternalsProbe, ScoreProbe
from recspect.diagnosis.subject import TorchSubject
from recspect.schema import Label, Schema
from recspect.worlds import World, logit_of, plant_noise_field, sigmoid, split_by_time

SEEDS = range(3)
BINARY = World().schema
GRADED = Schema(labels=(Label(name="click", kind="graded"),))


def world(seed, rows=20_000):
    batch = World(rows=rows, seed=seed).exposures()
    batch = batch.with_columns({"@label": batch["click"], "@cluster": batch["user"]})
    return split_by_time(batch)


def scored(batch, *, memory, noise, column="@score", seed=0):
    """Scores of a model that knows the truth, `memory` of each row's own label, and noise."""
    rng = np.random.default_rng(seed)
    p, y = batch.numbers("truth"), batch.numbers("click")
    return batch.with_columns({column: sigmoid(logit_of(p) + memory * (y - p) + noise * rng.normal(size=batch.rows))})


# ---------------------------------------------------------------------- overfitting


@pytest.mark.parametrize("seed", SEEDS)
def test_overfitting_is_found(seed):
    train, held_out = world(seed)
    (finding,) = ask(Overfitting(), scored(held_out, memory=0, noise=0.8), scored(train, memory=1.5, noise=0), schema=BINARY)
    assert finding.verdict is Verdict.FAIL
    assert finding.estimate.has_interval
    assert finding.estimate.low > 0.1
    assert "AUC is 0." in finding.claim
    assert finding.remedies[0].code == "stop_after_one_epoch"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_model_that_knows_the_truth_does_not_overfit(seed):
    train, held_out = world(seed)
    (finding,) = ask(Overfitting(), scored(held_out, memory=0, noise=0.2), scored(train, memory=0, noise=0.2), schema=BINARY)
    assert finding.verdict is Verdict.PASS
    assert abs(finding.estimate.value) < 0.05


def test_a_little_overfitting_warns():
    train, held_out = world(0, rows=60_000)
    (finding,) = ask(Overfitting(), scored(held_out, memory=0, noise=0), scored(train, memory=0.35, noise=0), schema=BINARY)
    assert finding.verdict is Verdict.WARN


def test_overfitting_of_confidence_alone_is_found_by_entropy():
    train, held_out = world(0)
    p = held_out.numbers("truth")
    wild = held_out.with_columns({"@score": sigmoid(3 * logit_of(p))})
    (finding,) = ask(Overfitting(), wild, scored(train, memory=0, noise=0), schema=BINARY)
    assert finding.verdict is Verdict.FAIL
    assert finding.estimate.unit.startswith("normalised entropy")


@pytest.mark.parametrize(("noise", "verdict"), [(0.0, Verdict.PASS), (1.0, Verdict.FAIL)])
def test_overfitting_to_grades(noise, verdict):
    rng = np.random.default_rng(0)
    rows = 8000
    grade = rng.normal(size=rows)
    batch = Batch({"@label": grade, "@cluster": rng.integers(0, 500, rows)})
    train = batch.with_columns({"@score": grade + 0.5 * rng.normal(size=rows)})
    held_out = batch.with_columns({"@score": grade + (0.5 + noise) * rng.normal(size=rows)})
    (finding,) = ask(Overfitting(), held_out, train, schema=GRADED)
    assert finding.verdict is verdict
    assert "R squared" in finding.claim


@pytest.mark.parametrize(("known", "reads_user", "verdict"), [(0.2, True, Verdict.WARN), (0.7, True, Verdict.FAIL), (0.2, False, Verdict.FAIL)])
def test_a_gap_on_people_training_never_saw_is_no_proof_of_learning_by_heart(known, reads_user, verdict):
    """Where the model reads the user; a model that does not has no such excuse."""
    train, held_out = world(0)
    user = held_out.numbers("user").astype(np.int64)
    strange = user + np.where(np.random.default_rng(0).random(user.max() + 1)[user] < known, 0, 10**6)
    schema = BINARY if reads_user else BINARY.without_fields(["user"])
    (finding,) = ask(Overfitting(), scored(held_out.with_columns({"user": strange}), memory=0, noise=0.8), scored(train, memory=1.5, noise=0), schema=schema)
    assert finding.verdict is verdict
    assert ("users that training never saw" in finding.claim) == (verdict is Verdict.WARN)


def test_overfitting_is_unknown_without_training_rows_or_with_too_few():
    train, held_out = (scored(part, memory=0, noise=0) for part in world(0))
    (finding,) = ask(Overfitting(), held_out, schema=BINARY)
    assert (finding.verdict, finding.claim) == (Verdict.UNKNOWN, "There are no training rows to compare with.")
    (finding,) = ask(Overfitting(), held_out.take(slice(0, 200)), train, schema=BINARY)
    assert finding.verdict is Verdict.UNKNOWN
    assert "only 200 rows" in finding.claim
    silent = held_out.with_columns({"@label": np.zeros(held_out.rows)})
    (finding,) = ask(Overfitting(), silent, train, schema=BINARY)
    assert finding.verdict is Verdict.UNKNOWN


# ---------------------------------------------------------------------- one epoch


def epochs(batch, memory, noise, *, kept):
    for epoch, (m, n) in enumerate(zip(memory, noise, strict=True), 1):
        batch = scored(batch, memory=m, noise=n, column=f"@score:epoch-{epoch}", seed=7)
    return batch.with_columns({"@score": batch[f"@score:epoch-{kept}"]})


FALLING = (0.3, 0.5, 0.8)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("kept", "verdict"), [(3, Verdict.FAIL), (1, Verdict.WARN)])
def test_the_fall_after_the_first_epoch_is_found(seed, kept, verdict):
    train, held_out = world(seed)
    target = epochs(held_out, (0, 0, 0), FALLING, kept=kept)
    reference = epochs(train, (0.2, 0.6, 1.0), (0.3, 0.3, 0.3), kept=kept)
    (finding,) = ask(OneEpoch(), target, reference, schema=BINARY, epochs=(1, 2, 3))
    assert finding.verdict is verdict
    assert "memorises after" in finding.claim
    assert "(epoch 1) to" in finding.claim
    assert f"The model of epoch {kept} was kept" in finding.claim
    assert finding.estimate.high < 0
    (curve,) = finding.evidence
    assert [line.name for line in curve.lines] == ["held-out", "training"]
    assert curve.marks == ((float(kept), "kept"),)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("noise", [(0.6, 0.4, 0.3), (0.3, 0.3, 0.3)])
def test_rising_or_level_quality_passes(seed, noise):
    train, held_out = world(seed)
    rng = np.random.default_rng(seed)
    target = epochs(held_out, rng.normal(0, 0.002, 3), noise, kept=3)
    (finding,) = ask(OneEpoch(), target, epochs(train, (0.2, 0.3, 0.4), (0.3, 0.3, 0.3), kept=3), schema=BINARY, epochs=(1, 2, 3))
    assert finding.verdict is Verdict.PASS


@pytest.mark.parametrize(("kept", "verdict"), [(3, Verdict.WARN), (2, Verdict.PASS)])
def test_a_fall_after_a_later_epoch_is_milder(kept, verdict):
    train, held_out = world(0)
    target = epochs(held_out, (0, 0, 0), (0.6, 0.2, 0.9), kept=kept)
    (finding,) = ask(OneEpoch(), target, epochs(train, (0.2, 0.6, 1.0), (0.3, 0.3, 0.3), kept=kept), schema=BINARY, epochs=(1, 2, 3))
    assert finding.verdict is verdict
    assert finding.place.name == "2"


def test_a_fall_of_both_sides_is_not_memorising():
    train, held_out = world(0)
    (finding,) = ask(OneEpoch(), epochs(held_out, (0, 0, 0), FALLING, kept=3), epochs(train, (0, 0, 0), FALLING, kept=3),
                     schema=BINARY, epochs=(1, 2, 3))
    assert finding.verdict is Verdict.PASS


def test_one_epoch_alone_cannot_say():
    train, held_out = world(0)
    (finding,) = ask(OneEpoch(), epochs(held_out, (0,), (0,), kept=1), epochs(train, (0,), (0,), kept=1), schema=BINARY, epochs=(1,))
    assert finding.verdict is Verdict.UNKNOWN
    assert "two epochs" in finding.claim


class Memoriser(nn.Module):
    """Embeddings of user, item and a random id of which each has a few rows: the last can only be learned by heart."""

    def __init__(self):
        super().__init__()
        self.noise, self.user, self.item = nn.Embedding(2000, 8), nn.Embedding(100, 4), nn.Embedding(50, 4)
        self.head = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x):
        parts = [self.noise(x["noise"]), self.user(x["user"]), self.item(x["item"])]
        return self.head(torch.cat(parts, -1))


@pytest.mark.parametrize("seed", range(2))
def test_a_real_model_that_learns_ids_by_heart_is_found(seed):
    torch.manual_seed(seed)
    batch = plant_noise_field(World(users=100, items=50, rows=30_000, seed=seed).exposures(), categories=2000)
    batch = batch.with_columns({"@label": batch["click"], "@cluster": batch["user"]})
    sides = list(split_by_time(batch))
    model = Memoriser()
    columns = {name: torch.as_tensor(sides[0][name]) for name in ("noise", "user", "item")}
    label = torch.as_tensor(sides[0]["click"], dtype=torch.float32)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    subject = TorchSubject(model, fields=["noise", "user", "item"], forward=lambda m, x: torch.sigmoid(m(x)))
    for epoch in (1, 2, 3, 4):
        for rows in torch.randperm(len(label)).split(128):
            optimiser.zero_grad()
            out = model({name: column[rows] for name, column in columns.items()}).squeeze(1)
            nn.functional.binary_cross_entropy_with_logits(out, label[rows]).backward()
            optimiser.step()
        sides = [side.with_columns(ScoreProbe(subject, column=f"@score:epoch-{epoch}").observe(side)) for side in sides]
    train, held_out = (side.with_columns({"@score": side["@score:epoch-4"]}) for side in sides)
    (finding,) = ask(OneEpoch(), held_out, train, schema=BINARY, epochs=(1, 2, 3, 4))
    assert finding.verdict is Verdict.FAIL
    assert finding.place.name == "1"
    (finding,) = ask(Overfitting(), held_out, train, schema=BINARY)
    assert finding.verdict is Verdict.FAIL


# ---------------------------------------------------------------------- inside the network


class Tower(nn.Module):
    """Two embeddings under a stack of layers."""

    def __init__(self, depth, activation, width=32):
        super().__init__()
        self.user, self.item = nn.Embedding(500, 8), nn.Embedding(200, 8)
        layers = []
        for i in range(depth):
            layers += [nn.Linear(16 if i == 0 else width, width), activation()]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(width, 1)
        for module in self.layers:
            if activation is nn.ReLU and isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x):
        return self.head(self.layers(torch.cat([self.user(x["user"]), self.item(x["item"])], -1)))


def inside(model, diagnostic, seed=0, rows=3000):
    train, held_out = world(seed, rows=2 * rows)
    probe = InternalsProbe(TorchSubject(model, fields=["user", "item"], forward=lambda m, x: torch.sigmoid(m(x))))
    layers = probe.find_layers(train.take(slice(0, 64)))
    return layers, ask(diagnostic, held_out, train, schema=BINARY, layers=layers, probes=[probe])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_dead_layer_is_named(seed):
    torch.manual_seed(seed)
    model = Tower(3, nn.ReLU)
    nn.init.constant_(model.layers[2].bias, -100)
    layers, findings = inside(model, DeadUnits(), seed)
    failed = [finding for finding in findings if finding.verdict is Verdict.FAIL]
    assert layers[1] in {finding.place.name for finding in failed}
    assert "32 of 32 units" in failed[0].claim
    assert "rows" in failed[0].claim


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU])
def test_living_layers_pass(seed, activation):
    torch.manual_seed(seed)
    _, findings = inside(Tower(3, activation), DeadUnits(), seed)
    assert [finding.verdict for finding in findings] == [Verdict.PASS]


@pytest.mark.parametrize(("dead", "dormant", "verdict"), [(0, 0, "PASS"), (10, 0, "PASS"), (18, 0, "WARN"), (10, 10, "WARN"), (31, 0, "FAIL")])
def test_shares_of_idle_units(dead, dormant, verdict):
    rng = np.random.default_rng(0)
    h = rng.exponential(size=(2000, 32))
    h[:, :dead] = 0
    h[:, dead:dead + dormant] *= 0.001
    batch = Batch({"@activation:first": h})
    (finding,) = ask(DeadUnits(), batch, layers=("first",))
    assert finding.verdict == verdict
    assert finding.place.name == ("" if verdict == "PASS" else "first")


def test_dead_units_are_unknown_without_layers_or_rows():
    (finding,) = ask(DeadUnits(), Batch({"x": np.zeros(3)}))
    assert finding.verdict is Verdict.UNKNOWN
    (finding,) = ask(DeadUnits(), Batch({"@activation:a": np.ones((50, 4))}), layers=("a",))
    assert (finding.verdict, "only 50 rows" in finding.claim) == (Verdict.UNKNOWN, True)


def test_a_unit_that_fires_on_training_rows_only_is_not_dead():
    silent, firing = np.zeros((1500, 4)), np.ones((1500, 4))
    (finding,) = ask(DeadUnits(), Batch({"@activation:a": silent}), Batch({"@activation:a": firing}), layers=("a",))
    assert finding.verdict is Verdict.PASS


@pytest.mark.parametrize("seed", SEEDS)
def test_eight_sigmoid_layers_let_the_gradient_vanish(seed):
    torch.manual_seed(seed)
    layers, (finding,) = inside(Tower(8, nn.Sigmoid), GradientFlow(), seed)
    assert finding.verdict is Verdict.FAIL
    assert finding.place.name == layers[0]
    assert finding.remedies[0].code == "change_activation"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("depth", "activation"), [(1, nn.ReLU), (2, nn.Sigmoid), (3, nn.ReLU), (3, nn.Tanh), (8, nn.ReLU)])
def test_usual_networks_pass_the_gradient_on(seed, depth, activation):
    torch.manual_seed(seed)
    _, (finding,) = inside(Tower(depth, activation), GradientFlow(), seed)
    assert finding.verdict is Verdict.PASS


def test_a_dead_layer_blocks_the_gradient_before_it():
    torch.manual_seed(0)
    model = Tower(3, nn.ReLU)
    nn.init.constant_(model.layers[4].bias, -100)
    layers, (finding,) = inside(model, GradientFlow())
    assert (finding.verdict, finding.place.name) == (Verdict.FAIL, layers[0])


def steps(values, *, series="gradient_norm", place=""):
    n = len(values)
    return {"@step": np.arange(1, n + 1) * 50, "@epoch": np.ones(n, dtype=np.int64),
            "@series": Categorical(np.zeros(n, dtype=np.int64), np.array([series], dtype=object)),
            "@place": Categorical(np.zeros(n, dtype=np.int64), np.array([place], dtype=object)), "@value": values}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("bursts", "verdict"), [((), "PASS"), ((60,), "WARN"), ((60, 75), "FAIL")])
def test_bursts_of_the_gradient(seed, bursts, verdict):
    norms = np.exp(np.random.default_rng(seed).normal(0, 0.3, 120)) * np.geomspace(5, 0.5, 120)
    norms[list(bursts)] *= 100
    (finding,) = ask(GradientFlow(), Batch(steps(norms)))
    assert finding.verdict == verdict
    if bursts:
        assert finding.place.name == str(50 * (bursts[0] + 1))


def test_norms_of_parameters_are_added_up():
    parts = [Batch(steps(np.full(20, size), place=place)) for size, place in ((3.0, "a"), (4.0, "b"))]
    both = {name: np.concatenate([part.categories(name).decode() if name in ("@series", "@place") else part[name] for part in parts])
            for name in parts[0]}
    for name in ("@series", "@place"):
        both[name] = Batch({"c": both[name].astype(str)}).categories("c")
    (finding,) = ask(GradientFlow(), Batch(both))
    assert set(finding.evidence[0].lines[0].y) == {5.0}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_no_number_fails_at_its_step(bad):
    norms = np.ones(40)
    norms[10] = bad
    (finding,) = ask(GradientFlow(), Batch(steps(norms, place="deep.0.weight")))
    assert (finding.verdict, finding.place.name) == (Verdict.FAIL, "550")
    assert "deep.0.weight" in finding.claim


def test_counted_nonfinite_values_fail():
    counts = np.zeros(30)
    counts[20] = 7
    (finding,) = ask(GradientFlow(), Batch(steps(counts, series="nonfinite")))
    assert (finding.verdict, finding.estimate.value) == (Verdict.FAIL, 7)


def test_gradient_flow_is_unknown_without_gradients():
    (finding,) = ask(GradientFlow(), Batch({"x": np.zeros(3)}))
    assert finding.verdict is Verdict.UNKNOWN
    (finding,) = ask(GradientFlow(), Batch(steps(np.ones(3))))
    assert finding.verdict is Verdict.UNKNOWN


# ---------------------------------------------------------------------- the loss


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("jumps", "verdict"), [((), "PASS"), ((90,), "WARN"), ((90, 91), "FAIL"), ((90, 120), "FAIL")])
def test_jumps_of_the_loss(seed, jumps, verdict):
    losses = 0.3 + 0.3 * np.exp(-np.arange(150) / 20) + np.random.default_rng(seed).normal(0, 0.02, 150)
    losses[list(jumps)] += 1.5
    (finding,) = ask(LossAnomaly(), Batch(steps(losses, series="loss/train")))
    assert finding.verdict == verdict
    assert finding.place.name == (str(50 * (jumps[0] + 1)) if jumps else "")


HEALTHY_LOSSES = {
    "heavy tail": lambda rng, t: 0.3 + 0.3 * np.exp(-t / 20) + 0.02 * rng.standard_t(3, len(t)),
    "heavy tail, level": lambda rng, t: 0.3 + 0.02 * rng.standard_t(3, len(t)),
    "skewed": lambda rng, t: (0.3 + 0.3 * np.exp(-t / 20)) * np.exp(rng.normal(0, 0.5, len(t))),
    "normal": lambda rng, t: 0.3 + 0.3 * np.exp(-t / 20) + rng.normal(0, 0.02, len(t)),
    "falling": lambda rng, t: 0.3 + 0.4 * np.exp(-3 * t / len(t)) + rng.normal(0, 0.02, len(t)),
    "plateau": lambda rng, t: 0.693 + rng.normal(0, 0.01, len(t)),
    "by orders of magnitude": lambda rng, t: np.exp(-5 * t / len(t) + rng.normal(0, 0.2, len(t))),
}


@pytest.mark.parametrize("n", [60, 400])
@pytest.mark.parametrize("kind", HEALTHY_LOSSES)
def test_healthy_losses_are_quiet(kind, n):
    """200 series: FAIL in at most 1 %, WARN in at most 5 %; the figures are in docs/findings/training.loss_anomaly.md."""
    found = [find_anomalies(HEALTHY_LOSSES[kind](np.random.default_rng(seed), np.arange(n))).verdict for seed in range(200)]
    assert found.count(Verdict.FAIL) <= 2
    assert found.count(Verdict.WARN) <= 10


@pytest.mark.parametrize("kind", ["heavy tail", "normal", "falling"])
@pytest.mark.parametrize("fault", ["stays", "for a moment", "shift", "divergence"])
def test_faults_of_the_loss_are_found(kind, fault):
    """Three times the loss for five sampled steps, six times for one, twice from then on, 3 % more with every sampled step."""
    found, delays = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        losses = HEALTHY_LOSSES[kind](rng, np.arange(400))
        at = int(rng.integers(200, 360))
        factor = {"stays": np.where(np.arange(400 - at) < 5, 3.0, 1.0), "for a moment": np.where(np.arange(400 - at) < 1, 6.0, 1.0),
                  "shift": np.full(400 - at, 2.0), "divergence": np.exp(0.03 * np.arange(400 - at))}[fault]
        losses[at:] *= factor
        anomalies = find_anomalies(losses)
        found.append(anomalies.verdict is not Verdict.PASS)
        seen = [place for place in (*anomalies.jumps, *anomalies.alone, anomalies.since) if place is not None and place >= at]
        delays += [min(seen) - at] if seen else []
    assert np.mean(found) >= 0.95
    assert np.median(delays) <= (20 if fault == "divergence" else 2)


def test_a_loss_that_is_no_number_fails():
    losses = np.append(np.ones(20), np.nan)
    (finding,) = ask(LossAnomaly(), Batch(steps(losses, series="loss/train")))
    assert (finding.verdict, finding.place.name) == (Verdict.FAIL, "1050")


def test_the_loss_is_unknown_without_steps():
    (finding,) = ask(LossAnomaly(), Batch({"x": np.zeros(3)}))
    assert (finding.verdict, finding.claim) == (Verdict.UNKNOWN, "No training steps were recorded.")
    for few in (steps(np.ones(5), series="loss/train"), steps(np.ones(5))):
        (finding,) = ask(LossAnomaly(), Batch(few))
        assert finding.verdict is Verdict.UNKNOWN
