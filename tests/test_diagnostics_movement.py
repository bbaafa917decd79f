"""What moves as much among the training rows themselves is no fault of the split: drift of fields, and ids that are new."""

import dataclasses

import numpy as np
import pytest

from judging import ask, diagnose, verdicts
from recspect.diagnosis import cause_rules
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.causes import causes_of
from recspect.diagnosis.diagnostics.data.drift import Drift
from recspect.diagnosis.diagnostics.data.drift_of_ids import NEW
from recspect.diagnosis.diagnostics.embeddings.untrained_rows import UntrainedRows
from recspect.diagnosis.finding import Verdict
from recspect.schema import Field, Kind, Label, Schema

SCHEMA = Schema(user="user", time="time", time_unit="s", labels=[Label(name="click")], fields=[Field(name="seconds", kind=Kind.NUMERIC), Field(name="city")])
ROWS = 3000
"""Rows of each of five stretches of time, of which the last is held out."""


def log(seed, scales, cities=(0.0,) * 5):
    """Held-out and training rows: in each stretch `seconds` is multiplied, and a share of the rows comes from one city."""
    rng = np.random.default_rng(seed)
    stretch = np.repeat(np.arange(5), ROWS)
    rows = len(stretch)
    city = np.where(rng.random(rows) < np.array(cities)[stretch], 9, rng.integers(0, 8, rows))
    table = {"user": rng.integers(0, 500, rows), "time": 1.5e9 + np.sort(rng.uniform(0, 1e8, rows)), "seconds": rng.exponential(10, rows) * np.array(scales)[stretch],
             "city": np.array([f"city {c}" for c in city]), "click": rng.integers(0, 2, rows)}
    return {name: column[stretch == 4] for name, column in table.items()}, {name: column[stretch < 4] for name, column in table.items()}


def of(findings, name):
    (finding,) = [finding for finding in findings if finding.place.name == name]
    return finding


@pytest.mark.parametrize("seed", range(4))
def test_a_field_that_jumps_about_in_training_warns_and_says_both_numbers(seed):
    found = of(diagnose(Drift(), SCHEMA, *log(seed, (1, 4, 1, 1, 4))), "seconds")
    assert found.verdict is Verdict.WARN
    assert found.estimate.low > 0.25  # a FAIL by its size
    assert "from the last of 4 blocks of training rows to the held-out rows" in found.claim
    assert "it moves as much anyhow" in found.claim


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scales", [(1, 1, 1, 1, 4), (1, 1.2, 1, 1.2, 6)])
def test_a_jump_at_the_split_fails_where_training_was_steadier(seed, scales):
    found = of(diagnose(Drift(), SCHEMA, *log(seed, scales)), "seconds")
    assert found.verdict is Verdict.FAIL
    assert "more than this field moves anyhow" in found.claim


@pytest.mark.parametrize("seed", range(4))
def test_categories_are_held_against_their_own_movement(seed):
    usual, once = (verdicts(diagnose(Drift(), SCHEMA, *log(seed, (1,) * 5, shares)))["city"] for shares in ((0, 0.6, 0, 0, 0.6), (0, 0, 0, 0, 0.6)))
    assert (usual, once) == (Verdict.WARN, Verdict.FAIL)


@pytest.mark.parametrize("change", [
    lambda schema, *sides: (dataclasses.replace(schema, time=None, time_unit=None), *sides),
    lambda schema, held_out, train: (schema, {**held_out, "time": train["time"][:ROWS]}, train),  # a split that is not by time
    lambda schema, held_out, train: (schema, held_out, {**train, "time": np.full(4 * ROWS, 1.5e9)})])
def test_without_an_order_in_time_nothing_is_usual(change):
    found = of(diagnose(Drift(), *change(SCHEMA, *log(0, (1, 4, 1, 1, 4)))), "seconds")
    assert found.verdict is Verdict.FAIL
    assert "blocks" not in found.claim


def test_dates_are_times_too():
    sides = [{**side, "time": (side["time"] * 1e6).astype("datetime64[us]")} for side in log(1, (1, 4, 1, 1, 4))]
    assert of(diagnose(Drift(), dataclasses.replace(SCHEMA, time_unit=None), *sides), "seconds").verdict is Verdict.WARN


# ---------------------------------------------------------------------- ids that are new


PEOPLE = Schema(user="user", time="time", fields=[Field(name="user"), Field(name="word")])


def lookups(new, usual, field="user"):
    """Of each fifth of the rows, the last held out, a share reads rows of its own; the others read rows that all share."""
    rng = np.random.default_rng(0)
    stretch = np.repeat(np.arange(5), ROWS)
    rows = len(stretch)
    own = rng.random(rows) < np.where(stretch == 4, new, usual)
    row = np.where(own, 1000 * (stretch + 1) + rng.integers(0, 50, rows), rng.integers(0, 300, rows))
    table = {f"@row:{field}": row, "@cluster": rng.integers(0, 400, rows), "time": np.arange(rows, dtype=np.float64)}
    return (Batch({name: column[here] for name, column in table.items()}) for here in (stretch == 4, stretch < 4))


