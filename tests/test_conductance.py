"""Field-resolved conductance: sums that are identities, closed forms, a reverse-mode oracle, Captum, and both ways of differentiating."""

import numpy as np
import pytest
import torch
from torch import nn

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.attribution import mean_baseline, other_rows, zero_baseline
from recspect.diagnosis.probes.conductance import ConductanceProbe, field_conductance, find_layers, usable_towers
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError, UsageError

ROWS = 40
FIELDS = ("user", "item", "place", "hour", "age")
ACTIVATIONS = [nn.ReLU, nn.SiLU, nn.Tanh, lambda: nn.ReLU(inplace=True), lambda: nn.LeakyReLU(0.2), nn.GELU, nn.PReLU]


class Deep(nn.Module):
    """An MLP over embeddings and a number; with `around`, FM and first-order parts go around it."""

    def __init__(self, *, activation=nn.ReLU, around=False, hidden=(12, 7), norm=False, names=FIELDS[:4]):
        super().__init__()
        self.names, self.around = names, around
        self.tables = nn.ModuleDict({name: nn.Embedding(30, 4) for name in names})
        self.first = nn.ModuleDict({name: nn.Embedding(30, 1) for name in names})
        layers, width = [], 4 * len(names) + 1
        for n in hidden:
            layers += [nn.Linear(width, n), *([nn.BatchNorm1d(n)] if norm else []), activation(), nn.Dropout(0.3)]
            width = n
        self.mlp = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, x):
        v = torch.stack([self.tables[name](x[name]) for name in self.names], 1)
        out = self.mlp(torch.cat([v.flatten(1), x["age"][:, None].to(v)], 1)).squeeze(1)
        if self.around:
            out = out + (v.sum(1).square() - v.square().sum(1)).sum(1) / 2 + sum(self.first[name](x[name]).squeeze(1) for name in self.names)
        return torch.sigmoid(out)


def rows(seed=0, count=ROWS):
    r = np.random.default_rng(seed)
    return Batch({**{name: r.integers(0, 30, count) for name in FIELDS[:4]}, "age": r.normal(size=count), "@label": r.integers(0, 2, count)})


def subject_of(model, fields=FIELDS, dtype=torch.float64):
    def encode(batch):
        out = {name: torch.from_numpy(np.array(batch[name])) for name in fields}
        return {name: value.to(dtype) if value.is_floating_point() else value for name, value in out.items()}

    return TorchSubject(model.to(dtype), fields=fields, encode=encode)


def deep(dtype=torch.float64, seed=0, **settings):
    torch.manual_seed(seed)
    model = Deep(**settings)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return subject_of(model, dtype=dtype)


def close(a, b, tolerance):
    scale = max(1.0, float(b.abs().max()))
    assert float((a - b).abs().max()) <= tolerance * scale, float((a - b).abs().max())


# ------------------------------------------------------------------ conservation


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("route", ["towers", "batched", "dual"])
@pytest.mark.parametrize("steps", [1, 5])  # with one node the identity is held at that point of the path
def test_over_the_neurons_of_a_layer_that_all_ways_cross_it_sums_to_the_attribution(dtype, tolerance, route, steps):
    found = field_conductance(deep(dtype=dtype), rows(), steps=steps, route=route)
    assert found.layers == ("mlp.1", "mlp.4")
    for layer in found.layers:
        close(found.flow[layer].sum(2), found.attribution, tolerance)
        assert float(found.bypass(layer).abs().max()) <= tolerance * max(1.0, float(found.attribution.abs().max()))


@pytest.mark.parametrize("route", ["towers", "batched"])
def test_what_goes_around_is_the_attribution_of_the_other_parts(route):
    whole = deep(around=True)
    found = field_conductance(whole, rows(), steps=6, route=route)
    whole.model.mlp[-1].weight.data.zero_()  # what is left are the FM and the first-order part
    around = field_conductance(whole, rows(), steps=6, route="batched")
    for layer in found.layers:
        close(found.bypass(layer), around.attribution, 1e-12)
    assert float(found.bypass("mlp.1").abs().sum() / found.attribution.abs().sum()) > 0.1


