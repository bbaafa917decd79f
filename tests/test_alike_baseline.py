"""The baseline of values of like frequency: against means counted by hand, for models that add and that multiply, row by row and all at once."""

import numpy as np
import pytest
import torch

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.alike import alike_baseline
from recspect.diagnosis.probes.attribution import integrated_gradients, mean_baseline
from recspect.diagnosis.probes.explainers import alike_explainer, path_explainer
from recspect.diagnosis.subject import TorchSubject

VALUES = 40


class Products(torch.nn.Module):
    """A table per field, one more for both at once, and an MLP over all of them."""

    def __init__(self, *, linear=False):
        super().__init__()
        torch.manual_seed(0)
        self.linear = linear
        self.user, self.item = torch.nn.Embedding(VALUES, 3), torch.nn.Embedding(VALUES, 3)
        self.both = torch.nn.Embedding(2 * VALUES, 2)
        self.net = torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))

    def forward(self, x):
        user, item = self.user(x["user"]), self.item(x["item"])
        fused = self.both(torch.stack([x["user"], x["item"] + VALUES], 1))
        if self.linear:
            return user.sum(1) + item.sum(1) + fused.flatten(1).sum(1)
        return self.net(torch.cat([user, item, fused.flatten(1)], 1)).squeeze(1) + (user * item).sum(1)


def rows_of(count, seed):
    """Users and items whose frequencies fall off like 1/rank, so that several share an octave and the first stand alone."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, VALUES + 1)
    return Batch({name: rng.choice(VALUES, count, p=chance / chance.sum()) for name in ("user", "item")})


@pytest.fixture(scope="module")
def made():
    return rows_of(300, 1), rows_of(700, 2)


def others_as_frequent(value, pool):
    """Pool values that are others and as frequent, each as often as it occurs; the whole pool where there are none."""
    count = np.bincount(pool, minlength=VALUES)
    octave = np.floor(np.log2(np.maximum(count, 1)))
    found = pool[(octave[pool] == octave[value]) & (pool != value)]
    return found if len(found) else pool


def test_each_field_is_at_the_mean_of_its_others(made):
    batch, pool = made
    model = Products()
    subject = TorchSubject(model, fields=("user", "item"))
    found = alike_baseline(subject, batch, pool)
    assert found.per_row == {0, 1, 2}
    for row in range(0, batch.rows, 7):
        user, item = (others_as_frequent(int(batch[name][row]), np.asarray(pool[name])) for name in ("user", "item"))
        expected = [model.user.weight[user].mean(0), model.item.weight[item].mean(0), torch.stack([model.both.weight[user].mean(0), model.both.weight[item + VALUES].mean(0)])]
        for place, value in enumerate(expected):
            torch.testing.assert_close(found.lookups[place][row], value.detach(), atol=1e-5, rtol=1e-4)
    assert any(len(others_as_frequent(value, np.asarray(pool["user"]))) == pool.rows for value in np.unique(batch["user"]))  # some stand alone: they are at the mean of all


def test_contributions_add_up_whatever_rows_are_taken_together(made):
    batch, pool = made
    subject = TorchSubject(Products(), fields=("user", "item"))
    whole = integrated_gradients(subject, batch, baseline=alike_baseline(subject, batch, pool))
    told = sum(value.double() for value in whole.reliance.values())
    assert float((told - (whole.score - whole.baseline).double()).abs().max()) <= float(whole.bound.max())
    few = integrated_gradients(subject, batch, baseline=alike_baseline(subject, batch, pool), chunk_rows=32)
    some = batch.take(np.arange(40, 60))
    part = integrated_gradients(subject, some, baseline=alike_baseline(subject, some, pool))
    for name, value in whole.reliance.items():
        torch.testing.assert_close(few.reliance[name], value, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(part.reliance[name], value[40:60], atol=1e-5, rtol=1e-4)


def test_of_popularity_nothing_is_left_in_a_model_that_knows_nothing_else(made):
    """A table that holds how frequent its value is: from the mean popular items stand out, among items as popular none does."""
    batch, pool = made
    model = Products(linear=True)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        count = np.bincount(pool["item"], minlength=VALUES)
        model.item.weight[:, 0] = torch.from_numpy(np.floor(np.log2(np.maximum(count, 1)))).float()
    subject = TorchSubject(model, fields=("user", "item"))
    place = subject.sites(batch).fields.index("item")
    lonely = np.array([len(others_as_frequent(int(value), np.asarray(pool["item"]))) == pool.rows for value in batch["item"]])
    ours, from_mean = alike_explainer(pool)(subject, batch)[:, place], path_explainer(pool)(subject, batch)[:, place]
    assert np.abs(ours[~lonely]).max() < 1e-5
    assert np.abs(from_mean[~lonely]).max() > 1
    np.testing.assert_allclose(ours[lonely], from_mean[lonely], atol=1e-5)


def test_what_has_no_frequency_is_at_the_mean(made):
    batch, pool = made

    class WithNumber(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.item = torch.nn.Embedding(VALUES, 3)
            self.net = torch.nn.Linear(4, 1)

        def forward(self, x):
            return self.net(torch.cat([self.item(x["item"]), x["age"].unsqueeze(1)], 1)).squeeze(1)

    rng = np.random.default_rng(0)
    batch, pool = (rows.select(["item"]).with_columns({"age": rng.normal(size=rows.rows)}) for rows in (batch, pool))
    subject = TorchSubject(WithNumber(), fields=("item", "age"))
    found = alike_baseline(subject, batch, pool)
    assert found.dense == mean_baseline(subject, pool).dense
    whole = integrated_gradients(subject, batch, baseline=found)
    assert float((sum(whole.reliance.values()) - (whole.score - whole.baseline)).abs().max()) <= float(whole.bound.max())
