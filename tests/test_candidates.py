"""Contributions to many candidates at once equal integrated gradients one by one; what is no dot product is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from _candidate_networks import SASRec, TwoTower, candidates_batch, train_sasrec, train_two_tower, users_batch
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.attribution import (
    integrated_gradients,
    jacobian,
    mean_baseline,
    other_rows,
    unknown_baseline,
)
from recspect.diagnosis.probes.attribution.candidates import candidate_attributions
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError, UsageError

USER_FIELDS = ["user", "age", "activity", "history"]
KINDS = {"two_tower": (USER_FIELDS, lambda: train_two_tower(TwoTower())), "two_tower_relu": (USER_FIELDS, lambda: train_two_tower(TwoTower(nn.ReLU))),
         "sasrec": (["history"], lambda: train_sasrec(SASRec()))}


def double(batch):
    """The default encoding, with numbers in float64."""
    from recspect.diagnosis.subject import default_encode
    return {name: value.double() if value.is_floating_point() else value for name, value in default_encode(())(batch).items()}


@pytest.fixture(scope="module", params=list(KINDS))
def trained(request):
    fields, make = KINDS[request.param]
    return request.param, fields, make().double()


def subject_of(trained):
    kind, fields, model = trained
    return TorchSubject(model, fields=[*fields, "item"] + ["category"] * (kind != "sasrec"), encode=double)


def batches(trained, users=5, candidates=40):
    _, fields, _ = trained
    rows = users_batch(users)
    return Batch({name: rows[name] for name in fields}), candidates_batch(candidates)


def pairs(users, candidates, j):
    return users.with_columns({name: candidates.take(np.full(users.rows, j))[name] for name in candidates})


def one_by_one(trained, users, candidates, j, steps):
    """Integrated gradients of one candidate, whose lookups are declared to depend on no field, so that they keep their value."""
    subject = subject_of(trained)
    rows = pairs(users, candidates, j)
    sites = subject.sites(rows)
    fixed = [dataclasses.replace(site, parts=tuple(part for part in site.parts if part.field not in candidates)) for site in sites.lookups]
    subject._sites = dataclasses.replace(sites, lookups=tuple(fixed))
    return integrated_gradients(subject, rows, steps=steps)


@pytest.mark.parametrize("count", [3, 40])  # fewer and more candidates than entries of the user vector
def test_all_candidates_at_once_equal_integrated_gradients_one_by_one(trained, count):
    users, candidates = batches(trained, candidates=count)
    found = candidate_attributions(subject_of(trained), users, candidates, steps=6)
    assert set(found.fields) == set(users)
    for j in (0, 2, count - 1):
        single = one_by_one(trained, users, candidates, j, 6)
        for name in users:
            assert torch.allclose(found.contributions[name][:, j], single.reliance[name], rtol=0, atol=1e-9)
        assert torch.allclose(found.entries["history"][:, j], single.entries["history"], rtol=0, atol=1e-9)
        assert torch.allclose(found.score[:, j], single.score, rtol=0, atol=1e-9)
        assert torch.allclose(found.baseline[:, j], single.baseline, rtol=0, atol=1e-9)
        assert torch.allclose(found.error[:, j], single.error, rtol=0, atol=1e-9)


def test_float32_agrees_with_float64(trained):
    kind, fields, model = trained
    users, candidates = batches(trained)
    exact = candidate_attributions(subject_of(trained), users, candidates, steps=6)
    single = {"sasrec": SASRec, "two_tower": TwoTower, "two_tower_relu": lambda: TwoTower(nn.ReLU)}[kind]()
    single.load_state_dict(model.state_dict())
    rounded = candidate_attributions(TorchSubject(single.eval(), fields=[*fields, *candidates][:None if kind != "sasrec" else -1]), users, candidates, steps=6)
    assert rounded.score.dtype == torch.float32
    for name in users:
        size = float(exact.contributions[name].abs().max())
        assert float((rounded.contributions[name] - exact.contributions[name]).abs().max()) < 2e-5 * size


def test_a_plain_loop_over_one_user_and_candidate():
    """No code of ours: the derivative of u . v by the embeddings, at midpoints of many small steps."""
    model = train_two_tower(TwoTower()).double()
    kind = ("two_tower", USER_FIELDS, model)
    users, candidates = batches(kind, users=1, candidates=30)
    found = candidate_attributions(subject_of(kind), users, candidates, tolerance=1e-6)
    x = double(pairs(users, candidates, 7))
    seen = (x["history"] > 0).double().unsqueeze(-1)
    ends = [model.user(x["user"]), model.age(x["age"]), model.item(x["history"]), x["activity"]]
    total = [torch.zeros(()) for _ in ends]
    steps = 400
    for k in range(steps):
        u, a, h, n = leaves = [(end.detach() * (k + 0.5) / steps).requires_grad_() for end in ends]
        pooled = (h * seen).sum(1) / seen.sum(1)
        score = (model.left(torch.cat([u, a, pooled, n[:, None]], 1)) * model.items(x)).sum()
        for place, gradient in enumerate(torch.autograd.grad(score, leaves)):
            total[place] = total[place] + (gradient * ends[place]).sum(-1) / steps
    for name, value in zip(("user", "age", "activity"), (total[0], total[1], total[3]), strict=True):
        assert found.contributions[name][0, 7].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6)
    assert torch.allclose(found.entries["history"][0, 7], total[2][0].double(), rtol=1e-4, atol=1e-6)


def test_contrasts_and_lists_are_sums_of_candidates(trained):
    users, candidates = batches(trained)
    found = candidate_attributions(subject_of(trained), users, candidates, steps=4)
    first, second, contrast = found.candidate(3), found.candidate(11), found.contrast(3, 11)
    whole, some = found.list_sum(), found.list_sum([1, 1, 4])
    for name in users:
        every = found.contributions[name]
        assert torch.allclose(first.reliance[name], every[:, 3], rtol=0, atol=1e-12)
        assert torch.allclose(contrast.reliance[name], first.reliance[name] - second.reliance[name], rtol=0, atol=1e-9)
        assert torch.allclose(whole.reliance[name], every.sum(1), rtol=0, atol=1e-9)
        assert torch.allclose(some.reliance[name], 2 * every[:, 1] + every[:, 4], rtol=0, atol=1e-9)
    assert torch.allclose(contrast.entries["history"], first.entries["history"] - second.entries["history"], rtol=0, atol=1e-9)
    assert torch.allclose(contrast.score, found.score[:, 3] - found.score[:, 11])
    total = sum(contrast.reliance.values())
    assert torch.allclose(contrast.error, (total - (contrast.score - contrast.baseline)).abs(), rtol=0, atol=1e-9)
    assert float(found.contrast(2, 2).reliance[users_name(users)].abs().max()) == 0
    with pytest.raises(UsageError, match="no candidate 40"):
        found.candidate(40)


def users_name(users):
    return next(iter(users))


def test_derivatives_come_batched_also_through_averaged_kinks(trained, monkeypatch):
    """Counted at autograd: one call for all entries of the user vector, in pieces where they would hold too much, with the same result."""
    users, candidates = batches(trained)
    calls, grad = [], torch.autograd.grad

    def counted(outputs, inputs, *rest, **settings):
        found = grad(outputs, inputs, *rest, **settings)
        calls.append(settings.get("is_grads_batched", False))
        return found

    monkeypatch.setattr(torch.autograd, "grad", counted)
    monkeypatch.setattr(jacobian, "DERIVATIVE_BYTES", 2**40)
    whole = candidate_attributions(subject_of(trained), users, candidates, steps=3)
    assert calls.count(True) == 1
    for size in (1, 2**18, 2**20, 2**22):
        monkeypatch.setattr(jacobian, "DERIVATIVE_BYTES", size)
        parts = candidate_attributions(subject_of(trained), users, candidates, steps=3)
        assert torch.allclose(parts.integrated, whole.integrated, rtol=0, atol=1e-12)
    assert calls.count(True) > 2


def test_padding_gets_exactly_nothing(trained):
    users, candidates = batches(trained)
    found = candidate_attributions(subject_of(trained), users, candidates, steps=3)
    entries = found.entries["history"]
    assert entries.shape == (5, 40, 12)
    padding = torch.from_numpy(np.arange(12) >= users["history"].lengths[:, None])
    assert padding.any()
    assert float(entries.abs().sum(1)[padding].max()) == 0
    assert float(entries.abs().sum(1)[~padding].min()) > 0


def test_work_does_not_grow_with_the_candidates(trained):
    few = candidate_attributions(subject_of(trained), *batches(trained, candidates=40), steps=4)
    many = candidate_attributions(subject_of(trained), *batches(trained, candidates=280), steps=4)
    assert (few.forward_rows, few.backward_rows) == (many.forward_rows, many.backward_rows)
    width = 9 if trained[0] != "sasrec" else 17  # entries of the user vector, and the part of the user alone
    assert few.backward_rows == 5 * 4 * width
    assert (few.candidate_rows, many.candidate_rows) == (40, 280)


def test_the_users_side_runs_once_for_all_candidates(trained):
    """Counted at the user's own first layer, not taken from the result."""
    kind, _, model = trained
    rows = []
    layer = model.left[0] if kind != "sasrec" else model.qkv[0]
    handle = layer.register_forward_hook(lambda _m, _i, out: rows.append(out.shape[0]))
    counts = []
    for candidates in (40, 280):
        rows.clear()
        candidate_attributions(subject_of(trained), *batches(trained, candidates=candidates), steps=4)
        counts.append(sum(rows))
    handle.remove()
    resolving = 280 - 40  # fields are resolved on as many rows as there are candidates, up to sample_rows
    assert counts[1] - counts[0] == resolving


