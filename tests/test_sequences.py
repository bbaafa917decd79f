"""Histories, SASRec and HSTU: what they may see, what they learn, and that a stopped training goes on to the bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recspect.errors import DataError, RunError, UsageError
from recspect.models.next_item import NextItemConfig
from recspect.recommending.histories import Histories
from recspect.recommending.popular import Popular
from recspect.recommending.sequential import next_item_metrics, sequential
from recspect.training.next_item import MODELS, FittedNextItem, NextItemTraining, build, next_item_loss, train_next_item

SMALL = {"width": 16, "layers": 2, "heads": 2, "max_length": 8, "dropout": 0.1}


def walks(users: int = 120, items: int = 30, length: int = 12, *, seed: int = 0) -> Histories:
    """Everybody goes round a circle of items by one step, now and then by two: what comes next is nearly certain."""
    generator = np.random.default_rng(seed)
    steps = generator.choice([1, 2], p=[0.9, 0.1], size=(users, length))
    rows = (generator.integers(items, size=users)[:, None] + np.cumsum(steps, axis=1)) % items
    return Histories.from_events(np.repeat(np.arange(users), length), rows.reshape(-1), np.tile(np.arange(length), users), n_users=users, n_items=items)


events = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 3)), max_size=40)


@given(events)
def test_histories_are_each_users_events_sorted_by_time_and_stably(rows):
    users, items, times = ([row[k] for row in rows] for k in range(3))
    found = Histories.from_events(users, items, times, n_users=5, n_items=10)
    for user in range(5):
        own = sorted((row for row in rows if row[0] == user), key=lambda row: row[2])  # Python's sort is stable
        assert found.of(user).tolist() == [row[1] for row in own]
    assert found.lengths.sum() == len(rows)


@given(events, st.integers(1, 5))
def test_windows_are_the_last_events_with_padding_behind(rows, length):
    users, items, times = ([row[k] for row in rows] for k in range(3))
    histories = Histories.from_events(users, items, times, n_users=5, n_items=10)
    shown, when = histories.windows(np.arange(5), length)
    for user in range(5):
        own = histories.of(user)[-length:]
        assert shown[user, :len(own)].tolist() == (own + 1).tolist()
        assert (shown[user, len(own):] == 0).all()
        assert (np.diff(when[user]) >= 0).all()


@given(events, st.integers(1, 3))
def test_leaving_out_the_last_and_naming_it_are_the_same_events(rows, count):
    users, items, times = ([row[k] for row in rows] for k in range(3))
    histories = Histories.from_events(users, items, times, n_users=5, n_items=10)
    rest = histories.without_last(count)
    for user in range(5):
        whole = histories.of(user).tolist()
        assert rest.of(user).tolist() == whole[:max(0, len(whole) - count)]
        assert histories.last(count)[user] == (whole[-count] if len(whole) >= count else -1)


def test_batches_hold_every_eligible_user_once_and_waste_little():
    generator = np.random.default_rng(0)
    lengths = generator.geometric(0.1, size=500)
    histories = Histories.from_events(np.repeat(np.arange(500), lengths), np.zeros(lengths.sum(), dtype=int), np.arange(lengths.sum()), n_users=500, n_items=1)
    batches = list(histories.batches(32, 50, seed=1))
    assert sorted(np.concatenate(batches).tolist()) == np.flatnonzero(lengths >= 2).tolist()
    padded = sum(histories.windows(batch, 50)[0].size for batch in batches)
    real = np.minimum(lengths[lengths >= 2], 50).sum()
    assert padded < 1.4 * real  # at random it is three times as much
    again = list(histories.batches(32, 50, seed=2))
    assert [batch.tolist() for batch in batches] != [batch.tolist() for batch in again]


def test_events_that_are_none_are_refused():
    with pytest.raises(DataError, match="expected codes from 0 to 1"):
        Histories.from_events([0, 2], [0, 0], [0, 1], n_users=2, n_items=1)
    with pytest.raises(DataError, match="times have type float64"):
        Histories.from_events([0], [0], [0.5], n_users=1, n_items=1)
    with pytest.raises(DataError, match="one user, item and time per event"):
        Histories.from_events([0, 1], [0, 0], [0], n_users=2, n_items=1)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_no_position_sees_what_comes_after_it_nor_padding_nor_other_users(name, data):
    torch.manual_seed(0)
    model = build(NextItemConfig(name=name, **SMALL), 20).eval()
    length = data.draw(st.integers(1, 7))
    items = torch.randint(1, 21, (3, length))
    times = torch.arange(length).repeat(3, 1) * 3600
    before = model(items, times)
    later = torch.randint(1, 21, (3, 1))
    longer = torch.cat([items, later], dim=1)
    after = model(longer, torch.cat([times, times[:, -1:] + data.draw(st.integers(0, 10**6))], dim=1))
    torch.testing.assert_close(after[:, :length], before, rtol=0, atol=1e-5)
    padded = model(torch.cat([items, torch.zeros_like(later)], dim=1), torch.cat([times, times[:, -1:]], dim=1))
    torch.testing.assert_close(padded[:, :length], before, rtol=0, atol=1e-5)
    torch.testing.assert_close(model(items[:1], times[:1])[0], before[0], rtol=0, atol=1e-5)


def test_hstu_reads_how_long_ago_something_was_and_sasrec_does_not():
    torch.manual_seed(0)
    items, near = torch.tensor([[3, 5, 7]]), torch.tensor([[0, 10, 20]])
    far = torch.tensor([[0, 10, 2_000_000]])
    for name, differs in (("sasrec", False), ("hstu", True)):
        model = build(NextItemConfig(name=name, **SMALL), 20).eval()
        assert bool((model(items, near)[0, -1] - model(items, far)[0, -1]).abs().max() > 1e-7) is differs


@pytest.mark.parametrize("name", MODELS)
def test_a_walk_round_a_circle_is_learnt(name):
    histories = walks()
    config = NextItemTraining(model=NextItemConfig(name=name, **SMALL), maximum_epochs=25, batch_users=32, learning_rate=5e-3)
    figures = sequential(lambda known: train_next_item(known, config).scores, histories, k=2)
    # The next item is one step on in 9 of 10 and two steps on else; twelve of thirty items were seen and are left out.
    assert figures["hit"].value > 0.9
    assert figures["hit"].n == 120
    assert figures["hit"].low is not None


def test_sampled_wrong_answers_teach_the_same():
    histories = walks()
    config = NextItemTraining(model=NextItemConfig(**SMALL), maximum_epochs=25, batch_users=32, learning_rate=5e-3, sampled=16)
    assert sequential(lambda known: train_next_item(known, config).scores, histories, k=2)["hit"].value > 0.85


def test_the_sampled_loss_tends_to_the_whole_one():
    torch.manual_seed(0)
    model = build(NextItemConfig(**SMALL), 12).eval()
    hidden, answers = torch.randn(50, 16), torch.randint(12, (50,))
    chances = torch.softmax(torch.randn(12), dim=0)
    with torch.no_grad():
        whole = float(next_item_loss(model, hidden, answers, NextItemTraining(), None))
        drawn = float(next_item_loss(model, hidden, answers, NextItemTraining(sampled=200_000), chances))
        scores = model.items.score(hidden).double()
    assert whole == pytest.approx(float((torch.logsumexp(scores, dim=1) - scores[torch.arange(50), answers]).mean()), abs=1e-5)
    assert drawn == pytest.approx(whole, abs=0.01)


@pytest.mark.parametrize("name", MODELS)
def test_a_stopped_training_goes_on_to_the_same_bits(name, tmp_path):
    histories = walks(users=40)
    config = NextItemTraining(model=NextItemConfig(name=name, **SMALL), maximum_epochs=4, batch_users=16)
    whole = train_next_item(histories, config)

    class StoppedError(Exception):
        pass

    def stop(figures):
        if figures["epoch"] == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_next_item(histories, config, folder=tmp_path, progress=stop)
    told = []
    resumed = train_next_item(histories, config, folder=tmp_path, progress=told.append)
    assert [row["epoch"] for row in told] == [3, 4]
    assert resumed.epochs == whole.epochs
    for key, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[key])


def test_a_saved_model_gives_the_same_scores(tmp_path):
    histories = walks(users=40)
    fitted = train_next_item(histories, NextItemTraining(model=NextItemConfig(**SMALL), maximum_epochs=2))
    fitted.save(tmp_path)
    loaded = FittedNextItem.load(tmp_path)
    users = np.arange(5)
    assert np.array_equal(loaded.scores(histories)(users), fitted.scores(histories)(users))
    np.testing.assert_allclose(loaded.states(histories, users) @ loaded.item_vectors().T, fitted.scores(histories)(users), rtol=1e-5, atol=1e-5)
    note = json.loads((tmp_path / "next_item.json").read_text())
    note["training"]["model"]["width"] = 24
    (tmp_path / "next_item.json").write_text(json.dumps(note))
    with pytest.raises(RunError, match="damaged"):
        FittedNextItem.load(tmp_path)


def test_users_without_events_have_no_state_and_do_no_harm():
    histories = Histories.from_events([0, 0, 0, 2, 2, 2], [1, 2, 3, 3, 2, 1], [0, 1, 2, 0, 1, 2], n_users=4, n_items=5)
    fitted = train_next_item(histories, NextItemTraining(model=NextItemConfig(**SMALL), maximum_epochs=1))
    found = fitted.states(histories, [1, 0, 3])
    assert not found[[0, 2]].any()
    assert found[1].any()


def test_wrong_settings_are_explained():
    with pytest.raises(UsageError, match="3 heads cannot share a width of 16"):
        NextItemConfig(width=16, heads=3)
    with pytest.raises(UsageError, match="no sequence model named 'lstm'"):
        build(NextItemConfig(name="lstm"), 3)
    with pytest.raises(UsageError, match="no user has three events"):
        train_next_item(Histories.from_events([0, 0], [0, 1], [0, 1], n_users=1, n_items=2))


def test_next_item_metrics_by_hand():
    found = next_item_metrics(np.array([[4, 2, 7], [1, 2, 3], [9, 8, 0]]), np.array([7, 1, 5]))
    assert found["hit"].tolist() == [1, 1, 0]
    assert found["mrr"].tolist() == pytest.approx([1 / 3, 1, 0])
    assert found["ndcg"].tolist() == pytest.approx([0.5, 1, 0])


def test_the_protocol_leaves_out_what_was_seen_only_when_asked():
    histories = Histories.from_events([0, 0, 0, 0, 1, 1, 1], [0, 1, 0, 2, 3, 3, 0], [0, 1, 2, 3, 0, 1, 2], n_users=2, n_items=5)

    def most_popular(known):
        fitted = Popular().fit(known.users, known.items, n_users=known.n_users, n_items=known.n_items)
        return lambda _: fitted.scores

    assert sequential(most_popular, histories, k=1)["hit"].value == 0.5  # user 1 gets item 0, which user 1 takes next; user 0 has had it
    assert sequential(most_popular, histories, k=2, exclude_seen=False)["hit"].n == 2
