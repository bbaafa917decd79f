"""Faults planted in tables, and healthy tables: missing values, drift, leaks, overlap."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from judging import diagnose, halves, is_quiet, users_apart, verdicts
from recspect import datasets
from recspect.datasets.tables import TABLES
from recspect.diagnosis.diagnostics.data.drift import Drift
from recspect.diagnosis.diagnostics.data.missing_values import MissingValues
from recspect.diagnosis.diagnostics.data.split_overlap import SplitOverlap
from recspect.diagnosis.diagnostics.data.target_leak import TargetLeak
from recspect.diagnosis.finding import Verdict
from recspect.schema import Field, Label, Schema

SCHEMA = Schema(
    user="user", item="item", time="time", labels=[Label(name="click")],
    fields=[Field(name="user", side="user"), Field(name="item", side="item"), Field(name="city"), Field(name="age", kind="numeric", side="user"),
            Field(name="price", kind="numeric", side="item"), Field(name="seconds", kind="numeric")])
SEEDS = range(4)
ALL = (MissingValues, Drift, TargetLeak, SplitOverlap)


def world(seed, rows=16_000, users=500, items=400):
    """Clicks by taste: users, items of skewed popularity, a city, an age, a price and a context number."""
    rng = np.random.default_rng(seed)
    popular = 1 / (np.arange(items) + 5.0)
    item = rng.choice(items, rows, p=popular / popular.sum())
    user = rng.integers(0, users, rows)
    city = rng.integers(0, 8, rows)
    taste, quality = rng.normal(0, 1, users), rng.normal(0, 1, items)
    logit = -1.5 + 0.6 * taste[user] + 0.6 * quality[item] + 0.3 * (city == 2)
    return {"user": user, "item": item, "time": np.sort(rng.integers(0, 10**9, rows)), "city": np.array([f"city {c}" for c in city]),
            "age": np.round(rng.normal(40, 10, users))[user], "price": rng.lognormal(2, 1, items)[item], "seconds": rng.exponential(10, rows),
            "click": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64)}


def split(table, share=0.75):
    cut = int(len(table["user"]) * share)
    return {k: v[cut:] for k, v in table.items()}, {k: v[:cut] for k, v in table.items()}


@pytest.mark.parametrize("diagnostic", ALL)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_healthy_table_is_quiet(diagnostic, seed):
    target, reference = split(world(seed))
    assert is_quiet(diagnose(diagnostic(), SCHEMA, target, reference))


@pytest.mark.parametrize("diagnostic", ALL)
def test_without_training_rows_the_answer_is_unknown(diagnostic):
    target, _ = split(world(0, rows=2000))
    (finding,) = diagnose(diagnostic(), SCHEMA, target)
    assert finding.verdict is Verdict.UNKNOWN
    assert "training rows" in finding.claim


@pytest.mark.parametrize("diagnostic", ALL)
def test_a_few_rows_give_no_verdict(diagnostic):
    few = {name: column[:40] for name, column in world(0, rows=2000).items()}
    assert [finding.verdict for finding in diagnose(diagnostic(), SCHEMA, few, few)] == [Verdict.UNKNOWN]


# ---------------------------------------------------------------------- missing values


@pytest.mark.parametrize(("share", "verdict"), [(0.3, Verdict.FAIL), (0.1, Verdict.WARN)])
@pytest.mark.parametrize("seed", SEEDS)
def test_values_that_go_missing_are_named(seed, share, verdict):
    target, reference = split(world(seed))
    gone = np.random.default_rng(seed).random(len(target["user"])) < share
    target = {**target, "price": np.where(gone, np.nan, target["price"])}
    found = verdicts(diagnose(MissingValues(), SCHEMA, target, reference))
    assert found["price"] is verdict
    assert set(found) == {"price", ""}
    assert found[""] is Verdict.PASS


def test_codes_for_not_known_count_as_missing_in_numbers_and_in_text():
    schema = dataclasses.replace(SCHEMA, fields=(Field(name="age", kind="numeric", missing=(-1,)), Field(name="city", missing=("?",))))
    target, reference = split(world(1))
    target = {**target, "age": np.where(np.arange(len(target["age"])) % 2, -1, target["age"]),
              "city": np.where(np.arange(len(target["age"])) % 3, target["city"], "?")}
    assert verdicts(diagnose(MissingValues(), schema, target, reference)) == {"age": Verdict.FAIL, "city": Verdict.FAIL}


def test_a_field_that_is_mostly_missing_everywhere_is_a_warning():
    table = world(2)
    table["price"] = np.where(np.random.default_rng(2).random(len(table["price"])) < 0.7, np.nan, table["price"])
    assert verdicts(diagnose(MissingValues(), SCHEMA, *split(table)))["price"] is Verdict.WARN


# ---------------------------------------------------------------------- drift


@pytest.mark.parametrize("seed", SEEDS)
def test_a_changed_category_and_a_changed_number_are_named(seed):
    target, reference = split(world(seed))
    rng = np.random.default_rng(seed)
    target = {**target, "seconds": target["seconds"] * 3, "city": np.where(rng.random(len(target["city"])) < 0.4, "city 2", target["city"])}
    found = verdicts(diagnose(Drift(), SCHEMA, target, reference))
    assert found == {"seconds": Verdict.FAIL, "city": Verdict.FAIL, "": Verdict.PASS}


@pytest.mark.parametrize("seed", SEEDS)
def test_small_samples_do_not_drift_by_chance(seed):
    target, reference = split(world(seed, rows=800))
    assert is_quiet(diagnose(Drift(), SCHEMA, target, reference))  # PSI above 0.1 is usual among so few rows


def test_how_far_a_number_moved_is_said_in_its_own_unit():
    """A shift of all values is the distance itself, whatever their shape."""
    schema = Schema(fields=[Field(name="seconds", kind="numeric")])
    rows = np.random.default_rng(0).exponential(10, 900)  # so few that the sketch holds them all
    (finding,) = diagnose(Drift(), schema, {"seconds": rows + 7.0}, {"seconds": rows})
    low, high = np.sort(rows)[[224, 674]]
    assert finding.verdict is not Verdict.PASS
    assert f"would have to move by 7.00 on average (Wasserstein), {7 / (high - low):.2f} of the width" in finding.claim
    (constant,) = diagnose(Drift(), schema, {"seconds": np.repeat([1.0, 4.0], 450)}, {"seconds": np.full(900, 1.0)})
    assert "would have to move by 1.50 on average (Wasserstein)" in constant.claim
    assert "middle half" not in constant.claim


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("before", "now", "expected"), [(0.95, 0.95, Verdict.PASS), (0.95, 0.5, Verdict.FAIL), (1.0, 0.5, Verdict.FAIL), (1.0, 1.0, Verdict.PASS), (0.3, 0.7, Verdict.FAIL)])
def test_a_count_that_is_mostly_zero_is_seen_to_change(seed, before, now, expected):
    """Share of zeros in training and in held-out rows; what is not 0 is as it was."""
    rng = np.random.default_rng(seed)
    train, held_out = (np.where(rng.random(rows) < zero, 0.0, 1.0 + rng.poisson(3, rows)) for zero, rows in ((before, 6000), (now, 2000)))
    (finding,) = diagnose(Drift(), Schema(fields=[Field(name="sales", kind="numeric")]), {"sales": held_out}, {"sales": train})
    assert finding.verdict is expected


def test_other_users_are_no_drift():
    """Held-out users other than the training users: with rows taken as independent, city and age alarmed in 40 of 40 such tables."""
    alarms = 0
    for seed in range(20):
        found = verdicts(diagnose(Drift(), SCHEMA, *users_apart(seed)))
        alarms += any(found.get(name, Verdict.PASS) is not Verdict.PASS for name in ("city", "age", "seconds"))
    assert alarms <= 3


@pytest.mark.parametrize("seed", SEEDS)
def test_new_items_are_a_warning_with_their_share(seed):
    target, reference = split(world(seed))
    fresh = np.random.default_rng(seed).random(len(target["item"])) < 0.5
    target = {**target, "item": np.where(fresh, target["item"] + 10_000, target["item"])}
    (finding,) = [f for f in diagnose(Drift(), SCHEMA, target, reference) if f.verdict is not Verdict.PASS]
    assert (finding.place.name, finding.verdict) == ("item", Verdict.WARN)
    assert "never seen in training" in finding.claim


def test_a_field_that_follows_the_clock_says_so():
    schema = dataclasses.replace(SCHEMA, fields=(Field(name="clock", kind="numeric"), Field(name="city")))
    table = world(3)
    table["clock"] = table["time"] / 3600
    (finding,) = [f for f in diagnose(Drift(), schema, *split(table)) if f.verdict is not Verdict.PASS]
    assert (finding.place.name, finding.verdict) == ("clock", Verdict.WARN)
    assert "follows the clock" in finding.claim


# ---------------------------------------------------------------------- leaks


@pytest.mark.parametrize("agreement", [0.95, 0.9])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_copy_of_the_label_is_named(seed, agreement):
    table = world(seed)
    rng = np.random.default_rng(seed)
    copy = np.where(rng.random(len(table["click"])) < agreement, table["click"], 1 - table["click"])
    table["city"] = np.array([f"outcome {v}" for v in copy])
    assert verdicts(diagnose(TargetLeak(), SCHEMA, *split(table))) == {"city": Verdict.FAIL}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_number_that_is_high_or_low_for_positives_is_named(seed):
    table = world(seed)
    rng = np.random.default_rng(seed)
    size = rng.normal(0, 1, len(table["click"])) + np.where(rng.random(len(table["click"])) < 0.5, -5, 5)
    table["seconds"] = np.where(table["click"] == 1, size, rng.normal(0, 1, len(size)))
    assert verdicts(diagnose(TargetLeak(), SCHEMA, *split(table))) == {"seconds": Verdict.FAIL}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_count_over_the_whole_table_tells_the_future(seed):
    table = world(seed, rows=12_000, items=2500)
    times = np.bincount(table["item"], minlength=2500)
    table["shown_cnt"] = np.random.default_rng(seed).poisson(40.0 * times)[table["item"]]
    schema = dataclasses.replace(SCHEMA, fields=(*SCHEMA.fields, Field(name="shown_cnt", kind="numeric", side="item")))
    (finding,) = diagnose(TargetLeak(), schema, *split(table))
    assert (finding.verdict, finding.place.name) == (Verdict.FAIL, "shown_cnt")
    assert "that nobody had been shown before the split" in finding.claim


@pytest.mark.parametrize("seed", SEEDS)
def test_a_count_of_the_past_is_no_leak(seed):
    table = world(seed, rows=12_000, items=2500)
    past, seen = np.zeros(len(table["item"])), np.zeros(2500)
    for row, item in enumerate(table["item"]):
        past[row], seen[item] = seen[item], seen[item] + 1
    table["shown_cnt"] = past
    schema = dataclasses.replace(SCHEMA, fields=(*SCHEMA.fields, Field(name="shown_cnt", kind="numeric", side="item")))
    assert is_quiet(diagnose(TargetLeak(), schema, *split(table)))


def test_a_statistic_with_a_time_of_its_own_is_not_suspected():
    table = world(0, rows=12_000, items=2500)
    table["shown_cnt"] = (40.0 * np.bincount(table["item"], minlength=2500))[table["item"]]
    schema = dataclasses.replace(SCHEMA, fields=(*SCHEMA.fields, Field(name="shown_cnt", kind="numeric", side="item", time="time")))
    assert is_quiet(diagnose(TargetLeak(), schema, *split(table)))


def test_many_rare_categories_are_no_leak():
    table = world(1)
    table["city"] = np.random.default_rng(0).integers(0, 3000, len(table["user"]))
    assert is_quiet(diagnose(TargetLeak(), SCHEMA, *split(table)))


def test_one_class_and_a_grade_are_unknown():
    table = world(0, rows=3000)
    (one,) = diagnose(TargetLeak(), SCHEMA, *split({**table, "click": np.zeros(3000)}))
    assert one.verdict is Verdict.UNKNOWN
    graded = dataclasses.replace(SCHEMA, labels=(Label(name="click", kind="graded"),))
    (grade,) = diagnose(TargetLeak(), graded, *split(table))
    assert grade.verdict is Verdict.UNKNOWN


# ---------------------------------------------------------------------- overlap


@pytest.mark.parametrize("share", [0.01, 0.2])
@pytest.mark.parametrize("seed", SEEDS)
def test_test_rows_among_the_training_rows_are_found(seed, share):
    target, reference = split(world(seed))
    copies = int(share * len(target["user"]))
    reference = {name: np.append(column, target[name][:copies]) for name, column in reference.items()}
    (finding,) = diagnose(SplitOverlap(), SCHEMA, target, reference)
    assert finding.verdict is Verdict.FAIL
    assert finding.estimate.value == pytest.approx(share, rel=0.02)


def test_repeated_training_rows_are_a_warning():
    target, reference = split(world(0))
    reference = {name: np.append(column, column[:1000]) for name, column in reference.items()}
    assert [f.verdict for f in diagnose(SplitOverlap(), SCHEMA, target, reference)] == [Verdict.PASS, Verdict.WARN]


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_rows_without_a_time_can_be_coincidence(seed):
    schema = Schema(labels=[Label(name="click")], fields=[Field(name="city"), Field(name="age", kind="numeric")])
    target, reference = split(world(seed))
    assert is_quiet(diagnose(SplitOverlap(), schema, target, reference))  # nearly all rows have an equal one


@pytest.mark.parametrize("seed", SEEDS)
def test_copies_without_a_time_stand_out_where_rows_are_distinct(seed):
    schema = Schema(labels=[Label(name="click")], fields=[Field(name="city"), Field(name="seconds", kind="numeric")])
    target, reference = split(world(seed))
    reference = {name: np.append(column, target[name][:80]) for name, column in reference.items()}
    assert verdicts(diagnose(SplitOverlap(), schema, target, reference)) == {"": Verdict.FAIL}


# ---------------------------------------------------------------------- real data


def real(name, variant=None, *, shuffled=False):
    folder = datasets.locate(name)
    if folder is None:
        pytest.skip(f"{name} is not on this machine (set RECSPECT_DATA_HOME)")
    card = datasets.card(name)
    schema = card.variants[variant] if variant else card.schema
    label = pl.col(schema.label.name)
    frame = TABLES[name](folder).with_columns((label if schema.label.positive is None else label == schema.label.positive)
                                              .cast(pl.Float64).alias("@label"))
    if shuffled:
        frame = frame.sample(fraction=1, shuffle=True, seed=5)
    reference, target = halves(frame)
    return schema, target, reference


@pytest.mark.data
def test_the_duration_of_the_call_is_a_leak_in_uci_bank():
    schema, target, reference = real("uci-bank", shuffled=True)
    assert verdicts(diagnose(TargetLeak(), schema, target, reference)) == {"duration": Verdict.FAIL}
    assert verdicts(diagnose(SplitOverlap(), schema, target, reference)) == {"": Verdict.PASS}
    assert verdicts(diagnose(Drift(), schema, target, reference)) == {"": Verdict.PASS}


@pytest.mark.data
@pytest.mark.slow
def test_item_statistics_of_kuairand_tell_the_future():
    (finding,) = diagnose(TargetLeak(), *real("kuairand-pure", "with-item-statistics"))
    assert finding.verdict is Verdict.FAIL
    assert all(name in finding.claim for name in ("show_cnt", "play_cnt", "like_cnt", "long_time_play_cnt"))
    assert not any(name in finding.claim for name in ("duration_ms", "server_width", "register_days"))


@pytest.mark.data
@pytest.mark.slow
def test_kuairand_without_item_statistics_does_not_fail():
    schema, target, reference = real("kuairand-pure")
    for diagnostic in (TargetLeak(), Drift(), MissingValues()):
        assert Verdict.FAIL not in verdicts(diagnose(diagnostic, schema, target, reference)).values()