def parts(found):
    """Contributions of fields, and of each entry of the history, shape [B, C, P]."""
    return torch.cat([found.entries["history"], *(found.contributions[name].unsqueeze(2) for name in found.fields if name != "history")], 2)


@pytest.mark.parametrize(("trained", "tolerance"), [("two_tower", 1e-3), ("sasrec", 0.05)], indirect=["trained"])
def test_points_are_added_until_the_bound_is_within_the_tolerance(trained, tolerance):
    users, candidates = batches(trained, users=5 if trained[0] != "sasrec" else 1, candidates=280)
    found = candidate_attributions(subject_of(trained), users, candidates, tolerance=tolerance)
    exact = candidate_attributions(subject_of(trained), users, candidates, steps=256 if trained[0] == "sasrec" else 64)
    assert bool(found.converged.all())
    off, total = (parts(found) - parts(exact)).abs().sum(2), parts(found).abs().sum(2)
    assert bool((off <= found.bound).all())
    assert bool((found.bound <= tolerance * total + 1e-9).all())
    assert not bool(candidate_attributions(subject_of(trained), users, candidates, steps=4).converged.any())


def test_a_candidate_whose_entries_cancel_out_is_no_reason_to_go_on():
    """Sequence models have one field: its total is the difference of two scores, which is near 0 for some candidates, however large the entries are."""
    kind = ("sasrec", ["history"], train_sasrec(SASRec()).double())
    users, candidates = batches(kind, users=1, candidates=280)
    found = candidate_attributions(subject_of(kind), users, candidates, tolerance=0.05)
    share = found.contributions["history"].abs() / found.entries["history"].abs().sum(2)
    assert float(share.min()) < 0.01
    assert bool(found.converged.all())


