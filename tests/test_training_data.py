"""Training on real data reaches what was promised."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from recspect import datasets
from recspect.features import FeatureTransform
from recspect.schema import Label
from recspect.training.config import TrainingConfig
from recspect.training.loop import train
from recspect.training.predict import predict
from recspect.training.rows import Tables

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not os.environ.get("RECSPECT_DATA_HOME"), reason="RECSPECT_DATA_HOME is not set: no real data to train on"),
]


def load(name: str) -> datasets.Dataset:
    if datasets.locate(name) is None:
        pytest.skip(f"{name} is not on this machine")
    return datasets.load(name)


@pytest.mark.slow
def test_kuairand_click_reaches_73_and_falls_after_the_first_epoch(tmp_path):
    data = load("kuairand-pure")
    run = train(data.source, data.schema, TrainingConfig(), tmp_path / "run", reference={"kind": "dataset", "name": data.name})
    assert run.record["split"]["kind"] == "time"
    test = [figures["test_auc"] for figures in run.epochs]
    train_auc = [figures["train_auc"] for figures in run.epochs]
    assert len(test) == 3  # the first is best on validation rows too, and two more show the fall
    assert run.best_epoch == 1
    assert test[0] >= 0.73
    assert test[0] - test[2] > 0.005
    assert train_auc[2] - train_auc[0] > 0.02


def test_people_who_came_later_are_counted_as_unknown():
    data = load("kuairand-pure")
    tables = Tables.cut(data.source, data.schema, TrainingConfig())
    transform = FeatureTransform.fit(data.schema, tables.train)
    assert max(transform.transform(tables.train).unknown_share.values()) == 0
    unknown = transform.transform(tables.test).unknown_share
    new = ~np.isin(tables.test.numbers("user_id"), tables.train.numbers("user_id"))
    assert unknown["user_id"] == pytest.approx(new.mean())
    assert 0.01 < new.mean() < 0.1


def test_ratings_beat_the_mean(tmp_path):
    data = load("movielens-latest-small")
    schema = replace(data.schema, labels=(Label(name="rating", kind="graded"),))
    run = train(data.source, schema, TrainingConfig(split="random", maximum_epochs=2), tmp_path / "run")
    tables = Tables.cut(data.source, schema, run.config)
    rating = tables.test.numbers("rating")
    mean_error = ((rating - tables.train.numbers("rating").mean()) ** 2).mean()
    best = run.epochs[run.best_epoch - 1]
    assert best["test_loss"] < 0.85 * mean_error
    values = predict(run.load_model(), run.transform.transform(tables.test))
    assert ((values - rating) ** 2).mean() == pytest.approx(best["test_loss"], rel=1e-6)
