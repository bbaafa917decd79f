"""The trainings of an optimisation: each is kept in a folder of its own, found again by what decides it, and never done twice."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.finding import Report
from recspect.diagnosis.subject import ScoreSubject, Subject, TorchSubject
from recspect.errors import RunError
from recspect.files import write_bytes
from recspect.optimising.arms import Trained
from recspect.optimising.calibrating import Calibration, fitted
from recspect.optimising.parts import Parts
from recspect.optimising.recipe import Recipe
from recspect.optimising.row_steps import apply
from recspect.schema import Schema
from recspect.training.run import Run

INSIDE = ("embeddings.", "features.", "explanations.", "cost.", "recommendations.", "training.dead_units", "training.saturation", "training.batch_size")
"""Diagnostics that look into the model, or at its lists; all others are answered by its scores and the record of its training."""

GUARDS = ("predictions.", "training.")
"""Diagnostics of which none may fail anew."""


class OutOfTime(Exception):  # noqa: N818 - no error: the budget is used up
    """The next training would begin after the budget ended."""


@dataclass
class Trainings:
    """Trains recipes on parts of one table, and says what rows of the proof say of each.

    Args:
        folder: Holds the trainings.
        parts: The rows.
        schema: Of the first recipe: by it rows are told apart, whatever fields a remedy leaves out.
        sample_rows: Rows of each side that models are looked into on.
        deadline: No training begins after it (`time.monotonic`); None for no limit.
        say: Told in a few words what is being done.
        progress: Told after every step, as that of `train`.
    """

    folder: Path
    parts: Parts
    schema: Schema
    sample_rows: int = 4000
    deadline: float | None = None
    say: Callable[[str], None] = lambda _: None
    progress: Callable[[Any], None] | None = None
    trained: int = 0
    """Trainings that were done in this process; those that were found finished are not counted."""

    def __post_init__(self) -> None:
        self.data = self.parts.fingerprint(self.schema)
        self.proof = self.parts.proof_fingerprint(self.schema)

    def run(self, recipe: Recipe, seed: int, what: str = "") -> Run:
        """The training of a recipe: as it was kept, gone on with, or done now.

        Raises:
            OutOfTime: It would begin after the deadline.
        """
        from recspect.training.loop import resume, train

        recipe, folder = recipe.without_scores(), self.folder_of(recipe, seed)
        started = (folder / "run.json").is_file()
        if started and (run := Run.open(folder)).status == "finished":
            return run
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTime
        self.say(f"training {what}")
        parts = apply(self.parts, recipe.rows, self.schema)
        data = parts.train, parts.validation, parts.diagnosis
        self.trained += 1
        if started:
            try:
                return resume(folder, data, progress=self.progress, on_finding=lambda _: None)
            except RunError:
                shutil.rmtree(folder)  # damaged: begun anew
        config = replace(recipe.config, seed=seed)
        return train(data, recipe.schema, config, folder, reference={"kind": "memory"}, progress=self.progress, on_finding=lambda _: None)

    def folder_of(self, recipe: Recipe, seed: int) -> Path:
        """Where the training of a recipe is kept."""
        return self.folder / "trainings" / recipe.without_scores().key(seed, self.data)

    def validation_loss(self, recipe: Recipe, seed: int, what: str) -> float:
        """The best loss on validation rows of a training; infinite where its loss was no number."""
        try:
            losses = [figures.get("validation_loss") for figures in self.run(recipe, seed, what).epochs]
        except RunError:
            return float("inf")
        return min((loss for loss in losses if loss is not None), default=float("inf"))

    def subject(self, recipe: Recipe, seed: int, what: str = "") -> TorchSubject:
        """The model of a recipe, with what is done to its scores."""
        from recspect.examining.runs import subject_of

        run = self.run(recipe, seed, what)
        subject = subject_of(run, recipe.epoch)
        return with_calibrations(subject, self._calibrations(run, recipe, subject)) if recipe.scores else subject

    def logits(self, recipe: Recipe, seed: int) -> tuple[Any, Any] | None:
        """Logits and labels of the rows of the diagnosis, in order of time; None for graded labels."""
        if recipe.schema.label.kind != "binary":
            return None
        rows = self._fitting_rows(recipe)
        scores = np.clip(self.subject(recipe, seed).score(rows), 1e-12, 1 - 1e-12)
        return np.log(scores) - np.log1p(-scores), _labels(rows, recipe.schema)

    def diagnose(self, recipe: Recipe, seed: int, what: str = "") -> Report:
        """The whole examination, on rows of the diagnosis."""
        path = self.folder / "diagnoses" / f"{recipe.key(seed, self.data)}.json"
        if path.is_file():
            return Report.read(path)
        run = self.run(recipe, seed, what)
        self.say(f"diagnosing {what}")
        report = self._report(run, recipe, self.subject(recipe, seed), self.parts.diagnosis)
        write_bytes(path, report.to_json().encode())
        return report

    def judged(self, recipe: Recipe, seed: int, codes: tuple[str, ...], what: str = "") -> Trained:
        """Scores and findings on rows of the proof.

        Args:
            recipe, seed: Of the training.
            codes: The diagnostics that matter; the model is only looked into where they ask for it.
            what: For `say`.
        """
        stem = self.folder / "judged" / f"{recipe.key(seed, self.data)}-{self.proof[:8]}{_short(codes)}"
        findings, scores = stem.with_suffix(".json"), stem.with_suffix(".npy")
        if findings.is_file() and scores.is_file():
            return Trained(scores=np.load(scores, allow_pickle=False), findings=Report.read(findings).findings)
        run = self.run(recipe, seed, what)
        subject = self.subject(recipe, seed)
        self.say(f"judging {what}")
        report = self._report(run, recipe, subject, self.parts.proof, codes)
        kept = np.concatenate([subject.score(piece) for piece in self.parts.proof.pieces(65_536)])
        content = io.BytesIO()
        np.save(content, kept, allow_pickle=False)
        write_bytes(scores, content.getvalue())
        write_bytes(findings, report.to_json().encode())
        return Trained(scores=kept, findings=report.findings)

    # ------------------------------------------------------------------ details

    def _report(self, run: Run, recipe: Recipe, subject: TorchSubject, rows: Batch, codes: tuple[str, ...] = ()) -> Report:
        """Of all diagnostics, or of these and of those that guard."""
        from recspect.diagnosis.diagnostic import all_diagnostics
        from recspect.examining.examination import examine
        from recspect.examining.runs import as_trained, lists_of

        inside, lists = not codes or any(code.startswith(INSIDE) for code in codes), not codes or any(code.startswith("recommendations.") for code in codes)
        asked = [diagnostic for diagnostic in all_diagnostics() if not codes or diagnostic.code in codes or diagnostic.code.startswith(GUARDS)]
        train = apply(self.parts, recipe.rows, self.schema).train
        kept = run.best_epoch if recipe.epoch == "best" else run.record["epochs_done"]
        models = {figures["epoch"]: subject if figures["epoch"] == kept else subject.with_model(run.load_model(figures["epoch"])) for figures in run.epochs}
        epochs: dict[int, Subject] = dict(models) if inside else {epoch: scored(model) for epoch, model in models.items()}
        steps = run.steps()
        return examine(subject if inside else scored(subject), rows, recipe.schema, reference=train, epochs=epochs if len(epochs) > 1 else None,
                       steps=steps if steps.num_rows else None, lists=lists_of(subject, train, rows, run) if lists else None, diagnostics=asked,
                       trained=as_trained(subject, run) if inside else None, sample_rows=self.sample_rows, title=recipe.schema.name or "optimising",
                       provenance={"run": run.id, "seeds": [run.config.seed], "best_epoch": run.best_epoch, "rows": {"train": train.rows, "test": rows.rows}})

    def _fitting_rows(self, recipe: Recipe) -> Batch:
        """Rows of the diagnosis that the recipe does not train on, in order of time."""
        rows = apply(self.parts, recipe.rows, self.schema).diagnosis
        return rows if self.schema.time is None else rows.take(np.argsort(rows.numbers(self.schema.time), kind="stable"))

    def _calibrations(self, run: Run, recipe: Recipe, subject: TorchSubject) -> tuple[Calibration, ...]:
        from recspect.training.predict import raw_outputs

        rows = self._fitting_rows(recipe)
        logit, label = raw_outputs(subject.model, run.transform.transform(rows)), _labels(rows, recipe.schema)
        maps: list[Calibration] = []
        for step in recipe.scores:
            maps.append(fitted(step, logit, label))
            logit = maps[-1].of(logit)
        return tuple(maps)


def with_calibrations(subject: TorchSubject, maps: tuple[Calibration, ...]) -> TorchSubject:
    """The subject whose logits go through the maps, one after another."""
    import torch

    def forward(module: Any, inputs: Any) -> Any:
        logit = module(inputs)
        for one in maps:
            logit = one.of_tensor(logit)
        return torch.sigmoid(logit)

    return TorchSubject(subject.model, fields=subject.fields, encode=subject.encoding, forward=forward, sites=subject.declared_sites, name=f"{subject.name}, calibrated")


def scored(subject: Subject) -> ScoreSubject:
    """The subject as one of which only scores can be had."""
    return ScoreSubject(subject.score, fields=subject.fields, name=subject.name)


def _short(codes: tuple[str, ...]) -> str:
    """A name for what was asked."""
    import hashlib

    return "-" + hashlib.blake2b(" ".join(sorted(codes)).encode(), digest_size=4).hexdigest()


def _labels(rows: Batch, schema: Schema) -> Any:
    from recspect.features.labels import encode_label

    return encode_label(schema.label, rows)


__all__ = ["INSIDE", "OutOfTime", "Trainings", "scored", "with_calibrations"]
