"""The truth of synthetic worlds as models, and their true explanations in closed form.

Along the straight line from a mean, a bilinear part l . r is worth (l - l') . (r + r') / 2 to l and (r - r') . (l + l') / 2 to r; what is added field by field is worth its difference from the mean.
"""

import numpy as np
import torch
from torch import nn

from recspect.diagnosis.subject import TorchSubject
from recspect.worlds import FieldWorld, World


class Truth(nn.Module):
    """logit = b + sum of what fields add + dot product of two of them."""

    def __init__(self, added, bilinear, *, intercept=0.0):
        super().__init__()
        self.intercept = intercept
        self.pair = tuple(bilinear)
        self.added = nn.ModuleDict({name: nn.Embedding.from_pretrained(torch.tensor(effect[:, None]).float()) for name, effect in added.items()})
        self.vectors = nn.ModuleDict({name: nn.Embedding.from_pretrained(torch.tensor(vectors).float()) for name, vectors in bilinear.items()})

    def forward(self, x):
        logit = self.intercept + sum(table(x[name])[:, 0] for name, table in self.added.items())
        if self.pair:
            left, right = (self.vectors[name](x[name]) for name in self.pair)
            logit = logit + (left * right).sum(1)
        return torch.sigmoid(logit)


def model_of(world):
    """The truth of a world as a module, and the fields that it reads."""
    if isinstance(world, FieldWorld):
        effects = dict(world.effects)
        pair = effects.pop("left, right", None)
        rest = {name: np.zeros(world.categories) for name in ("copy",) if world.duplicate}
        bilinear = {} if pair is None else {"left": pair, "right": np.eye(world.categories)}
        return Truth({**effects, **rest}, bilinear, intercept=float(np.log(world.base_rate / (1 - world.base_rate))))
    taste, quality, user_bias, item_bias = world.latent
    scale = world.signal / np.sqrt(3)
    return Truth({"user": scale * user_bias, "item": scale * item_bias}, {"user": scale * taste / np.sqrt(world.width), "item": quality})


def subject_of(world):
    """The truth of a world, ready to be examined."""
    model = model_of(world)
    return TorchSubject(model, fields=list(dict.fromkeys([*model.added, *model.pair])))


def true_explainer(world, pool):
    """(subject, rows) to the contributions of the world's truth from the mean of a pool of rows, whatever model is asked about."""
    model = model_of(world)

    def explain(subject, rows):
        fields = subject.sites(rows).fields
        out = np.zeros((rows.rows, len(fields)))

        def looked_up(table, name, batch):
            return table.weight.double().numpy()[np.asarray(batch[name])]

        for name, table in model.added.items():
            out[:, fields.index(name)] += (looked_up(table, name, rows) - looked_up(table, name, pool).mean(0))[:, 0]
        for name, other in (model.pair, model.pair[::-1]) if model.pair else ():
            mine, theirs = (looked_up(model.vectors[one], one, rows) for one in (name, other))
            mean, their_mean = (looked_up(model.vectors[one], one, pool).mean(0) for one in (name, other))
            out[:, fields.index(name)] += ((mine - mean) * (theirs + their_mean)).sum(1) / 2
        return out

    return explain


WORLDS = {
    "fields": FieldWorld(rows=4000), "fields without pairs": FieldWorld(rows=4000, pair=0.0, seed=1), "few strong fields": FieldWorld(rows=4000, strengths=(1.5, 0.1), noise=0, seed=2),
    "taste": World(rows=4000), "taste of few users": World(rows=4000, users=60, items=40, seed=1), "strong signal": World(rows=4000, signal=3.0, base_rate=0.02, seed=2),
}
