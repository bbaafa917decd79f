"""The search: one training after another, each suggested by what the earlier ones gave."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recspect.errors import RunError, UsageError
from recspect.training.loop import Progress, resume, train
from recspect.training.rows import Tables
from recspect.training.run import Run
from recspect.tuning.objectives import measured
from recspect.tuning.settings import suggested, values_of, with_values
from recspect.tuning.tuning import Tuning, require_optuna

STARTUP = 10
"""Trials drawn at random before the model of good and bad settings decides."""


class OutOfTime(Exception):  # noqa: N818 - no error: the budget is spent
    """The minutes are spent in the midst of a trial, which a later sitting goes on with."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a search may take.

    Args:
        trials: Finished trials in all, those of earlier sittings included; one that is pruned or fails is finished.
        minutes: Of this sitting; None for as long as it takes.
    """

    trials: int = 30
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise UsageError(f"the budget is {self.trials} trials, expected 1 or more")
        if self.minutes is not None and not self.minutes > 0:
            raise UsageError(f"the budget is {self.minutes} minutes, expected more than 0, or none")


def search(tuning: Tuning, data: Any, tables: Tables, budget: Budget, *, say: Callable[[str], None] = lambda _: None, progress: Callable[[Progress], None] | None = None) -> Tuning:
    """Run trials until the budget is spent.

    The first trial has the default settings. A trial that was interrupted goes on from the end of its last finished epoch, with the settings that it had; so a search that was stopped,
    whenever and how often it be, makes the trials that it would have made. With one objective Hyperband ends trials early that do badly after their first epochs; Optuna does not do so
    with several.

    Args:
        tuning: The search.
        data: The table, as `train` takes it.
        tables: The same, cut; costs are measured on its validation rows.
        budget: When to stop.
        say: Told what came of each trial.
        progress: Called after every step of a training.

    Returns:
        The search, with the time that it took.
    """
    optuna = require_optuna()
    done_states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL)
    started, spent = time.monotonic(), float(tuning.note["seconds"])
    until = None if budget.minutes is None else started + 60 * budget.minutes
    with tuning.study() as study:
        if not study.trials:
            study.enqueue_trial(values_of(tuning.base, tuning.space))
        try:
            while (done := len(study.get_trials(deepcopy=False, states=done_states))) < budget.trials:
                if until is not None and time.monotonic() >= until:
                    say(f"{budget.minutes:g} minutes are spent after {done} trials")
                    break
                study.sampler = optuna.samplers.TPESampler(seed=_seed(tuning.base.seed, done), n_startup_trials=STARTUP)
                trial = _next(optuna, study)
                try:
                    say(_told(tuning, trial.number, *_one(optuna, study, trial, tuning, data, tables, until, progress)))
                except OutOfTime:
                    say(f"{budget.minutes:g} minutes are spent in trial {trial.number}, which --resume goes on with")
                    break
        finally:
            tuning = tuning.updated(seconds=round(spent + time.monotonic() - started, 1))
    return tuning


def _seed(seed: int, done: int) -> int:
    """Of the sampler for the next trial: the same for the same number of finished trials, so that a stopped search goes on as if it had not been."""
    return int(np.random.SeedSequence([seed, done]).generate_state(1)[0])


def _next(optuna: Any, study: Any) -> Any:
    """A trial that was interrupted, or a new one."""
    left = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    return optuna.trial.Trial(study, left[0]._trial_id) if left else study.ask()  # noqa: SLF001 - the only name of a trial in the storage


def _one(optuna: Any, study: Any, trial: Any, tuning: Tuning, data: Any, tables: Tables, until: float | None, progress: Callable[[Progress], None] | None) -> tuple[str, Any]:
    """Train one trial to its end, and tell the study; gives its state in a word, and its values or why it has none."""
    objectives = tuning.objectives
    config = with_values(tuning.base, suggested(trial, tuning.space))
    reports = _Reports(study, trial, objectives[0].figure, objectives[0].sign) if len(objectives) == 1 else None

    def step(at: Progress) -> None:
        if reports is not None and at.metrics and at.step == 1:
            reports.tell(int(at.metrics["epoch"]), at.metrics.get(reports.figure))
            if trial.should_prune():
                raise optuna.TrialPruned
        if progress is not None:
            progress(at)
        if until is not None and time.monotonic() >= until:
            raise OutOfTime

    folder = tuning.run_folder(trial.number)
    try:
        if (folder / "run.json").is_file():
            before = Run.open(folder)
            for epoch in before.epochs[:-1] if reports is not None else ():
                reports.tell(int(epoch["epoch"]), epoch.get(reports.figure))  # type: ignore[union-attr]
            run = resume(folder, data, progress=step, on_finding=lambda _: None)
        else:
            run = train(data, tuning.schema, config, folder, reference=tuning.note["data"], progress=step, on_finding=lambda _: None)
        if reports is not None and run.epochs:
            reports.tell(int(run.epochs[-1]["epoch"]), run.epochs[-1].get(reports.figure))
        values = measured(objectives, run, tables.validation)
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return "pruned", reports.best if reports is not None else None
    except RunError as error:
        if not (folder / "run.json").is_file() or Run.open(folder).status != "interrupted":
            raise  # the folder itself is damaged; a diverged training has written why it ended
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return "failed", error.message
    study.tell(trial, values)
    return "finished", values


class _Reports:
    """The best value after each epoch, told to the study once."""

    def __init__(self, study: Any, trial: Any, figure: str, sign: int) -> None:
        self.trial, self.figure, self.sign = trial, figure, sign
        self.known = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        self.best: float | None = None

    def tell(self, epoch: int, value: float | None) -> None:
        if value is None:
            return
        self.best = value if self.best is None else self.sign * max(self.sign * self.best, self.sign * value)
        if epoch not in self.known:
            self.known.add(epoch)
            self.trial.report(self.best, epoch)


def _told(tuning: Tuning, number: int, state: str, values: Any) -> str:
    if state == "failed":
        return f"trial {number}: failed: {values}"
    if state == "pruned":
        return f"trial {number}: ended early" + ("" if values is None else f", {tuning.objectives[0].name} {values:.4f} so far")
    return f"trial {number}: " + ", ".join(f"{one.name} {value:,.4f}" if abs(value) < 100 else f"{one.name} {value:,.0f}" for one, value in zip(tuning.objectives, values, strict=True))


__all__ = ["Budget", "search"]
