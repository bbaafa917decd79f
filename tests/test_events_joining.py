"""Exposures with what came of them, on both stores, against rows joined by hand and by a slow independent reference."""
# ruff: noqa: F811 - fixtures are imported and then named as arguments

import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from event_stores import NOW, event, places, store, taken  # noqa: F401
from recspect.errors import DataError, UsageError
from recspect.events.joining import label_exposures
from recspect.events.store import Window
from recspect.schema import Schema

START = datetime(2026, 5, 1, tzinfo=UTC)


def at(hours):
    return (START + timedelta(hours=hours)).isoformat()


def shown(number, hours, user="ann", item="i", **changes):
    return event(number, event_id=f"x-{number}", kind="exposure", user=user, item=item, time=at(hours), **changes)


def came(number, kind, hours, user="ann", item="i", **changes):
    return event(number, event_id=f"f-{number}", kind=kind, user=user, item=item, time=at(hours), **changes)


def keep(store, *events):
    taken_events = taken(*events, received=NOW)
    assert store.append(taken_events).accepted == len(events)


def rows(found):
    return {row["event_id"]: row for table in found.rows.tables() for row in table.to_pylist()}


def test_feedback_goes_to_the_last_exposure_before_it_within_the_window(store):
    keep(store, shown(1, 0), shown(2, 5), shown(3, 50), shown(4, 0, item="other"), shown(5, 400),
         came(1, "click", 6), came(2, "click", 80), came(3, "click", -1), came(4, "click", 1, user="bob"))
    found = label_exposures(store, window_hours=24)
    labelled = rows(found)
    assert {name: row["click"] for name, row in labelled.items()} == {"x-1": 0, "x-2": 1, "x-3": 0, "x-4": 0}  # 80 h is 30 h after x-3
    assert labelled["x-2"]["click_time"] == START + timedelta(hours=6)
    assert labelled["x-1"]["click_time"] is None
    assert (found.exposures, found.immature, found.credited, found.uncredited) == (4, 1, 1, 3)


def test_feedback_that_names_a_request_goes_to_that_request(store):
    keep(store, shown(1, 0, request="r1"), shown(2, 1, request="r2"), shown(3, 2), shown(9, 500),
         came(1, "click", 3, request="r1"), came(2, "like", 3), came(3, "hide", 3, request="lost"))
    labelled = rows(label_exposures(store, window_hours=24))
    assert [labelled[f"x-{n}"]["click"] for n in (1, 2, 3)] == [1, 0, 0]
    assert [labelled[f"x-{n}"]["like"] for n in (1, 2, 3)] == [0, 0, 1]
    assert [labelled[f"x-{n}"]["hide"] for n in (1, 2, 3)] == [0, 0, 0]


def test_an_exposure_counts_when_its_longest_window_has_passed(store):
    keep(store, shown(1, 0), shown(2, 30, item="j"), shown(3, 90, item="k"), came(1, "click", 1), came(2, "purchase", 40, value=9), came(3, "click", 100, item="k"))
    both = label_exposures(store, window_hours={"click": 24, "purchase": 48})
    assert set(rows(both)) == {"x-1", "x-2"}
    assert rows(both)["x-1"]["purchase"] == 1
    assert both.immature == 1
    earlier = label_exposures(store, window_hours=24, kinds=["click", "purchase"], as_of=START + timedelta(hours=30))
    assert set(rows(earlier)) == {"x-1"}
    assert rows(earlier)["x-1"]["purchase"] == 0  # not yet seen
    assert set(rows(label_exposures(store, window_hours=5, window=Window(start=START + timedelta(hours=1))))) == {"x-2", "x-3"}


