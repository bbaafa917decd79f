"""Every ranking model: trains, is looked into, is diagnosed, and goes on after a kill as if nothing had happened."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tomllib
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.finding import Verdict
from recspect.errors import DataError, SchemaError, UsageError
from recspect.examining.doctor import account
from recspect.examining.runs import examine_run, subject_of
from recspect.features import FeatureTransform
from recspect.models import MODELS
from recspect.models.tasks import both as together
from recspect.schema import Field, Label, Schema
from recspect.training.loop import resume, train
from recspect.training.predict import predict, predict_labels
from recspect.training.rows import Tables
from recspect.training.run import Run
from test_training_runs import CONFIG, assert_same_run, made_up
from test_training_runs import SCHEMA as WITHOUT_HISTORY
from training_kills import killed_training

SCHEMA = replace(WITHOUT_HISTORY, labels=(Label(name="click"), Label(name="buy", after="click")), fields=(*WITHOUT_HISTORY.fields, Field(name="history", kind="sequence", side="user", shares="item")))


def table() -> Batch:
    """`made_up` with up to three items that each row's user had earlier."""
    batch = made_up()
    items, users = batch.categories("item").decode(), batch.numbers("user").astype(int)
    had: dict[int, list[str]] = {}
    histories = []
    for user, item in zip(users, items, strict=True):
        histories.append(list(had.get(user, [])))
        had[user] = [*had.get(user, []), item][-3:]
    bought = (batch.numbers("click") == 1) & (np.random.default_rng(9).random(batch.rows) < 1 / (1 + np.exp(2 * batch.numbers("price") + 1)))
    return Batch({**{name: batch[name] for name in batch}, "buy": bought.astype(int), "history": Batch.from_arrow(pa.table({"history": histories}))["history"]})


def settings(name: str):
    """Models of several labels learn two: the click, and a purchase that never happens without it."""
    return replace(CONFIG, model=replace(CONFIG.model, name=name), labels=("click", "buy") if MODELS[name].several else ())


@pytest.fixture(scope="module", params=MODELS)
def run(request, tmp_path_factory) -> Run:
    return train(table(), SCHEMA, settings(request.param), tmp_path_factory.mktemp("runs") / request.param)


def test_it_learns_and_is_read_back(run):
    assert run.epochs[run.best_epoch - 1]["test_auc"] > 0.75  # the true probabilities reach about .86
    assert Run.open(run.folder).config == run.config


def test_its_lookups_are_all_seen_and_contributions_add_up(run):
    subject = subject_of(run)
    said = account(subject, table().take(slice(0, 256)), steps=64)  # raises where contributions would be silently wrong
    assert set(subject.sites().fields) == set(SCHEMA.field_names)
    assert not subject.sites().unread
    assert subject.sites().has_logit
    assert "read directly" not in said


def test_two_tables_per_field_are_seen_and_learn(tmp_path):
    run = train(table(), SCHEMA, replace(CONFIG, model=replace(CONFIG.model, name="din", rows_per_table=30)), tmp_path / "run")
    subject = subject_of(run)
    account(subject, table().take(slice(0, 256)), steps=64)
    assert [site.table for site in subject.sites().lookups] == [
        "vectors.table.weight", "vectors.quotient_table.weight", "vectors.table.weight", "vectors.table.weight", "vectors.quotient_table.weight"]
    assert [[part.field for part in site.parts] for site in subject.sites().lookups] == [
        ["hour", "user", "item"], ["user", "item"], ["tags"], ["history"], ["history"]]
    assert run.epochs[run.best_epoch - 1]["test_auc"] > 0.75


@pytest.mark.slow
def test_it_is_diagnosed(run):
    report = examine_run(run.folder, data=table(), sample_rows=1000)
    judged = {finding.code for finding in report.findings if finding.verdict is not Verdict.UNKNOWN}
    assert {"predictions.ranking_quality", "predictions.calibration", "features.unused", "training.loss_anomaly"} <= judged
    assert ("training.dead_units" in judged) == (run.config.model.name not in ("linear", "fm"))


@pytest.mark.slow
def test_killed_it_goes_on_bit_for_bit(run, tmp_path):
    folder = killed_training("import test_training_models as here; here.train(here.table(), here.SCHEMA, here.settings(arguments[0]), folder, progress=tell)", tmp_path / "killed", run.config.model.name)
    assert Run.open(folder).record["epochs_done"] == 1
    assert_same_run(run, resume(folder, table()))


@pytest.mark.parametrize(("name", "losses"), [
    ("deepfm", [0.6335288829970778, 0.5093622056015751, 0.47870592746818275]),
    ("mlp", [0.6817068624914738, 0.6542336135579828, 0.5779784102188913]),
])
def test_models_of_before_learn_as_they_did(name, losses, tmp_path):
    """Losses recorded before there were other models: the same weights drawn, the same rows, the same steps (equal to the bit where they were recorded)."""
    found = train(made_up(), WITHOUT_HISTORY, settings(name), tmp_path / "run")
    assert [figures["train_loss"] for figures in found.epochs] == pytest.approx(losses, rel=1e-6)
    assert found.record["data_fingerprint"] == "b4db1a202591bdbe54de0eee529497f4"


