"""Derived columns hold their laws: nothing later is read, offline and online agree, a table through files is a table in memory."""

import math
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recspect.diagnosis.batch import Batch, Categorical, Ragged
from recspect.diagnosis.source import read
from recspect.errors import DataError, SchemaError, UsageError
from recspect.features.derived import DerivedSource, derive, derive_together
from recspect.features.online import DerivedState
from recspect.schema import Field, Label, Schema
from recspect.schema_derived import Derived

HOUR = 3600
DELAY = 2
SCHEMA = Schema(user="user", item="item", time="time", time_unit="s", labels=[Label(name="stars", at_least=4), Label(name="click")], derived=[
    Derived(name="hour", kind="hour", time_zone="Europe/Berlin"),
    Derived(name="day", kind="weekday"),
    Derived(name="pair", kind="cross", of=("user", "item")),
    Derived(name="seen", kind="last", by="user", of="item", length=3),
    Derived(name="seen_age", kind="last_age", by="user", of="item", length=3),
    Derived(name="liked", kind="last", by="user", of="item", where="stars", length=3, window_hours=5),
    Derived(name="shown", kind="count", by="item"),
    Derived(name="shown_lately", kind="count", by="item", window_hours=3),
    Derived(name="rate", kind="rate", by="user", of="click", delay_hours=DELAY, prior=.25, prior_rows=2),
    Derived(name="rate_lately", kind="rate", by=("user", "item"), of="stars", delay_hours=DELAY, window_hours=6),
    Derived(name="mean", kind="mean", by="user", of="amount"),
    Derived(name="mean_lately", kind="mean", by="user", of="amount", where="click", window_hours=4),
    Derived(name="away", kind="since_last", by="user", delay_hours=DELAY),
    Derived(name="size", kind="frequency", by="item"),
    Derived(name="met", kind="count", by="pair"),
])
NAMES = [column.name for column in SCHEMA.derived]
LONGEST_DELAY = DELAY * HOUR

event = st.fixed_dictionaries({
    "user": st.sampled_from(["ann", "bob", None]), "item": st.integers(0, 3), "time": st.integers(0, 12).map(lambda half: half * HOUR // 2),
    "click": st.sampled_from([0, 1, None]), "stars": st.integers(1, 5),
    "amount": st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from([1e15, -1e15, .1, math.inf])),
})
events = st.lists(event, min_size=1, max_size=25)


def batch(rows):
    """Columns with the types that tables of such rows have, also where all of a column is missing."""
    texts = [row["user"] for row in rows]
    values = sorted({text for text in texts if text is not None})
    return Batch({
        "user": Categorical(np.array([values.index(text) if text is not None else -1 for text in texts]), np.array(values, dtype=object)),
        **{name: np.array([row[name] for row in rows]) for name in ("item", "time", "stars")},
        **{name: np.array([math.nan if row[name] is None else row[name] for row in rows], dtype=np.float64) for name in ("click", "amount")},
    })


