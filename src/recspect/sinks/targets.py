"""Where to send, as text: "tensorboard:DIR", "wandb:DIR", "mlflow:sqlite:///file.db", "visdom:http://127.0.0.1:8097"."""

from __future__ import annotations

from recspect.errors import UsageError
from recspect.sinks.sink import Sink

EXAMPLES = {
    "tensorboard": "tensorboard:logs",
    "wandb": "wandb:wandb-runs",
    "mlflow": "mlflow:sqlite:///mlflow.db",
    "visdom": "visdom:http://127.0.0.1:8097",
}


def sink_for(target: str) -> Sink:
    """The sink that a target names, not opened yet.

    Raises:
        UsageError: No such kind of sink, or nothing behind the colon.
        MissingExtraError: Its library is not installed.
    """
    kind, _, place = target.partition(":")
    if kind not in EXAMPLES or not place:
        raise UsageError(f"--to {target!r}: expected one of {', '.join(EXAMPLES)}, a colon and where",
                         hint=f"--to {EXAMPLES.get(kind, EXAMPLES['tensorboard'])}")
    if kind == "tensorboard":
        from recspect.sinks.tensorboard import TensorBoard

        return TensorBoard(place)
    if kind == "wandb":
        from recspect.sinks.wandb import WeightsAndBiases

        return WeightsAndBiases(place)
    if kind == "mlflow":
        from recspect.sinks.mlflow import MLflow

        return MLflow(place)
    from recspect.sinks.visdom import Visdom

    return Visdom(place)
