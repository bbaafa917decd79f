"""The worlds and architectures of the exam: synthetic ones here, real tables in `real_tables`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from recspect.diagnosis.batch import Batch, Categorical
from recspect.exam.case import Case, Columns
from recspect.exam.real_tables import REAL_TABLES, RealTable
from recspect.models import ModelConfig
from recspect.schema import Field, Schema
from recspect.training.config import TrainingConfig
from recspect.worlds import World, split_by_time

SEGMENTS = np.array(["free", "paying", "trial"], dtype=object)
GENRES = np.array(["comedy", "drama", "history", "horror", "music", "news", "romance", "sport"], dtype=object)


class Program(Protocol):
    """A world, or a real table, and what is trained on it."""

    @property
    def name(self) -> str:
        """`world/architecture`."""

    @property
    def columns(self) -> Columns:
        """What faults can be planted in."""

    def case(self, seed: int) -> Case:
        """A healthy case.

        Raises:
            DataError: The table is not on this machine.
        """


@dataclass(frozen=True, kw_only=True)
class WorldProgram:
    """A synthetic world and what is trained on it.

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
    def columns(self) -> Columns:
        """What faults can be planted in."""
        return Columns(label="click", user="user", item="item", category="item", number="age", time="time", group="segment", member="trial", chance="chance")

    def case(self, seed: int) -> Case:
        """A healthy case: 76% of the rows to train, the next 4% to stop by, the last 20% held out; two epochs at most."""
        world = replace(self.world, seed=seed)
        rows = _with_groups(world.exposures(), world)
        earlier, test = split_by_time(rows, share=0.8)
        train, validation = split_by_time(earlier, share=0.95)
        return Case(train=train, validation=validation, test=test, schema=_schema(world), columns=self.columns, seed=seed,
                    config=_config(self.model, self.batch_rows, seed))


@dataclass(frozen=True, kw_only=True)
class RealProgram:
    """A real table and what is trained on it."""

    name: str
    table: RealTable
    model: ModelConfig
    batch_rows: int = 256

    @property
    def columns(self) -> Columns:
        """What faults can be planted in."""
        return self.table.columns

    def case(self, seed: int) -> Case:
        """A healthy case: another part of the table for each seed, cut as the synthetic worlds are (at random without a time)."""
        train, validation, test = self.table.parts(seed)
        return Case(train=train, validation=validation, test=test, schema=self.table.schema(), columns=self.columns, seed=seed,
                    config=replace(_config(self.model, self.batch_rows, seed), unknown_share=self.table.unknown_share))


def _config(model: ModelConfig, batch_rows: int, seed: int) -> TrainingConfig:
    return TrainingConfig(model=model, maximum_epochs=2, batch_rows=batch_rows, observe_every=5, histograms_every=0, seed=seed)


def _with_groups(rows: Batch, world: World) -> Batch:
    """What the truth does not depend on: a field that describes users, one that describes items, and with which probability each item was shown."""
    shares = 1 / np.arange(1, world.items + 1) ** world.popularity
    item = rows.numbers("item").astype(np.int64)
    return rows.with_columns({"segment": Categorical(rows.numbers("user").astype(np.int64) % len(SEGMENTS), SEGMENTS),
                              "genre": Categorical(item % len(GENRES), GENRES), "chance": (shares / shares.sum())[item]})


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

PROGRAMS: dict[str, WorldProgram] = {
    f"{world}/{model}": WorldProgram(name=f"{world}/{model}", world=WORLDS[world], model=MODELS[model]) for world in WORLDS for model in MODELS}
"""Each world with each architecture."""

REAL: dict[str, RealProgram] = {
    f"{table}/{model}": RealProgram(name=f"{table}/{model}", table=REAL_TABLES[table], model=MODELS[model]) for table in REAL_TABLES for model in MODELS}
"""Each real table with each architecture."""

JUDGED = ("feed/silu", "shop/deepfm", "video/mlp")
"""What is sat by default: each world and each architecture once, none of the programs (video/deepfm, shop/mlp) on which the rules of causes were written."""


def program_of(name: str) -> Program:
    """The program of that name, synthetic or real."""
    return (PROGRAMS | REAL)[name]


def parts_of(name: str) -> tuple[str, str]:
    """The world and the architecture of a program."""
    world, architecture = name.split("/")
    return world, architecture


__all__ = ["JUDGED", "MODELS", "PROGRAMS", "REAL", "WORLDS", "Program", "RealProgram", "WorldProgram", "parts_of", "program_of"]
