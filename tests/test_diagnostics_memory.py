"""What a model knows of its training rows alone: by how rare their ids are, and by what an attacker can tell from scores."""

import numpy as np
import pytest
import torch
from torch import nn

from judging import ask, is_quiet
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.training.membership_inference import MembershipInference
from recspect.diagnosis.diagnostics.training.memorisation import Memorisation
from recspect.diagnosis.finding import Verdict
from recspect.schema import Field, Label, Schema
from recspect.worlds import World, logit_of, sigmoid, split_by_time

SEEDS = range(3)
SCHEMA = World().schema
BOTH = (Memorisation, MembershipInference)


def uneven(seed, rows=14_000, users=500, items=200, **settings):
    """(training, held-out) rows of a world whose users are as unevenly active as its items are popular."""
    batch = World(rows=4 * rows, users=users, items=items, seed=seed, **settings).exposures()
    rng = np.random.default_rng(seed)
    activity = rng.permutation(1 / np.arange(1, users + 1) ** 0.8)[batch["user"]]
    batch = batch.take(np.sort(np.argsort(rng.exponential(size=batch.rows) / activity)[:rows]))  # without replacement, in proportion
    return split_by_time(batch.with_columns({"@label": batch["click"], "@cluster": batch["user"]}))


def frequency(batch, column):
    ids = np.asarray(batch[column])
    return np.bincount(ids)[ids]


def remembered(train, memory):
    """Training rows whose scores know the truth and, by `memory` (of each row), their own label."""
    p, y = train.numbers("truth"), train.numbers("click")
    return train.with_columns({"@score": sigmoid(logit_of(p) + memory * (y - p))})


def honest(batch):
    return batch.with_columns({"@score": batch["truth"]})


def places(findings):
    return {finding.place.name: finding.verdict for finding in findings}


@pytest.mark.parametrize("diagnostic", BOTH)
@pytest.mark.parametrize("seed", SEEDS)
def test_true_probabilities_are_quiet(diagnostic, seed):
    train, held_out = uneven(seed)
    assert is_quiet(ask(diagnostic(), honest(held_out), honest(train), schema=SCHEMA))


@pytest.mark.parametrize("diagnostic", BOTH)
def test_no_verdict_without_training_rows_scores_or_classes(diagnostic):
    train, held_out = map(honest, uneven(0))
    graded = Schema(user="user", item="item", labels=(Label(name="click", kind="graded"),))
    silent = held_out.with_columns({"@label": np.zeros(held_out.rows)})
    for target, reference, schema, words in ((held_out, None, SCHEMA, "no training rows"), (held_out.take(slice(0, 60)), train, SCHEMA, "he held-out rows have only"),
                                             (silent, train, SCHEMA, "no positive rows"), (held_out, train, graded, "is a grade")):
        (finding,) = ask(diagnostic(), target, reference, schema=schema)
        assert finding.verdict is Verdict.UNKNOWN
        assert words in finding.claim


# ---------------------------------------------------------------------- by how rare the id is


