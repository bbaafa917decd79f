"""What texts, images and vectors bring beside the other fields."""

import numpy as np
import pytest
import torch
from torch import nn

from judging import ask, verdicts
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.features.modality import LEAST, Modality, modality_groups
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.probes.modality import WithoutGroupsProbe
from recspect.diagnosis.probes.permutation import PermutedRows, with_positions
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import UsageError
from recspect.examining.examination import examine
from recspect.schema import Field, Kind, Label, Schema
from recspect.worlds import World, logit_of, sigmoid, split_by_time

IDS = ("user", "item")


def schema(*fields):
    return Schema(fields=(Field(name="user", side="user"), Field(name="item", side="item"), *fields), labels=(Label(name="click"),), user="user", item="item", time="time", time_unit="s",
                  ignored=("truth", "surface", "age"))


def rows(seed, *, worth, per_item=False, count=16_000):
    """(training, held-out) rows with a vector of 8 numbers, of the item or of the row, that adds `worth` logits (a standard deviation), and an image of 4 that adds one."""
    rng = np.random.default_rng(seed)
    batch = World(rows=count, users=200, items=100, seed=seed).exposures()
    vector = rng.normal(size=(100, 8))[batch["item"]] if per_item else rng.normal(size=(count, 8))
    image = rng.normal(size=(count, 4))
    logit = logit_of(batch.numbers("truth")) + worth * vector[:, :4].sum(1) / 2 + image[:, :1].sum(1)
    return split_by_time(batch.with_columns({"vector": vector, "image": image, "click": (rng.random(count) < sigmoid(logit)).astype(np.int64)}))


class Network(nn.Module):
    """Embeddings of user and item beside the vectors, under two layers; row 0 stands for a missing id."""

    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(201, 8), nn.Embedding(101, 8)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.1)
        self.head = nn.Sequential(nn.Linear(28, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x):
        return self.head(torch.cat([self.user(x["user"]), self.item(x["item"]), x["vector"], x["image"]], -1))


def encode(batch):
    out = {name: torch.tensor(batch.matrix(name), dtype=torch.float32) for name in ("vector", "image")}
    for name in IDS:
        column = batch.categories(name)
        out[name] = torch.as_tensor(np.append(np.asarray(column.values).astype(np.int64) + 1, 0)[column.codes])
    return out


def trained(seed, *, epochs=2, **kinds):
    torch.manual_seed(seed)
    train, held_out = rows(seed, **kinds)
    model, x, label = Network(), encode(train), torch.as_tensor(train.numbers("click"), dtype=torch.float32)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(epochs):
        for chosen in torch.randperm(len(label)).split(128):
            optimiser.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model({name: column[chosen] for name, column in x.items()}).squeeze(1), label[chosen]).backward()
            optimiser.step()
    return TorchSubject(model, fields=["user", "item", "vector", "image"], encode=encode, forward=lambda m, x: torch.sigmoid(m(x).squeeze(1))), train, held_out


def judged(seed, **kinds):
    subject, train, held_out = trained(seed, **kinds)
    both = schema(Field(name="vector", kind=Kind.VECTOR), Field(name="image", kind=Kind.IMAGE))
    report = examine(subject, held_out, both, reference=train, diagnostics=[Modality()], path_steps=4)
    return [finding for finding in report.findings if finding.code == Modality.code]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("worth", "expected"), [(0.0, {"vector": Verdict.WARN}), (0.7, {"": Verdict.PASS})])
def test_vectors_that_say_nothing_could_go_and_those_that_do_stay(seed, worth, expected):
    found = judged(seed, worth=worth)
    assert verdicts(found) == expected
    table = {row[0]: row for row in found[0].evidence[1].rows}
    assert set(table) == {"other", "vector", "image"}
    assert table["other"][1] == "user and item"
    assert table["image"][-1] == "no"


class Additive(nn.Module):
    """The probability of a logit that is linear in both inputs."""

    def forward(self, x):
        return (x["vector"].sum(1) / 2 + x["price"] - 2).sigmoid()


def additive(count, *, worth=1.0):
    """(rows of the loss without each modality, rows, the logit's two parts)"""
    rng = np.random.default_rng(0)
    vector, price = rng.normal(1, 1, (count, 3)), rng.normal(1, 1, count)
    label = (rng.random(count) < sigmoid(worth * vector.sum(1) / 2 + price - 2)).astype(np.int64)
    batch = with_positions(Batch({"vector": vector, "price": price, "@label": label}))
    subject = TorchSubject(Additive(), fields=["vector", "price"],
                           encode=lambda b: {"vector": torch.tensor(b.matrix("vector"), dtype=torch.float32), "price": torch.tensor(b.numbers("price"), dtype=torch.float32)})
    groups = {"vector": ("vector",), "other": ("price",)}
    return PermutedRows(subject, batch, fields=tuple(groups), groups=groups, repeats=8), batch, vector.sum(1) / 2, price - 2


@pytest.mark.parametrize("binary", [True, False])
def test_the_loss_without_a_modality_is_that_of_the_mean_over_other_rows(binary):
    """Against the mean over all other rows; the probe takes eight of them and corrects for there being no more."""
    rows, batch, vector, price = additive(2500)
    found = WithoutGroupsProbe(rows, binary=binary).observe(batch)
    y = batch.numbers("@label")

    def loss(p):
        return -np.log(np.where(y == 1, p, 1 - p)) if binary else np.square(p - y)

    for name, others in (("vector", sigmoid(vector[None] + price[:, None])), ("other", sigmoid(vector[:, None] + price[None]))):
        without = loss(others.mean(1))
        off = found[f"@loss_without:{name}"] + loss(sigmoid(vector + price)) - without
        assert abs(off.mean()) < 3 * off.std() / 50
        if not binary:  # what eight rows add to the squared error, an eighth of the variance, is taken off
            few = loss(np.stack([others[np.arange(2500), rows.donors(name, k)] for k in range(8)]).mean(0)) - without
            assert (few - off).mean() == pytest.approx(others.var(1).mean() / 8, rel=0.03)


