"""The search for weak slices over a tally: three fields, frequency groups, hierarchies, lists, and what happens where nothing is wrong."""

import numpy as np
import pytest

from judging import diagnose, is_quiet, verdicts
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostic import Scope, gathered, plan
from recspect.diagnosis.diagnostics.predictions.slice_null import RATE, chance_of_furthest, furthest_by_chance
from recspect.diagnosis.diagnostics.predictions.worst_slices import WorstSlices
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.probes.frequency import FrequencyProbe, fitted_frequency
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import read
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.diagnosis.stats.slice_sums import POSITIVE, PREDICTED, ROWS, SliceSums
from recspect.diagnosis.tally import Tally
from recspect.schema import Field, Label, Schema

SCHEMA = Schema(user="user", labels=[Label(name="click")], fields=[Field(name=name) for name in ("city", "tab", "device", "age")])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def logit(p):
    return np.log(p / (1 - p))


def world(seed, rows=24_000, users=600):
    """Clicks drawn from the very probabilities that are the score; four fields of a few values."""
    rng = np.random.default_rng(seed)
    columns = {"user": rng.integers(0, users, rows), "city": rng.integers(0, 5, rows), "tab": rng.integers(0, 4, rows), "device": rng.integers(0, 3, rows),
               "age": rng.integers(0, 3, rows)}
    p = sigmoid(-1.2 + rng.normal(0, 0.7, users)[columns["user"]] + rng.normal(0, 0.8, rows))
    return {**columns, "@score": p, "click": (rng.random(rows) < p).astype(float)}


def bad(findings):
    """Names of the slices that are called bad, their terms in one order."""
    return {",".join(sorted(name.split(","))) for name, verdict in verdicts(findings).items() if verdict is not Verdict.PASS}


def damaged(table, inside, by):
    return {**table, "@score": np.where(inside, table["@score"] * by, table["@score"])}


@pytest.mark.parametrize("seed", range(4))
def test_a_slice_of_three_fields_is_named_once_and_not_by_its_parts(seed):
    table = world(seed)
    inside = (table["city"] == 2) & (table["tab"] == 1) & (table["device"] == 0)
    assert bad(diagnose(WorstSlices(), SCHEMA, damaged(table, inside, 0.35))) == {"city=2,device=0,tab=1"}


@pytest.mark.parametrize("seed", range(4))
def test_a_whole_field_value_is_named_as_that_and_not_by_crossings(seed):
    table = world(seed)
    assert bad(diagnose(WorstSlices(), SCHEMA, damaged(table, table["city"] == 3, 0.6))) == {"city=3"}


@pytest.mark.parametrize("seed", range(3))
def test_two_faults_are_two_names(seed):
    table = world(seed)
    table = damaged(damaged(table, table["city"] == 3, 0.5), (table["tab"] == 1) & (table["device"] == 2), 0.5)
    assert bad(diagnose(WorstSlices(), SCHEMA, table)) == {"city=3", "device=2,tab=1"}