def test_other_baselines(trained):
    users, candidates = batches(trained)
    subject = subject_of(trained)
    rows = pairs(users, candidates, 3)
    subject.sites(rows)
    mean = candidate_attributions(subject, users, candidates, baseline=mean_baseline(subject, rows), steps=16)
    assert not torch.allclose(mean.baseline, candidate_attributions(subject, users, candidates, steps=2).baseline)
    # an id that stands for an unknown one, for users' fields only: the same as other rows that hold it
    ids = {name: 1 for name in users if name != "activity"}
    unknown = candidate_attributions(subject, users, candidates, baseline=unknown_baseline(subject, rows, ids), steps=16)
    single = integrated_gradients(subject, rows, baseline=unknown_baseline(subject, rows, ids, dense={"activity": 0.0} if "activity" in users else None),
                                  steps=16, rule="auto")
    for name in users:
        assert torch.allclose(unknown.contributions[name][:, 3], single.reliance[name], rtol=0, atol=1e-9)
    turned = users.take(np.array([0, 0, 0, 0, 0]))
    swapped = {name: turned[name] for name in users if name != "history"}
    if swapped:
        other = candidate_attributions(subject, users, candidates, baseline=other_rows(users, turned, list(swapped)), steps=16)
        assert float(other.contributions["history"].abs().max()) == 0
        assert float(other.contributions["user"][0].abs().max()) == 0  # the first user is its own baseline


def test_a_user_and_items_that_are_named_give_the_same(trained):
    users, candidates = batches(trained)
    named = candidate_attributions(subject_of(trained), users, candidates, user_vector=lambda m, x: m.users(x), item_vectors=lambda m, x: m.items(x), steps=5)
    found = candidate_attributions(subject_of(trained), users, candidates, steps=5)
    for name in users:
        assert torch.allclose(named.contributions[name], found.contributions[name], rtol=0, atol=1e-9)


