"""Several servers and one Redis: what one of them has, all know; without Redis each goes on with what it has seen, and says so. A real Redis."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("torch", reason="the extra train is not installed")

from fastapi.testclient import TestClient
from typer.testing import CliRunner

from cut_connections import forwarding
from event_stores import event as given
from event_stores import taken
from message_brokers import ADDRESSES, Post, require
from recspect.cli import app
from recspect.errors import DataError, UsageError
from recspect.events.pseudonyms import find_pseudonyms
from recspect.events.store import open_store
from recspect.serving.commands import application
from recspect.serving.recent import Recent
from recspect.serving.recent_shared import PREFIX, SharedRecent
from serving_samples import small_recommender


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("shared") / "one"
    small_recommender().save(place)
    return place


@pytest.fixture
def redis():
    require("redis")
    import redis

    client = redis.Redis.from_url(ADDRESSES["redis"], decode_responses=True)
    yield client
    for name in client.scan_iter(f"{PREFIX}*{MARK}*"):
        client.delete(name)
    client.close()


MARK = uuid.uuid4().hex


def person(name):
    """A user of this test run only."""
    return f"{name}-{MARK}"


def click(number, user, item):
    return taken(given(0, event_id=f"{MARK}-{number}", user=user, item=str(item), time=datetime.now(UTC).isoformat()), received=datetime.now(UTC))


def items(client, user):
    got = client.post("/v1/recommend", json={"user": user, "k": 3}).json()
    return [str(place["item"]) for place in got["items"]], got["degraded"]


def within(seconds, holds):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_click_at_one_server_changes_the_list_of_another_within_a_second(folder, tmp_path, redis):
    one = application(folder=folder, store=str(tmp_path / "one.duckdb"), recent=ADDRESSES["redis"])
    other = application(folder=folder, store=str(tmp_path / "other.duckdb"), recent=ADDRESSES["redis"])
    reader = application(folder=folder, recent=ADDRESSES["redis"])  # without a store
    user = person("ann")
    with TestClient(one) as here, TestClient(other) as there, TestClient(reader) as reading:
        before, degraded = items(there, user)
        assert degraded == []
        sent = {"event_id": f"{MARK}-c", "kind": "click", "user": user, "item": before[0], "time": datetime.now(UTC).isoformat()}
        assert here.post("/v1/events", json=sent).status_code == 202
        within(1.0, lambda: before[0] not in items(there, user)[0] and before[0] not in items(reading, user)[0])


def test_without_redis_a_server_goes_on_with_what_it_has_seen_and_says_so(folder, tmp_path, redis):
    post = Post("redis")
    user = person("bob")
    with forwarding(*post.host_and_port) as line:
        app = application(folder=folder, store=str(tmp_path / "events.duckdb"), recent=post.through(line.port))
        with TestClient(app) as client:
            before, degraded = items(client, user)
            assert degraded == []
            line.cut()
            within(5.0, lambda: any("Redis" in text for text in items(client, user)[1]))
            assert client.get("/ready").json()["status"] == "degraded"
            sent = {"event_id": f"{MARK}-d", "kind": "click", "user": user, "item": before[0], "time": datetime.now(UTC).isoformat()}
            assert client.post("/v1/events", json=sent).status_code == 202
            within(1.0, lambda: before[0] not in items(client, user)[0])
            assert redis.zrange(PREFIX + user, 0, -1) == []
            line.mend()
            within(5.0, lambda: items(client, user)[1] == [])
            within(5.0, lambda: len(redis.zrange(PREFIX + user, 0, -1)) == 1)  # what came meanwhile is there, too


def test_keys_are_bounded_end_by_themselves_and_are_put_anew_where_redis_was_emptied(tmp_path, redis):
    store = open_store(tmp_path / "events.duckdb")
    user = person("carl")
    store.append([each for number in range(9) for each in click(number, user, f"i{number}")])
    shared = SharedRecent(ADDRESSES["redis"], Recent(store, per_user=4), per_user=4)
    assert shared.refresh() == 4
    assert redis.zcard(PREFIX + user) == 4
    assert 0 < redis.ttl(PREFIX + user) <= 30 * 86_400
    assert shared.refresh() == 0
    store.append(click(20, user, "i20"))
    assert shared.refresh() == 1
    fresh = SharedRecent(ADDRESSES["redis"], None, per_user=4)  # a server that begins now reads nothing but this
    assert [done.item for done in fresh.of(user)] == ["i6", "i7", "i8", "i20"]
    mark = next(name for name in redis.scan_iter("recspect:cursor:*") if redis.get(name) == str(store.newest()))
    redis.delete(PREFIX + user, mark)  # as after a restart of a Redis that keeps nothing
    shared.refresh()
    assert [done.item for done in fresh.of(user)] == ["i6", "i7", "i8", "i20"]
    shared.forget(user)
    assert fresh.of(user) == shared.of(user) == []
    redis.delete(mark)
    store.close()


def test_what_is_no_redis_is_said():
    pytest.importorskip("redis", reason="the extra broker is not installed")
    with pytest.raises(UsageError, match="no address of Redis"):
        SharedRecent("http://host", None)
    absent = SharedRecent("redis://ann:secret@127.0.0.1:1/0", None)
    assert absent.of("ann") == []
    assert "127.0.0.1:1/0 is not reached" in absent.failure
    assert "secret" not in absent.failure


@pytest.mark.parametrize("keyed", [False, True])
def test_who_is_forgotten_is_gone_from_redis_under_the_name_of_the_store(redis, tmp_path, keyed):
    key = tmp_path / "key"
    key.write_text("a key of the house, long enough for a hash\n")
    options = ["--pseudonym-key", str(key)] if keyed else []
    store = open_store(tmp_path / "events.duckdb", pseudonyms=find_pseudonyms(key if keyed else None))
    ann, bob = person("ann"), person("bob")
    store.append([*click(1, ann, 3), *click(2, ann, 4), *click(3, bob, 5)])
    shared = SharedRecent(ADDRESSES["redis"], Recent(store))
    shared.refresh()
    names = {who: store.stored_user(who) for who in (ann, bob)}
    store.close()
    assert (names[ann] != ann) == keyed
    assert [redis.zcard(PREFIX + names[who]) for who in (ann, bob)] == [2, 1]
    words = ["events", "forget", ann, "--store", str(tmp_path / "events.duckdb"), *options]
    failed = CliRunner().invoke(app, [*words, "--recent", "redis://127.0.0.1:1"])
    assert isinstance(failed.exception, DataError)
    assert "nothing was erased there" in failed.exception.hint
    assert failed.stdout == "erased 2 events and 0 rejects\n"
    assert redis.zcard(PREFIX + names[ann]) == 2
    done = CliRunner().invoke(app, [*words, "--recent", ADDRESSES["redis"]])
    assert done.stdout == "erased 0 events and 0 rejects\nerased 2 recent events in Redis\n"
    assert [redis.exists(PREFIX + names[who]) for who in (ann, bob)] == [0, 1]
    redis.delete(PREFIX + names[bob])
