"""A small run for the tests of the sinks: trained on a synthetic world, and diagnosed."""

from recspect.training.config import TrainingConfig
from recspect.training.loop import train
from recspect.worlds import World


def small_table():
    world = World(rows=4000, seed=0)
    return world.exposures(), world.schema


def small_config(**changes):
    return TrainingConfig(**{"maximum_epochs": 2, "batch_rows": 256, "observe_every": 2, "histograms_every": 4, "seed": 1, **changes})


def trained_run(folder, *, sinks=(), **changes):
    table, schema = small_table()
    return train(table, schema, small_config(**changes), folder, command="recspect train table.parquet", sinks=sinks)
