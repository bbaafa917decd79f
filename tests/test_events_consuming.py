"""`recspect events consume` on real brokers: durable before acknowledged, nothing lost or doubled by kills and lost connections."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from cut_connections import forwarding
from event_stores import POSTGRES, Places, event, require_postgres
from message_brokers import Post, require
from recspect.errors import UsageError
from recspect.events.broker_links import entry_body
from recspect.events.brokers import Place, link_to, place_of
from recspect.events.store import open_store


@pytest.fixture(params=["nats", "amqp", "redis"])
def post(request):
    require(request.param)
    made = Post(request.param)
    yield made
    made.remove()


def bodies(first, last, **changes):
    return [json.dumps(event(number, **changes)).encode() for number in range(first, last)]


class Consumer:
    """The command in a process of its own, and what it says."""

    def __init__(self, store, *options, **environment):
        self.process = subprocess.Popen([sys.executable, "-m", "recspect.cli", "events", "consume", "--store", store, *options], env={**os.environ, **environment},
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)

    @property
    def said(self):
        return " ".join("".join(self.lines).split())

    def wait_for(self, text, seconds=40):
        end = time.monotonic() + seconds
        while text not in self.said:
            assert self.process.poll() is None or text in self.said, self.said
            assert time.monotonic() < end, (text, self.said)
            time.sleep(0.02)

    def end(self, seconds=60):
        """Exit code and what it printed, when it ended by itself."""
        self.process.wait(seconds)
        self._reading.join(10)
        return self.process.returncode, self.process.stdout.read()

    def close(self):
        self.process.kill()
        self.process.wait()
        self._reading.join(10)
        self.process.stdout.close()
        self.process.stderr.close()


@contextmanager
def consuming(store, *options, **environment):
    made = Consumer(store, *options, **environment)
    try:
        yield made
    finally:
        made.close()


def ids_of(where):
    store = open_store(where)
    ids = [row for table in store.read().tables(["event_id"]) for row in table["event_id"].to_pylist()]
    rejects = store.rejects().to_pylist()
    store.close()
    return ids, rejects


def test_events_rejects_and_batches_are_kept_and_acknowledged(post, tmp_path):
    store = str(tmp_path / "events.duckdb")
    batch = json.dumps({"events": [event(100), event(101), event(102, kind="view")]}).encode()
    post.send([*bodies(0, 5), *bodies(0, 5), b"{", b"\xff", b"", b"[]", batch, json.dumps({"kind": "click"}).encode()])
    with consuming(store, *post.options(), "--until-idle", "2") as consumer:
        code, out = consumer.end()
        assert code == 0, consumer.said
    assert "16 messages: 7 accepted, 5 duplicates, 6 rejected" in out
    ids, rejects = ids_of(store)
    assert sorted(ids) == sorted([*(f"e-{number}" for number in range(5)), "e-100", "e-101"])
    assert {(reject["code"], reject["origin"]) for reject in rejects} == {
        (code, f"{post.kind}:{post.name}") for code in ("not_json", "not_an_object", "unknown_kind", "missing_field")}
    assert post.left() == 0


@pytest.mark.slow
def test_a_killed_consumer_loses_and_doubles_nothing(post, tmp_path):
    store, sent = str(tmp_path / "events.duckdb"), 12_000
    post.send([*bodies(0, sent), b"{"])
    amid = 0
    for seconds in (0.02, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2):  # until the kill came twice in the midst of the work, however fast this machine is
        with consuming(store, *post.options()) as consumer:
            consumer.wait_for("reading")
            time.sleep(seconds)
            consumer.process.send_signal(signal.SIGKILL)
            consumer.process.wait()
        amid += 0 < len(ids_of(store)[0]) < sent
        if amid == 2:
            break
    assert amid
    with consuming(store, *post.options(), "--until-idle", "12" if post.kind == "nats" else "3") as consumer:  # JetStream gives again after ten seconds
        assert consumer.end(120)[0] == 0, consumer.said
    ids, rejects = ids_of(store)
    assert len(ids) == len(set(ids)) == sent
    assert set(ids) == {f"e-{number}" for number in range(sent)}
    assert [reject["code"] for reject in rejects] == ["not_json"]
    assert post.left() == 0


def test_a_broker_that_goes_away_is_connected_to_again(post, tmp_path):
    store = str(tmp_path / "events.duckdb")
    post.send(bodies(0, 50))
    with forwarding(*post.host_and_port) as line, consuming(store, *post.options(post.through(line.port))) as consumer:
        consumer.wait_for("50 messages")
        line.cut()
        consumer.wait_for("went away")
        consumer.wait_for("is not reached")
        post.send(bodies(50, 100))
        line.mend()
        consumer.wait_for("again")
        consumer.wait_for("100 accepted")
        consumer.process.send_signal(signal.SIGINT)
        code, out = consumer.end()
        assert code == 0, consumer.said
        assert "100 accepted" in out
    assert len(ids_of(store)[0]) == 100
    assert "Traceback" not in consumer.said


def test_nothing_is_acknowledged_while_the_store_is_away(post):
    require_postgres()
    places = Places("postgres", None)
    address = places.new()
    direct = open_store(address)
    post.send(bodies(0, 20))
    import psycopg

    parts = psycopg.conninfo.conninfo_to_dict(POSTGRES)
    try:
        with forwarding(parts.get("host", "127.0.0.1"), int(parts.get("port", 5432))) as line:
            cut = f"postgresql://{parts['user']}@127.0.0.1:{line.port}/{parts['dbname']}?recspect_schema={places.schemas[-1]}"
            with consuming(cut, *post.options()) as consumer:
                consumer.wait_for("20 accepted")
                line.cut()
                post.send(bodies(20, 40))
                time.sleep(2)
                assert post.kind == "amqp" or post.left() == 20  # RabbitMQ does not count what it has given to somebody
                line.mend()
                consumer.wait_for("40 accepted", 90)
                consumer.process.send_signal(signal.SIGTERM)
                assert consumer.end()[0] == 0, consumer.said
        assert direct.count() == 40
        assert post.left() == 0
    finally:
        direct.close()
        places.clear()


def test_ctrl_c_ends_cleanly(tmp_path):
    require("redis")
    post = Post("redis")
    post.send(bodies(0, 10))
    try:
        with consuming(str(tmp_path / "one.duckdb"), *post.options()) as consumer:
            consumer.wait_for("10 accepted")
            consumer.process.send_signal(signal.SIGINT)
            code, out = consumer.end()
        assert (code, out) == (0, "10 messages: 10 accepted, 0 duplicates, 0 rejected\n")
    finally:
        post.remove()


@pytest.mark.parametrize(("address", "options"), [
    ("nats://127.0.0.1:1", ["--subject", "events"]), ("amqp://guest:secret@127.0.0.1:1/", ["--queue", "events"]), ("redis://127.0.0.1:1", ["--stream", "events"]),
    ("kafka://127.0.0.1:1", ["--topic", "events"])])
def test_a_broker_that_is_not_reached_is_an_error(tmp_path, address, options):
    pytest.importorskip("faststream", reason="the extra broker is not installed")
    with consuming(str(tmp_path / "events.duckdb"), "--from", address, *options) as consumer:
        code, out = consumer.end()
    assert code == 2, consumer.said
    assert "is not reached" in consumer.said
    assert "hint: does the broker run" in consumer.said
    assert "secret" not in consumer.said
    assert "Traceback" not in consumer.said
    assert out == ""


def test_what_is_to_be_read_is_not_there(post, tmp_path):
    with consuming(str(tmp_path / "events.duckdb"), *post.options()) as consumer:
        code, _ = consumer.end()
        assert code == 2
        assert "--create" in consumer.said
    with consuming(str(tmp_path / "events.duckdb"), *post.options(), "--create", "--until-idle", "1") as consumer:
        assert consumer.end()[0] == 0, consumer.said


@pytest.mark.parametrize(("given", "said"), [
    ({"address": "http://host", "name": "a"}, "no broker"), ({"address": "nats://host", "name": ""}, "--subject"), ({"address": "kafka://h", "name": "a", "create": True}, "topic"),
    ({"address": "nats://h", "name": "a", "create": True}, "needs a name"), ({"address": "redis://h", "name": "a", "group": "a b"}, "group")])
def test_places_that_make_no_sense_are_refused(given, said):
    with pytest.raises(UsageError, match=said):
        Place(**given)


@pytest.mark.parametrize(("address", "names", "said"), [
    ("redis://h", {"queue": "a"}, "--stream NAME"), ("nats://h", {"subject": "a", "topic": "b"}, "--topic says nothing"), ("amqp://h", {"stream": "a"}, "--queue NAME"),
    ("", {}, "no broker")])
def test_options_of_another_broker_are_refused(address, names, said):
    with pytest.raises(UsageError) as refused:
        place_of(address, names=names)
    assert said in str(refused.value)


def test_entries_of_a_redis_stream():
    assert entry_body({b"data": b"{}", b"more": b"x"}) == entry_body({b"anything": b"{}"}) == b"{}"
    assert entry_body({b"a": b"1", b"b": b"2"}) == b"fields without data: a, b"


def test_what_fast_stream_publishes_to_redis_is_read(tmp_path):
    require("redis")
    from faststream.redis import RedisBroker

    post = Post("redis")

    async def publish():
        async with RedisBroker(post.address, logger=None) as broker:
            await broker.publish(event(1), stream=post.name)

    asyncio.run(publish())
    try:
        with consuming(str(tmp_path / "events.duckdb"), *post.options(), "--until-idle", "1") as consumer:
            assert "1 accepted" in consumer.end()[1]
    finally:
        post.remove()


def test_kafka_offsets_are_committed_behind_the_write():
    """By configuration, and on FastStream's broker in memory: there is no Kafka here to test on."""
    pytest.importorskip("faststream", reason="the extra broker is not installed")
    from faststream.kafka import TestKafkaBroker
    from faststream.kafka.schemas import Topic
    from faststream.middlewares import AckPolicy

    kept = []

    async def keep(found):
        kept.append(list(found))

    link = link_to(Place(address="kafka+ssl://ann:se%40cret@one:9092,two:9093", name="events", group="shop"), keep)
    (subscriber,) = link.broker.subscribers
    assert subscriber.ack_policy is AckPolicy.MANUAL
    assert (subscriber.group_id, list(subscriber.topics)) == ("shop", [Topic("events")])
    settings = subscriber._connection_args
    assert (settings["enable_auto_commit"], settings["auto_offset_reset"]) == (False, "earliest")
    assert link.broker._connection_kwargs["bootstrap_servers"] == ["one:9092", "two:9093"]

    async def publish():
        async with TestKafkaBroker(link.broker):
            await link.broker.publish_batch(b"one", b"two", topic="events")

    asyncio.run(publish())
    assert kept == [[b"one", b"two"]]
