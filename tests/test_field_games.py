"""Exact Shapley values and pairwise interactions of fields: known values, closed forms, and each other."""

import functools
import itertools
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from formulas import formula
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.evidence import HeatMap
from recspect.diagnosis.probes.attribution import integrated_gradients, mean_baseline, other_rows, zero_baseline
from recspect.diagnosis.probes.interactions import REST, field_interactions
from recspect.diagnosis.probes.shapley import coalitions, field_shapley, players_of, row_loss, shapley_values
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import UsageError
from recspect.examining.interactions import interactions
from recspect.examining.shapley import shapley
from recspect.examining.tables import sample_of
from recspect.schema import Field, Label, Schema
from recspect.worlds import FieldWorld

BENCH = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "importance_truth.py"), run_name="bench")
SEEDS = range(5)


def three(a, b, c):
    """Captum's BasicModel_MultiLayer."""
    total = a + b + c
    return torch.relu(total - 10) + 3 * torch.relu(total + 1) - 1


def by_orders(worth, players):
    """Shapley values by walking through all orders."""
    found = np.zeros(players)
    for order in itertools.permutations(range(players)):
        inside = 0
        for player in order:
            found[player] += worth[inside | 1 << player] - worth[inside]
            inside |= 1 << player
    return found / math.factorial(players)


# ------------------------------------------------------------------ Shapley values: known results


def test_values_are_the_mean_over_all_orders():
    worth = np.random.default_rng(0).normal(size=2**5)
    assert shapley_values(worth) == pytest.approx(by_orders(worth, 5))
    assert shapley_values(worth).sum() == pytest.approx(worth[-1] - worth[0])
    assert coalitions(2).tolist() == [[False, False], [True, False], [False, True], [True, True]]


def test_two_players_of_shap():
    """SHAP's test of its exact explainer: outputs of both, without the first, of the first alone and of none."""
    both, second, first, none = (0, 10), (2, 20), (8, 80), (3, 30)
    assert shapley_values(np.array([none, first, second, both], dtype=float))[0] == pytest.approx([1.5, 20])


def test_a_number_of_coalitions_that_is_no_power_of_two_is_refused():
    with pytest.raises(UsageError, match="power of 2"):
        shapley_values(np.zeros(6))


@pytest.mark.parametrize(("row", "expected"), [((20, 50, 30), (76.667, 196.667, 116.667)), ((2, 10, 3), (7.0, 32.5, 10.5))])
def test_values_of_captums_network(row, expected):
    subject, batch = formula(three, "abc", row)
    found = field_shapley(subject, batch)
    assert found.value[:, 0] == pytest.approx(expected, abs=1e-3)
    assert found.value.sum(0) == pytest.approx(found.score - found.baseline)


@pytest.mark.parametrize(("row", "expected"), [((20, 50, 30), (275, 115)), ((2, 10, 3), (39.5, 10.5))])
def test_values_of_groups(row, expected):
    subject, batch = formula(three, "abc", row)
    found = field_shapley(subject, batch, groups={"two": ["a", "b"]})
    assert found.players == ("two", "c")
    assert found.value[:, 0] == pytest.approx(expected)


def test_values_of_groups_from_another_baseline():
    subject, batch = formula(three, "abc", (20, 50, 30))
    four = other_rows(batch, Batch({name: np.array([4.0]) for name in "abc"}), "abc")
    assert field_shapley(subject, batch, baseline=four, groups={"two": ["a", "b"]}).value[:, 0] == pytest.approx((248, 104))


def test_linear_models_have_their_weights_as_every_method_has():
    subject, batch = formula(lambda a, b, c: 2 * a - 3 * b + 0.5 * c, "abc", (1, 2, 3), (-1, 0.5, 4))
    mean = mean_baseline(subject, batch)
    x = np.stack([batch.numbers(name) for name in "abc"])
    expected = np.array([[2], [-3], [0.5]]) * (x - x.mean(1, keepdims=True))
    assert field_shapley(subject, batch, baseline=mean).value == pytest.approx(expected, abs=1e-6)
    assert torch.stack(list(integrated_gradients(subject, batch, baseline=mean).reliance.values())).numpy() == pytest.approx(expected, abs=1e-6)