def test_everything_sums_to_the_difference_of_logits_up_to_the_error_of_quadrature():
    for activation, steps, limit in ((nn.SiLU, 12, 1e-6), (nn.ReLU, 400, 2e-3)):
        found = field_conductance(deep(activation=activation), rows(), steps=steps)
        for layer in found.layers:
            total = found.flow[layer].sum((0, 2))
            assert float((total - (found.score - found.baseline)).abs().max()) < limit
        assert torch.allclose(found.error, (found.flow["mlp.1"].sum((0, 2)) - (found.score - found.baseline)).abs(), atol=1e-12)


def test_usefulness_sums_to_the_loss_reduction():
    batch = rows()
    y = batch.numbers("@label")
    found = field_conductance(deep(activation=nn.SiLU, around=True), batch, steps=40, label=y)
    loss = nn.functional.binary_cross_entropy_with_logits
    target = torch.from_numpy(y).to(found.score)
    reduction = loss(found.baseline, target, reduction="none") - loss(found.score, target, reduction="none")
    close(found.usefulness.sum(0), reduction, 1e-5)


# ------------------------------------------------------------------ an oracle, and the ways agree


def oracle(subject, batch, steps):
    """Neuron by neuron in reverse mode: gradient of the logit by the neuron, times gradient of the neuron by the embeddings along the path."""
    model, x = subject.model.eval(), subject.encode(batch)
    embedded = [model.tables[name](x[name]).detach() for name in model.names]
    fields, flow = len(embedded) + 1, None
    for alpha in (np.arange(steps) + 0.5) / steps:
        leaves = [(alpha * e).requires_grad_() for e in (*embedded, x["age"])]
        v = torch.stack(leaves[:-1], 1)
        h, hs = torch.cat([v.flatten(1), leaves[-1][:, None]], 1), []
        for module in model.mlp:
            h = module(h)
            if isinstance(module, nn.ReLU):
                hs.append(h)
        out = h.squeeze(1) + (v.sum(1).square() - v.square().sum(1)).sum(1) / 2 * model.around
        slopes = torch.autograd.grad(out.sum(), hs, retain_graph=True)
        flow = flow or [torch.zeros(fields, *layer.shape, dtype=layer.dtype) for layer in hs]
        for k, layer in enumerate(hs):
            for j in range(layer.shape[1]):
                gradients = torch.autograd.grad(layer[:, j].sum(), leaves, retain_graph=True)
                for f, (gradient, full) in enumerate(zip(gradients, (*embedded, x["age"]), strict=True)):
                    flow[k][f, :, j] += slopes[k][:, j] * (gradient * full).reshape(len(out), -1).sum(1) / steps
    return flow


@pytest.mark.parametrize("route", ["towers", "batched", "dual"])
@pytest.mark.parametrize("around", [False, True])
def test_forward_mode_equals_reverse_mode_neuron_by_neuron(route, around):
    subject, batch = deep(around=around), rows()
    found = field_conductance(subject, batch, steps=7, route=route)
    for layer, expected in zip(found.layers, oracle(subject, batch, 7), strict=True):
        close(found.flow[layer], expected, 1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", [False, True])
def test_towers_give_what_torch_func_gives(activation, norm):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        subject = deep(dtype=dtype, activation=activation, norm=norm, around=True, hidden=(12, 9, 7))
        fast, slow = (field_conductance(subject, rows(), steps=4, route=route, baseline=mean_baseline(subject, rows()), label=rows().numbers("@label"))
                      for route in ("towers", "batched"))
        assert (fast.route, slow.route) == ("towers", "batched")
        for layer in fast.layers:
            close(fast.flow[layer], slow.flow[layer], tolerance)
        assert torch.equal(fast.attribution, slow.attribution)


class Attention(nn.Module):
    """Layers that no tower describes: a sequence with attention and masks, layer normalisation, a gate, a skip connection."""

    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(30, 8), nn.Embedding(30, 8, padding_idx=0)
        self.norm, self.inner, self.gate = nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 6), nn.SiLU(), nn.Linear(6, 8)), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 1))

    def forward(self, x):
        target, clicks = self.item(x["item"]), self.item(x["clicks"])
        mask = x["clicks"] == 0
        weight = torch.softmax((clicks @ target[:, :, None]).squeeze(2).masked_fill(mask, -1e9), 1)
        clicks = clicks + self.inner(self.norm(clicks))
        pooled = (weight[:, :, None] * clicks).sum(1)
        return self.mlp(torch.cat([self.user(x["user"]), torch.sigmoid(self.gate(target)) * pooled], 1)).squeeze(1)


