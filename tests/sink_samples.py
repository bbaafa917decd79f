"""A small run for the tests of the sinks: trained on a synthetic world, and diagnosed."""

from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
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


def bad_findings():
    curve = Curve(title="Did the training loss jump?", x_title="step", y_title="loss", lines=(Line(name="training loss", x=(1.0, 2.0, 3.0), y=(0.7, 0.6, 9.0)),))
    return (
        Finding(code="training.loss_anomaly", verdict=Verdict.FAIL, claim="The training loss jumped at step 3 <to> 9.0.", place=Place(kind="step", name="3"),
                estimate=Estimate(value=120.0, unit="robust deviations", n=24, of="steps"), remedies=(Remedy(code="clip_gradients", text="Clip gradients."),),
                evidence=(curve,)),
        Finding(code="data.drift", verdict=Verdict.WARN, claim="The field hour changed.", place=Place(kind="field", name="hour")),
    )