def test_fields_equal_to_the_baseline_get_nothing():
    subject, batch = formula(lambda *x: sum(x), "abcd", (1, 2, 3, 4))
    background = other_rows(batch, Batch({"a": np.array([1.0]), "b": np.array([0.0]), "c": np.array([3.0]), "d": np.array([9.0])}), "abcd")
    found = field_shapley(subject, batch, baseline=background)
    assert found.value[[0, 2], 0] == pytest.approx([0, 0], abs=1e-10)
    assert found.value.sum() == pytest.approx(found.score[0] - found.baseline[0], abs=1e-10)


def test_values_of_the_loss_sum_to_the_loss_taken_off():
    subject, batch = formula(lambda a, b, c: torch.sigmoid(a * b + c), "abc", (1, 2, 3), (2, -1, 0.3))
    label = np.array([1.0, 0.0])
    found = field_shapley(subject, batch, label=label)
    off = row_loss(found.baseline, label, has_logit=True) - row_loss(found.score, label, has_logit=True)
    assert found.usefulness.sum(0) == pytest.approx(off)
    assert row_loss(np.array([0.3]), np.array([1.0]), has_logit=True) == pytest.approx(-np.log(1 / (1 + np.exp(-0.3))))
    assert row_loss(np.array([3.0]), np.array([1.0]), has_logit=False) == 4


def test_too_many_fields_are_refused_with_a_way_out():
    with pytest.raises(UsageError, match="8,192 coalitions per row") as told:
        players_of([f"f{k}" for k in range(13)])
    assert "groups=" in told.value.hint
    assert len(players_of([f"f{k}" for k in range(13)], {"two": ["f0", "f1"]})) == 12
    with pytest.raises(UsageError, match="more than one group"):
        players_of("abc", {"x": "ab", "y": "bc"})
    with pytest.raises(UsageError, match="no field 'z'"):
        players_of("abc", {"x": "az"})


def test_rows_do_not_depend_on_the_rows_beside_them():
    world, subject, _, held_out = trained(0)
    del world
    few = held_out.take(slice(0, 70))  # more than one chunk
    together = field_shapley(subject, few, label=few.numbers("click"))
    alone = field_shapley(subject, few.take(slice(66, 70)), label=few.numbers("click")[66:])
    assert together.value[:, 66:] == pytest.approx(alone.value, abs=1e-5)
    assert together.usefulness[:, 66:] == pytest.approx(alone.usefulness, abs=1e-5)
    assert field_shapley(subject, few.take(slice(0, 0))).value.shape == (8, 0)


# ------------------------------------------------------------------ interactions: closed forms


class Machine(torch.nn.Module):
    """A factorisation machine with first-order weights, over separate tables or one fused table."""

    def __init__(self, fused):
        super().__init__()
        torch.manual_seed(2)
        self.fused, self.table, self.first = fused, torch.nn.Embedding(27, 4), torch.nn.Embedding(27, 1)
        self.tables = torch.nn.ModuleList([] if fused else [torch.nn.Embedding(9, 4) for _ in range(3)])

    def vectors(self, x):
        ids = torch.stack(list(x.values()), 1) + torch.tensor([0, 9, 18])
        return self.table(ids) if self.fused else torch.stack([table(column) for table, column in zip(self.tables, x.values(), strict=True)], 1), self.first(ids)

    def forward(self, x):
        v, w = self.vectors(x)
        return torch.sigmoid((v.sum(1).square() - v.square().sum(1)).sum(1) / 2 + w.sum((1, 2)))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("route", ["auto", "steps"])
@pytest.mark.parametrize("steps", [1, 3])
def test_pairs_of_a_factorisation_machine_are_its_products(fused, route, steps):
    model = Machine(fused)
    r = np.random.default_rng(0)
    batch = Batch({name: r.integers(0, 9, 20) for name in "uih"})
    found = field_interactions(TorchSubject(model, fields=list("uih")), batch, steps=steps, route=route)
    v, w = model.vectors({name: torch.from_numpy(batch[name]) for name in "uih"})
    v, w = v.detach().numpy(), w.detach().numpy()[:, :, 0]
    for (i, first), (j, second) in itertools.combinations(enumerate("uih"), 2):
        assert found.between(first, second) == pytest.approx((v[:, i] * v[:, j]).sum(1), abs=1e-5)
    for i, name in enumerate("uih"):
        assert found.between(name, name) == pytest.approx(w[:, i], abs=1e-5)
    assert found.error == pytest.approx(0, abs=1e-5)


