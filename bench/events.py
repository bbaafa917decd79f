"""Events over HTTP: how many a second, and what 20 kill -9 of the server under load cost.

`recspect events serve` runs as a process of its own, on a DuckDB file and, where a server is reached, in PostgreSQL (`RECSPECT_TEST_POSTGRES`, else postgres on
127.0.0.1). Four clients post batches of 100 (and, for the second figure, 16 clients single events) over open connections and send again what was not answered.
The peer writes the same events into a table of the same columns and key on the same PostgreSQL, one row and one commit at a time, without HTTP.

Killed: at a random moment of 0.1 to 0.8 s of load, 20 times per store, then started again. Lost: acknowledged and not in the store. Doubled: in the store more than once, or
called new twice. Prints one JSON object as its last line.

    python bench/events.py [--kills 20] [--seconds 6]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from recspect.events.store import open_store

POSTGRES = os.environ.get("RECSPECT_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
BATCH, CLIENTS, SINGLE_CLIENTS = 100, 4, 16


class Server:
    """`recspect events serve` on a free port; `kill` and `start` as often as one likes."""

    def __init__(self, store: str) -> None:
        self.store = store
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "recspect.cli", "events", "serve", "--store", self.store, "--port", str(self.port)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}")
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Client(threading.Thread):
    """Posts batches until it is told to stop; what was not answered is sent again."""

    def __init__(self, port: int, name: str, size: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.port, self.prefix, self.size, self.stop = port, name, size, stop
        self.acknowledged: list[str] = []
        self.accepted: list[str] = []

    def run(self) -> None:
        connection = None
        number = 0
        while not self.stop.is_set():
            moment = datetime.now(UTC).isoformat()
            events = [{"event_id": f"{self.prefix}-{n}", "kind": "click", "user": f"user-{n % 997}", "item": f"item-{n % 4999}", "time": moment, "request": f"r-{n // 10}",
                       "position": n % 10 + 1, "propensity": 0.5} for n in range(number, number + self.size)]
            body = json.dumps({"events": events} if self.size > 1 else events[0])
            while not self.stop.is_set():
                try:
                    connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                    connection.request("POST", "/v1/events", body, {"Content-Type": "application/json"})
                    answer = connection.getresponse()
                    told = json.loads(answer.read())
                except (OSError, http.client.HTTPException, ValueError):
                    connection = None
                    time.sleep(0.02)
                    continue
                if answer.status == 202:
                    self.acknowledged += [event["event_id"] for event in events]
                    self.accepted += [result["event_id"] for result in told["results"] if result["status"] == "accepted"]
                    number += self.size
                    break
                time.sleep(0.05)  # 503: not kept


@contextlib.contextmanager
def load(port: int, name: str, clients: int, size: int):
    stop = threading.Event()
    threads = [Client(port, f"{name}-{k}", size, stop) for k in range(clients)]
    for thread in threads:
        thread.start()
    yield threads
    stop.set()
    for thread in threads:
        thread.join()


def rate(server: Server, seconds: float, clients: int, size: int, name: str) -> float:
    """Acknowledged events per second, after a second of warming up."""
    with load(server.port, name, clients, size) as threads:
        time.sleep(1)
        before, began = sum(len(thread.acknowledged) for thread in threads), time.perf_counter()
        time.sleep(seconds)
        after, took = sum(len(thread.acknowledged) for thread in threads), time.perf_counter() - began
    return (after - before) / took


def killed(server: Server, kills: int, draw: random.Random) -> tuple[int, int, int]:
    """Acknowledged, lost and doubled events."""
    with load(server.port, "killed", CLIENTS, BATCH) as threads:
        for count in range(1, kills + 1):
            before = sum(len(thread.acknowledged) for thread in threads)
            while sum(len(thread.acknowledged) for thread in threads) == before:  # it is under load again
                time.sleep(0.005)
            time.sleep(draw.uniform(0.1, 0.8))
            server.kill()
            server.start()
            print(f"  kill {count}: {sum(len(thread.acknowledged) for thread in threads):,} acknowledged so far", flush=True)
        time.sleep(0.5)
    server.kill()
    acknowledged = [name for thread in threads for name in thread.acknowledged]
    twice = sum(count - 1 for count in Counter(name for thread in threads for name in thread.accepted).values())
    time.sleep(2.0)  # PostgreSQL ends what a killed client had under way
    store = open_store(server.store)
    kept = Counter(name for table in store.read().tables(["event_id"]) for name in table["event_id"].to_pylist())
    store.close()
    return len(acknowledged), sum(name not in kept for name in acknowledged), twice + sum(count - 1 for count in kept.values())


def row_by_row(seconds: float) -> float:
    """The peer: events per second by one insert and one commit each."""
    import psycopg

    table = f"bench_{uuid.uuid4().hex}"
    with psycopg.connect(POSTGRES, autocommit=True) as connection:
        connection.execute(f'CREATE TABLE {table} (event_id text PRIMARY KEY, kind text NOT NULL, "user" text NOT NULL, item text NOT NULL, "time" timestamptz NOT NULL, request text, '
                           "position integer, propensity double precision, sequence bigserial UNIQUE)")
        connection.execute(f'CREATE INDEX ON {table} ("user", "time")')
        try:
            number, began = 0, time.perf_counter()
            while time.perf_counter() - began < seconds:
                connection.execute(f"INSERT INTO {table} VALUES (%s, 'click', %s, %s, %s, %s, %s, .5) ON CONFLICT DO NOTHING",
                                   [f"e-{number}", f"user-{number % 997}", f"item-{number % 4999}", datetime.now(UTC), f"r-{number // 10}", number % 10 + 1])
                number += 1
            return number / (time.perf_counter() - began)
        finally:
            connection.execute(f"DROP TABLE {table}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seconds", type=float, default=6.0, help="of load per figure")
    chosen = options.parse_args()
    draw = random.Random(0)
    figures: dict[str, float] = {}
    schema = f"bench_{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory() as folder:
        stores = {"": str(Path(folder) / "events.duckdb")}
        if reached():
            stores["_postgres"] = f"{POSTGRES}?recspect_schema={schema}"
        else:
            print("PostgreSQL is not reached: only DuckDB is measured")
        lost = doubled = acknowledged = 0
        try:
            for suffix, store in stores.items():
                server = Server(store)
                try:
                    figures[f"events_per_second{suffix}"] = round(rate(server, chosen.seconds, CLIENTS, BATCH, "batches"))
                    figures[f"single_events_per_second{suffix}"] = round(rate(server, chosen.seconds, SINGLE_CLIENTS, 1, "single"))
                    print(f"{suffix or 'duckdb'}: {figures}", flush=True)
                    found = killed(server, chosen.kills, draw)
                finally:
                    server.kill()
                print(f"{suffix or 'duckdb'}: {found[0]:,} acknowledged over {chosen.kills} kills, {found[1]} lost, {found[2]} doubled", flush=True)
                acknowledged, lost, doubled = acknowledged + found[0], lost + found[1], doubled + found[2]
            if "_postgres" in stores:
                peer = row_by_row(chosen.seconds)
                figures["row_by_row_per_second"] = round(peer)
                figures["speedup_vs_row_by_row"] = round(figures["events_per_second_postgres"] / peer, 2)
                figures["speedup_single_vs_row_by_row"] = round(figures["single_events_per_second_postgres"] / peer, 2)
        finally:
            drop(schema)
    print(json.dumps({**figures, "acknowledged": acknowledged, "kills": chosen.kills * len(stores), "lost": lost, "doubled": doubled}))


def reached() -> bool:
    try:
        import psycopg

        psycopg.connect(POSTGRES, connect_timeout=3).close()
    except Exception:
        return False
    return True


def drop(schema: str) -> None:
    if reached():
        import psycopg

        with psycopg.connect(POSTGRES, autocommit=True) as connection:
            connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')


if __name__ == "__main__":
    main()
