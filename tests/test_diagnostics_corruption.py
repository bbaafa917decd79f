"""A field without a value in a share of the rows."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

from judging import ask, verdicts
from recspect.diagnosis.batch import Batch, Categorical, Ragged
from recspect.diagnosis.diagnostics.features.corruption import Corruption
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.probes.missing import MissingProbe, fields_that_may_be_missing, without_values
from recspect.diagnosis.subject import ScoreSubject, TorchSubject
from recspect.examining.examination import examine
from recspect.worlds import World, logit_of, sigmoid, split_by_time

SCHEMA = World().schema
FIELDS = ("user", "item", "age")


def sides(seed, rows=12_000):
    """(training, held-out) rows."""
    batch = World(rows=rows, users=200, items=100, seed=seed, signal=1.5).exposures()
    return split_by_time(batch.with_columns({"@label": batch["click"], "@cluster": batch["user"]}))


class Network(nn.Module):
    """Embeddings of user and item, whose row 0 stands for a missing value, and a standardised age; `start` is the spread of row 0."""

    def __init__(self, start=0.03):
        super().__init__()
        self.user, self.item = nn.Embedding(201, 8), nn.Embedding(101, 8)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.1)
            with torch.no_grad():
                table.weight[0] *= start / 0.1
        self.head = nn.Sequential(nn.Linear(17, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x):
        return self.head(torch.cat([self.user(x["user"]), self.item(x["item"]), x["age"][:, None]], -1))


def encoder(fill=0.0):
    """Ids from 1 on, 0 where missing; age standardised, `fill` where missing."""
    def encode(batch):
        ids = {}
        for name in ("user", "item"):
            column = batch.categories(name)
            known = np.where(column.codes < 0, -1, np.asarray(column.values)[column.codes].astype(np.int64))
            ids[name] = torch.as_tensor(known + 1)
        age = np.nan_to_num((batch.numbers("age") - 45) / 17, nan=fill)
        return {**ids, "age": torch.as_tensor(age, dtype=torch.float32)}
    return encode


def trained(seed, *, start=0.03, hidden=0.0, fill=0.0, epochs=2):
    """(subject, held-out rows); in training a share of ids is hidden."""
    torch.manual_seed(seed)
    train, held_out = sides(seed)
    model, encode = Network(start), encoder(fill)
    inputs, label = encode(train), torch.as_tensor(train.numbers("click"), dtype=torch.float32)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(epochs):
        for rows in torch.randperm(len(label)).split(128):
            batch = {name: column[rows] for name, column in inputs.items()}
            for name in ("user", "item"):
                batch[name] = torch.where(torch.rand(len(rows)) < hidden, 0, batch[name])
            optimiser.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(batch).squeeze(1), label[rows]).backward()
            optimiser.step()
    return TorchSubject(model, fields=list(FIELDS), encode=encode, forward=lambda m, x: torch.sigmoid(m(x))), held_out


def judged(subject, held_out):
    return ask(Corruption(), held_out, schema=SCHEMA, probes=[MissingProbe(subject, fields_that_may_be_missing(subject, held_out, FIELDS))], fields=FIELDS)


@pytest.mark.parametrize("settings", [{"hidden": 0.1}, {}])
@pytest.mark.parametrize("seed", range(2))
def test_a_model_whose_unknown_rows_are_small_or_trained_stays_useful(seed, settings):
    (finding,) = judged(*trained(seed, **settings))
    assert finding.verdict is Verdict.PASS
    assert finding.estimate.value <= 1.02


@pytest.mark.parametrize("seed", range(2))
def test_unknown_rows_that_start_large_and_are_never_trained_are_found(seed):
    found = verdicts(judged(*trained(seed, start=12.0)))
    assert set(found) <= {"user", "item"}
    assert Verdict.FAIL in found.values()


@pytest.mark.parametrize("seed", range(2))
def test_a_missing_number_that_becomes_another_number_is_found(seed):
    found = verdicts(judged(*trained(seed, fill=-60.0)))
    assert set(found) == {"age"}


def test_expected_figures_are_those_of_rows_that_miss_the_field_at_random():
    rng = np.random.default_rng(0)
    p = sigmoid(rng.normal(-1, 1.5, 4000))
    y = (rng.random(4000) < p).astype(int)
    lost = sigmoid(0.3 * logit_of(p) - 0.5 + rng.normal(0, 0.5, 4000))
    (finding,) = ask(Corruption(), Batch({"@score:missing": p, "@score:missing:age": lost, "@label": y, "@cluster": np.arange(4000) // 8}), schema=SCHEMA, fields=("age",))
    _, auc_10, auc_30, auc_100, entropy_10, entropy_30, entropy_100, area = finding.evidence[1].rows[0]
    constant = log_loss(y, np.full(4000, y.mean()))
    drawn = [np.where(rng.random(4000) < 0.3, lost, p) for _ in range(200)]
    assert entropy_30 == pytest.approx(np.mean([log_loss(y, scores) for scores in drawn]) / constant, abs=2e-3)
    assert auc_30 == pytest.approx(np.mean([roc_auc_score(y, scores) for scores in drawn]), abs=2e-3)
    assert (entropy_100, auc_100) == pytest.approx((log_loss(y, lost) / constant, roc_auc_score(y, lost)), abs=1e-3)
    start = log_loss(y, p) / constant
    assert entropy_10 == pytest.approx(0.9 * start + 0.1 * entropy_100, abs=1e-3)
    assert auc_100 < auc_30 < auc_10
    assert area == pytest.approx((entropy_100 - start) / 2, abs=1e-3)


def test_scores_that_are_no_numbers_without_a_field_fail():
    _, held_out = sides(0)
    subject = ScoreSubject(score=lambda b: np.where(np.isnan(b.numbers("age")), np.nan, b.numbers("truth")), fields=["age"])
    (finding,) = judged(subject, held_out)
    assert (finding.verdict, finding.place.name) == (Verdict.FAIL, "age")
    assert "3,600 rows get no score" in finding.claim


def test_a_field_that_a_model_does_not_take_empty_is_not_asked_about():
    def score(batch):
        if (batch.categories("item").codes < 0).any():
            raise ValueError("no item")
        return batch.numbers("truth")

    _, held_out = sides(0)
    assert fields_that_may_be_missing(ScoreSubject(score=score, fields=list(FIELDS)), held_out, FIELDS) == ("user", "age")


def test_every_kind_of_column_can_lose_its_values():
    batch = Batch({"n": np.arange(3), "x": np.ones(3), "c": Categorical(np.array([0, 1, 0]), np.array(["a", "b"], dtype=object)),
                   "l": Ragged(np.array([1, 2, 3]), np.array([0, 1, 1, 3])), "m": np.ones((3, 2))})
    lost = {name: without_values(batch, name) for name in batch}
    assert lost["m"] is None
    assert np.isnan(lost["x"]).all()
    assert lost["l"].lengths.tolist() == [0, 0, 0]
    for name in ("n", "c"):
        assert lost[name].codes.tolist() == [-1, -1, -1]


def test_nothing_is_said_of_a_model_that_is_no_use_anyway_or_without_scores():
    rng = np.random.default_rng(0)
    batch = Batch({"@score:missing": rng.random(2000), "@score:missing:age": rng.random(2000), "@label": rng.integers(0, 2, 2000), "@cluster": np.arange(2000)})
    for table, words in ((batch, "no better than a constant"), (batch.select(["@label", "@cluster"]), "no scores of rows without a field")):
        (finding,) = ask(Corruption(), table, schema=SCHEMA, fields=("age",))
        assert finding.verdict is Verdict.UNKNOWN
        assert words in finding.claim


def test_an_examination_of_a_model_asks_it():
    subject, held_out = trained(0, fill=-60.0, epochs=1)
    report = examine(subject, held_out.select(["user", "item", "surface", "age", "time", "click", "truth"]), SCHEMA, diagnostics=[Corruption()], path_steps=1)
    assert verdicts(report.findings).get("age") in (Verdict.WARN, Verdict.FAIL)
