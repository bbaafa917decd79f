"""Matrix factorisation and two towers: gradients against closed forms, what the corrections do, what is learnt."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from recspect.diagnosis.batch import Batch
from recspect.errors import DataError, RunError, SchemaError, UsageError
from recspect.features import FeatureTransform
from recspect.models.two_tower import TwoTowerConfig
from recspect.recommending.interactions import Interactions
from recspect.recommending.popular import Popular
from recspect.recommending.protocols import general, random_order
from recspect.schema import Field, Kind, Label, Schema
from recspect.training.pairwise import BPR, draw_unknown
from recspect.training.two_tower import FittedTwoTower, TwoTowerTraining, build, in_batch_loss, train_two_tower


def blocks(users: int = 200, items: int = 60, *, seed: int = 0):
    """Two halves of the users have items of two halves of the catalogue."""
    generator = np.random.default_rng(seed)
    rows = [(user, item) for user in range(users) for item in generator.choice(items // 2, size=12, replace=False) + (user % 2) * (items // 2)]
    return np.array(rows).T


def test_bpr_learns_groups_that_popularity_cannot():
    users, items = blocks()
    order = random_order(len(users), seed=0)
    figures = {name: general(fit, users, items, order=order) for name, fit in {
        "bpr": lambda u, i: BPR(width=8, maximum_epochs=40, learning_rate=0.01).fit(u, i, n_users=200, n_items=60).scores,
        "popular": lambda u, i: Popular().fit(u, i, n_users=200, n_items=60).scores}.items()}
    assert figures["bpr"]["recall"].low > figures["popular"]["recall"].high


def test_bpr_scores_agree_with_its_vectors_and_seen_items_are_left_out():
    users, items = blocks(40)
    fitted = BPR(width=4, maximum_epochs=2, validation_share=0.0).fit(users, items, n_users=40, n_items=60)
    pairs = fitted.score_pairs([3, 5], [7, 50])
    np.testing.assert_allclose(pairs, [fitted.scores([3])[0, 7], fitted.scores([5])[0, 50]], rtol=1e-5)
    lists, _ = fitted.recommend(np.arange(40), 10)
    assert not fitted.interactions.contains(np.repeat(np.arange(40), 10), lists.reshape(-1)).any()
    again = BPR(width=4, maximum_epochs=2, validation_share=0.0).fit(users, items, n_users=40, n_items=60)
    assert np.array_equal(again.item_vectors, fitted.item_vectors)


def test_unknown_items_are_unknown_and_even():
    known = Interactions.from_pairs([0, 0, 1], [0, 1, 2], n_users=2, n_items=5)
    drawn = draw_unknown(known, np.zeros(30_000, dtype=np.int64), np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=5)
    assert counts[:2].tolist() == [0, 0]
    assert np.abs(counts[2:] / 10_000 - 1).max() < 0.05
    full = Interactions.from_pairs([0, 0], [0, 1], n_users=1, n_items=2)
    assert set(draw_unknown(full, np.zeros(10, dtype=np.int64), np.random.default_rng(0))) <= {0, 1}  # gives up instead of looping for ever


def test_bpr_refuses_what_cannot_be_learnt():
    with pytest.raises(DataError, match="no pairs"):
        BPR().fit([], [], n_users=1, n_items=1)
    with pytest.raises(UsageError, match="width is 0"):
        BPR(width=0)


SCHEMA = Schema(user="user", item="item", labels=(Label(name="click"),), fields=(
    Field(name="user", side="user"), Field(name="group", side="user"), Field(name="item", side="item"), Field(name="price", kind=Kind.NUMERIC, side="item")))


def table(rows: int = 6000, *, seed: int = 0) -> Batch:
    """Users of two groups click items of their half; the first item of each half is shown ten times as often."""
    generator = np.random.default_rng(seed)
    user = generator.integers(100, size=rows)
    chances = np.where(np.arange(40) % 20 == 0, 10.0, 1.0)
    item = generator.choice(40, size=rows, p=chances / chances.sum())
    click = (generator.random(rows) < np.where((item >= 20) == (user % 2), 0.5, 0.05)).astype(np.int64)
    return Batch({"user": user, "group": (user % 2).astype(str), "item": item, "price": item / 7.0, "click": click})


def test_two_towers_find_what_each_group_clicks():
    fitted = train_two_tower(table(12_000), SCHEMA, TwoTowerTraining(epochs=8, batch_rows=256))
    assert fitted.losses[-1] < fitted.losses[0]
    requests = fitted.requests(Batch({"user": np.array([0, 1]), "group": np.array(["0", "1"])}))
    items = fitted.items(Batch({"item": np.arange(40), "price": np.arange(40) / 7.0}))
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1, rtol=1e-5)
    best = np.argsort(-(requests @ items.T), axis=1)[:, :10]
    assert (best[0] < 20).mean() > 0.9
    assert (best[1] >= 20).mean() > 0.9


def test_the_correction_keeps_popular_items_from_being_punished():
    """Clicks per view are equal within a half, so an item shown ten times as often deserves the same score, and log-Q gives it more than without."""
    gap = {}
    for corrected in (True, False):
        fitted = train_two_tower(table(12_000), SCHEMA, TwoTowerTraining(epochs=8, batch_rows=256, corrected=corrected, seed=1))
        scores = fitted.requests(Batch({"user": np.arange(0, 100, 2), "group": np.array(["0"] * 50)})) @ fitted.items(
            Batch({"item": np.arange(20), "price": np.arange(20) / 7.0})).T / fitted.config.model.temperature
        gap[corrected] = float((scores[:, 0] - scores[:, 1:].mean(axis=1)).mean())
    # With the correction scores tend to log p(item | user): log 10 = 2.3 above the others. Without it, to log p(item | user) / p(item): 0.
    assert gap[True] == pytest.approx(np.log(10), abs=0.8)
    assert abs(gap[False]) < 0.8


def test_the_loss_by_hand():
    batch = table(6)
    transform = FeatureTransform.fit(SCHEMA, batch)
    torch.manual_seed(0)
    model = build(transform, TwoTowerConfig(hidden=(), width=4)).eval()
    inputs, items = transform.transform(batch).inputs, torch.tensor([0, 1, 0, 2, 3, 4])
    chance = torch.log(torch.tensor([0.4, 0.3, 0.1, 0.1, 0.1]))
    scores = (model.requests(inputs) @ model.items(inputs).T / model.config.temperature).detach().double().numpy()
    expected = 0.0
    for row in range(6):
        others = [k for k in range(6) if k == row or items[k] != items[row]]
        corrected = {k: scores[row, k] - (0 if k == row else float(chance[items[k]]) + np.log(5)) for k in others}
        expected += np.log(sum(np.exp(value) for value in corrected.values())) - corrected[row]
    assert in_batch_loss(model, inputs, items, chance).item() == pytest.approx(expected / 6, rel=1e-5)
    pairs = model(inputs)
    np.testing.assert_allclose(pairs.detach().numpy(), np.diag(scores), rtol=1e-5, atol=1e-6)


def test_towers_are_saved_and_damage_is_told(tmp_path):
    fitted = train_two_tower(table(500), SCHEMA, TwoTowerTraining(epochs=1, batch_rows=128))
    fitted.save(tmp_path)
    loaded = FittedTwoTower.load(tmp_path)
    rows = table(20, seed=3)
    assert np.array_equal(loaded.requests(rows), fitted.requests(rows))
    assert np.array_equal(loaded.items(rows), fitted.items(rows))
    note = json.loads((tmp_path / "two_tower.json").read_text())
    note["training"]["model"]["width"] = 3
    (tmp_path / "two_tower.json").write_text(json.dumps(note))
    with pytest.raises(RunError, match="damaged"):
        FittedTwoTower.load(tmp_path)


def test_a_schema_of_one_side_is_refused():
    one = Schema(user="user", item="item", labels=SCHEMA.labels, fields=(Field(name="user", side="user"),))
    with pytest.raises(SchemaError, match="two towers need fields of the item"):
        train_two_tower(table(100), one)
    without = Schema(user="user", labels=SCHEMA.labels, fields=SCHEMA.fields)
    with pytest.raises(SchemaError, match="names no item column"):
        train_two_tower(table(100), without)
