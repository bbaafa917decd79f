"""Curves of groups of users that cross those of others though their AUCs are equal: in closed form, planted, and not found where nothing crosses."""

from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from judging import ask
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.predictions.roc_gap import PLACES, RocGap, roc
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.schema import Field, Label, Schema

SCHEMA = Schema(user="user", labels=(Label(name="click"),), fields=(Field(name="plan", kind="categorical", side="user"),))


def log(seed, *, rows=12_000, users=600, spread=1.0, noise=0.0):
    """Scores of negatives N(0, 1), of positives N(1, 1); of positives of plan c N(m, spread), m such that their AUC is the same, and with more noise."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, rows)
    plan = np.array(["a", "b", "c"])[user % 3]
    y = rng.random(rows) < 0.2
    special = y & (plan == "c")
    z = np.where(special, rng.normal(np.sqrt((1 + spread**2) / 2), spread, rows), rng.normal(y.astype(float), 1.0))
    z = z + np.where(plan == "c", noise * rng.normal(size=rows), 0.0)
    return {"user": user, "plan": plan, "@label": y.astype(np.float64), "@cluster": user, "@score": 1 / (1 + np.exp(-z))}


def area(spread):
    """Between the two curves, by their normal distributions."""
    normal = NormalDist()
    z = [normal.inv_cdf(x) for x in np.linspace(0, 1, PLACES)[1:-1]]
    middle = np.sqrt((1 + spread**2) / 2)
    return sum(abs(normal.cdf(1 + v) - normal.cdf((middle + v) / spread)) for v in z) / PLACES


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [0.3, 2.5])
def test_a_curve_that_crosses_is_found_and_its_area_is_that_of_the_closed_form(seed, spread):
    (finding,) = ask(RocGap(), log(seed, spread=spread), schema=SCHEMA)
    assert finding.verdict is Verdict.WARN
    assert finding.place.name == "plan=c"
    assert finding.evidence[1].rows[0][2] == pytest.approx(area(spread), abs=0.02)
    assert finding.estimate.low < area(spread) < finding.estimate.high + 0.01


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("settings", [{}, {"rows": 40_000}, {"noise": 1.5}], ids=["alike", "alike, many rows", "one worse throughout"])
def test_curves_that_do_not_cross_are_quiet(seed, settings):
    (finding,) = ask(RocGap(), log(seed, **settings), schema=SCHEMA)
    assert finding.verdict is Verdict.PASS


def test_groups_dealt_to_other_users_lose_the_crossing():
    table = log(0, spread=2.5)
    dealt = np.random.default_rng(1).permutation(600)[table["user"]] % 3
    assert ask(RocGap(), {**table, "plan": dealt.astype(str)}, schema=SCHEMA)[0].verdict is Verdict.PASS


def test_the_curve_is_that_of_scikit_learn():
    table = log(3, rows=2000)
    score = np.round(table["@score"] * 16) / 16  # on bin edges, so that binning changes nothing
    x, y, _ = roc_curve(table["@label"], score, drop_intermediate=False)
    last = np.append(np.diff(x) > 0, True)
    found = roc(ScoreLabel(detail=4).summarize(Batch({"@score": score, "@label": table["@label"]})))
    np.testing.assert_allclose(found, np.interp(np.linspace(0, 1, PLACES), x[last], y[last]), atol=1e-12)


def test_without_groups_or_rows_it_is_unknown():
    for table, schema in ((log(0), Schema(user="user", labels=SCHEMA.labels)), (log(0, rows=300), SCHEMA)):
        (finding,) = ask(RocGap(), table, schema=schema)
        assert finding.verdict is Verdict.UNKNOWN
