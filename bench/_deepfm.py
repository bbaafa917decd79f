"""The DeepFM of benches `importance` and `permutation`, and how it is fitted."""

import torch
from torch import nn

FIELDS, WIDTH, HIDDEN = 26, 16, (256, 128, 64)
NAMES = [f"f{k}" for k in range(FIELDS)]


class DeepFM(nn.Module):
    """First-order weights, FM and an MLP with three hidden layers; gives the logit."""

    def __init__(self, ids):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(ids, WIDTH) for _ in range(FIELDS))
        self.first = nn.ModuleList(nn.Embedding(ids, 1) for _ in range(FIELDS))
        for table in (*self.tables, *self.first):
            table.weight.data.mul_(0.03)
        layers, width = [], FIELDS * WIDTH
        for n in HIDDEN:
            layers += [nn.Linear(width, n), nn.ReLU()]
            width = n
        self.mlp = nn.Sequential(*layers, nn.Linear(width, 1))

    def behind(self, v, first):
        pairs = (v.sum(1).square() - v.square().sum(1)).sum(1) / 2
        return self.mlp(v.flatten(1)).squeeze(1) + pairs + first.sum(1)

    def read(self, x):
        v = torch.stack([table(x[name]) for name, table in zip(NAMES, self.tables, strict=True)], 1)
        return v, torch.cat([table(x[name]) for name, table in zip(NAMES, self.first, strict=True)], 1)

    def forward(self, x):
        return self.behind(*self.read(x))


def fitted(model, draw, *, steps, learning_rate):
    """The model after so many steps on what `draw()` gives: ids by name, and labels."""
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for _ in range(steps):
        x, y = draw()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()