# ---------------------------------------------------------------------- a history and the field whose ids it reads


def test_a_history_has_the_ids_of_its_items_and_is_saved_without_them(tmp_path):
    transform = FeatureTransform.fit(SCHEMA, table())
    transform.save(tmp_path)
    for fitted in (transform, FeatureTransform.load(tmp_path)):
        known = fitted.transform(table()).inputs
        item, history = known["item"].tolist(), known["history"]
        users = table().numbers("user").astype(int).tolist()
        last = {user: position for position, user in enumerate(users[:2000])}
        for user, position in last.items():
            later = users.index(user, 2000) if user in users[2000:] else None
            if later is not None:
                entries = history[later][history[later] > 0]
                assert entries[-1] == item[position]
        assert {size.name: size.shares for size in fitted.sizes}["history"] == "item"
    fields = {entry["name"]: entry["settings"] for entry in json.loads((tmp_path / "features.json").read_text())["fields"]}
    assert fields["history"] == {"width": 3}


# ---------------------------------------------------------------------- several labels


@pytest.fixture(scope="module")
def both_labels(tmp_path_factory) -> Run:
    return train(table(), SCHEMA, settings("mmoe"), tmp_path_factory.mktemp("runs") / "run")


def test_each_label_has_its_figures_with_the_rows_behind_them(both_labels):
    for figures in both_labels.epochs:
        assert set(figures["labels"]) == {"click", "buy"}
        for key in ("train_auc", "validation_auc", "validation_loss", "test_auc", "test_loss"):
            assert figures["labels"]["click"][key] == figures[key]  # the run is judged by the first
        assert figures["labels"]["buy"]["test_rows"] == both_labels.record["split"]["rows"]["test"]
    buy = both_labels.epochs[-1]["labels"]["buy"]
    test = Tables.cut(table(), both_labels.schema, both_labels.config).test
    assert buy["test_positives"] == test.numbers("buy").sum()
    chances = predict_labels(both_labels.load_model("last"), both_labels.transform.transform(test))
    assert roc_auc_score(test.numbers("buy"), chances["buy"]) == pytest.approx(buy["test_auc"], abs=1e-9)
    assert log_loss(test.numbers("buy"), chances["buy"]) == pytest.approx(buy["test_loss"], rel=1e-6)
    assert buy["test_auc"] > 0.75
    np.testing.assert_allclose(predict(both_labels.load_model("last"), both_labels.transform.transform(test)), chances["click"], rtol=1e-6)


def test_what_happens_only_after_something_else_is_never_likelier(both_labels):
    chances = predict_labels(both_labels.load_model(), both_labels.transform.transform(table()))
    assert (chances["buy"] <= chances["click"] * (1 + 1e-6)).all()
    assert chances["buy"].mean() == pytest.approx(table().numbers("buy").mean(), rel=0.2)  # of all rows, not of the clicked ones


def test_the_logit_of_both_is_that_of_the_product_of_chances():
    a, b = torch.linspace(-30, 30, 25, dtype=torch.float64), torch.linspace(-30, 30, 25, dtype=torch.float64)[:, None]
    product = torch.sigmoid(a) * torch.sigmoid(b)
    torch.testing.assert_close(torch.sigmoid(together(a.expand(25, 25), b.expand(25, 25))), product, rtol=1e-9, atol=0)
    large = together(torch.tensor([200.0, 200.0, -200.0]), torch.tensor([200.0, -200.0, -200.0])).requires_grad_()
    torch.testing.assert_close(large.detach(), torch.tensor([200.0 - math.log(2), -200.0, -400.0]))


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.several])
def test_an_order_of_labels_a_graded_one_and_one_alone(name, tmp_path):
    schema = replace(SCHEMA, labels=(*SCHEMA.labels, Label(name="rating", kind="graded")))
    run = train(table(), schema, replace(settings(name), labels=("rating", "buy", "click"), maximum_epochs=2), tmp_path / "run")
    assert run.record["label"] == "rating"
    last = run.epochs[-1]["labels"]
    assert list(last) == ["rating", "buy", "click"]
    assert last["rating"]["test_rmse"] < 0.9 * table().numbers("rating").std()
    assert last["click"]["test_auc"] > 0.7
    alone = train(table(), SCHEMA, replace(settings(name), labels=()), tmp_path / "alone")
    assert "labels" not in alone.epochs[0]
    assert alone.epochs[alone.best_epoch - 1]["test_auc"] > 0.75


