"""The flow of every field through every neuron of a trained DeepFM, against Captum's NeuronConductance at equal points, extrapolated from some neurons.

Last line: one JSON object. `speedup_vs_captum` is Captum's time for all 448 neurons over ours for all neurons and fields, both at 8 points on 512 rows; Captum is
given the embeddings, so that it does not read tables again, which it otherwise would at every point. `speedup_generic_jvp` is the same of the general way that any
model goes. `forwards_per_field_point` is the time of one of our points over the number of fields, in bare forward passes. Stops where values differ from
Captum's at 256 points.
"""

import json
import statistics

import numpy as np
import torch
from captum.attr import NeuronConductance
from torch import nn

from _deepfm import FIELDS, HIDDEN, NAMES, DeepFM, fitted
from _timing import seconds
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.attribution import zero_baseline
from recspect.diagnosis.probes.conductance import field_conductance, find_layers, usable_towers
from recspect.diagnosis.subject import TorchSubject

IDS, ROWS, POINTS, REPEATS = 2_000, 512, 8, 5
NEURONS = ((0, 3), (0, 200), (1, 5), (1, 100), (2, 7), (2, 50))
"""(hidden layer, neuron) that Captum is asked for."""


class Behind(nn.Module):
    """What Captum is given: the network after its lookups, less the first-order weights, which no neuron reads (it fails on such inputs)."""

    def __init__(self, network):
        super().__init__()
        self.network, self.mlp = network, network.mlp

    def forward(self, v):
        return self.network.behind(v, v.new_zeros(len(v), 1))


def trained():
    """On labels that ids and pairs decide; a fresh network is nearly linear along the path."""
    torch.manual_seed(0)
    model = DeepFM(IDS)
    taste = torch.randn(IDS, FIELDS)

    def draw():
        ids = torch.randint(0, IDS, (1024, FIELDS))
        single = taste[ids, torch.arange(FIELDS)]
        logit = single.sum(1) / 2 + single[:, 0] * single[:, 1] + (single[:, 2] * single[:, 3]).abs()
        return {name: ids[:, k] for k, name in enumerate(NAMES)}, torch.bernoulli(torch.sigmoid(logit))

    return fitted(model, draw, steps=200, learning_rate=3e-3)


def main():
    model = trained()
    r = np.random.default_rng(0)
    batch = Batch({name: r.integers(0, IDS, ROWS) for name in NAMES})
    subject = TorchSubject(model, fields=NAMES)
    x = subject.encode(batch)
    start = zero_baseline(subject.sites(batch))
    layers = find_layers(subject, batch)
    with torch.no_grad():
        leaves = model.read(x)[0]
    behind = Behind(model).requires_grad_(requires_grad=False)

    def theirs(layer, neuron, rows, points):
        found = NeuronConductance(behind, behind.mlp[2 * layer + 1]).attribute(
            leaves[:rows], neuron, baselines=torch.zeros_like(leaves[:rows]), n_steps=points, method="gausslegendre")
        return found.sum(2).detach()

    def ours(route, rows=ROWS, points=POINTS):
        return field_conductance(subject, batch.take(slice(0, rows)), baseline=start, steps=points, rule="gauss_legendre", layers=layers, route=route, towers=towers)

    towers = usable_towers(subject, batch, start, layers)
    assert towers is not None
    largest = 0.0
    for route in ("towers", "batched"):
        found = ours(route, 32, 256)
        assert found.route == route, found.route
        for layer, neuron in NEURONS:
            expected = theirs(layer, neuron, 32, 256)
            size = float(found.flow[layers[layer]].abs().max())
            largest = max(largest, float((found.flow[layers[layer]][:, :, neuron].T - expected).abs().max()) / size)
    assert largest < 1e-5, largest
    ours("towers")
    times = {"captum": [], "towers": [], "batched": [], "forward": []}
    for k in range(REPEATS):  # alternating, so that a slow moment hits all alike
        times["towers"].append(seconds(lambda: ours("towers"))[0])
        times["captum"].append(statistics.mean(seconds(lambda at=at: theirs(*at, ROWS, POINTS))[0] for at in NEURONS))
        with torch.no_grad():
            times["forward"].append(seconds(lambda: [model(x) for _ in range(30)])[0] / 30)
        if k < 3:
            times["batched"].append(seconds(lambda: ours("batched"))[0])
    median = {name: statistics.median(values) for name, values in times.items()}
    print({name: round(value, 4) for name, value in median.items()})
    captum = median["captum"] * sum(HIDDEN)
    per = {name: median[name] / median["forward"] / FIELDS / POINTS for name in ("towers", "batched")}
    print(json.dumps({"speedup_vs_captum": round(captum / median["towers"], 1), "speedup_generic_jvp": round(captum / median["batched"], 1),
                      "forwards_per_field_point": round(per["towers"], 3), "forwards_per_field_point_generic": round(per["batched"], 2),
                      "captum_seconds_per_neuron": round(median["captum"], 4), "points": POINTS, "rows": ROWS, "largest_relative_difference": largest}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
