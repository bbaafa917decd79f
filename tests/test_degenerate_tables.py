"""Tables at the edge of what can be judged, through `examine_table` and the command line: a sensible answer, an UNKNOWN with its reason, or an error that teaches."""

import json

import numpy as np
import polars as pl
import pytest

from hostile import SCORED, CommandLine, table
from judging import verdicts
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.slice import Slice
from recspect.errors import DataError
from recspect.examining.examination import examine_table
from recspect.worlds import World, plant_duplicates, split_by_time

WORLD = World(users=400, items=60, rows=8000)
SCHEMA = WORLD.schema.with_roles(score="score")
PREDICTIONS = ("predictions.calibration", "predictions.calibration_slope", "predictions.normalised_entropy", "predictions.ranking_quality", "predictions.worst_slices")


def scored(batch):
    return batch.with_columns({"score": batch.numbers("truth")})


@pytest.fixture(scope="module")
def sides():
    """(training rows, held-out rows), scored by the true probabilities."""
    return tuple(map(scored, split_by_time(WORLD.exposures())))


def examined(target, reference, **settings):
    """The findings by code."""
    found = {}
    for finding in examine_table(target, SCHEMA, reference=reference, **settings).findings:
        found.setdefault(finding.code, []).append(finding)
    return found


def test_the_healthy_twin_is_answered(sides):
    """What the other tests take away is there: without it their UNKNOWNs would prove nothing."""
    train, held_out = sides
    found = examined(held_out, train)
    for code in (*PREDICTIONS, "data.drift", "data.split_overlap", "data.time_leak", "data.joint_drift"):
        assert {finding.verdict for finding in found[code]} == {Verdict.PASS}, found[code]


def test_scores_that_are_all_nan(sides):
    train, held_out = sides
    found = examined(held_out.with_columns({"score": np.full(held_out.rows, np.nan)}), train)
    for code in PREDICTIONS:
        (finding,) = found[code]
        assert finding.verdict is Verdict.UNKNOWN
        assert "no rows to judge; 100 are needed" in finding.claim
    assert {finding.verdict for finding in found["data.drift"]} == {Verdict.PASS}  # what needs no score is answered


@pytest.mark.parametrize("value", [0, 1])
def test_a_single_class(sides, value):
    train, held_out = sides
    found = examined(held_out.with_columns({"click": np.full(held_out.rows, value)}), train)
    for code in PREDICTIONS:
        assert {finding.verdict for finding in found[code]} == {Verdict.UNKNOWN}, found[code]
        assert f"no {'negative' if value else 'positive'} rows" in found[code][0].claim


def test_one_user_against_many_is_no_verdict_on_drift(sides):
    train, held_out = sides
    found = examined(held_out.with_columns({"user": np.zeros(held_out.rows, dtype=np.int64)}), train)
    for code, reason in (("data.drift", "the held-out rows come from too few users"), ("data.joint_drift", "too few users"), ("predictions.cold_start", "two groups of users")):
        (finding,) = found[code]
        assert finding.verdict is Verdict.UNKNOWN
        assert reason.lower() in finding.claim.lower()
    (calibration,) = found["predictions.calibration"]
    assert calibration.verdict is Verdict.PASS
    assert calibration.estimate.low is None  # one user has no spread over users: a number without an interval


def test_one_user_on_both_sides(sides):
    train, held_out = (side.with_columns({"user": np.zeros(side.rows, dtype=np.int64)}) for side in sides)
    found = examined(held_out, train)  # pytest makes errors of warnings: no division by zero on the way
    assert {finding.verdict for finding in found["data.drift"]} == {Verdict.PASS}
    assert verdicts(found["training.memorisation"])["item"] is Verdict.PASS
    assert all(finding.estimate is None or finding.estimate.low is None for finding in found["predictions.ranking_quality"])


def test_an_empty_reference(sides):
    train, held_out = sides
    with pytest.raises(DataError, match="training rows holds no rows") as caught:
        examined(held_out, train.take(np.arange(0)))
    assert "written to the end" in caught.value.hint


def test_an_id_of_a_million_values(sides):
    """Each row a user of its own, of whom training knew none: bounded totals, and what that means is said."""
    train, _ = sides
    rows = 1_000_000
    rng = np.random.default_rng(0)
    truth = rng.beta(2, 8, rows)
    target = Batch({"user": 10_000 + np.arange(rows), "item": rng.integers(0, 60, rows), "surface": rng.choice(["home", "search", "related"], rows), "age": rng.uniform(15, 75, rows).round(),
                    "time": 2e6 + np.arange(rows), "click": (rng.random(rows) < truth).astype(np.int64), "truth": truth, "score": truth})
    found = examined(target, train)
    drift = next(finding for finding in found["data.drift"] if finding.place.name == "user")
    assert drift.verdict is Verdict.WARN  # ids come and go: never a failure
    assert "100% of the rows have a value never seen in training" in drift.claim
    (calibration,) = found["predictions.calibration"]
    assert calibration.verdict is Verdict.PASS
    assert calibration.estimate.n == rows
    assert found["predictions.cold_start"][0].verdict is not Verdict.FAIL


