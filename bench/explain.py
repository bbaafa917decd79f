"""Why each of 100 items scores as it does for each of 1,000 users: 100,000 pairs of a trained DeepFM of 16 fields, against Captum's IntegratedGradients.

Ours: `RecommendationExplainer.contributions`, from ids to a table of contributions with an error bound per pair, at a tolerance of 1%. Captum: 50 points per pair in calls of 1,000 pairs, on vectors that are looked up already and with what comes after the
lookups as its function, so that its time holds neither encoding nor lookups; on 2,000 pairs, per pair. Both begin at the mean pair. Processor seconds of one thread, ours also by the clock. The last line is one JSON object: `seconds_1000x100`,
`clock_1000x100`, `speedup_vs_captum` (per pair, default calls), `speedup_equal_points` (50 points each, ours with encoding), `error` and `error_captum` (mean |contribution - truth| / mean |truth| on 64 pairs; the truth has 1,200 Gauss-Legendre points),
`within_bound`: share of these pairs whose error is within their bound.
"""

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from captum.attr import IntegratedGradients

from _timing import seconds
from recspect.diagnosis.probes.attribution import integrated_gradients
from recspect.explaining.explainer import RecommendationExplainer
from recspect.explaining.pairs import pair_rows, pool_rows
from recspect.models import ModelConfig
from recspect.models.layers import pairwise_products
from recspect.recommending.pipeline import RecommenderSettings, build_recommender
from recspect.recommending.pipeline.sources_plain import PopularSource
from recspect.schema import Field
from recspect.training.config import TrainingConfig
from recspect.training.loop import train
from recspect.worlds import World

USERS, ITEMS, CAPTUM_PAIRS, TRUE_PAIRS = 1000, 100, 2000, 64


def explainer(folder):
    """A DeepFM of 16 fields: user, item, surface, age, and six groups each of users and of items."""
    world = World(users=USERS, items=400, rows=40_000, signal=2.0)
    rows, rng = world.exposures(), np.random.default_rng(0)
    groups = {f"{side}_group{k}": rng.integers(0, 20, count)[np.asarray(rows[side])] for side, count in (("user", USERS), ("item", 400)) for k in range(6)}
    schema = replace(world.schema, fields=(*world.schema.fields, *(Field(name=name, side=name.split("_")[0]) for name in groups)))
    rows = rows.with_columns(groups)
    run = train(rows, schema, TrainingConfig(model=ModelConfig(name="deepfm"), maximum_epochs=2, observe_every=0, histograms_every=0), folder / "run")
    return RecommendationExplainer(build_recommender(rows, run=run, settings=RecommenderSettings(sources=(PopularSource(),))), against="mean")


def from_embeddings(model):
    """The model's logit as a function of looked-up vectors (B, F, D) and first-order weights (B, F, 1), as Captum needs it: what comes after the lookups."""
    def logit(vectors, weights):
        raw = model.bias + weights.sum(dim=(1, 2)) + pairwise_products(vectors) + model.mlp(vectors.flatten(1)).squeeze(1)
        return model.config.output_mean + model.config.output_scale * raw
    return logit


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        explained = explainer(Path(folder))
    known = explained.recommender
    users, items = known.audience.ids.values[:USERS].tolist(), known.items.ids.values[:ITEMS].tolist()
    explained.contributions(users[:2], [items] * 2)  # what is told once per model: fields, memory, baseline
    start = time.perf_counter()
    ours, table = seconds(lambda: explained.contributions(users, [items] * len(users)))
    clock = time.perf_counter() - start
    print(f"ours: {table.rows:,} pairs in {ours:.1f} processor seconds, {clock:.1f} by the clock")

    requests = known.audience.requests(users)
    request, item = np.repeat(np.arange(len(users)), len(items)), np.tile(known.items.ids.codes(items), len(users))
    rows = pair_rows(known, requests, request[:CAPTUM_PAIRS], item[:CAPTUM_PAIRS])
    subject, model = explained.subject, known.ranker.model
    encoded, pool = (subject.encode(some) for some in (rows, pool_rows(known, seed=explained.seed)))
    print(f"{len(encoded)} fields: {', '.join(encoded)}")
    with torch.no_grad():
        inputs = [part(encoded) for part in (model.vectors, model.weights)]
        begin = tuple(part(pool).mean(0, keepdim=True).expand(1000, -1, -1).contiguous() for part in (model.vectors, model.weights))
        assert torch.allclose(from_embeddings(model)(*inputs), model(encoded), atol=1e-5)
    captum = IntegratedGradients(from_embeddings(model))

    def theirs():
        return [captum.attribute(tuple(value[first:first + 1000] for value in inputs), baselines=begin, n_steps=50) for first in range(0, CAPTUM_PAIRS, 1000)]

    peer, parts = seconds(theirs)
    of_captum = torch.cat([vectors.sum(2) + weights.sum(2) for vectors, weights in parts])[:TRUE_PAIRS].detach()
    equal, _ = seconds(lambda: integrated_gradients(subject, rows, baseline=explained.baseline, steps=50))
    few = rows.take(slice(0, TRUE_PAIRS))
    true = integrated_gradients(subject, few, baseline=explained.baseline, steps=1200, rule="gauss_legendre")
    found = integrated_gradients(subject, few, baseline=explained.baseline, tolerance=explained.tolerance)
    off = {name: (found.reliance[name] - true.reliance[name]).abs().double() for name in true.reliance}
    off_captum = sum((of_captum[:, place] - true.reliance[name]).abs().mean() for place, name in enumerate(model.vectors.fields))
    size = float(sum(value.abs().mean() for value in true.reliance.values()))
    print(json.dumps({
        "seconds_1000x100": round(ours, 2), "clock_1000x100": round(clock, 2), "speedup_vs_captum": round(peer / CAPTUM_PAIRS / (ours / table.rows), 1),
        "speedup_equal_points": round(peer / equal, 2), "error": round(float(sum(value.mean() for value in off.values())) / size, 5),
        "error_captum": round(float(off_captum) / size, 5), "within_bound": round(float((sum(off.values()) <= found.bound).double().mean()), 3)}))


if __name__ == "__main__":
    main()