class Biased(TwoTower):
    """Biases on both sides, a scale, and every item scored before one is taken."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.user_bias, self.item_bias = nn.Embedding(200, 1), nn.Embedding(300, 1)

    def forward(self, x):
        every = self.users(x) @ self.right(torch.cat([self.item.weight, self.category(torch.arange(300) % 20)], 1)).T
        return every.gather(1, x["item"][:, None]).squeeze(1) / 0.3 + self.user_bias(x["user"]).squeeze(1) ** 3 + self.item_bias(x["item"]).squeeze(1)


def test_biases_scales_and_scores_of_all_items_are_read_through():
    model = Biased().double().eval()
    users, candidates = users_batch(4), Batch({"item": candidates_batch(50)["item"]})
    trained = ("biased", USER_FIELDS, model)
    found = candidate_attributions(TorchSubject(model, fields=[*USER_FIELDS, "item"], encode=double, sites={"category.weight": ""}), users, candidates, steps=6)
    assert float(found.error.max()) < 1e-3
    j = 7
    subject = TorchSubject(model, fields=[*USER_FIELDS, "item"], encode=double, sites={"category.weight": ""})
    ids = {"user": 0, "age": 0}
    single = integrated_gradients(subject, pairs(users, candidates, j), baseline=unknown_baseline(subject, pairs(users, candidates, j), ids), steps=6)
    again = candidate_attributions(subject, users, candidates, baseline=unknown_baseline(subject, pairs(users, candidates, j), ids), steps=6)
    for name in trained[1]:
        assert torch.allclose(again.contributions[name][:, j], single.reliance[name], rtol=0, atol=1e-9)


class Softmax(TwoTower):
    def forward(self, x):
        every = self.users(x) @ self.right(torch.cat([self.item.weight, self.category.weight[torch.arange(300) % 20]], 1)).T
        return every.log_softmax(1).gather(1, x["item"][:, None]).squeeze(1)


class Together(TwoTower):
    def forward(self, x):
        return torch.relu(self.users(x) + self.items(x)).sum(1) + (self.users(x) * self.items(x)).sum(1)


class Cosine(TwoTower):
    def forward(self, x):
        u = self.users(x)
        return (u * self.items(x)).sum(1) / u.norm(dim=1)


@pytest.mark.parametrize(("model", "reason"), [(Softmax, "not linear"), (Together, "together|not linear"), (Cosine, "differs from user to user|not linear")])
def test_what_is_no_dot_product_is_refused_with_the_reason(model, reason):
    torch.manual_seed(0)
    sites = {"category.weight": ""} if model is Softmax else {}
    subject = TorchSubject(model().eval(), fields=[*USER_FIELDS, "item", "category"], sites=sites)
    with pytest.raises(SubjectError, match=reason) as error:
        candidate_attributions(subject, users_batch(3), candidates_batch(20))
    assert "one by one" in error.value.hint


def test_a_function_that_is_not_the_score_is_refused():
    torch.manual_seed(0)
    subject = TorchSubject(Together().eval(), fields=[*USER_FIELDS, "item", "category"])
    with pytest.raises(SubjectError, match="differs from the model's score"):
        candidate_attributions(subject, users_batch(3), candidates_batch(20), user_vector=lambda m, x: m.users(x), item_vectors=lambda m, x: m.items(x))
    with pytest.raises(UsageError, match="go together"):
        candidate_attributions(subject, users_batch(3), candidates_batch(20), user_vector=lambda m, x: m.users(x))
    with pytest.raises(UsageError, match="0 candidates"):
        candidate_attributions(subject, users_batch(3), candidates_batch(0))


def test_one_user_is_enough_and_the_model_is_left_as_it_was(trained):
    users, candidates = batches(trained)
    model = trained[2]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    alone = candidate_attributions(subject_of(trained), users.take(np.array([0])), candidates, steps=4)
    together = candidate_attributions(subject_of(trained), users, candidates, steps=4)
    for name in users:
        assert torch.allclose(alone.contributions[name][0], together.contributions[name][0], rtol=0, atol=1e-9)
    small = candidate_attributions(subject_of(trained), users, candidates, steps=4, budget_mib=0.01)
    assert torch.allclose(small.integrated, together.integrated, rtol=0, atol=1e-9)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
