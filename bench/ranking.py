"""NDCG, recall, MRR and MAP at 10 over 1,000,000 rows: recspect, ranx and torchmetrics from the same arrays.

    python bench/ranking.py [--users 10000] [--candidates 100] [--repeats 5] [--slow-repeats 2]

Prints what it does and ends with one JSON object. The task of the headline figure is the same for all three: arrays of
user, item, score and label in, four means out.

- recspect: `PerUnit.summarize` on a `Batch` of the arrays (it also counts invalid rows and keeps moments).
  `recspect_shuffled` is the same with rows in random order, where lists must be found first.
- ranx: building `Qrels` and `Run` from dictionaries of the arrays (quicker than its `from_df`), then `evaluate`.
  `speedup_vs_ranx_built` is against `evaluate` alone, with both built beforehand: not the same task, but its best case.
- torchmetrics: its four retrieval metrics, one `update` and `compute` each.

Engines alternate within a repeat, so that a busy machine slows all alike; medians of wall and of processor seconds are
given, and the ratios are of processor seconds on one thread. Everything is compiled and warmed up before it is timed.

Values must agree within 1e-5 (an assertion). torchmetrics divides average precision by the relevant rows found among
the first 10, not by all of them; its figure is compared with ours converted to that definition (AP / recall, by user).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stats.lists import order
from recspect.diagnosis.stats.measures import NDCG, AveragePrecision, Recall, ReciprocalRank
from recspect.diagnosis.stats.ranking import PerUnit

K = 10
TOLERANCE = 1e-5


def make_arrays(users: int, candidates: int) -> dict[str, np.ndarray]:
    """Float32 scores in random order, no two equal within a user; 5% relevant, at least one row per user."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(users), candidates)
    score = np.concatenate([rng.permutation(candidates) for _ in range(users)]).astype(np.float32)
    score = ((score + 0.5) / candidates).astype(np.float32)
    label = (rng.random(len(user)) < 0.05 * 2 * score).astype(np.int64)
    label[np.arange(users) * candidates + rng.integers(0, candidates, users)] = 1
    return {"user": user, "item": np.tile(np.arange(candidates), users), "score": score, "label": label}


