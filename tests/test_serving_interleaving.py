"""Lists of two models from the server: what is shown is the team draft, what is written down is what `recspect experiment interleaving` reads, and what cannot be compared is not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("torch", reason="the extra train is not installed")

from fastapi.testclient import TestClient
from typer.testing import CliRunner

from recspect.cli import app
from recspect.errors import UsageError
from recspect.events.event import parse_event
from recspect.events.joining import label_exposures
from recspect.events.store import open_store
from recspect.experimenting.interleaving import preference
from recspect.serving.answering import POPULAR, Answering
from recspect.serving.app import ServingSettings, create_app
from recspect.serving.commands import application
from recspect.serving.rollout import Rollout
from recspect.serving.shown import ShownLog
from recspect.serving.slot import Slot
from serving_samples import save_two, small_recommender


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_two(tmp_path_factory.mktemp("recommenders"))


def served(folder, *, percent, store=None):
    """A client of an application that interleaves, and its parts."""
    answering = Answering(Slot(folder / "one"), Slot(folder / "two"), rollout=Rollout(percent=percent, interleave=True), shown=None if store is None else ShownLog(store))
    return TestClient(create_app(answering, ServingSettings()), raise_server_exceptions=False), answering


def test_the_list_is_of_both_models_in_their_own_order(folder):
    client, _ = served(folder, percent=100)
    one, two = small_recommender(), small_recommender(1)
    firsts = []
    with client:
        for user in range(20):
            got = client.post("/v1/recommend", json={"user": user, "k": 6}).json()
            assert (got["arm"], got["model"]) == ("interleaved", f"{one.version}+{two.version}")
            assert [place["rank"] for place in got["items"]] == [1, 2, 3, 4, 5, 6]
            assert {place["propensity"] for place in got["items"]} == {None}
            items = [place["item"] for place in got["items"]]
            assert len(set(items)) == 6
            for recommender in (one, two):
                mine = [place["item"] for place in got["items"] if place["model"] == recommender.version]
                own = recommender.recommend([user], 6).ids(0)
                assert len(mine) == 3  # each turn both pick once
                assert [own.index(item) for item in mine] == sorted(own.index(item) for item in mine)
                taken_by_other = set(items) - set(mine)
                assert set(own[:own.index(mine[-1]) + 1]) - set(mine) <= taken_by_other  # nothing better of its own was passed over
            firsts.append(got["items"][0]["model"])
    assert 3 < firsts.count(one.version) < 17  # who picks first is drawn anew


def test_what_is_written_down_is_what_the_command_reads(folder, tmp_path):
    """People click only what the second model picked; users outside the share click as well, and are no sessions of the comparison."""
    store = open_store(tmp_path / "events.duckdb")
    client, answering = served(folder, percent=60, store=store)
    one, two = small_recommender().version, small_recommender(1).version
    rollout, clicks, interleaved = Rollout(percent=60), [], 0
    with client:
        for request in range(260):
            user = f"u{request}"
            got = client.post("/v1/recommend", json={"user": user, "k": 4}).json()
            assert (got["arm"] == "interleaved") == rollout.second(user)
            interleaved += got["arm"] == "interleaved"
            liked = [place["item"] for place in got["items"] if place["model"] == two or got["arm"] == "first"][:1]
            clicks += [{"event_id": f"c{request}", "kind": "click", "user": user, "item": str(item), "request": got["request"], "time": datetime.now(UTC).isoformat()} for item in liked]
        answering.shown.close()
    now = datetime.now(UTC)
    store.append([parse_event(click, received=now) for click in clicks])
    shown = store.since(0, limit=10_000)[0].to_pylist()
    exposures = [row for row in shown if row["kind"] == "exposure"]
    assert {row["model_version"] for row in exposures} == {one, two}
    assert {row["propensity"] for row in exposures if json.loads(row["attributes"])["arm"] == "interleaved"} == {None}
    table = tmp_path / "labels.parquet"
    label_exposures(store, window_hours=1.0, as_of=now + timedelta(hours=2)).write(table)
    store.close()
    done = CliRunner().invoke(app, ["experiment", "interleaving", str(table), "--session", "request", "--team", "model_version", "--credit", "click", "--user", "user", "--candidate", two, "--format", "json"])
    assert done.exit_code == 0, done.output
    finding = json.loads(done.stdout)["findings"][0]
    assert finding["estimate"]["n"] == interleaved
    assert finding["estimate"]["value"] == pytest.approx(0.5)


def test_lists_of_one_ranking_alone_prefer_nothing():
    rng = np.random.default_rng(0)
    session, team = np.repeat(np.arange(400), 4), np.tile([0, 1, 0, 1], 400)
    credit = rng.random(1600) < 0.3
    alone = preference(np.append(session, [400] * 4), np.append(team, [1] * 4), np.append(credit, [True] * 4).astype(float))
    assert alone == preference(session, team, credit.astype(float))


def test_a_model_that_fails_is_no_team(folder):
    client, answering = served(folder, percent=100)
    with client:
        answering.first.current.ranker.model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        got = client.post("/v1/recommend", json={"user": 3, "k": 4}).json()
        assert (got["arm"], got["model"]) == ("second", small_recommender(1).version)
        assert [place["item"] for place in got["items"]] == small_recommender(1).recommend([3], 4).ids(0)
        assert "RuntimeError" in got["degraded"][0]
        answering.second.current.ranker.model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        assert client.post("/v1/recommend", json={"user": 3, "k": 4}).json()["model"] == POPULAR


def test_settings_that_exclude_each_other_are_refused(folder):
    for settings in ({}, {"percent": 10, "shadow": True}):
        with pytest.raises(UsageError, match="lists of both models"):
            Rollout(interleave=True, **settings)
    with TestClient(application(folder=folder / "one", second=folder / "two", percent=50, interleave=True)) as client:
        assert client.get("/v1/models").json()["interleave"] is True
