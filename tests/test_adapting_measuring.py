"""From events to experiments: against sums by hand, a known effect, and stores of both engines."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from scipy.stats import kstest

from event_stores import NOW, places, taken  # noqa: F401 - a fixture
from recspect.adapting.measuring import distrust, measure, null_significance
from recspect.adapting.metric_file import MetricFile
from recspect.adapting.user_days import user_days
from recspect.errors import DataError, UsageError
from recspect.events.reject import Reject
from recspect.events.store import open_store

BEGIN = datetime(2026, 4, 1, tzinfo=UTC)


def declared(**metrics):
    return MetricFile.from_mapping({"north_star": {"name": "back", "event": "purchase", "measure": "any", "per": "user", "window_days": 7}, "metrics": metrics})


FILE = declared(ctr={"event": "click", "per": "exposure", "winsorise": 1.0}, dwell={"event": "dwell", "measure": "value", "per": "user", "winsorise": 1.0},
                days={"event": "exposure", "measure": "any", "per": "day"})


def row(number, kind, user, moment, item="i", **more):
    return {"event_id": f"e{number}", "kind": kind, "user": user, "item": item, "time": moment, "value": None, **more}


def at(day, hour=12):
    return BEGIN + timedelta(days=day, hours=hour)


SMALL = [row(0, "exposure", "a", at(0)), row(1, "click", "a", at(0, 13)), row(1, "click", "a", at(0, 14)), row(2, "exposure", "a", at(1)), row(3, "dwell", "a", at(1, 13), value=5.0),
         row(4, "click", "b", at(1)), row(5, "exposure", "b", at(2)), row(6, "click", "b", at(3, 11)), row(7, "click", "b", at(4)), row(8, "purchase", "b", at(6))]


def test_events_are_counted_once_per_user_and_day():
    found = user_days(pl.DataFrame(SMALL), FILE).frame
    cells = {(r["user"], r["day"]): (r["click.count"], r["exposure.count"], r["dwell.value"]) for r in found.to_dicts()}
    assert cells["a", date(2026, 4, 1)] == (1, 1, 0)  # the second event of id e1 is the same event
    assert cells["a", date(2026, 4, 2)] == (0, 1, 5)
    assert cells["b", date(2026, 4, 4)] == (1, 0, 0)
    assert found["click.count"].sum() == 4


def test_within_a_window_events_stand_on_the_day_of_what_was_shown():
    """Credited: 13:00 of day 0 (shown at 12:00), and day 3 at 11:00 (shown on day 2 at 12:00, 23 h); not: without exposure, and after 48 h."""
    found = user_days(pl.DataFrame(SMALL), declared(ctr={"event": "click", "per": "exposure", "window_hours": 24})).frame
    cells = {(r["user"], r["day"].day): r["click.count"] for r in found.to_dicts() if r["click.count"]}
    assert cells == {("a", 1): 1, ("b", 3): 1}
    assert found["day"].max() <= date(2026, 4, 6)  # the last day may still have clicks to come


@pytest.mark.usefixtures("places")
def test_stores_and_tables_give_the_same(places):  # noqa: F811
    given = [{**{k: v for k, v in one.items() if v is not None}, "time": one["time"].isoformat()} for one in SMALL]
    events = [event for event in taken(*given, received=NOW) if not isinstance(event, Reject)]
    store = open_store(places.new())
    try:
        store.append(events)
        for file in (FILE, declared(ctr={"event": "click", "per": "exposure", "window_hours": 24})):
            columns = sorted(user_days(pl.DataFrame(SMALL), file).frame.columns)
            one, other = (user_days(source, file).frame.select(columns).sort("user", "day") for source in (store, pl.DataFrame(SMALL)))
            assert one.equals(other)
    finally:
        store.close()


@pytest.mark.parametrize(("metrics", "said"), [
    ({"ctr": {"per": "exposure"}}, "names no event"), ({"ctr": {"event": "wink"}}, "'wink'"), ({"a": {"event": "click", "window_hours": 1}, "b": {"event": "click", "window_hours": 2}}, "different windows"),
    ({"a": {"event": "exposure", "window_hours": 1}}, "a window begins with")])
def test_metrics_that_events_cannot_make_are_refused(metrics, said):
    with pytest.raises(UsageError, match=said):
        user_days(pl.DataFrame(SMALL), declared(**metrics))


def test_tables_that_are_no_events_are_refused():
    with pytest.raises(DataError, match="lacks the columns 'kind'"):
        user_days(pl.DataFrame(SMALL).drop("kind"), FILE)
    with pytest.raises(DataError, match="no event of"):
        user_days(pl.DataFrame(SMALL).with_columns(kind=pl.lit("rating")), FILE)


def simulated(users=3000, lift=0.06, days=20, seed=0, experiments=("x",)):
    """Events of a fortnight in which the treatment raises the chance of a click, and the assignments."""
    generator, events, assigned = np.random.default_rng(seed), [], []
    taste = generator.beta(2, 6, users)
    for experiment in experiments:
        arm = generator.integers(0, 2, users)
        assigned += [{"experiment": experiment, "user": f"u{user}", "arm": "new" if arm[user] else "control", "start": BEGIN + timedelta(days=7), "end": BEGIN + timedelta(days=14)} for user in range(users)]
    shown = generator.poisson(0.5, (users, days))
    for user, day in zip(*np.nonzero(shown), strict=True):
        chance = taste[user] + (lift * arm[user] if 7 <= day <= 14 else 0)
        for _ in range(shown[user, day]):
            number = len(events)
            moment = BEGIN + timedelta(days=int(day), hours=int(generator.integers(0, 20)))
            events.append(row(number, "exposure", f"u{user}", moment, item=f"i{number}"))
            if generator.random() < chance:
                events.append(row(f"{number}c", "click", f"u{user}", moment + timedelta(minutes=5), item=f"i{number}"))
            if generator.random() < chance / 10:
                events.append(row(f"{number}p", "purchase", f"u{user}", moment + timedelta(minutes=9), item=f"i{number}"))
    return pl.DataFrame(events, infer_schema_length=None).with_columns(pl.col("value").cast(pl.Float64)), pl.DataFrame(assigned)


@pytest.fixture(scope="module")
def world():
    return simulated()


CTR = declared(ctr={"event": "click", "per": "exposure", "winsorise": 1.0}, clicks={"event": "click", "per": "user", "winsorise": 1.0})


def test_effects_are_the_ratio_of_totals_and_its_delta_error(world):
    events, assigned = world
    found = measure(user_days(events, CTR), assigned, CTR)
    assert found.left_out == {}
    one = found.corpus.experiments[0]
    inside = events.filter((pl.col("time") >= at(7, 0)) & (pl.col("time") < at(15, 0))).join(assigned.select("user", "arm"), on="user")
    totals = inside.group_by("arm", "user").agg(clicks=(pl.col("kind") == "click").sum(), shown=(pl.col("kind") == "exposure").sum())
    rates, variances = [], []
    for arm in ("control", "new"):
        part = assigned.filter(pl.col("arm") == arm).join(totals, on=["arm", "user"], how="left").fill_null(0)
        rate = part["clicks"].sum() / part["shown"].sum()
        rates.append(rate)
        variances.append((part["clicks"] - rate * part["shown"]).var() / part.height / part["shown"].mean() ** 2)
    assert one.effects[1] == pytest.approx(rates[1] - rates[0])
    assert one.noise[1, 1] == pytest.approx(sum(variances))
    assert one.noise[1, 2] > 0
    assert one.effects[1] == pytest.approx(0.06, abs=4 * one.noise[1, 1] ** 0.5)
    assert one.maturity == pytest.approx((20 - 7) / 7, abs=1) or one.maturity == 1.0
    assert one.end == BEGIN + timedelta(days=14)


def test_days_before_take_noise_out(world):
    events, assigned = world
    days = user_days(events, CTR)
    plain, cuped = (measure(days, assigned, replace(CTR, cuped_days=before)).corpus.experiments[0] for before in (0.0, 7.0))
    assert cuped.noise[2, 2] < 0.95 * plain.noise[2, 2]
    assert cuped.effects[1] == pytest.approx(0.06, abs=4 * cuped.noise[1, 1] ** 0.5)


def test_a_store_with_other_names_of_users_is_joined(world):
    events, assigned = world
    renamed = events.with_columns(pl.concat_str(pl.lit("p-"), "user").alias("user"))
    plain = measure(user_days(events, CTR), assigned, CTR).corpus.effects
    assert np.allclose(measure(user_days(renamed, CTR), assigned, CTR, stored="p-{}".format).corpus.effects, plain)


def test_broken_experiments_are_left_out_with_the_reason(world):
    events, assigned = world
    days = user_days(events, CTR)
    lost = assigned.filter((pl.col("arm") == "control") | (pl.int_range(pl.len()) % 5 > 0))
    assert "sample ratio" in measure(days, lost, CTR).left_out["x"]
    assert measure(days, lost, CTR, shares={"control": 1.0, "new": 0.8}).left_out == {}
    unlogged = events.join(assigned.select("user", "arm"), on="user").filter((pl.col("arm") == "control") | (pl.col("user").hash() % 10 > 1)).drop("arm")
    assert "exposures" in measure(user_days(unlogged, CTR), assigned, CTR).left_out["x"]
    assert "needed" in measure(days, assigned.with_columns(arm=pl.lit("new")), CTR).left_out["x"]
    assert "100 are needed" in measure(days, assigned.head(150), CTR).left_out["x"]
    with pytest.raises(DataError, match="'arm'"):
        measure(days, assigned.drop("arm"), CTR)
    twice = pl.concat([assigned, assigned.head(500).with_columns(arm=pl.when(pl.col("arm") == "new").then(pl.lit("control")).otherwise(pl.lit("new")))])
    assert measure(days, twice, CTR).corpus.experiments[0].users[0] < 1300
    assert distrust(pl.DataFrame({"arm": ["control", "new"] * 500, "exposed": [1.0] * 1000}), "new") == ""


def test_a_user_that_is_a_machine_is_left_out(world):
    events, assigned = world
    robot = pl.DataFrame([row(f"r{k}", "click", "u0", at(8), item=f"r{k}") for k in range(5_001)]).with_columns(pl.col("value").cast(pl.Float64))
    days = user_days(pl.concat([events, robot], how="vertical_relaxed"), CTR)
    assert np.allclose(measure(days, assigned, CTR).corpus.effects, measure(user_days(events.filter(pl.col("user") != "u0"), CTR), assigned.filter(pl.col("user") != "u0"), CTR).corpus.effects)


def test_nothing_changed_is_significant_in_one_of_twenty():
    """A/A tests on the same events: 60 random splits of the users."""
    events, _ = simulated(users=1200, lift=0.0, seed=4)
    days, generator, z = user_days(events, CTR), np.random.default_rng(0), []
    users = [f"u{user}" for user in range(1200)]
    assigned = pl.concat([pl.DataFrame({"experiment": f"x{k}", "user": users, "arm": np.where(generator.permutation(1200) < 600, "new", "control"), "start": date(2026, 4, 8)}) for k in range(60)])
    found = measure(days, assigned, CTR)
    assert len(found.corpus) == 60
    z = np.array([one.z[1] for one in found.corpus])
    share, low, high, chance = null_significance(z)
    assert low <= 0.05 <= high
    assert chance > 0.001
    assert share == pytest.approx((np.abs(z) > 1.96).mean())


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_the_test_of_null_experiments_is_kolmogorovs(scale):
    z = scale * np.random.default_rng(2).normal(size=800)
    *_, chance = null_significance(z)
    assert chance == pytest.approx(kstest(z, "norm").pvalue, abs=0.01)
    assert (chance < 0.01) == (scale > 1.2)