def test_dwell_adds_up_and_the_last_rating_holds(store):
    keep(store, shown(1, 0), shown(2, 0, item="j"), shown(9, 500), came(1, "dwell", 1, value=10), came(2, "dwell", 2, value=5.5),
         came(3, "rating", 1, value=2), came(4, "rating", 3, value=5), came(5, "rating", 2, value=1))
    labelled = rows(label_exposures(store, window_hours=24))
    assert (labelled["x-1"]["dwell"], labelled["x-1"]["rating"]) == (15.5, 5)
    assert labelled["x-1"]["rating_time"] == START + timedelta(hours=1)
    assert (labelled["x-2"]["dwell"], labelled["x-2"]["rating"]) == (None, None)


def reference(exposures, feedback, hours, end):
    """Each feedback event looks for its exposure among all."""
    labels = {}
    for each in feedback:
        before = [x for x in exposures if x.user == each.user and x.item == each.item and x.time <= each.time
                  and (each.request is None or x.request == each.request)]
        if before:
            last = max(before, key=lambda x: (x.time, x.event_id))
            if each.time <= last.time + timedelta(hours=hours):
                labels.setdefault(last.event_id, set()).add(each.kind.value)
    return {x.event_id: labels.get(x.event_id, set()) for x in exposures if x.time <= end - timedelta(hours=hours)}


@pytest.mark.parametrize("seed", range(3))
def test_the_query_agrees_with_a_slow_reference(store, seed):
    r = random.Random(seed)
    exposures = taken(*(shown(n, r.uniform(0, 300), user=f"u{r.randrange(4)}", item=f"i{r.randrange(3)}", request=r.choice([None, "r1", "r2"])) for n in range(150)))
    feedback = taken(*(came(n, r.choice(["click", "like", "purchase"]), r.uniform(0, 300), user=f"u{r.randrange(4)}", item=f"i{r.randrange(3)}",
                            request=r.choice([None, None, "r1", "r3"])) for n in range(200)))
    everything = exposures + feedback
    r.shuffle(everything)
    store.append(everything)
    expected = reference(exposures, feedback, 10, max(each.time for each in everything))
    found = {name: {kind for kind in ("click", "like", "purchase") if row[kind]} for name, row in rows(label_exposures(store, window_hours=10)).items()}
    assert found == expected
    assert sum(map(len, expected.values())) > 20


def test_a_store_without_exposures_or_feedback_says_so(store):
    with pytest.raises(DataError, match="no exposures"):
        label_exposures(store)
    keep(store, shown(1, 0))
    with pytest.raises(DataError, match="no feedback"):
        label_exposures(store)
    with pytest.raises(UsageError, match="attribution window"):
        label_exposures(store, kinds=["click"], window_hours=0)
    with pytest.raises(UsageError, match="no label"):
        label_exposures(store, kinds=["exposure"])


def test_the_table_and_its_schema_train_a_model(places, tmp_path):
    from recspect.events.store import open_store

    store = open_store(places.new())
    r = random.Random(0)
    events = []
    for n in range(400):
        item = r.randrange(10)
        events.append(shown(n, n / 4, user=f"u{r.randrange(20)}", item=f"i{item}", request=f"r{n // 5}", position=1 + n % 5, propensity=0.2, surface="home"))
        if r.random() < item / 10:
            events.append(came(n, "click", n / 4 + 0.1, user=events[-1]["user"], item=f"i{item}", request=f"r{n // 5}"))
    keep(store, *events, shown(9999, 500))
    found = label_exposures(store, window_hours=2)
    out = tmp_path / "rows.parquet"
    schema = found.write(out)
    store.close()
    table = pl.read_parquet(out)
    assert table.height == found.exposures == 400
    assert table["click"].sum() == sum(each["kind"] == "click" for each in events)
    read = Schema.read(schema)
    assert (read.user, read.item, read.request, read.position, read.propensity, read.time) == ("user", "item", "request", "position", "propensity", "time")
    assert [label.name for label in read.labels] == ["click"]
    if places.engine == "duckdb":
        pytest.importorskip("torch", reason="training needs torch")
        done = subprocess.run([sys.executable, "-m", "recspect.cli", "train", str(out), "--schema", str(schema), "--epochs", "1", "--run-dir", str(tmp_path / "run")],
                              capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr
