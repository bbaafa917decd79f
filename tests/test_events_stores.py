"""What every event store promises, on DuckDB and on a real PostgreSQL server alike."""
# ruff: noqa: F811 - fixtures are imported and then named as arguments

import random
import threading
from datetime import UTC, datetime, timedelta

import pytest

from event_stores import NOW, event, places, store, taken  # noqa: F401
from recspect.errors import DataError, UsageError
from recspect.events.pseudonyms import Pseudonyms
from recspect.events.store import EVENT_COLUMNS, Window, open_store

KEY = b"a key that nobody can guess"


def rows(source):
    return [row for table in source.tables() for row in table.to_pylist()]


def ids(source):
    return sorted(row["event_id"] for row in rows(source))


def test_an_event_is_read_as_it_was_sent(store):
    full = event(1, kind="exposure", request="r-1", position=3, propensity=0.25, model_version="m-7", surface="home", value=9.5,
                 attributes={"title": "שלום עולם", "tags": ["a", "b"], "price": 3}, time="2026-05-01T14:30:00.123456+02:00")
    assert store.append(taken(full)).new == (True,)
    row, = rows(store.read())
    assert list(row) == EVENT_COLUMNS.names
    assert row["time"] == datetime(2026, 5, 1, 12, 30, 0, 123456, tzinfo=UTC)
    assert row["received"] == NOW
    assert (row["user"], row["position"], row["propensity"], row["value"], row["kind"]) == ("user-1", 3, 0.25, 9.5, "exposure")
    assert row["attributes"] == '{"price": 3, "tags": ["a", "b"], "title": "שלום עולם"}'


def test_an_event_is_kept_once_however_often_it_comes(store):
    first = store.append(taken(event(1), event(2), event(1, user="somebody else")))
    assert first.new == (True, True, False)
    again = store.append(taken(event(2), event(3), event(1)))
    assert again.new == (False, True, False)
    assert (again.accepted, again.duplicates) == (1, 2)
    assert store.count() == 3
    assert [row["user"] for row in rows(store.read()) if row["event_id"] == "e-1"] == ["user-1"]  # the first one stays


def test_any_order_and_any_batches_give_the_same_events(places):
    shuffled = [event(n, time=f"2026-05-{1 + n % 28:02}T12:00:00Z") for n in range(60)]
    answers = []
    for seed in range(3):
        store = open_store(places.new())
        order = shuffled * 2
        random.Random(seed).shuffle(order)
        while order:
            size = random.Random(len(order)).randint(1, 25)
            store.append(taken(*order[:size]))
            order = order[size:]
        answers.append(sorted([{name: value for name, value in row.items() if name != "sequence"} for row in rows(store.read())],
                              key=lambda row: row["event_id"]))
        store.close()
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 60


def test_late_events_are_taken_and_found_by_their_own_time(store):
    store.append(taken(event(1, time="2026-05-20T00:00:00Z"), event(2, time="2026-04-01T00:00:00Z")))
    store.append(taken(event(3, time="2026-05-01T00:00:00Z"), event(4, time="2026-05-10T00:00:00Z")))
    may = Window(start=datetime(2026, 5, 1, tzinfo=UTC), end=datetime(2026, 5, 20, tzinfo=UTC))
    assert ids(store.read(may)) == ["e-3", "e-4"]  # the start belongs to it, the end does not
    assert ids(store.read(Window(end=may.start))) == ["e-2"]
    assert ids(store.read()) == ["e-1", "e-2", "e-3", "e-4"]


def test_reading_by_kind_and_user(store):
    store.append(taken(event(1), event(2, kind="like"), event(4, kind="hide", user="user-1"), event(5, kind="rating", value=4)))
    assert ids(store.read(kinds=["like", "rating"])) == ["e-2", "e-5"]
    assert ids(store.read(users=["user-1"])) == ["e-1", "e-4"]
    assert ids(store.read(kinds=["hide"], users=["user-1"])) == ["e-4"]
    assert ids(store.read(users=[])) == []
    assert ids(store.read(users=["' OR true --", "a\0b", '"; DROP TABLE events; --'])) == []
    assert store.count("like") == 1
    with pytest.raises(UsageError, match="no kind of event"):
        store.read(kinds=["view"])


