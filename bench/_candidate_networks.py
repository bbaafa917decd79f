"""Models whose score is a dot product: a two-tower with MLPs, and a causal SASRec of 40 lines; both trained, so that they are not nearly linear.

For bench `candidates`, and in their small sizes for the tests.
"""

import numpy as np
import torch
from torch import nn

from recspect.diagnosis.batch import Batch, Ragged

USERS, ITEMS, AGES, LENGTH = 200, 300, 7, 12


class TwoTower(nn.Module):
    """User, age band, activity and history on one side, item and category on the other."""

    def __init__(self, activation=nn.SiLU, width=16, out=8, items=ITEMS, hidden=32):
        super().__init__()
        self.user, self.age = nn.Embedding(USERS, width), nn.Embedding(AGES, width)
        self.item, self.category = nn.Embedding(items, width, padding_idx=0), nn.Embedding(20, width)
        self.left = nn.Sequential(nn.Linear(3 * width + 1, hidden), activation(), nn.Linear(hidden, out))
        self.right = nn.Sequential(nn.Linear(2 * width, hidden), activation(), nn.Linear(hidden, out))

    def users(self, x):
        return self.behind(self.user(x["user"]), self.age(x["age"]), self.item(x["history"]), x["activity"], (x["history"] > 0).unsqueeze(-1))

    def behind(self, user, age, history, activity, seen):
        pooled = (history * seen).sum(1) / seen.sum(1).clamp(min=1)
        return self.left(torch.cat([user, age, pooled, activity.to(pooled)[:, None]], 1))

    def items(self, x):
        return self.right(torch.cat([self.item(x["item"]), self.category(x["category"])], 1))

    def forward(self, x):
        return torch.sigmoid((self.users(x) * self.items(x)).sum(-1))


class SASRec(nn.Module):
    """Kang and McAuley 2018, self-attentive sequential recommendation: causal attention over the history, the last state times the item's embedding.

    Histories are padded with 0 on the right; the last entry that is none gives the state.
    """

    def __init__(self, items=ITEMS, width=16, length=LENGTH, layers=2, heads=2):
        super().__init__()
        self.item, self.place, self.heads = nn.Embedding(items, width, padding_idx=0), nn.Embedding(length, width), heads
        nn.init.normal_(self.item.weight, std=width**-0.5)
        self.before = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.feed = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(layers))
        self.last = nn.LayerNorm(width)

    def states(self, history):
        return self.behind(self.item(history), (history > 0).unsqueeze(-1))

    def behind(self, vectors, seen):
        rows, length = vectors.shape[:2]
        x = (vectors * self.item.embedding_dim**0.5 + self.place(torch.arange(length, device=vectors.device))) * seen
        for k, (qkv, out, feed) in enumerate(zip(self.qkv, self.out, self.feed, strict=True)):
            q, key, value = (part.reshape(rows, length, self.heads, -1).transpose(1, 2) for part in qkv(self.before[2 * k](x)).chunk(3, -1))
            found = nn.functional.scaled_dot_product_attention(q, key, value, is_causal=True)
            x = x + out(found.transpose(1, 2).flatten(2))
            x = (x + feed(self.before[2 * k + 1](x))) * seen
        return self.last(x)

    def users(self, x):
        last = (x["history"] > 0).sum(1).clamp(min=1) - 1
        return self.states(x["history"])[torch.arange(len(last)), last]

    def items(self, x):
        return self.item(x["item"])

    def forward(self, x):
        return (self.users(x) * self.items(x)).sum(1)


def users_batch(rows, *, seed=0, items=ITEMS, longest=LENGTH):
    r = np.random.default_rng(seed)
    lengths = r.integers(2, longest, rows)
    lengths[0] = longest
    history = Ragged(r.integers(1, items, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)]))
    return Batch({"user": r.integers(0, USERS, rows), "age": r.integers(0, AGES, rows), "activity": r.random(rows), "history": history})


def candidates_batch(rows, *, seed=1, items=ITEMS):
    item = np.random.default_rng(seed).permutation(np.arange(1, items))[:rows]
    return Batch({"item": item, "category": item % 20})


def train_two_tower(model, steps=150, length=LENGTH):
    """On clicks that the parity of ids, the age and the likeness of history and item decide."""
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    items = model.item.num_embeddings
    losses = []
    for _ in range(steps):
        x = {"user": torch.randint(0, USERS, (512,)), "age": torch.randint(0, AGES, (512,)), "activity": torch.rand(512),
             "history": torch.randint(1, items, (512, length)), "item": torch.randint(1, items, (512,))}
        x["category"] = x["item"] % 20
        alike = (x["history"] % 5 == (x["item"] % 5)[:, None]).double().mean(1) * 10 - 2
        y = (torch.where(x["age"] > 3, 1.0, -1.0) * torch.where(x["category"] > 9, 1.0, -1.0) + alike > 0).float()
        losses.append(step(optimiser, nn.functional.binary_cross_entropy(model(x), y)))
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    return model.eval()


def train_sasrec(model, steps=150):
    """On sequences in which the next item is the last plus one, or with chance 0.3 the one two before plus seven."""
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    items, length = model.item.num_embeddings, model.place.num_embeddings
    losses = []
    for _ in range(steps):
        ids = torch.randint(1, items, (64, length + 1))
        for k in range(2, length + 1):
            following = torch.where(torch.rand(64) < 0.3, ids[:, k - 2] + 7, ids[:, k - 1] + 1)
            ids[:, k] = (following - 1) % (items - 1) + 1
        logits = model.states(ids[:, :-1]) @ model.item.weight.T
        losses.append(step(optimiser, nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())))
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    return model.eval()


def step(optimiser, loss):
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()
