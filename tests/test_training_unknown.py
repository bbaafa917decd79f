"""The row for unknown ids is trained where ids are hidden, and only there; missing values stay missing."""

import numpy as np
import pytest
import torch

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.internals import RowProbe
from recspect.errors import UsageError
from recspect.examining.runs import as_trained, subject_of
from recspect.features.encoded import MISSING, UNKNOWN, Encoded
from recspect.schema import Field, Label, Schema
from recspect.training.config import TrainingConfig
from recspect.training.loop import train
from recspect.training.unknown import hide_ids

SCHEMA = Schema(user="user", fields=[Field(name="user"), Field(name="hashed", hash_buckets=16)], labels=[Label(name="click")])


def rows():
    r = np.random.default_rng(0)
    return Batch({"user": r.integers(0, 30, 900), "hashed": r.integers(0, 1000, 900), "click": r.integers(0, 2, 900)})


def test_a_share_of_ids_is_hidden_and_missing_values_stay():
    ids = torch.arange(40_000).remainder(4).mul(3).reshape(-1, 2)  # 0 is missing
    kept = torch.arange(20_000)
    found = hide_ids(Encoded({"a": ids, "b": kept}, {}, 20_000), ["a"], 0.1, torch.Generator().manual_seed(0))
    assert (found.ids["a"][ids == MISSING] == MISSING).all()
    assert float((found.ids["a"][ids != MISSING] == UNKNOWN).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert found.ids["b"] is kept
    again = hide_ids(Encoded({"a": ids, "b": kept}, {}, 20_000), ["a"], 0.1, torch.Generator().manual_seed(0))
    assert torch.equal(found.ids["a"], again.ids["a"])


def unknown_row(share, folder):
    run = train(rows(), SCHEMA, TrainingConfig(maximum_epochs=1, unknown_share=share), folder)
    assert run.transform.vocabulary_fields == ("user",)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)
        before = run.untrained_model()
    return [model.vectors.table.weight.detach()[UNKNOWN] for model in (before, run.load_model())]


def test_the_unknown_row_is_trained_where_ids_are_hidden(tmp_path):
    before, after = unknown_row(0.0, tmp_path / "off")
    assert torch.equal(before, after)
    before, after = unknown_row(0.05, tmp_path / "on")
    assert not torch.equal(before, after)


def test_an_examination_counts_hidden_ids_as_read_by_training(tmp_path):
    run = train(rows(), SCHEMA, TrainingConfig(maximum_epochs=1, unknown_share=0.05), tmp_path / "run")
    trained = as_trained(subject_of(run), run)
    trained.sites(rows())
    read = RowProbe(trained).observe(rows())["@row:user"]
    assert (read == UNKNOWN).mean() == pytest.approx(0.05, abs=0.03)
    off = train(rows(), SCHEMA, TrainingConfig(maximum_epochs=1), tmp_path / "off")
    assert as_trained(subject_of(off), off) is None


def test_a_share_that_is_none_is_refused():
    with pytest.raises(UsageError, match="unknown_share is 1"):
        TrainingConfig(unknown_share=1.0)
