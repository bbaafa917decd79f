"""Integrated gradients over lookups, against Captum's LayerIntegratedGradients, on trained DeepFM, DCNv2 and DLRM networks with ReLU and SiLU.

Attribution error is mean |contribution - truth| / mean |truth| over rows and fields; the truth is a plain loop of 1,200 midpoints in float64. Times are
processor seconds on one thread, alternating, medians. Last line: one JSON object. Speedups are the least over the three networks, costs the highest:
`speedup_relu_1pct`, `speedup_smooth`: as many of our points as 1% error needs, against Captum's default call (50 points); `speedup_adaptive_*`: our call with
tolerance 0.01, which does not know how many it needs, `speedup_adaptive_*_5pct` with 0.05; `speedup_equal_error`: as many points as reach Captum's own error on ReLU; `speedup_equal_n`: 50
points against 50 points in chunks of as many rows; `cost_in_forwards`: one of 50 points, in bare forward passes of the model (`cost_plain` without averaged kinks). `bound_holds`: the least share of
rows whose error is within the bound of the adaptive call, `bound_holds_unseen` on PNN and AutoInt networks, on which no factor of the bound was set.
"""

import json
import statistics
import sys
import warnings

import numpy as np
import torch
from captum.attr import LayerIntegratedGradients
from torch import nn

from _ig_networks import FIELDS, IDS, trained, truth
from _timing import seconds
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.attribution import integrated_gradients
from recspect.diagnosis.subject import TorchSubject

ROWS, TRUE_ROWS, REPEATS = 1024, 128, 3


def examined(kind, activation):
    """(a trained model, rows as a batch and as ids, our call: settings to contributions and what was found)."""
    model = trained(kind, activation)
    names = [f"f{k}" for k in range(FIELDS)]
    r = np.random.default_rng(0)
    batch = Batch({name: r.integers(0, IDS, ROWS) for name in names})
    subject = TorchSubject(model, fields=names, forward=lambda m, x: m(*(x[name] for name in names)))

    def ours(rows=ROWS, **settings):
        found = integrated_gradients(subject, batch.take(slice(0, rows)), **settings)
        return torch.stack([found.reliance[name] for name in names], 1), found

    return model, tuple(torch.from_numpy(np.asarray(batch[name])) for name in names), ours


def held(kind, activation):
    """Share of rows within the bounds of the adaptive call. With kinks, fewer midpoints would be off by as much as the small bounds of second rules."""
    model, ids, ours = examined(kind, activation)
    rows, points = (64, 6_000) if activation in (nn.ReLU, nn.LeakyReLU) else (TRUE_ROWS, 600)
    values, found = ours(rows, tolerance=0.01)
    off = (values.double() - truth(model, [i[:rows] for i in ids], points)).abs().sum(1)
    return {"bound_holds": float((found.bound >= off).double().mean()), "points": float(found.points.double().mean())}


def compare(kind, activation):
    model, ids, ours = examined(kind, activation)
    start = tuple(torch.full((ROWS,), IDS) for _ in ids)
    captum = LayerIntegratedGradients(model, list(model.tables))
    true = truth(model, [i[:TRUE_ROWS] for i in ids])

    def theirs(**settings):
        return torch.stack([value.sum(-1) for value in captum.attribute(ids, baselines=start, n_steps=50, **settings)], 1).detach().float()

    def error(values):
        return float((values[:TRUE_ROWS].double() - true).abs().mean() / true.abs().mean())

    peer = theirs(internal_batch_size=ROWS)
    same = float((ours(steps=50, rule="gauss_legendre")[0] - peer).abs().max())
    assert same < 1e-4 * max(1.0, float(true.abs().max())), same
    by_points = {n: error(ours(steps=n)[0]) for n in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)}
    enough = next(n for n, e in by_points.items() if e < 0.01)
    equal = next((n for n, e in by_points.items() if e < error(peer)), 50)
    values, found = ours(tolerance=0.01)
    off = (values[:TRUE_ROWS].double() - true).abs().sum(1)
    calls = {"default": theirs, "chunked": lambda: theirs(internal_batch_size=ROWS), "equal_n": lambda: ours(steps=50), "plain": lambda: ours(steps=50, rule="gauss_legendre"),
             "enough": lambda: ours(steps=enough), "equal": lambda: ours(steps=equal), "adaptive": lambda: ours(tolerance=0.01), "loose": lambda: ours(tolerance=0.05),
             "forward": lambda: [model(*ids) for _ in range(50)]}
    times = {name: [] for name in calls}
    for _ in range(REPEATS):  # alternating, so that a slow moment hits all alike
        for name, call in calls.items():
            with torch.set_grad_enabled(name != "forward"):
                times[name].append(seconds(call)[0])
    t = {name: statistics.median(values) for name, values in times.items()}
    return {"points_1pct": enough, "error": by_points[enough], "captum_error": error(peer), "points_equal_error": equal,
            "speedup_1pct": t["default"] / t["enough"], "speedup_adaptive": t["default"] / t["adaptive"], "speedup_loose": t["default"] / t["loose"], "loose_error": error(ours(tolerance=0.05)[0]),
            "speedup_equal_error": t["default"] / t["equal"], "speedup_equal_n": t["chunked"] / t["equal_n"],
            "cost_in_forwards": t["equal_n"] / t["forward"], "cost_plain": t["plain"] / t["forward"], "adaptive_error": error(values),
            "adaptive_points": float(found.points.double().mean()), "converged": float(found.converged.double().mean()),
            "bound_holds": float((found.bound[:TRUE_ROWS] >= off).double().mean()), "difference": same}


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Multiple layers provided")
    results, unseen = {}, {}
    for network in sys.argv[1:] or ("deepfm", "dcnv2", "dlrm"):
        for name, kind in (("relu", nn.ReLU), ("smooth", nn.SiLU)):
            results[network, name] = compare(network, kind)
            print(network, name, {key: float(f"{value:.3g}") for key, value in results[network, name].items()}, flush=True)
    for network, kind in (("pnn", nn.LeakyReLU), ("pnn", nn.GELU), ("autoint", nn.ReLU), ("autoint", nn.SiLU)):
        unseen[network, kind] = held(network, kind)
        print(network, kind.__name__, {key: float(f"{value:.3g}") for key, value in unseen[network, kind].items()}, flush=True)

    def over(key, name=None, *, worst=min):
        return round(worst(found[key] for (_, kind), found in results.items() if name in (None, kind)), 3)

    print(json.dumps({
        "speedup_relu_1pct": over("speedup_1pct", "relu"), "speedup_smooth": over("speedup_1pct", "smooth"),
        "speedup_adaptive_relu": over("speedup_adaptive", "relu"), "speedup_adaptive_smooth": over("speedup_adaptive", "smooth"),
        "speedup_equal_error": over("speedup_equal_error", "relu"), "speedup_equal_n": over("speedup_equal_n"),
        "cost_in_forwards": over("cost_in_forwards", worst=max), "cost_plain": over("cost_plain", worst=max), "bound_holds": over("bound_holds"),
        "bound_holds_unseen": round(min(found["bound_holds"] for found in unseen.values()), 3),
        "speedup_adaptive_relu_5pct": over("speedup_loose", "relu"), "speedup_adaptive_smooth_5pct": over("speedup_loose", "smooth"),
        "error_adaptive": over("adaptive_error", worst=max), "error_adaptive_5pct": over("loose_error", worst=max),
        "points_relu": over("points_1pct", "relu", worst=max), "points_smooth": over("points_1pct", "smooth", worst=max),
        "largest_difference": max(found["difference"] for found in results.values())}))
