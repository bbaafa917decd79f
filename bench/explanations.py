"""Which explanation says best what deletion does? Explainers against gradient x input on public data, under two deletions, with intervals over users.

`exchange` puts values of like frequency in the place of a field (what a recommender could meet); `mean` puts the field at the mean row (the question of the baseline `mean`). A DeepFM of
one epoch on the last 60,000 rows, held-out rows. Numbers are means over rows of the area by which the logit falls (deletion) or rises (insertion) more than in the order of gradient x input, and
after the deepest number of fields (`top`). Last line: one JSON object.

    python bench/explanations.py movielens-latest-small --rows 512
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from recspect import datasets
from recspect.diagnosis.batch import Batch, concatenate
from recspect.diagnosis.lookups import undisturbed
from recspect.diagnosis.probes.alike import alike_baseline
from recspect.diagnosis.probes.attribution import (
    Baseline,
    averaged_gradients,
    integrated_gradients,
    mean_baseline,
    zero_baseline,
)
from recspect.diagnosis.probes.explainers import gradient_explainer, random_contributions
from recspect.diagnosis.probes.explanation_quality import curves
from recspect.diagnosis.probes.faithfulness import matrix, measured_alone
from recspect.diagnosis.probes.field_points import FieldPoints
from recspect.diagnosis.probes.swaps import Swaps, additive_scores, like_frequency
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import read
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.moments import Moments
from recspect.examining.runs import subject_of
from recspect.examining.sampling import all_rows
from recspect.examining.tables import sample_of
from recspect.models import ModelConfig
from recspect.training.config import TrainingConfig
from recspect.training.loop import train
from recspect.training.rows import Tables

LAST, DRAWS, DONORS, DEEP = 60_000, 32, 4, 5


def estimate(values, users):
    """Mean with its interval over users."""
    stat = Bucketed(stat=Moments(column="difference"), by="user")
    found = tally(read(Batch({"difference": values, "user": users})), [(ALL, stat)]).get_summary(stat)
    return found.estimate(lambda total: float(total.mean), unit="logits", n=lambda total: total.count)


def alike_baselines(batch, pool, fields, *, draws, seed):
    """Baselines that are drawn values of like frequency, whose mean `alike` takes in one."""
    rng = np.random.default_rng(seed)
    both = concatenate([batch.select(fields), pool.select(fields)])
    return [Baseline("drawn values of like frequency", (), {}, rows=batch.with_columns({name: both[name][like_frequency(both[name], batch.rows, rng)] for name in fields})) for _ in range(draws)]


def to_the_mean(subject, rows, baseline):
    """Scores of rows with their own set of fields put at the mean row."""
    def scores(out):
        sets, which = np.unique(out, axis=0, return_inverse=True)
        found = np.zeros(rows.rows)
        with undisturbed(subject.model, naming=False) as stack:
            for place, gone in enumerate(sets):
                mine = np.flatnonzero(which.ravel() == place)
                for part, chunk in FieldPoints.chunks(subject, stack, rows.take(mine), baseline, rows=1024):
                    found[mine[part]] = chunk.values(torch.from_numpy(1.0 - gone[None].astype(float)))[0].double().numpy()
        return found
    return scores


def explainers(subject, rows, pool, fields):
    """Contributions by name."""
    def path(baseline):
        return matrix(integrated_gradients(subject, rows, baseline=baseline), fields)

    mean = mean_baseline(subject, pool)
    cost, gain = measured_alone(subject, rows, baseline=mean)
    found = {"mean": path(mean), "measured": (cost + gain) / 2, "zero": path(zero_baseline(subject.sites(rows))),
             "alike": path(alike_baseline(subject, rows, pool)),
             "alike_drawn": matrix(averaged_gradients(subject, rows, alike_baselines(rows, pool, fields, draws=DRAWS, seed=1), tolerance=0.05), fields), "gradient_x_input": gradient_explainer()(subject, rows)}
    return {**found, "random": random_contributions(found["mean"], 2)}, mean


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--rows", type=int, default=512)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = datasets.load(asked.dataset)
    everything = all_rows(data.source)
    table = everything.take(slice(max(0, everything.rows - LAST), everything.rows))
    config = TrainingConfig(model=ModelConfig(name="deepfm"), maximum_epochs=1, observe_every=0, histograms_every=0)
    run = train(table, data.schema, config, Path(tempfile.mkdtemp()) / "run")
    tables = Tables.cut(read(table), run.schema, run.config)
    subject, rows, pool = subject_of(run), sample_of(tables.test, asked.rows), sample_of(tables.train, 4096)
    fields = subject.sites(rows).fields
    explained, mean = explainers(subject, rows, pool, fields)
    score, users = additive_scores(subject, rows), np.asarray(rows.categories(run.schema.user).codes)
    ways = {"exchange": Swaps(subject, rows, pool, fields, donors=DONORS, seed=0).scores, "mean": to_the_mean(subject, rows, mean)}
    told = {}
    for way, scores in ways.items():
        measured = {name: curves(scores, contributions, score) for name, contributions in explained.items()}
        rival = measured["gradient_x_input"]
        depths = sorted((key for key in rival if key.startswith("comprehensiveness")), key=lambda key: int(key.partition("@")[2]))
        for name, own in measured.items():
            for measure in ("deletion", "insertion", *depths):
                found = estimate(own[measure] - rival[measure], users)
                told[f"{way}/{name}/{measure}"] = (round(found.value, 4), round(found.low, 4), round(found.high, 4))
                if name != "gradient_x_input":
                    print(f"{way:9} {name:13} {measure:20} {found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})", flush=True)
        print(f"{way:9} fields by size of gradient x input: " + ", ".join(f"{name} {size:.3f}" for name, size in sorted(zip(fields, np.abs(explained["gradient_x_input"]).mean(0), strict=True), key=lambda pair: -pair[1])[:DEEP]))
        print(f"{way:9} fields by size from the mean: " + ", ".join(f"{name} {size:.3f}" for name, size in sorted(zip(fields, np.abs(explained["mean"]).mean(0), strict=True), key=lambda pair: -pair[1])[:DEEP]))
    print(json.dumps({"dataset": asked.dataset, "rows": rows.rows, "users": len(np.unique(users)), **{key: value for key, value in told.items() if "gradient" not in key}}))


if __name__ == "__main__":
    main()
