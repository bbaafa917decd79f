"""Optimisers, splits, figures, settings: the parts of training, each against an independent computation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.source import read
from recspect.errors import DataError, RunError, SchemaError, UsageError
from recspect.models import ModelConfig
from recspect.schema import Field, Label, Schema
from recspect.training.config import TrainingConfig
from recspect.training.figures import best_epoch, stale_epochs
from recspect.training.files import write_json
from recspect.training.metrics import auc, log_loss
from recspect.training.optimisers import RowwiseAdagrad, clip_gradients
from recspect.training.rows import Tables
from recspect.training.split import split_rows

# ---------------------------------------------------------------------- optimisers


def sparse_gradient(rows: list[int], values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, shape, check_invariants=False)


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_rowwise_adagrad_equals_a_dense_reference(l2):
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(20, 4, generator=draw, dtype=torch.float64)
    reference, squares = table.numpy().copy(), np.zeros(20)
    parameter = torch.nn.Parameter(table.clone())
    optimiser = RowwiseAdagrad([parameter], lr=0.3, eps=1e-8, l2=l2)
    for _ in range(5):
        rows = torch.randint(0, 20, (9,), generator=draw).tolist()  # some twice
        values = torch.randn(9, 4, generator=draw, dtype=torch.float64)
        parameter.grad = sparse_gradient(rows, values, table.shape)
        optimiser.step()
        dense = np.zeros((20, 4))
        np.add.at(dense, rows, values.numpy())
        for row in set(rows):
            gradient = dense[row] + l2 * reference[row]
            squares[row] += (gradient**2).mean()
            reference[row] -= 0.3 * gradient / (np.sqrt(squares[row]) + 1e-8)
    np.testing.assert_allclose(parameter.detach().numpy(), reference, rtol=1e-12)
    np.testing.assert_allclose(optimiser.state[parameter]["squares"].numpy(), squares, rtol=1e-12)


def test_rows_that_are_not_touched_stay_bit_for_bit():
    parameter = torch.nn.Parameter(torch.randn(6, 3))
    before = parameter.detach().clone()
    parameter.grad = sparse_gradient([1, 4], torch.ones(2, 3), parameter.shape)
    RowwiseAdagrad([parameter], lr=0.1, l2=1.0).step()
    assert torch.equal(parameter[[0, 2, 3, 5]], before[[0, 2, 3, 5]])
    assert (parameter[[1, 4]] != before[[1, 4]]).all()


def test_a_zero_gradient_moves_nothing():
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    parameter.grad = sparse_gradient([1], torch.zeros(1, 2), parameter.shape)
    RowwiseAdagrad([parameter], lr=0.1).step()
    assert torch.equal(parameter.detach(), torch.ones(3, 2))


def test_width_one_equals_torch_adagrad():
    draw = torch.Generator().manual_seed(1)
    start = torch.randn(8, 1, generator=draw)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    one, other = RowwiseAdagrad([ours], lr=0.1, eps=1e-10), torch.optim.Adagrad([theirs], lr=0.1, eps=1e-10)
    for _ in range(4):
        gradient = torch.randn(8, 1, generator=draw)
        ours.grad = sparse_gradient(list(range(8)), gradient, start.shape)
        theirs.grad = gradient
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs)


def test_clipping_counts_sparse_and_dense_gradients_together():
    table, dense = torch.nn.Parameter(torch.zeros(5, 2)), torch.nn.Parameter(torch.zeros(3))
    table.grad = sparse_gradient([1, 1], torch.tensor([[1.0, 0.0], [2.0, 0.0]]), table.shape)  # one row, norm 3
    dense.grad = torch.tensor([4.0, 0.0, 0.0])
    assert clip_gradients([table, dense], 1.0).item() == pytest.approx(5.0)
    assert table.grad.to_dense()[1, 0].item() == pytest.approx(0.6)
    assert dense.grad[0].item() == pytest.approx(0.8)
    assert clip_gradients([table, dense], 2.0).item() == pytest.approx(1.0)
    assert dense.grad[0].item() == pytest.approx(0.8)


# ---------------------------------------------------------------------- split


def test_a_split_by_time_is_in_order_and_stable():
    time = np.array([5, 1, 3, 3, 2, 9, 8, 7, 6, 4])
    split = split_rows(Batch({"t": time}), Schema(time="t"), test_share=0.2, validation_share=0.25)
    assert time[split.train].tolist() == [1, 2, 3, 3, 4, 5]
    assert split.train[2:4].tolist() == [2, 3]  # equal times keep their order
    assert time[split.validation].tolist() == [6, 7]
    assert time[split.test].tolist() == [8, 9]
    assert split.description == {"kind": "time", "test_share": 0.2, "validation_share": 0.25, "validation_from": 6.0,
                                 "test_from": 8.0, "rows": {"train": 6, "validation": 2, "test": 2}}


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(20, 400), test=st.floats(0.06, 0.5), validation=st.floats(0.06, 0.5), seed=st.integers(0, 5))
def test_every_row_once(rows, test, validation, seed):
    for by in ("time", "random"):
        split = split_rows(Batch({"t": np.arange(rows) % 7}), Schema(time="t"), test_share=test, validation_share=validation,
                           by=by, seed=seed)
        parts = [split.train, split.validation, split.test]
        assert sorted(np.concatenate(parts).tolist()) == list(range(rows))
        assert len(split.train) == pytest.approx(rows * (1 - test) * (1 - validation), abs=2)
        json.dumps(split.description)


def test_a_random_split_follows_its_seed():
    batch = Batch({"a": np.arange(100)})
    first, again, other = (split_rows(batch, Schema(), test_share=0.2, validation_share=0.1, seed=seed) for seed in (1, 1, 2))
    assert first.test.tolist() == again.test.tolist() != other.test.tolist()


@pytest.mark.parametrize("as_batch", [True, False])
def test_the_user_stays_in_the_table_also_when_it_is_no_field(as_batch):
    """The rows of one user are not independent: who examines a run needs to know whose they are."""
    rows = {"student": np.arange(40) // 2, "course": np.arange(40) % 4, "age": np.arange(40.0), "passed": np.arange(40) % 2, "note": np.ones(40)}
    schema = Schema(user="student", item="course", labels=[Label(name="passed")], fields=[Field(name="age", kind="numeric")])
    tables = Tables.cut(Batch(rows) if as_batch else read(rows), schema, TrainingConfig())
    assert set(tables.train) == {"student", "course", "age", "passed"}
    assert sorted([*tables.train["student"], *tables.validation["student"], *tables.test["student"]]) == rows["student"].tolist()


def test_splits_that_cannot_be():
    with pytest.raises(SchemaError, match="role 'time'"):
        split_rows(Batch({"a": np.arange(100)}), Schema(), test_share=0.2, validation_share=0.1, by="time")
    with pytest.raises(DataError, match="2 rows are too few"):
        split_rows(Batch({"a": np.arange(2)}), Schema(), test_share=0.2, validation_share=0.1)
    with pytest.raises(DataError, match="no time in 1 rows"):
        split_rows(Batch({"t": np.array([*range(9), np.nan])}), Schema(time="t"), test_share=0.2, validation_share=0.1)


# ---------------------------------------------------------------------- figures


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=2, max_size=60))
def test_auc_equals_scikit_learn(pairs):
    label, score = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    if label.min() == label.max():
        assert np.isnan(auc(label, score))
    else:
        assert auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)


def test_log_loss_equals_scikit_learn_and_keeps_the_tails():
    draw = np.random.default_rng(0)
    label, logit = (draw.random(200) < 0.3).astype(float), draw.normal(size=200)
    assert log_loss(label, logit) == pytest.approx(sklearn_log_loss(label, 1 / (1 + np.exp(-logit))), rel=1e-12)
    assert log_loss(np.array([1.0]), np.array([-800.0])) == 800.0


def test_the_best_epoch():
    epochs = [{"epoch": i + 1, "validation_auc": value, "validation_loss": loss}
              for i, (value, loss) in enumerate([(0.6, 3.0), (0.7, 2.0), (0.7, 1.0), (0.65, 4.0)])]
    assert best_epoch(epochs, "validation_auc") == 2  # the first of equals
    assert best_epoch(epochs, "validation_loss") == 3
    assert stale_epochs(epochs, "validation_auc") == 2
    assert best_epoch([], "validation_auc") is None
    assert stale_epochs([], "validation_auc") == 0
    without = [{**figures, "validation_auc": None} for figures in epochs]
    assert best_epoch(without, "validation_auc") == 3


# ---------------------------------------------------------------------- settings and files


@pytest.mark.parametrize(("change", "message"), [
    ({"maximum_epochs": 0}, "maximum_epochs is 0"), ({"batch_rows": 0}, "batch_rows is 0"), ({"test_share": 1.0}, "test_share is 1.0"),
    ({"validation_share": 0.0}, "validation_share is 0.0"), ({"learning_rate": float("nan")}, "learning_rate is nan"),
    ({"table_learning_rate": 0.0}, "table_learning_rate is 0.0"), ({"dense_l2": -1.0}, "dense_l2 is -1.0"),
    ({"clip_norm": 0.0}, "clip_norm is 0.0"), ({"split": "user"}, "split is 'user'"), ({"select_by": "f1"}, "select_by is 'f1'"),
    ({"table_optimiser": "adam"}, "table_optimiser is 'adam'"),
    ({"table_optimiser": "sparse_adam", "embedding_l2": 0.1}, "no embedding_l2"),
])
def test_settings_that_make_no_sense(change, message):
    with pytest.raises(UsageError, match=message):
        TrainingConfig(**change)


def test_settings_survive_json():
    config = TrainingConfig(model=ModelConfig(hidden=(7, 5)), clip_norm=1.0, seed=3)
    content = json.loads(json.dumps(config.to_mapping()))
    assert TrainingConfig.from_mapping(content, config.model) == config
    assert replace(config, seed=4) != config
    with pytest.raises(RunError, match="does not know"):
        TrainingConfig.from_mapping({**content, "warp": 9}, config.model)


def test_files_are_whole_or_not_there(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
