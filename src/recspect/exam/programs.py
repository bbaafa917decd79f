"""The worlds and architectures of the exam."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from recspect.diagnosis.batch import Batch, Categorical
from recspect.exam.case import Case
from recspect.models import ModelConfig
from recspect.schema import Field, Schema
from recspect.training.config import TrainingConfig
from recspect.worlds import World, split_by_time

SEGMENTS = np.array(["free", "paying", "trial"], dtype=object)
GENRES = np.array(["comedy", "drama", "history", "horror", "music", "news", "romance", "sport"], dtype=object)


@dataclass(frozen=True, kw_only=True)
class Program:
    """A world and what is trained on it.

    Args:
        name: `world/architecture`.
        world: Its settings; the seed is replaced by the case's.
        model: The architecture.
        batch_rows: Rows per step.
    """

    name: str
    world: World
    model: ModelConfig
    batch_rows: int = 256

    @property
    def group(self) -> str:
        """The world's name."""
        return self.name.split("/")[0]

    def case(self, seed: int) -> Case:
        """A healthy case: 76% of the rows to train, the next 4% to stop by, the last 20% held out; two epochs at most."""
        world = replace(self.world, seed=seed)
        rows = _with_groups(world.exposures())
        earlier, test = split_by_time(rows, share=0.8)
        train, validation = split_by_time(earlier, share=0.95)
        config = TrainingConfig(model=self.model, maximum_epochs=2, batch_rows=self.batch_rows, observe_every=5, histograms_every=0, seed=seed)
        return Case(train=train, validation=validation, test=test, schema=_schema(world), config=config, seed=seed)


def _with_groups(rows: Batch) -> Batch:
    """A field that describes users and one that describes items, which the truth does not depend on: groups to be fair to, and pairs that belong together."""
    return rows.with_columns({"segment": Categorical(rows.numbers("user").astype(np.int64) % len(SEGMENTS), SEGMENTS),
                              "genre": Categorical(rows.numbers("item").astype(np.int64) % len(GENRES), GENRES)})


def _schema(world: World) -> Schema:
    schema = world.schema
    return replace(schema, fields=(*schema.fields, Field(name="segment", side="user"), Field(name="genre", side="item")))


WORLDS = {
    "video": World(users=1500, items=300, rows=40_000, base_rate=0.3),
    "shop": World(users=800, items=200, rows=80_000, base_rate=0.05, signal=1.3, width=3),
    "feed": World(users=800, items=200, rows=30_000, base_rate=0.15, popularity=0.6, days=21.0),
}
"""Base rates of 5% to 30%, exposure more or less popular, tastes simpler or richer; each with enough rows per user and item that a model trained for two epochs is healthy."""

MODELS = {
    "deepfm": ModelConfig(name="deepfm", hidden=(64, 32)),
    "mlp": ModelConfig(name="mlp", hidden=(128, 64)),
    "silu": ModelConfig(name="mlp", hidden=(64, 64, 32), activation="silu", dropout=0.1, embedding_width=8),
}

PROGRAMS: dict[str, Program] = {
    f"{world}/{model}": Program(name=f"{world}/{model}", world=WORLDS[world], model=MODELS[model]) for world in WORLDS for model in MODELS}
"""Each world with each architecture."""

JUDGED = ("feed/silu", "shop/deepfm", "video/mlp")
"""What is sat by default: each world and each architecture once, none of the programs (video/deepfm, shop/mlp) on which the rules of causes were written."""
