"""Serving lists: latency at 100 requests a second with 500 of 100,000 items ranked, and a soak in which a model is exchanged and both stores go away.

    python bench/serving.py [--items 100000] [--rate 100] [--seconds 60] [--soak 300] [--backend torch]

Last line: one JSON object. `recspect serve` is a process of its own, with events in PostgreSQL (`RECSPECT_TEST_POSTGRES`, else postgres on 127.0.0.1) and what users did
lately in Redis (`RECSPECT_TEST_REDIS`, else 127.0.0.1); where one is not reached the figures say so. This process asks: requests begin at fixed times whether earlier
ones are answered or not, and each is timed from the moment at which it should have begun.

- `p95_ms`, `p50_ms`, `p99_ms`, `requests_per_second` (answered), `errors`: of the first part. `ranked`: candidates of a typical request.
- `soak_errors`, `soak_p95_ms`, `degraded`: of the soak at half the rate. In it another model is put in place after a fifth; Redis is away from two fifths on and
  PostgreSQL from three fifths on, a tenth of the time each. Away means: connections are cut and new ones are refused, by a relay between, as when a server is killed.
- `events_refused`: events that were answered with 503 while PostgreSQL was away, as they must be; they were sent again. `events_kept`, `events_sent`: at the end.
- `seen_seconds`: from a click until the same user's list is another one, median over 20 users.
"""

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

POSTGRES = os.environ.get("RECSPECT_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS = os.environ.get("RECSPECT_TEST_REDIS", "redis://127.0.0.1:6379")
THREADS = 24


def relay(port, target):
    """Passes bytes on between a port and a server, in a process of its own; killing it cuts every connection."""
    import asyncio

    async def pump(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader, writer):
        try:
            other_reader, other_writer = await asyncio.open_connection(*target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))

    async def serve():
        async with await asyncio.start_server(accept, "127.0.0.1", port) as server:
            await server.serve_forever()

    asyncio.run(serve())


class Door:
    """A relay that can be shut and opened."""

    def __init__(self, host, port):
        self.target, self.port = (host, port), free_port()
        self.open()

    def open(self):
        self.process = multiprocessing.get_context("spawn").Process(target=relay, args=(self.port, self.target), daemon=True)
        self.process.start()

    def shut(self):
        self.process.kill()
        self.process.join()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def reached(host, port):
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    return False


def build(folder, items):
    """Two recommenders of one world, of different seeds; a DeepFM ranks what item-kNN, popularity and freshness bring."""
    from recspect.models import ModelConfig
    from recspect.recommending.pipeline import RecommenderSettings, build_recommender
    from recspect.recommending.pipeline.sources_plain import FreshSource, ItemKNNSource, PopularSource
    from recspect.training.config import TrainingConfig
    from recspect.training.loop import train
    from recspect.worlds import World, split_by_time

    world = World(users=20_000, items=items, rows=6 * items, popularity=0.5)
    rows = split_by_time(world.exposures())[0]
    settings = RecommenderSettings(sources=(ItemKNNSource(), PopularSource(), FreshSource()), per_source=300, candidates=500)
    for seed, name in enumerate(("first", "second")):
        config = TrainingConfig(model=ModelConfig(name="deepfm", hidden=(128, 64)), maximum_epochs=1, observe_every=0, histograms_every=0, seed=seed)
        run = train(rows, world.schema, config, folder / "runs" / name)
        build_recommender(rows, run=run, settings=settings).save(folder / "models" / name)
        print(f"built {name}", flush=True)


def ask(connection, path, content):
    body = json.dumps(content)
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


