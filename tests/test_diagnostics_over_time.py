"""Labels that come late, outcomes that change at some moment, and negatives that were sampled on one side."""

import dataclasses

import numpy as np
import pytest

from judging import diagnose, is_quiet, verdicts
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.data.change_point import ChangePoint
from recspect.diagnosis.diagnostics.data.label_maturity import LabelMaturity
from recspect.diagnosis.diagnostics.data.negative_volume import NegativeVolume
from recspect.diagnosis.diagnostics.data.over_time import stretches
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.stats.time_blocks import ROWS, TimeBlocks
from recspect.worlds import World, plant_late_labels, plant_prior_shift, plant_rate_change, split_by_time

ALL = (LabelMaturity, ChangePoint)
SEEDS = range(4)
DAY = 86_400


def sides(seed=0, rows=20_000, scored=True, fault=None, **settings):
    """(schema, held-out, train) scored by the truth; the fault is planted on both sides."""
    world = World(rows=rows, seed=seed, **settings)
    train, held_out = split_by_time(world.exposures())
    tables = [{**(batch if fault is None else fault(batch)), "@score": batch["truth"]} for batch in (held_out, train)]
    if not scored:
        for table in tables:
            del table["@score"]
    return world.schema, *tables


@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("diagnostic", ALL)
@pytest.mark.parametrize("seed", range(8))
def test_a_steady_log_is_quiet(diagnostic, seed, scored):
    assert is_quiet(diagnose(diagnostic(), *sides(seed, scored=scored)))