def decoded(table):
    """The derived columns, row by row, as Python has them."""
    columns = {}
    for name in NAMES:
        column = table[name]
        if isinstance(column, Ragged):
            values = column.values.decode() if isinstance(column.values, Categorical) else column.values
            columns[name] = [values[start:stop].tolist() for start, stop in zip(column.offsets[:-1], column.offsets[1:], strict=True)]
        else:
            columns[name] = (column.decode() if isinstance(column, Categorical) else column).tolist()
    return [dict(zip(NAMES, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def alike(first, second):
    """Equal to the bit; NaN and None (no value) are alike."""
    def plain(value):
        return None if value is None or (isinstance(value, float) and math.isnan(value)) else value
    return {name: plain(value) for name, value in first.items()} == {name: plain(value) for name, value in second.items()}


def by_definition(rows, row):
    """Each column as its sentence says, by brute force."""
    def earlier(by, *, where=lambda _: True, window=math.inf, delay=0.0):
        if any(row[name] is None for name in by):
            return []
        found = [r for r in rows if all(r[name] == row[name] for name in by) and row["time"] - window * HOUR <= r["time"] < row["time"] - delay * HOUR and where(r)]
        return sorted(found, key=lambda r: r["time"])

    def mean(values, prior=0.0, weight=0):
        return (math.fsum(values) + prior * weight) / (len(values) + weight) if len(values) + weight else None

    there = datetime.fromtimestamp(row["time"], ZoneInfo("Europe/Berlin"))
    def known(r):
        return r["amount"] is not None and math.isfinite(r["amount"])

    away = earlier(["user"], delay=DELAY)
    return {
        "hour": there.hour, "day": datetime.fromtimestamp(row["time"], ZoneInfo("UTC")).isoweekday(),
        "pair": None if row["user"] is None else f"{row['user']}|{row['item']}",
        "seen": [(r["time"], r["item"]) for r in earlier(["user"])], "liked": [(r["time"], r["item"]) for r in earlier(["user"], where=lambda r: r["stars"] >= 4, window=5)],
        "shown": len(earlier(["item"])), "shown_lately": len(earlier(["item"], window=3)), "met": len(earlier(["user", "item"])),
        "rate": mean([r["click"] for r in earlier(["user"], where=lambda r: r["click"] is not None, delay=DELAY)], .25, 2),
        "rate_lately": mean([float(r["stars"] >= 4) for r in earlier(["user", "item"], window=6, delay=DELAY)]),
        "mean": mean([r["amount"] for r in earlier(["user"], where=known)]),
        "mean_lately": mean([r["amount"] for r in earlier(["user"], where=lambda r: known(r) and r["click"] == 1, window=4)]),
        "away": (row["time"] - away[-1]["time"]) / (24 * HOUR) if away else None,
        "size": int(math.log2(1 + len(earlier(["item"])))),
    }


@settings(deadline=None, max_examples=150)
@given(events)
def test_each_column_is_what_its_definition_says(rows):
    for row, found in zip(rows, decoded(derive(batch(rows), SCHEMA)), strict=True):
        wanted = by_definition(rows, row)
        for name in ("seen", "liked"):
            last = [item for _, item in sorted(wanted.pop(name))][-3:]  # by time, then by value
            assert found[name] == last, name
        ages = [int(math.log2(1 + (row["time"] - r) / HOUR)) for r in sorted(r["time"] for r in rows if r["user"] == row["user"] and r["time"] < row["time"])]
        assert found["seen_age"] == (ages[-3:] if row["user"] is not None else [])
        for name, value in wanted.items():
            if value is None:
                assert found[name] is None or math.isnan(found[name]), name
            else:
                assert found[name] == (pytest.approx(value, rel=1e-12, abs=1e-9) if isinstance(value, float) else value), name


@settings(deadline=None, max_examples=150)
@given(events, events)
def test_no_row_changes_when_later_events_are_added(rows, more):
    latest = max(row["time"] for row in rows)
    later = [{**row, "time": row["time"] + latest} for row in more]  # at the newest time, and after it
    before, after = decoded(derive(batch(rows), SCHEMA)), decoded(derive(batch(later + rows), SCHEMA))[len(later):]
    assert all(alike(a, b) for a, b in zip(before, after, strict=True))


@settings(deadline=None, max_examples=150)
@given(events, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows, random):
    """Of rows with the same time above all, of which there are many here."""
    order = list(range(len(rows)))
    random.shuffle(order)
    plain, shuffled = decoded(derive(batch(rows), SCHEMA)), decoded(derive(batch([rows[i] for i in order]), SCHEMA))
    assert all(alike(plain[i], found) for i, found in zip(order, shuffled, strict=True))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(event, st.integers(0, LONGEST_DELAY)), min_size=1, max_size=25), st.sampled_from([0, 1, 100]))
def test_online_says_what_the_table_says_however_late_events_come(arrivals, keep_hours):
    """Events arrive up to the delay after their time: a row's values are then the table's, for the columns with that delay.

    Of the columns without a delay this holds where events come before the next time that is asked about.
    """
    rows = [row for row, _ in arrivals]
    table = decoded(derive(batch(rows), SCHEMA))
    for lateness, names in ((True, ["rate", "rate_lately", "away", "hour", "day", "pair"]), (False, NAMES)):
        state = DerivedState(SCHEMA, keep_hours=keep_hours)
        moments = [(row["time"] + late * lateness, 1, i) for i, (row, late) in enumerate(arrivals)] + [(row["time"], 0, i) for i, row in enumerate(rows)]
        for _, arrives, i in sorted(moments):
            if arrives:
                state.update(rows[i])
            else:
                found = state.values(rows[i])
                assert alike({name: found[name] for name in names}, {name: table[i][name] for name in names})


@settings(deadline=None, max_examples=100)
@given(events, st.randoms(use_true_random=False))
def test_online_after_all_came_in_any_order_says_what_the_table_says(rows, random):
    state = DerivedState(SCHEMA, keep_hours=1e6)
    arrival = list(rows)
    random.shuffle(arrival)
    for number, row in enumerate(arrival):
        state.update({**row, "click": None, "stars": 1}, id=str(number))  # shown; what came of it is known later
    for number, row in enumerate(arrival):
        state.update(row, id=str(number))
        state.update(row, id=str(number))  # told twice
    for row, wanted in zip(rows, decoded(derive(batch(rows), SCHEMA)), strict=True):
        assert alike(state.values(row), wanted)
    candidates = state.batch([{**rows[0], "item": item} for item in range(4)])
    for found, item in zip(decoded(candidates), range(4), strict=True):
        assert alike(found, state.values({**rows[0], "item": item}))


def log(rows, *, seed=0, users=300):
    random = np.random.default_rng(seed)
    return {
        "user": np.array([f"u{i}" for i in random.integers(0, users, rows)]), "item": random.integers(0, 40, rows), "time": random.integers(0, 50 * HOUR, rows),
        "click": random.integers(0, 2, rows), "stars": random.integers(1, 6, rows), "amount": np.round(random.normal(0, 100, rows), 2),
    }


def test_a_table_through_many_files_is_the_table_in_memory():
    table = log(5000)
    whole = decoded(derive(Batch({**read(table).batches().__next__()}), SCHEMA))
    source = DerivedSource(read(table), SCHEMA, memory=100_000, rows=512)
    found = [row for part in source.batches(rows=700) for row in decoded(part)]
    assert len(found) == len(whole)
    assert all(alike(a, b) for a, b in zip(found, whole, strict=True))
    assert source.rows_read == 5000  # for all keys together
    assert source.columns == (*table, *NAMES)
    again = [row for part in source.batches(["seen", "hour", "user"], rows=999) for row in part["hour"].tolist()]
    assert again == [row["hour"] for row in whole]
    assert source.rows_read == 5000
    together = list(source.batches(["user", "rate"], rows=50, together="user"))
    assert sum(part.rows for part in together) == 5000
    assert len({value for part in together for value in set(part["user"].decode())}) == sum(len(set(part["user"].decode())) for part in together)


def test_a_source_is_derived_once_and_told_apart_by_its_declarations():
    source = derive(read(log(50)), SCHEMA)
    assert derive(source, SCHEMA) is source
    other = derive(read(log(50)), Schema(user="user", time="time", time_unit="s", derived=[Derived(name="n", kind="count", by="user")]))
    assert source.fingerprint() == derive(read(log(50)), SCHEMA).fingerprint() != other.fingerprint()
    plain = read(log(50))
    assert derive(plain, Schema()) is plain
    rows = next(iter(source.batches()))
    assert derive(rows, SCHEMA) is rows


def test_parts_of_one_log_read_each_other():
    rows = [{"user": "ann", "item": i, "time": i, "click": 1, "stars": 5, "amount": 1.0} for i in range(6)]
    train, test = derive_together([batch(rows[:4]), batch(rows[4:])], SCHEMA)
    assert [row["shown"] for row in decoded(test)] == [0, 0]
    assert [row["seen"] for row in decoded(test)] == [[1, 2, 3], [2, 3, 4]]
    assert all(alike(a, b) for a, b in zip(decoded(train), decoded(derive(batch(rows), SCHEMA))[:4], strict=True))


def test_tables_of_one_log_read_each_other_through_files():
    table = log(600)
    parts = [{name: values[start:stop] for name, values in table.items()} for start, stop in ((0, 400), (400, 410), (410, 600))]
    whole = decoded(derive(next(iter(read(table).batches())), SCHEMA))
    for kinds in ((read, read, read), (read, lambda part: next(iter(read(part).batches())), read)):
        sources = derive_together([kind(part) for kind, part in zip(kinds, parts, strict=True)], SCHEMA)
        found = [row for source in reversed(sources) for batch in source.batches() for row in decoded(batch)]
        assert all(alike(a, b) for a, b in zip(found, whole[410:] + whole[400:410] + whole[:400], strict=True))
        assert sources[0].rows_read == 600


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 1000), ("us", 10**6), ("ns", 10**9), ("days", None), (None, None)])
def test_every_unit_of_time_says_the_same(unit, scale):
    seconds = 1_700_000_000 + np.array([0, 5, 5, 3600, 90_000, 90_000])
    times = seconds.astype("datetime64[s]") if unit is None else seconds / 86_400 if scale is None else seconds * scale
    schema = Schema(user="user", time="time", time_unit=unit, derived=[
        Derived(name="n", kind="count", by="user"), Derived(name="lately", kind="count", by="user", window_hours=24, delay_hours=.001),
        Derived(name="hour", kind="hour", time_zone="Asia/Kolkata")])
    found = derive(Batch({"user": np.ones(6, dtype=np.int64), "time": times}), schema)
    assert found["n"].tolist() == [0, 1, 1, 3, 4, 4]
    assert found["lately"].tolist() == [0, 1, 1, 3, 1, 1]
    assert found["hour"].tolist() == [datetime.fromtimestamp(int(second), ZoneInfo("Asia/Kolkata")).hour for second in seconds]