def test_events_are_a_source_with_batches_count_and_fingerprint(store):
    store.append(taken(*(event(n) for n in range(10))))
    source = store.read()
    assert [batch.rows for batch in source.batches(["user", "item"], rows=4)] == [4, 4, 2]
    assert source.count() == 10
    before = source.fingerprint()
    assert before == store.read().fingerprint()
    store.append(taken(event(3)))
    assert store.read().fingerprint() == before
    store.append(taken(event(11)))
    assert store.read().fingerprint() != before
    with pytest.raises(DataError, match="holds no rows"):
        next(iter(store.read(kinds=["hide"]).batches()))


def test_a_cursor_sees_every_event_once_in_the_order_of_its_coming(store):
    seen, cursor = [], 0
    for start in range(0, 30, 10):
        store.append(taken(*(event(n, time=f"2026-05-{30 - n:02}T00:00:00Z") for n in range(start, start + 10)), event(0)))
        while True:
            found, cursor = store.since(cursor, limit=7)
            seen += found["event_id"].to_pylist()
            if not found.num_rows:
                break
    assert sorted(seen) == sorted(f"e-{n}" for n in range(30))
    assert all(set(seen[start:start + 10]) == {f"e-{n}" for n in range(start, start + 10)} for start in (0, 10, 20))


def test_a_cursor_misses_nothing_while_several_write(places):
    address = places.new()
    first = open_store(address)
    stores = [first if places.engine == "duckdb" else open_store(address) for _ in range(3)]
    failures = []

    def write(which):
        try:
            for n in range(40):
                stores[which].append(taken(event(1000 * which + n), event(n, event_id=f"shared-{n}")))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    seen, cursor = [], 0
    while any(thread.is_alive() for thread in threads):
        found, cursor = first.since(cursor, limit=50)
        seen += found["event_id"].to_pylist()
    while (found := first.since(cursor))[0].num_rows:
        seen, cursor = seen + found[0]["event_id"].to_pylist(), found[1]
    assert failures == []
    assert len(seen) == len(set(seen)) == first.count() == 3 * 40 + 40
    for each in {id(each): each for each in [first, *stores]}.values():
        each.close()


def test_rejects_are_kept_with_their_reason_once(store):
    bad = [event(1, kind="view"), event(2, position=0), "not an event", event(3, user="a\0b")]
    assert store.append([], taken(*bad)).rejected == 4
    assert store.append(taken(event(9)), taken(*bad)).rejected == 0
    kept = store.rejects().to_pylist()
    assert sorted(each["code"] for each in kept) == ["control_character", "not_an_object", "position_out_of_range", "unknown_kind"]
    assert store.count_rejects() == 4
    assert {each["origin"] for each in kept} == {"test"}
    assert all("\0" not in each["raw"] and each["raw"] and each["reason"] for each in kept)


def test_a_store_opens_again_as_it_was(places):
    address = places.new()
    with pytest.raises(DataError, match="there is no event store"):
        open_store(address, create=False)
    store = open_store(address)
    store.append(taken(event(1), event(2)), taken(event(3, kind="view")))
    cursor = store.since(0)[1]
    store.close()
    again = open_store(address, create=False)
    assert (again.count(), again.count_rejects()) == (2, 1)
    assert again.append(taken(event(2), event(5))).new == (False, True)
    found, _ = again.since(cursor)
    assert found["event_id"].to_pylist() == ["e-5"]
    again.close()


# ------------------------------------------------------------------ forgetting


def test_forgetting_takes_every_event_and_reject_of_a_person_and_nothing_else(store):
    store.append(taken(event(1, user="ann"), event(2, user="ann", kind="like"), event(3, user="anne"), event(4, user="bob")),
                 taken(event(5, user="ann", kind="view"), event(6, user="bob", kind="view"), {"users": "ann"}, {"user_id": "anne"}, "ann bought it"))
    erased = store.forget("ann")
    assert (erased.events, erased.rejects) == (2, 3)
    assert ids(store.read()) == ["e-3", "e-4"]
    assert store.count_rejects() == 2
    assert store.forget("ann").events == 0
    assert store.append(taken(event(7))).new == (True,)


