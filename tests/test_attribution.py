"""Attributions equal closed forms, other tools' recorded values and a float64 loop; their error bounds are truthful; memory is bounded."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from formulas import Formula
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.attribution import (
    baseline_sensitivity,
    expected_gradients,
    integrated_gradients,
    mean_baseline,
    other_rows,
    path_rule,
    points,
    sampled_rows,
    unknown_baseline,
)
from recspect.diagnosis.probes.attribution.integration import SMOOTH_FACTOR, _with_roughness
from recspect.diagnosis.probes.attribution.kinks import Cells
from recspect.diagnosis.probes.attribution.memory import LiveBytes
from recspect.diagnosis.probes.attribution.points import over_nodes
from recspect.diagnosis.probes.attribution.quadrature import clenshaw_curtis, edges
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError, UsageError

relu = nn.functional.relu


def explained(function, *values, **settings):
    """Contributions of numeric fields at one point, from 0."""
    names = [f"x{k}" for k in range(1, len(values) + 1)]
    batch = Batch({name: np.array([value]) for name, value in zip(names, values, strict=True)})
    found = integrated_gradients(TorchSubject(Formula(function), fields=names), batch, **settings)
    return [float(found.reliance[name][0]) for name in names], found


# ---------------------------------------------------------------------- closed forms and values recorded by other tools


def captum_model_2(x1, x2):
    return relu(relu(x1) - 1 - relu(x2))


def captum_model_3(x1, x2):
    return relu(relu(x1 - 1) - relu(x2))


def captum_multi_layer(x1, x2, x3):
    """Captum's BasicModel_MultiLayer, first output, as a formula."""
    total = x1 + x2 + x3
    return relu(total - 10) + 3 * relu(total + 1) - 1


@pytest.mark.parametrize("settings", [{"steps": n} for n in (2, 8, 50, 500)] + [{"steps": 8, "rule": "gauss_legendre"}, {}])
def test_two_ways_to_write_one_function_get_the_same_contributions(settings):
    # captum tests/attr/test_integrated_gradients_basic.py: (1.5, -0.5) for BasicModel2; BasicModel3 is the same function for x2 >= 0
    assert explained(captum_model_2, 3.0, 1.0, **settings)[0] == pytest.approx([1.5, -0.5], abs=1e-5)


@pytest.mark.parametrize("settings", [{"steps": 50}, {"tolerance": 1e-4, "maximum_points": 1025}])
def test_implementation_invariance_holds_in_the_limit(settings):
    # here ReLU(x1 - 1) switches at 1/3, and is bent by it before the second one: no longer exact with few points
    assert explained(captum_model_3, 3.0, 1.0, **settings)[0] == pytest.approx([1.5, -0.5], abs=2e-3)


def test_a_kink_in_the_first_layer_is_found_exactly_where_plain_rules_converge_like_1_over_n():
    recorded = {2: (80, 200, 120), 8: (78.988, 197.469, 118.482), 50: (78.036, 195.090, 117.054), 500: (78.010, 195.025, 117.015)}
    for steps, values in recorded.items():  # captum's own results at these numbers of steps
        assert explained(captum_multi_layer, 20.0, 50.0, 30.0, steps=steps, rule="gauss_legendre")[0] == pytest.approx(values, abs=2e-3)
    for settings in ({"steps": 2}, {"steps": 8}, {}):
        contributions, found = explained(captum_multi_layer, 20.0, 50.0, 30.0, **settings)
        assert contributions == pytest.approx([78, 195, 117], rel=1e-5)
        assert sum(contributions) == pytest.approx(390, rel=1e-5)
    assert bool(found.converged.all())
    assert (float(found.score), float(found.baseline)) == (392, 2)


def test_products_are_shared_equally_with_one_point_per_two_factors():
    assert explained(lambda a, b: a * b, 2.0, 3.0, steps=1)[0] == pytest.approx([3, 3], rel=1e-6)
    assert explained(lambda a, b, c: a * b * c, 2.0, 3.0, 4.0, steps=1)[0] == pytest.approx([6, 6, 6], rel=1e-6)
    assert explained(lambda a, b, c: a * b * c, 2.0, 3.0, 4.0, steps=2)[0] == pytest.approx([8, 8, 8], rel=1e-6)
    # a factorisation machine's product of (1, 2) and (3, 4): half to each side
    dot = explained(lambda u1, u2, i1, i2: u1 * i1 + u2 * i2, 1.0, 2.0, 3.0, 4.0, steps=1)[0]
    assert dot == pytest.approx([1.5, 4, 1.5, 4], rel=1e-6)


