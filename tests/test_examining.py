"""What stands between runs and the engine: declared lookups, units behind added columns."""

import numpy as np
import pytest
import torch

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.features.unused import Importance
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.probes.attribution import integrated_gradients, mean_baseline
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import read
from recspect.diagnosis.stats.measures import AreaUnderCurve
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.diagnosis.subject import TorchSubject
from recspect.examining.compared_baselines import compared_baselines
from recspect.examining.examination import examine, examine_table
from recspect.examining.overview import CHAPTERS, NEEDS, reliance_bars, training_curves, usefulness_bars
from recspect.examining.runs import subject_of
from recspect.examining.tables import StandardProbe
from recspect.schema import Field, Label, Schema
from recspect.training.config import TrainingConfig
from recspect.training.loop import train


@pytest.fixture
def table():
    r = np.random.default_rng(0)
    flag = r.integers(0, 2, 800)
    return {"user": r.integers(0, 40, 800), "one": flag, "two": flag.copy(), "click": r.integers(0, 2, 800), "score": r.random(800)}


def test_fields_with_equal_codes_are_told_apart_in_our_own_models(table, tmp_path):
    schema = Schema(user="user", fields=[Field(name=name) for name in ("user", "one", "two")], labels=[Label(name="click")])
    run = train(Batch(table), schema, TrainingConfig(maximum_epochs=1), tmp_path / "run")
    sites = subject_of(run).sites(Batch(table))
    assert [[part.field for part in site.parts] for site in sites.lookups] == [["user", "one", "two"]] * 2
    assert all(site.how == "as declared" for site in sites.lookups)
    assert torch.is_tensor(next(run.load_model().parameters()))


def test_contributions_are_shown_from_two_baselines(table, tmp_path):
    schema = Schema(user="user", fields=[Field(name=name) for name in ("user", "one", "two")], labels=[Label(name="click")])
    run = train(Batch(table), schema, TrainingConfig(maximum_epochs=1), tmp_path / "run")
    subject, rows = subject_of(run), Batch(table)
    (bars,) = compared_baselines(subject, rows, pytest.fail)
    assert set(bars.group) == {"from the mean row", "from another row"}
    for group in set(bars.group):
        shares = {name: value for name, value, own in zip(bars.names, bars.values, bars.group, strict=True) if own == group}
        assert set(shares) == {"user", "one", "two"}
        assert sum(shares.values()) == pytest.approx(1)
    mean = integrated_gradients(subject, rows, baseline=mean_baseline(subject, rows)).reliance
    sizes = {name: float(value.abs().mean()) for name, value in mean.items()}
    assert bars.values[:3] == pytest.approx(sorted((size / sum(sizes.values()) for size in sizes.values()), reverse=True), rel=1e-3)
    report = examine(subject, table, schema, sample_rows=400)
    assert [piece.title for piece in report.overview].count(bars.title) == 1


def test_a_model_that_cannot_be_explained_shows_no_baselines(table):
    hidden = TorchSubject(torch.nn.Module(), fields=["one"], forward=lambda _, x: torch.as_tensor(x["one"].detach().numpy() * 2.0))
    told = []
    assert compared_baselines(hidden, Batch({"one": table["one"]}), told.append) == ()
    assert "comparing baselines is left out" in told[0]


def test_units_named_by_an_added_column_are_kept_together_by_the_column_behind_it(table):
    schema = Schema(user="user", score="score", labels=[Label(name="click")])
    stat = PerUnit(unit="@cluster", measures=(AreaUnderCurve(),))
    probes = [StandardProbe(schema, has_score=True)]
    small, whole = (tally(read(table), [(ALL, stat)], probes=probes, rows=rows)[ALL, stat] for rows in (50, 10_000))
    assert small.units == whole.units == 40
    assert small.mean(AreaUnderCurve()) == pytest.approx(whole.mean(AreaUnderCurve()), abs=1e-12)


