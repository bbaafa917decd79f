"""Every ranking model: trains, is looked into, is diagnosed, and goes on after a kill as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.finding import Verdict
from recspect.errors import SchemaError
from recspect.examining.doctor import account
from recspect.examining.runs import examine_run, subject_of
from recspect.features import FeatureTransform
from recspect.models import MODELS
from recspect.schema import Field, Label, Schema
from recspect.training.loop import resume, train
from recspect.training.run import Run
from test_training_runs import CONFIG, assert_same_run, made_up
from test_training_runs import SCHEMA as WITHOUT_HISTORY

SCHEMA = replace(WITHOUT_HISTORY, fields=(*WITHOUT_HISTORY.fields, Field(name="history", kind="sequence", side="user", shares="item")))


def table() -> Batch:
    """`made_up` with up to three items that each row's user had earlier."""
    batch = made_up()
    items, users = batch.categories("item").decode(), batch.numbers("user").astype(int)
    had: dict[int, list[str]] = {}
    histories = []
    for user, item in zip(users, items, strict=True):
        histories.append(list(had.get(user, [])))
        had[user] = [*had.get(user, []), item][-3:]
    return Batch({**{name: batch[name] for name in batch}, "history": Batch.from_arrow(pa.table({"history": histories}))["history"]})


def settings(name: str):
    return replace(CONFIG, model=replace(CONFIG.model, name=name))


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
    script = textwrap.dedent("""
        import sys, time
        sys.path.insert(0, sys.argv[1])
        import test_training_models as here
        from pathlib import Path
        def tell(progress):
            if (progress.epoch, progress.step) == (2, 5):
                Path(sys.argv[2] + ".ready").touch()
                time.sleep(60)
        here.train(here.table(), here.SCHEMA, here.settings(sys.argv[3]), sys.argv[2], progress=tell)
    """)
    folder, ready = tmp_path / "killed", tmp_path / "killed.ready"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", script, str(Path(__file__).parent), str(folder), run.config.model.name], env=environment)
    try:
        deadline = time.monotonic() + 120
        while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert ready.exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
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