def test_times_of_one_nanosecond_apart_are_apart():
    schema = Schema(user="user", time="time", time_unit="ns", derived=[Derived(name="n", kind="count", by="user")])
    times = 1_700_000_000_000_000_000 + np.arange(3)
    assert derive(Batch({"user": np.ones(3), "time": times}), schema)["n"].tolist() == [0, 1, 2]


def test_bars_in_values_do_not_mix_crosses_up():
    schema = Schema(time="time", derived=[Derived(name="x", kind="cross", of=("a", "b"))])
    found = next(read({"a": ["1|2", "1", "1\\"], "b": ["3", "2|3", "|2"], "time": [1, 2, 3]}).batches())
    assert len(set(derive(found, schema)["x"].decode())) == 3


def test_mistakes_are_told():
    rows = log(20)
    with pytest.raises(DataError, match="lacks the column"):
        derive(read({name: rows[name] for name in rows if name != "amount"}), SCHEMA)
    with pytest.raises(DataError, match="already has the derived column"):
        derive(read({**rows, "hour": rows["item"]}), SCHEMA)
    with pytest.raises(DataError, match="3 rows have no time 'time', first row 2"):
        derive(batch_with(rows, time=np.where(np.isin(np.arange(20), (2, 5, 7)), np.nan, rows["time"])), SCHEMA)
    with pytest.raises(DataError, match="'click' holds 2, expected 0 and 1"):
        derive(batch_with(rows, click=np.full(20, 2)), SCHEMA)
    with pytest.raises(SchemaError, match="no time zone 'Europe/Atlantis'"):
        derive(batch_with(rows), Schema(time="time", time_unit="s", derived=[Derived(name="h", kind="hour", time_zone="Europe/Atlantis")]))
    with pytest.raises(SchemaError, match="no time_unit"):
        derive(batch_with(rows), Schema(time="time", derived=[Derived(name="n", kind="count", by="user")]))


