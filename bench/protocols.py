"""Our recommenders in RecBole's protocols on MovieLens-100K, beside RecBole's own figures on the same rows.

Run: make bench NAME=protocols. The metric cards in recspect.recommending.protocols say what each number means. The
splits are RecBole's own (seed 2020 is its default); the interval is Student's over the splits, which share most of
their rows, so it says how much the split matters, not what other users would give. Last line: one JSON object with
mean, low and high of each figure.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from recspect.datasets import Dataset, load
from recspect.diagnosis.batch import Batch, concatenate
from recspect.features import encode_label
from recspect.recommending import EASE, ItemKNN, Popular
from recspect.recommending.histories import Histories
from recspect.recommending.protocols import CONTEXT, GENERAL, context, general, recbole_order, split_rows
from recspect.recommending.sequential import SEQUENTIAL, sequential
from recspect.training.pairwise import BPR

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 10: 2.262, 20: 2.093}
"""Quantile 0.975 of Student's t for the mean of so many splits."""

RECBOLE = {"ease_recall_at_10": 0.2805, "ease_ndcg_at_10": 0.3295, "item_knn_recall_at_10": 0.2470, "bpr_recall_at_10": 0.2466, "bpr_ndcg_at_10": 0.2928,
           "deepfm_context_auc": 0.7862, "deepfm_context_log_loss": 0.5642}
"""RecBole 1.2.1 with its defaults, seed 2020. Its Pop counts an item once per batch, so it has no figure here; its documentation gives GRU4Rec
Hit@10 .1103 in the sequential protocol, with what was seen left in."""

PARTS = ("closed", "bpr", "context", "sequential")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, choices=sorted(STUDENT))
    parser.add_argument("--only", default="", help=f"some of {', '.join(PARTS)}, with commas; the closed-form baselines take 10 s, sequences half an hour")
    given = parser.parse_args()
    chosen = [part for part in given.only.split(",") if part] or PARTS
    if set(chosen) - set(PARTS):
        parser.error(f"--only takes some of {', '.join(PARTS)}")
    dataset = load("movielens-100k")
    seeds = range(2020, 2020 + given.seeds)
    figures: dict[str, list[float]] = {}
    if "closed" in chosen or "bpr" in chosen:
        print(f"General protocol\n{GENERAL}\n")
        figures |= general_figures(dataset, seeds, closed="closed" in chosen, bpr="bpr" in chosen)
    if "context" in chosen:
        print(f"\nContext protocol\n{CONTEXT}\n")
        figures |= context_figures(dataset, seeds)
    if "sequential" in chosen:
        print(f"\nSequential protocol\n{SEQUENTIAL}\n")
        figures |= sequential_figures(dataset, seeds)
    result = {"dataset": dataset.name, "seeds": list(seeds)}
    for name, values in figures.items():
        mean, error = float(np.mean(values)), STUDENT[len(values)] * float(np.std(values, ddof=1)) / len(values) ** 0.5
        result |= {name: round(mean, 4), f"{name}_low": round(mean - error, 4), f"{name}_high": round(mean + error, 4),
                   f"{name}_seed_2020": round(values[0], 4)}
        if name in RECBOLE:
            result[f"{name}_recbole_seed_2020"] = RECBOLE[name]
    print(json.dumps(result))


def general_figures(dataset: Dataset, seeds: range, *, closed: bool, bpr: bool) -> dict[str, list[float]]:
    users, items = (np.unique(ids, return_inverse=True)[1] for ids in in_file_order(dataset))
    sizes = {"n_users": int(users.max()) + 1, "n_items": int(items.max()) + 1}
    figures: dict[str, list[float]] = {}
    fits = {"popular": Popular(), "item_knn": ItemKNN(), "ease": EASE()} if closed else {}
    for name, baseline in {**fits, **({"bpr": BPR()} if bpr else {})}.items():
        for seed in seeds:
            start = time.perf_counter()
            found = general(lambda u, i, chosen=baseline: chosen.fit(u, i, **sizes).scores, users, items,
                            order=recbole_order(len(users), seed=seed))
            print(f"{name}, seed {seed}: {found['recall']}; {found['ndcg']}; {time.perf_counter() - start:.1f} s")
            for metric in ("recall", "ndcg"):
                figures.setdefault(f"{name}_{metric}_at_10", []).append(found[metric].value)
    return figures