def test_what_deeplift_gives_where_it_agrees_with_integrated_gradients():
    """Facts A8 and A9: functions of one field each, and a maximum that one field holds all the way."""
    assert explained(lambda a, b: 2 * relu(a) + 2 * relu(b - 1.5), 1.0, 2.0)[0] == pytest.approx([2, 1], rel=1e-5)
    names = ["a", "b", "c", "d"]
    subject = TorchSubject(Formula(lambda *x: torch.stack(x, 1).max(1).values), fields=names)
    ones = Batch({name: np.ones(1) for name in names})
    for start, expected in (((1.0, 2.0, 3.0, 9.0), (0, 0, 0, -8)), ((4.0, 8.0, 6.0, 7.0), (0, -7, 0, 0))):
        begin = Batch({name: np.array([value]) for name, value in zip(names, start, strict=True)})
        found = integrated_gradients(subject, ones, baseline=other_rows(ones, begin, names))
        assert [float(found.reliance[name][0]) for name in names] == pytest.approx(expected, abs=1e-5)


def test_cross_layers_are_exact_at_half_their_degree():
    def cross(a, b):  # three cross layers: degree 4 along the path
        x = a + b
        for _ in range(3):
            x = (a + b) * (x + 0.5) + x
        return x

    exact = explained(cross, 0.7, -1.3, steps=60)[0]
    assert explained(cross, 0.7, -1.3, steps=2)[0] == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("rule", ["midpoint", "gauss_legendre", "trapezoid", "clenshaw_curtis"])
@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_weights_sum_to_one_so_a_linear_model_gets_its_weights(rule, steps):
    # captum's trapezoid weights sum to 1 - 1/n: it returns (.98, 1.96) with 50 steps
    assert explained(lambda a, b: a + 2 * b, 1.0, 1.0, steps=steps, rule=rule)[0] == pytest.approx([1, 2], rel=1e-5)


def test_nodes_of_the_rules():
    assert path_rule("midpoint", 2)[0].tolist() == [0.25, 0.75]
    nodes, weights = path_rule("trapezoid", 2)
    assert (nodes.tolist(), weights.tolist()) == ([0, 0.5, 1], [0.25, 0.5, 0.25])
    nodes, weights = clenshaw_curtis(2)
    assert weights == pytest.approx([1 / 6, 4 / 6, 1 / 6])  # Simpson
    for intervals in (1, 2, 4, 8, 16, 32):
        coarse, weights = clenshaw_curtis(intervals)
        fine = clenshaw_curtis(2 * intervals)[0]
        assert fine[::2] == pytest.approx(coarse, abs=1e-15)
        ends = edges(weights)
        assert np.all(ends[:-1] <= coarse + 1e-15)
        assert np.all(coarse <= ends[1:] + 1e-15)
        for degree in range(intervals + 1):
            assert weights @ coarse**degree == pytest.approx(1 / (degree + 1), abs=1e-12)


def test_sums_over_nodes_equal_a_plain_sum_however_the_gradients_lie_in_memory():
    n, rows, rules = 5, 3, 2
    torch.manual_seed(0)
    block, wide = torch.randn(n * rows, 4, 6), torch.randn(n * rows, 10)
    gradients = [block[:, 1], block[:, 3], wide[:, 2:7], None, torch.randn(n * rows, 4, 6).transpose(1, 2), torch.randn(n * rows, 1).expand(-1, 7),
                 torch.randn(7).expand(n * rows, -1), torch.randn(7, n * rows).T, torch.randn(n * rows + 2, 3)[1:-1], torch.randn(n * rows)]
    for weights in (torch.randn(rules, n), torch.randn(rules, n, rows)):
        each = weights if weights.dim() == 3 else weights.unsqueeze(2).expand(-1, -1, rows)
        for gradient, found in zip(gradients, over_nodes(gradients, weights), strict=True):
            if gradient is None:
                assert found is None
                continue
            expected = torch.einsum("knb,nb...->kb...", each, gradient.reshape(n, rows, *gradient.shape[1:]))
            assert torch.allclose(found, expected, atol=1e-5)


def test_null_rules_see_nothing_of_low_degrees():
    nodes, weights = path_rule("gauss_legendre", 8)
    rules = _with_roughness(nodes, weights, kinked=True)
    assert rules[0] == pytest.approx(weights)
    for degree in range(4):
        assert rules[1:] @ nodes**degree == pytest.approx(0, abs=1e-12)
    assert rules[1:] @ rules[1:].T == pytest.approx(np.eye(4), abs=1e-12)
    nodes, weights = path_rule("gauss_legendre", 3)
    lower, higher = _with_roughness(nodes, weights, kinked=False)[1:]
    values = np.array([0.3, 1.0, -2.0])
    assert SMOOTH_FACTOR * abs(higher @ values) == pytest.approx(abs(weights @ values - values[1]))  # the difference from the midpoint
    assert lower @ np.ones(3) == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------------- averaged kinks


