"""Training on real data reaches what was promised; the click model of KuaiRand-Pure, its figures and its diagnosis are in `test_judges_on_real_data`."""

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
