"""Do the two scores rank fields as their known worth does? Ten draws of a world with a duplicate, a constant and an oversized noise field.

Last line: one JSON object. `spearman_*` are means over the draws of the rank correlation with the worth that the world planted: of usefulness and reliance,
of permutation (mean rise of the held-out loss over 3 shuffles) and of the mean size of the gradient by a field's embedding. `noise_*` say how often the noise
field was relied on more than an equal share and how often it did not help.
"""

import json
import statistics
import sys

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.attribution import mean_baseline
from recspect.diagnosis.probes.conductance import ConductanceProbe, find_layers
from recspect.diagnosis.stats.field_flow import FieldFlow
from recspect.diagnosis.subject import TorchSubject
from recspect.worlds.fields import FieldWorld
from recspect.worlds.world import split_by_time

DRAWS, WIDTH, EPOCHS = 10, 8, 4


class Network(nn.Module):
    """A DeepFM: first-order weights, products of pairs, and an MLP."""

    def __init__(self, sizes):
        super().__init__()
        self.tables = nn.ModuleDict({name: nn.Embedding(size, WIDTH) for name, size in sizes.items()})
        self.first = nn.ModuleDict({name: nn.Embedding(size, 1) for name, size in sizes.items()})
        for table in (*self.tables.values(), *self.first.values()):
            table.weight.data.mul_(0.05)
        self.mlp = nn.Sequential(nn.Linear(len(sizes) * WIDTH, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x):
        v = torch.stack([table(x[name]) for name, table in self.tables.items()], 1)
        first = sum(table(x[name]).squeeze(1) for name, table in self.first.items())
        return torch.sigmoid(self.mlp(v.flatten(1)).squeeze(1) + first + (v.sum(1).square() - v.square().sum(1)).sum(1) / 2)


def trained(world, *, epochs=EPOCHS, seed=0):
    """(subject, training rows, held-out rows) of a network trained on the earlier rows of a world."""
    train, held_out = split_by_time(world.exposures())
    torch.manual_seed(seed)
    sizes = {name: max(int(train.numbers(name).max()), int(held_out.numbers(name).max())) + 1 for name in world.fields}
    model = Network(sizes)
    x = {name: torch.from_numpy(np.asarray(train[name])) for name in world.fields}
    y = torch.from_numpy(train.numbers("click")).float()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for rows in torch.randperm(train.rows).split(256):
            loss = nn.functional.binary_cross_entropy(model({name: values[rows] for name, values in x.items()}), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    names = {f"{kind}.{name}.weight": name for kind in ("tables", "first") for name in world.fields}  # equal columns cannot be told by value
    return TorchSubject(model.eval(), fields=world.fields, sites=names), train, held_out


def scores(subject, train, held_out, *, steps=8):
    """The summary of all flows over the held-out rows."""
    rows = held_out.with_columns({"@label": held_out.numbers("click")})
    subject.sites(rows)
    layers = find_layers(subject, rows)
    probe = ConductanceProbe(subject, baseline=mean_baseline(subject, train.take(slice(0, 4096))), layers=layers, steps=steps)
    stat = FieldFlow(fields=subject.fields, layers=layers, loss=True, neurons=True)
    total = stat.zero()
    for start in range(0, rows.rows, 512):
        total = total + stat.summarize(Batch(probe.observe(rows.take(slice(start, start + 512)))))
    return total


def log_loss(subject, rows):
    p = np.clip(subject.score(rows), 1e-7, 1 - 1e-7)
    y = rows.numbers("click")
    return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())


def permutation(subject, held_out, seed):
    rng, before = np.random.default_rng(seed), log_loss(subject, held_out)
    return [np.mean([log_loss(subject, held_out.with_columns({name: rng.permutation(np.asarray(held_out[name]))})) for _ in range(3)]) - before
            for name in subject.fields]


def gradient(subject, held_out):
    model, x = subject.model, subject.encode(held_out)
    leaves = {name: table(x[name]).detach().requires_grad_() for name, table in model.tables.items()}
    v = torch.stack(list(leaves.values()), 1)
    out = model.mlp(v.flatten(1)).squeeze(1) + (v.sum(1).square() - v.square().sum(1)).sum(1) / 2
    return [float(g.norm(dim=1).mean()) for g in torch.autograd.grad(out.sum(), list(leaves.values()))]


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = []
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else DRAWS):
        world = FieldWorld(seed=seed)
        subject, train, held_out = trained(world, seed=seed)
        total = scores(subject, train, held_out)
        worth = [world.worth[name] for name in subject.fields]
        ranked = {"usefulness": total.mean_usefulness(), "reliance": total.reliance(), "permutation": permutation(subject, held_out, seed),
                  "gradient": gradient(subject, held_out)}
        noise = subject.fields.index("noise")
        row = {name: float(spearmanr(values, worth).statistic) for name, values in ranked.items()}
        row |= {"noise_reliance": float(total.reliance()[noise]), "noise_usefulness": float(total.mean_usefulness()[noise]),
                "noise_rank": int((-total.reliance()).argsort().tolist().index(noise)) + 1, "noise_cancelled": float(total.cancellation()[noise, 0]),
                "others_cancelled": float(np.nanmedian(np.delete(total.cancellation()[:, 0], noise)))}
        found.append(row)
        print(f"draw {seed}: " + ", ".join(f"{name} {value:.3f}" for name, value in row.items()))
    mean = {f"spearman_{name}": round(statistics.mean(row[name] for row in found), 3) for name in ("usefulness", "reliance", "permutation", "gradient")}
    print(json.dumps({**mean, "spearman_usefulness_least": round(min(row["usefulness"] for row in found), 3),
                      "noise_relied_on": sum(row["noise_reliance"] > 1 / len(FieldWorld().fields) for row in found),
                      "noise_not_useful": sum(row["noise_usefulness"] <= 0 for row in found), "draws": len(found)}))