def test_what_cannot_be_trained_together_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="'deepfm' predicts one label"):
        train(table(), SCHEMA, replace(settings("deepfm"), labels=("click", "buy")), tmp_path / "run")
    with pytest.raises(SchemaError, match="no label 'like'"):
        train(table(), SCHEMA, replace(settings("mmoe"), labels=("click", "like")), tmp_path / "run")
    with pytest.raises(DataError, match="happened without 'click'"):
        train(table().with_columns({"buy": 1 - table().numbers("click")}), SCHEMA, settings("mmoe"), tmp_path / "run")
    with pytest.raises(UsageError, match="expected each once"):
        replace(settings("mmoe"), labels=("click", "click"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_trains_several_labels(tmp_path):
    rows = table()
    names = ("user", "price", "hour", "time", "click", "buy", "rating")
    pl.DataFrame({**{name: rows[name] for name in names}, "item": rows.categories("item").decode().tolist(),
                      "tags": rows.categories("tags").decode().tolist()}).write_parquet(tmp_path / "t.parquet")
    (tmp_path / "s.toml").write_text(replace(SCHEMA.without_fields(["history"]), time_unit="row").to_toml())
    done = subprocess.run([sys.executable, "-m", "recspect.cli", "train", "t.parquet", "--schema", "s.toml", "--model", "ple", "--label", "buy,click", "--epochs", "1",
                           "--run-dir", "run"], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert "  click:" in done.stderr
    assert list(Run.open(tmp_path / "run").epochs[0]["labels"]) == ["buy", "click"]


def test_a_schema_says_what_a_field_shares_and_what_a_label_comes_after():
    schema = replace(SCHEMA, labels=(Label(name="click"), Label(name="buy", after="click")))
    assert Schema.from_mapping(tomllib.loads(schema.to_toml())) == schema
    assert schema.without_fields(["item"]).field("history").shares is None
    for change, message in (
        ({"fields": (Field(name="history", kind="sequence", shares="item"),)}, "no other field"),
        ({"fields": (Field(name="a", shares="b"), Field(name="b", shares="a"))}, "with ids of its own"),
        ({"fields": (Field(name="a", kind="numeric"), Field(name="b", shares="a"))}, "with ids of its own"),
        ({"labels": (Label(name="buy", after="click"),)}, "no binary label"),
        ({"labels": (Label(name="a", after="b"), Label(name="b", after="a"))}, "after itself"),
    ):
        with pytest.raises(SchemaError, match=message):
            replace(SCHEMA, **change)
    with pytest.raises(SchemaError, match="only categorical"):
        Field(name="age", kind="numeric", shares="item")
    with pytest.raises(SchemaError, match="settings for ids of its own"):
        Field(name="history", kind="sequence", shares="item", hash_buckets=10)
    with pytest.raises(SchemaError, match="graded"):
        Label(name="stars", kind="graded", after="click")


def test_a_rare_label_weighs_as_much_as_a_frequent_one():
    """The sum of losses at the start: each label's constant guess costs as much as the first one's."""
    from recspect.features.labels import encode_label
    from recspect.models import ModelConfig
    from recspect.training.config import TrainingConfig
    from recspect.training.loop import _with_output
    from recspect.training.supply import Supply

    draw = np.random.default_rng(0)
    rows = {"user": draw.integers(0, 9, 4000), "often": draw.random(4000) < .4, "rare": draw.random(4000) < .01, "stars": draw.integers(1, 6, 4000)}
    schema = Schema(labels=[Label(name="often"), Label(name="rare"), Label(name="stars", kind="graded")], fields=[Field(name="user")])
    config = TrainingConfig(model=ModelConfig(name="mmoe"), labels=("often", "rare", "stars"), label_weights="entropy")
    batch = Batch.from_arrow(pa.table(rows))
    supply = Supply.of(batch, schema, config)
    tasks = _with_output(config, schema, supply.labels).tasks
    guess = []
    for task in tasks[:2]:
        rate = supply.labels[task.label].mean
        values = encode_label(next(label for label in schema.labels if label.name == task.label), Tables.cut(batch, schema, config).train)
        guess.append(task.weight * -np.mean(np.where(values == 1, np.log(rate), np.log(1 - rate))))
    assert guess[0] == pytest.approx(guess[1])
    assert tasks[0].weight == 1
    assert tasks[1].weight > 5
    assert tasks[2].weight == pytest.approx(guess[0])  # squared error in deviations of a guess of the mean is 1
    assert [task.weight for task in _with_output(replace(config, label_weights="equal"), schema, supply.labels).tasks] == [1, 1, 1]
    assert [task.weight for task in _with_output(replace(config, label_weights="equal", other_labels=0.2), schema, supply.labels).tasks] == [1, 0.2, 0.2]
    assert TrainingConfig.from_mapping(config.to_mapping(), config.model) == config
