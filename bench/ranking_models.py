"""The ranking models on KuaiRand-Pure (split by time) and MovieLens-100K (context protocol): which is better, and by how much.

Run: make bench NAME=ranking_models. KuaiRand: settings are the defaults of `recspect train`; every model reads the same fields, and a history of the user's
last 20 clicked videos where it says so. Differences are of AUC on the same test rows, with intervals from 50 buckets of users. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from protocols import STUDENT, file_positions
from recspect.datasets import load
from recspect.diagnosis.batch import concatenate
from recspect.diagnosis.hashing import bucket
from recspect.features import encode_label
from recspect.models import ModelConfig
from recspect.recommending.protocols import area_under_curve, context, recbole_order, split_rows
from recspect.schema import Field, Schema
from recspect.schema_derived import Derived
from recspect.training.config import TrainingConfig
from recspect.training.loop import train
from recspect.training.predict import predict
from recspect.training.rows import Tables

TOGETHER = {"is_like": ("is_like", "is_click", "long_view"), "long_view": ("long_view", "is_click", "is_like"), "is_follow": ("is_follow", "is_like", "is_click", "long_view")}
"""Label that is judged to the labels that are trained with it."""

HELPING = {"label_weights": "entropy", "other_labels": 0.2}
"""Settings with which other labels help a rare one: each loss by its constant guess, and a fifth of that."""

CLICKS: dict[str, tuple[str, bool]] = {"deepfm": ("deepfm", False), "dcnv2": ("dcnv2", False), "deepfm_history": ("deepfm", True), "din": ("din", True)}
"""Name of the figure to model, and whether it reads a history."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, choices=sorted(STUDENT))
    parser.add_argument("--parts", default="click,context,labels", help="of: click, context, labels")
    parser.add_argument("--models", default="", help="only these of the click part")
    parser.add_argument("--labels", default="is_like,long_view", help="of the labels part: " + ", ".join(TOGETHER))
    given = parser.parse_args()
    result: dict[str, Any] = {"seeds": given.seeds}
    if "click" in given.parts:
        result |= click(given.seeds, [name for name in CLICKS if not given.models or name in given.models.split(",")])
    if "context" in given.parts:
        result |= context_of(given.seeds)
    if "labels" in given.parts:
        for label in given.labels.split(","):
            result |= together(given.seeds, label)
    print(json.dumps(result))


def together(seeds: int, label: str) -> dict[str, Any]:
    """Test AUC of a label learned beside others, and alone by the same network and by DeepFM; differences over the same rows, mean scores of the seeds."""
    dataset = load("kuairand-pure")
    figures: dict[str, Any] = {}
    scores: dict[str, np.ndarray] = {}
    for name, model, labels, weights in (("deepfm_alone", "deepfm", (), {}), ("mmoe_alone", "mmoe", (), {}), ("mmoe_equal", "mmoe", TOGETHER[label], {}),
                                         ("mmoe_helping", "mmoe", TOGETHER[label], HELPING), ("ple_helping", "ple", TOGETHER[label], HELPING)):
        found, values = [], []
        for seed in range(seeds):
            config = TrainingConfig(model=ModelConfig(name=model), labels=labels, seed=seed, observe_every=0, histograms_every=0, **weights)
            truth, users, score = tested(dataset.source, dataset.schema.with_label(label), config)
            found.append(score)
            values.append(area_under_curve(truth, score))
        scores[name] = np.mean(found, axis=0)
        figures[f"kuairand_{label}_auc_{name}"] = round(float(np.mean(values)), 4)
        figures[f"kuairand_{label}_auc_{name}_by_seed"] = [round(value, 4) for value in values]
        for other in ("deepfm_alone", "mmoe_alone"):
            if labels:
                figures[f"kuairand_{label}_auc_{name}_minus_{other}"] = difference(truth, scores[name], scores[other], users)
        print(f"{label}, {name}: {figures}", flush=True)
    return figures


