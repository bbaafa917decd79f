"""From a run to a better one: diagnose, propose, train in pairs, judge, accept, and go on from what was accepted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.finding import Report
from recspect.errors import RunError, UsageError
from recspect.files import require_writable, write_bytes
from recspect.optimising.arms import Trained
from recspect.optimising.holdout import Ledger
from recspect.optimising.parts import Parts
from recspect.optimising.proposing import propose
from recspect.optimising.proving import FEWEST_SEEDS, Terms, Trial, prove
from recspect.optimising.recipe import Changes, Recipe
from recspect.optimising.remedy import Facts, Proposal
from recspect.optimising.trainings import OutOfTime, Trainings

FORMAT, VERSION = "recspect-optimising", 1
FILE = "optimising.json"
FOLDER = "optimising"
"""Of an optimisation, within the run's."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How far an optimisation goes.

    Args:
        terms: Seeds and margin.
        minutes: No training begins later; None for no limit. An optimisation that ended so goes on when it is started again.
        trials: Remedies that are judged at most: each use of the rows makes the next decision harder.
        proof_share: Of the held-out rows, the last ones in time, that judge.
        finding: Only remedies for this diagnostic; "" for all.
        sample_rows: Rows of each side that models are looked into on.
    """

    terms: Terms | None = None
    minutes: float | None = None
    trials: int = 8
    proof_share: float = 0.5
    finding: str = ""
    sample_rows: int = 4000

    def __post_init__(self) -> None:
        if (self.minutes is not None and not self.minutes > 0) or self.trials < 1:
            raise UsageError(f"{self.minutes} minutes and {self.trials} trials are given, expected more than 0 and 1 or more")


@dataclass(frozen=True, kw_only=True)
class Optimised:
    """What came of an optimisation.

    Args:
        folder: Where it is kept.
        status: `finished`, or `stopped`: the minutes were used up.
        trials: What was judged, in order.
        instructions: Proposals that a person must carry out.
        recipe: The first recipe with all accepted remedies.
        model: Run directory of its training with the first seed; what is done to scores is in the recipe, not in that run.
        trained: Trainings that were done by this call.
    """

    folder: Path
    status: str
    trials: tuple[Trial, ...]
    instructions: tuple[Proposal, ...]
    recipe: Recipe
    model: Path
    trained: int

    @property
    def accepted(self) -> tuple[Trial, ...]:
        """The accepted ones, which form a chain."""
        return tuple(trial for trial in self.trials if trial.accepted)


def optimise(run_dir: str | Path, settings: Settings | None = None, *, data: Any = None, proof: Batch | None = None, folder: Path | None = None,
             say: Callable[[str], None] = lambda _: None, progress: Callable[[Any], None] | None = None) -> Optimised:
    """Optimise a run of ours. Started again it goes on where it was stopped, however that was.

    Args:
        run_dir: The run.
        settings: How far to go.
        data: The table, or the three tables, that it was trained on, where `run.json` cannot tell where to find them.
        proof: Rows that nothing was ever decided on; None cuts the last part off the run's held-out rows.
        folder: Where to keep it; by default in the run's folder.
        say, progress: Told what is being done, and after every step of a training.

    Raises:
        RunError: The run is missing or unfinished, or was trained on other data, or on rows that were streamed.
        DataError: Too few held-out rows.
    """
    from recspect.examining.runs import open_data
    from recspect.training.rows import Tables
    from recspect.training.run import Run

    run = Run.open(run_dir)
    if run.best_epoch is None:
        raise RunError(f"run {run.id} has no finished epoch yet", hint=f"recspect train --resume {run_dir}")
    if run.config.buffer_bytes:
        raise RunError(f"run {run.id} was trained on rows that were streamed, which are not optimised yet", hint="train on a table that fits into memory, such as a sample of users")
    say("reading the data")
    tables = Tables.cut(open_data(run.record["data"]) if data is None else data, run.schema, run.config)
    if tables.fingerprint != run.record["data_fingerprint"]:
        raise RunError(f"run {run.id} was trained on other data: fingerprint {run.record['data_fingerprint']}, this data has {tables.fingerprint}", hint="give the same rows in the same order")
    return optimise_recipe(Recipe(schema=run.schema, config=run.config), (tables.train, tables.validation, tables.test), settings, proof=proof, ledger_folder=run.folder,
                           folder=folder or run.folder / FOLDER, say=say, progress=progress, origin=run.id)


def optimise_recipe(recipe: Recipe, tables: tuple[Batch, Batch, Batch], settings: Settings | None = None, *, folder: Path, ledger_folder: Path | None = None, proof: Batch | None = None,
                    say: Callable[[str], None] = lambda _: None, progress: Callable[[Any], None] | None = None, origin: str = "") -> Optimised:
    """Optimise a recipe on training, validation and held-out rows; see `optimise`.

    Args:
        recipe: How the model is made now.
        tables: The rows, with derived columns.
        settings, proof, folder, say, progress: As for `optimise`.
        ledger_folder: Where the uses of the rows are counted; by default `folder`.
        origin: Name of what is optimised.
    """
    settings = settings or Settings()
    require_writable(folder, folder=True)
    terms = settings.terms or Terms(seeds=tuple(range(recipe.config.seed, recipe.config.seed + FEWEST_SEEDS)))
    parts = Parts.cut(tables, recipe.schema, proof=proof, share=settings.proof_share)
    trainings = Trainings(folder, parts, recipe.schema, sample_rows=settings.sample_rows, say=say, progress=progress,
                          deadline=None if settings.minutes is None else time.monotonic() + 60 * settings.minutes)
    ledger = Ledger(ledger_folder or folder, trainings.proof)
    chain = _Chain(recipe, trainings, ledger, terms, settings, say)
    status = "finished"
    try:
        chain.go_on()
    except OutOfTime:
        status = "stopped"
    done = Optimised(folder=folder, status=status, trials=tuple(chain.trials), instructions=tuple(chain.by_hand.values()), recipe=chain.recipe,
                     model=trainings.folder_of(chain.recipe, terms.seeds[0]), trained=trainings.trained)
    _write(done, parts, ledger, terms, origin)
    return done


class _Chain:
    """What is tried one after another, each from what was accepted before it."""

    def __init__(self, recipe: Recipe, trainings: Trainings, ledger: Ledger, terms: Terms, settings: Settings, say: Callable[[str], None]) -> None:
        self.recipe, self.trainings, self.ledger, self.terms, self.settings, self.say = recipe, trainings, ledger, terms, settings, say
        self.trials: list[Trial] = []
        self.by_hand: dict[tuple[str, str], Proposal] = {}
        self.tried: set[tuple[str, str]] = set()

    def go_on(self) -> None:
        """Until nothing is left to try."""
        while len(self.trials) < self.settings.trials and (proposal := self._next()) is not None:
            self.tried.add((proposal.code, proposal.place))
            self.say(f"trying {proposal.code}: {proposal.prepared.text}")
            changed = self.recipe.changed(proposal.prepared.changes)
            key = f"{self.recipe.key(0, self.trainings.data)}-{changed.key(0, self.trainings.data)}"
            trial = prove(proposal, self._train, self.trainings.parts.proof, self.trainings.schema, self.ledger, self.terms, key=key, say=self.say)
            self.trials.append(trial)
            if trial.accepted:
                self.recipe = changed
                if any(step["step"] == "through_diagnosis" for step in changed.rows):
                    self.say("the rows of the diagnosis are training rows now: nothing is left to diagnose on")
                    return

    def _next(self) -> Proposal | None:
        seed = self.terms.seeds[0]
        report = self.trainings.diagnose(self.recipe, seed, "of the model as it is" if not self.tried else "of what was accepted so far")
        if self.settings.finding and self.tried and self.settings.finding not in {finding.code for finding in report.findings if finding.verdict.value in ("FAIL", "WARN")}:
            return None  # it is mended
        for proposal in propose(report, self._facts(report), finding=self.settings.finding, skip=frozenset(self.tried)):
            if proposal.applicable:
                return proposal
            self.by_hand.setdefault((proposal.code, proposal.place), proposal)
        return None

    def _facts(self, report: Report) -> Facts:
        recipe, seed, trainings = self.recipe, self.terms.seeds[0], self.trainings

        def try_out(changes: Changes) -> float:
            return trainings.validation_loss(recipe.changed(changes), seed, "to choose a number")

        return Facts(report=report, recipe=recipe, parts=trainings.parts, epochs=tuple(trainings.run(recipe, seed).epochs), logits=trainings.logits(recipe, seed), try_out=try_out)

    def _train(self, proposal: Proposal | None, seed: int, codes: tuple[str, ...], *, placebo: bool = False) -> Trained:
        changes: Mapping[str, Any] = {} if proposal is None else proposal.prepared.changes
        name = "without a remedy" if proposal is None else f"with {proposal.code}"
        recipe = self.recipe.changed(changes)
        if placebo:
            name, recipe = "with a placebo", placebo_of(self.recipe)
        if placebo and recipe == self.recipe:  # one field: other draws of everything
            seed += 1_000_003
        return self.trainings.judged(recipe, seed, codes, f"{name}, seed {seed}")


def placebo_of(recipe: Recipe) -> Recipe:
    """The same recipe with the fields in reverse: other draws of the first weights, everything else the same, batches and their order too."""
    return recipe.changed({"order": "reversed"})


def _write(done: Optimised, parts: Parts, ledger: Ledger, terms: Terms, origin: str) -> None:
    from recspect.optimising.pages import report_of
    from recspect.report.html import write

    rows = {name: getattr(parts, name).rows for name in ("train", "validation", "diagnosis", "proof")}
    content = {"format": FORMAT, "version": VERSION, "of": origin, "status": done.status, "seeds": list(terms.seeds), "margin": terms.margin, "rows": rows, "uses_of_proof": ledger.uses,
               "trials": [trial.to_mapping() for trial in done.trials], "instructions": [proposal.to_mapping() for proposal in done.instructions],
               "accepted": [trial.proposal.code for trial in done.accepted], "model": str(done.model), "recipe": done.recipe.to_mapping()}
    write_bytes(done.folder / FILE, (json.dumps(content, indent=1, allow_nan=False, default=_number) + "\n").encode())
    report = report_of(done, origin=origin, rows=rows, seeds=terms.seeds)
    write_bytes(done.folder / "findings.json", report.to_json().encode())
    write(report, done.folder / "report.html")


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(type(value).__name__)


__all__ = ["FILE", "FOLDER", "Optimised", "Settings", "optimise", "optimise_recipe", "placebo_of"]
