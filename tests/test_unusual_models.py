"""Models that are unusual on purpose: each is examined without an adapter, and against a truth that is known in advance."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recspect.diagnosis.batch import Batch, Ragged
from recspect.diagnosis.probes.attribution import integrated_gradients, mean_baseline
from recspect.diagnosis.probes.internals import InternalsProbe
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError

ROWS, IDS, WIDTH = 96, 40, 8


def batch(seed=0):
    r = np.random.default_rng(seed)
    lengths = r.integers(1, 6, ROWS)
    history = Ragged(r.integers(1, IDS, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)]))
    return Batch({"user": r.integers(1, IDS, ROWS), "item": r.integers(1, IDS, ROWS), "history": history, "@label": r.integers(0, 2, ROWS)})


def complete(subject, rows, *, steps=64, share=0.02):
    """Sums of contributions are the difference of logits, up to `share` of what is explained; the fields found."""
    found = integrated_gradients(subject, rows, baseline=mean_baseline(subject, rows), steps=steps)
    explained = float((found.score - found.baseline).abs().mean())
    assert explained > 1e-4
    assert float(found.error.mean()) < share * explained
    return found


def network(*sizes):
    layers = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class Shared(nn.Module):
    """One table for the item and for the user's history of items."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.items, self.users = nn.Embedding(IDS, WIDTH, padding_idx=0), nn.Embedding(IDS, WIDTH)
        self.top = network(3 * WIDTH, 16, 1)

    def forward(self, x):
        seen = (x["history"] > 0).float().unsqueeze(-1)
        history = (self.items(x["history"]) * seen).sum(1) / seen.sum(1).clamp(min=1)
        return self.top(torch.cat([self.users(x["user"]), self.items(x["item"]), history], 1)).squeeze(1)


def test_a_shared_table_counts_each_occurrence_for_its_own_field():
    subject = TorchSubject(Shared(), fields=["user", "item", "history"])
    found = complete(subject, batch())
    assert set(found.reliance) == {"user", "item", "history"}
    # an id that is both the item and in the history: moving the history's copy away must not touch the item's share
    rows = batch()
    swapped = Batch({**{name: rows[name] for name in rows}, "history": Ragged(np.ones(ROWS, dtype=np.int64), np.arange(ROWS + 1))})
    straight = TorchSubject(Linear(), fields=["user", "item", "history"])
    first, second = complete(straight, rows, steps=2), complete(straight, swapped, steps=2)
    assert not torch.allclose(first.reliance["history"], second.reliance["history"])
    assert torch.allclose(first.reliance["item"] - first.reliance["item"].mean(), second.reliance["item"] - second.reliance["item"].mean(), atol=1e-6)


class Linear(Shared):
    """The same, without an interaction, so that the fields cannot touch each other's shares."""

    def __init__(self):
        super().__init__()
        self.top = nn.Linear(3 * WIDTH, 1)


class Fused(nn.Module):
    """One table with offsets for all fields, read by indexing the weight rather than through nn.Embedding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.weight = nn.Parameter(torch.randn(2 * IDS, WIDTH))
        self.register_buffer("offsets", torch.tensor([0, IDS]))
        self.top = network(2 * WIDTH, 16, 1)

    def forward(self, x):
        ids = torch.stack([x["user"], x["item"]], 1) + self.offsets
        return torch.sigmoid(self.top(self.weight[ids].flatten(1))).squeeze(1)


def test_a_fused_table_that_is_indexed_directly():
    subject = TorchSubject(Fused(), fields=["user", "item"])
    found = complete(subject, batch())
    assert set(found.reliance) == {"user", "item"}
    assert subject.sites().has_logit


class Bags(nn.Module):
    """EmbeddingBag over flat ids and offsets, with a weight per entry."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.users = nn.Embedding(IDS, WIDTH)
        self.bag = nn.EmbeddingBag(IDS, WIDTH, mode="sum", padding_idx=0)
        self.top = network(2 * WIDTH, 16, 1)

    def forward(self, x):
        ids = x["history"]
        weights = (ids > 0) / (1.0 + torch.arange(ids.shape[1]))
        offsets = torch.arange(0, ids.numel(), ids.shape[1])
        pooled = self.bag(ids.reshape(-1), offsets, per_sample_weights=weights.reshape(-1))
        return self.top(torch.cat([self.users(x["user"]), pooled], 1)).squeeze(1)


def test_bags_with_weights_per_entry():
    found = complete(TorchSubject(Bags(), fields=["user", "history"]), batch())
    assert set(found.reliance) == {"user", "history"}