def batch_with(rows, **columns):
    return Batch({**next(iter(read(rows).batches())), **columns})


def test_the_state_refuses_what_it_cannot_know():
    state = DerivedState(SCHEMA, keep_hours=1)
    with pytest.raises(DataError, match="no time 'time'"):
        state.update({"user": "ann", "item": 1})
    state.values({"user": "ann", "item": 1, "time": 10 * HOUR})
    with pytest.raises(UsageError, match=r"8\.0 hours before"):
        state.values({"user": "ann", "item": 1, "time": 2 * HOUR})
    state.update({"user": "ann", "item": 1, "time": 1})
    with pytest.raises(DataError, match="earlier events held numbers"):
        state.update({"user": "ann", "item": "1", "time": 2})


def test_a_state_holds_what_questions_can_read_and_no_more():
    schema = Schema(user="user", item="item", time="time", time_unit="s", derived=[
        Derived(name="seen", kind="last", by="user", of="item", length=5), Derived(name="n", kind="count", by="user"),
        Derived(name="lately", kind="count", by="item", window_hours=2)])
    state = DerivedState(schema, keep_hours=1)
    for i in range(5000):
        state.update({"user": 1, "item": i % 7, "time": i * 60}, id=str(i))
        state.values({"user": 1, "item": 3, "time": i * 60})
    assert state.entries < 500
    found = state.values({"user": 1, "item": 3, "time": 5000 * 60})
    assert found["n"] == 5000
    assert found["seen"] == [(4995 + k) % 7 for k in range(5)]
    assert state.forget("user", "1") == 2
    assert state.values({"user": 1, "item": 3, "time": 5000 * 60})["n"] == 0


