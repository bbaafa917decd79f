"""Derived columns while serving: the values of a request are those of the offline table at that moment, and a model that reads them answers by them."""
# ruff: noqa: F811 - fixtures are imported and then named as arguments

from __future__ import annotations

import math
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("torch", reason="the extra train is not installed")

from fastapi.testclient import TestClient

from event_stores import event as given
from event_stores import places, taken  # noqa: F401
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.source import read
from recspect.events.joining import label_exposures
from recspect.events.store import open_store
from recspect.features.derived import derive
from recspect.models import ModelConfig
from recspect.recommending.pipeline.building import build_recommender
from recspect.recommending.pipeline.id_table import IdTable
from recspect.recommending.pipeline.settings import RecommenderSettings
from recspect.recommending.pipeline.sources_plain import PopularSource
from recspect.schema import Field, Label, Schema
from recspect.schema_derived import Derived
from recspect.serving.commands import application
from recspect.serving.online_features import LATE, WITHIN, OnlineFeatures, served_columns
from recspect.training.config import TrainingConfig
from recspect.training.loop import train

DERIVED = (
    Derived(name="shown_week", kind="count", by="user", window_hours=168.0), Derived(name="clicks", kind="count", by="user", where="click", window_hours=400.0),
    Derived(name="click_rate", kind="rate", by="user", of="click", prior=0.1, prior_rows=5.0, window_hours=400.0),
    Derived(name="last_clicked", kind="last", by="user", of="item", where="click", length=5, window_hours=400.0),
    Derived(name="item_rate", kind="rate", by="item", of="click", prior=0.1, prior_rows=5.0, window_hours=400.0))
SCHEMA = Schema(user="user", item="item", time="time", labels=[Label(name="click")], derived=DERIVED, fields=[
    Field(name="user", side="user"), Field(name="item", side="item"), Field(name="shown_week", kind="numeric", side="user"), Field(name="clicks", kind="numeric", side="user"),
    Field(name="click_rate", kind="numeric", side="user"), Field(name="last_clicked", kind="sequence", side="user"), Field(name="item_rate", kind="numeric", side="item")])


def log(rows, seed=0, *, until=None):
    """Exposures of the last days and their clicks (of requests and of none, some twice, some too late), in an order of their own."""
    draw = np.random.default_rng(seed)
    until = until or datetime.now(UTC) - timedelta(minutes=1)
    events = []
    for number in range(rows):
        shown = until - timedelta(seconds=int(draw.integers(14 * 86_400)))
        common = {"user": f"u{draw.integers(6)}", "item": f"i{draw.integers(8)}"}
        request = f"r{number}" if draw.random() < 0.7 else None
        events.append(given(0, event_id=f"x{number}", kind="exposure", time=shown.isoformat(), request=request, **common))
        for again in range(int(draw.choice([0, 0, 1, 2]))):
            clicked = shown + timedelta(hours=float(draw.choice([0.1, 5, 23, 30])))
            if clicked < until:
                events.append(given(0, event_id=f"c{number}-{again}", kind="click", time=clicked.isoformat(), request=request if draw.random() < 0.7 else None, **common))
    return [events[k] for k in draw.permutation(len(events))]


def offline(store, user, moment):
    """The columns of a row at this moment, by the table that training would read."""
    columns = ["user", "item", "time", "click"]
    rows = label_exposures(store, window_hours=24.0, kinds=["click"], as_of=moment + timedelta(days=2)).rows
    table = pl.concat([pl.from_arrow(table.select(columns)) for table in rows.tables()]).with_columns(pl.col("click").cast(pl.Int64))
    probe = pl.DataFrame({"user": [user], "item": ["i0"], "time": [moment], "click": [0]}, schema=table.schema)
    whole = next(read(pl.concat([table, probe])).batches(rows=10**6))
    found = derive(whole, SCHEMA)
    return {name: found[name][np.array([found.rows - 1])] for name in served_columns(SCHEMA)}


def plain(column):
    if hasattr(column, "offsets"):
        return [str(value) for value in (column.values.decode() if hasattr(column.values, "decode") else column.values)]
    return [round(float(value), 9) for value in np.asarray(column, dtype=float)]