@pytest.mark.parametrize("rule", ["gauss_legendre", "clenshaw_curtis", "midpoint"])
def test_shares_above_zero_equal_a_brute_force_count_along_the_line_through_the_nodes(rule):
    nodes, weights = path_rule(rule, 6)
    ends = edges(weights)
    z = np.random.default_rng(0).normal(size=(len(nodes), 40))
    z[:, 0], z[:, 1], z[:, 2] = 0, 3, -2  # never on; always on; never on
    share = Cells(nodes, ends).share_above(torch.from_numpy(z).unsqueeze(1).clone())[:, 0].numpy()
    for k in range(len(nodes)):
        at = ends[k] + (np.arange(20_000) + 0.5) / 20_000 * (ends[k + 1] - ends[k])
        i = np.clip(np.searchsorted(nodes, at) - 1, 0, len(nodes) - 2)  # the first and last lines go on beyond the nodes
        t = ((at - nodes[i]) / (nodes[i + 1] - nodes[i]))[:, None]
        on = ((1 - t) * z[i] + t * z[i + 1] > 0).mean(0)
        assert share[k] == pytest.approx(on, abs=2e-4)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.2), nn.ReLU6(), nn.Hardtanh(-0.5, 0.7),
                                        nn.PReLU(64), nn.Hardsigmoid(), torch.abs, lambda z: z.clamp(-0.5, 0.7), lambda z: torch.clamp(z, min=0.1)])
def test_one_hidden_layer_is_exact_with_two_points(activation):
    torch.manual_seed(0)
    first, last = nn.Linear(3, 64), nn.Linear(64, 1)
    first.weight.data.mul_(4)

    def network(a, b, c):
        return last(activation(first(torch.stack([a, b, c], 1)))).squeeze(1)

    exact = explained(network, 0.9, -1.1, 2.0, steps=4_000, rule="midpoint")[0]
    contributions, found = explained(network, 0.9, -1.1, 2.0, steps=2)
    assert contributions == pytest.approx(exact, abs=2e-3)
    assert float(found.error) < 1e-5


# ---------------------------------------------------------------------- trained networks

FIELDS, IDS, WIDTH, ROWS = 6, 60, 8, 256


class Maximum(nn.Module):
    """A ReLU in words that are not told from other functions of two tensors."""

    def forward(self, z):
        return torch.maximum(z, z.new_zeros(()))


class Deep(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(IDS, WIDTH) for _ in range(FIELDS))
        for table in self.tables:
            table.weight.data.mul_(0.1)
        self.mlp = nn.Sequential(nn.Linear(FIELDS * WIDTH, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 1))

    def top(self, v):
        return self.mlp(v.flatten(1)).squeeze(1) + (v.sum(1).square() - v.square().sum(1)).sum(1) / 2

    def forward(self, x):
        return self.top(torch.stack([table(ids) for table, ids in zip(self.tables, x.values(), strict=True)], 1))


def trained(activation, steps=250):
    torch.manual_seed(0)
    model = Deep(activation)
    taste = torch.randn(IDS, FIELDS)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        ids = torch.randint(0, IDS, (512, FIELDS))
        s = taste[ids, torch.arange(FIELDS)]
        y = torch.bernoulli(torch.sigmoid(s[:, 0] * s[:, 1] + 2 * (s[:, 2] > 0) * s[:, 3] + s[:, 4].abs() - 1))
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model({k: ids[:, k] for k in range(FIELDS)}), y).backward()
        optimiser.step()
    r = np.random.default_rng(1)
    batch = Batch({f"f{k}": r.integers(0, IDS, ROWS) for k in range(FIELDS)})
    return TorchSubject(model.eval(), fields=list(batch)), batch


def truth(subject, batch, points=6_000):
    """A plain loop over midpoints in float64, shape (B, F). With ReLU 800 points are off by 0.02%, as much as the smallest bounds."""
    state = subject.model.state_dict()
    model = Deep(type(subject.model.mlp[1])).double()
    model.load_state_dict(state)
    with torch.no_grad():
        v = torch.stack([table(torch.from_numpy(batch[name])) for table, name in zip(model.tables, batch, strict=True)], 1)
    total = torch.zeros(v.shape[:2], dtype=torch.float64)
    for k in range(points):
        leaf = (v * ((k + 0.5) / points)).requires_grad_()
        total += (torch.autograd.grad(model.top(leaf).sum(), leaf)[0] * v).sum(-1) / points
    return total


def matrix(found):
    return torch.stack(list(found.reliance.values()), 1).double()


@pytest.fixture(scope="module")
def relu_network():
    subject, batch = trained(nn.ReLU)
    return subject, batch, truth(subject, batch)


