"""Permutation importance of the 26 fields of a DeepFM, judged by AUC, against Captum's FeaturePermutation and scikit-learn's permutation_importance.

Last line: one JSON object. All permute every field equally often on the same rows of the same trained model; both peers run the model in pieces of 4,096 rows, as
ours does, and judge by scikit-learn's `roc_auc_score`. Ours also gives intervals over users, which theirs do not. `speedup_exact` is the faster peer's time over
ours with all fields permuted, `speedup_screened` over ours with one backward pass for all fields and 5 of them permuted; `speedup_exact_vs_captum`
and so on name the peer. Processor seconds of one thread, alternating, medians. Stops where importances differ by more than the spread of permutations
allows, or where the fields that screening picks are not the peers' first five.
"""

import json
import statistics

import numpy as np
import torch
from captum.attr import FeaturePermutation
from scipy.stats import spearmanr
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.inspection import permutation_importance as sklearn_permutation
from sklearn.metrics import roc_auc_score
from torch import nn

from _deepfm import FIELDS, NAMES, DeepFM, fitted
from _timing import seconds
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.subject import TorchSubject
from recspect.examining.permutation import permutation_importance
from recspect.schema import Field, Label, Schema

IDS, ROWS, REPEATS, ROUNDS, TOP, PIECE = 20_000, 20_000, 3, 4, 5, 4096


class Probability(nn.Module):
    """What is judged: a probability."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return torch.sigmoid(self.network(x))


def trained():
    """On labels that ids decide, each field half as much again as the next but one; few of the many ids occur often, so that some can be learned."""
    torch.manual_seed(0)
    model = DeepFM(IDS)
    taste = torch.randn(IDS, FIELDS) * 1.5 * 0.8 ** torch.arange(FIELDS)

    def draw(rows):
        ids = (IDS * torch.rand(rows, FIELDS) ** 6).long()
        logit = taste[ids, torch.arange(FIELDS)].sum(1)
        return {name: ids[:, k].contiguous() for k, name in enumerate(NAMES)}, torch.bernoulli(torch.sigmoid(logit - 1))

    return Probability(fitted(model, lambda: draw(1024), steps=150, learning_rate=5e-3)).eval(), *draw(ROWS)


class Estimator(ClassifierMixin, BaseEstimator):
    """The model as scikit-learn takes it."""

    def __init__(self, model=None):
        self.model, self.classes_ = model, np.array([0, 1])

    def fit(self, _x, _y):
        return self

    def predict_proba(self, x):
        p = scores(self.model, {name: torch.from_numpy(np.ascontiguousarray(x[:, k])) for k, name in enumerate(NAMES)})
        return np.column_stack([1 - p, p])


@torch.no_grad()
def scores(model, x):
    return np.concatenate([model({name: ids[start:start + PIECE] for name, ids in x.items()}).numpy() for start in range(0, len(x["f0"]), PIECE)])


def main():
    model, x, y = trained()
    label, matrix = y.numpy(), np.column_stack([x[name].numpy() for name in NAMES])
    users = np.random.default_rng(0).integers(0, 2000, ROWS)
    table = Batch({**{name: x[name].numpy() for name in NAMES}, "user": users, "click": label.astype(np.int64)})
    schema = Schema(user="user", labels=[Label(name="click")], fields=[Field(name=name) for name in NAMES])
    subject = TorchSubject(model, fields=NAMES)

    def ours(screen=None):
        found = permutation_importance(subject, table, schema, metric="auc", repeats=REPEATS, rows=ROWS, screen=screen)
        return {one.field: one.importance.value for one in found.permuted}

    def sklearn():
        found = sklearn_permutation(Estimator(model), matrix, label, scoring="roc_auc", n_repeats=REPEATS, random_state=0)
        return dict(zip(NAMES, found.importances_mean, strict=True))

    def captum():
        def judge(*columns):
            return torch.tensor([roc_auc_score(label, scores(model, dict(zip(NAMES, columns, strict=True))))])

        inputs = tuple(x[name] for name in NAMES)
        found = [FeaturePermutation(judge).attribute(inputs) for _ in range(REPEATS)]
        return {name: statistics.mean(float(one[k].reshape(-1)[0]) for one in found) for k, name in enumerate(NAMES)}

    ways = {"ours": ours, "screened": lambda: ours(TOP), "sklearn": sklearn, "captum": captum}
    times = {name: [] for name in ways}
    found = {}
    for round_ in range(ROUNDS):  # alternating, so that a slow moment hits all alike
        for name, way in ways.items():
            spent, found[name] = seconds(way)
            if round_:  # the first round warms up
                times[name].append(spent)
    median = {name: statistics.median(values) for name, values in times.items()}
    print({name: round(value, 3) for name, value in median.items()}, f"AUC {roc_auc_score(label, scores(model, x)):.4f}")
    agreement = {}
    for peer in ("sklearn", "captum"):
        difference = max(abs(found["ours"][name] - found[peer][name]) for name in NAMES)
        agreement[peer] = float(spearmanr([found["ours"][name] for name in NAMES], [found[peer][name] for name in NAMES]).statistic)
        assert difference < 0.005, (peer, difference)
        first = sorted(found[peer], key=found[peer].get)[-TOP:]
        assert set(first) == set(found["screened"]), (first, found["screened"])
    result = {}
    for way, key in (("ours", "exact"), ("screened", "screened")):
        ratio = {peer: round(median[peer] / median[way], 2) for peer in ("sklearn", "captum")}
        result |= {f"speedup_{key}": min(ratio.values()), **{f"speedup_{key}_vs_{peer}": value for peer, value in ratio.items()}}
    print(json.dumps({**result, "rows": ROWS, "fields": FIELDS, "repeats": REPEATS, "spearman_with_peers": round(min(agreement.values()), 4)}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
