"""features.canary: fields against a field of pure chance, on planted contributions and on trained networks."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from judging import diagnose, is_quiet, verdicts
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.features.canary import Canary
from recspect.diagnosis.finding import Verdict
from recspect.errors import DataError
from recspect.examining.examination import examine
from recspect.features import with_canary
from recspect.schema import Field, Label, Schema
from recspect.worlds import FieldWorld

SEEDS = range(5)
PLANTED = Field(name="canary:city")
SCHEMA = Schema(user="user", labels=[Label(name="click")], fields=[Field(name="city"), Field(name="age", kind="numeric"), Field(name="weak"), PLANTED])
BENCH = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "importance_truth.py"), run_name="bench")


def contributions(seed, *, weak=0.004, canary=-0.002, size=0.05, rows=4000, labels=True):
    """Contributions of four fields: how large, and what they take off the loss."""
    rng = np.random.default_rng(seed)
    table = {"user": rng.integers(0, 300, rows)}
    for field, spread, use in (("city", 0.5, 0.02), ("age", 0.4, 0.015), ("weak", 0.15, weak), ("canary:city", size, canary)):
        table[f"@attribution:{field}"] = rng.normal(0, spread, rows)
        if labels:
            table[f"@usefulness:{field}"] = rng.normal(use, 0.02, rows)
    return table


def test_a_canary_has_the_values_of_the_field_dealt_at_random():
    rng = np.random.default_rng(0)
    item = rng.zipf(1.5, 5000) % 300
    rows = with_canary({"item": item, "click": (item % 7 == 0).astype(float)}, "item", seed=3)
    assert sorted(rows["canary:item"].tolist()) == sorted(item.tolist())
    assert abs(np.corrcoef(rows.numbers("canary:item"), rows.numbers("item"))[0, 1]) < 0.05
    assert rows["canary:item"].tolist() == with_canary(Batch({"item": item}), "item", seed=3)["canary:item"].tolist()
    assert rows["canary:item"].tolist() != with_canary(Batch({"item": item}), "item", seed=4)["canary:item"].tolist()
    with pytest.raises(DataError, match="no column 'tem'"):
        with_canary({"item": item}, "tem")


@pytest.mark.parametrize("seed", range(20))
def test_fields_that_beat_chance_are_quiet(seed):
    assert is_quiet(diagnose(Canary(), SCHEMA, contributions(seed)))
    assert is_quiet(diagnose(Canary(), SCHEMA, contributions(seed, labels=False)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_field_below_the_canary_is_named(seed):
    found = diagnose(Canary(), SCHEMA, contributions(seed, weak=-0.005))
    assert verdicts(found) == {"weak": Verdict.WARN}
    assert "below canary:city, which is pure chance" in found[0].claim
    assert found[0].estimate.value == pytest.approx(-0.003, abs=0.002)
    assert verdicts(diagnose(Canary(), SCHEMA, {**contributions(seed, size=0.2, labels=False)}))["weak"] is Verdict.WARN


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("size", "verdict"), [(0.3, Verdict.WARN), (1.0, Verdict.FAIL)])
def test_a_canary_that_is_relied_on_is_learned_by_heart(seed, size, verdict):
    assert verdicts(diagnose(Canary(), SCHEMA, contributions(seed, size=size)))["canary:city"] is verdict


def test_without_a_canary_or_a_model_the_answer_says_what_to_do():
    bare = Schema(user="user", labels=[Label(name="click")], fields=[Field(name="city"), Field(name="age", kind="numeric")])
    table = {name: column for name, column in contributions(0).items() if "canary" not in name}
    (finding,) = diagnose(Canary(), bare, table)
    assert finding.verdict is Verdict.UNKNOWN
    assert "with_canary" in finding.threshold + finding.claim
    (finding,) = diagnose(Canary(), SCHEMA, {"user": np.arange(600), "click": np.arange(600) % 2})
    assert finding.verdict is Verdict.UNKNOWN


class Planted:
    """A world whose rows have a canary of 3,000 ids beside its fields."""

    def __init__(self, seed):
        self.seed, self.world = seed, FieldWorld(rows=8000, strengths=(1.2, 0.7, 0.4), noise=0, duplicate=False, constant=False, pair=0.0, seed=seed)
        self.fields = (*self.world.fields, "canary:id")

    def exposures(self):
        rows = self.world.exposures()
        ids = np.random.default_rng(self.seed + 50).integers(0, 3000, rows.rows)
        return with_canary(rows.with_columns({"id": ids}), "id", seed=self.seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_trained_network_learns_a_canary_by_heart_in_many_epochs_only(seed):
    world, found = Planted(seed), {}
    schema = Schema(user=world.world.schema.user, labels=world.world.schema.labels, fields=[Field(name=name) for name in world.fields])
    for epochs in (1, 8):
        subject, train, held_out = BENCH["trained"](world, epochs=epochs, seed=seed)
        report = examine(subject, held_out, schema, reference=train, diagnostics=[Canary()], sample_rows=2000)
        found[epochs] = verdicts([finding for finding in report.findings if finding.code == "features.canary"])
    assert found[1] == {"": Verdict.PASS}
    assert found[8] == {"canary:id": Verdict.FAIL, "": Verdict.PASS}