@pytest.fixture(scope="module")
def smooth_network():
    subject, batch = trained(nn.SiLU)
    return subject, batch, truth(subject, batch)


@pytest.mark.parametrize("tolerance", [0.03, 0.01, 0.003])
@pytest.mark.parametrize("network", ["relu_network", "smooth_network"])
def test_error_bounds_hold_for_19_rows_of_20_and_converged_rows_are_within_the_tolerance(network, tolerance, request):
    subject, batch, true = request.getfixturevalue(network)
    found = integrated_gradients(subject, batch, tolerance=tolerance, maximum_points=129)
    off, size = (matrix(found) - true).abs().sum(1), true.abs().sum(1)
    assert float((found.bound >= off).double().mean()) >= 0.95
    assert bool(found.converged.any())
    within = off[found.converged] <= tolerance * size[found.converged]
    assert float(within.double().mean()) >= 0.95
    assert bool((found.bound >= found.error * 0.999).all())
    assert float(found.points.double().mean()) < 70


def test_averaged_kinks_beat_the_best_plain_rule_many_times_at_equal_points(relu_network):
    subject, batch, true = relu_network
    for steps, factor in ((4, 3), (8, 5), (16, 7)):
        ours, plain = (float((matrix(integrated_gradients(subject, batch, steps=steps, rule=rule)) - true).abs().mean())
                       for rule in ("auto", "gauss_legendre"))
        assert factor * ours < plain


def test_rows_that_do_not_converge_are_named(relu_network):
    subject, batch, true = relu_network
    found = integrated_gradients(subject, batch, tolerance=1e-4, maximum_points=9)
    assert not bool(found.converged.all())
    assert set(found.points.tolist()) == {9}
    hard = ~found.converged
    assert float((matrix(found) - true).abs().sum(1)[hard].mean()) > float((matrix(found) - true).abs().sum(1)[~hard].sum())


def test_smooth_networks_need_three_points_of_most_rows(smooth_network):
    subject, batch, true = smooth_network
    found = integrated_gradients(subject, batch, tolerance=0.01)
    assert set(found.points.tolist()) <= {3, 9}
    assert float((found.points == 3).double().mean()) > 0.5
    assert bool((found.bound >= (matrix(found) - true).abs().sum(1)).all())


def test_a_kink_that_is_not_averaged_is_not_taken_for_a_smooth_path():
    subject, batch = trained(Maximum)
    true = truth(subject, batch)
    found = integrated_gradients(subject, batch, tolerance=0.01, maximum_points=129)
    assert float((found.bound >= (matrix(found) - true).abs().sum(1)).double().mean()) >= 0.9
    assert float((found.points == 3).double().mean()) < 0.05


def test_a_fixed_number_of_steps_claims_nothing(smooth_network):
    subject, batch, _ = smooth_network
    found = integrated_gradients(subject, batch, steps=4)
    assert not bool(found.converged.any())
    assert bool(torch.isinf(found.bound).all())
    assert set(found.points.tolist()) == {4}


@pytest.mark.parametrize("settings", [{"steps": 50}, {"steps": 5}, {"tolerance": 0.003}])
def test_neither_chunks_nor_windows_of_the_path_nor_the_budget_change_contributions(relu_network, settings):
    subject, batch, _ = relu_network
    batch = batch.take(slice(0, 12))
    whole = matrix(integrated_gradients(subject, batch, **settings))
    for other in ({"chunk_rows": 17}, {"chunk_rows": 4}, {"budget_mib": 0.05}):  # 4 points at a time: 50 run in windows of 2 with their neighbours
        assert torch.allclose(whole, matrix(integrated_gradients(subject, batch, **settings, **other)), atol=2e-6)
    halves = [matrix(integrated_gradients(subject, batch.take(part), **settings)) for part in (slice(0, 5), slice(5, 12))]
    assert torch.allclose(whole, torch.cat(halves), atol=2e-6)


def test_a_model_that_hides_a_path_from_gradients_does_not_converge():
    subject, batch = trained(nn.SiLU, steps=30)
    model = subject.model
    hidden = TorchSubject(model, fields=list(batch), forward=lambda m, x: m(x) + m.tables[0](x["f0"]).detach().sum(1))
    found = integrated_gradients(hidden, batch, tolerance=0.01)
    assert float(found.converged.double().mean()) < 0.2


# ---------------------------------------------------------------------- first layers


class Tenth(torch.autograd.Function):
    """A copy whose gradient is a tenth."""

    @staticmethod
    def forward(_ctx, value):
        return value.clone()

    @staticmethod
    def backward(_ctx, gradient):
        return gradient / 10


