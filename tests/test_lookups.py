"""Lookups are found, replayed to the bit, and leave the model as it was; attributions add up and agree with Captum."""

import numpy as np
import pytest
import torch
from torch import nn

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.lookups import parameter_names, run, undisturbed
from recspect.diagnosis.probes.attribution import (
    gradient_times_input,
    integrated_gradients,
    mean_baseline,
    path_rule,
    zero_baseline,
)
from recspect.diagnosis.probes.internals import InternalsProbe, RowProbe
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError, UsageError

ROWS = 96


class Ranker(nn.Module):
    """A list of tables, one of them read by indexing, one read twice, a dense input, an FM part and a ReLU tower."""

    def __init__(self, *, activation=nn.ReLU):
        super().__init__()
        self.user, self.item = nn.Embedding(30, 4), nn.Embedding(20, 4)
        self.place = nn.Parameter(torch.randn(5, 4))
        self.mlp = nn.Sequential(nn.Linear(13, 16), activation(), nn.Dropout(0.5), nn.Linear(16, 1))

    def forward(self, x):
        u, i = self.user(x["user"]), self.item(x["item"])
        tower = self.mlp(torch.cat([u, i, self.place[x["place"]], x["age"][:, None]], 1))
        return torch.sigmoid(tower.squeeze(1) + (u * self.item(x["item"])).sum(1))