@pytest.mark.parametrize(("new", "usual", "verdict"), [(0.9, 0.8, "WARN"), (0.9, 0.1, "FAIL"), (0.5, 0.0, "FAIL"), (0.3, 0.2, "WARN"), (0.05, 0.0, "WARN")])
def test_people_who_keep_coming_are_told_from_ids_that_broke(new, usual, verdict):
    (finding,) = ask(UntrainedRows(), *lookups(new, usual), schema=PEOPLE, tables=("user",))
    assert finding.verdict == verdict
    assert ("Of the last block of training rows" in finding.claim) == (new > 0.2)
    assert ("new ids are how this log is" in finding.claim) == (new > 0.2 and verdict == "WARN")


def test_values_that_are_no_ids_are_not_excused():
    (finding,) = ask(UntrainedRows(), *lookups(0.9, 0.8, "word"), schema=PEOPLE, tables=("word",))
    assert finding.verdict is Verdict.FAIL


# ---------------------------------------------------------------------- drift of ids


SHOP = Schema(user="user", item="item", time="time", time_unit="s", labels=[Label(name="click")], fields=[Field(name="item")])


def shown(seed, *, new=(0.0,) * 5, default=(0.0,) * 5):
    """Held-out and training rows whose items are new in each stretch, or one and the same old one, in such shares of the rows."""
    rng = np.random.default_rng(seed)
    stretch = np.repeat(np.arange(5), ROWS)
    rows = len(stretch)
    item = np.minimum(rng.geometric(0.03, rows), 200)
    item = np.where(rng.random(rows) < np.array(new)[stretch], 1000 * (stretch + 1) + rng.integers(0, 60, rows), item)
    item = np.where(rng.random(rows) < np.array(default)[stretch], 7, item)
    table = {"user": rng.integers(0, 500, rows), "time": 1.5e9 + np.sort(rng.uniform(0, 1e8, rows)), "item": item, "click": rng.integers(0, 2, rows)}
    return {name: column[stretch == 4] for name, column in table.items()}, {name: column[stretch < 4] for name, column in table.items()}


def drift_of_items(*sides, schema=SHOP):
    (finding,) = diagnose(Drift(), schema, *sides)
    return finding


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("share", "verdict"), [(0.3, "FAIL"), (0.12, "WARN"), (0.01, "PASS")])
def test_an_old_id_that_stands_in_many_rows_is_no_turnover(seed, share, verdict):
    found = drift_of_items(*shown(seed, new=(0.2,) * 5, default=(0, 0, 0, 0, share)))
    assert found.verdict == verdict
    if verdict != "PASS":
        assert found.estimate.low < share * (1 - 0.03) < found.estimate.high  # what it gained beyond its share of the others' rows
        assert "'7' went from" in found.claim
        assert cause_of(found) == "default_value"


@pytest.mark.parametrize("seed", range(4))
def test_an_old_id_that_comes_and_goes_is_quiet(seed):
    assert drift_of_items(*shown(seed, default=(0, 0.35, 0, 0, 0.3))).verdict is Verdict.PASS


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("new", "verdict"), [((0.2,) * 5, "PASS"), ((0.2, 0.2, 0.2, 0.2, 0.35), "WARN"), ((0, 0, 0, 0, 0.15), "WARN"), ((0, 0, 0, 0, 0.02), "PASS")])
def test_new_ids_are_held_against_those_of_the_last_block(seed, new, verdict):
    found = drift_of_items(*shown(seed, new=new))
    assert found.verdict == verdict
    if verdict == "WARN":
        assert found.estimate.unit == NEW
        assert found.estimate.low < new[-1] < found.estimate.high
        assert "of the last block of training rows had one that no row before it had" in found.claim
        assert cause_of(found) == "new_ids"


def test_without_a_time_new_ids_are_held_against_chance():
    timeless = dataclasses.replace(SHOP, time=None, time_unit=None)
    assert drift_of_items(*shown(0), schema=timeless).verdict is Verdict.PASS
    found = drift_of_items(*shown(0, new=(0.2,) * 5), schema=timeless)
    assert found.verdict is Verdict.WARN  # each stretch has items of its own, and nothing says that this is usual
    assert "is expected by chance" in found.claim


def test_a_few_users_cannot_make_one_id_a_default():
    """One person who reads one item all day is a third of the rows, and no more than one person."""
    target, reference = shown(0)
    third = np.arange(ROWS) % 3 == 0
    target = target | {"user": np.where(third, 3, target["user"]), "item": np.where(third, 7, target["item"])}
    assert drift_of_items(target, reference).verdict is not Verdict.FAIL


def cause_of(finding):
    return causes_of([finding])[0].code


def test_rules_of_causes_know_the_unit():
    assert cause_rules.NEW_IDS == NEW


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("shares", "verdict"), [((0.02, 0.02, 0.02, 0.2, 0.2), "PASS"), ((0.03, 0.03, 0.03, 0.03, 0.13), "WARN")])
def test_a_field_that_moves_a_little_anyhow_is_quiet(seed, shares, verdict):
    found = diagnose(Drift(), SCHEMA, *log(seed, (1,) * 5, shares))
    assert verdicts(found).get("city", Verdict.PASS) == verdict
    assert ("city changed no more than from one block of training rows to the next" in of(found, "").claim) == (verdict == "PASS")


def test_a_field_that_moves_as_much_anyhow_is_no_sign_of_a_default():
    usual = of(diagnose(Drift(), SCHEMA, *log(0, (1, 4, 1, 1, 4))), "seconds")
    broke = of(diagnose(Drift(), SCHEMA, *log(0, (1, 1, 1, 1, 4))), "seconds")
    assert causes_of([usual]) == ()
    assert cause_of(broke) == "default_value"