@pytest.mark.parametrize("seed", range(3))
def test_of_a_hierarchy_the_level_at_fault_is_named(seed):
    """A region holds five cities: where one city is wrong the region is not named, and where the region is wrong no city is."""
    schema = Schema(user="user", labels=[Label(name="click")], fields=[Field(name="place"), Field(name="region"), Field(name="tab")])
    rng = np.random.default_rng(seed)
    table = world(seed)
    table["place"] = rng.integers(0, 20, len(table["click"]))
    table["region"] = np.array([f"r{k}" for k in table["place"] // 5])
    assert bad(diagnose(WorstSlices(), schema, damaged(table, table["place"] == 7, 0.4))) == {"place=7"}
    found = bad(diagnose(WorstSlices(), schema, damaged(table, table["region"] == "r1", 0.5)))
    assert "region=r1" in found
    assert len(found) <= 2  # the search is allowed one slice by chance in twenty


@pytest.mark.parametrize("seed", range(3))
def test_rare_ids_are_a_slice(seed):
    rng = np.random.default_rng(seed)
    table = world(seed)
    share = 1 / np.arange(1, 2001) ** 0.9
    train = Batch({"item": rng.choice(2000, 60_000, p=share / share.sum())})
    table["item"] = rng.choice(2000, len(table["click"]), p=share / share.sum())
    probe = fitted_frequency([train], ["item"])
    table["@often:item"] = probe.observe(Batch({"item": table["item"]}))["@often:item"]
    rare = table["@often:item"].decode() == "rare"
    assert 0.2 < rare.mean() < 0.45
    assert bad(diagnose(WorstSlices(), SCHEMA, damaged(table, rare, 0.6))) == {"often(item)=rare"}
    assert is_quiet(diagnose(WorstSlices(), SCHEMA, table))


def test_frequency_groups_hold_about_a_third_of_the_training_rows_each_and_know_the_unseen():
    rng = np.random.default_rng(0)
    ids = rng.zipf(1.5, 30_000) % 5000
    batches = [Batch({"item": ids[:10_000]}), Batch({"item": ids[10_000:].astype(float)})]
    probe = fitted_frequency(batches, ["item"])
    groups = probe.observe(Batch({"item": ids}))["@often:item"].decode()
    assert "unseen" not in groups
    assert all((groups == name).mean() > 0.15 for name in ("rare", "middle"))
    assert probe.observe(Batch({"item": np.array([9999.0, np.nan])}))["@often:item"].decode().tolist() == ["unseen", None]
    assert fitted_frequency([Batch({"tab": np.arange(5)})], ["tab"]).adds == ()
    assert isinstance(probe, FrequencyProbe)


@pytest.mark.parametrize("seed", range(3))
def test_lists_that_are_ordered_at_random_are_found_where_the_scores_are_right_on_average(seed):
    """Within requests of one tab the scores are dealt to other rows of the same request: every average stays, the order is lost."""
    rng = np.random.default_rng(seed)
    requests, places = 2400, 10
    request = np.repeat(np.arange(requests), places)
    tab = rng.integers(0, 4, requests)[request]
    p = sigmoid(-1.2 + rng.normal(0, 1.6, len(request)))
    table = {"user": (request // 4), "request": request, "tab": tab, "city": rng.integers(0, 5, len(request)), "@score": p, "click": (rng.random(len(p)) < p).astype(float)}
    schema = Schema(user="user", request="request", labels=[Label(name="click")], fields=[Field(name="tab"), Field(name="city")])
    assert is_quiet(diagnose(WorstSlices(), schema, table))
    dealt = np.lexsort((rng.random(len(p)), request))
    found = diagnose(WorstSlices(), schema, {**table, "@score": np.where(tab == 2, p[dealt], p)})
    assert bad(found) == {"tab=2"}


@pytest.mark.slow
def test_alarms_of_healthy_tables_are_rare():
    alarms = sum(not is_quiet(diagnose(WorstSlices(), SCHEMA, world(seed, rows=12_000))) for seed in range(60))
    assert alarms <= 7  # 5% allow 3 of 60; above 7 has a probability of 1%


def test_the_chance_of_the_furthest_slice_is_about_uniform_where_nothing_is_wrong():
    rng = np.random.default_rng(0)
    found = []
    for seed in range(200):
        sums = np.zeros((40, 25, 6))
        sums[..., ROWS], sums[..., PREDICTED] = 100, 20
        sums[..., POSITIVE] = rng.binomial(100, 0.2, (40, 25))
        sums[..., 4] = 16
        usual = sums.sum(0)
        most = furthest_by_chance(RATE, sums, usual, seed=seed)
        from recspect.diagnosis.diagnostics.predictions.slice_null import distances

        z, _ = distances(RATE, sums, usual)
        found.append(chance_of_furthest(np.abs(z), most).min())
    assert 0.4 < np.mean(found) < 0.65
    assert np.mean(np.array(found) < 0.1) < 0.16


def test_sums_are_the_same_however_the_rows_are_split():
    table = world(1, rows=4000)
    rows = {**table, "@label": table["click"], "@cluster": table["user"]}
    scope = Scope(schema=SCHEMA, target=frozenset(rows))
    planned = plan([WorstSlices()], scope)
    whole, _ = gathered(planned, scope, lambda keys: tally(read(rows), keys), lambda _: Tally({}))
    parts, _ = gathered(planned, scope, lambda keys: tally(read({name: column[:1500] for name, column in rows.items()}), keys) +
                        tally(read({name: column[1500:] for name, column in rows.items()}), keys), lambda _: Tally({}))
    stats = [key for key in whole if isinstance(key[1], SliceSums) and key[1].unit is None]
    assert max(len(stat.slices) for _, stat in stats) > 50
    for key in stats:
        np.testing.assert_allclose(whole[key].sums, parts[key].sums)


def test_a_share_of_the_users_is_searched_in_large_tables(monkeypatch):
    from recspect.diagnosis.diagnostics.predictions import worst_slices

    monkeypatch.setattr(worst_slices, "SEARCHED", 12_000)
    table = world(0)
    findings = diagnose(WorstSlices(), SCHEMA, damaged(table, table["city"] == 3, 0.4))
    assert bad(findings) == {"city=3"}
    assert findings[0].estimate.n < 0.65 * (table["city"] == 3).sum()
    assert "of a share of the users" in findings[0].meaning


class Cluster(Probe):
    """Adds the cluster, as the standard probe does."""

    adds = ("@cluster",)

    def observe(self, batch):
        return {"@cluster": batch["user"]}


class Later(Probe):
    """Notes how many rows it is shown."""

    adds = ("@later",)

    def __init__(self):
        self.rows = 0

    def observe(self, batch):
        self.rows += batch.rows
        return {"@later": np.asarray(batch["user"]) % 3}


def test_where_all_look_at_the_same_sample_later_probes_see_its_rows_only():
    rng = np.random.default_rng(0)
    table = {"user": rng.integers(0, 2000, 20_000), "@score": rng.random(20_000), "@label": rng.integers(0, 2, 20_000).astype(float)}
    sums = SliceSums(crossings=(((), ((),)), (("@later",), (("1",), ("2",)))), share=0.2)
    few, all_ = Later(), Later()
    alone = tally(read(table), [(ALL, sums)], probes=[Cluster(), few])
    beside = tally(read(table), [(ALL, sums), (ALL, ScoreLabel())], probes=[Cluster(), all_])
    assert all_.rows == 20_000
    assert few.rows == pytest.approx(4000, rel=0.15)
    np.testing.assert_array_equal(alone.get_summary(sums).sums, beside.get_summary(sums).sums)
    assert alone.get_summary(sums).sums[0].sum(0)[0] == few.rows
