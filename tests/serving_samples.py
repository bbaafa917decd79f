"""A small recommender for tests of the server, trained once per test process."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from recspect.models import ModelConfig
from recspect.recommending.pipeline.building import build_recommender
from recspect.recommending.pipeline.recommender import Recommender
from recspect.training.config import TrainingConfig
from recspect.training.loop import train
from recspect.worlds.world import World

WORLD = World(users=60, items=40, rows=4000, seed=3)


@cache
def small_recommender(seed: int = 0) -> Recommender:
    """Two towers, neighbours, popular and fresh items, ranked by a DeepFM of one epoch."""
    rows = WORLD.exposures()
    config = TrainingConfig(model=ModelConfig(embedding_width=4, hidden=(8,)), maximum_epochs=1, seed=seed, observe_every=0, histograms_every=0)
    run = train(rows, WORLD.schema, config, Path(mkdtemp(prefix="recspect-serving-")) / "run", on_finding=lambda _: None)
    return build_recommender(rows, run=run)


def save_two(place: Path) -> Path:
    """Recommenders of other weights in the folders `one` and `two`; gives the place."""
    small_recommender().save(place / "one")  # as the tests ask for it: the cache tells small_recommender(0) from it
    small_recommender(1).save(place / "two")
    return place