class Hashed(nn.Module):
    """Compositional embedding: quotient and remainder tables, multiplied."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.quotient, self.remainder = nn.Embedding(8, WIDTH), nn.Embedding(8, WIDTH)
        self.users = nn.Embedding(IDS, WIDTH)
        self.top = network(2 * WIDTH, 16, 1)

    def forward(self, x):
        item = self.quotient(x["item"] // 8) * self.remainder(x["item"] % 8)
        return self.top(torch.cat([self.users(x["user"]), item], 1)).squeeze(1)


def test_hashed_ids_cannot_be_told_and_are_complete_once_named():
    with pytest.raises(SubjectError, match="cannot tell which field") as error:
        TorchSubject(Hashed(), fields=["user", "item"]).sites(batch())
    assert "sites=" in error.value.hint
    named = TorchSubject(Hashed(), fields=["user", "item"], sites={"quotient.weight": "item", "remainder.weight": "item"})
    found = complete(named, batch())
    assert set(found.reliance) == {"user", "item"}


class Tied(nn.Module):
    """A next-item model: causal attention over the history with a padding mask, scores by the item table itself (tied), one item asked for."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.items = nn.Embedding(IDS, WIDTH, padding_idx=0)
        self.places = nn.Embedding(8, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.top = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def user(self, history):
        mask = history == 0
        x = self.items(history) + self.places(torch.arange(history.shape[1]).expand_as(history))
        x, _ = self.attention(x, x, x, key_padding_mask=mask, need_weights=False)
        last = (~mask).sum(1).clamp(min=1) - 1
        return self.top(x[torch.arange(len(x)), last])

    def forward(self, x):
        every = F.log_softmax(self.user(x["history"]) @ self.items.weight.T, 1)
        return every.gather(1, x["item"][:, None]).squeeze(1)


def test_attention_with_a_padding_mask_and_a_tied_table_with_softmax():
    rows = batch()
    subject = TorchSubject(Tied(), fields=["history", "item"])
    sites = subject.sites(rows)
    assert sites.direct_reads == ("items.weight",)  # the softmax reads the table without a lookup: said, not hidden
    found = complete(subject, rows)
    assert set(found.reliance) == {"history"}
    padding = np.arange(found.entries["history"].shape[1]) >= rows["history"].lengths[:, None]
    assert padding.any()
    assert found.entries["history"].numpy()[padding].max() == 0
    assert found.entries["history"].numpy()[padding].min() == 0


class Experts(nn.Module):
    """Two tasks over gated experts (MMoE), with BatchNorm and Dropout; returns one column per task."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.users, self.items = nn.Embedding(IDS, WIDTH, sparse=True), nn.Embedding(IDS, WIDTH, sparse=True)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(2 * WIDTH, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5)) for _ in range(3))
        self.gates = nn.ModuleList(nn.Linear(2 * WIDTH, 3) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(16, 1) for _ in range(2))

    def forward(self, x):
        v = torch.cat([self.users(x["user"]), self.items(x["item"])], 1)
        outs = torch.stack([expert(v) for expert in self.experts], 1)
        scores = [head((outs * gate(v).softmax(1).unsqueeze(-1)).sum(1)) for gate, head in zip(self.gates, self.heads, strict=True)]
        return torch.sigmoid(torch.cat(scores, 1))


def test_a_multi_task_model_is_refused_until_its_task_is_named():
    model, rows = Experts(), batch()
    with pytest.raises(SubjectError, match="one score per row") as error:
        TorchSubject(model, fields=["user", "item"]).sites(rows)
    assert "[:, 0]" in error.value.hint
    for task in (0, 1):
        subject = TorchSubject(model, fields=["user", "item"], forward=lambda m, x, task=task: m(x)[:, task])
        found = complete(subject, rows, steps=256)
        assert set(found.reliance) == {"user", "item"}


def test_batch_norm_and_dropout_rest_while_examined_and_go_on_afterwards():
    model, rows = Experts().train(), batch()
    subject = TorchSubject(model, fields=["user", "item"], forward=lambda m, x: m(x)[:, 0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    first, second = complete(subject, rows, steps=256), complete(subject, rows, steps=256)
    assert torch.equal(first.reliance["user"], second.reliance["user"])  # dropout is off
    InternalsProbe(subject).observe(rows)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())  # running statistics too
    assert torch.equal(random, torch.get_rng_state())
    assert model.training
    assert all(module.training for module in model.modules())


class Half(nn.Module):
    """bfloat16 throughout."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.users, self.items = nn.Embedding(IDS, WIDTH), nn.Embedding(IDS, WIDTH)
        self.top = network(2 * WIDTH, 32, 1)
        self.bfloat16()

    def forward(self, x):
        return self.top(torch.cat([self.users(x["user"]), self.items(x["item"])], 1)).squeeze(1)


def test_bfloat16_is_complete_within_its_precision():
    found = complete(TorchSubject(Half(), fields=["user", "item"]), batch(), share=0.05)
    exact = TorchSubject(Half().float(), fields=["user", "item"])
    truth = complete(exact, batch())
    for name in ("user", "item"):
        assert torch.corrcoef(torch.stack([found.reliance[name].float(), truth.reliance[name]]))[0, 1] > 0.995