class Joined(nn.Module):
    """Three fields, whose vectors of 4 numbers reach the first layer as `join` gives them."""

    def __init__(self, join, width, activation=nn.SiLU):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(20, 4) for _ in range(3))
        self.join, self.mlp = join, nn.Sequential(nn.Linear(width, 16), activation(), nn.Linear(16, 1))

    def top(self, *vectors):
        return self.mlp(self.join(*vectors)).squeeze(1) + (vectors[0] * vectors[2]).sum(1)

    def forward(self, x):
        return self.top(*(table(ids) for table, ids in zip(self.tables, x.values(), strict=True)))


class WholeFirstLayers(TorchFunctionMode):
    """Counts calls of the first layer with all of its columns, by their number of rows."""

    def __init__(self, width):
        super().__init__()
        self.width, self.calls = width, {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is nn.functional.linear and args[1].shape == (16, self.width):
            self.calls[len(args[0])] = self.calls.get(len(args[0]), 0) + 1
        return func(*args, **(kwargs or {}))


JOINS = {  # how vectors are joined, columns, and whether the layer need not run at every point
    "concatenated": (lambda *v: torch.cat(v, 1), 12, True),
    "stacked": (lambda *v: torch.stack(v, 1).flatten(1), 12, True),
    "stacked otherwise": (lambda *v: torch.stack(v, 1).transpose(1, 2).flatten(1), 12, True),
    "one of them twice": (lambda *v: torch.hstack([*v, v[0]]), 16, True),
    "with products": (lambda *v: torch.cat([*v, v[0] * v[1], v[1] * v[2]], 1), 20, True),
    "one of them scaled": (lambda a, b, c: torch.cat([a, 2 * b, c], 1), 12, True),
    "one of them detached": (lambda a, b, c: torch.cat([a, b.detach(), c], 1), 12, True),
    "one of them with another gradient": (lambda a, b, c: torch.cat([a, b, Tenth.apply(c)], 1), 12, True),
    "cut": (lambda *v: torch.maximum(torch.cat(v, 1), torch.tensor(-1.0)), 12, False),
    "cut near zero": (lambda *v: nn.functional.hardshrink(torch.cat(v, 1), 1e-3), 12, False),
    "all with another gradient": (lambda *v: Tenth.apply(torch.cat(v, 1)), 12, False),
    "stacked with a detached one": (lambda a, b, c: torch.stack([a, b.detach(), c], 1).flatten(1), 12, False),
    "multiplied": (lambda a, b, c: torch.cat([a * b, b * c, a * c], 1), 12, False),
}


def joined_network(join, width, activation=nn.SiLU):
    torch.manual_seed(0)
    model = Joined(join, width, activation).double().eval()
    batch = Batch({name: np.random.default_rng(k).integers(0, 20, 7) for k, name in enumerate("abc")})
    return TorchSubject(model, fields=list(batch)), batch


@pytest.mark.parametrize("name", JOINS)
def test_a_first_layer_that_reads_copies_runs_at_two_points_and_contributions_are_those_of_a_loop(name):
    join, width, straight = JOINS[name]
    subject, batch = joined_network(join, width)
    with WholeFirstLayers(width) as seen:
        found = matrix(integrated_gradients(subject, batch, steps=11))
    assert (77 in seen.calls) is not straight
    vectors = [table(torch.from_numpy(batch[field])).detach() for table, field in zip(subject.model.tables, batch, strict=True)]
    expected = torch.zeros(7, 3, dtype=torch.float64)
    for node, weight in zip(*path_rule("gauss_legendre", 11), strict=True):
        leaves = [(node * v).requires_grad_() for v in vectors]
        gradients = torch.autograd.grad(subject.model.top(*leaves).sum(), leaves, allow_unused=True, materialize_grads=True)
        expected += weight * torch.stack([(gradient * v).sum(1) for gradient, v in zip(gradients, vectors, strict=True)], 1)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [{"steps": 20}, {"steps": 20, "chunk_rows": 9}, {"tolerance": 0.01}, {"steps": 20, "rule": "gauss_legendre"}])
@pytest.mark.parametrize("name", ["concatenated", "with products", "one of them detached"])
def test_averaged_kinks_losses_baselines_and_windows_of_the_path_are_the_same_without_first_layers_apart(name, settings, monkeypatch):
    subject, batch = joined_network(*JOINS[name][:2], activation=nn.ReLU)
    baseline = mean_baseline(subject, batch.with_columns({"a": batch["b"]}))
    label = np.arange(7) % 2
    one = integrated_gradients(subject, batch, baseline=baseline, label=label, **settings)
    monkeypatch.setattr(points, "pays", lambda _rules, _nodes: False)
    other = integrated_gradients(subject, batch, baseline=baseline, label=label, **settings)
    for field in batch:
        assert torch.allclose(one.reliance[field], other.reliance[field], rtol=0, atol=1e-12)
        assert torch.allclose(one.usefulness[field], other.usefulness[field], rtol=0, atol=1e-12)
    assert one.points.tolist() == other.points.tolist()


