"""Integrated gradients over lookups, against Captum's LayerIntegratedGradients, on the same DeepFM-like network.

Last line: one JSON object. `speedup_equal_n` is at 50 midpoints against 50 Captum steps in chunks; `speedup_smooth` and `speedup_relu_1pct` take as many
points as 1% attribution error needs (measured against 600 points), against Captum's default call; `cost_in_forwards` is one
of our points in bare forward passes. A first version: the looking-inside issue brings more networks and the default/chunked pair.
"""

import json
import statistics
import time

import numpy as np
import torch
from captum.attr import LayerIntegratedGradients
from torch import nn

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.attribution import integrated_gradients
from recspect.diagnosis.subject import TorchSubject

FIELDS, IDS, WIDTH, ROWS, REPEATS = 26, 2_000, 16, 1024, 3


class Network(nn.Module):
    """FM + MLP over a list of tables, each read once, so that Captum gives right answers too."""

    def __init__(self, activation):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(IDS + 1, WIDTH) for _ in range(FIELDS))
        for table in self.tables:
            table.weight.data.mul_(0.03)  # as DeepFM is usually begun; wide tables would drown the MLP in the FM part, which one point integrates exactly
            table.weight.data[IDS] = 0  # captum's baselines are ids; this one is the zero vector
        self.mlp = nn.Sequential(nn.Linear(FIELDS * WIDTH, 256), activation(), nn.Linear(256, 256), activation(), nn.Linear(256, 1))

    def forward(self, *ids):
        v = torch.stack([table(i) for table, i in zip(self.tables, ids, strict=True)], 1)
        pairs = (v.sum(1).square() - v.square().sum(1)).sum(1) / 2
        return self.mlp(v.flatten(1)).squeeze(1) + pairs


def seconds(call):
    start = time.process_time()
    out = call()
    return time.process_time() - start, out


def trained(activation):
    """A fresh network is nearly linear along the path, and one point would do; so it is trained on labels that ids and pairs decide."""
    torch.manual_seed(0)
    model = Network(activation)
    taste = torch.randn(IDS, FIELDS)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(200):
        ids = torch.randint(0, IDS, (1024, FIELDS))
        single = taste[ids, torch.arange(FIELDS)]
        logit = single.sum(1) / 2 + single[:, 0] * single[:, 1] + (single[:, 2] * single[:, 3]).abs()
        loss = nn.functional.binary_cross_entropy_with_logits(model(*ids.T), torch.bernoulli(torch.sigmoid(logit)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        for table in model.tables:
            table.weight[IDS] = 0
    return model.eval()


def compare(activation):
    model = trained(activation)
    names = [f"f{k}" for k in range(FIELDS)]
    r = np.random.default_rng(0)
    batch = Batch({name: r.integers(0, IDS, ROWS) for name in names})
    subject = TorchSubject(model, fields=names, forward=lambda m, x: m(*(x[name] for name in names)))
    ids = tuple(torch.from_numpy(np.asarray(batch[name])) for name in names)
    start = tuple(torch.full((ROWS,), IDS) for _ in names)
    captum = LayerIntegratedGradients(model, list(model.tables))

    def ours(steps, rule="auto"):
        found = integrated_gradients(subject, batch, steps=steps, rule=rule)
        return torch.stack([found.reliance[name] for name in names], 1)

    def theirs(**settings):
        found = captum.attribute(ids, baselines=start, n_steps=50, **settings)
        return torch.stack([value.sum(-1) for value in found], 1).detach().float()

    truth = ours(600, "midpoint")
    size = float(truth.abs().mean())
    enough = next(n for n in (1, 2, 4, 6, 8, 12, 16, 24, 32, 50) if float((ours(n) - truth).abs().mean()) < 0.01 * size)
    same = float((ours(50, "gauss_legendre") - theirs(internal_batch_size=ROWS)).abs().max())
    assert same < 1e-4 * max(1.0, float(truth.abs().max())), same
    times = {"default": [], "chunked": [], "equal_n": [], "enough": [], "forward": []}
    for _ in range(REPEATS):  # alternating, so that a slow moment hits all alike
        times["default"].append(seconds(theirs)[0])
        times["enough"].append(seconds(lambda: ours(enough))[0])
        times["chunked"].append(seconds(lambda: theirs(internal_batch_size=ROWS))[0])
        times["equal_n"].append(seconds(lambda: ours(50))[0])
        with torch.no_grad():
            times["forward"].append(seconds(lambda: [model(*ids) for _ in range(50)])[0])
    median = {name: statistics.median(values) for name, values in times.items()}
    return {"points": enough, "difference": same, "speedup": median["default"] / median["enough"],
            "equal_n": median["chunked"] / median["equal_n"], "cost": median["equal_n"] / median["forward"]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    import warnings

    warnings.filterwarnings("ignore", message="Multiple layers provided")
    relu, smooth = compare(nn.ReLU), compare(nn.SiLU)
    print(f"ReLU {relu}\nSiLU {smooth}")
    print(json.dumps({"speedup_relu_1pct": round(relu["speedup"], 2), "speedup_smooth": round(smooth["speedup"], 2),
                      "speedup_equal_n": round(relu["equal_n"], 2), "cost_in_forwards": round(relu["cost"], 2),
                      "points_relu": relu["points"], "points_smooth": smooth["points"],
                      "largest_difference": max(relu["difference"], smooth["difference"])}))