def attention_rows():
    r = np.random.default_rng(1)
    clicks = r.integers(1, 30, (ROWS, 5))
    clicks[np.arange(5) >= r.integers(1, 6, ROWS)[:, None]] = 0
    return Batch({"user": r.integers(0, 30, ROWS), "item": r.integers(1, 30, ROWS), "clicks": clicks})


def test_any_architecture_goes_the_general_way_and_keeps_the_sums():
    torch.manual_seed(0)
    subject, batch = subject_of(Attention(), ("user", "item", "clicks")), attention_rows()
    found, dual = field_conductance(subject, batch, steps=6), field_conductance(subject, batch, steps=6, route="dual")
    assert found.route == "batched"
    assert found.layers == ("inner.1", "sigmoid", "mlp.1")
    for layer in found.layers:
        close(found.flow[layer], dual.flow[layer], 1e-12)
    close(found.flow["mlp.1"].sum(2), found.attribution, 1e-12)  # the one cut
    assert float(found.bypass("inner.1").abs().max()) > 1e-3
    with pytest.raises(UsageError, match="by matrices alone"):
        field_conductance(subject, batch, route="towers")


class Recurrent(nn.Module):
    """A user and the last state of a recurrent network over the clicks."""

    def __init__(self, kind):
        super().__init__()
        self.user, self.item, self.rnn = nn.Embedding(30, 8), nn.Embedding(30, 8), kind(8, 8, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 1))

    def forward(self, x):
        states, _ = self.rnn(self.item(x["clicks"]))
        return self.mlp(torch.cat([self.user(x["user"]), states[:, -1]], 1)).squeeze(1)


class Experts(nn.Module):
    """Three experts, mixed by a gate, and a tower over the mixture."""

    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(30, 8), nn.EmbeddingBag(30, 8, mode="mean")
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 5), nn.ReLU()) for _ in range(3))
        self.gate, self.mlp = nn.Linear(16, 3), nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))

    def forward(self, x):
        v = torch.cat([self.user(x["user"]), self.item(x["clicks"])], 1)
        mixed = torch.stack([expert(v) for expert in self.experts], 2) * torch.softmax(self.gate(v), 1)[:, None]
        return self.mlp(mixed.sum(2)).squeeze(1)


class Convolution(nn.Module):
    """Filters over the clicks, and the largest answer of each."""

    def __init__(self):
        super().__init__()
        self.user, self.item, self.filters = nn.Embedding(30, 8), nn.Embedding(30, 8), nn.Conv1d(8, 6, 3, padding=1)
        self.mlp = nn.Sequential(nn.Linear(14, 5), nn.ReLU(), nn.Linear(5, 1))

    def forward(self, x):
        found = torch.relu(self.filters(self.item(x["clicks"]).transpose(1, 2))).amax(2)
        return self.mlp(torch.cat([self.user(x["user"]), found], 1)).squeeze(1)


@pytest.mark.parametrize("make", [lambda: Recurrent(nn.GRU), lambda: Recurrent(nn.LSTM), Experts, Convolution], ids=["gru", "lstm", "experts", "convolution"])
def test_the_layer_before_the_logit_is_a_cut_in_recurrent_mixed_and_convolved_models(make):
    torch.manual_seed(0)
    found = field_conductance(subject_of(make(), ("user", "clicks")), attention_rows(), steps=3)
    assert found.route == "batched"
    assert found.layers[-1] == "mlp.1"
    close(found.flow["mlp.1"].sum(2), found.attribution, 1e-12)


def test_a_model_that_leaves_torch_goes_one_field_at_a_time():
    class Logging(Deep):
        def forward(self, x):
            v = torch.cat([*(self.tables[name](x[name]) for name in self.names), x["age"][:, None]], 1)
            self.largest = float(np.abs(v.detach().numpy()).max())  # torch.func has no numbers to give here
            return self.mlp(v).squeeze(1)

    torch.manual_seed(0)
    subject = subject_of(Logging(hidden=(5,)))
    found = field_conductance(subject, rows(), steps=2, route="batched")
    assert found.route == "dual"
    close(found.flow["mlp.1"].sum(2), found.attribution, 1e-12)
    close(found.flow["mlp.1"], field_conductance(subject, rows(), steps=2, route="towers").flow["mlp.1"], 1e-12)