def test_lists_read_entry_by_entry_and_columns_of_a_fused_lookup_keep_their_contributions(monkeypatch):
    class Entries(nn.Module):
        def __init__(self):
            super().__init__()
            self.item, self.fused = nn.Embedding(30, 4), nn.Embedding(30, 3)
            self.mlp = nn.Sequential(nn.Linear(26, 16), nn.ReLU(), nn.Linear(16, 1))

        def forward(self, x):
            fused = self.fused(torch.stack([x["a"], x["b"]], 1))
            return self.mlp(torch.cat([fused.flatten(1), self.item(x["history"]).flatten(1)], 1)).squeeze(1)

    torch.manual_seed(0)
    r = np.random.default_rng(0)
    batch = Batch({"history": r.integers(0, 30, (7, 5)), "a": r.integers(0, 30, 7), "b": r.integers(0, 30, 7)})
    subject = TorchSubject(Entries().double().eval(), fields=list(batch))
    with WholeFirstLayers(26) as seen:
        one = integrated_gradients(subject, batch, steps=20)
    assert 140 not in seen.calls
    monkeypatch.setattr(points, "pays", lambda _rules, _nodes: False)
    with WholeFirstLayers(26) as seen:
        other = integrated_gradients(subject, batch, steps=20)
    assert 140 in seen.calls
    assert torch.allclose(matrix(one), matrix(other), rtol=0, atol=1e-12)
    assert torch.allclose(one.entries["history"], other.entries["history"], rtol=0, atol=1e-12)


# ---------------------------------------------------------------------- baselines


class Sequence(nn.Module):
    """A shared item table read by the item and by a masked history, positions, and a table whose vectors are thrown away."""

    def __init__(self, *, flat=False):
        super().__init__()
        self.item, self.place, self.ignored = nn.Embedding(40, 4), nn.Embedding(6, 4), nn.Embedding(9, 4)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
        self.flat = flat

    def forward(self, x):
        history = x["history"]
        v = self.item(history.reshape(-1)).reshape(*history.shape, 4) if self.flat else self.item(history)
        self.ignored(x["segment"])
        mask = (history != 0).unsqueeze(-1)
        v = (v + self.place(torch.arange(history.shape[1]))) * mask
        pooled = v.sum(1) / mask.sum(1).clamp(min=1)
        return self.mlp(torch.cat([pooled, self.item(x["item"])], 1)).squeeze(1)


def sequences(rows=24, **settings):
    torch.manual_seed(3)
    r = np.random.default_rng(3)
    history = r.integers(2, 40, (rows, 6))
    history[np.arange(6) >= r.integers(1, 6, rows)[:, None]] = 0
    batch = Batch({"history": history, "item": r.integers(2, 40, rows), "segment": r.integers(0, 9, rows)})
    return TorchSubject(Sequence(**settings), fields=list(batch)), batch


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", ["zero", "mean", "unknown", "sampled", "other"])
def test_padding_and_unused_fields_get_exactly_nothing_and_sums_are_complete(kind, flat):
    subject, batch = sequences(flat=flat)
    subject.sites(batch)
    baseline = {"zero": lambda: None, "mean": lambda: mean_baseline(subject, batch), "unknown": lambda: unknown_baseline(subject, batch, 1),
                "sampled": lambda: sampled_rows(batch, batch, seed=0), "other": lambda: other_rows(batch, batch.take(slice(3, 4)), ["item"])}[kind]()
    found = integrated_gradients(subject, batch, baseline=baseline, tolerance=1e-4, maximum_points=257)
    padded = torch.from_numpy(batch["history"] == 0)
    assert float(found.entries["history"][padded].abs().max()) == 0
    assert float(found.reliance["segment"].abs().max()) == 0
    assert torch.allclose(found.entries["history"].sum(1), found.reliance["history"], atol=1e-6)
    assert torch.allclose(found.reliance["history"] + found.reliance["item"], found.score - found.baseline, atol=2e-3)
    if kind == "other":
        assert float(found.reliance["history"].abs().max()) == 0
        other = subject.model({name: torch.from_numpy(np.asarray(column)) for name, column in baseline.rows.items()})
        assert torch.allclose(found.baseline, other, atol=1e-5)


def test_a_shared_table_counts_once_per_occurrence():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 3)

        def forward(self, x):
            return self.table(x["a"]).sum(1) + 2 * self.table(x["b"]).sum(1) + self.table(x["a"]).sum(1)

    torch.manual_seed(0)
    batch = Batch({"a": np.arange(10), "b": np.arange(10)[::-1].copy()})
    subject = TorchSubject(Twice(), fields=["a", "b"])
    found = integrated_gradients(subject, batch)
    weights = subject.model.table.weight.detach().sum(1)
    assert torch.allclose(found.reliance["a"], 2 * weights, atol=1e-5)
    assert torch.allclose(found.reliance["b"], 2 * weights.flip(0), atol=1e-5)


