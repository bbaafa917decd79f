"""Explanations over HTTP: the same evidence as the command's, of what the user did lately, without disturbing the lists that are made meanwhile. Real models and a real store."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("torch", reason="the extra train is not installed")

from fastapi.testclient import TestClient

from recspect.events.event import parse_event
from recspect.events.store import open_store
from recspect.explaining.explainer import RecommendationExplainer
from recspect.serving.answering import Answering
from recspect.serving.app import ServingSettings, create_app
from recspect.serving.explaining import Explaining, with_own_structure
from recspect.serving.recent import Recent
from recspect.serving.rollout import Rollout
from recspect.serving.slot import Slot
from serving_samples import save_two, small_recommender


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_two(tmp_path_factory.mktemp("recommenders"))


def served(folder, *, store=None, second=False, percent=0.0, **settings):
    """A client of an application on real parts, and the parts."""
    answering = Answering(Slot(folder / "one"), Slot(folder / "two") if second else None, rollout=Rollout(percent=percent), recent=None if store is None else Recent(store))
    return TestClient(create_app(answering, ServingSettings(**settings)), raise_server_exceptions=False), answering


def test_the_server_tells_what_the_command_tells(folder):
    client, answering = served(folder)
    offline = RecommendationExplainer(small_recommender())
    first, second = small_recommender().recommend([7], 10).ids(0)[:2]
    with client:
        for asked, expected in (({"user": 7}, offline.explain(7)), ({"user": 7, "item": first, "over": second, "k": 4, "language": "zh"}, offline.explain(7, first, over=second, k=4)),
                                ({"user": 7, "below": 0.2, "context": {"surface": "search"}}, offline.explain(7, below=0.2, context={"surface": "search"})),
                                ({"user": "nobody", "counterfactual": False}, offline.explain("nobody", with_counterfactual=False))):
            got = client.post("/v1/explain", json=asked)
            assert got.status_code == 200, got.text
            told = got.json()
            assert (told.pop("arm"), told.pop("degraded")) == ("first", [])
            mapping = json.loads(json.dumps(expected.to_mapping(asked.get("language", "en"))))
            assert told == mapping
        assert answering.explaining.made == 4
        assert "recspect_explanations 4.0" in client.get("/metrics").text


def test_what_a_user_did_lately_counts(folder, tmp_path):
    store = open_store(tmp_path / "events.duckdb")
    client, answering = served(folder, store=store)
    with client:
        before = client.post("/v1/explain", json={"user": "7"}).json()
        now = datetime.now(UTC)
        store.append([parse_event({"event_id": "c1", "kind": "click", "user": "7", "item": str(before["item"]), "time": now.isoformat()}, received=now)])
        answering.recent.refresh()
        after = client.post("/v1/explain", json={"user": "7"}).json()
        shown = client.post("/v1/recommend", json={"user": "7", "k": 1}).json()["items"][0]["item"]
        asked_of = client.post("/v1/explain", json={"user": "7", "item": before["item"]}).json()
    assert after["item"] == shown != before["item"]
    assert (asked_of["rank"], asked_of["way"]["dropped_by"]) == (None, "already_seen")
    store.close()


def test_lists_made_meanwhile_are_right_and_the_model_is_left_alone(folder):
    """Explanations hook and freeze what they look into: lists of the same weights are made in other threads at the same time."""
    client, answering = served(folder)
    recommender = answering.first.current
    expected = {user: recommender.recommend([user], 5).ids(0) for user in range(20)}
    stop, wrong, answered = threading.Event(), [], []

    def ask(number):
        while not stop.is_set():
            got = client.post("/v1/recommend", json={"user": number % 20, "k": 5}).json()
            answered.append(got["model"])
            if [place["item"] for place in got["items"]] != expected[number % 20]:
                wrong.append(got)
            number += 1

    with client, ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, 7 * k) for k in range(3)]
        for user in range(6):
            assert client.post("/v1/explain", json={"user": user, "counterfactual": False}).status_code == 200
        stop.set()
        for each in asking:
            each.result()
    assert wrong == []
    assert set(answered) == {recommender.version}
    model = recommender.ranker.model
    own = with_own_structure(recommender).ranker.model
    assert own is not model
    assert [weight.data_ptr() for weight in own.parameters()] == [weight.data_ptr() for weight in model.parameters()]  # no memory of its own
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_each_user_is_told_of_the_model_that_answers(folder):
    client, _ = served(folder, second=True, percent=50)
    versions = {"first": small_recommender().version, "second": small_recommender(1).version}
    with client:
        for user in range(8):
            arm = "second" if Rollout(percent=50).second(str(user)) else "first"
            got = client.post("/v1/explain", json={"user": user, "counterfactual": False}).json()
            assert (got["arm"], got["recommender"]) == (arm, versions[arm])
        got = client.post("/v1/explain", json={"user": 1, "arm": "second", "counterfactual": False}).json()
        assert got["recommender"] == versions["second"]


@pytest.mark.parametrize(("body", "status", "code"), [
    ({}, 422, "malformed"), ({"user": 1, "item": "absent"}, 404, "unknown_item"), ({"user": 1, "item": 1, "over": "<script>"}, 404, "unknown_item"), ({"user": 1, "item": 3, "over": 3}, 422, "wrong_request"),
    ({"user": 1, "k": 0}, 422, "malformed"), ({"user": 1, "k": 51}, 422, "wrong_request"), ({"user": 1, "against": "zero"}, 422, "malformed"), ({"user": 1, "language": "tlh"}, 422, "malformed"),
    ({"user": 1, "names": "title"}, 422, "wrong_request"), ({"user": 1, "arm": "second"}, 404, "no_recommender"), ({"user": 1, "context": {"item": 1}}, 422, "wrong_request"),
    ({"user": 1, "wrong": 1}, 422, "malformed"), ({"user": "a\u0000"}, 422, "malformed"), ({"user": 1, "counterfactual": "no"}, 422, "malformed")])
def test_what_cannot_be_explained_is_refused_in_one_shape(folder, body, status, code):
    client, _ = served(folder, most=50)
    with client:
        got = client.post("/v1/explain", json=body)
    assert (got.status_code, got.json()["error"]["code"]) == (status, code)
    assert set(got.json()["error"]) == {"code", "message", "hint"}


def test_so_many_at_once_are_refused_and_the_places_come_free_again(folder):
    client, answering = served(folder)
    answering.explaining = Explaining(waiting=2)
    with client:
        client.post("/v1/recommend", json={"user": 1})
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda user: client.post("/v1/explain", json={"user": user}), range(8)))
        statuses = sorted({got.status_code for got in found})
        assert statuses == [200, 503]
        refused = next(got for got in found if got.status_code == 503)
        assert refused.json()["error"]["code"] == "busy"
        assert refused.headers["retry-after"] == "1"
        assert client.post("/v1/recommend", json={"user": 1}).status_code == 200
        assert client.post("/v1/explain", json={"user": 1, "item": "absent"}).status_code == 404
        assert all(client.post("/v1/explain", json={"user": 1, "counterfactual": False}).status_code == 200 for _ in range(3))


def test_the_token_and_the_description(folder):
    client, answering = served(folder, token="a-token-of-some-length")
    with client:
        assert client.post("/v1/explain", json={"user": 1}).status_code == 401
        described = client.get("/openapi.json", headers={"Authorization": "Bearer a-token-of-some-length"}).json()
    forms = described["components"]["schemas"]
    fields = set(forms["ExplainRequest"]["properties"]["context"]["properties"])
    assert fields == set(forms["RecommendRequest"]["properties"]["context"]["properties"])
    assert "surface" in fields
    assert forms["ExplainRequest"]["properties"]["names"]["enum"] == [*answering.first.current.items.rows, None]
    assert "/v1/explain" in described["paths"]
    assert set(forms["ExplainAnswer"]["required"]) >= {"reasons", "counterfactual", "sentences", "arm"}