def context_figures(dataset: Dataset, seeds: range) -> dict[str, list[float]]:
    from recspect.training.config import TrainingConfig
    from recspect.training.loop import train
    from recspect.training.predict import predict

    schema = dataset.schema
    batch = concatenate(list(dataset.source.batches(list(schema.columns))))
    batch = batch.take(file_positions(dataset, batch))
    figures: dict[str, list[float]] = {}
    for seed in seeds:
        start = time.perf_counter()
        split = split_rows(recbole_order(batch.rows, seed=seed))
        parts = tuple(batch.take(rows) for rows in (split.train, split.validation, split.test))
        # The defaults, untouched; the test rows are scored once, by the epoch that was best on the validation rows.
        config = TrainingConfig(seed=seed, observe_every=0, histograms_every=0)
        with tempfile.TemporaryDirectory() as folder:
            run = train(parts, schema, config, Path(folder) / "run")
            scores = predict(run.load_model(), run.transform.transform(parts[2]))
        found = context(encode_label(schema.label, parts[2]), scores, parts[2].numbers("user_id").astype(np.int64))
        print(f"deepfm, seed {seed}: {found['auc']}; {found['log_loss']}; best epoch {run.best_epoch} of "
              f"{len(run.epochs)}; {time.perf_counter() - start:.0f} s")
        for metric in ("auc", "log_loss"):
            figures.setdefault(f"deepfm_context_{metric}", []).append(found[metric].value)
    return figures


def sequential_figures(dataset: Dataset, seeds: range) -> dict[str, list[float]]:
    """Seeds are of the models here: leaving out the last item has no chance in it."""
    from recspect.models.next_item import NextItemConfig
    from recspect.training.next_item import NextItemTraining, train_next_item

    table = np.loadtxt(dataset.location / "ml-100k.inter", skiprows=1, dtype=np.int64)
    users, items = (np.unique(table[:, column], return_inverse=True)[1] for column in (0, 1))
    histories = Histories.from_events(users, items, table[:, 3], n_users=int(users.max()) + 1, n_items=int(items.max()) + 1)

    def popular(known: Histories):
        fitted = Popular().fit(known.users, known.items, n_users=known.n_users, n_items=known.n_items)
        return lambda _: fitted.scores

    def ease(known: Histories):
        fitted = EASE().fit(known.users, known.items, n_users=known.n_users, n_items=known.n_items)
        return lambda _: fitted.scores

    def neural(name: str, seed: int):
        config = NextItemTraining(model=NextItemConfig(name=name, max_length=100), seed=seed)
        return lambda known: train_next_item(known, config).scores

    figures: dict[str, list[float]] = {}
    for name in ("popular", "ease", "sasrec", "hstu"):
        for seed in seeds:
            start = time.process_time()
            found = sequential({"popular": popular, "ease": ease}.get(name) or neural(name, seed), histories)
            print(f"{name}, seed {seed}: {found['hit']}; {found['ndcg']}; {time.process_time() - start:.0f} processor seconds", flush=True)
            for metric in ("hit", "ndcg"):
                figures.setdefault(f"{name}_sequential_{metric}_at_10", []).append(found[metric].value)
    return figures


def in_file_order(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """User and item ids as the file has them: RecBole's split depends on the order of its rows."""
    table = np.loadtxt(dataset.location / "ml-100k.inter", skiprows=1, usecols=(0, 1), dtype=np.int64)
    return table[:, 0], table[:, 1]


def file_positions(dataset: Dataset, batch: Batch) -> np.ndarray:
    """Where each row of the file is in the batch; no user rated a film twice."""
    users, items = in_file_order(dataset)
    wanted, there = users * 10_000 + items, batch.numbers("user_id") * 10_000 + batch.numbers("item_id")
    order = np.argsort(there)
    return order[np.searchsorted(there[order], wanted)]


if __name__ == "__main__":
    main()