def test_a_number_over_all_rows_of_a_side_says_how_many_users_they_come_from():
    r = np.random.default_rng(1)
    sides = []
    for rows, users in ((4000, 300), (6000, 400)):
        score = r.random(rows)
        sides.append({"user": r.integers(0, users, rows), "item": r.integers(0, 50, rows), "score": score, "click": (r.random(rows) < score).astype(int)})
    schema = Schema(user="user", item="item", score="score", labels=[Label(name="click")])
    report = examine_table(sides[0], schema, reference=sides[1])
    known = {f.code: f.estimate for f in report.findings if f.estimate is not None and f.estimate.clusters is not None}
    assert known["predictions.calibration"].basis == f"4,000 rows of {len(np.unique(sides[0]['user'])):,} users"
    assert known["predictions.ranking_quality"].clusters == len(np.unique(sides[0]["user"]))
    assert {e.of for e in known.values()} == {"rows"}
    without = examine_table(sides[0], Schema(item="item", score="score", labels=[Label(name="click")]))
    assert all(f.estimate is None or f.estimate.clusters is None for f in without.findings)


@pytest.mark.parametrize("quality", [1.0, 0.0])
def test_a_scored_table_with_a_reference_is_compared_with_baselines_whatever_the_verdict(quality):
    """Popular, item-kNN and EASE stand in the chapter of predictions when the model beats them and when it does not."""
    r = np.random.default_rng(2)
    sides = []
    for rows in (6000, 3000):
        user, item = r.integers(0, 60, rows), r.integers(0, 40, rows)
        rate = 0.1 + 0.8 * ((user * 7 + item * 3) % 11 < 4)
        sides.append({"user": user, "item": item, "click": (r.random(rows) < rate).astype(int),
                      "score": np.clip(quality * rate + (1 - quality) * r.random(rows), 0.01, 0.99)})
    schema = Schema(user="user", item="item", score="score", labels=[Label(name="click")])
    report = examine_table(sides[1], schema, reference=sides[0])
    assert report.find("predictions.ranking_quality")[0].verdict is (Verdict.PASS if quality else Verdict.FAIL)
    bars = next(e for e in report.overview if e.stage == "predictions" and e.title == "How well does the model rank over all rows?")
    assert set(bars.names) == {"model", "popular", "item_knn", "ease"}
    assert [e.stage for e in report.overview] == sorted((e.stage for e in report.overview), key=list(CHAPTERS).index)
    assert "Do predicted and observed rates agree along the scores?" in {e.title for e in report.overview}


def test_the_overview_shows_losses_of_both_kinds_with_the_ends_of_epochs():
    steps = {"@step": [1, 50, 100, 120, 150, 200, 240], "@epoch": [1, 1, 1, 1, 2, 2, 2], "@place": [""] * 7,
             "@series": ["loss/train"] * 3 + ["loss/validation"] + ["loss/train"] * 2 + ["loss/validation"], "@value": [0.7, 0.6, 0.55, 0.58, 0.5, 0.45, 0.6]}
    total = tally(read(Batch({name: np.array(values) for name, values in steps.items()})), NEEDS)
    curve = training_curves(total)[0]
    assert {line.name: line.x for line in curve.lines} == {"training loss": (1.0, 50.0, 100.0, 150.0, 200.0), "validation loss": (120.0, 240.0)}
    assert curve.marks == ((120.0, "epoch 1 ends"),)


def test_importance_is_drawn_as_mean_and_deviation_beside_usefulness_in_one_order():
    def number(value):
        return Estimate(value=value, low=value - 0.01, high=value + 0.01, unit="u", n=500)

    fields = [Importance(field=name, share=number(share), mean=share * 2, deviation=0.3, usefulness=None if use is None else number(use))
              for name, share, use in (("a", 0.7, 0.05), ("b", 0.2, -0.02), ("c", 0.1, None))]
    left, (right,) = reliance_bars(fields), usefulness_bars(fields)
    assert left.names == right.names == ("a", "b", "c")
    assert left.values == (1.4, 0.4, 0.2)
    assert left.low == pytest.approx((1.1, 0.1, 0.0))
    assert left.high == pytest.approx((1.7, 0.7, 0.5))
    assert right.highlighted == ("b",)
    assert np.isnan(right.values[2])
    assert usefulness_bars(fields[2:]) == []
