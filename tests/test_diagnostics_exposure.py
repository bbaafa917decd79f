"""How far up relevant items of each kind are shown: exposure by hand, planted disadvantage, and kinds that differ for good reasons."""

import itertools

import numpy as np
import pytest

from judging import ask
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.recommendations.exposure_parity import ExposureParity
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.stats.exposure import EXPOSURE, RELEVANT, ROWS, SEEN, Exposure, exposure_of
from recspect.schema import Field, Label, Schema

SCHEMA = Schema(user="user", item="item", labels=(Label(name="click"),), fields=(Field(name="kind", kind="categorical", side="item"),))


def log(seed, *, users=600, length=20, lowered=0.0, rarer=0.0):
    """Lists scored by the true probabilities; rows of kind c are scored `lowered` logits too low, and chosen `rarer` logits less often."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), length)
    item = rng.integers(0, 300, len(user))
    kind = np.array(["a", "b", "c"])[item % 3]
    logit = -1.0 + rng.normal(0, 0.7, 300)[item] + rng.normal(size=len(user)) - rarer * (kind == "c")
    y = rng.random(len(user)) < 1 / (1 + np.exp(-logit))
    return {"user": user, "item": item, "kind": kind, "@label": y.astype(np.float64), "@cluster": user, "@score": 1 / (1 + np.exp(-logit + lowered * (kind == "c")))}


def test_exposure_is_the_mean_over_all_orders_of_tied_rows():
    rng = np.random.default_rng(0)
    units, scores = np.sort(rng.integers(0, 4, 20)), rng.integers(0, 3, 20) / 2
    found = exposure_of(units, scores)
    for unit in range(4):
        mine = np.flatnonzero(units == unit)
        orders = [order for order in itertools.permutations(mine) if (np.diff(scores[list(order)]) <= 0).all()]
        expected = {row: np.mean([1 / np.log2(2 + order.index(row)) for order in orders]) for row in mine}
        np.testing.assert_allclose(found[mine], [expected[row] for row in mine])


def test_sums_are_those_of_the_rows():
    table = log(0, users=40, length=7)
    summary = Exposure(unit="user", by="kind", buckets=5).summarize(Batch(table))
    seen = exposure_of(table["user"], table["@score"])
    for i, name in enumerate(summary.names):
        mine = table["kind"] == name
        relevant = mine & (table["@label"] > 0)
        np.testing.assert_allclose(summary.sums[i].sum(0)[[ROWS, RELEVANT, EXPOSURE, SEEN]], [mine.sum(), relevant.sum(), seen[mine].sum(), seen[relevant].sum()])


@pytest.mark.parametrize("seed", range(3))
def test_a_kind_that_is_scored_too_low_is_found(seed):
    (finding,) = ask(ExposureParity(), log(seed, lowered=2.0), schema=SCHEMA)
    assert finding.verdict is Verdict.WARN
    assert finding.place.name == "kind=c"
    table = log(seed, lowered=2.0)
    seen, relevant = exposure_of(table["user"], table["@score"]), table["@label"] > 0
    mine = table["kind"] == "c"
    assert finding.estimate.value == pytest.approx(1 - seen[relevant & mine].mean() / seen[relevant & ~mine].mean())


@pytest.mark.parametrize("seed", range(10))
def test_kinds_alike_are_quiet(seed):
    (finding,) = ask(ExposureParity(), log(seed), schema=SCHEMA)
    assert finding.verdict is Verdict.PASS
    assert abs(finding.estimate.value) < 0.1


@pytest.mark.parametrize("rarer", [-1.5, 0.5, 1.5])
def test_a_kind_that_is_chosen_more_or_less_often_is_no_fault_of_the_model(rarer):
    """Seldom chosen, its relevant rows stand further down and it still has more exposure for each; often chosen, the other way round."""
    (finding,) = ask(ExposureParity(), log(0, rarer=rarer), schema=SCHEMA)
    assert finding.verdict is Verdict.PASS
    row = next(row for row in finding.evidence[1].rows if row[0] == "kind=c")
    assert (row[4] > 1) == (rarer > 0)
    assert (row[3] > 0) == (rarer > 0)


def test_lists_of_one_row_and_absent_roles_are_unknown():
    alone = {**log(0), "user": np.arange(12_000), "@cluster": np.arange(12_000)}
    for table, schema in ((alone, SCHEMA), (log(0), Schema(item="item", labels=SCHEMA.labels, fields=SCHEMA.fields)), (log(0), Schema(user="user", labels=SCHEMA.labels))):
        (finding,) = ask(ExposureParity(), table, schema=schema)
        assert finding.verdict is Verdict.UNKNOWN