def test_a_product_of_three_is_shared_by_its_three_pairs():
    subject, batch = formula(lambda a, b, c: a * b * c, "abc", (2, 3, 4))
    found = field_interactions(subject, batch, steps=2)
    assert found.route == "curvature"
    for first, second in ("ab", "ac", "bc"):
        assert found.between(first, second)[0] == pytest.approx(8)
    assert [found.between(name, name)[0] for name in "abc"] == pytest.approx([0, 0, 0], abs=1e-6)
    assert found.attribution[:, 0] == pytest.approx([8, 8, 8])


def smooth(a, b, c):
    return torch.tanh(a * b + c) + torch.exp(0.3 * a - 0.2 * c)


@pytest.mark.parametrize("weighing", ["remainder", "integrated_hessians"])
def test_pairs_are_the_integrals_that_they_are_defined_as(weighing):
    subject, batch = formula(smooth, "abc", (0.8, 1.1, -0.6))
    x = torch.tensor([0.8, 1.1, -0.6], dtype=torch.float64)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    nodes, weights = (nodes + 1) / 2, weights / 2
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for t, w in zip(nodes, weights, strict=True):
        hessian = torch.autograd.functional.hessian(lambda z: smooth(*z), t * x) * x[:, None] * x
        slope = torch.autograd.functional.jacobian(lambda z: smooth(*z), t * x) * x
        if weighing == "remainder":
            expected += w * (1 - t) * hessian
        else:
            expected += -w * t * np.log(t) * hessian + torch.diag(-w * np.log(t) * slope)
    if weighing == "remainder":
        expected += torch.diag(torch.autograd.functional.jacobian(lambda z: smooth(*z), 0 * x) * x)
    found = field_interactions(subject, batch, steps=12, weighing=weighing)
    assert found.pairs[:, :, 0] == pytest.approx(expected.numpy(), abs=1e-4)
    assert found.error[0] < 1e-5
    by_steps = field_interactions(subject, batch, steps=64, route="steps")
    if weighing == "remainder":
        assert by_steps.pairs[:, :, 0] == pytest.approx(expected.numpy(), abs=0.02)


def test_integrated_hessians_of_a_network_with_kinks_are_refused():
    subject, batch = formula(three, "abc", (20, 50, 30))
    with pytest.raises(UsageError, match="smooth"):
        field_interactions(subject, batch, weighing="integrated_hessians")
    with pytest.raises(UsageError, match="no field 'z'"):
        field_interactions(subject, batch, fields=["z"])


def test_kinks_that_no_activation_tells_of_are_noticed():
    subject, batch = formula(lambda a, b: torch.maximum(a - 1, b) * 2, "ab", (3, 1), (1, 3))
    found = field_interactions(subject, batch, steps=64)
    assert found.route == "steps"
    assert found.error.max() < 0.1


@pytest.mark.parametrize("fields", [None, ["field0", "left"]])
def test_pairs_sum_to_integrated_gradients(fields):
    """Of a trained ReLU network: over pairs to each field's integrated gradient, over everything to the score's difference."""
    world, subject, train, held_out = trained(0)
    few, start = held_out.take(slice(0, 64)), mean_baseline(subject, train)
    found = field_interactions(subject, few, baseline=start, steps=32, fields=fields)
    fine = integrated_gradients(subject, few, baseline=start, steps=128)
    size = np.abs(found.score - found.baseline).mean()
    for name in fields or world.fields:
        assert np.abs(found.attribution[found.fields.index(name)] - fine.reliance[name].numpy()).mean() < 0.02 * size, name
    assert found.error.mean() < 0.01 * size
    assert found.fields[-1] == (REST if fields else world.fields[-1])
    empty = field_interactions(subject, few.take(slice(0, 0)), baseline=start, fields=fields)
    assert empty.pairs.shape == (*found.pairs.shape[:2], 0)


