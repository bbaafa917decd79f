"""What ids tell a model of training rows alone: by dealing them out to other rows, on planted scores and on trained networks."""

import numpy as np
import pytest
import torch
from torch import nn

from judging import ask
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.training.id_shuffle import WARN, IdShuffle
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.subject import TorchSubject
from recspect.examining.shuffled_ids import shuffled_ids
from recspect.schema import Schema
from recspect.worlds import World, logit_of, sigmoid, split_by_time
from test_diagnostics_memory import uneven

SCHEMA = World().schema


class Network(nn.Module):
    """Embeddings of user, item and surface under two layers; reads columns by name."""

    def __init__(self, users, items, width=32):
        super().__init__()
        self.tables = nn.ModuleDict({"user": nn.Embedding(users, width), "item": nn.Embedding(items, width), "surface": nn.Embedding(3, width)})
        for table in self.tables.values():
            nn.init.normal_(table.weight, std=0.03)
        self.head = nn.Sequential(nn.Linear(3 * width, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, columns):
        return torch.sigmoid(self.head(torch.cat([table(columns[name]) for name, table in self.tables.items()], -1)).squeeze(1))


def sides_of(seed, **settings):
    """(training, held-out) rows with what the model reads as whole numbers."""
    return [Batch({"user": side["user"], "item": side["item"], "surface": side.categories("surface").codes.astype(np.int64), "click": side["click"], "truth": side["truth"],
                   "@label": side["click"], "@cluster": side["user"]}) for side in uneven(seed, **settings)]


def judged(subject, train, held_out):
    sides = shuffled_ids(subject, SCHEMA, held_out, train)
    target, reference = ({**dict(sample), **probe.observe(sample)} for sample, probe in sides)
    return {finding.place.name: finding for finding in ask(IdShuffle(), target, reference, schema=SCHEMA)}


def test_six_epochs_are_found_and_one_is_not():
    torch.manual_seed(1)
    train, held_out = sides_of(1, users=1500, items=500)
    model, label = Network(1500, 500), torch.as_tensor(train.numbers("click"), dtype=torch.float32)
    columns = {name: torch.as_tensor(train[name]) for name in model.tables}
    optimiser = torch.optim.Adam(model.parameters(), lr=0.002)
    found = {}
    for epoch in range(1, 7):
        for rows in torch.randperm(len(label)).split(128):
            optimiser.zero_grad()
            nn.functional.binary_cross_entropy(model({name: column[rows] for name, column in columns.items()}), label[rows]).backward()
            optimiser.step()
        if epoch in (1, 6):
            found[epoch] = judged(TorchSubject(model, fields=tuple(model.tables)), train, held_out)
    assert found[1]["user"].verdict is found[1]["item"].verdict is Verdict.PASS
    assert found[6]["user"].verdict is Verdict.WARN
    assert found[6]["user"].estimate.low > 2 * WARN
    assert found[6]["user"].remedies[0].code == "stop_after_one_epoch"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("memory", [0.0, 3.0])
def test_what_is_lost_is_what_was_planted(seed, memory):
    """Scores that know the truth, and in training their own label; dealing ids out takes the knowledge of the label with it."""
    rng = np.random.default_rng(seed)
    sides = []
    for batch, known in zip(split_by_time(World(rows=20_000, seed=seed).exposures()), (memory, 0.0), strict=True):
        p, y = batch.numbers("truth"), batch.numbers("click")
        sides.append({"user": batch["user"], "@label": y, "@cluster": batch["user"], "@score:shuffled": sigmoid(logit_of(p) + known * (y - p)),
                      "@score:shuffled:user:0": sigmoid(logit_of(p) + rng.normal(0, 0.3, batch.rows))})
    (finding,) = ask(IdShuffle(), sides[1], sides[0], schema=SCHEMA)
    assert finding.verdict is (Verdict.WARN if memory else Verdict.PASS)
    if not memory:
        assert finding.estimate.low < 0 < finding.estimate.high


def test_held_out_rows_of_ids_that_training_never_saw_are_left_out():
    train, held_out = sides_of(0)
    known = held_out.numbers("user") < 250
    strange = held_out.with_columns({"user": np.where(known, held_out["user"], held_out["user"] + 1000)})
    (sample, _), _ = shuffled_ids(TorchSubject(Network(2000, 200), fields=("user", "item", "surface")), SCHEMA, strange, train)
    assert 0 < sample.rows <= known.sum()
    assert sample.numbers("user").max() < 250


def test_without_ids_or_training_rows_it_is_unknown():
    train, held_out = sides_of(0)
    model = TorchSubject(Network(500, 200), fields=("user", "item", "surface"))
    assert shuffled_ids(model, Schema(labels=SCHEMA.labels), held_out, train) == []
    (finding,) = ask(IdShuffle(), held_out, train, schema=SCHEMA)
    assert finding.verdict is Verdict.UNKNOWN
