"""The networks of bench `ig`: DeepFM, DCNv2 and DLRM on 26 fields, trained on labels that single values, pairs and thresholds decide.

PNN (inner products of eight fields, three narrower layers) and AutoInt (self-attention over fields) are not timed: no factor of an error bound was set on them.
"""

import itertools

import torch
from torch import nn

FIELDS, IDS, WIDTH, HIDDEN = 26, 2_000, 16, 256


class Network(nn.Module):
    """Tables read once each, so that Captum gives right answers too; `top` is everything behind the lookups, (B, F, D) to (B,)."""

    def __init__(self, kind, activation):
        super().__init__()
        self.kind = kind
        self.tables = nn.ModuleList(nn.Embedding(IDS + 1, WIDTH) for _ in range(FIELDS))
        for table in self.tables:
            # as such networks are usually begun; wide tables would drown the MLP in the products, narrow ones leave attention without a gradient
            table.weight.data.mul_(0.3 if kind == "autoint" else 0.03)
        width = FIELDS * WIDTH
        if kind == "dcnv2":
            self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
            self.last = nn.Linear(width, 1)
        if kind == "autoint":
            self.attention = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
            self.activation = activation()
        multiplied = {"dlrm": FIELDS, "pnn": 8}.get(kind, 0)
        sizes = [width + multiplied * (multiplied - 1) // 2, *{"pnn": (128, 128, 64), "autoint": (64,)}.get(kind, (HIDDEN, HIDDEN))]
        layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), activation())]
        self.mlp = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))
        i, j = torch.triu_indices(multiplied, multiplied, 1)
        self.register_buffer("pairs", i * multiplied + j)
        self.multiplied = multiplied

    def top(self, v):
        flat = v.flatten(1)
        if self.kind == "deepfm":
            return self.mlp(flat).squeeze(1) + (v.sum(1).square() - v.square().sum(1)).sum(1) / 2
        if self.kind == "dcnv2":
            x = flat
            for layer in self.cross:
                x = flat * layer(x) + x
            return self.mlp(flat).squeeze(1) + self.last(x).squeeze(1)
        if self.kind == "autoint":
            query, key, value, skip = (layer(v) for layer in self.attention)
            attended = torch.softmax(query @ key.transpose(1, 2) / WIDTH**0.5, -1) @ value
            return self.mlp(self.activation(attended + skip).flatten(1)).squeeze(1)
        some = v[:, :self.multiplied]
        dots = torch.bmm(some, some.transpose(1, 2)).flatten(1)[:, self.pairs]
        return self.mlp(torch.cat([flat, dots], 1)).squeeze(1)

    def forward(self, *ids):
        return self.top(torch.stack([table(i) for table, i in zip(self.tables, ids, strict=True)], 1))


def trained(kind, activation, steps=400):
    """A fresh network is nearly linear along the path, and one point would do; so it is trained, until the loss has fallen by a third."""
    torch.manual_seed(0)
    model = Network(kind, activation)
    taste = torch.randn(IDS, FIELDS)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(2 * steps if kind == "autoint" else steps):  # attention starts late
        ids = torch.randint(0, IDS, (1024, FIELDS))
        s = taste[ids, torch.arange(FIELDS)]
        logit = (s[:, :13].sum(1) / 2 + s[:, 0] * s[:, 1] + (s[:, 2] * s[:, 3]).abs() - 0.8 + torch.sin(2 * s[:, 4])
                 + 1.5 * (s[:, 5] > 0) * s[:, 6])
        loss = nn.functional.binary_cross_entropy_with_logits(model(*ids.T), torch.bernoulli(torch.sigmoid(logit)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    with torch.no_grad():
        for table in model.tables:
            table.weight[IDS] = 0  # captum's baselines are ids; this one is the zero vector
    assert sum(losses[-20:]) < 0.75 * sum(losses[:20]), (losses[0], losses[-1])
    return model.eval()


def truth(model, ids, points=1200):
    """Integrated gradients by a plain loop over midpoints in float64, shape (B, F)."""
    double = Network(model.kind, type(model.mlp[1])).double().eval()
    double.load_state_dict(model.state_dict())
    with torch.no_grad():
        v = torch.stack([table(i) for table, i in zip(double.tables, ids, strict=True)], 1)
    total = torch.zeros(v.shape[:2], dtype=torch.float64)
    for k in range(points):
        leaf = (v * ((k + 0.5) / points)).requires_grad_()
        gradient, = torch.autograd.grad(double.top(leaf).sum(), leaf)
        total += (gradient * v).sum(-1) / points
    return total