def click(seeds: int, names: list[str]) -> dict[str, Any]:
    """Test AUC of clicks on KuaiRand-Pure, of the epoch that validation chose; differences from DeepFM over the same rows, mean scores of the seeds."""
    dataset = load("kuairand-pure")
    scores: dict[str, np.ndarray] = {}
    figures: dict[str, Any] = {}
    for name in names:
        model, history = CLICKS[name]
        schema = with_history(dataset.schema) if history else dataset.schema
        found, values = [], []
        for seed in range(seeds):
            label, users, score = tested(dataset.source, schema, TrainingConfig(model=ModelConfig(name=model), seed=seed, observe_every=0, histograms_every=0))
            found.append(score)
            values.append(area_under_curve(label, score))
        scores[name] = np.mean(found, axis=0)
        figures[f"kuairand_click_auc_{name}"] = round(float(np.mean(values)), 4)
        figures[f"kuairand_click_auc_{name}_by_seed"] = [round(value, 4) for value in values]
        if name != "deepfm" and "deepfm" in scores:
            figures[f"kuairand_click_auc_{name}_minus_deepfm"] = difference(label, scores[name], scores["deepfm"], users)
        print(f"{name}: {figures}", flush=True)
    return figures


def with_history(schema: Schema) -> Schema:
    """The schema with the user's last 20 clicked videos, strictly before the row's time."""
    last = Derived(name="clicked", kind="last", by=(schema.user,), of=(schema.item,), where="is_click", length=20)
    return replace(schema, derived=(last,), fields=(*schema.fields, Field(name="clicked", kind="sequence", side="user", shares=schema.item, max_length=20)))


def tested(source: Any, schema: Schema, config: TrainingConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label, user and probability of the test rows."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = train(source, schema, config, Path(folder) / "run")
        test = Tables.cut(source, schema, run.config).test
        score = predict(run.load_model(), run.transform.transform(test))
    print(f"{config.model.name}, seed {config.seed}: best epoch {run.best_epoch} of {[round(e['test_auc'], 4) for e in run.epochs]}, {time.perf_counter() - started:.0f} s", flush=True)
    return encode_label(schema.label, test), test.numbers(schema.user).astype(np.int64), score


def difference(label: np.ndarray, one: np.ndarray, other: np.ndarray, users: np.ndarray) -> list[float]:
    """AUC of one less that of the other, and its interval: low, value, high; a jackknife over buckets of users."""
    part = bucket(users, 50)

    def measure(kept: np.ndarray) -> float:
        return area_under_curve(label[kept], one[kept]) - area_under_curve(label[kept], other[kept])

    value = measure(np.ones(len(label), dtype=bool))
    left_out = np.array([measure(part != each) for each in np.unique(part)])
    error = 1.96 * float(np.sqrt((len(left_out) - 1) / len(left_out) * ((left_out - left_out.mean())**2).sum()))
    return [round(value - error, 4), round(value, 4), round(value + error, 4)]


def context_of(seeds: int) -> dict[str, Any]:
    """DCNv2 in the context protocol on MovieLens-100K, RecBole's split of so many seeds."""
    dataset = load("movielens-100k")
    batch = concatenate(list(dataset.source.batches(list(dataset.schema.columns))))
    batch = batch.take(file_positions(dataset, batch))
    values = []
    for seed in range(2020, 2020 + seeds):
        split = split_rows(recbole_order(batch.rows, seed=seed))
        parts = tuple(batch.take(rows) for rows in (split.train, split.validation, split.test))
        with tempfile.TemporaryDirectory() as folder:
            run = train(parts, dataset.schema, TrainingConfig(model=ModelConfig(name="dcnv2"), seed=seed, observe_every=0, histograms_every=0), Path(folder) / "run")
            scores = predict(run.load_model(), run.transform.transform(parts[2]))
        found = context(encode_label(dataset.schema.label, parts[2]), scores, parts[2].numbers("user_id").astype(np.int64))
        print(f"dcnv2, context protocol, seed {seed}: {found['auc']}", flush=True)
        values.append(found["auc"].value)
    mean, error = float(np.mean(values)), STUDENT[seeds] * float(np.std(values, ddof=1)) / seeds**0.5
    return {"movielens_context_auc_dcnv2": round(mean, 4), "movielens_context_auc_dcnv2_low": round(mean - error, 4),
            "movielens_context_auc_dcnv2_high": round(mean + error, 4), "movielens_context_auc_dcnv2_by_seed": [round(value, 4) for value in values]}


if __name__ == "__main__":
    main()
