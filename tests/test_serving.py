"""The server: answers, fallbacks, exchange under load, roll-out, limits, what is written down, what is refused. A real store, real models, real HTTP."""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("torch", reason="the extra train is not installed")

from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from event_stores import places  # noqa: F401
from recspect.errors import RunError, UsageError
from recspect.events.event import parse_event
from recspect.events.store import open_store
from recspect.events.token import token_for
from recspect.serving.answering import POPULAR, Answering
from recspect.serving.app import ServingSettings, create_app
from recspect.serving.commands import application
from recspect.serving.figures import Figures
from recspect.serving.limits import RateLimit
from recspect.serving.recent import Recent, last_of_each, micros
from recspect.serving.rollout import Rollout, point
from recspect.serving.shown import ShownLog
from recspect.serving.slot import Slot
from serving_samples import WORLD, save_two, small_recommender


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Two recommenders on disk, of other weights."""
    return save_two(tmp_path_factory.mktemp("recommenders"))


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def store(tmp_path):
    kept = open_store(tmp_path / "events.duckdb")
    yield kept
    kept.close()


def event(number, user, item, kind="click", **more):
    return parse_event({"event_id": f"e{number}", "kind": kind, "user": user, "item": item, "time": datetime.now(UTC).isoformat(), **more},
                       received=datetime.now(UTC))


def served(folder, store=None, **settings):
    """A client of an application on real parts, and the parts."""
    figures = Figures()
    rollout = settings.pop("rollout", None)
    second = Slot(folder / "two") if settings.pop("second", False) else None
    recent, shown = (Recent(store), ShownLog(store)) if store is not None else (None, None)
    answering = Answering(Slot(folder / "one"), second, rollout=rollout, recent=recent, shown=shown, told=figures.told)
    app = create_app(answering, ServingSettings(**settings), figures=figures, models=folder, closing=(shown.close,) if shown else ())
    return TestClient(app, raise_server_exceptions=False), answering


def test_a_list_is_what_the_recommender_gives_offline(folder):
    client, answering = served(folder)
    with client:
        got = client.post("/v1/recommend", json={"user": 7, "k": 5, "context": {"surface": "search"}}).json()
    offline = answering.first.current.recommend([7], 5, context={"surface": "search"})
    assert [place["item"] for place in got["items"]] == offline.ids(0)
    np.testing.assert_allclose([place["score"] for place in got["items"]], offline.slates[0].scores, rtol=0, atol=1e-5)
    assert [place["rank"] for place in got["items"]] == [1, 2, 3, 4, 5]
    assert got["model"] == answering.first.current.version
    assert got["degraded"] == []


def test_a_click_changes_the_next_list_within_a_second(folder, store):
    client, _ = served(folder, store)
    with client:
        before = client.post("/v1/recommend", json={"user": "7", "k": 3}).json()["items"]
        store.append([event(1, "7", str(before[0]["item"]))])
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            after = client.post("/v1/recommend", json={"user": "7", "k": 3}).json()["items"]
            if after[0]["item"] != before[0]["item"]:
                break
            time.sleep(0.02)
        assert before[0]["item"] not in [place["item"] for place in after]  # it was clicked: it is not shown again


def test_events_come_in_by_the_same_server(folder, tmp_path):
    app = application(folder=folder / "one", store=str(tmp_path / "events.duckdb"))
    with TestClient(app) as client:
        shown = client.post("/v1/recommend", json={"user": "9", "k": 3}).json()
        sent = {"event_id": "c1", "kind": "click", "user": "9", "item": str(shown["items"][0]["item"]), "request": shown["request"],
                "time": datetime.now(UTC).isoformat()}
        assert client.post("/v1/events", json={"events": [sent, {"kind": "click"}]}).json()["accepted"] == 1
        assert client.post("/v1/events", json=sent).json()["duplicates"] == 1
        refused = client.post("/v1/events", json={"kind": "click"})
        assert refused.status_code == 422
        assert set(refused.json()["error"]) == {"code", "message", "hint"}
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            after = client.post("/v1/recommend", json={"user": "9", "k": 3}).json()["items"]
            if after[0]["item"] != shown["items"][0]["item"]:
                break
            time.sleep(0.02)
        assert shown["items"][0]["item"] not in [place["item"] for place in after]
    kept = open_store(tmp_path / "events.duckdb")
    assert kept.count("click") == 1
    assert kept.count("exposure") % 3 == 0
    assert kept.count_rejects() == 1  # the same reject twice is kept once
    kept.close()


def test_what_is_shown_is_written_down_with_all_that_judges_need(folder, store):
    client, answering = served(folder, store)
    with client:
        got = client.post("/v1/recommend", json={"user": "u;--", "k": 4, "surface": "home"}).json()
        answering.shown.close()
    table, _ = store.since(0)
    rows = sorted(table.to_pylist(), key=lambda row: row["position"])
    assert [row["item"] for row in rows] == [str(place["item"]) for place in got["items"]]
    assert {(row["kind"], row["user"], row["request"], row["surface"], row["model_version"], row["propensity"]) for row in rows} == {
        ("exposure", "u;--", got["request"], "home", got["model"], 1.0)}
    assert [row["value"] for row in rows] == [place["score"] for place in got["items"]]


def test_a_model_that_fails_is_replaced_by_popular_items_and_the_answer_says_so(folder):
    client, answering = served(folder)
    recommender = answering.first.current
    broken = recommender.ranker.model
    with client:
        broken.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        got = client.post("/v1/recommend", json={"user": 7, "k": 5}).json()
    assert got["model"] == POPULAR
    assert "RuntimeError" in got["degraded"][0]
    positives = recommender.items.positives[recommender.items.ids.codes([place["item"] for place in got["items"]])]
    assert positives.tolist() == sorted(recommender.items.positives.tolist(), reverse=True)[:5]


def test_a_store_that_is_gone_degrades_lists_and_loses_no_exposure(folder, tmp_path):
    class Gate:
        """The real store behind a switch: what happens when the connection is cut."""

        def __init__(self, inner):
            self.inner, self.open = inner, True

        def __getattr__(self, name):
            if not self.open and name in ("append", "newest", "select", "since"):
                from recspect.errors import DataError

                raise DataError("no connection")
            return getattr(self.inner, name)

    store = open_store(tmp_path / "events.duckdb")
    gate = Gate(store)
    client, answering = served(folder, gate, refresh_seconds=0.02)
    with client:
        assert client.get("/ready").json()["status"] == "ok"
        gate.open = False
        deadline = time.monotonic() + 10
        while client.get("/ready").json()["status"] == "ok" and time.monotonic() < deadline:
            time.sleep(0.02)
        got = client.post("/v1/recommend", json={"user": 7, "k": 5}).json()
        assert len(got["items"]) == 5
        assert any("store of events is not reachable" in text for text in got["degraded"])
        gate.open = True
        answering.shown.close(seconds=10)
    assert store.count("exposure") == 5
    assert answering.shown.lost == 0
    store.close()


def test_models_are_exchanged_under_load_without_a_lost_or_mixed_answer(folder):
    client, answering = served(folder, watch_seconds=0.01)
    one, two = small_recommender(), small_recommender(1)
    expected = {recommender.version: {user: recommender.recommend([user], 5).ids(0) for user in range(10)} for recommender in (one, two)}
    assert expected[one.version] != expected[two.version]
    stop = threading.Event()
    wrong, answered = [], []

    def ask(number):
        while not stop.is_set():
            user = number % 10
            answer = client.post("/v1/recommend", json={"user": user, "k": 5})
            got = answer.json()
            answered.append(got.get("model"))
            if answer.status_code != 200 or [place["item"] for place in got["items"]] != expected[got["model"]][user]:
                wrong.append(got)
            number += 1

    with client, ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, 3 * k) for k in range(4)]
        for name in ("two", "one", "two"):
            assert client.post("/v1/models", json={"folder": name}).status_code == 200
            time.sleep(0.1)
        stop.set()
        for each in asking:
            each.result()
    assert wrong == []
    assert set(answered) == {one.version, two.version}
    assert answering.first.exchanges == 3


def test_another_recommender_in_the_folder_is_noticed_and_a_damaged_one_is_not_taken(folder):
    client, answering = served(folder, watch_seconds=0.01)
    with client:
        before = answering.first.current.version
        (folder / "one" / "recommender.json").write_text("{}")
        deadline = time.monotonic() + 10
        while not answering.first.failure and time.monotonic() < deadline:
            time.sleep(0.02)
        ready = client.get("/ready").json()
        assert ready["status"] == "degraded"
        assert "could not be read" in ready["down"][0]
        assert client.post("/v1/recommend", json={"user": 1}).json()["model"] == before
        shutil.rmtree(folder / "one")
        (folder / "two").rename(folder / "one")
        while answering.first.current.version == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert client.get("/ready").json() == {"status": "ok", "model": small_recommender(1).version, "down": []}


def test_a_share_of_users_gets_the_second_model_and_the_shadow_is_written_down(folder, store):
    client, answering = served(folder, store, second=True, rollout=Rollout(percent=30, shadow=True))
    with client:
        got = {user: client.post("/v1/recommend", json={"user": user, "k": 2}).json() for user in range(60)}
        answering.shown.close()
    arms = {user: answer["arm"] for user, answer in got.items()}
    assert all(answer["model"] == {"first": small_recommender().version, "second": small_recommender(1).version}[answer["arm"]] for answer in got.values())
    assert arms == {user: "second" if Rollout(percent=30).second(str(user)) else "first" for user in range(60)}
    attributes = [json.loads(row["attributes"]) for row in store.since(0)[0].to_pylist()]
    assert len(attributes) == 120
    versions = {"first": small_recommender(1).version, "second": small_recommender().version}
    assert all(entry["shadow_model"] == versions[entry["arm"]] for entry in attributes)


@given(st.lists(st.text(max_size=8), min_size=20, max_size=40), st.floats(0, 100), st.floats(0, 100))
def test_raising_the_share_keeps_those_who_had_it(users, less, more):
    less, more = sorted((less, more))
    assert {user for user in users if Rollout(percent=less).second(user)} <= {user for user in users if Rollout(percent=more).second(user)}


def test_shares_are_met_and_another_salt_chooses_others():
    points = np.array([point(str(user)) for user in range(20_000)])
    assert abs((points < 0.3).mean() - 0.3) < 0.01
    chosen = [{user for user in range(2000) if Rollout(percent=50, salt=salt).second(str(user))} for salt in ("a", "b")]
    assert 400 < len(chosen[0] & chosen[1]) < 600


def test_similar_items_are_ordered_by_their_vectors_and_unknown_ones_are_not_found(folder):
    client, answering = served(folder)
    with client:
        got = client.get("/v1/items/3/similar?k=5").json()
        vectors = answering.first.current.vectors
        expected = np.argsort(-(vectors @ vectors[3]), kind="stable")
        assert [place["item"] for place in got["items"]] == [code for code in expected.tolist() if code != 3][:5]
        missing = client.get("/v1/items/<script>/similar")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "unknown_item"
        assert missing.headers["content-type"] == "application/json"


TOKEN = "a-token-of-some-length"


def test_without_the_token_nothing_is_told_but_that_it_runs(folder):
    client, _ = served(folder, token=TOKEN)
    with client:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/v1/items/3/similar"):
            assert client.get(path).status_code == 401, path
            assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
            assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert client.get("/health").json() == {"status": "ok"}
    with pytest.raises(UsageError, match="16 or more"):
        ServingSettings(token="short")


def test_a_token_is_needed_beyond_loopback(monkeypatch, tmp_path):
    monkeypatch.delenv("RECSPECT_TOKEN", raising=False)
    assert token_for("127.0.0.1", None) is None
    assert token_for("::1", None) is None
    for host in ("0.0.0.0", "::", "10.1.2.3", "example.org"):
        with pytest.raises(UsageError, match="no token was given"):
            token_for(host, None)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert token_for("0.0.0.0", tmp_path / "token") == TOKEN
    with pytest.raises(UsageError, match="cannot read the token"):
        token_for("127.0.0.1", tmp_path / "absent")


@pytest.mark.parametrize(("body", "status", "code"), [
    (b"{", 400, "not_json"), (b'{"k": 5}', 422, "malformed"), (b'{"user": ""}', 422, "malformed"), (b'{"user": "a\\u0000b"}', 422, "malformed"),
    (b'{"user": 1, "k": 0}', 422, "malformed"), (b'{"user": 1, "k": 201}', 422, "malformed"), (b'{"user": 1, "wrong": 2}', 422, "malformed"),
    (b'{"user": true}', 422, "malformed"), (b'{"user": 99999999999999999999}', 422, "malformed"), (b'{"user": 1, "context": {"no such": 1}}', 422, "wrong_request"),
    (b'{"user": 1, "context": {"item": 1}}', 422, "wrong_request"), (b"[1]", 422, "malformed"), (b"", 422, "malformed"),
    (b'{"user": "' + b"x" * 300 + b'"}', 422, "malformed"), (b'{"user": 1, "k": 1e400}', 422, "malformed")])
def test_what_is_no_request_is_refused_in_one_shape(folder, body, status, code):
    client, _ = served(folder)
    with client:
        got = client.post("/v1/recommend", content=body, headers={"Content-Type": "application/json"})
    assert (got.status_code, got.json()["error"]["code"]) == (status, code)
    assert set(got.json()["error"]) == {"code", "message", "hint"}


def test_bodies_are_bounded_whether_their_length_is_told_or_not(folder):
    client, _ = served(folder, body_bytes=1000)
    with client:
        for content in (b"x" * 1001, (b"x" * 100 for _ in range(20))):
            got = client.post("/v1/recommend", content=content)
            assert (got.status_code, got.json()["error"]["code"]) == (413, "too_large")
        small = client.post("/v1/recommend", content=(part for part in (b'{"user"', b": 1}")), headers={"Content-Type": "application/json"})
        assert small.status_code == 200


def test_a_client_that_asks_too_often_is_told_when_to_come_again(folder):
    client, _ = served(folder, requests_per_second=0.001, burst=3)
    with client:
        found = [client.get("/v1/models").status_code for _ in range(5)]
        assert found == [200, 200, 200, 429, 429]
        assert int(client.get("/v1/models").headers["retry-after"]) > 1
        assert client.get("/health").status_code == 200


def test_the_rate_is_met_in_the_long_run():
    now = [0.0]
    limit = RateLimit(10, 5, clock=lambda: now[0])
    allowed = 0
    for _ in range(10_000):
        now[0] += 0.01
        allowed += limit.wait_seconds("a") == 0
    assert allowed == pytest.approx(10 * 100 + 5, abs=2)
    assert limit.wait_seconds("b") == 0


def test_only_folders_by_name_are_exchanged(folder):
    client, answering = served(folder)
    before = answering.first.current
    with client:
        for name in ("../one", "/etc", "..", ".", "a/b", "", "one\u0000"):
            assert client.post("/v1/models", json={"folder": name}).status_code == 422, name
        got = client.post("/v1/models", json={"folder": "absent"})
        assert (got.status_code, got.json()["error"]["code"]) == (404, "no_recommender")
    assert answering.first.current is before
    with pytest.raises(RunError, match="no recommender"):
        Slot(folder / "absent")


def test_counters_say_what_happened(folder):
    client, answering = served(folder)
    with client:
        for _ in range(3):
            client.post("/v1/recommend", json={"user": 1})
        client.post("/v1/recommend", json={"user": ""})
        text = client.get("/metrics").text
    assert 'recspect_requests_total{path="/v1/recommend",status="200"} 3.0' in text
    assert 'recspect_requests_total{path="/v1/recommend",status="422"} 1.0' in text
    assert f'recspect_lists_total{{arm="first",model="{answering.first.current.version}"}} 3.0' in text


def test_recent_events_of_users_are_bounded_and_in_order(store):
    recent = Recent(store, per_user=3, users=3)
    store.append([event(k, f"u{k % 3}", f"i{k}", kind="exposure" if k % 2 else "click") for k in range(24)])
    recent.refresh()
    assert [done.item for done in recent.of("u2")] == ["i8", "i14", "i20"]  # what was only shown pushes nothing out
    assert recent.refresh() == 0
    store.append([event(30, "u0", "i30"), event(31, "new", "i31")])
    assert recent.refresh() == 2
    assert [len(recent.of(user)) for user in ("u0", "u1", "u2", "new")] == [3, 3, 0, 1]  # of u2 nothing was heard for longest
    store.append([event(32, "new", "late", time=(datetime.now(UTC) - timedelta(hours=1)).isoformat())])
    recent.refresh()
    assert [done.item for done in recent.of("new")] == ["late", "i31"]
    recent.forget("u1")
    assert recent.of("u1") == []


def test_the_start_reads_the_last_events_of_each_user_and_not_the_whole_store(places):  # noqa: F811
    """By what comes back from the store, and against a reading of everything from the first event on."""
    store = open_store(places.new())
    now, draw = datetime.now(UTC), np.random.default_rng(0)
    store.append([event(k, f"u{draw.integers(20)}", f"i{k}", kind=("click", "exposure")[int(draw.integers(2))], time=(now - timedelta(minutes=int(draw.integers(40 * 1440)))).isoformat())
                  for k in range(3_000)])
    found = [row for rows in last_of_each(store, per_user=5, days=30.0) for row in rows]
    assert len(found) == 20 * 5
    recent = Recent(store, per_user=5)
    assert recent.refresh() == 20 * 5
    clicks = [row for row in store.since(0)[0].to_pylist() if row["kind"] == "click"]
    for user in range(20):
        own = sorted((micros(row["time"]), row["item"]) for row in clicks if row["user"] == f"u{user}" and row["time"] > now - timedelta(days=30))[-5:]
        assert [(done.time, done.item) for done in recent.of(f"u{user}")] == own
    store.append([event(5_000, "u3", "new")])
    assert recent.refresh() == 1
    assert recent.of("u3")[-1].item == "new"
    store.close()


def test_the_world_of_these_tests_has_the_users_that_they_ask_for():
    assert len(small_recommender().audience) == WORLD.users


@pytest.mark.slow
@pytest.mark.parametrize("token", [None, TOKEN])
def test_schemathesis_finds_nothing(folder, tmp_path, token):
    """Requests made of the OpenAPI description of the whole server, with every check of schemathesis."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, settings

    app = application(folder=folder / "one", store=str(tmp_path / "events.duckdb"), models=folder, token=token)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)

    @schema.hook
    def map_body(context, body):
        if context.operation.path == "/v1/explain" and isinstance(body, dict):
            body = {**body, "over": None, "counterfactual": False}  # that `over` is another item is nothing that a description can say; the search is tested elsewhere
        if isinstance(body, dict) and isinstance(body.get("time"), str) and len(body["time"]) > 18 and body["time"][4:5] == "-":
            body = {**body, "time": datetime.now(UTC).isoformat()}  # "not in the future" is nothing that a description can say
        return body

    tried = set()
    with TestClient(app):  # runs what runs beside the requests
        for operation in (found.ok() for found in schema.get_all_operations()):
            @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None, derandomize=True)
            @given(case=operation.as_strategy())
            def call(case):
                tried.add((case.method, case.path))
                case.call_and_validate(headers=headers)

            call()
    assert {("POST", "/v1/recommend"), ("POST", "/v1/explain"), ("POST", "/v1/events"), ("GET", "/v1/items/{item}/similar"), ("POST", "/v1/models"), ("GET", "/metrics")} <= tried
