"""Where widely used tools give a wrong figure on a case whose right one is known, and what ours gives: `make bench NAME=correctness`.

Last line: one JSON object, `tool_case` and `ours_case` for each case. Exits 1 where ours is not the known figure, so that it cannot go wrong in silence.

- precision at 1 where two rows share the highest score and both are relevant: 1 (Evidently)
- diversity within lists of 2, 4 and 6 items that are all one apart: 1 (Evidently)
- personalisation of three lists of 1, 2 and 3 items that share none: 1 (Evidently)
- PSI of two samples of 50,000 rows of one distribution over 10,000 ids: within what chance gives (Evidently, whose threshold is 0.1)
- AUC at a rate of 0.085% with 200 uniform thresholds (torchmetrics), against the exact one

Evidently lies in .venvs/evidently, as its pandas is older than ours; without it its figures are null.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import BinaryAUROC

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stats.categories import CategoryCounts, compare_categories
from recspect.diagnosis.stats.measures import Precision
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.recommending.diversity import intra_list_diversity, personalisation

EVIDENTLY = Path(__file__).resolve().parents[1] / ".venvs" / "evidently"

THEIRS = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import evidently, numpy as np, pandas as pd
from evidently import DataDefinition, Dataset, Recsys, Report
from evidently.metrics import Diversity, Personalization, PrecisionTopK, ValueDrift

def value(rows, metric, numbers=None):
    kind = DataDefinition(ranking=[Recsys(user_id="user", item_id="item", prediction="score", target="label", recommendations_type="score")], numerical_columns=numbers)
    return Report([metric]).run(Dataset.from_pandas(rows, data_definition=kind), None).dict()["metrics"][0]["value"]

tied = pd.DataFrame({"user": ["u"] * 4, "item": list("abcd"), "score": [.9, .9, .2, .1], "label": [1, 1, 0, 0]})
apart = pd.DataFrame(np.eye(12), columns=[f"f{i}" for i in range(12)])
listed = pd.DataFrame({"user": np.repeat(["u", "v"], 6), "item": list("abcdefghijkl"), "score": np.tile([.9, .8, .7, .6, .5, .4], 2), "label": [1, 0] * 6})
unlike = pd.DataFrame({"user": list("abbccc"), "item": range(1, 7), "score": [.9, .9, .8, .9, .8, .7], "label": [1, 0, 1, 0, 0, 1]})
ids = [pd.DataFrame({"id": np.load(path).astype(str)}) for path in sys.argv[1:3]]
kind = DataDefinition(categorical_columns=["id"])
drift = Report([ValueDrift(column="id", method="psi")]).run(*(Dataset.from_pandas(side, data_definition=kind) for side in ids)).dict()["metrics"][0]["value"]
numbers = [*apart, "score", "label"]
print(json.dumps({
    "version": evidently.__version__, "precision_at_1_tied": float(value(tied, PrecisionTopK(k=1))["value"][0]),
    **{f"diversity_{k}": float(value(pd.concat([listed, apart], axis=1), Diversity(k=k, item_features=list(apart)), numbers)) for k in (2, 4, 6)},
    "personalisation_unlike": float(value(unlike, Personalization(k=4))), "psi_same_ids": float(drift)}))
"""


def theirs(folder):
    """Evidently's figures, in a process of its own; none where it is not there."""
    if not (EVIDENTLY / ".ready").is_file():
        return {}
    done = subprocess.run([sys.executable, "-c", THEIRS, str(folder / "a.npy"), str(folder / "b.npy")], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(EVIDENTLY), "DO_NOT_TRACK": "1"})
    if done.returncode:
        sys.exit(f"Evidently could not be asked: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def lists(*of_users):
    lengths = [len(items) for items in of_users]
    return Batch({"user": np.repeat(np.arange(len(of_users)), lengths), "item": np.concatenate(of_users)})


def precision():
    measure = Precision(k=1)
    rows = Batch({"user": np.zeros(4, dtype=int), "@score": np.array([0.9, 0.9, 0.2, 0.1]), "@label": np.array([1.0, 1, 0, 0])})
    return PerUnit(unit="user", measures=(measure,)).summarize(rows).mean(measure)


def rare(rows=2_000_000):
    """Fact M9: scores of a model at a rate of 0.085%."""
    rng = np.random.default_rng(0)
    logit = rng.normal(-7.5, 1, rows)
    score = 1 / (1 + np.exp(-logit))
    return score, (rng.random(rows) < score).astype(np.float64)


def main():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 10_000, 50_000) for _ in range(2))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "a.npy", a)
        np.save(folder / "b.npy", b)
        evidently = theirs(folder)
    counts = CategoryCounts(column="id")
    shares = compare_categories(counts.summarize(Batch({"id": a})), counts.summarize(Batch({"id": b})))
    score, label = rare()
    exact = roc_auc_score(label, score)
    binned = float(BinaryAUROC(thresholds=200)(torch.from_numpy(score), torch.from_numpy(label).long()))
    ours = {
        "precision_at_1_tied": precision(),
        **{f"diversity_{k}": float(intra_list_diversity(lists(np.arange(k)), Batch({"item": np.arange(12)}), 1 - np.eye(12))[0]) for k in (2, 4, 6)},
        "personalisation_unlike": personalisation(lists(np.array([1]), np.array([2, 3]), np.array([4, 5, 6]))),
        "psi_same_ids": shares.psi,
        "auc_rare": ScoreLabel().summarize(Batch({"@score": score, "@label": label})).auc,
    }
    known = {"precision_at_1_tied": 1.0, "diversity_2": 1.0, "diversity_4": 1.0, "diversity_6": 1.0, "personalisation_unlike": 1.0, "auc_rare": exact}
    peers = {**{f"evidently_{case}": evidently.get(case) for case in ours if case != "auc_rare"}, "torchmetrics_auc_rare": binned}
    print(f"Evidently {evidently.get('version', 'is not there: make bench NAME=correctness installs it')}, torchmetrics {metadata.version('torchmetrics')}")
    for case, value in ours.items():
        peer = peers.get(f"evidently_{case}", peers.get(f"torchmetrics_{case}"))
        right = f"within {shares.psi_under_no_drift():.4f}" if case == "psi_same_ids" else f"{known[case]:.5f}"
        print(f"  {case}: right {right}, ours {value:.5f}, theirs {'not asked' if peer is None else f'{peer:.5f}'}")
    wrong = [case for case, value in known.items() if abs(ours[case] - value) > 5e-4] + (["psi_same_ids"] if shares.psi > shares.psi_under_no_drift() else [])
    print(json.dumps({**{f"ours_{case}": round(value, 6) for case, value in ours.items()}, **peers, "auc_rare_exact": exact}))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