def test_a_slice_of_one_row(sides):
    train, held_out = sides
    users = np.array(held_out["user"])
    users[5] = 99_999
    found = examined(held_out.with_columns({"user": users}), train, slices=[Slice.parse("user=99999")])
    of_slice = [finding for finding in found["predictions.calibration"] if "user=99999" in finding.claim]
    assert [finding.verdict for finding in of_slice] == [Verdict.UNKNOWN]
    assert "1 row" in of_slice[0].claim
    assert Verdict.PASS in {finding.verdict for finding in found["predictions.calibration"]}  # the whole is judged all the same


def dated(batch, zone=None, hours=0):
    """As a frame whose times are dates, with a time zone or without; shifted by so many hours."""
    frame = pl.DataFrame({name: batch.categories(name).decode().tolist() if name == "surface" else np.asarray(batch[name]) for name in batch})
    when = pl.from_epoch((pl.col("time") * 1e6).cast(pl.Int64), time_unit="us") + pl.duration(hours=hours)
    return frame.with_columns(time=when if zone is None else when.dt.replace_time_zone("UTC").dt.convert_time_zone(zone))


def test_times_with_a_zone_against_times_without(sides):
    train, held_out = sides
    for target, reference, said in ((dated(held_out, "UTC"), dated(train), "of held-out rows have the zone UTC, those of training rows have none"),
                                    (dated(held_out), dated(train, "Asia/Tokyo"), "of training rows have the zone Asia/Tokyo, those of held-out rows have none")):
        with pytest.raises(DataError, match=said) as caught:
            examined(target, reference)
        assert "zone" in caught.value.hint


def test_times_of_two_zones_are_compared_as_moments(sides):
    train, held_out = sides
    assert verdicts(examined(dated(held_out, "UTC"), dated(train, "Asia/Tokyo"))["data.time_leak"]) == {"": Verdict.PASS}


def test_times_that_are_hours_off_are_seen_as_a_leak(sides):
    """Local times where UTC is meant, without a zone on either side: nothing but the order of rows can tell."""
    train, held_out = sides
    assert verdicts(examined(dated(held_out, hours=-9), dated(train))["data.time_leak"]) == {"": Verdict.FAIL}


@pytest.mark.parametrize("side", ["training", "held-out"])
def test_events_that_come_twice(sides, side):
    train, held_out = sides
    train, held_out = (plant_duplicates(train, share=0.2, copies=1), held_out) if side == "training" else (train, plant_duplicates(held_out, share=0.2, copies=1))
    found = examined(held_out, train)["data.split_overlap"]
    assert [finding.verdict for finding in found] == [Verdict.PASS, Verdict.WARN]
    assert f"{side} rows repeat an event that is already there" in found[1].claim
    assert found[1].estimate.value == pytest.approx(0.2 / 1.2, abs=0.001)


@pytest.fixture
def line(tmp_path, capsys, monkeypatch):
    return CommandLine(tmp_path, capsys, monkeypatch)


def test_the_command_line_refuses_what_cannot_be_compared(line):
    when = pl.datetime_range(pl.datetime(2026, 1, 1), pl.datetime(2026, 1, 1) + pl.duration(minutes=399), "1m", time_unit="us", eager=False)
    frame = table().with_columns(at=when)
    frame.write_parquet("t.parquet")
    frame.with_columns(pl.col("at").dt.replace_time_zone("UTC")).write_parquet("zoned.parquet")
    frame.head(0).write_parquet("none.parquet")
    (line.folder / "s.toml").write_text(SCORED.replace('user = "user"\n', 'user = "user"\ntime = "at"\n', 1))
    line.refuses("diagnose", "t.parquet", "--schema", "s.toml", "--train", "zoned.parquet", said=("have the zone UTC", "have none", "give both a zone"))
    line.refuses("diagnose", "t.parquet", "--schema", "s.toml", "--train", "none.parquet", said=("no rows",))
    done = line("diagnose", "t.parquet", "--schema", "s.toml", "--train", "t.parquet", "--slice", "user=7", "--format", "json")
    assert done.code == 1, done.err  # every row is on both sides
    assert json.loads(done.out)["findings"]