def test_a_state_from_a_table_goes_on_where_the_table_ends():
    table = log(2000)
    state = DerivedState.from_table(table, SCHEMA)
    row = {"user": "u5", "item": 7, "time": 51 * HOUR, "click": 0, "stars": 1, "amount": 0.0}
    extended = {name: np.append(values, [row[name]]) for name, values in table.items()}
    wanted = decoded(derive(next(iter(read(extended).batches())), SCHEMA))[-1]
    assert alike(state.values(row), wanted)


def test_fields_of_derived_columns_are_encoded_alike_offline_and_online():
    pytest.importorskip("torch", reason="encoding needs torch")
    from recspect.features.transform import FeatureTransform

    schema = Schema(**{**{name: getattr(SCHEMA, name) for name in ("user", "item", "time", "time_unit", "labels", "derived")}, "fields": [
        Field(name="user"), Field(name="seen", kind="sequence"), Field(name="seen_age", kind="sequence"), Field(name="rate", kind="numeric"),
        Field(name="shown", kind="numeric", scaling="log"), Field(name="hour"), Field(name="pair", hash_buckets=64), Field(name="size")]})
    table = derive(next(iter(read(log(2000)).batches())), schema)
    transform = FeatureTransform.fit(schema, table.take(slice(0, 1500)))
    rows = [{name: values[i].item() for name, values in log(2000).items()} for i in range(1990, 2000)]
    offline = transform.transform(table.take(slice(1990, 2000))).inputs
    online = transform.transform(DerivedState.from_table(log(2000), schema, keep_hours=1e6).batch(rows)).inputs
    assert set(offline) == set(online)
    for name, tensor in offline.items():
        assert tensor.equal(online[name]), name


def test_no_scan_waits_while_the_columns_are_computed():
    """A scan of a file that waits reads ahead: the table would lie in memory."""
    rows = log(200)

    class Scans:
        now = most = 0

        def __iter__(self):
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                for start in range(0, 200, 50):
                    yield {name: values[start:start + 50] for name, values in rows.items()}
            finally:
                self.now -= 1

    scans = Scans()
    assert sum(batch.rows for batch in derive(read(scans), SCHEMA).batches()) == 200
    assert scans.most == 1