def test_a_tower_behind_something_that_is_not_linear_is_not_taken_for_one():
    class Normed(Deep):
        def forward(self, x):
            v = torch.stack([torch.nn.functional.normalize(self.tables[name](x[name]), dim=1) for name in self.names], 1)
            return self.mlp(torch.cat([v.flatten(1), x["age"][:, None]], 1)).squeeze(1)

    torch.manual_seed(0)
    subject = subject_of(Normed())
    start = mean_baseline(subject, rows())
    assert usable_towers(subject, rows(), start, find_layers(subject, rows())) is None
    found = field_conductance(subject, rows(), steps=3, baseline=start)
    assert found.route == "batched"
    close(found.flow["mlp.1"].sum(2), found.attribution, 1e-12)


def test_captum_gives_the_same_neuron_by_neuron():
    from captum.attr import NeuronConductance

    torch.manual_seed(3)
    subject, batch = deep(activation=nn.SiLU, around=True), rows(count=12)
    model, x = subject.model.eval(), subject.encode(batch)

    class Behind(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = model.mlp

        def forward(self, *leaves):
            v = torch.stack(leaves[:4], 1)
            return self.mlp(torch.cat([v.flatten(1), leaves[4][:, None]], 1)).squeeze(1) + (v.sum(1).square() - v.square().sum(1)).sum(1) / 2

    behind = Behind()
    leaves = (*(model.tables[name](x[name]).detach() for name in model.names), x["age"])
    for table in model.first.values():
        table.weight.data.zero_()
    found = field_conductance(subject, batch, steps=256, rule="gauss_legendre")
    for layer, module in (("mlp.1", behind.mlp[1]), ("mlp.4", behind.mlp[4])):
        for j in (0, 3, 6):
            theirs = NeuronConductance(behind, module).attribute(leaves, j, baselines=tuple(torch.zeros_like(leaf) for leaf in leaves), n_steps=256,
                                                                 method="gausslegendre")
            expected = torch.stack([value.reshape(len(value), -1).sum(1) for value in theirs]).detach()
            close(found.flow[layer][:, :, j], expected, 1e-9)


# ------------------------------------------------------------------ closed forms and facts


class Dense(nn.Module):
    """Hidden layers with given weights over three one-number embeddings."""

    def __init__(self, layers):
        super().__init__()
        self.tables = nn.ModuleDict({name: nn.Embedding(101, 1) for name in ("a", "b", "c")})
        for table in self.tables.values():
            table.weight.data = torch.arange(101.0)[:, None]
        self.layers = layers

    def forward(self, x):
        return self.layers(torch.cat([table(x[name]) for name, table in self.tables.items()], 1)).squeeze(1)


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
    return layer


def three_to_four():
    """Captum's toy: relu of four copies of the sum, three of them shifted by 1 and one by -10, read out twice."""
    return nn.Sequential(linear([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], [0.0, 0, 0]), linear([[1.0] * 3] * 4, [-10.0, 1, 1, 1]), nn.ReLU(),
                         linear([[1.0] * 4, [1.0] * 4], [0.0, 2.0]))


class ReadFirst(nn.Module):
    def forward(self, x):
        return x[:, :1] - 1.0


def toy():
    return subject_of(Dense(nn.Sequential(three_to_four(), ReadFirst())), ("a", "b", "c"))


def test_the_toy_of_captums_tests_has_its_known_attributions():
    """Fact: f = relu(S - 10) + 3 relu(S + 1) - 1 at (20, 50, 30): integrated gradients (78, 195, 117), and the sum is 390."""
    found = field_conductance(toy(), Batch({"a": np.array([20]), "b": np.array([50]), "c": np.array([30])}), steps=5000)
    assert found.attribution[:, 0].tolist() == pytest.approx([78.0, 195.0, 117.0], abs=2e-2)
    assert float(found.attribution.sum()) == pytest.approx(390.0, abs=5e-2)
    close(found.flow["layers.0.2"].sum(2), found.attribution, 1e-12)


def test_the_toy_of_captums_tests_has_its_known_conductances_in_every_layer():
    """Fact: at (0, 100, 0), relu and the layer before it (90, 100, 100, 100), the first layer (0, 390, 0), the last (390, 0)."""
    point = Batch({"a": np.array([0]), "b": np.array([100]), "c": np.array([0])})
    names = ("layers.0.0", "layers.0.1", "layers.0.2", "layers.0.3")
    found = field_conductance(toy(), point, steps=1000, layers=names)
    for name, expected in zip(names, ([0, 390, 0], [90, 100, 100, 100], [90, 100, 100, 100], [390, 0]), strict=True):
        assert found.flow[name].sum(0)[0].tolist() == pytest.approx(expected, abs=0.2), name
        close(found.flow[name].sum(2), found.attribution, 1e-12)


def test_a_linear_model_is_weight_times_way():
    weight = [[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]]
    subject = subject_of(Dense(nn.Sequential(linear(weight, [1.0, 2.0]), linear([[1.0, -2.0]], [0.0]))), ("a", "b", "c"))
    batch = Batch({name: np.random.default_rng(k).integers(0, 50, ROWS) for k, name in enumerate("abc")})
    start = mean_baseline(subject, batch)
    found = field_conductance(subject, batch, steps=1, layers=["layers.0"], baseline=start)
    for f, name in enumerate("abc"):
        way = torch.from_numpy(batch.numbers(name) - batch.numbers(name).mean())
        expected = torch.stack([way * weight[0][f], way * weight[1][f] * -2], 1)
        close(found.flow["layers.0"][f], expected, 1e-12)


def test_a_product_of_two_fields_is_half_to_each_with_one_node_and_bypasses_every_layer():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.user, self.item = nn.Embedding(30, 4), nn.Embedding(30, 4)

        def forward(self, x):
            return (self.user(x["user"]) * self.item(x["item"])).sum(1)

    subject = subject_of(Product(), ("user", "item"))
    found = field_conductance(subject, rows(), steps=1, rule="midpoint")
    assert found.layers == ()
    close(found.attribution[0], found.score / 2, 1e-12)
    close(found.attribution[1], found.score / 2, 1e-12)


class Cross(nn.Module):
    """DCN-v2: x_{k+1} = x_0 * (W x_k + b) + x_k, a polynomial of degree L + 1 along the path."""

    def __init__(self, depth):
        super().__init__()
        self.tables = nn.ModuleDict({name: nn.Embedding(30, 3) for name in FIELDS[:4]})
        self.cross = nn.ModuleList(nn.Linear(12, 12) for _ in range(depth))
        self.mixed = nn.ModuleList(nn.Identity() for _ in range(depth))
        self.out = nn.Linear(12, 1)

    def forward(self, x):
        x0 = now = torch.cat([table(x[name]) for name, table in self.tables.items()], 1)
        for layer, mixed in zip(self.cross, self.mixed, strict=True):
            now = mixed(x0 * layer(now) + now)
        return self.out(now).squeeze(1)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_cross_layers_are_exact_with_half_as_many_nodes(depth):
    torch.manual_seed(depth)
    subject = subject_of(Cross(depth), FIELDS[:4])
    layers = [f"mixed.{k}" for k in range(depth)]
    exact = -(-(depth + 1) // 2)
    found = field_conductance(subject, rows(), steps=exact, rule="gauss_legendre", layers=layers)
    assert float(found.error.max()) < 1e-10
    more = field_conductance(subject, rows(), steps=exact + 7, rule="gauss_legendre", layers=layers)
    for layer in layers:
        close(found.flow[layer], more.flow[layer], 1e-12)
    close(found.flow[layers[-1]].sum(2), found.attribution, 1e-12)
    if exact > 1:
        assert float(field_conductance(subject, rows(), steps=exact - 1, rule="gauss_legendre", layers=layers).error.max()) > 1e-6


# ------------------------------------------------------------------ symmetry, absence, splitting


def test_a_field_that_no_layer_reads_gets_exactly_nothing():
    subject = deep()
    with torch.no_grad():
        subject.model.mlp[0].weight[:, 4:8] = 0  # the columns of `item`
    for route in ("towers", "batched"):
        found = field_conductance(subject, rows(), steps=3, route=route)
        at = found.fields.index("item")
        assert all(float(flow[at].abs().max()) == 0 for flow in found.flow.values())
        assert float(found.attribution[at].abs().max()) == 0


def test_a_constant_field_gets_nothing_from_the_mean():
    batch = rows().with_columns({"hour": np.full(ROWS, 7)})
    subject = deep(dtype=torch.float64)
    found = field_conductance(subject, batch, steps=4, baseline=mean_baseline(subject, batch))
    at = found.fields.index("hour")
    assert float(found.attribution[at].abs().max()) < 1e-14
    assert all(float(flow[at].abs().max()) < 1e-14 for flow in found.flow.values())
    from_zero = field_conductance(subject, batch, steps=4, baseline=zero_baseline(subject.sites(batch)))
    assert float(from_zero.attribution[at].abs().max()) > 1e-3


@pytest.mark.parametrize("route", ["towers", "batched"])
def test_paths_may_begin_at_other_rows(route):
    subject, batch = deep(activation=nn.SiLU, around=True), rows()
    start = other_rows(batch, rows(seed=5), ["item", "age"])
    found = field_conductance(subject, batch, baseline=start, steps=10, route=route, megabytes=1e-6)
    changed = [found.fields.index(name) for name in ("item", "age")]
    kept = [f for f in range(5) if f not in changed]
    assert all(float(flow[kept].abs().max()) == 0 for flow in found.flow.values())
    assert float(found.error.max()) < 1e-6
    there = field_conductance(subject, start.rows, steps=1).score
    close(found.attribution.sum(0), found.score - there, 1e-6)


def test_lookups_of_all_entries_at_once_are_summed_by_row():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.item = nn.Embedding(30, 4)
            self.mlp = nn.Sequential(nn.Linear(20, 6), nn.Tanh(), nn.Linear(6, 1))

        def forward(self, x):
            return self.mlp(self.item(x["clicks"].reshape(-1)).reshape(len(x["clicks"]), -1)).squeeze(1)

    torch.manual_seed(0)
    subject = subject_of(Flat(), ("clicks",))
    for route in ("towers", "batched"):
        found = field_conductance(subject, attention_rows(), steps=9, route=route)
        close(found.flow["mlp.1"].sum(2), found.attribution, 1e-12)
        assert float(found.error.max()) < 1e-6


@pytest.mark.parametrize("route", ["towers", "batched"])
def test_two_fields_that_are_equal_everywhere_get_the_same(route):
    subject = deep(around=True)
    model = subject.model
    model.tables["item"].weight.data.copy_(model.tables["user"].weight)
    model.first["item"].weight.data.copy_(model.first["user"].weight)
    model.mlp[0].weight.data[:, 4:8] = model.mlp[0].weight.data[:, :4]
    batch = rows()
    batch = batch.with_columns({"item": np.asarray(batch["user"])})
    subject = TorchSubject(model, fields=FIELDS, encode=subject.encode, sites={"tables.item.weight": "item", "first.item.weight": "item"})
    found = field_conductance(subject, batch, steps=5, route=route)
    user, item = found.fields.index("user"), found.fields.index("item")
    close(found.attribution[user], found.attribution[item], 1e-13)
    for flow in found.flow.values():
        close(flow[user], flow[item], 1e-13)


@pytest.mark.parametrize("route", ["towers", "batched"])
def test_order_and_names_of_fields_do_not_matter(route):
    subject, batch = deep(around=True), rows()
    model = subject.model
    renamed = {"user": "u", "item": "i", "place": "p", "hour": "h", "age": "age"}
    order = ("p", "age", "u", "h", "i")

    def encode(part):
        out = {name: torch.from_numpy(np.array(part[name])) for name in order}
        return {name: value.to(torch.float64) if value.is_floating_point() else value for name, value in out.items()}

    def forward(module, x):
        return module({old: x[new] for old, new in renamed.items()})

    other = TorchSubject(model, fields=order, encode=encode, forward=forward)
    moved = Batch({new: np.asarray(batch[old]) for old, new in renamed.items()})
    a, b = field_conductance(subject, batch, steps=4, route=route), field_conductance(other, moved, steps=4, route=route)
    for old, new in renamed.items():
        for layer in a.layers:
            close(a.flow[layer][a.fields.index(old)], b.flow[layer][b.fields.index(new)], 1e-13)


@pytest.mark.parametrize("route", ["towers", "batched"])
def test_splitting_rows_and_steps_changes_nothing(route):
    subject, batch = deep(dtype=torch.float32, around=True), rows(count=90)
    whole = field_conductance(subject, batch, steps=6, route=route, rule="midpoint")
    small = field_conductance(subject, batch, steps=6, route=route, rule="midpoint", megabytes=1e-6)  # 16 rows at a time
    parts = [field_conductance(subject, batch.take(part), steps=6, route=route, rule="midpoint") for part in np.array_split(np.arange(90), 4)]
    for layer in whole.layers:
        close(small.flow[layer], whole.flow[layer], 1e-6)
        close(torch.cat([part.flow[layer] for part in parts], 1), whole.flow[layer], 1e-6)


def test_unknown_layers_are_named():
    with pytest.raises(SubjectError, match=r"no layer 'mlp\.9'.*mlp\.1"):
        field_conductance(deep(), rows(), layers=["mlp.9"])


# ------------------------------------------------------------------ as columns, and nothing left behind


def test_the_probe_adds_what_the_function_gives():
    subject, batch = deep(around=True), rows()
    start = mean_baseline(subject, batch)
    probe = ConductanceProbe(subject, baseline=start, layers=find_layers(subject, batch), steps=4, suffix=":epoch-2")
    columns = probe.observe(batch)
    assert set(columns) == set(probe.adds)
    found = field_conductance(subject, batch, baseline=start, steps=4, label=batch.numbers("@label"))
    for f, name in enumerate(found.fields):
        assert np.allclose(columns[f"@attribution:{name}:epoch-2"], found.attribution[f], atol=1e-12)
        assert np.allclose(columns[f"@usefulness:{name}:epoch-2"], found.usefulness[f], atol=1e-12)
        for layer in found.layers:
            assert np.allclose(columns[f"@conductance:{name}:{layer}:epoch-2"], found.flow[layer][f], atol=1e-12)
    assert all(len(column) == 0 for column in probe.observe(batch.take(slice(0, 0))).values())
    assert 64 <= probe.rows_within(batch, megabytes=1) <= 8192


def test_the_model_stays_as_it_was():
    subject, batch = deep(around=True), rows()
    model = subject.model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for route in ("towers", "batched", "dual"):
        field_conductance(subject, batch, steps=2, route=route, layers=["mlp.1", "mlp.0"] if route != "towers" else None)
    with pytest.raises(SubjectError):
        field_conductance(subject, batch, layers=["mlp.9"])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == 0


def test_attention_of_torch_itself_has_forward_derivatives_too():
    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.user, self.item = nn.Embedding(30, 8), nn.Embedding(30, 8)
            self.block = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, activation="gelu")
            self.out = nn.Sequential(nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 1))

        def forward(self, x):
            seen = self.block(self.item(x["clicks"])).mean(1)
            return self.out(torch.cat([self.user(x["user"]), seen], 1)).squeeze(1)

    torch.manual_seed(0)
    subject = subject_of(Transformer(), ("user", "clicks"))
    before = torch.backends.mha.get_fastpath_enabled()
    found, dual = (field_conductance(subject, attention_rows(), steps=3, route=route) for route in ("auto", "dual"))
    assert torch.backends.mha.get_fastpath_enabled() is before
    assert len(found.layers) == 2
    close(found.flow["out.1"].sum(2), found.attribution, 1e-12)
    for layer in found.layers:
        close(found.flow[layer], dual.flow[layer], 1e-12)
    assert float(found.flow[found.layers[0]][found.fields.index("user")].abs().max()) == 0  # the user does not pass the block


def test_a_model_of_random_weights_has_other_flows():
    """Explanations of the input alone would not change when the model is randomised (Adebayo et al. 2018)."""
    flows = [field_conductance(deep(seed=seed, around=True), rows(count=300), steps=4).flow["mlp.1"].sum(2).flatten() for seed in range(6)]
    ranks = torch.stack(flows).argsort(1).argsort(1).double()
    correlations = torch.corrcoef(ranks)[~torch.eye(6, dtype=torch.bool)]
    assert float(correlations.abs().mean()) < 0.15