def test_unknown_ids_are_what_the_model_scores_for_them():
    subject, batch = sequences()
    found = integrated_gradients(subject, batch, baseline=unknown_baseline(subject, batch, {"item": 1}))
    unknown = batch.with_columns({"item": np.ones(batch.rows, dtype=np.int64)})
    assert np.allclose(found.baseline.numpy(), subject.score(unknown), atol=1e-5)
    assert float(found.reliance["history"].abs().max()) == 0
    with pytest.raises(UsageError, match="no lookup reads 'color'"):
        unknown_baseline(subject, batch, {"color": 1})


def test_fields_equal_to_their_baseline_get_nothing_and_the_rest_adds_up():
    # shap tests: background equal on features 0 and 2
    names = ["a", "b", "c", "d"]
    row, background = {"a": 1.0, "b": 2.0, "c": -3.0, "d": 4.0}, {"a": 1.0, "b": 0.5, "c": -3.0, "d": 0.0}
    batch, other = (Batch({name: np.array([values[name]]) for name in names}) for values in (row, background))
    subject = TorchSubject(Formula(lambda *x: sum(x)), fields=names)
    found = integrated_gradients(subject, batch, baseline=other_rows(batch, other, names))
    assert [float(found.reliance[name]) for name in names] == pytest.approx([0, 1.5, 0, 4], abs=1e-10)


def test_one_item_over_another_is_the_difference_of_their_contributions(relu_network):
    subject, batch, _ = relu_network
    rival = batch.with_columns({"f1": np.roll(batch["f1"], 1)})
    i, j = (integrated_gradients(subject, rows, tolerance=1e-3) for rows in (batch, rival))
    contrast = i.minus(j)
    assert torch.allclose(contrast.reliance["f1"], i.reliance["f1"] - j.reliance["f1"])
    total = sum(contrast.reliance.values())
    assert bool(((total - contrast.score).abs() <= contrast.bound + 1e-5).all())


def test_expected_gradients_add_up_to_the_score_less_the_mean_baseline(smooth_network):
    subject, batch, _ = smooth_network
    few = batch.take(slice(0, 32))
    found = expected_gradients(subject, few, batch, draws=4, tolerance=1e-3)
    assert torch.allclose(sum(found.reliance.values()), found.score - found.baseline, atol=1e-3)
    same = expected_gradients(subject, few, batch, draws=4, tolerance=1e-3)
    assert torch.equal(found.reliance["f0"], same.reliance["f0"])
    with pytest.raises(UsageError, match="at least 1 draw"):
        expected_gradients(subject, few, batch, draws=0)


def test_baselines_are_compared_by_the_ranking_of_fields(smooth_network):
    from scipy.stats import spearmanr

    subject, batch, _ = smooth_network
    found = baseline_sensitivity(subject, batch)
    assert found.baselines == ("mean", "sampled rows")
    assert found.least == pytest.approx(spearmanr(*found.reliance).statistic)
    assert found.agreement.diagonal() == pytest.approx([1, 1])
    with pytest.raises(UsageError, match="2 or more"):
        baseline_sensitivity(subject, batch, baselines=[mean_baseline(subject, batch)])


def test_lists_of_other_lengths_at_the_baseline_are_an_error_that_says_what_to_do():
    subject, batch = sequences()
    shorter = Batch({**batch, "history": np.asarray(batch["history"])[:, :3]})
    with pytest.raises(SubjectError, match="for their baseline") as error:
        integrated_gradients(subject, batch, baseline=other_rows(batch, shorter, ["history"]))
    assert "pad" in error.value.hint


# ---------------------------------------------------------------------- unusual inputs, settings, memory


