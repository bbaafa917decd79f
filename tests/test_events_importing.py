"""`recspect events import`, `forget` and `labels` as a user meets them, on files of every form and on hostile ones."""
# ruff: noqa: F811 - fixtures are imported and then named as arguments

import json
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime

import polars as pl
import pytest

from event_stores import event, places, store  # noqa: F401
from recspect.errors import DataError, UsageError
from recspect.events.event import EventKind
from recspect.events.importing import Mapped, import_files
from recspect.events.store import open_store


def recspect(*arguments, **settings):
    return subprocess.run([sys.executable, "-m", "recspect.cli", *map(str, arguments)], capture_output=True, text=True, timeout=180, check=False, **settings)


def events_of(store):
    return {row["event_id"]: row for table in store.read().tables() for row in table.to_pylist()}


FRAME = pl.DataFrame({
    "event_id": [f"e{n}" for n in range(5)], "kind": ["exposure", "click", "view", "rating", "click"], "user": ["007", "8", "9", "10", None],
    "item": ["a", "b", "c", "d", "e"], "time": ["2026-05-01T12:00:00Z"] * 5, "position": [1, None, None, None, None], "value": [None, None, None, 4.5, None],
    "comment": ["x"] * 5,
})


@pytest.mark.parametrize("form", ["parquet", "csv", "tsv", "jsonl"])
def test_every_form_of_file_gives_the_same_events_and_importing_again_adds_none(store, tmp_path, form):
    path = tmp_path / f"log.{form}"
    if form == "parquet":
        FRAME.write_parquet(path)
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps({k: v for k, v in row.items() if k != "comment"}) for row in FRAME.to_dicts()) + "\n\n")
    else:
        FRAME.write_csv(path, separator="\t" if form == "tsv" else ",")
    done = import_files([path], store)
    assert (done.rows, done.accepted, done.duplicates, done.rejected) == (5, 3, 0, Counter(unknown_kind=1, missing_field=1))
    assert list(done.ignored) == ([] if form == "jsonl" else ["comment"])
    found = events_of(store)
    assert (found["e0"]["user"], found["e0"]["position"], found["e3"]["value"]) == ("007", 1, 4.5)
    again = import_files([path], store)
    assert (again.accepted, again.duplicates, store.count(), store.count_rejects()) == (0, 3, 3, 2)


def test_columns_are_mapped_units_and_zones_given_and_ids_derived(store, tmp_path):
    pl.DataFrame({"u": [1, 2, 2], "movie": [10, 20, 20], "stars": [4, 5, 5], "when": [881_250_949, 881_250_950, 881_250_950], "title": ["Heat", None, None]}).write_parquet(tmp_path / "ratings.parquet")
    mapped = Mapped(columns={"u": "user", "movie": "item", "stars": "value", "when": "time", "title": "attributes.title"}, kind=EventKind.RATING, time_unit="s")
    done = import_files([tmp_path / "ratings.parquet"], store, mapped)
    assert (done.accepted, done.duplicates) == (2, 1)  # two equal rows are one event
    one = next(row for row in events_of(store).values() if row["user"] == "1")
    assert (one["time"], one["attributes"]) == (datetime(1997, 12, 4, 15, 55, 49, tzinfo=UTC), '{"title": "Heat"}')
    pl.DataFrame({"user": ["a"], "item": ["b"], "time": [datetime(2026, 5, 1, 12)]}).write_parquet(tmp_path / "naive.parquet")  # noqa: DTZ001
    naive = Mapped(kind=EventKind.CLICK)
    assert import_files([tmp_path / "naive.parquet"], store, naive).rejected == Counter(time_without_zone=1)
    assert import_files([tmp_path / "naive.parquet"], store, Mapped(kind=EventKind.CLICK, time_zone="Europe/Berlin")).accepted == 1
    assert datetime(2026, 5, 1, 10, tzinfo=UTC) in [row["time"] for row in events_of(store).values()]


def test_missing_values_of_frames_are_missing(store, tmp_path):
    pl.DataFrame({"event_id": ["a", "b"], "kind": ["exposure"] * 2, "user": ["u"] * 2, "item": ["i"] * 2, "time": ["2026-05-01T12:00:00Z"] * 2,
                  "position": [1.0, float("nan")], "propensity": [float("inf"), float("nan")]}).write_parquet(tmp_path / "log.parquet")
    assert import_files([tmp_path / "log.parquet"], store).rejected == Counter(not_finite=1)
    assert events_of(store)["b"]["position"] is None