def of_recspect(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    batch = Batch({"user": arrays["user"], "@score": arrays["score"], "@label": arrays["label"]})
    summary = PerUnit(unit="user", measures=(NDCG(k=K), Recall(k=K), ReciprocalRank(k=K), AveragePrecision(k=K))).summarize(batch)
    return dict(zip(("ndcg", "recall", "mrr", "map"), (values.mean for values in summary.measured), strict=True))


def build_ranx(arrays: dict[str, np.ndarray]) -> tuple[object, object]:
    """The rows of a user lie together, so that slices do; `from_df` groups by pandas and is slower."""
    import numba
    from ranx import Qrels, Run

    numba.set_num_threads(1)
    users, starts = np.unique(arrays["user"], return_index=True)
    items, scores, labels = arrays["item"].astype(str).tolist(), arrays["score"].tolist(), arrays["label"].tolist()
    qrels, run = {}, {}
    for user, start, stop in zip(users.astype(str).tolist(), starts, [*starts[1:], len(items)], strict=True):
        run[user] = dict(zip(items[start:stop], scores[start:stop], strict=True))
        qrels[user] = {item: label for item, label in zip(items[start:stop], labels[start:stop], strict=True) if label}
    return Qrels(qrels), Run(run)


def of_ranx(built: tuple[object, object]) -> dict[str, float]:
    from ranx import evaluate

    names = {"ndcg": f"ndcg@{K}", "recall": f"recall@{K}", "mrr": f"mrr@{K}", "map": f"map@{K}"}
    found = evaluate(*built, list(names.values()), return_mean=True)
    return {ours: float(found[theirs]) for ours, theirs in names.items()}


def of_torchmetrics(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    import torch
    from torchmetrics import retrieval

    torch.set_num_threads(1)
    score, label, user = (torch.from_numpy(arrays[name]) for name in ("score", "label", "user"))
    metrics = {"ndcg": retrieval.RetrievalNormalizedDCG, "recall": retrieval.RetrievalRecall,
               "mrr": retrieval.RetrievalMRR, "map": retrieval.RetrievalMAP}
    found = {}
    for name, metric in metrics.items():
        one = metric(top_k=K)
        one.update(score, label, indexes=user)
        found[name] = float(one.compute())
    return found


def map_over_found(arrays: dict[str, np.ndarray]) -> float:
    """Our average precision divided by the relevant rows found instead of all of them, as torchmetrics does."""
    lists = order(arrays["user"], arrays["score"].astype(float), arrays["label"].astype(float))
    recall = Recall(k=K).values(lists)
    return float(np.divide(AveragePrecision(k=K).values(lists), recall, out=np.zeros(len(recall)), where=recall > 0).mean())


def timed(work, record: dict[str, list[float]]):
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    record["wall"].append(time.perf_counter() - wall)
    record["cpu"].append(time.process_time() - cpu)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5, help="alternations of recspect and ranx on what is built")
    parser.add_argument("--slow-repeats", type=int, default=2, help="of those, how many run the slow ones too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # those of the libraries measured against

    small = make_arrays(50, options.candidates)
    of_recspect(small)
    of_ranx(build_ranx(small))
    of_torchmetrics(small)

    arrays = make_arrays(options.users, options.candidates)
    shuffle = np.random.default_rng(1).permutation(len(arrays["user"]))
    shuffled = {name: column[shuffle] for name, column in arrays.items()}
    names = ("recspect", "recspect_shuffled", "ranx", "ranx_built", "torchmetrics")
    seconds = {name: {"wall": [], "cpu": []} for name in names}
    built = build_ranx(arrays)
    of_ranx(built)
    found: dict[str, dict[str, float]] = {}
    for repeat in range(max(options.repeats, 1)):
        found["recspect"] = timed(lambda: of_recspect(arrays), seconds["recspect"])
        found["recspect_shuffled"] = timed(lambda: of_recspect(shuffled), seconds["recspect_shuffled"])
        found["ranx_built"] = timed(lambda: of_ranx(built), seconds["ranx_built"])
        if repeat < options.slow_repeats:
            found["ranx"] = timed(lambda: of_ranx(build_ranx(arrays)), seconds["ranx"])
            found["torchmetrics"] = timed(lambda: of_torchmetrics(arrays), seconds["torchmetrics"])
        print(f"repeat {repeat + 1}: " + ", ".join(f"{name} {values['wall'][-1]:.3f} s" for name, values in seconds.items()
                                                 if len(values["wall"]) > repeat))

    ours = {**found["recspect"]}
    ours_as_torchmetrics = {**ours, "map": map_over_found(arrays)}
    difference = max([
        *(abs(ours[name] - found[engine][name]) for engine in ("recspect_shuffled", "ranx", "ranx_built") for name in ours),
        *(abs(ours_as_torchmetrics[name] - found["torchmetrics"][name]) for name in ours)])
    assert difference < TOLERANCE, f"the engines disagree by {difference}: {ours} {found}"

    median = {name: {kind: statistics.median(values) for kind, values in kinds.items()} for name, kinds in seconds.items()}
    base = median["recspect"]["cpu"]
    print(json.dumps({
        "speedup_vs_ranx": round(median["ranx"]["cpu"] / base, 1),
        "speedup_vs_ranx_built": round(median["ranx_built"]["cpu"] / base, 2),
        "speedup_vs_torchmetrics": round(median["torchmetrics"]["cpu"] / base, 1),
        "rows": len(arrays["user"]), "users": options.users, "k": K, "measures": ["ndcg", "recall", "mrr", "map"],
        "million_rows_per_cpu_second": round(len(arrays["user"]) / base / 1e6, 1),
        "cpu_seconds": {name: round(kinds["cpu"], 4) for name, kinds in median.items()},
        "wall_seconds": {name: round(kinds["wall"], 4) for name, kinds in median.items()},
        "repeats": {name: len(kinds["cpu"]) for name, kinds in seconds.items()},
        "agree": True, "max_difference": difference, "values": {name: round(value, 6) for name, value in ours.items()},
    }))


if __name__ == "__main__":
    main()
