"""After kill -9 under load, every acknowledged event is there exactly once; and a person who was forgotten is not in the bytes of the file."""
# ruff: noqa: F811 - fixtures are imported and then named as arguments

import subprocess
import sys
import time
from pathlib import Path

import pytest

from event_stores import event, places, taken  # noqa: F401
from recspect.errors import DataError
from recspect.events.event import NAME_CHARACTERS
from recspect.events.pseudonyms import Pseudonyms
from recspect.events.store import open_store
from recspect.events.store_duckdb import DuckdbStore

WRITER = Path(__file__).with_name("event_writer.py")


def killed_writer(address, first, batches, seconds):
    """A writer's last acknowledged number, after it was killed in the midst of writing."""
    with subprocess.Popen([sys.executable, str(WRITER), address, str(first)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "ready\n"
        said = [writer.stdout.readline() for _ in range(batches)]
        time.sleep(seconds)
        writer.kill()
        said += [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    return int(said[-1])


def test_acknowledged_events_survive_kills_and_are_there_once(places):
    address = places.new()
    acknowledged = 0
    for batches, seconds in ((1, 0.0), (6, 0.013), (5, 0.05)):
        acknowledged = max(acknowledged, killed_writer(address, acknowledged, batches, seconds))
    assert acknowledged >= 100
    deadline = time.monotonic() + 20  # a server notices a little later that the writer is gone
    while True:
        store = open_store(address)
        ids = [row for table in store.read().tables(["event_id"]) for row in table["event_id"].to_pylist()]
        if {f"e-{n}" for n in range(acknowledged)} <= set(ids) or time.monotonic() > deadline:
            break
        store.close()
    store.close()
    assert len(ids) == len(set(ids))
    assert {f"e-{n}" for n in range(acknowledged)} <= set(ids)


# ------------------------------------------------------------------ the DuckDB file


def holds(path, text):
    return any(text.encode() in file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


def test_after_forgetting_the_bytes_of_the_id_are_gone_from_the_file(tmp_path):
    path = tmp_path / "events.duckdb"
    store = open_store(path)
    person = "zanzibar-4711-person"
    for start in range(0, 6000, 1000):
        store.append(taken(*(event(n, user=person if n % 7 == 0 else f"user-{n % 50}", attributes={"said": f"{person} {n}"} if n % 7 == 0 else None)
                             for n in range(start, start + 1000))), taken(event(start, user=person, kind="view"), {"who": person}))
    store.close()
    assert holds(path, person)
    store = open_store(path)
    erased = store.forget(person)
    assert (erased.events, erased.rejects) == (858, 7)  # the same text from the same place is kept once
    assert store.append(taken(event(9_999))).new == (True,)  # the store goes on, with the new file
    store.close()
    assert not holds(path, person)
    assert holds(path, "user-49")
    again = open_store(path)
    assert again.count() == 6000 - 858 + 1
    again.close()


def test_erasing_that_was_killed_is_finished_by_whoever_opens_the_file(tmp_path, monkeypatch):
    path = tmp_path / "events.duckdb"
    store = open_store(path)
    store.append(taken(event(1, user="zanzibar-4711"), event(2, user="bob")))
    store.close()
    store = open_store(path)
    monkeypatch.setattr(DuckdbStore, "_rewrite", lambda self: None)  # as if the process ended here
    store.forget("zanzibar-4711")
    store.close()
    (tmp_path / "events.duckdb.rewriting").write_bytes(b"half a file")
    assert holds(path, "zanzibar-4711")
    monkeypatch.undo()
    store = open_store(path)
    assert store.count() == 1
    store.close()
    assert not holds(path, "zanzibar-4711")
    assert [file.name for file in tmp_path.iterdir()] == ["events.duckdb"]


def test_erasing_waits_for_readers_and_says_when_one_does_not_end(tmp_path, monkeypatch):
    monkeypatch.setattr("recspect.events.store_duckdb.READERS_SECONDS", 0.2)
    store = open_store(tmp_path / "events.duckdb")
    store.append(taken(*(event(n) for n in range(10))))
    reading = store.read().tables()
    next(reading)
    with pytest.raises(DataError, match="being read"):
        store.forget("user-1")
    reading.close()
    assert store.forget("user-1").events > 0
    store.close()


def test_a_second_process_is_told_that_the_file_has_one_writer(tmp_path):
    path = tmp_path / "events.duckdb"
    store = open_store(path)
    done = subprocess.run([sys.executable, "-c", f"from recspect.events.store import open_store; open_store({str(path)!r})"], capture_output=True,
                          text=True, timeout=60, check=False)
    store.close()
    assert "another process has" in done.stderr
    assert "PostgreSQL" in done.stderr


def test_a_file_that_is_no_store_is_said_and_left_alone(tmp_path):
    other = tmp_path / "other.duckdb"
    other.write_bytes(b"something else" * 1000)
    with pytest.raises(DataError, match="cannot be opened"):
        open_store(other)
    assert other.read_bytes() == b"something else" * 1000


def test_the_key_of_pseudonyms_is_not_in_the_file_nor_the_ids(tmp_path):
    path = tmp_path / "events.duckdb"
    names = Pseudonyms(b"zanzibar-key-zanzibar")
    store = open_store(path, pseudonyms=names)
    person = "zanzibar-4711"
    store.append(taken(event(1, user=person)), taken(event(2, user=person, kind="view"), f'{{"user": "{person}', event(3, user=person * NAME_CHARACTERS)))
    store.close()
    assert not holds(path, "zanzibar")
    assert holds(path, names.name(person))
