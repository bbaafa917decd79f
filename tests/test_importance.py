"""Importance of fields on worlds of known worth, the diagnostic of spurious fields, and the call `importance`."""

import functools
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from judging import diagnose, is_quiet, verdicts
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.features.spurious import Spurious
from recspect.diagnosis.evidence import Bars, Curve, HeatMap, RankedTable
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.slice import Slice
from recspect.diagnosis.stats.field_flow import FieldFlow
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import DataError, Unavailable, UsageError
from recspect.examining.examination import examine
from recspect.examining.importance import importance
from recspect.schema import Field, Label, Schema
from recspect.worlds import FieldWorld

BENCH = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "importance_truth.py"), run_name="bench")
SEEDS = range(5)
SMALL = {"rows": 6000, "strengths": (1.2, 0.7, 0.4), "noise": 0, "duplicate": False, "constant": False, "pair": 0.0}


@functools.cache
def trained(**settings):
    """A network trained on a world, its training rows and its held-out rows."""
    epochs = settings.pop("epochs", 3)
    world = FieldWorld(**settings)
    return (world, *BENCH["trained"](world, epochs=epochs, seed=world.seed))


def scores_of(**settings):
    """Field to (reliance, usefulness), and the summary."""
    world, subject, train, held_out = trained(**settings)
    del world
    total = BENCH["scores"](subject, train, held_out, steps=6)
    return dict(zip(subject.fields, zip(total.reliance(), total.mean_usefulness(), strict=True), strict=True)), total


# ------------------------------------------------------------------ worlds


