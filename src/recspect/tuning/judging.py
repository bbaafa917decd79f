"""The winner of a search, judged on rows that no trial was chosen by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recspect.comparing.pairs import BUCKETS
from recspect.compressing.fitted import Fitted
from recspect.compressing.measuring import Judged
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.jackknife import estimate_of_mean
from recspect.errors import RunError
from recspect.examining.tables import labelled
from recspect.training.predict import raw_outputs
from recspect.training.rows import Tables
from recspect.training.run import Run
from recspect.tuning.tuning import Tuning


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial as the storage has it.

    Args:
        number: From 0, the default settings.
        state: `finished`, `pruned`, `failed`, or `running` (interrupted).
        values: By objective, of a finished trial; of a pruned one, its best value so far.
        settings: Values of the space.
        epochs: Best value after each epoch.
        front: Whether no other trial is better by one objective and no worse by any.
    """

    number: int
    state: str
    values: tuple[float, ...]
    settings: dict[str, Any]
    epochs: dict[int, float]
    front: bool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The winner on the test rows.

    Args:
        winner: Number of the trial: the best by how well it does on validation rows.
        gain: How much better than the default settings, above 0 for better: AUC, or squared error of a graded label.
        loss: Mean loss per row of the default settings less that of the winner: log loss, or squared error.
        quality: AUC of the winner (or its root mean squared error), and of the default settings.
        on_validation: The same of validation rows, by which it was chosen.
        times: How many winners of this search have been judged on these rows, this one included.
    """

    winner: int
    gain: Estimate
    loss: Estimate
    quality: tuple[float, float]
    on_validation: tuple[float, float]
    times: int


def trials_of(tuning: Tuning) -> list[Trial]:
    """All trials, in their order."""
    with tuning.study() as study:
        states = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
        found = [Trial(number=one.number, state=states.get(one.state.name, "running"), values=_values(one), settings=dict(one.params), epochs={int(step): float(value) for step, value in one.intermediate_values.items()},
                       front=False) for one in study.get_trials(deepcopy=False) if one.state.name != "WAITING"]
    signs = np.array([one.sign for one in tuning.objectives])
    finished = [one for one in found if one.state == "finished"]
    points = np.array([one.values for one in finished]).reshape(len(finished), len(signs)) * signs
    on_front = {one.number for one, point in zip(finished, points, strict=True) if not ((points >= point).all(axis=1) & (points > point).any(axis=1)).any()}
    return [Trial(**{**vars(one), "front": one.number in on_front}) for one in found]


def _values(frozen: Any) -> tuple[float, ...]:
    if frozen.state.name == "COMPLETE":
        return tuple(float(value) for value in frozen.values)
    if frozen.state.name == "PRUNED" and frozen.intermediate_values:
        return (float(frozen.intermediate_values[max(frozen.intermediate_values)]),)
    return ()


def winner_of(tuning: Tuning, trials: Sequence[Trial]) -> Trial:
    """The finished trial that does best on validation rows, the earliest of equals.

    Raises:
        RunError: None has finished.
    """
    finished = [one for one in trials if one.state == "finished"]
    if not finished:
        raise RunError(f"no trial of {tuning.folder} has finished", hint=f"recspect tune --resume {tuning.folder} with a larger budget")
    return max(finished, key=lambda one: (tuning.objectives[0].sign * one.values[0], -one.number))


def judge(tuning: Tuning, trials: Sequence[Trial], tables: Tables) -> tuple[Tuning, Verdict | None]:
    """Hold the winner against the default settings, on test rows, once.

    Test rows choose nothing. Where a search goes on after its winner was judged and another trial wins, these rows are asked again: that is counted, and the intervals are widened for
    as many winners (Bonferroni). Rows of one user stay together.

    Returns:
        The search, with the judgement noted; and the verdict, None where the default settings themselves did not finish, or win.
    """
    best = winner_of(tuning, trials)
    first = next((one for one in trials if one.number == 0 and one.state == "finished"), None)
    if first is None or best.number == 0:
        return tuning, None
    asked = list(dict.fromkeys([*tuning.note["judgements"], best.number]))
    level = 1 - 0.05 / len(asked)
    fitted = {one.number: Fitted.of_run(Run.open(tuning.run_folder(one.number))) for one in (first, best)}
    schema, binary = tuning.schema, tuning.schema.label.kind == "binary"
    rows = tables.test
    outputs = {number: raw_outputs(each.model, each.transform.transform(rows)) for number, each in fitted.items()}
    standard = labelled(rows, schema)
    label, bucket = standard.numbers("@label"), standard.buckets("@cluster", BUCKETS)
    losses = {number: np.logaddexp(0, z) - label * z if binary else (z - label) ** 2 for number, z in outputs.items()}
    loss = estimate_of_mean(losses[0] - losses[best.number], bucket, unit="nats of log loss" if binary else "squared error", level=level)
    if binary:
        judged = Judged(rows, schema, outputs[0])
        gain = judged.difference(outputs[best.number], level=level)
        quality = (judged.auc + gain.value, judged.auc)
    else:
        gain = loss
        quality = (float(losses[best.number].mean()) ** 0.5, float(losses[0].mean()) ** 0.5)
    validation = tuple(_validation(tuning, one.number, "validation_auc" if binary else "validation_loss") for one in (best, first))
    return tuning.updated(judgements=asked), Verdict(winner=best.number, gain=gain, loss=loss, quality=quality, on_validation=(validation[0], validation[1]), times=len(asked))


def _validation(tuning: Tuning, number: int, figure: str) -> float:
    run = Run.open(tuning.run_folder(number))
    value = next(epoch for epoch in run.epochs if epoch["epoch"] == run.best_epoch)[figure]
    return float(value) if figure == "validation_auc" else float(value) ** 0.5


__all__ = ["Trial", "Verdict", "judge", "trials_of", "winner_of"]
