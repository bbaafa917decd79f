"""Lists of one relevant item among sampled ones: told from impressions and from whole catalogues, and why it matters."""

import numpy as np
import pytest

from judging import ask
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.recommendations.sampled_candidates import SampledCandidates
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.stats.list_shapes import ListLength, RelevantRows
from recspect.diagnosis.stats.measures import AreaUnderCurve, Recall
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.schema import Label, Schema
from recspect.worlds import World

SCHEMA = Schema(user="user", item="item", labels=(Label(name="click"),))


def sampled(seed, *, users=200, negatives=99, items=3000):
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), negatives + 1)
    y = np.tile(np.arange(negatives + 1) == 0, users).astype(np.float64)
    return {"user": user, "item": rng.integers(0, items, len(user)), "@label": y, "@cluster": user, "@score": rng.random(len(user))}


@pytest.mark.parametrize("negatives", [9, 49, 99])
def test_one_chosen_item_among_sampled_ones_is_found(negatives):
    (finding,) = ask(SampledCandidates(), sampled(0, negatives=negatives), {"item": np.arange(3000)}, schema=SCHEMA)
    assert finding.verdict is Verdict.WARN
    assert finding.estimate.value == pytest.approx((negatives + 1) / 3000, rel=0.1)


def test_a_few_lists_that_lost_a_row_do_not_hide_it():
    table = sampled(0)
    kept = np.random.default_rng(1).random(len(table["user"])) > 0.0005 * (table["@label"] == 0)
    (finding,) = ask(SampledCandidates(), {name: column[kept] for name, column in table.items()}, schema=SCHEMA)
    assert finding.verdict is Verdict.WARN


@pytest.mark.parametrize("seed", range(3))
def test_impressions_and_whole_catalogues_are_quiet(seed):
    batch = World(rows=10_000, seed=seed).exposures()
    logged = {"user": batch["user"], "item": batch["item"], "@label": batch["click"], "@cluster": batch["user"], "@score": batch["truth"]}
    assert ask(SampledCandidates(), logged, schema=SCHEMA)[0].verdict is Verdict.PASS
    whole = sampled(seed, negatives=59, items=60)
    whole["item"] = np.tile(np.arange(60), 200)
    assert ask(SampledCandidates(), whole, schema=SCHEMA)[0].verdict is Verdict.PASS


def test_the_catalogue_is_that_of_both_sides():
    (finding,) = ask(SampledCandidates(), sampled(0, items=150), {"item": np.arange(100_000)}, schema=SCHEMA)
    assert finding.estimate.value == pytest.approx(100 / 100_000, rel=0.1)


def test_rows_with_places_and_few_lists_are_unknown():
    placed = {**sampled(0), "place": np.ones(20_000)}
    assert ask(SampledCandidates(), placed, schema=Schema(user="user", item="item", position="place", labels=SCHEMA.labels))[0].verdict is Verdict.UNKNOWN
    assert ask(SampledCandidates(), sampled(0, users=20), schema=SCHEMA)[0].verdict is Verdict.UNKNOWN


def test_sampled_recall_orders_two_models_the_other_way_and_auc_does_not():
    """One puts every chosen item at place 60 of 3,000; the other half of them first, half in the middle. Krichene and Rendle 2020."""
    rng = np.random.default_rng(0)
    places = {"steady": np.full(300, 60), "either way": np.where(np.arange(300) % 2, 1, 1500)}
    found = {}
    for name, place in places.items():
        for of, negatives in (("catalogue", 2999), ("sample", 99)):
            others = [rng.permutation(np.delete(np.arange(1, 3001), at - 1))[:negatives] for at in place]
            score = -np.concatenate([np.append(at, rest) for at, rest in zip(place, others, strict=True)]).astype(np.float64)
            rows = Batch({"user": np.repeat(np.arange(300), negatives + 1), "@score": score, "@label": np.tile(np.arange(negatives + 1) == 0, 300).astype(np.float64)})
            measures = (Recall(k=10), AreaUnderCurve(), ListLength(), RelevantRows())
            summary = PerUnit(unit="user", measures=measures).summarize(rows)
            found[name, of] = [summary.mean(measure) for measure in measures]
            assert found[name, of][2:] == [negatives + 1, 1]
    (steady, sure, *_), (either, _, *_) = found["steady", "catalogue"], found["either way", "catalogue"]
    assert (steady, either) == (0.0, 0.5)
    assert found["steady", "sample"][0] > 0.9 > 0.55 > found["either way", "sample"][0]
    for name in places:
        assert found[name, "sample"][1] == pytest.approx(found[name, "catalogue"][1], abs=0.02)
    assert sure > 0.9