def test_hostile_lines_become_rejects_and_the_rest_is_kept(store, tmp_path):
    lines = [json.dumps(event(1)).encode(), b"\xff\xfe\x00", b"[" * 100_000, b'{"event_id": "x", "event_id": "y"}', b"null", b'"' + b"x" * 100_000,
             json.dumps(event(2, item="<script>", user="'; DROP TABLE events; --", attributes={"t": "ד\u202e" * 1000})).encode(),
             json.dumps(event(3, user="a\ud800")).encode(), b'{"value": ' + b"9" * 10_000 + b"}", json.dumps(event(4, user=2**70)).encode(), json.dumps(event(5)).encode()]
    (tmp_path / "log.jsonl").write_bytes(b"\n".join(lines))
    done = import_files([tmp_path / "log.jsonl"], store)
    assert set(events_of(store)) == {"e-1", "e-2", "e-5"}
    assert done.rejected.total() == store.count_rejects() == 8
    assert max(len(row["raw"]) for row in store.rejects().to_pylist()) <= 5000


@pytest.mark.parametrize(("name", "content", "said"), [
    ("log.parquet", b"PAR1 and nothing else", "damaged"), ("log.xlsx", b"x", "expected .parquet"), ("log.csv", b"a,b\n1,2\n", "no column for 'kind'"),
    ("log.csv", b"", "damaged"), ("missing.csv", None, "no file"),
])
def test_a_file_that_cannot_be_read_is_said_before_anything_is_kept(store, tmp_path, name, content, said):
    FRAME.write_parquet(tmp_path / "good.parquet")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        import_files([tmp_path / "good.parquet", tmp_path / name], store) if "column" not in said else import_files([tmp_path / name], store)
    assert store.count() == 0


def test_a_mapping_that_makes_no_sense_is_said():
    with pytest.raises(UsageError, match="no 'who'"):
        Mapped(columns={"u": "who"})
    with pytest.raises(UsageError, match="no time zone"):
        Mapped(time_zone="Mars/Olympus")


def test_the_commands(places, tmp_path):
    where = places.new()
    FRAME.write_csv(tmp_path / "log.csv")
    done = recspect("events", "import", tmp_path / "log.csv", "--store", where, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 accepted, 0 duplicates, 2 rejected (" in done.stdout
    assert "comment" in done.stderr
    forgotten = recspect("events", "forget", "9", "--store", where)
    assert forgotten.stdout == "erased 0 events and 1 rejects\n"
    immature = recspect("events", "labels", "--store", where, "--out", tmp_path / "rows.parquet")
    assert immature.returncode == 2
    assert "no mature exposure" in immature.stderr
    opened = open_store(where)
    assert opened.count() == 3
    opened.close()


def test_the_commands_under_pseudonyms(places, tmp_path):
    where, key = places.new(), tmp_path / "key.txt"
    key.write_text("0123456789abcdef0123456789abcdef\n")
    FRAME.write_csv(tmp_path / "log.csv")
    recspect("events", "import", tmp_path / "log.csv", "--store", where, "--pseudonym-key", key)
    refused = recspect("events", "forget", "8", "--store", where)
    assert refused.returncode == 2
    assert "no key was given" in " ".join(refused.stderr.split())
    assert recspect("events", "forget", "8", "--store", where, "--pseudonym-key", key).stdout == "erased 1 events and 0 rejects\n"


def test_a_file_of_which_no_row_is_an_event_is_an_error_that_says_why(tmp_path):
    pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "time": ["yesterday", "today"]}).write_csv(tmp_path / "log.csv")
    done = recspect("events", "import", "log.csv", "--kind", "click", "--store", "s.duckdb", cwd=tmp_path)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "none of the 2 rows is an event" in said
    assert "'yesterday', expected ISO 8601" in said
    assert "--time-unit" in said
    assert "2 rejected (not_a_time 2)" in done.stdout
    opened = open_store(tmp_path / "s.duckdb")
    assert opened.count_rejects() == 2
    opened.close()


@pytest.mark.parametrize(("arguments", "said"), [
    (["import", "missing.csv", "--store", "s.duckdb"], "no file"), (["import", "x.csv", "--store", "s.duckdb", "--map", "u"], "COLUMN=PART"),
    (["import", "x.csv", "--store", "s.duckdb", "--kind", "view"], "no kind of event"), (["forget", "ann", "--store", "s.duckdb"], "no event store"),
    (["labels", "--store", "s.parquet", "--out", "o.parquet"], "ends in .duckdb"),
    (["import", "x.csv", "--store", "postgresql://nobody@127.0.0.1:1/none"], "not reached"),
])
def test_wrong_use_is_told_without_a_traceback(tmp_path, arguments, said):
    done = recspect("events", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