def test_flat_ids_with_offsets_are_encoded_again_for_every_point():
    class Bags(nn.Module):
        def __init__(self):
            super().__init__()
            self.tags, self.user = nn.EmbeddingBag(30, 4, mode="sum"), nn.Embedding(10, 4)
            self.out = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))

        def forward(self, x):
            return self.out(torch.cat([self.tags(x["tags"], x["offsets"]), self.user(x["user"])], 1)).squeeze(1)

    def encode(batch):
        lists = np.asarray(batch["tags"])
        lengths = (lists > 0).sum(1)
        return {"tags": torch.from_numpy(lists[lists > 0]), "offsets": torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)[:-1]])),
                "user": torch.from_numpy(np.asarray(batch["user"]))}

    torch.manual_seed(0)
    r = np.random.default_rng(0)
    tags = r.integers(1, 30, (40, 5))
    tags[np.arange(5) >= r.integers(1, 6, 40)[:, None]] = 0
    batch = Batch({"tags": tags, "user": r.integers(0, 10, 40)})
    subject = TorchSubject(Bags(), encode=encode, sites={"tags.weight": "tags"})
    found = integrated_gradients(subject, batch, tolerance=1e-3)
    assert set(found.reliance) == {"tags", "user"}
    assert bool(found.converged.all())
    assert float(found.error.max()) < 1e-4
    one = integrated_gradients(subject, batch.take(slice(7, 8)), tolerance=1e-3)
    assert torch.allclose(one.reliance["tags"], found.reliance["tags"][7:8], atol=1e-6)


def test_settings_out_of_range_are_told(smooth_network):
    subject, batch, _ = smooth_network
    for settings, words in (({"tolerance": 0}, "tolerance is 0"), ({"maximum_points": 3}, "two rules"), ({"budget_mib": 0}, "budget is 0"),
                            ({"rule": "midpoint"}, "needs a number of steps")):
        with pytest.raises(UsageError, match=words):
            integrated_gradients(subject, batch, **settings)
    assert integrated_gradients(subject, batch.take(slice(0, 0))).score.shape == (0,)


class Wide(nn.Module):
    """Tables of a few rows before layers of some thousand units; `odd` holds tensors that no backward pass saves."""

    def __init__(self, *, fields=1, width=256, hidden=2048, layers=1, odd=False):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(50, width) for _ in range(fields))
        sizes = [fields * width] + [hidden] * layers
        self.mlp = nn.Sequential(*(part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())), nn.Linear(hidden, 1))
        self.odd = odd

    def forward(self, x):
        v = torch.cat([table(ids) for table, ids in zip(self.tables, x.values(), strict=True)], 1)
        if self.odd:
            v = v + torch.stack([v.detach()] * 12).mean(0) * 0
        return self.mlp(v).squeeze(1)


def test_live_bytes_are_those_of_tensors_that_live():
    before = torch.zeros(100)
    with LiveBytes() as live:
        kept = torch.ones(1000)
        view, changed = kept[10:].reshape(-1, 10), before.add_(1)  # no new memory
        assert (live.now, live.peak) == (4000, 4000)
        (kept * 2).sum()
        assert live.now == 4000
        assert live.peak == 4000 + 4000 + 4
        leaf = torch.ones(500, requires_grad=True)
        leaf.exp().sum().backward()
        assert live.now == 4000 + 2 * 2000  # the gradient
        product = torch.sparse.mm(torch.eye(3).to_sparse(), torch.ones(3, 1))
        del kept, view, changed, leaf
        assert live.now == product.nbytes


def peak_mib(call):
    """The most that the allocator had given out at a time since the call began, in MiB, as torch's profiler saw it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    now = peak = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak / 2**20


@pytest.mark.parametrize("budget_mib", [4, 16])
@pytest.mark.parametrize(("rows", "settings", "model"), [
    (3_000, {"steps": 4}, {}),
    (500, {"steps": 24}, {}),
    (50, {"steps": 300}, {}),
    (500, {"steps": 300, "rule": "gauss_legendre"}, {"width": 32, "hidden": 64}),
    (50_000, {"steps": 4}, {"width": 8, "hidden": 16}),
    (500, {"steps": 8}, {"fields": 12, "width": 64, "hidden": 512, "layers": 4}),
    (500, {"steps": 8, "label": True}, {"fields": 12, "width": 64, "hidden": 256}),
    (500, {"tolerance": 0.01}, {"fields": 12, "width": 64, "hidden": 512, "layers": 3}),
    (500, {"steps": 8}, {"fields": 4, "width": 512, "hidden": 64, "odd": True}),
])
def test_memory_stays_within_the_budget_whatever_the_points_the_rows_and_the_model(rows, settings, model, budget_mib):
    torch.manual_seed(0)
    wide = Wide(**model)
    names = [f"f{k}" for k in range(len(wide.tables))]
    subject = TorchSubject(wide, fields=names, sample_rows=8)
    r = np.random.default_rng(0)
    batch = Batch({name: r.integers(0, 50, rows) for name in names})
    if settings.pop("label", False):
        settings = {**settings, "label": r.integers(0, 2, rows).astype(float)}
    peak = peak_mib(lambda: integrated_gradients(subject, batch, **settings, chunk_rows=10**9, budget_mib=budget_mib))
    result = 2 * rows * (len(names) + 8) * 8 / 2**20  # in parts, and joined
    assert peak - result < budget_mib
    assert peak > 0.3 * budget_mib  # a budget is there to be used: small passes are slow