class Fused(nn.Module):
    """One table with offsets, a padded history with a mask, and a field that nothing reads."""

    def __init__(self):
        super().__init__()
        self.table, self.history = nn.Embedding(60, 4), nn.EmbeddingBag(20, 4, mode="sum")
        self.clicks = nn.Embedding(20, 4, padding_idx=0)
        self.out = nn.Linear(16, 1)
        self.register_buffer("offsets", torch.tensor([0, 30]))

    def forward(self, x):
        ids = torch.stack([x["user"], x["item"]], 1) + self.offsets
        v = self.table(ids).flatten(1)
        mask = (x["clicks"] != 0).unsqueeze(-1)
        pooled = (self.clicks(x["clicks"]) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.out(torch.cat([v, pooled, self.history(x["clicks"])], 1)).squeeze(1)


def rows(seed=0):
    r = np.random.default_rng(seed)
    clicks = r.integers(1, 20, (ROWS, 6))
    clicks[np.arange(6) >= r.integers(1, 6, ROWS)[:, None]] = 0
    return Batch({"user": r.integers(0, 30, ROWS), "item": r.integers(0, 20, ROWS), "place": r.integers(0, 5, ROWS),
                  "age": r.normal(size=ROWS), "unread": r.integers(0, 9, ROWS), "@label": r.integers(0, 2, ROWS)}), clicks


def ranker(**settings):
    torch.manual_seed(0)
    return TorchSubject(Ranker(**settings), fields=["user", "item", "place", "age"])


def fused():
    torch.manual_seed(0)
    batch, clicks = rows()

    def encode(part):
        inputs = {name: torch.from_numpy(np.asarray(part[name])) for name in ("user", "item", "unread")}
        return {**inputs, "clicks": torch.from_numpy(np.asarray(part["clicks"]))}

    return TorchSubject(Fused(), encode=encode), batch.with_columns({"clicks": clicks})


def test_recorded_and_replayed_passes_agree_to_the_bit():
    subject, (batch, _) = ranker(), rows()
    inputs = subject.encode(batch)
    with undisturbed(subject.model) as stack:
        first = run(lambda: subject.model(inputs), parameter_names(subject.model), stack)
        again = run(lambda: subject.model(inputs), parameter_names(subject.model), stack,
                    replay=[lookup.output for lookup in first.lookups])
    assert [lookup.table for lookup in first.lookups] == ["user.weight", "item.weight", "place", "item.weight"]
    assert torch.equal(first.output, again.output)
    assert torch.equal(torch.sigmoid(first.logit), first.output)


def test_fields_are_told_by_memory_in_a_list_of_tables():
    subject, (batch, _) = ranker(), rows()
    sites = subject.sites(batch)
    assert [site.parts[0].field for site in sites.lookups] == ["user", "item", "place", "item"]
    assert sites.dense == ("age",)
    assert sites.has_logit


def test_fields_of_a_fused_table_are_told_by_value():
    subject, batch = fused()
    sites = subject.sites(batch)
    assert [[part.field for part in site.parts] for site in sites.lookups] == [["user", "item"], ["clicks"], ["clicks"]]
    assert sites.unread == ("unread",)
    assert not sites.has_logit


def test_a_lookup_that_cannot_be_told_is_an_error_that_says_how_to_name_it():
    class Hashed(nn.Module):
        def __init__(self):
            super().__init__()
            self.t = nn.Embedding(7, 4)

        def forward(self, x):
            return self.t((x["user"] * 31 + x["item"]) % 7).sum(1)

    batch, _ = rows()
    with pytest.raises(SubjectError, match=r"t\.weight#0") as error:
        TorchSubject(Hashed(), fields=["user", "item"]).sites(batch)
    assert "sites={" in error.value.hint
    named = TorchSubject(Hashed(), fields=["user", "item"], sites={"t.weight": "user"})
    assert named.sites(batch).lookups[0].how == "as declared"


@pytest.mark.parametrize("rule", ["midpoint", "gauss_legendre", "trapezoid"])
def test_every_rule_is_exact_on_a_linear_model(rule):
    nodes, weights = path_rule(rule, 5)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    subject, batch = fused()
    found = integrated_gradients(subject, batch, steps=1 if rule != "trapezoid" else 2, rule=rule)
    assert float(found.error.max()) < 1e-5
    assert len(nodes) == len(weights)


def test_padding_and_unread_fields_get_exactly_nothing():
    subject, batch = fused()
    found = integrated_gradients(subject, batch)
    padded = np.asarray(batch["clicks"]) == 0
    # the bag pools inside the lookup, so only the masked history has entries
    assert float(found.entries["clicks"][torch.from_numpy(padded)].abs().max()) == 0
    assert "unread" not in found.reliance


def test_smooth_models_converge_with_few_nodes_and_sums_are_complete():
    subject, (batch, _) = ranker(activation=nn.SiLU), rows()
    found = integrated_gradients(subject, batch, steps=8, baseline=mean_baseline(subject, batch))
    assert float(found.error.max()) < 1e-4
    assert set(found.reliance) == {"user", "item", "place", "age"}


def test_usefulness_sums_to_the_loss_reduction():
    subject, (batch, _) = ranker(activation=nn.SiLU), rows()
    y = batch.numbers("@label")
    found = integrated_gradients(subject, batch, steps=24, label=y)
    target = torch.from_numpy(y).float()
    loss = nn.functional.binary_cross_entropy_with_logits
    reduction = loss(found.baseline, target, reduction="none") - loss(found.score, target, reduction="none")
    assert torch.allclose(sum(found.usefulness.values()), reduction, atol=2e-4)


def test_chunks_do_not_change_attributions():
    subject, (batch, _) = ranker(), rows()
    whole = integrated_gradients(subject, batch, chunk_rows=4096)
    parts = integrated_gradients(subject, batch, chunk_rows=17)
    for field, value in whole.reliance.items():
        assert torch.allclose(value, parts.reliance[field], atol=1e-6)


@pytest.mark.filterwarnings("ignore:Multiple layers provided")  # captum says so to everyone who names two tables
def test_integrated_gradients_agree_with_captum_at_the_same_nodes():
    from captum.attr import LayerIntegratedGradients

    class Single(nn.Module):  # captum handles tables that are read once
        def __init__(self):
            super().__init__()
            self.user, self.item = nn.Embedding(30, 4), nn.Embedding(20, 4)
            self.mlp = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

        def forward(self, user, item):
            u, i = self.user(user), self.item(item)
            return self.mlp(torch.cat([u, i], 1)).squeeze(1) + (u * i).sum(1)

    torch.manual_seed(1)
    model, (batch, _) = Single(), rows()
    subject = TorchSubject(model, fields=["user", "item"], forward=lambda m, x: m(x["user"], x["item"]))
    ours = integrated_gradients(subject, batch, steps=20, rule="gauss_legendre")
    model.user.weight.data = torch.cat([model.user.weight.data, torch.zeros(1, 4)])  # captum's baselines are ids
    model.item.weight.data = torch.cat([model.item.weight.data, torch.zeros(1, 4)])
    inputs = (torch.from_numpy(np.asarray(batch["user"])), torch.from_numpy(np.asarray(batch["item"])))
    theirs = LayerIntegratedGradients(model, [model.user, model.item]).attribute(
        inputs, baselines=(torch.full((ROWS,), 30), torch.full((ROWS,), 20)), n_steps=20, method="gausslegendre")
    for field, values in zip(("user", "item"), theirs, strict=True):
        assert torch.allclose(ours.reliance[field], values.sum(1).float().detach(), atol=1e-4)


def test_gradient_times_input_counts_products_twice():
    subject, (batch, _) = ranker(), rows()

    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.user, self.item = nn.Embedding(30, 4), nn.Embedding(20, 4)

        def forward(self, x):
            return (self.user(x["user"]) * self.item(x["item"])).sum(1)

    subject = TorchSubject(Product(), fields=["user", "item"])
    found = gradient_times_input(subject, batch)
    assert torch.allclose(sum(found.reliance.values()), 2 * found.score, atol=1e-5)
    half = integrated_gradients(subject, batch, steps=1, rule="midpoint")  # exact with one node: half to each side
    assert torch.allclose(half.reliance["user"], found.score / 2, atol=1e-5)


def fingerprint(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def test_the_model_stays_as_it_was():
    subject, (batch, _) = ranker(), rows()
    model = subject.model.train()
    model.mlp[3].weight.requires_grad_(requires_grad=False)
    before, flags = fingerprint(model), [p.requires_grad for p in model.parameters()]
    subject.sites(batch)
    integrated_gradients(subject, batch, label=batch.numbers("@label"))
    InternalsProbe(subject).observe(batch)
    RowProbe(subject).observe(batch)
    subject.score(batch)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert hooks(model) == 0


def test_the_model_stays_as_it_was_after_an_exception():
    subject, (batch, _) = ranker(), rows()
    subject.sites(batch)
    broken = batch.with_columns({"user": np.full(ROWS, 10_000)})  # outside the table
    subject.model.train()
    with pytest.raises(SubjectError, match="IndexError"):
        integrated_gradients(subject, broken)
    assert hooks(subject.model) == 0
    assert all(p.requires_grad for p in subject.model.parameters())
    assert all(module.training for module in subject.model.modules())


def test_internals_have_one_column_per_layer_and_gradients_equal_autograd():
    subject, (batch, _) = ranker(), rows()
    columns = InternalsProbe(subject).observe(batch)
    assert list(columns) == ["@activation:mlp.1", "@gradient_norm:mlp.1"]
    model, inputs = subject.model.eval(), subject.encode(batch)
    kept = []
    handle = model.mlp[1].register_forward_hook(lambda _m, _i, out: kept.append(out.retain_grad() or out))
    loss = nn.functional.binary_cross_entropy(model(inputs), torch.from_numpy(batch.numbers("@label")).float(), reduction="sum")
    loss.backward()
    handle.remove()
    assert np.allclose(columns["@activation:mlp.1"], kept[0].detach().numpy())
    assert np.allclose(columns["@gradient_norm:mlp.1"], kept[0].grad.norm(dim=1).numpy() / 4, atol=1e-6)


def test_rows_read_are_the_ids_of_the_widest_table():
    subject, (batch, _) = ranker(), rows()
    subject.sites(batch)
    columns = RowProbe(subject).observe(batch)
    assert np.array_equal(columns["@row:user"], batch["user"])
    assert set(columns) == {"@row:user", "@row:item", "@row:place"}


def test_wrong_settings_are_told():
    subject, (batch, _) = ranker(), rows()
    with pytest.raises(UsageError, match="no rule"):
        integrated_gradients(subject, batch, rule="simpson")
    with pytest.raises(UsageError, match="at least 1 step"):
        integrated_gradients(subject, batch, steps=0)
    assert zero_baseline(subject.sites(batch)).name == "zero"
