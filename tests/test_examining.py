"""What stands between runs and the engine: declared lookups, units behind added columns."""

import numpy as np
import pytest
import torch

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import read
from recspect.diagnosis.stats.measures import AreaUnderCurve
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.examining.examination import examine_table
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