def test_a_world_has_the_worth_that_it_promises():
    world = FieldWorld(rows=60_000, strengths=(1.2, 0.5), pair=0.9, noise=50, seed=3)
    batch = world.exposures()
    assert set(batch) == {*world.schema.columns, "truth"}
    logit = np.log(batch.numbers("truth") / (1 - batch.numbers("truth")))

    def decided(*names):
        codes = np.unique(np.stack([batch.numbers(name) for name in names], 1), axis=0, return_inverse=True)[1].ravel()
        means = np.bincount(codes, logit) / np.bincount(codes)
        return float(means[codes].var())

    assert decided("field0") == pytest.approx(1.2**2, abs=0.1)
    assert decided("field1") == pytest.approx(0.5**2, abs=0.1)
    assert decided("left") < 0.05  # alone each half of the pair says nothing
    assert decided("left", "right") == pytest.approx(0.9**2, abs=0.1)
    assert decided("noise") < 0.05
    assert np.array_equal(batch["copy"], batch["field0"])
    assert world.worth == {"field0": 0.72, "field1": 0.25, "left": 0.9**2 / 2, "right": 0.9**2 / 2, "copy": 0.72, "constant": 0.0, "noise": 0.0}
    assert np.array_equal(batch.numbers("click"), FieldWorld(rows=60_000, strengths=(1.2, 0.5), pair=0.9, noise=50, seed=3).exposures().numbers("click"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_noise_field_of_normal_size_comes_last(seed):
    found, _ = scores_of(**{**SMALL, "noise": 12}, seed=seed)
    for k in (0, 1):
        assert min(found, key=lambda name: found[name][k]) == "noise", found


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_duplicated_field_shares_its_worth(seed):
    alone, _ = scores_of(**SMALL, seed=seed)
    found, _ = scores_of(**{**SMALL, "duplicate": True}, seed=seed)
    together = found["field0"][1] + found["copy"][1]
    assert together == pytest.approx(alone["field0"][1], rel=0.25)
    assert min(found["field0"][1], found["copy"][1]) > 0.2 * together
    assert together > found["field1"][1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_fields_that_count_only_together_are_found(seed):
    """What looks at one field at a time sees nothing in them."""
    found, _ = scores_of(rows=12_000, strengths=(0.6, 0.3), pair=1.5, categories=8, noise=8, duplicate=False, constant=True, seed=seed, epochs=6)
    for half in ("left", "right"):
        assert found[half][1] > max(found["noise"][1], found["constant"][1], 0.01), found
        assert found[half][0] > 2 * max(found["noise"][0], found["constant"][0]), found
    assert found["constant"] == pytest.approx((0.0, 0.0), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_memorised_noise_field_is_relied_on_and_does_not_help(seed):
    found, total = scores_of(seed=seed, epochs=4)
    assert found["noise"][0] > 1 / len(found)
    assert found["noise"][1] <= 0
    assert min(found, key=lambda name: found[name][1]) == "noise"
    assert total.mean_usefulness().sum() == pytest.approx(sum(use for _, use in found.values()))


# ------------------------------------------------------------------ the diagnostic


SCHEMA = Schema(user="user", labels=[Label(name="click")], fields=[Field(name="city"), Field(name="age", kind="numeric"), Field(name="noise")])


def flows(seed, *, rows=3000, noise=0.3, useless=0.0, layers=("mlp.1", "mlp.3")):
    """Flows of three fields through two layers: `noise` moves the score by so much and takes `useless` off the loss."""
    rng = np.random.default_rng(seed)
    table = {"user": rng.integers(0, 300, rows)}
    for field, size, use in (("city", 0.5, 0.02), ("age", 0.4, 0.015), ("noise", noise, useless)):
        table[f"@attribution:{field}"] = rng.normal(0, size, rows)
        table[f"@usefulness:{field}"] = rng.normal(use, 0.05, rows)
        for layer in layers:
            share = rng.dirichlet(np.ones(4), rows)
            table[f"@conductance:{field}:{layer}"] = table[f"@attribution:{field}"][:, None] * share
    return table


@pytest.mark.parametrize("seed", SEEDS)
def test_a_field_that_moves_the_score_and_raises_the_loss_fails(seed):
    found = diagnose(Spurious(), SCHEMA, flows(seed, noise=1.0, useless=-0.01), flows(seed + 50, noise=1.0, useless=0.02), layers=("mlp.1", "mlp.3"))
    assert verdicts(found) == {"noise": Verdict.FAIL}
    assert "learned by heart" in found[0].claim
    assert [type(piece) for piece in found[0].evidence] == [Bars, RankedTable, HeatMap, HeatMap, Curve]


@pytest.mark.parametrize("seed", range(20))
def test_fields_that_help_are_quiet(seed):
    assert is_quiet(diagnose(Spurious(), SCHEMA, flows(seed, useless=0.01), layers=("mlp.1", "mlp.3")))
    assert is_quiet(diagnose(Spurious(), SCHEMA, flows(seed, noise=0.05, useless=0.0), layers=("mlp.1", "mlp.3")))  # too little to matter


def test_without_layers_the_whole_contributions_decide():
    table = flows(1, noise=1.0, useless=-0.01, layers=())
    (finding,) = diagnose(Spurious(), SCHEMA, table)
    assert finding.verdict is Verdict.FAIL
    assert [type(piece) for piece in finding.evidence] == [Bars, RankedTable]
    mean = {field: np.abs(table[f"@attribution:{field}"]).mean() for field in ("city", "age", "noise")}
    assert dict(zip(finding.evidence[0].names, finding.evidence[0].values, strict=True)) == pytest.approx(
        {field: value / sum(mean.values()) for field, value in mean.items()})


def test_without_a_model_or_labels_the_answer_is_unknown():
    (finding,) = diagnose(Spurious(), SCHEMA, {"user": np.arange(500), "click": np.arange(500) % 2})
    assert finding.verdict is Verdict.UNKNOWN
    unlabelled = {name: column for name, column in flows(0).items() if "usefulness" not in name}
    (finding,) = diagnose(Spurious(), SCHEMA, unlabelled, layers=("mlp.1",))
    assert finding.verdict is Verdict.UNKNOWN
    assert "labels" in finding.threshold


def test_epochs_are_drawn_where_they_were_measured():
    table = flows(3)
    for epoch in (1, 2, 3):
        table |= {f"{name}:epoch-{epoch}": column for name, column in flows(epoch, noise=0.1 * epoch).items() if name.startswith("@")}
    (finding,) = diagnose(Spurious(), SCHEMA, table, layers=("mlp.1", "mlp.3"), epochs=(1, 2, 3))
    course, helped = finding.evidence[-2:]
    assert course.title == "When did the model come to rely on each field?"
    (line,) = (line for line in course.lines if line.name == "noise")
    assert line.x == (1.0, 2.0, 3.0)
    assert line.y == tuple(sorted(line.y))
    assert helped.y_title.startswith("nats")


def test_declared_slices_show_where_a_field_helps():
    table = flows(4, useless=0.01)
    table["place"] = np.arange(3000) % 2
    table["@usefulness:noise"] = np.where(table["place"] == 0, 0.03, -0.02)
    slices = (Slice.parse("place=0"), Slice.parse("place=1"), Slice.parse("place=2"))
    (finding,) = diagnose(Spurious(), SCHEMA, table, layers=("mlp.1", "mlp.3"), slices=slices)
    picture = finding.evidence[-1]
    assert isinstance(picture, HeatMap)
    assert picture.columns == ("place=0", "place=1")  # the third holds no row
    assert picture.values[picture.rows.index("noise")] == pytest.approx((0.03, -0.02))


@pytest.mark.slow
def test_a_whole_examination_names_the_memorised_field_and_draws_layers_and_epochs():
    world, subject, train, held_out = trained(seed=0, epochs=4, rows=6000, noise=1500)
    early = BENCH["trained"](world, epochs=1, seed=0)[0]
    said = []
    report = examine(subject, held_out, world.schema, reference=train, diagnostics=[Spurious()], epochs={1: early, 4: subject}, say=said.append)
    assert {finding.place.name: finding.verdict for finding in report.findings}["noise"] is Verdict.FAIL
    (finding,) = (finding for finding in report.findings if finding.place.name == "noise")
    assert "learned by heart" in finding.claim
    assert sum(isinstance(piece, Curve) for piece in finding.evidence) == 3
    assert not any("left out" in line for line in said)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_whole_examination_of_a_healthy_model_is_quiet(seed):
    world, subject, train, held_out = trained(**SMALL, seed=seed)
    report = examine(subject, held_out, world.schema, reference=train, diagnostics=[Spurious()])
    assert [finding.verdict for finding in report.findings] == [Verdict.PASS]


# ------------------------------------------------------------------ as a call


class Sum(torch.nn.Module):
    """logit = the value of `a` plus a tower over `a` and `b`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = torch.nn.Embedding(9, 3), torch.nn.Embedding(9, 3)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.SiLU(), torch.nn.Linear(5, 4), torch.nn.SiLU(), torch.nn.Linear(4, 1))

    def forward(self, x):
        a, b = self.a(x["a"]), self.b(x["b"])
        return torch.sigmoid(a.sum(1) + self.mlp(torch.cat([a, b], 1)).squeeze(1))


SUM = Schema(user="user", labels=[Label(name="click")], fields=[Field(name="a"), Field(name="b")])


def sum_rows(seed=0, rows=400):
    r = np.random.default_rng(seed)
    return {"user": r.integers(0, 60, rows), "a": r.integers(0, 9, rows), "b": r.integers(0, 9, rows), "click": r.integers(0, 2, rows),
            "device": r.integers(0, 2, rows)}


def test_importance_is_a_table_with_intervals_layers_and_neurons():
    subject = TorchSubject(Sum(), fields=["a", "b"])
    found = importance(subject, sum_rows(), SUM)
    table = found.table()
    assert table.columns == ["field", "reliance", "reliance_low", "reliance_high", "usefulness", "usefulness_low", "usefulness_high", "contribution",
                             "deviation", "share:mlp.1", "cancellation:mlp.1", "bypass:mlp.1", "share:mlp.3", "cancellation:mlp.3", "bypass:mlp.3"]
    rows = {row["field"]: row for row in table.iter_rows(named=True)}
    assert table["reliance"].sum() == pytest.approx(1)
    assert all(row["reliance_low"] < row["reliance"] < row["reliance_high"] for row in rows.values())
    assert rows["a"]["bypass:mlp.1"] > 0.5  # most of `a` goes around the tower, nothing of `b`
    assert rows["b"]["bypass:mlp.1"] == pytest.approx(0, abs=1e-5)
    neurons = found.neurons("mlp.3")
    assert neurons.shape == (8, 5)
    assert neurons["field"].to_list() == ["a"] * 4 + ["b"] * 4
    with pytest.raises(UsageError, match=r"mlp\.1, mlp\.3"):
        found.neurons("mlp.9")
    assert {type(piece) for piece in found.evidence()} == {Bars, RankedTable, HeatMap, Curve}
    (bars,) = (piece for piece in found.evidence() if isinstance(piece, Bars))
    assert "add up to within 0.000" in bars.caption  # smooth layers: eight points are exact to rounding


def test_importance_adds_up_over_days_and_slices():
    subject, start = TorchSubject(Sum(), fields=["a", "b"]), sum_rows(9)
    monday, tuesday = sum_rows(1), sum_rows(2)
    both = {name: np.concatenate([monday[name], tuesday[name]]) for name in monday}
    halves = [Slice.parse(f"device={value}") for value in (0, 1)]
    a, b, whole = (importance(subject, day, SUM, baseline_rows=start, slices=halves) for day in (monday, tuesday, both))
    added = a + b
    assert [row["field"] for row in added.table().iter_rows(named=True)] == [row["field"] for row in whole.table().iter_rows(named=True)]
    for name in ("size", "net", "bypass", "usefulness", "attribution"):
        assert getattr(added.total, name) == pytest.approx(getattr(whole.total, name), rel=1e-5, abs=1e-5)
        assert sum(getattr(whole.in_slice(half), name) for half in halves) == pytest.approx(getattr(whole.total, name), rel=1e-5, abs=1e-5)
    for name in ("reliance_low", "usefulness_high"):
        assert added.table()[name].to_list() == pytest.approx(whole.table()[name].to_list(), rel=1e-4)
    with pytest.raises(Unavailable):
        a.in_slice(Slice.parse("device=7"))
    with pytest.raises(DataError, match="holds no rows"):
        importance(subject, {name: column[:0] for name, column in monday.items()}, SUM)


def test_scores_of_a_summary_are_what_their_definitions_say():
    rng = np.random.default_rng(5)
    c = {layer: rng.normal(0.1, 1, (2, 50, width)) for layer, width in (("x", 3), ("y", 4))}
    whole, use = rng.normal(0, 2, (2, 50)), rng.normal(0, 1, (2, 50))
    batch = Batch({**{f"@conductance:{f}:{layer}": flow[i] for layer, flow in c.items() for i, f in enumerate("ab")},
                   **{f"@attribution:{f}": whole[i] for i, f in enumerate("ab")}, **{f"@usefulness:{f}": use[i] for i, f in enumerate("ab")}})
    total = FieldFlow(fields=("a", "b"), layers=("x", "y"), loss=True, neurons=True).summarize(batch)
    g = np.stack([np.abs(flow).mean(1).sum(1) for flow in c.values()], 1)
    shares = [np.abs(whole).mean(1) / np.abs(whole).mean(1).sum(), *(g / g.sum(0)).T]
    assert total.flow() == pytest.approx(g)
    assert total.reliance() == pytest.approx(np.mean(shares, 0))
    net = np.stack([np.abs(flow.sum(2)).mean(1) for flow in c.values()], 1)
    assert total.cancellation() == pytest.approx(1 - net / g)
    around = np.stack([np.abs(whole - flow.sum(2)).mean(1) for flow in c.values()], 1)
    assert total.bypass_share() == pytest.approx(around / (around + net))
    assert total.deviation() == pytest.approx(whole.std(1, ddof=1))
    assert total.mean_usefulness() == pytest.approx(use.mean(1))
    assert total.neuron_mean(1) == pytest.approx(c["y"].mean(1))
    assert total.neuron_deviation(1) == pytest.approx(c["y"].std(1, ddof=1))
    sizes = np.abs(c["y"]).mean(1)
    assert total.spread(1) == pytest.approx(sizes.std(1))
    assert total.specialisation(1) == pytest.approx(sizes.std(1) / sizes.mean(1))