@pytest.mark.parametrize("diagnostic", ALL)
def test_days_that_differ_are_no_change(diagnostic):
    """Rates of whole days differ by 20%, without order."""
    alarms = findings = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)

        def days(batch, rng=rng):
            day = (batch.numbers("time") // DAY).astype(int)
            p = np.clip(batch.numbers("truth") * np.exp(rng.normal(0, 0.2, 41))[day], 0, 1)
            return batch.with_columns({"click": (rng.random(batch.rows) < p).astype(int)})

        found = diagnose(diagnostic(), *sides(seed, rows=40_000, fault=days, days=40.0))
        alarms, findings = alarms + sum(f.verdict is not Verdict.PASS for f in found), findings + len(found)
    assert findings == (40 if diagnostic is LabelMaturity else 20)
    assert alarms <= 3


@pytest.mark.parametrize("diagnostic", ALL)
def test_what_is_missing_is_said(diagnostic):
    schema, target, reference = sides(0)
    for args, words in (((dataclasses.replace(schema, time=None), target, reference), "role 'time'"),
                        ((schema, {n: c[:60] for n, c in target.items()}), "60 rows"),
                        ((schema, {n: c[:400] for n, c in target.items()} | {"time": np.zeros(400)}), "stretch"),
                        ((schema, {**target, "click": np.zeros(len(target["click"]))}), "positive")):
        (finding,) = diagnose(diagnostic(), *args)
        assert finding.verdict is Verdict.UNKNOWN
        assert words in finding.claim


# ---------------------------------------------------------------------- late labels


@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_late_labels_are_found_on_the_side_that_has_them(seed, scored):
    schema, target, reference = sides(seed, scored=scored)
    reference |= {"click": plant_late_labels(Batch(reference), "click", delay=DAY / 2, seed=seed)["click"]}
    found = {f.place.name: f for f in diagnose(LabelMaturity(), schema, target, reference)}
    assert {name: f.verdict for name, f in found.items()} == {"newest training rows": Verdict.FAIL, "newest held-out rows": Verdict.PASS}
    assert found["newest training rows"].causes[0].startswith("labels come late")


def test_a_log_that_breaks_at_once_is_told_from_late_labels():
    schema, target, reference = sides(1)
    gone = reference["time"] > reference["time"].max() - 0.9 * DAY
    reference["click"] = np.where(gone, 0, reference["click"])
    found = {f.place.name: f for f in diagnose(LabelMaturity(), schema, target, reference)}
    assert found["newest training rows"].verdict is Verdict.FAIL
    assert "logging" in found["newest training rows"].causes[0]


# ---------------------------------------------------------------------- changes


@pytest.mark.parametrize(("factor", "verdict"), [(0.7, Verdict.WARN), (0.4, Verdict.FAIL), (1.8, Verdict.FAIL)])
@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_change_is_found_at_its_moment(seed, factor, verdict, scored):
    schema, target, reference = sides(seed, rows=40_000, scored=scored, fault=lambda b: plant_rate_change(b, "click", factor=factor, seed=seed))
    (finding,) = diagnose(ChangePoint(), schema, target, reference)
    assert finding.verdict is verdict
    assert (finding.estimate.value > 0) == (factor > 1)
    assert finding.concerns == pytest.approx(0.4, abs=0.1)


def test_a_change_that_the_scores_foresee_is_none():
    schema, target, _ = sides(2, rows=40_000)
    rng = np.random.default_rng(2)
    p = target["@score"] * np.where(target["time"] > np.quantile(target["time"], 0.6), 0.5, 1.0)
    target |= {"@score": p, "click": (rng.random(len(p)) < p).astype(int)}
    assert is_quiet(diagnose(ChangePoint(), schema, target))
    del target["@score"]
    assert verdicts(diagnose(ChangePoint(), schema, target)) == {"": Verdict.FAIL}


def test_moments_are_dates_where_times_are():
    schema, target, _ = sides(3, rows=40_000, fault=lambda b: plant_rate_change(b, "click", factor=0.4))
    target["time"] = (np.datetime64("2024-03-01", "us") + (target["time"] * 1e6).astype("timedelta64[us]"))
    (finding,) = diagnose(ChangePoint(), schema, target)
    assert "At 2024-03-1" in finding.claim


# ---------------------------------------------------------------------- stretches


@pytest.mark.parametrize(("unit", "per_day"), [("s", DAY), ("ms", DAY * 1e3), ("days", 1), ("row", 1000)])
def test_stretches_hold_all_rows_in_order(unit, per_day):
    rng = np.random.default_rng(0)
    days = np.sort(rng.uniform(0, 20, 5000))
    stat = TimeBlocks(time="time", time_unit=unit, width=1.0 if unit == "row" else 3600.0)
    summary = stat.summarize(Batch({"time": days * per_day, "@label": rng.integers(0, 2, 5000), "@cluster": np.arange(5000)}))
    found = stretches(summary, stat, most=14, days_from=7)
    assert found.sums[..., ROWS].sum() == 5000
    assert (np.diff(found.starts) > 0).all()
    if unit == "row":
        assert len(found.starts) <= 15
    else:
        assert found.width == 2 * DAY
        assert found.sums[..., ROWS].sum(1).tolist() == np.histogram(days, np.arange(0, 21, 2))[0].tolist()


# ---------------------------------------------------------------------- sampled negatives


def with_negatives(batch, share, seed):
    kept = (batch.numbers("click") == 1) | (np.random.default_rng(seed).random(batch.rows) < share)
    return batch.take(np.flatnonzero(kept))


def paces(seed, *, negatives=1.0, positives=1.0, traffic=0.0):
    """(schema, held-out rows with a share of their positives, training rows with a share of their negatives)."""
    world = World(seed=seed)
    rows = world.exposures()
    if traffic:
        daily = np.exp(np.random.default_rng(seed).normal(0, traffic, 15))
        shown = (daily / daily.max())[(rows.numbers("time") // DAY).astype(int)]
        rows = rows.take(np.flatnonzero(np.random.default_rng(seed + 1).random(rows.rows) < shown))
    train, held_out = split_by_time(rows)
    return world.schema, plant_prior_shift(held_out, "click", factor=positives, seed=seed), with_negatives(train, negatives, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_sampled_negatives_are_found_and_their_rate_is_told(seed):
    (finding,) = diagnose(NegativeVolume(), *paces(seed, negatives=0.3))
    assert finding.verdict is Verdict.FAIL
    assert 1 / finding.estimate.value == pytest.approx(0.3, rel=0.25)
    (milder,) = diagnose(NegativeVolume(), *paces(seed, negatives=0.5))
    assert milder.verdict is Verdict.WARN


@pytest.mark.parametrize("seed", SEEDS)
def test_negatives_sampled_on_the_held_out_side_are_told_as_such(seed):
    schema, held_out, train = paces(seed)
    (finding,) = diagnose(NegativeVolume(), schema, with_negatives(held_out, 0.2, seed), train)
    assert finding.verdict is Verdict.FAIL
    assert finding.causes[0] == "negatives were sampled for the held-out rows"


@pytest.mark.parametrize("settings", [{}, {"traffic": 0.4}, {"positives": 0.5}, {"positives": 0.25}])
@pytest.mark.parametrize("seed", range(6))
def test_traffic_and_fewer_positives_are_no_sampling(seed, settings):
    assert is_quiet(diagnose(NegativeVolume(), *paces(seed, **settings)))


def test_a_time_without_a_pace_and_a_short_one_are_told():
    schema, held_out, train = paces(0)
    (finding,) = diagnose(NegativeVolume(), dataclasses.replace(schema, time_unit="row"), held_out, train)
    assert (finding.verdict, "only gives an order" in finding.claim) == (Verdict.UNKNOWN, True)
    (finding,) = diagnose(NegativeVolume(), schema, {**held_out, "time": np.zeros(held_out.rows)}, train)
    assert (finding.verdict, "stretches of time" in finding.claim) == (Verdict.UNKNOWN, True)