# ------------------------------------------------------------------ trained networks, five seeds


@functools.cache
def trained(seed):
    """A DeepFM of eight fields of known worth, two of which count only together."""
    world = FieldWorld(rows=12_000, categories=8, strengths=(1.2, 0.9, 0.6, 0.4, 0.25, 0.15), pair=1.5, noise=0, duplicate=False, constant=False, seed=seed)
    return (world, *BENCH["trained"](world, epochs=6, seed=seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_integrated_gradients_rank_fields_as_exact_shapley_values_do(seed):
    world, subject, train, held_out = trained(seed)
    start = mean_baseline(subject, train)
    exact = shapley(subject, held_out, world.schema, baseline=start)
    sample = sample_of(held_out, 256)
    found = integrated_gradients(subject, sample, baseline=start, label=sample.numbers("click"))
    size = [exact.size(name).value for name in world.fields]
    use = [exact.usefulness(name).value for name in world.fields]
    assert kendalltau([float(found.reliance[name].abs().mean()) for name in world.fields], size).statistic >= 0.9
    assert kendalltau([float(found.usefulness[name].mean()) for name in world.fields], use).statistic >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_fields_that_count_only_together_are_found_as_a_pair_and_alone(seed):
    world, subject, train, held_out = trained(seed)
    start = mean_baseline(subject, train)
    found = interactions(subject, held_out, world.schema, baseline=start)
    assert set(found.names) == set(world.fields)
    pairs = [row for row in found.table().iter_rows(named=True) if row["field"] != row["other"]]
    assert {pairs[0]["field"], pairs[0]["other"]} == {"left", "right"}
    assert pairs[0]["low"] > 3 * pairs[1]["high"]
    ig = integrated_gradients(subject, sample_of(held_out, 1024), baseline=start, steps=8)
    size = {name: float(value.abs().mean()) for name, value in ig.reliance.items()}
    for half in ("left", "right"):
        assert size[half] > size["field3"], size  # alone it says nothing, and field3 does
        assert found.size("left", "right").value > found.size(half, half).value


# ------------------------------------------------------------------ as calls


SCHEMA = Schema(user="u", labels=[Label(name="click")], fields=[Field(name=name) for name in "uih"])


def rows(seed=0, count=300):
    r = np.random.default_rng(seed)
    return {**{name: r.integers(0, 9, count) for name in "uih"}, "click": r.integers(0, 2, count)}


def test_shapley_is_a_table_with_intervals_and_adds_up():
    subject = TorchSubject(Machine(fused=False), fields=list("uih"), sites={"first.weight": tuple("uih")})
    start = zero_baseline(subject.sites(Batch(rows())))
    a, b = (shapley(subject, rows(seed), SCHEMA, baseline=start, rows=300) for seed in (1, 2))
    both = {name: np.concatenate([rows(1)[name], rows(2)[name]]) for name in rows()}
    whole, added = shapley(subject, both, SCHEMA, baseline=start, rows=600), a + b
    table = added.table()
    assert table.columns == ["field", "size", "size_low", "size_high", "mean", "usefulness", "usefulness_low", "usefulness_high"]
    for name in table.columns[1:]:
        assert table[name].to_list() == pytest.approx(whole.table()[name].to_list(), rel=1e-5, abs=1e-7)
    assert table["size"].to_list() == sorted(table["size"].to_list(), reverse=True)
    with pytest.raises(UsageError, match="added up"):
        a + shapley(subject, rows(), SCHEMA, baseline=start, groups={"two": ["u", "i"]})


def test_interactions_are_a_table_and_a_heat_map():
    subject = TorchSubject(Machine(fused=True), fields=list("uih"))
    found = interactions(subject, rows(), SCHEMA, most=2)
    assert found.names[-1] == REST
    assert len(found.table()) == 6
    assert found.size(*found.names[:2]) == found.size(*found.names[1::-1])
    picture = found.evidence()
    assert isinstance(picture, HeatMap)
    assert picture.values[0][1] == picture.values[1][0] == found.size(*found.names[:2]).value
    assert found.error < 1e-5
    with pytest.raises(UsageError, match="were not resolved"):
        found.size("u", "nothing")