def test_the_line_is_the_one_that_was_planted():
    """Four items seen 200 to 1,600 times whose training entropy is 0.4 + 0.1 ln(f / 200), against 1 on held-out rows: slope -0.1."""
    often = np.array([200, 400, 800, 1600])
    item = np.repeat(np.arange(4), often)
    y = np.arange(len(item)) % 2
    right = np.exp(-np.log(2) * (0.4 + 0.1 * np.log(often[item] / 200)))
    train = Batch({"item": item, "@label": y, "@score": np.where(y == 1, right, 1 - right), "@cluster": np.arange(len(item)) // 2})
    again = np.repeat(np.arange(4), 400)
    held_out = Batch({"item": again, "@label": np.arange(1600) % 2, "@score": np.full(1600, 0.5), "@cluster": np.arange(1600) // 2})
    (finding,) = ask(Memorisation(), held_out, train, schema=Schema(item="item", labels=(Label(name="click"),)))
    assert finding.estimate.value == pytest.approx(0.1 * np.log(8), abs=1e-9)
    assert "slope -0.100" in finding.claim
    assert finding.verdict is Verdict.FAIL
    measured, line = finding.evidence[0].lines
    np.testing.assert_allclose(measured.x, np.log(often))
    np.testing.assert_allclose(measured.y, line.y, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_of_rare_users_known_by_heart_are_found_in_users_alone(seed):
    train, held_out = uneven(seed)
    found = ask(Memorisation(), honest(held_out), remembered(train, 6 / np.sqrt(frequency(train, "user"))), schema=SCHEMA)
    assert places(found) == {"user": Verdict.FAIL, "item": Verdict.PASS}
    assert found[0].remedies[0].code == "stop_after_one_epoch"


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_known_alike_whatever_the_id_and_a_harder_time_are_not_its_concern(seed):
    train, held_out = uneven(seed)
    assert is_quiet(ask(Memorisation(), honest(held_out), remembered(train, 0.5), schema=SCHEMA))
    noise = np.random.default_rng(seed).normal(0, 0.7, held_out.rows)
    harder = held_out.with_columns({"@score": sigmoid(logit_of(held_out.numbers("truth")) + noise)})
    assert is_quiet(ask(Memorisation(), harder, honest(train), schema=SCHEMA))


def choosers(seed, *, strangers, rows=12_000):
    """(training, held-out) rows of items that mean nothing: people of strong tastes choose among many items, the others among few.

    Scores know the taste of everyone in training, and of nobody who is new.
    """
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 600, rows) + np.where(strangers & (np.arange(rows) >= 0.75 * rows), 600, 0)
    strong = user % 2 == 0
    taste = np.random.default_rng(99).choice([-2.5, 2.5], 1200)[user] * strong
    item = np.where(strong, rng.integers(20, 300, rows), rng.integers(0, 20, rows))
    click = (rng.random(rows) < sigmoid(taste)).astype(np.int64)
    batch = Batch({"user": user, "item": item, "click": click, "@label": click, "@cluster": user, "@score": sigmoid(np.where(user < 600, taste, 0.0))})
    return batch.take(np.arange(round(0.75 * rows))), batch.take(np.arange(round(0.75 * rows), rows))


@pytest.mark.parametrize("seed", SEEDS)
def test_rare_items_of_people_who_are_strangers_now_are_no_proof_of_memory(seed):
    schema = Schema(user="user", item="item", labels=(Label(name="click"),), fields=(Field(name="user"), Field(name="item")))
    train, held_out = choosers(seed, strangers=True)
    (finding,) = ask(Memorisation(), held_out, train, schema=schema)
    assert (finding.place.name, finding.verdict) == ("item", Verdict.WARN)
    assert finding.estimate.low > 0.10  # of a size that FAILs
    assert "users that training never saw" in finding.claim
    unread = Schema(user="user", item="item", labels=(Label(name="click"),), fields=(Field(name="item"),))
    (finding,) = ask(Memorisation(), held_out, train, schema=unread)
    assert finding.verdict is Verdict.FAIL  # a model that does not read the user cannot know people
    train, held_out = choosers(seed, strangers=False)
    assert places(ask(Memorisation(), held_out, train, schema=schema))["item"] is Verdict.PASS


def test_ids_that_are_equally_frequent_or_on_one_side_only_cannot_tell():
    train, held_out = map(honest, split_by_time(World(rows=20_000, users=20, items=20, popularity=0.0).exposures()))
    train, held_out = (batch.with_columns({"@label": batch["click"], "@cluster": batch["user"]}) for batch in (train, held_out))
    (finding,) = ask(Memorisation(), held_out, train, schema=SCHEMA)
    assert finding.verdict is Verdict.UNKNOWN
    assert "cannot be told apart by how often" in finding.claim
    others = held_out.with_columns({"user": held_out["user"] + 100, "item": held_out["item"] + 100})
    (finding,) = ask(Memorisation(), others, train, schema=SCHEMA)
    assert "No user is on both sides" in finding.claim


# ---------------------------------------------------------------------- what scores give away


def test_the_attack_is_the_area_under_the_curve_over_positives():
    rng = np.random.default_rng(0)
    scores = [rng.choice([0.1, 0.2, 0.4, 0.8], 3000, p=p) for p in ((0.1, 0.2, 0.3, 0.4), (0.3, 0.3, 0.2, 0.2))]
    train, held_out = (Batch({"@score": s, "@label": np.arange(3000) % 3 > 0, "@cluster": np.arange(3000) // 3}) for s in scores)
    (finding,) = ask(MembershipInference(), held_out, train, schema=SCHEMA)
    ours, theirs = (s[np.arange(3000) % 3 > 0] for s in scores)
    pairs = (ours[:, None] > theirs[None]).mean() + (ours[:, None] == theirs[None]).mean() / 2
    negatives = [s[np.arange(3000) % 3 == 0] for s in scores]
    control = (negatives[0][:, None] > negatives[1][None]).mean() + (negatives[0][:, None] == negatives[1][None]).mean() / 2
    assert f"{pairs:.3f} before taking off" in finding.claim
    assert finding.estimate.value == pytest.approx(pairs - (control - 0.5), abs=1e-9)
    top = (ours == 0.8).mean() * 0.001 / (theirs == 0.8).mean()  # the highest score alone, in proportion
    assert f"{100 * top:.2f}% of training rows are caught" in finding.claim


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_that_know_their_own_label_give_it_away(seed):
    train, held_out = uneven(seed)
    (finding,) = ask(MembershipInference(), honest(held_out), remembered(train, 2.0), schema=SCHEMA)
    assert finding.verdict is Verdict.FAIL
    assert finding.estimate.low > 0.6
    assert [line.name for line in finding.evidence[0].lines] == ["loss threshold", "chance"]


@pytest.mark.parametrize(("known", "reads_user", "verdict"), [(0.2, True, Verdict.WARN), (0.7, True, Verdict.FAIL), (0.2, False, Verdict.FAIL)])
def test_people_whom_training_never_saw_are_no_outsiders_to_compare_with(known, reads_user, verdict):
    """Where the model reads the user; a model that does not has no such excuse."""
    train, held_out = uneven(0)
    user = held_out.numbers("user").astype(np.int64)
    strange = user + np.where(np.random.default_rng(0).random(user.max() + 1)[user] < known, 0, 10**6)
    schema = SCHEMA if reads_user else SCHEMA.without_fields(["user"])
    (finding,) = ask(MembershipInference(), honest(held_out).with_columns({"user": strange}), remembered(train, 2.0), schema=schema)
    assert finding.verdict is verdict
    assert ("users that training never saw, so this tells people" in finding.claim) == (verdict is Verdict.WARN)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_livelier_time_of_training_gives_nothing_away(seed):
    """Training rows come from a time with three times the odds, and their scores know it: negatives score higher too."""
    train, held_out = uneven(seed)
    lively = sigmoid(logit_of(train.numbers("truth")) + np.log(3))
    y = np.random.default_rng(seed).random(train.rows) < lively
    (finding,) = ask(MembershipInference(), honest(held_out), train.with_columns({"@score": lively, "@label": y.astype(int)}), schema=SCHEMA)
    assert finding.verdict is Verdict.PASS
    assert "negatives score higher too" in finding.claim


@pytest.mark.parametrize("seed", SEEDS)
def test_a_few_rows_known_for_certain_are_told_though_the_area_is_small(seed):
    train, held_out = uneven(seed, rows=20_000, base_rate=0.3)
    known = np.random.default_rng(seed).random(train.rows) < 0.04
    y = train.numbers("click")
    certain = train.with_columns({"@score": np.where(known, np.where(y == 1, 1 - 1e-6, 1e-6), train["truth"])})
    (finding,) = ask(MembershipInference(), honest(held_out), certain, schema=SCHEMA)
    assert finding.verdict is Verdict.WARN
    assert finding.estimate.unit.startswith("share of training positives caught")


# ---------------------------------------------------------------------- a real model


class Network(nn.Module):
    """Embeddings of user, item and surface under two layers."""

    def __init__(self, users, items, width=32):
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(size, width) for size in (users, items, 3)])
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.03)
        self.head = nn.Sequential(nn.Linear(3 * width, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, ids):
        return self.head(torch.cat([table(ids[:, k]) for k, table in enumerate(self.tables)], -1)).squeeze(1)


@pytest.mark.parametrize("seed", range(2))
def test_six_epochs_are_found_and_one_is_not(seed):
    torch.manual_seed(seed)
    sides = uneven(seed, users=1500, items=500)
    ids = [torch.as_tensor(np.stack([side["user"], side["item"], side.categories("surface").codes], 1)) for side in sides]
    model, label = Network(1500, 500), torch.as_tensor(sides[0].numbers("click"), dtype=torch.float32)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.002)
    found = {}
    for epoch in range(1, 7):
        for rows in torch.randperm(len(label)).split(128):
            optimiser.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(ids[0][rows]), label[rows]).backward()
            optimiser.step()
        if epoch in (1, 6):
            with torch.no_grad():
                train, held_out = (side.with_columns({"@score": torch.sigmoid(model(x)).double().numpy()}) for side, x in zip(sides, ids, strict=True))
            found[epoch] = [finding.verdict for diagnostic in BOTH for finding in ask(diagnostic(), held_out, train, schema=SCHEMA)]
    assert set(found[1]) == {Verdict.PASS}
    assert set(found[6]) == {Verdict.FAIL}
