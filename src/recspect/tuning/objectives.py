"""What a search is for: how well a model does on validation rows, and what it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recspect.compressing.fitted import Fitted
from recspect.compressing.measuring import Cost, cost_of
from recspect.diagnosis.batch import Batch
from recspect.errors import UsageError, listing
from recspect.schema import Schema
from recspect.training.run import Run


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One thing that is wanted.

    Args:
        name: As on the command line.
        direction: Whether more or less of it is better.
        unit: What it counts.
        figure: Key of an epoch's figures that it is, or empty.
        cost: From what a model takes, or None.
    """

    name: str
    direction: Literal["maximize", "minimize"]
    unit: str
    figure: str = ""
    cost: Callable[[Cost], float] | None = None

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.direction == "maximize" else -1


OBJECTIVES: dict[str, Objective] = {one.name: one for one in (
    Objective(name="auc", direction="maximize", unit="AUC on validation rows", figure="validation_auc"),
    Objective(name="loss", direction="minimize", unit="loss on validation rows", figure="validation_loss"),
    Objective(name="bytes", direction="minimize", unit="bytes held by the model", cost=lambda cost: float(cost.bytes)),
    Objective(name="operations", direction="minimize", unit="operations per row", cost=lambda cost: cost.operations),
    Objective(name="milliseconds", direction="minimize", unit="ms to encode and score 1,000 rows", cost=lambda cost: cost.milliseconds),
)}
"""Name to objective."""


def chosen(names: Sequence[str], schema: Schema) -> tuple[Objective, ...]:
    """The objectives of these names, how well it does first; by default that alone (AUC of a binary label, loss of a graded one).

    Raises:
        UsageError: An unknown name, one twice, none or two about how well it does, or AUC of a graded label.
    """
    binary = schema.label.kind == "binary"
    names = list(names) or ["auc" if binary else "loss"]
    unknown = sorted(set(names) - set(OBJECTIVES))
    if unknown or len(set(names)) < len(names):
        raise UsageError(f"objectives are {listing(names)}, expected each once, of {listing(OBJECTIVES)}", hint="--objective auc --objective bytes")
    found = sorted((OBJECTIVES[name] for name in names), key=lambda one: not one.figure)
    if sum(bool(one.figure) for one in found) != 1:
        raise UsageError(f"objectives are {listing(names)}, expected one of auc and loss among them", hint="--objective auc --objective bytes")
    if not binary and found[0].name == "auc":
        raise UsageError(f"AUC needs a binary label, {schema.label.name!r} is graded", hint="--objective loss")
    return tuple(found)


def measured(objectives: Sequence[Objective], run: Run, rows: Batch) -> list[float]:
    """What a finished run is worth by each objective; costs are of its best model, on some rows."""
    best = next(epoch for epoch in run.epochs if epoch["epoch"] == run.best_epoch)
    cost: Any = None
    values = []
    for one in objectives:
        if one.cost is None:
            values.append(float(best[one.figure]))
            continue
        cost = cost or cost_of(Fitted.of_run(run), rows)
        values.append(one.cost(cost))
    return values