class Load:
    """Requests at a fixed rate for some seconds; afterwards what was answered when."""

    def __init__(self, port, users, rate, seconds):
        self.port, self.users, self.rate, self.total = port, users, rate, int(rate * seconds)
        self.taken, self.errors, self.degraded = [], [], 0
        self._next, self._lock = 0, threading.Lock()
        self.began = time.perf_counter() + 0.2
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(THREADS)]
        for thread in self.threads:
            thread.start()

    def join(self):
        for thread in self.threads:
            thread.join()
        return self

    def _work(self):
        connection = None
        rng = np.random.default_rng()
        while True:
            with self._lock:
                number, self._next = self._next, self._next + 1
            if number >= self.total:
                return
            due = self.began + number / self.rate
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                status, answer = ask(connection, "/v1/recommend", {"user": self.users[rng.integers(len(self.users))], "k": 10})
                fault = "" if status == 200 and len(answer["items"]) == 10 else f"{status} {str(answer)[:200]}"
                self.degraded += bool(answer.get("degraded"))
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection, fault = None, f"{type(error).__name__}: {error}"
            if fault:
                self.errors.append(fault)
            else:
                self.taken.append(time.perf_counter() - due)


class Clicks(threading.Thread):
    """Five clicks a second, each sent until it is kept."""

    def __init__(self, port, users, items):
        super().__init__(daemon=True)
        self.port, self.users, self.items = port, users, items
        self.stop, self.sent, self.refused, self.prefix = threading.Event(), 0, 0, uuid.uuid4().hex[:8]

    def run(self):
        rng, connection = np.random.default_rng(), None
        while not self.stop.wait(0.2):
            event = {"event_id": f"{self.prefix}-{self.sent}", "kind": "click", "user": str(self.users[rng.integers(len(self.users))]), "item": str(self.items[rng.integers(len(self.items))]),
                     "time": datetime.now(UTC).isoformat()}
            while not self.stop.is_set():
                try:
                    connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                    status, _ = ask(connection, "/v1/events", event)
                except (OSError, http.client.HTTPException, ValueError):
                    connection, status = None, 0
                if status == 202:
                    self.sent += 1
                    break
                self.refused += 1
                time.sleep(0.5)


def seen_after(port, users, items):
    """Seconds from a click to another list, by user."""
    found = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    rng = np.random.default_rng(5)
    for user in users[:20]:
        before = [place["item"] for place in ask(connection, "/v1/recommend", {"user": user, "k": 10})[1]["items"]]
        began = time.perf_counter()
        for item in (before[0], items[rng.integers(len(items))]):  # the first of the list is one that the user has seen afterwards
            ask(connection, "/v1/events", {"event_id": uuid.uuid4().hex, "kind": "click", "user": str(user), "item": str(item), "time": datetime.now(UTC).isoformat()})
        while time.perf_counter() - began < 10:
            if [place["item"] for place in ask(connection, "/v1/recommend", {"user": user, "k": 10})[1]["items"]] != before:
                found.append(time.perf_counter() - began)
                break
            time.sleep(0.02)
        else:
            found.append(float("inf"))
    return statistics.median(found)


def p(taken, share):
    return round(1000 * float(np.percentile(taken, share)), 1) if taken else None


def main():
    options = argparse.ArgumentParser()
    for name, value in (("items", 100_000), ("rate", 100), ("seconds", 60), ("soak", 300)):
        options.add_argument(f"--{name}", type=int, default=value)
    options.add_argument("--backend", default="torch")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="recspect-bench-") as name:
        folder = Path(name)
        build(folder, asked.items)
        figures = serve(folder, asked)
    print(json.dumps(figures | {"items": asked.items, "backend": asked.backend, "soak_seconds": asked.soak}))