Held = SimpleNamespace(audience=SimpleNamespace(schema=SCHEMA), items=SimpleNamespace(ids=IdTable(np.array(["i0", "i1"], dtype=object))))  # all that `OnlineFeatures` reads of a recommender


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_values_of_a_request_are_those_of_the_table(places, seed):
    store = open_store(places.new())
    events = log(400, seed)
    before = (datetime.now(UTC) - LATE + WITHIN).isoformat()  # what comes later than that is read at the next start
    old, rest = ([event for event in events if (event["time"] < before) == early] for early in (True, False))
    assert len(rest) > 50
    online = OnlineFeatures(store)
    store.append(taken(*old, *rest[:20], received=datetime.now(UTC)))
    assert online.of(Held, "u1", {})[1]  # not read yet, which is said
    online.refresh()
    for start in range(20, len(rest), 15):
        store.append(taken(*rest[start:start + 15], received=datetime.now(UTC)))
        online.refresh()
    assert online.failure == ""
    for user in ("u0", "u3", "u5", "stranger"):
        values, missing = online.of(Held, user, {})
        expected = offline(store, user, datetime.now(UTC))
        assert missing == ""
        assert set(values) == set(expected) == {"shown_week", "clicks", "click_rate", "last_clicked"}
        assert {name: plain(column) for name, column in values.items()} == {name: plain(column) for name, column in expected.items()}
    assert not math.isnan(plain(values["click_rate"])[0])
    store.close()


def test_columns_that_events_do_not_tell_stay_as_they_were_built():
    """A label of another name, a key that is not the user alone; of the row alone only what the request brings."""
    other = Schema(user="user", item="item", time="time", labels=[Label(name="is_click")], derived=[
        Derived(name="clicks", kind="count", by="user", where="is_click"), Derived(name="shown", kind="count", by="user"), Derived(name="met", kind="count", by=("user", "item")),
        Derived(name="hour", kind="hour"), Derived(name="both", kind="cross", of=("place", "hour"))],
        fields=[Field(name=name, kind="numeric", side="context") for name in ("clicks", "shown", "met", "hour")] + [Field(name="both"), Field(name="place")])
    assert served_columns(other) == ("shown", "hour", "both")


@pytest.mark.parametrize("numbers", [False, True])
def test_a_model_that_reads_them_answers_by_the_click_of_a_moment_ago(tmp_path, numbers):
    """Also one whose table holds whole numbers as ids, and times in seconds; events hold texts."""
    store = open_store(tmp_path / "events.duckdb")
    events = log(1_500)
    if numbers:
        events = [{**event, "item": event["item"][1:]} for event in events]
    store.append(taken(*events, received=datetime.now(UTC)))
    rows = next(read(pl.concat([pl.from_arrow(table.select(["user", "item", "time", "click"])) for table in label_exposures(store, kinds=["click"]).rows.tables()])
                     .with_columns(pl.col("click").cast(pl.Int64))).batches(rows=10**6))
    schema = SCHEMA
    if numbers:
        rows = rows.with_columns({"item": rows["item"].decode().astype(np.int64), "time": rows["time"].astype("datetime64[s]").astype(np.int64)})
        schema = replace(SCHEMA, time_unit="s")
    config = TrainingConfig(model=ModelConfig(embedding_width=4, hidden=(8,)), maximum_epochs=2, seed=0, observe_every=0, histograms_every=0)
    run = train(rows, schema, config, tmp_path / "run", on_finding=lambda _: None)
    found = build_recommender(Batch(dict(rows)), run=run, settings=RecommenderSettings(sources=(PopularSource(),), steps=()))
    found.save(tmp_path / "one")
    store.close()
    app = application(folder=tmp_path / "one", store=str(tmp_path / "events.duckdb"))
    with TestClient(app) as client:
        def scores():
            got = client.post("/v1/recommend", json={"user": "u2", "k": 8}).json()
            assert got["degraded"] == []
            return {place["item"]: place["score"] for place in got["items"]}

        before = scores()
        now = datetime.now(UTC)
        sent = [given(0, event_id=f"n{k}", kind=kind, user="u2", item="1" if numbers else "i1", request=f"n{k}", time=(now - timedelta(seconds=20)).isoformat())
                for k in range(30) for kind in ("exposure", "click")]
        for place, event in enumerate(sent):
            event["event_id"] += f"-{place}"
        assert client.post("/v1/events", json={"events": sent}).json()["accepted"] == 60
        end = time.monotonic() + 1.0
        while scores() == before:
            assert time.monotonic() < end
            time.sleep(0.02)