def test_noise_that_the_model_reads_is_better_left_out():
    rows, batch, _, _ = additive(2500, worth=0.0)
    found = WithoutGroupsProbe(rows, binary=True).observe(batch)
    assert found["@loss_without:vector"].mean() < -0.05
    assert found["@loss_without:other"].mean() > 0.02


def test_rows_come_in_any_batches_and_a_single_donor_is_refused():
    rows, batch, _, _ = additive(300)
    whole = WithoutGroupsProbe(rows, binary=True).observe(batch)["@loss_without:vector"]
    part = WithoutGroupsProbe(rows, binary=True).observe(batch.take(slice(100, 170)))["@loss_without:vector"]
    np.testing.assert_allclose(part, whole[100:170], atol=1e-6)
    rows.repeats = 1
    with pytest.raises(UsageError, match="expected at least 2"):
        WithoutGroupsProbe(rows, binary=True)


def measured(*, text, image=0.05, use=None, noise=0.002, count=8000, seed=0):
    """Rows of 200 users whose loss without each modality, and what fields take off it, have these means."""
    rng = np.random.default_rng(seed)
    means = {"@loss_without:text": text, "@loss_without:image": image, "@loss_without:other": 0.05, "@usefulness:title": text if use is None else use, "@usefulness:cover": image / 2,
             "@usefulness:photo": image / 2, "@usefulness:item": 0.05}
    columns = {name: mean + rng.normal(0, noise, 200)[np.arange(count) % 200] + rng.normal(0, noise, count) for name, mean in means.items()}
    return Batch({**columns, **{f"@attribution:{name}": rng.normal(size=count) for name in FIELDS}, "@cluster": np.arange(count) % 200})


FIELDS = ("title", "cover", "photo", "item")
SEVERAL = Schema(fields=(Field(name="title", kind=Kind.TEXT), Field(name="cover", kind=Kind.IMAGE), Field(name="photo", kind=Kind.IMAGE), Field(name="item")),
                 labels=(Label(name="click"),))


@pytest.mark.parametrize(("settings", "verdict", "could_go"), [
    ({"text": 0.0}, "WARN", "yes"),
    ({"text": 0.04}, "PASS", "no"),
    ({"text": 0.0, "noise": 0.05}, "PASS", "cannot be told"),
    ({"text": -0.01, "use": 0.02}, "WARN", "yes"),
    ({"text": 0.02, "use": -0.02}, "PASS", "no"),
])
def test_a_modality_could_go_that_surely_brings_little_by_itself(settings, verdict, could_go):
    (finding,) = ask(Modality(), measured(**settings), schema=SEVERAL, fields=FIELDS)
    assert finding.verdict == verdict
    assert finding.place.name == ("title" if verdict == "WARN" else "")
    table = {row[0]: row for row in finding.evidence[1].rows}
    assert table["text"][-1] == could_go
    assert table["image"][1] == "cover and photo"


def test_what_a_modality_brings_is_the_sum_over_its_fields():
    batch = measured(text=0.02)
    (finding,) = ask(Modality(), batch, schema=SEVERAL, fields=FIELDS)
    bars = finding.evidence[0]
    found = {(name, group): value for name, group, value in zip(bars.names, bars.group, bars.values, strict=True)}
    assert found["image", "all that it takes off"] == pytest.approx((batch["@usefulness:cover"] + batch["@usefulness:photo"]).mean())
    assert found["image", "by itself"] == pytest.approx(batch["@loss_without:image"].mean())
    assert finding.limit == pytest.approx(LEAST * sum(batch[f"@usefulness:{name}"].mean() for name in FIELDS))


def test_several_modalities_could_go_and_the_other_fields_are_never_said_to():
    batch = measured(text=0.0, image=0.0)
    found = ask(Modality(), batch.with_columns({"@loss_without:other": batch["@loss_without:text"], "@usefulness:title": batch["@usefulness:item"]}), schema=SEVERAL, fields=FIELDS)
    assert verdicts(found) == {"title": Verdict.WARN, "cover and photo": Verdict.WARN}


def test_fields_are_grouped_by_kind():
    assert modality_groups(SEVERAL, ("item", "title", "photo", "unheard", "cover")) == {"other": ("item", "unheard"), "text": ("title",), "image": ("photo", "cover")}
    assert modality_groups(SEVERAL, ("photo", "cover")) == {}


@pytest.mark.parametrize(("table", "fields", "words"), [
    (measured(text=0.1), ("cover", "photo"), "All fields are of one modality"),
    (measured(text=0.1).select(["@cluster"]), FIELDS, "was not measured"),
    (measured(text=0.1, count=60), FIELDS, "only 60 rows"),
    (measured(text=-0.1, image=-0.1), FIELDS, "do not lower the loss"),
])
def test_what_cannot_be_told_is_unknown(table, fields, words):
    (finding,) = ask(Modality(), table, schema=SEVERAL, fields=fields)
    assert finding.verdict is Verdict.UNKNOWN
    assert words in finding.claim