def test_a_cursor_goes_on_after_the_newest_events_were_erased(places):
    address = places.new()
    store = open_store(address)
    store.append(taken(event(1, user="ann"), event(2, user="bob")))
    cursor = store.since(0)[1]
    store.forget("bob")
    store.forget("ann")
    store.close()
    store = open_store(address)
    store.append(taken(event(3)))
    assert store.since(cursor)[0]["event_id"].to_pylist() == ["e-3"]
    store.close()


@pytest.mark.parametrize("user", ["x' OR '1'='1", 'a"b', "<script>alert(1)</script>", "ד\u202eabc", "%", "a\\b", "ann.*", "💥"])
def test_hostile_ids_are_texts_like_any_other(store, user):
    store.append(taken(event(1, user=user, item=user, event_id=user, request=user, surface=user), event(2, user="ann")), taken(event(3, user=user, kind="view")))
    row, = (row for row in rows(store.read()) if row["event_id"] == user)
    assert (row["user"], row["item"], row["request"]) == (user, user, user)
    assert ids(store.read(users=[user])) == [user]
    erased = store.forget(user)
    assert (erased.events, erased.rejects) == (1, 1)
    assert ids(store.read()) == ["e-2"]


def test_forgetting_a_name_that_no_event_can_have(store):
    store.append(taken(event(1)), taken(event(2, user="a\0b"), event(3, user="x\ny")))
    assert store.forget("a\0b").rejects == 1
    assert store.forget("x\ny").rejects == 1
    assert (store.count(), store.count_rejects()) == (1, 0)


# ------------------------------------------------------------------ pseudonyms


def test_under_pseudonyms_no_id_is_kept_and_the_person_is_found_by_it(places):
    address, names = places.new(), Pseudonyms(KEY)
    store = open_store(address, pseudonyms=names)
    store.append(taken(event(1, user="ann"), event(2, user="ann"), event(3, user="bob")),
                 taken(event(4, user="ann", kind="view"), event(5, user="ann", surprise="ann"), {"users": "ann"}, "ann bought it", event(6, user=[], item="ann")))
    stored = [row["user"] for row in rows(store.read())]
    assert sorted(stored) == sorted([names.name("ann")] * 2 + [names.name("bob")])
    assert ids(store.read(users=["ann"])) == ["e-1", "e-2"]
    about_ann = [each for each in store.rejects().to_pylist() if each["user"] == names.name("ann")]
    assert sorted(each["code"] for each in about_ann) == ["unknown_field", "unknown_kind"]
    kept = repr([{k: v for k, v in each.items() if k != "item"} for each in store.rejects().to_pylist() if each["code"] != "not_a_text"])
    assert "ann" not in kept
    erased = store.forget("ann")
    assert (erased.events, erased.rejects) == (2, 2)
    assert len(rows(store.read())) == 1
    store.close()


def test_a_store_keeps_to_one_key(places):
    with_key, without = places.new(), places.new()
    open_store(with_key, pseudonyms=Pseudonyms(KEY)).close()
    open_store(without).close()
    with pytest.raises(DataError, match="no key was given"):
        open_store(with_key)
    with pytest.raises(DataError, match="another key"):
        open_store(with_key, pseudonyms=Pseudonyms(KEY + b"!"))
    with pytest.raises(DataError, match="under their own ids"):
        open_store(without, pseudonyms=Pseudonyms(KEY))
    open_store(with_key, pseudonyms=Pseudonyms(KEY)).close()


def test_a_window_says_what_is_wrong_with_it():
    with pytest.raises(UsageError, match="without a zone"):
        Window(start=datetime(2026, 5, 1))  # noqa: DTZ001
    with pytest.raises(UsageError, match="before it starts"):
        Window(start=NOW, end=NOW - timedelta(days=1))


@pytest.mark.parametrize("where", ["events.parquet", "mysql://host/db", "events"])
def test_what_is_no_store_is_said(where):
    with pytest.raises(UsageError, match="event store"):
        open_store(where)