def serve(folder, asked):
    from recspect.recommending.pipeline import Recommender

    known = Recommender.load(folder / "models" / "first")
    users, items = known.audience.ids.values.tolist(), known.items.ids.values.tolist()
    del known
    postgres, redis = urlsplit(POSTGRES), urlsplit(REDIS)
    with_postgres, with_redis = reached(postgres.hostname, postgres.port or 5432), reached(redis.hostname, redis.port or 6379)
    schema = f"bench_{uuid.uuid4().hex[:8]}"
    doors, arguments = {}, []
    if with_postgres:
        doors["postgres"] = Door(postgres.hostname, postgres.port or 5432)
        credentials = f"{postgres.netloc.rpartition('@')[0]}@" if "@" in postgres.netloc else ""
        direct = f"postgresql://{credentials}{postgres.hostname}:{postgres.port or 5432}{postgres.path}"
        import psycopg

        with psycopg.connect(direct, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{schema}"')
        arguments += ["--store", f"postgresql://{credentials}127.0.0.1:{doors['postgres'].port}/{schema}"]
    else:
        arguments += ["--store", str(folder / "events.duckdb")]
    if with_redis:
        doors["redis"] = Door(redis.hostname, redis.port or 6379)
        arguments += ["--recent", f"redis://127.0.0.1:{doors['redis'].port}"]
    port = free_port()
    time.sleep(2)
    command = [sys.executable, "-m", "recspect.cli", "serve", str(folder / "models" / "first"), "--models", str(folder / "models"), "--port", str(port), "--backend", asked.backend, *arguments]
    server = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        while not reached("127.0.0.1", port):
            if server.poll() is not None:
                raise SystemExit(f"the server ended with {server.returncode}")
            time.sleep(0.1)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        ranked = statistics.median(sum(row["ranking_score"] is not None for row in ask(connection, "/v1/recommend", {"user": user, "k": 10, "trace": True})[1]["trace"]["candidates"]) for user in users[:20])
        Load(port, users, asked.rate, 5).join()  # warming up
        steady = Load(port, users, asked.rate, asked.seconds).join()
        print(f"steady: p95 {p(steady.taken, 95)} ms, {len(steady.errors)} errors {steady.errors[:2]}", flush=True)
        seen = seen_after(port, users, items)
        soak, clicks = Load(port, users, asked.rate / 2, asked.soak), Clicks(port, users, items)
        clicks.start()

        def at(share):
            time.sleep(max(0.0, soak.began + share * asked.soak - time.perf_counter()))

        at(0.2)
        exchanged = ask(http.client.HTTPConnection("127.0.0.1", port, timeout=30), "/v1/models", {"folder": "second"})
        print("exchanged:", exchanged, flush=True)
        for share, name in ((0.4, "redis"), (0.6, "postgres")):
            if name in doors:
                at(share)
                doors[name].shut()
                at(share + 0.1)
                doors[name].open()
        soak.join()
        clicks.stop.set()
        clicks.join()
        time.sleep(1)
        kept = None
        if with_postgres:
            with psycopg.connect(direct.rpartition("/")[0] + f"/{schema}") as database:
                name = database.execute("SELECT format('%I.%I', table_schema, table_name) FROM information_schema.columns WHERE column_name = 'event_id' AND table_name = 'events'").fetchone()[0]
                kept = database.execute(f"SELECT count(DISTINCT event_id) FROM {name} WHERE event_id LIKE %s", (f"{clicks.prefix}-%",)).fetchone()[0]
    finally:
        server.terminate()
        server.wait(timeout=30)
        for door in doors.values():
            door.shut()
        if with_postgres:
            with psycopg.connect(direct, autocommit=True) as connection:
                connection.execute(f'DROP DATABASE "{schema}" WITH (FORCE)')
    for error in [*steady.errors, *soak.errors][:5]:
        print(error, flush=True)
    took = asked.seconds
    return {"p95_ms": p(steady.taken, 95), "requests_per_second": round(len(steady.taken) / took, 1), "errors": len(steady.errors) + len(soak.errors), "p50_ms": p(steady.taken, 50),
            "p99_ms": p(steady.taken, 99), "ranked": ranked, "soak_errors": len(soak.errors), "soak_answers": len(soak.taken), "soak_p95_ms": p(soak.taken, 95), "degraded": soak.degraded,
            "events_sent": clicks.sent, "events_kept": kept, "events_refused": clicks.refused, "seen_seconds": round(seen, 3), "exchanged": exchanged[0] == 200, "postgres": with_postgres, "redis": with_redis}


if __name__ == "__main__":
    main()
