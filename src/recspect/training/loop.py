"""The training loop: short, ours, on Lightning Fabric.

`train` starts a run, `resume` goes on with one that was stopped; both give the same weights, bit for bit, as a training
that was never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from recspect.diagnosis.finding import Finding
from recspect.diagnosis.mirror import Mirror
from recspect.diagnosis.observing import HeldOut, Observer
from recspect.errors import RecspectError, RunError, UsageError, listing
from recspect.models import MODELS, ModelConfig
from recspect.models.building import require_buildable
from recspect.models.settings import Task
from recspect.schema import Label, Schema
from recspect.training.config import TrainingConfig
from recspect.training.epoch import Machine, epoch_seed, make_optimisers, one_epoch
from recspect.training.figures import best_epoch, epoch_figures, selected_by, stale_epochs
from recspect.training.files import write_tensors
from recspect.training.ranks import Ranks
from recspect.training.rows import Part, Table
from recspect.training.run import Run, checkpoint, new_folder
from recspect.training.state import load_state, save_state
from recspect.training.supply import LabelFigures, Supply


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Told to the caller after every step.

    Args:
        epoch, epochs: This epoch from 1, and how many there are at most.
        step, steps: Step within the epoch from 1, and steps per epoch.
        loss: Mean training loss of the epoch so far.
        metrics: Of the last finished epoch; empty in the first.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    metrics: Mapping[str, Any]


def train(
    data: Table | tuple[Table, Table, Table],
    schema: Schema,
    config: TrainingConfig | None = None,
    run_dir: str | Path | None = None,
    *,
    reference: Mapping[str, Any] | None = None,
    name: str = "",
    command: str = "",
    progress: Callable[[Progress], None] | None = None,
    sinks: Sequence[Mirror] = (),
    on_finding: Callable[[Finding], None] | None = None,
) -> Run:
    """Train a built-in model and write a run directory.

    Args:
        data: One table, which is split as the settings say, or three (training, validation, test). With `buffer_bytes` in the settings,
            Parquet files of any size, which are never in memory as a whole.
        schema: Fields, label (the first is trained, or those that the settings name), time.
        config: Settings.
        run_dir: The run's own folder; by default a new one under `runs/`.
        reference: How the data can be read again, for `run.json`, such as {"kind": "dataset", "name": "kuairand-pure"}.
        name: What the folder is named after; by default the schema's name.
        command: What to type to do this again, for `run.json`.
        progress: Called after every step.
        sinks: Told the training's internals while it goes on (see docs/sinks.md); what happens to them never stops it.
        on_finding: Told what goes wrong as it happens (see docs/observing.md); by default it is logged as a warning.

    Returns:
        The finished run. Its best epoch was chosen on validation rows; figures on test rows are recorded for every
        epoch and used for nothing.

    Raises:
        DataError, SchemaError: The table or the label cannot be trained on; nothing is written.
        RunError: The loss became NaN or infinite (the run's status is then "interrupted", with the reason), or the
            folder already holds a run.
        KeyboardInterrupt: Passed on, after the status "interrupted" is written; `resume` goes on.

    Why these defaults: on KuaiRand-Pure (click, DeepFM, all of the first 80% of the time to train, table learning rate
    .02, one seed) test AUC after the first epoch was .737 with 1,024 rows per step, .735 with 2,048 and .730 with 4,096,
    and fell in the second and third epoch with each: recommenders of this kind often overfit after one epoch (Zhang et
    al., CIKM 2022). `patience_epochs` of 2 lets this be seen in every run. Keeping the last 10% of the training time for
    validation cost .004 of AUC, 5% cost .002 (the newest rows are worth most), hence 5%. Embeddings that start wider
    than .03 cost up to .1, because ids that training never saw then bring noise. With the defaults, four seeds gave .735
    to .737. On MovieLens-100K (rating of 4 and more, random split) AUC was still rising after 10 epochs (.789), hence 20.
    """
    config = config or TrainingConfig()
    schema = _in_order(schema, config)
    ranks = Ranks.here()
    if config.buffer_bytes and config.readers == 1:
        config = replace(config, readers=ranks.world)
    supply = Supply.of(data, schema, config)
    config = replace(config, model=_with_output(config, schema, supply.labels))
    require_buildable(config.model, supply.transform.sizes)  # what cannot be built is told before a folder is made
    folder = Path(run_dir) if run_dir is not None else new_folder("runs", name or schema.name or "run")
    record: Any = None
    if ranks.first:
        record = Run.create(folder, schema=schema, transform=supply.transform, config=config, data=reference or {"kind": "memory"},
                            data_fingerprint=supply.fingerprint, split=supply.split, command=command).record
    shared = ranks.told([str(folder), record])
    return _recorded(Run(Path(shared[0]), shared[1]), supply, progress, sinks, on_finding, ranks)


def resume(run_dir: str | Path, data: Table | tuple[Table, Table, Table], *,
           progress: Callable[[Progress], None] | None = None, sinks: Sequence[Mirror] = (),
           on_finding: Callable[[Finding], None] | None = None) -> Run:
    """Go on with a run that was killed or interrupted, from the end of its last finished epoch.

    Args:
        run_dir: The run's folder.
        data: The same data as in `train`.
        progress: Called after every step.
        sinks: As for `train`; told again what happened before the interruption.
        on_finding: As for `train`.

    Raises:
        RunError: No such run, or other data. A finished run is returned as it is.
    """
    run = Run.open(run_dir)
    if run.status == "finished":
        return run
    ranks = Ranks.here()
    supply = Supply.of(data, run.schema, run.config, run.transform)
    if supply.fingerprint != run.record["data_fingerprint"]:
        raise RunError(f"run {run.id} was trained on other data: fingerprint {run.record['data_fingerprint']}, "
                       f"this data has {supply.fingerprint}", hint="give the same rows in the same order, or train anew")
    return _recorded(_updated(run, ranks, status="running", reason=""), supply, progress, sinks, on_finding, ranks)


# ---------------------------------------------------------------------- details


def _updated(run: Run, ranks: Ranks, **changes: Any) -> Run:
    """The run with changes, which the first process writes."""
    return run.updated(**changes) if ranks.first else Run(run.folder, {**run.record, **changes})


def _recorded(run: Run, supply: Supply, progress: Callable[[Progress], None] | None,
              sinks: Sequence[Mirror], on_finding: Callable[[Finding], None] | None, ranks: Ranks) -> Run:
    """The loop, with its end written into `run.json` whatever it is, and told to the sinks; by the first process alone."""
    if not ranks.first:
        return _epochs(run, supply, None, (), None, ranks)
    status = "interrupted"
    for sink in sinks:
        sink.open(run.record)
    try:
        run = _epochs(run, supply, progress, sinks, on_finding, ranks)
        status = "finished"
    except BaseException as error:
        reason = str(error) or type(error).__name__
        with suppress(RecspectError):  # where the disk is full even this fails, and the first error is the one to tell
            Run.open(run.folder).updated(status="interrupted", reason=reason)
        raise
    finally:
        for sink in sinks:
            sink.close(status)
    return run


def _epochs(run: Run, supply: Supply, progress: Callable[[Progress], None] | None,
            sinks: Sequence[Mirror], on_finding: Callable[[Finding], None] | None, ranks: Ranks) -> Run:
    config = run.config
    fabric = Fabric(accelerator=config.device, devices=ranks.devices, precision=config.precision)
    # The caller's random generators go on afterwards as if nothing had happened.
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        model = run.untrained_model()
        _start_at_base_rate(model, supply.labels)
        optimisers = make_optimisers(model, config)
        wrapped, *steppers = fabric.setup(model, *optimisers.values())
        checkpoints = run.folder / "checkpoints"
        done = load_state(checkpoints, model, optimisers) or {"epoch": 0, "step": 0, "epochs": []}
        observer = Observer(model, every=config.observe_every, histograms_every=config.histograms_every,
                            folder=run.folder, steps_done=done["step"], sinks=sinks, on_finding=on_finding,
                            held_out=_held_out(supply.layers, fabric.device), keep_every_steps=config.keep_every_steps)
        machine = Machine(fabric, model, wrapped, optimisers, tuple(steppers), observer, supply.transform.vocabulary_fields)
        epochs: list[dict[str, Any]] = done["epochs"]
        key = selected_by(config)
        run = _noted(run, epochs, ranks)
        while len(epochs) < config.maximum_epochs and stale_epochs(epochs, key) < config.patience_epochs:
            observer.epoch = epoch = len(epochs) + 1
            started = time.perf_counter()
            seed = epoch_seed(config.seed, epoch)
            tell = _teller(progress, epoch, supply.train.steps(config.batch_rows, seed=seed), config, epochs[-1] if epochs else {})
            loss = one_epoch(machine, supply.train, config, seed=seed, tell=tell, ranks=ranks)
            ranks.require_same(model)
            figures = epoch_figures(model, supply.judged) if ranks.first else {}
            epochs.append(ranks.told({"epoch": epoch, "step": observer.steps_done, "train_loss": loss,
                                      **figures, "seconds": round(time.perf_counter() - started, 3)}))
            if not ranks.first:
                run = _noted(run, epochs, ranks)
                continue
            _record_figures(observer, epochs[-1], config)
            observer.measure()
            # What is written before the state is written again, the same, when a kill falls in between.
            write_tensors(checkpoint(run.folder, epoch), model.state_dict())
            observer.flush()
            save_state(checkpoints, model, optimisers, {"epoch": epoch, "step": observer.steps_done, "epochs": epochs})
            run = _noted(run, epochs, ranks)
        stopped = stale_epochs(epochs, key) >= config.patience_epochs
        reason = f"no better {key} for {config.patience_epochs} epochs" if stopped else f"all {len(epochs)} epochs done"
        return _updated(run, ranks, status="finished", reason=reason)


def _teller(progress: Callable[[Progress], None] | None, epoch: int, steps: int, config: TrainingConfig,
            metrics: Mapping[str, Any]) -> Callable[[int, float], None]:
    def tell(step: int, loss: float) -> None:
        if progress is not None:
            progress(Progress(epoch=epoch, epochs=config.maximum_epochs, step=step, steps=steps, loss=loss, metrics=metrics))

    return tell


def _record_figures(observer: Observer, figures: Mapping[str, Any], config: TrainingConfig) -> None:
    for part in ("train", "validation", "test"):
        for metric in ("loss", "auc", "rmse"):
            value = figures.get(f"{part}_{metric}")
            if value is not None and (part, metric) != ("train", "loss"):  # that series holds the steps' losses
                observer.record(f"{metric}/{part}", value)
    observer.record("learning_rate", config.learning_rate, "dense")
    observer.record("learning_rate", config.table_learning_rate, "tables")


def _held_out(layers: tuple[Part, Part], device: torch.device) -> HeldOut:
    """Training and validation rows on which layers are measured after each epoch."""
    train, validation = layers
    return HeldOut(train=(train.encoded.to(device).inputs, train.label), held_out=(validation.encoded.to(device).inputs, validation.label))


def _noted(run: Run, epochs: list[dict[str, Any]], ranks: Ranks) -> Run:
    return _updated(run, ranks, epochs_done=len(epochs), best_epoch=best_epoch(epochs, selected_by(run.config)), metrics={"epochs": list(epochs)})


def _in_order(schema: Schema, config: TrainingConfig) -> Schema:
    """The schema with the labels that are trained together in front.

    Raises:
        UsageError: The model predicts one label alone.
        SchemaError: No label of that name.
    """
    several = [name for name, entry in MODELS.items() if entry.several]
    if len(config.labels) > 1 and config.model.name in MODELS and config.model.name not in several:
        raise UsageError(f"model {config.model.name!r} predicts one label, asked for {listing(config.labels)}", hint=f"choose one of {listing(several)}, or one label")
    for name in reversed(config.labels):
        schema = schema.with_label(name)
    return schema


def _with_output(config: TrainingConfig, schema: Schema, figures: Mapping[str, LabelFigures]) -> ModelConfig:
    labels = {label.name: label for label in schema.labels}
    guesses = [found.entropy if labels[name].kind == "binary" else 1.0 for name, found in figures.items()]
    weights = [(guesses[0] / guess if config.label_weights == "entropy" else 1.0) * (config.other_labels if place else 1.0) for place, guess in enumerate(guesses)]
    tasks = tuple(_task(labels[name], found, weight) for (name, found), weight in zip(figures.items(), weights, strict=True))
    return replace(config.model, output=tasks[0].output, output_mean=tasks[0].mean, output_scale=tasks[0].scale, tasks=tasks if len(tasks) > 1 else ())


def _task(label: Label, found: LabelFigures, weight: float) -> Task:
    if label.kind == "binary":
        return Task(label=label.name, after=label.after or "", weight=weight)
    return Task(label=label.name, output="value", mean=found.mean, scale=found.deviation, weight=weight)


def _start_at_base_rate(model: nn.Module, figures: Mapping[str, LabelFigures]) -> None:
    """Let a binary model start at the training rate (which lies between 0 and 1), so that no step is spent on it."""
    tasks: Sequence[Task] = model.config.tasks
    if not tasks and model.config.output == "logit":
        with torch.no_grad():
            model.bias.fill_(torch.logit(torch.tensor(next(iter(figures.values())).mean, dtype=torch.float64)).item())
    for place, task in enumerate(tasks):
        if task.output == "logit":  # of what comes after another: its rate given that
            with torch.no_grad():
                model.bias[place] = torch.logit(torch.tensor(figures[task.label].given, dtype=torch.float64).clamp(1e-6, 1 - 1e-6))
