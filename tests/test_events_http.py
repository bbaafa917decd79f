"""`POST /v1/events` over a real socket: durable before it is answered, one answer per event, and every error in one shape."""
# ruff: noqa: F811 - fixtures are imported and then named as arguments

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import httpx
import pytest

from event_stores import event, places, store  # noqa: F401
from recspect.errors import UsageError
from recspect.events.store import open_store
from recspect.events.token import find_token, is_loopback

pytest.importorskip("fastapi", reason="fastapi is not installed")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def serving(where, *options, **environment):
    """`recspect events serve` in a process of its own: its address and the process."""
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "recspect.cli", "events", "serve", "--store", where, "--port", str(port), *options],
                          env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(300):
                try:
                    httpx.get(f"{address}/health", timeout=5)
                    break
                except httpx.TransportError:
                    assert process.poll() is None, process.stderr.read()
                    time.sleep(0.1)
            yield address, process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    where = str(tmp_path_factory.mktemp("served") / "events.duckdb")
    with serving(where) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        yield client


def sent(number, **changes):
    return event(0, event_id=f"e-{number}", **changes)


def test_one_event_and_a_batch(served):
    one = served.post("/v1/events", json=sent("one"))
    assert one.status_code == 202
    assert one.json() == {"accepted": 1, "duplicates": 0, "rejected": 0, "results": [{"status": "accepted", "event_id": "e-one"}]}
    batch = served.post("/v1/events", json={"events": [sent("one"), sent("two"), sent("three", kind="view"), {}]})
    assert batch.status_code == 202
    body = batch.json()
    assert (body["accepted"], body["duplicates"], body["rejected"]) == (1, 1, 2)
    assert [each["status"] for each in body["results"]] == ["duplicate", "accepted", "rejected", "rejected"]
    assert body["results"][2]["code"] == "unknown_kind"
    assert "exposure, click" in body["results"][2]["reason"]


@pytest.mark.parametrize(("content", "status", "code"), [
    (b"", 400, "not_json"), (b"{", 400, "not_json"), (b"[" * 100_000, 400, "json_too_deep"), (b"\xff", 400, "not_json"), (b'{"value": NaN}', 400, "not_json"),
    (b"[]", 422, "not_an_object"), (b"3", 422, "not_an_object"), (b"{}", 422, "missing_field"), (b'{"events": []}', 422, "not_a_batch"),
    (b'{"events": [1]}', 422, "not_a_batch"), (b'{"events": [{}], "more": 1}', 422, "not_a_batch"), (b'{"events": [' + b"{}," * 1000 + b"{}]}", 422, "not_a_batch"),
    (b'{"a": "' + b"x" * 2**20 + b'"}', 413, "too_large"), (json.dumps(event(1, item="a\0b")).encode(), 422, "control_character"),
    (json.dumps(event(1, item="\ud800")).encode(), 422, "control_character"), (json.dumps(event(1, position=2**80)).encode(), 422, "position_out_of_range"),
])
def test_what_is_wrong_is_answered_in_one_shape(served, content, status, code):
    found = served.post("/v1/events", content=content, headers={"Content-Type": "application/json"})
    assert (found.status_code, found.json()["error"]["code"]) == (status, code)
    assert set(found.json()["error"]) == {"code", "message", "hint"}


def test_other_paths_methods_and_types(served):
    for found, status in [(served.get("/v1/events"), 405), (served.get("/nothing"), 404), (served.post("/v1/events", content=b"a=1", headers={"Content-Type": "text/plain"}), 415)]:
        assert found.status_code == status
        assert set(found.json()["error"]) == {"code", "message", "hint"}


def test_health_metrics_and_description(served):
    served.post("/v1/events", json=sent("metric"))
    assert served.get("/health").json() == {"status": "ok"}
    assert 'recspect_events_total{outcome="accepted"}' in served.get("/metrics").text
    described = served.get("/openapi.json").json()
    assert set(described["paths"]["/v1/events"]["post"]["responses"]) == {"202", "400", "413", "415", "422", "503"}


def test_many_clients_at_once_are_answered_for_their_own_events(served):
    def send(which):
        batch = [sent(f"many-{n}" if n < 5 else f"many-{which}-{n}") for n in range(10)]  # five are everybody's
        return served.post("/v1/events", json={"events": batch}).json()

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, range(40)))
    assert sum(answer["accepted"] for answer in answers) == 40 * 5 + 5
    assert sum(answer["duplicates"] for answer in answers) == 40 * 5 - 5
    assert all([each["event_id"] for each in answer["results"]][5:] == [f"e-many-{which}-{n}" for n in range(5, 10)] for which, answer in enumerate(answers))


def test_what_was_answered_survives_a_kill_and_stopping_answers_what_waits(places):
    where = places.new()
    with serving(where) as (address, process):
        with httpx.Client(base_url=address, timeout=30) as client:
            for n in range(20):
                assert client.post("/v1/events", json=sent(n)).status_code == 202
        process.kill()
        process.wait()
    with serving(where) as (address, process), httpx.Client(base_url=address, timeout=30) as client:
        assert client.post("/v1/events", json={"events": [sent(n) for n in range(21)]}).json()["duplicates"] == 20
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    kept = open_store(where)
    assert kept.count() == 21
    kept.close()


def test_a_token_is_asked_for(tmp_path):
    token = "0123456789abcdef"
    with serving(str(tmp_path / "events.duckdb"), RECSPECT_TOKEN=token) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        for headers in ({}, {"Authorization": "Bearer 0123456789abcdeg"}, {"Authorization": f"Basic {token}"}, {"Authorization": "Bearer é".encode()}):
            found = client.post("/v1/events", json=event(1), headers=headers)
            assert found.status_code == 401
            assert found.json()["error"]["code"] == "unauthorized"
            assert found.headers["www-authenticate"] == "Bearer"
        assert client.post("/v1/events", json=event(1), headers={"Authorization": f"Bearer {token}"}).status_code == 202


def test_no_token_no_port_beyond_this_machine(tmp_path, monkeypatch):
    done = subprocess.run([sys.executable, "-m", "recspect.cli", "events", "serve", "--store", "s.duckdb", "--host", "0.0.0.0"], cwd=tmp_path,
                          env={name: value for name, value in os.environ.items() if name != "RECSPECT_TOKEN"}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no token was given" in " ".join(done.stderr.split())
    assert not (tmp_path / "s.duckdb").exists()
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "example.org")] == [True, True, True, False, False, False]
    monkeypatch.setenv("RECSPECT_TOKEN", "short")
    with pytest.raises(UsageError, match="5 characters"):
        find_token()


@pytest.mark.slow
@pytest.mark.parametrize("token", [None, "0123456789abcdef"])
def test_schemathesis_finds_nothing(store, token):
    """Requests made of the OpenAPI description, with every check of schemathesis."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, given, settings

    from recspect.events.http import events_app

    app = events_app(store, token=token)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    headers = {"Authorization": f"Bearer {token}"} if token else {}

    @schema.hook
    def map_body(_context, body):
        if isinstance(body, dict) and isinstance(body.get("time"), str) and len(body["time"]) > 18 and body["time"][4:5] == "-":
            body = {**body, "time": datetime.now(UTC).isoformat()}  # "not in the future" is nothing that a description can say
        return body

    tried = 0
    for operation in (found.ok() for found in schema.get_all_operations()):
        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None)
        @given(case=operation.as_strategy())
        def call(case):
            nonlocal tried
            tried += 1
            case.call_and_validate(headers=headers)

        call()
    assert tried > 150
